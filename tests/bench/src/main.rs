//! Measures microbatch side by side, in interleaved runs, and gives ratios: without a subcommand against its peers, with one a
//! part of it against what it would be otherwise.

mod adapter;
mod alone;
mod args;
mod calls;
mod cpu;
mod latency;
mod machine;
mod orders;
mod plot;
mod process;
mod report;
mod runs;
mod same;
mod server;
mod side_by_side;
mod sides;
mod stats;
mod telemetry;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, error::ErrorKind};
use microbatch_aws::lambda::BoxError;
use microbatch_local::interrupt::interrupted;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime;

use crate::args::{Cli, Command, Runs};
use crate::report::Report;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.side_by_side.refuse_repeats();
    if let Err(error) = raise_open_files() {
        note(&format!("the limit of open files cannot be raised: {error}"));
    }
    let outcome = match cli.command {
        None => measure(&cli.side_by_side.runs, side_by_side::run(&cli.side_by_side)),
        Some(Command::Adapter(options)) => measure(&options, alone::run(&options)),
        Some(Command::Calls(options)) => measure(&options.runs, calls::run(&options)),
        Some(Command::Telemetry(options)) => measure(&options.runs, telemetry::run(&options)),
        Some(Command::Serve { micros }) => run(server::serve(&micros)),
    };
    outcome.map_or_else(
        |error| {
            note(&format!("error: {error}"));
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn measure(options: &Runs, job: impl Future<Output = Result<Report, BoxError>>) -> Result<(), BoxError> {
    if cfg!(debug_assertions) {
        note("note: figures of a debug build mean nothing; run it with --release");
    }
    let file = options.json.as_deref().map(|path| created("--json", path));
    let report = run(unless_interrupted(job))?;
    io::stdout().lock().write_all(report.table().as_bytes())?;
    Ok(file.map_or(Ok(()), |file| write_to(file, &format!("{:#}\n", report.json())))?)
}

/// A file that is written in the end, opened first: that it cannot be written should not show after minutes of work. What is in it
/// stays until then.
fn created(option: &str, path: &Path) -> File {
    let refuse = |error| format!("{option}: {} cannot be written: {error}", path.display());
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    opened.unwrap_or_else(|error| Cli::command().error(ErrorKind::Io, refuse(error)).exit())
}

/// Writes a file anew.
fn write_to(mut file: File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(text.as_bytes())
}

/// The job, unless the user or the system wants it to end. Functions hear no signal themselves: they end with what runs them.
async fn unless_interrupted<T>(job: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
    tokio::select! {
        // The job first: as long as it builds, it blocks, and signals do what they do by default.
        biased;
        outcome = job => outcome,
        signal = interrupted() => Err(format!("interrupted by signal {signal}").into()),
    }
}

/// Raises the limit of open files as far as it goes: a peer opens a connection for each record of a batch, the store's process
/// as many.
fn raise_open_files() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

/// Runs on as many workers as there are cores.
fn run<T>(work: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
    runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// Prints a line on standard error. That nobody reads it is no error.
fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
