//! Standard error and standard output, and whether colours belong there.

use std::io::{self, IsTerminal, Write};

/// The colours used, all from the terminal's own palette.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Red,
    Green,
    Yellow,
    Cyan,
    Dim,
}

/// Paints text, or leaves it as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    enabled: bool,
}

impl Paint {
    /// For standard error: only on a terminal, and not with `NO_COLOR` (<https://no-color.org>) or a dumb terminal.
    pub(crate) fn for_stderr() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { enabled: io::stderr().is_terminal() && !refused && !dumb }
    }

    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self { enabled: false }
    }

    pub(crate) fn paint(self, colour: Colour, text: &str) -> String {
        if !self.enabled {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Cyan => 36,
            Colour::Dim => 2,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Prints an error for the user.
pub(crate) fn error(message: &str) {
    let label = Paint::for_stderr().paint(Colour::Red, "error:");
    line(&format!("{label} {message}"));
}

/// Prints a remark for the user.
pub(crate) fn note(message: &str) {
    let label = Paint::for_stderr().paint(Colour::Yellow, "note:");
    line(&format!("{label} {message}"));
}

/// Prints a line on standard error. That nobody reads it is no error.
pub(crate) fn line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes bytes and a newline to standard output. A closed pipe is the reader's choice and no error.
pub(crate) fn output(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Text from outside for one line of a terminal: no control characters, at most `chars` long.
pub(crate) fn tame(text: &str, chars: usize) -> String {
    let mut tamed: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).take(chars).collect();
    if text.chars().count() > chars {
        tamed.push('…');
    }
    tamed
}

/// Draws a line on standard error in the place of the one before: for progress on a terminal.
pub(crate) fn progress(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "\r\x1b[2K{text}").and_then(|()| stderr.flush());
}
