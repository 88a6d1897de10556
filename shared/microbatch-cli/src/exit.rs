//! The exit codes: what a script can rely on.

use std::process::ExitCode;

/// The section of `--help` that documents the codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    The function answered and reported no item; other commands: done
  1    The function answered and reported items; check: there are errors
  2    Wrong usage or input: an unknown option, no such file, JSON that is no SQS event, no template, no readable log
  3    The function answered with an error; the error object is on standard output
  4    The function died, failed in its init, or gave no answer in time
  5    The function answered nonsense: no JSON, no batch response, an id that the event does not hold
  6    Something around it failed: the build, DynamoDB, SQS, a port, a state folder in use, no stack
  130  Interrupted (129: hung up; 143: terminated)";

/// How the command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Nothing was reported.
    Done,
    /// `batchItemFailures` is not empty.
    ItemsReported,
    /// Templates have mistakes.
    MistakesFound,
    /// Wrong usage or input. Clap uses the same code.
    Usage,
    /// The function's own error object.
    FunctionError,
    /// Died, failed init, timed out.
    FunctionDied,
    /// No batch response.
    Nonsense,
    /// Build, database, ports.
    Environment,
    /// A signal of this number ended the command; by the shells' convention 128 and its number.
    Signal(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::ItemsReported | Exit::MistakesFound => 1,
            Exit::Usage => 2,
            Exit::FunctionError => 3,
            Exit::FunctionDied => 4,
            Exit::Nonsense => 5,
            Exit::Environment => 6,
            Exit::Signal(number) => 128 + number,
        })
    }
}

/// An error that ends the command, with its text for the user.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

#[expect(clippy::needless_pass_by_value, reason = "by value they fit map_err")]
impl Failure {
    pub(crate) fn usage(message: impl ToString) -> Self {
        Self { exit: Exit::Usage, message: message.to_string() }
    }

    pub(crate) fn environment(message: impl ToString) -> Self {
        Self { exit: Exit::Environment, message: message.to_string() }
    }
}
