//! Asks before something is changed.

use std::io::{self, BufRead, IsTerminal, Write};

use super::stop::Stop;
use crate::exit::Failure;

/// Whether there is somebody to ask; else only `--yes` may go on.
pub(crate) fn check(yes: bool) -> Result<(), Failure> {
    if yes || (io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(());
    }
    Err(Failure::usage("there is no terminal to ask on, so nothing was done; say --yes to go on without a question"))
}

/// Asks; anything but a yes is a no, and so is Ctrl-C.
pub(crate) async fn ask(question: &str, stop: &Stop) -> Result<bool, Failure> {
    let question = format!("{question} [y/N] ");
    let reading = tokio::task::spawn_blocking(move || {
        let mut stderr = io::stderr().lock();
        let _ = stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush());
        drop(stderr);
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let answer = tokio::select! {
        answer = reading => answer,
        _ = stop.wait() => return Ok(false),
    };
    match answer {
        Ok(Ok(line)) => Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")),
        Ok(Err(error)) => Err(Failure::usage(format!("the answer cannot be read: {error}"))),
        Err(_) => Ok(false),
    }
}
