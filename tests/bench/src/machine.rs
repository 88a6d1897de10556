//! What the figures were measured on.

use std::{env::consts, fs, thread};

use serde_json::{Map, Value};

const LOCK: &str = include_str!("../../../Cargo.lock");
const TOOLCHAIN: &str = include_str!("../../../rust-toolchain.toml");
const PACKAGES: [&str; 6] =
    ["microbatch", "lambda_runtime", "aws_lambda_events", "aws-sdk-dynamodb", "tokio", "dynoxide-rs"];

/// The machine in one line.
pub(crate) fn machine() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("{cores} cores, {}, {} {}", model.map_or("unknown model", |(_, name)| name), consts::OS, consts::ARCH)
}

/// The toolchain, the profile, and the packages that do the work, each with its version.
pub(crate) fn versions() -> Map<String, Value> {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let versions = [("rust", value(TOOLCHAIN.lines(), "channel")), ("profile", Some(profile))];
    let locked = PACKAGES.map(|name| (name, locked(name)));
    let text = |version: Option<&str>| Value::from(version.unwrap_or("unknown"));
    versions.into_iter().chain(locked).map(|(name, version)| (name.to_owned(), text(version))).collect()
}

/// The version of a package in the lock file that this program was built with.
fn locked(package: &str) -> Option<&'static str> {
    let (_, rest) = LOCK.split_once(&format!("name = \"{package}\"\n"))?;
    value(rest.lines(), "version")
}

fn value<'a>(mut lines: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(" = ")?.trim_matches('"')))
}
