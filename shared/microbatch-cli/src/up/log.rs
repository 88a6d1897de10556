//! Keeps what functions print in a file, for `stats` and `cost`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use microbatch_local::function::LogSink;

use super::view::View;
use crate::exit::Failure;

/// A file that lines are added to.
#[derive(Clone)]
pub(super) struct LogFile {
    path: PathBuf,
    /// None after a write has failed.
    file: Arc<Mutex<Option<File>>>,
}

impl LogFile {
    /// Opens it, or makes it. What it holds stays.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file =
            file.map_err(|error| Failure::usage(format!("the log {} cannot be written: {error}", path.display())))?;
        Ok(Self { path: path.to_owned(), file: Arc::new(Mutex::new(Some(file))) })
    }

    /// Adds each line, then passes it on. A failure is told once; the stack goes on without the file.
    pub(super) fn before(&self, sink: LogSink, view: &View) -> LogSink {
        let (log, view) = (self.clone(), view.clone());
        Arc::new(move |stream, line| {
            if let Some(problem) = log.add(line) {
                view.print(&problem);
            }
            sink(stream, line);
        })
    }

    fn add(&self, line: &str) -> Option<String> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // In one write, so that lines of several processes do not mix.
        let error = file.as_mut()?.write_all(format!("{line}\n").as_bytes()).err()?;
        *file = None;
        Some(format!("the log {} cannot be written any more: {error}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use microbatch_local::function::LogStream;

    use super::*;

    #[test]
    fn lines_are_added_and_passed_on() {
        let folder = std::env::temp_dir().join(format!("microbatch-up-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("functions.log");
        std::fs::write(&path, "earlier\n").expect("a file");
        let passed = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&passed);
        let sink: LogSink = Arc::new(move |_, line| kept.lock().expect("a lock").push(line.to_owned()));
        let sink = LogFile::open(&path).expect("a file").before(sink, &View::new(&[], false));
        sink(LogStream::Stdout, "one");
        sink(LogStream::Stderr, "two");
        assert_eq!(*passed.lock().expect("a lock"), ["one", "two"]);
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "earlier\none\ntwo\n");
        assert!(LogFile::open(&folder).is_err(), "a folder is no file");
        std::fs::remove_dir_all(&folder).expect("it is removed");
    }
}
