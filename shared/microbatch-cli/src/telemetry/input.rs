//! Lines of files and of standard input, one by one, however long they are.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of a line. An event of `CloudWatch` has 1 MiB at most; a list of them in one line has more.
const LINE_BYTES_MAX: usize = 16 * 1_048_576;
const BUFFER_BYTES: usize = 256 * 1_024;
/// How often, and from when on, progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
const PROGRESS_AFTER: Duration = Duration::from_secs(1);
const GZIP: &[u8] = b"\x1f\x8b";

/// A source of lines that is there.
pub(super) struct Input {
    name: String,
    reader: Box<dyn BufRead + Send>,
    bytes: Option<u64>,
}

/// One line, without its end.
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    /// Longer than any that is read.
    TooLong,
}

/// Opens files; `-` is standard input. All problems are told at once.
pub(super) fn open(paths: &[PathBuf]) -> Result<Vec<Input>, String> {
    let (mut inputs, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        match open_one(path) {
            Ok(input) => inputs.push(input),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(inputs) } else { Err(problems.join("\n")) }
}

fn open_one(path: &Path) -> Result<Input, String> {
    if path.as_os_str() == "-" {
        let reader = BufReader::with_capacity(BUFFER_BYTES, io::stdin());
        return Ok(Input { name: "standard input".to_owned(), reader: Box::new(reader), bytes: None });
    }
    let name = path.display().to_string();
    let cannot = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("no such file: {name}"),
        _ => format!("{name} cannot be read: {error}"),
    };
    let file = File::open(path).map_err(cannot)?;
    let about = file.metadata().map_err(cannot)?;
    if about.is_dir() {
        return Err(format!("{name} is a folder; expected log files, or - for standard input"));
    }
    let bytes = about.is_file().then_some(about.len());
    Ok(Input { name, reader: Box::new(BufReader::with_capacity(BUFFER_BYTES, file)), bytes })
}

/// Tells every line of the inputs, one after the other.
pub(super) fn read(inputs: Vec<Input>, mut tell: impl FnMut(Line<'_>)) -> Result<(), String> {
    let total = inputs.iter().map(|input| input.bytes).sum::<Option<u64>>();
    let mut progress = Progress::new(total);
    for Input { name, mut reader, .. } in inputs {
        let cannot = |error: io::Error| format!("{name} cannot be read: {error}");
        if reader.fill_buf().map_err(cannot)?.starts_with(GZIP) {
            return Err(format!("{name} is compressed; unpack it first, as by: gunzip -c FILE | microbatch stats -"));
        }
        lines(reader, &mut progress, &mut tell).map_err(cannot)?;
    }
    Ok(())
}

fn lines(mut reader: impl BufRead, progress: &mut Progress, tell: &mut impl FnMut(Line<'_>)) -> io::Result<()> {
    let (mut line, mut is_too_long) = (Vec::new(), false);
    loop {
        let bytes = match reader.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let (part, used, is_end) = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => (&bytes[..end], end + 1, true),
            None => (bytes, bytes.len(), bytes.is_empty()),
        };
        // What is too long is read on to its end, and not kept.
        is_too_long |= line.len() + part.len() > LINE_BYTES_MAX;
        if is_too_long {
            line.clear();
        } else {
            line.extend_from_slice(part);
        }
        reader.consume(used);
        progress.add(used);
        if !is_end {
            continue;
        }
        tell(if is_too_long { Line::TooLong } else { Line::Whole(&line) });
        line.clear();
        is_too_long = false;
        if used == 0 {
            return Ok(());
        }
    }
}

/// How far it is, on standard error if that is a terminal and it takes long.
struct Progress {
    total: Option<u64>,
    read: u64,
    started: Instant,
    shown: Option<Instant>,
    is_shown_at_all: bool,
}

impl Progress {
    fn new(total: Option<u64>) -> Self {
        let is_shown_at_all = io::stderr().is_terminal();
        Self { total, read: 0, started: Instant::now(), shown: None, is_shown_at_all }
    }

    fn add(&mut self, bytes: usize) {
        self.read += bytes as u64;
        if !self.is_shown_at_all || self.started.elapsed() < PROGRESS_AFTER {
            return;
        }
        if self.shown.is_some_and(|shown| shown.elapsed() < PROGRESS_EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let megabytes = self.read / 1_000_000;
        let of = match self.total {
            Some(total) if total >= self.read => format!(" of {} MB", total / 1_000_000),
            _ => " MB".to_owned(),
        };
        let _ = write!(io::stderr().lock(), "\r\x1b[K{megabytes}{of} read");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &[u8], capacity: usize) -> Vec<String> {
        let mut told = Vec::new();
        let reader = BufReader::with_capacity(capacity, text);
        let mut progress = Progress::new(None);
        let read = lines(reader, &mut progress, &mut |line| {
            told.push(match line {
                Line::Whole(line) => String::from_utf8_lossy(line).into_owned(),
                Line::TooLong => "too long".to_owned(),
            });
        });
        read.expect("memory is read");
        told
    }

    #[test]
    fn lines_are_whole_whatever_the_buffer_holds() {
        for capacity in [1, 2, 3, 100] {
            assert_eq!(told(b"one\n\ntwo\nend", capacity), ["one", "", "two", "end"], "{capacity}");
            assert_eq!(told(b"one\n", capacity), ["one", ""], "{capacity}");
        }
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut text = vec![b'x'; LINE_BYTES_MAX + 1];
        text.extend_from_slice(b"\nnext");
        assert_eq!(told(&text, BUFFER_BYTES), ["too long", "next"]);
        let largest = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(told(&largest, BUFFER_BYTES)[0].len(), LINE_BYTES_MAX);
    }
}
