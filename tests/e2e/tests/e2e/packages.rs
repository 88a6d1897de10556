//! What is deployed fits where it runs: x86-64, Amazon Linux 2023 with its glibc 2.34, and Lambda's limits for a package.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::functions::{cargo, functions, zips};
use e2e::paths::target_dir;
use e2e::stack::need;
use e2e::tools::{cargo_lambda, path_with, sam_cli_bin, zig_bin};
use microbatch_local::environment::LOCAL_REGION;

use crate::infra::template::{UNITS, infra, output_of};
use crate::rie::units;

/// The glibc of Amazon Linux 2023, under `provided.al2023`.
const GLIBC_MINOR: u32 = 34;
/// The largest zip that is uploaded directly, and the largest package when it is unpacked.
const ZIP_BYTES_MAX: u64 = 50 * 1024 * 1024;
const PACKAGE_BYTES_MAX: usize = 250 * 1024 * 1024;
/// How an ELF file for x86-64 begins: its magic number, 64 bits, little endian.
const ELF_64: &[u8] = b"\x7fELF\x02\x01";
/// Where the file says for which machine it is, and what it says of x86-64.
const ELF_MACHINE: (std::ops::Range<usize>, &[u8]) = (18..20, b"\x3e\x00");

/// Unpacks a zip, and prints each entry's name and Unix mode.
const UNPACK: &str = "
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive:
    archive.extractall(sys.argv[2])
    for entry in archive.infolist():
        print(entry.filename, oct(entry.external_attr >> 16 & 0o777))
";

/// The versions `2.x` of glibc that a program asks for, by the names in its file.
fn glibc_minors(program: &[u8]) -> BTreeSet<u32> {
    const NAME: &[u8] = b"GLIBC_2.";
    let starts = program.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    let minor = |(at, _): (usize, &[u8])| {
        let digits = program[at + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.map(|byte| char::from(*byte)).collect::<String>().parse().ok()
    };
    starts.filter_map(minor).collect()
}

/// A program that Lambda can start on x86-64.
#[track_caller]
fn assert_fits(program: &Path) {
    let bytes = need(fs::read(program));
    let program = program.display();
    assert!(bytes.starts_with(ELF_64), "{program} is no 64-bit ELF file");
    let (place, machine) = ELF_MACHINE;
    assert_eq!(&bytes[place], machine, "{program} is for another machine than x86-64");
    assert!(bytes.len() < PACKAGE_BYTES_MAX, "{program} has {} bytes", bytes.len());
    let newest = glibc_minors(&bytes).last().copied().expect("a dynamic program names versions");
    assert!(newest <= GLIBC_MINOR, "{program} asks for glibc 2.{newest}; there is 2.{GLIBC_MINOR}");
}

#[test]
fn what_cargo_lambda_builds_runs_on_amazon_linux_2023() {
    let functions = need(functions());
    for program in [functions.process_orders(), functions.ingest_telemetry(), functions.post_ledger()] {
        assert_fits(&program);
    }
}

/// And what is in a zip is what the other tests run.
#[test]
fn cargo_lambda_zips_hold_a_bootstrap_and_nothing_else() {
    let functions = need(functions());
    let zips = need(zips());
    for built in [functions.process_orders(), functions.ingest_telemetry(), functions.post_ledger()] {
        let folder = built.parent().and_then(Path::file_name).expect("a folder named after the function");
        let zip = zips.join(folder).join("bootstrap.zip");
        let bytes = need(fs::metadata(&zip)).len();
        assert!(bytes <= ZIP_BYTES_MAX, "{} has {bytes} bytes", zip.display());
        let unpacked = zip.with_file_name("unpacked");
        let output = Command::new("python3").args(["-c", UNPACK]).args([&zip, &unpacked]).output();
        let output = output.expect("Python can be started");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), "bootstrap 0o755", "{}: {output:?}", zip.display());
        assert_fits(&unpacked.join("bootstrap"));
        assert!(need(fs::read(unpacked.join("bootstrap"))) == need(fs::read(&built)), "{} is another", zip.display());
    }
}

/// `sam build` as `infra/README.md` has it, but into a folder of its own, which is the answer. On the `PATH` are cargo-lambda and
/// these folders.
fn sam_build(name: &str, folders: &[&Path], set_up: impl FnOnce(&mut Command)) -> PathBuf {
    let folder = target_dir().join("e2e").join("sam").join(name);
    let _ = fs::remove_dir_all(&folder);
    let mut command = cargo(&need(sam_cli_bin()).join("sam"));
    command.args(["build", "--config-env", "dev", "--build-dir"]).arg(&folder).current_dir(infra());
    command.envs([("SAM_CLI_TELEMETRY", "0"), ("AWS_DEFAULT_REGION", LOCAL_REGION), ("PYTHONIOENCODING", "utf-8")]);
    let cargo_lambda = need(cargo_lambda());
    let folders = [folders, cargo_lambda.parent().as_slice()].concat();
    command.env("PATH", path_with(&folders));
    set_up(&mut command);
    output_of(&mut command);
    folder
}

/// Each function's folder, which is what `sam deploy` zips, holds a `bootstrap` alone. It can be started on x86-64 with Amazon
/// Linux 2023's glibc, and answers all samples under the official emulator.
async fn assert_built(folder: &Path) {
    for mut unit in units() {
        let of_name = UNITS.iter().find(|of_template| of_template.name == unit.name).expect("it is in the template");
        let code = folder.join(of_name.id("Function"));
        let entries = need(fs::read_dir(&code)).map(|entry| need(entry).file_name());
        assert_eq!(entries.collect::<Vec<_>>(), ["bootstrap"], "{}", code.display());
        unit.program = code.join("bootstrap");
        assert_fits(&unit.program);
        unit.runs().await;
    }
}

/// What it builds is what [`functions`] has built already: the same programs, features and flags.
#[tokio::test(flavor = "multi_thread")]
async fn what_sam_builds_without_zig_runs_on_amazon_linux_2023() {
    let folder = sam_build("cargo", &[], |command| {
        command.env("CARGO_LAMBDA_COMPILER", "cargo");
    });
    assert_built(&folder).await;
}

/// The compiler that cargo-lambda takes by itself. It shares nothing with other builds: Zig compiles the C in it otherwise, and in
/// their target folder each would undo what the other has done.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs aws-sam-cli and Zig, downloads of 160 MB, and compiles for four minutes"]
async fn what_sam_builds_with_zig_runs_on_amazon_linux_2023() {
    let folder = sam_build("zig", &[&need(zig_bin())], |command| {
        command.env("CARGO_TARGET_DIR", target_dir().join("e2e").join("zig"));
    });
    assert_built(&folder).await;
}
