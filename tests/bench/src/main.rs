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

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, error::ErrorKind};
use microbatch_aws::lambda::BoxError;
use tokio::runtime;

use crate::args::{Cli, Command, Runs};
use crate::report::Report;

fn main() -> ExitCode {
    let cli = Cli::parse();
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
    let report = run(job)?;
    io::stdout().lock().write_all(report.table().as_bytes())?;
    Ok(file.map_or(Ok(()), |mut file| writeln!(file, "{:#}", report.json()))?)
}

/// A file that is written in the end, opened first: that it cannot be written should not show after minutes of work.
fn created(option: &str, path: &Path) -> File {
    let refuse = |error| format!("{option}: {} cannot be written: {error}", path.display());
    File::create(path).unwrap_or_else(|error| Cli::command().error(ErrorKind::Io, refuse(error)).exit())
}

/// Runs on as many workers as there are cores.
fn run<T>(work: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
    runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// Prints a line on standard error. That nobody reads it is no error.
fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
