//! Finds a function in the workspace and builds it, by cargo's own commands.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::tables::{TableSpec, TableSpecError};

/// A cargo workspace.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Its root folder.
    pub root: PathBuf,
    packages: Vec<MetadataPackage>,
}

/// A function's package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionPackage {
    /// The package's name.
    pub name: String,
    /// The binary that is the function.
    pub binary: String,
    /// What `[package.metadata.microbatch]` says.
    pub needs: LocalNeeds,
    manifest: PathBuf,
}

/// What a function needs when it runs locally.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalNeeds {
    /// Variables to set.
    pub env: BTreeMap<String, String>,
    /// Data tables, beside the idempotency table.
    pub tables: Vec<TableSpec>,
    /// The event to send when none is named, relative to the workspace's root.
    pub event: Option<PathBuf>,
    /// The selector of the function's idempotency key, as its builder has it. For tools that look at messages.
    pub key: Option<String>,
    /// The selector of what must not differ between messages of one key; `@` is all of the payload.
    pub fingerprint: Option<String>,
}

/// Why there is no function to run.
#[derive(Debug)]
pub enum PackageError {
    /// Cargo could not be started.
    NoCargo(io::Error),
    /// Cargo found no workspace here.
    NoWorkspace {
        /// Cargo's last line.
        reason: String,
    },
    /// Cargo's answer is not of the expected form.
    Unreadable {
        /// What was expected.
        expected: &'static str,
    },
    /// No package of that name.
    UnknownPackage {
        /// The name as given.
        name: String,
        /// The functions that there are.
        functions: Vec<String>,
    },
    /// The package has no binary, or several and none that is the default.
    NoSingleBinary {
        /// The package.
        name: String,
        /// Its binaries.
        binaries: Vec<String>,
    },
    /// `[package.metadata.microbatch]` is not of the expected form.
    Metadata {
        /// The package.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The build failed; cargo has said why.
    Build {
        /// The package.
        name: String,
        /// Cargo's exit status.
        status: ExitStatus,
    },
}

impl fmt::Display for PackageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCargo(error) => {
                write!(f, "cargo cannot be started: {error}; it is needed to find and build a function")
            }
            Self::NoWorkspace { reason } => write!(f, "no cargo workspace here: {reason}"),
            Self::Unreadable { expected } => {
                write!(f, "cargo's answer cannot be read: expected {expected}")
            }
            Self::UnknownPackage { name, functions } if functions.is_empty() => {
                write!(f, "the workspace has no package {name}; a path to a built binary contains a /")
            }
            Self::UnknownPackage { name, functions } => write!(
                f,
                "the workspace has no package {name}; its functions are {}; a path to a built binary contains a /",
                functions.join(", ")
            ),
            Self::NoSingleBinary { name, binaries } if binaries.is_empty() => {
                write!(f, "the package {name} has no binary, so it is no function")
            }
            Self::NoSingleBinary { name, binaries } => {
                write!(
                    f,
                    "the package {name} has several binaries ({}); name one by `default-run` in its Cargo.toml",
                    binaries.join(", ")
                )
            }
            Self::Metadata { name, reason } => {
                write!(f, "[package.metadata.microbatch] of {name}: {reason}")
            }
            Self::Build { name, status } => write!(f, "cargo could not build {name} ({status})"),
        }
    }
}

impl std::error::Error for PackageError {}

#[derive(Debug, Clone, Deserialize)]
struct Metadata {
    workspace_root: PathBuf,
    packages: Vec<MetadataPackage>,
}

#[derive(Debug, Clone, Deserialize)]
struct MetadataPackage {
    name: String,
    manifest_path: PathBuf,
    default_run: Option<String>,
    targets: Vec<Target>,
    metadata: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RawNeeds {
    env: BTreeMap<String, String>,
    tables: BTreeMap<String, String>,
    event: Option<PathBuf>,
    key: Option<String>,
    fingerprint: Option<String>,
}

impl Workspace {
    /// The workspace that `folder` is in.
    pub async fn find(folder: &Path) -> Result<Self, PackageError> {
        let output = Command::new(cargo())
            .args(["metadata", "--format-version", "1", "--no-deps"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(PackageError::NoCargo)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let reason = text.trim().trim_start_matches("error: ").to_owned();
            return Err(PackageError::NoWorkspace { reason });
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout)
            .map_err(|_| PackageError::Unreadable { expected: "`cargo metadata` in format version 1" })?;
        Ok(Self { root: metadata.workspace_root, packages: metadata.packages })
    }

    /// The function in the package of that name.
    pub fn function(&self, name: &str) -> Result<FunctionPackage, PackageError> {
        let package = self
            .packages
            .iter()
            .find(|package| package.name == name)
            .ok_or_else(|| PackageError::UnknownPackage { name: name.to_owned(), functions: self.functions() })?;
        Ok(FunctionPackage {
            name: package.name.clone(),
            binary: package.binary()?,
            needs: package.needs()?,
            manifest: package.manifest_path.clone(),
        })
    }

    /// Whether a package of that name is a member.
    pub fn contains(&self, name: &str) -> bool {
        self.packages.iter().any(|package| package.name == name)
    }

    /// The names of the functions: the packages with a binary that say what they need under microbatch.
    pub fn functions(&self) -> Vec<String> {
        let is_function = |package: &&MetadataPackage| package.section().is_some() && !package.binaries().is_empty();
        self.packages.iter().filter(is_function).map(|package| package.name.clone()).collect()
    }
}

impl MetadataPackage {
    fn section(&self) -> Option<&serde_json::Value> {
        self.metadata.as_ref()?.get("microbatch")
    }

