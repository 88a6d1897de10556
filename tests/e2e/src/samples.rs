//! The sample events and the answers expected to them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::paths::events_dir;

/// What the names of events begin with that are not for `process-orders`.
const OTHERS: [&str; 2] = ["telemetry", "ledger"];

/// A sample event with what a function must answer.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The file's name without `.json`.
    pub name: String,
    /// The event's file.
    pub file: PathBuf,
    /// The batch response, or the error object of a failing invocation.
    pub expected: Value,
}

impl Sample {
    /// Whether the invocation must fail.
    pub fn fails(&self) -> bool {
        self.expected.get("errorType").is_some()
    }

    /// The event itself.
    pub fn event(&self) -> String {
        read(&self.file)
    }

    /// The sample of this name.
    pub fn named(name: &str) -> Self {
        let file = events_dir().join(format!("{name}.json"));
        let expected = read(&file.with_extension("response.json"));
        let expected = serde_json::from_str(&expected)
            .unwrap_or_else(|error| panic!("the response of {name} is not JSON: {error}"));
        Self { name: name.to_owned(), file, expected }
    }
}

/// Every event in `events/` for `process-orders`, in order of name. One without an expected response ends the test.
pub fn samples() -> Vec<Sample> {
    let folder = events_dir();
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{} cannot be read: {error}", folder.display()));
    let names = entries.flatten().filter_map(|entry| event_name(&entry.path()));
    let mut samples: Vec<Sample> = names.map(|name| Sample::named(&name)).collect();
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!samples.is_empty(), "{} holds no events", folder.display());
    samples
}

fn event_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".json")?;
    let is_ours = !OTHERS.iter().any(|other| name.starts_with(other));
    (is_ours && !name.ends_with(".response")).then(|| name.to_owned())
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
}
