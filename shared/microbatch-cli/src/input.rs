//! Reads the event: from a file, from standard input, or the workspace's default.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use microbatch_local::runtime_api::EVENT_LIMIT_BYTES;

use crate::exit::Failure;

/// How many files a message lists.
const FILES_SHOWN: usize = 20;

/// Reads the event at `path`, or standard input for `-`. `events` is the folder to look for alternatives in.
pub(crate) async fn read(path: &Path, events: Option<PathBuf>) -> Result<Vec<u8>, Failure> {
    let path = path.to_owned();
    // Standard input may take for ever; a file may be on a slow disk.
    let reading = tokio::task::spawn_blocking(move || {
        if path.as_os_str() == "-" {
            return bounded(io::stdin().lock(), "standard input")
                .map_err(|error| Failure::usage(format!("standard input cannot be read: {error}")));
        }
        let name = path.display().to_string();
        let opened = File::open(&path).and_then(|file| {
            if file.metadata()?.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(file) }
        });
        opened.and_then(|file| bounded(file, &name)).map_err(|error| unreadable(&path, &error, events.as_deref()))
    });
    reading.await.unwrap_or_else(|_| Err(Failure::usage("the event cannot be read")))
}

fn bounded(source: impl Read, name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(EVENT_LIMIT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > EVENT_LIMIT_BYTES {
        return Err(io::Error::other(format!(
            "{name} has more than {EVENT_LIMIT_BYTES} bytes; Lambda takes 6 MB at most"
        )));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &io::Error, events: Option<&Path>) -> Failure {
    let mut message = match error.kind() {
        io::ErrorKind::NotFound => format!("no such file: {}", path.display()),
        io::ErrorKind::IsADirectory => {
            format!("{} is a folder; expected a JSON file, or - for standard input", path.display())
        }
        _ => format!("{} cannot be read: {error}", path.display()),
    };
    let folder = if path.is_dir() { Some(path) } else { path.parent().map(or_here) };
    let near = [folder, events].into_iter().flatten().map(event_files).find(|files| !files.is_empty());
    if let Some(files) = near {
        message.push_str("\nEvents near there:");
        for file in files.iter().take(FILES_SHOWN) {
            // Writing to a string cannot fail.
            let _ = write!(message, "\n  {}", short(file).display());
        }
        if files.len() > FILES_SHOWN {
            let _ = write!(message, "\n  and {} more", files.len() - FILES_SHOWN);
        }
    }
    Failure::usage(message)
}

/// Without the current folder in front, so that it can be copied into the next command.
fn short(file: &Path) -> &Path {
    let here = std::env::current_dir().ok();
    here.and_then(|here| file.strip_prefix(here).ok()).unwrap_or(file)
}

fn or_here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

/// The JSON files of a folder that are no expected responses, by name.
fn event_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let is_event = |path: &PathBuf| {
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        let is_response =
            path.file_stem().is_some_and(|stem| Path::new(stem).extension().is_some_and(|e| e == "response"));
        is_json && !is_response
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_event).collect();
    files.sort();
    files
}
