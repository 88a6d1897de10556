//! Reads the event: from a file, from standard input, or the workspace's default.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use microbatch_local::event::{self, SqsEvent};
use microbatch_local::runtime_api::{EVENT_LIMIT_BYTES, LAMBDA_PAYLOAD_LIMIT_BYTES};

use crate::args::Cli;
use crate::exit::Failure;
use crate::terminal;

/// The event when none is named, and the function's package names none.
const DEFAULT_EVENT: &str = "events/orders.json";
/// Some editors begin a file with it. It is not JSON, and a function would be sent it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How many files a message lists.
const FILES_SHOWN: usize = 20;

/// Where the event is.
#[derive(Clone)]
pub(crate) struct Source {
    path: PathBuf,
    /// Whether the user did not name it.
    is_default: bool,
    /// A folder to look for alternatives in.
    events: Option<PathBuf>,
}

impl Source {
    /// The file that the user names, or the function's own default, or the workspace's; `root` is the workspace's.
    pub(crate) fn new(named: Option<&Path>, default: Option<&Path>, root: Option<&Path>) -> Result<Self, Failure> {
        let events = root.map(|root| root.join("events"));
        if let Some(path) = named {
            return Ok(Self { path: path.to_owned(), is_default: false, events });
        }
        let root = root.ok_or_else(|| {
            Failure::usage(
                "no cargo workspace here, so there is no default event; name a JSON file, or - for standard input",
            )
        })?;
        let path = root.join(default.unwrap_or(Path::new(DEFAULT_EVENT)));
        Ok(Self { path, is_default: true, events })
    }

    /// Reads and checks the event.
    pub(crate) async fn read(self) -> Result<(Vec<u8>, SqsEvent), Failure> {
        let source = self.clone();
        // Standard input may take for ever; a file may be on a slow disk.
        let reading = tokio::task::spawn_blocking(move || source.bytes());
        let mut bytes = reading.await.unwrap_or_else(|_| Err(Failure::usage("the event cannot be read")))?;
        if bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        let event = event::check(&bytes).map_err(|problem| Failure::usage(format!("{}: {problem}", self.name())))?;
        if bytes.len() > LAMBDA_PAYLOAD_LIMIT_BYTES {
            let (found, most) = (bytes.len(), LAMBDA_PAYLOAD_LIMIT_BYTES);
            terminal::note(&format!("the event has {found} bytes; Lambda takes {most} at most"));
        }
        Ok((bytes, event))
    }

    fn bytes(&self) -> Result<Vec<u8>, Failure> {
        let name = self.name();
        if self.is_stdin() {
            return bounded(io::stdin().lock(), &name)
                .map_err(|error| Failure::usage(format!("{name} cannot be read: {error}")));
        }
        let opened = File::open(&self.path).and_then(|file| {
            if file.metadata()?.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(file) }
        });
        opened.and_then(|file| bounded(file, &name)).map_err(|error| self.unreadable(&error))
    }

    fn is_stdin(&self) -> bool {
        self.path.as_os_str() == "-"
    }

    fn name(&self) -> String {
        if self.is_stdin() { "standard input".to_owned() } else { short(&self.path).display().to_string() }
    }

    fn unreadable(&self, error: &io::Error) -> Failure {
        let (path, name) = (&self.path, self.name());
        let mut message = match error.kind() {
            io::ErrorKind::NotFound if self.is_default => {
                format!("no such file: {name}, the default event; name a JSON file, or - for standard input")
            }
            io::ErrorKind::NotFound if is_word(path) => {
                format!("no such file and no such subcommand: {name}; the subcommands are {}", subcommands())
            }
            io::ErrorKind::NotFound => format!("no such file: {name}"),
            io::ErrorKind::IsADirectory => {
                format!("{name} is a folder; expected a JSON file, or - for standard input")
            }
            _ => format!("{name} cannot be read: {error}"),
        };
        let folder = if path.is_dir() { Some(path.as_path()) } else { path.parent().map(or_here) };
        let near = [folder, self.events.as_deref()].into_iter().flatten().map(event_files);
        list(&mut message, &near.into_iter().find(|files| !files.is_empty()).unwrap_or_default());
        Failure::usage(message)
    }
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

fn list(message: &mut String, files: &[PathBuf]) {
    if files.is_empty() {
        return;
    }
    message.push_str("\nEvents near there:");
    for file in files.iter().take(FILES_SHOWN) {
        // Writing to a string cannot fail.
        let _ = write!(message, "\n  {}", short(file).display());
    }
    if files.len() > FILES_SHOWN {
        let _ = write!(message, "\n  and {} more", files.len() - FILES_SHOWN);
    }
}

/// Whether this could be meant as a subcommand.
fn is_word(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.chars().all(char::is_alphabetic))
}

fn subcommands() -> String {
    let command = Cli::command();
    let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    names.join(", ")
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
