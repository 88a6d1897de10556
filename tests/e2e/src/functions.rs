//! The binaries under test: one release build of all functions by cargo-lambda, and the `microbatch` command.

use std::env;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::install::{InstallError, command_line, last_lines};
use crate::lock;
use crate::paths::{target_dir, workspace_root};
use crate::tools::{cargo_lambda, path_with};

/// The packages of the functions, each with its binary.
const FUNCTIONS: [(&str, &str); 4] = [
    ("process-orders", "process-orders"),
    ("ingest-telemetry", "ingest-telemetry"),
    ("post-ledger", "post-ledger"),
    ("e2e", "scripted"),
];

/// The packages of the functions that the benchmark compares, each with its binary.
const BENCH_FUNCTIONS: [(&str, &str); 5] = [
    ("process-orders", "process-orders"),
    ("bench-functions", "microbatch-pure"),
    ("bench-functions", "handwritten"),
    ("bench-functions", "join-all"),
    ("bench-functions", "noop"),
];

/// The functions' binaries, as cargo-lambda built them for release.
#[derive(Debug)]
pub struct Functions {
    folder: PathBuf,
    /// Held to the end of this process, so that another one does not replace binaries that run.
    _in_use: File,
}

impl Functions {
    /// `functions/process-orders`.
    pub fn process_orders(&self) -> PathBuf {
        self.bootstrap("process-orders")
    }

    /// `functions/ingest-telemetry`.
    pub fn ingest_telemetry(&self) -> PathBuf {
        self.bootstrap("ingest-telemetry")
    }

    /// `functions/post-ledger`.
    pub fn post_ledger(&self) -> PathBuf {
        self.bootstrap("post-ledger")
    }

    /// The test function of this package, `src/bin/scripted.rs`.
    pub fn scripted(&self) -> PathBuf {
        self.bootstrap("scripted")
    }

    /// A binary by its name.
    pub fn bootstrap(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("bootstrap")
    }
}

/// The binaries under test are not there.
#[derive(Debug, Clone)]
pub enum BuildError {
    /// cargo-lambda could not be installed.
    Install(InstallError),
    /// The build could not be started, or its folder not be used.
    Io {
        /// What was to be done.
        what: String,
        /// The system's reason.
        reason: String,
    },
    /// The build failed.
    Failed {
        /// The command.
        command: String,
        /// Its last lines.
        last_lines: String,
    },
    /// The build succeeded without this file.
    Missing {
        /// The command.
        command: String,
        /// The file.
        file: PathBuf,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Install(error) => error.fmt(f),
            Self::Io { what, reason } => write!(f, "{what}: {reason}"),
            Self::Failed { command, last_lines } => {
                write!(f, "`{command}` failed; run it to see all it says; its last lines:\n{last_lines}")
            }
            Self::Missing { command, file } => {
                write!(f, "`{command}` succeeded, but {} is not there", file.display())
            }
        }
    }
}

impl std::error::Error for BuildError {}

/// The functions' binaries, built at the first call of this process; every later call gives the same answer.
pub fn functions() -> Result<&'static Functions, &'static BuildError> {
    static BUILT: OnceLock<Result<Functions, BuildError>> = OnceLock::new();
    BUILT.get_or_init(|| build_functions("e2e", &FUNCTIONS)).as_ref()
}

/// The functions that the benchmark compares, each by the name of its binary: process-orders and those of `bench-functions`.
pub fn bench_functions() -> Result<Functions, BuildError> {
    build_functions("bench", &BENCH_FUNCTIONS)
}

/// Builds functions into a folder of this name in the target folder.
fn build_functions(folder: &str, functions: &[(&str, &str)]) -> Result<Functions, BuildError> {
    let program = cargo_lambda().map_err(BuildError::Install)?;
    let folder = target_dir().join(folder);
    let lock_file = folder.join("lock");
    let locked = |error: io::Error| BuildError::Io {
        what: format!("{} cannot be locked", lock_file.display()),
        reason: error.to_string(),
    };
    let building = lock::exclusive(&lock_file).map_err(locked)?;
    build(&program, &folder, "bootstrap", functions, &[])?;
    // A lock cannot be made a shared one while it is held. Who gets in between builds the same.
    drop(building);
    let in_use = lock::shared(&lock_file).map_err(locked)?;
    Ok(Functions { folder, _in_use: in_use })
}

/// The functions as zips for Lambda, as cargo-lambda makes them, each at `NAME/bootstrap.zip` in the answer. They come from the
/// build of [`functions`], so that this takes no second one.
pub fn zips() -> Result<PathBuf, BuildError> {
    let program = cargo_lambda().map_err(BuildError::Install)?;
    let folder = target_dir().join("e2e").join("zips");
    build(&program, &folder, "bootstrap.zip", &FUNCTIONS, &["--output-format", "zip"])?;
    Ok(folder)
}

/// Builds functions for release into a folder, and looks whether each has made its file.
fn build(
    cargo_lambda: &Path,
    folder: &Path,
    file: &str,
    functions: &[(&str, &str)],
    options: &[&str],
) -> Result<(), BuildError> {
    let mut command = cargo(cargo_lambda);
    command.args(["lambda", "build", "--release", "--compiler", "cargo", "--no-default-features", "--lambda-dir"]);
    command.arg(folder).args(options);
    for (package, binary) in functions {
        command.args(["--package", package, "--bin", binary]);
    }
    run(&mut command)?;
    let missing = functions.iter().map(|(_, binary)| folder.join(binary).join(file)).find(|file| !file.is_file());
    missing.map_or(Ok(()), |file| Err(BuildError::Missing { command: command_line(&command), file }))
}

/// The `microbatch` command, built as `cargo local` builds it, at the first call of this process.
pub fn microbatch_command() -> Result<&'static Path, &'static BuildError> {
    static BUILT: OnceLock<Result<PathBuf, BuildError>> = OnceLock::new();
    BUILT.get_or_init(build_microbatch_command).as_deref()
}

fn build_microbatch_command() -> Result<PathBuf, BuildError> {
    let program = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut command = cargo(&program);
    command.args(["build", "--message-format=json-render-diagnostics"]);
    command.args(["--package", "microbatch-cli", "--bin", "microbatch"]);
    let messages = run(&mut command)?;
    executable(&messages, "microbatch")
        .ok_or_else(|| BuildError::Missing { command: command_line(&command), file: PathBuf::from("microbatch") })
}

/// The executable that cargo's messages name for a binary.
fn executable(messages: &[u8], binary: &str) -> Option<PathBuf> {
    let messages = serde_json::Deserializer::from_slice(messages).into_iter::<serde_json::Value>();
    let of_binary = messages
        .flatten()
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == binary);
    of_binary.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).last()
}

/// A command for this workspace that runs cargo, or is a cargo. What `cargo test` told this process about the package of the test is left out: build
/// scripts that look at such a variable would be run, and what depends on them be built, once more.
pub fn cargo(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace_root());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    // `--target-dir` misleads cargo-lambda: it looks for the binaries elsewhere.
    command.env("CARGO_TARGET_DIR", target_dir());
    if let Some(folder) = program.parent().filter(|folder| folder.is_absolute()) {
        command.env("PATH", path_with(&[folder]));
    }
    command
}

/// Runs a command to its end and gives its standard output.
fn run(command: &mut Command) -> Result<Vec<u8>, BuildError> {
    let line = command_line(command);
    let output = command
        .output()
        .map_err(|error| BuildError::Io { what: format!("`{line}` cannot be started"), reason: error.to_string() })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(BuildError::Failed { command: line, last_lines: last_lines(&output.stderr) })
}