    fn binaries(&self) -> Vec<String> {
        let is_binary = |target: &&Target| target.kind.iter().any(|kind| kind == "bin");
        self.targets.iter().filter(is_binary).map(|target| target.name.clone()).collect()
    }

    fn binary(&self) -> Result<String, PackageError> {
        let binaries = self.binaries();
        let named = |name: &str| binaries.iter().find(|binary| *binary == name).cloned();
        let single = || {
            if let [single] = binaries.as_slice() { Some(single.clone()) } else { None }
        };
        self.default_run
            .clone()
            .or_else(|| named(&self.name))
            .or_else(single)
            .ok_or_else(|| PackageError::NoSingleBinary { name: self.name.clone(), binaries: binaries.clone() })
    }

    fn needs(&self) -> Result<LocalNeeds, PackageError> {
        let wrong = |reason: String| PackageError::Metadata { name: self.name.clone(), reason };
        let Some(section) = self.section() else {
            return Ok(LocalNeeds::default());
        };
        let raw = RawNeeds::deserialize(section).map_err(|error| wrong(error.to_string()))?;
        let tables = raw.tables.iter().map(|(name, keys)| TableSpec::from_keys(name, keys));
        let tables = tables.collect::<Result<_, TableSpecError>>().map_err(|error| wrong(error.to_string()))?;
        Ok(LocalNeeds { env: raw.env, tables, event: raw.event, key: raw.key, fingerprint: raw.fingerprint })
    }
}

impl FunctionPackage {
    /// Builds the function's binary and gives its path. Cargo's progress and diagnostics go to this process's standard error.
    ///
    /// Cargo compiles a dependency anew for each set of its features. With `alongside`, another package of the workspace, the
    /// features are those that both packages need together, so that what was compiled for the other is used again.
    pub async fn build(&self, release: bool, alongside: Option<&str>) -> Result<PathBuf, PackageError> {
        let mut command = Command::new(cargo());
        command.args(["build", "--message-format=json-render-diagnostics", "--bin", &self.binary]);
        command.args(release.then_some("--release"));
        command.arg("--manifest-path").arg(&self.manifest);
        for package in [self.name.as_str()].into_iter().chain(alongside) {
            command.args(["--package", package]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(PackageError::NoCargo)?;
        let executable = match child.stdout.take() {
            Some(stdout) => executable_of(&self.binary, BufReader::new(stdout)).await,
            None => None,
        };
        let status = child.wait().await.map_err(PackageError::NoCargo)?;
        if !status.success() {
            return Err(PackageError::Build { name: self.name.clone(), status });
        }
        executable.ok_or(PackageError::Unreadable { expected: "a message of `cargo build` that names the executable" })
    }
}

/// Reads cargo's messages to their end, or the pipe would block it.
async fn executable_of(binary: &str, messages: impl tokio::io::AsyncBufRead + Unpin) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        target: Option<Target>,
        executable: Option<PathBuf>,
    }
    let mut lines = messages.lines();
    let mut executable = None;
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(message) = serde_json::from_str::<Message>(&line) else {
            continue;
        };
        let is_ours = message.target.is_some_and(|target| target.name == binary && target.kind == ["bin"]);
        if message.reason == "compiler-artifact" && is_ours {
            executable = message.executable.or(executable);
        }
    }
    executable
}

/// The cargo that runs us, if one does: with rustup, the right toolchain's.
fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(metadata: serde_json::Value, binaries: &[&str]) -> MetadataPackage {
        let targets = binaries.iter().map(|name| Target { name: (*name).to_owned(), kind: vec!["bin".to_owned()] });
        MetadataPackage {
            name: "orders".to_owned(),
            manifest_path: PathBuf::from("Cargo.toml"),
            default_run: None,
            targets: targets.collect(),
            metadata: Some(metadata),
        }
    }

    #[test]
    fn metadata_is_read_and_checked() {
        let metadata = json!({"microbatch": {"env": {"A": "b"}, "tables": {"t": "p,s"}, "event": "e.json", "key": "id"}, "other": 1});
        let needs = package(metadata, &[]).needs().expect("needs");
        assert_eq!((needs.env["A"].as_str(), needs.event), ("b", Some("e.json".into())));
        assert_eq!((needs.key.as_deref(), needs.fingerprint), (Some("id"), None));
        assert_eq!(needs.tables[0].sort_key.as_deref(), Some("s"));
        for bad in [json!({"table": {}}), json!({"tables": {"t": ""}}), json!({"env": {"A": 1}})] {
            assert!(package(json!({"microbatch": bad}), &[]).needs().is_err(), "{bad}");
        }
        assert_eq!(package(json!(null), &[]).needs().expect("needs"), LocalNeeds::default());
    }

    #[test]
    fn the_function_is_the_binary_of_the_packages_name_or_the_only_one() {
        assert_eq!(package(json!(null), &["x", "orders"]).binary().expect("one"), "orders");
        assert_eq!(package(json!(null), &["bootstrap"]).binary().expect("one"), "bootstrap");
        assert!(package(json!(null), &["a", "b"]).binary().is_err());
        assert!(package(json!(null), &[]).binary().is_err());
    }

    #[tokio::test]
    async fn the_executable_is_found_among_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"serde","kind":["lib"]},"executable":null}"#,
            "\n",
            "no json\n",
            r#"{"reason":"compiler-artifact","target":{"name":"f","kind":["bin"]},"executable":"/t/f"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n"
        );
        assert_eq!(executable_of("f", messages.as_bytes()).await, Some(PathBuf::from("/t/f")));
        assert_eq!(executable_of("g", messages.as_bytes()).await, None);
    }
}
