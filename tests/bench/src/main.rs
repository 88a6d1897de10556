//! Measures microbatch: a job is a subcommand, compares two sides in one interleaved run, and gives ratios.

mod adapter;
mod args;
mod calls;
mod cpu;
mod machine;
mod orders;
mod report;
mod runs;
mod server;
mod stats;
mod telemetry;

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, error::ErrorKind};
use microbatch_aws::lambda::BoxError;
use tokio::runtime;

use crate::args::{Cli, Command, Runs};
use crate::report::Report;

/// Idle threads are kept: one that ends takes its processor time out of the account.
const THREAD_KEEP_ALIVE: Duration = Duration::from_hours(24);

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Calls(options) => measure(&options.runs, calls::run(&options)),
        Command::Telemetry(options) => measure(&options.runs, telemetry::run(&options)),
        Command::Serve { latency_ms } => run(server::serve(latency_ms)),
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
    // Opened first: that it cannot be written should not show after minutes of work.
    let file = options.json.as_ref().map(|path| {
        let refuse = |error| format!("--json: {} cannot be written: {error}", path.display());
        File::create(path).unwrap_or_else(|error| Cli::command().error(ErrorKind::Io, refuse(error)).exit())
    });
    let report = run(job)?;
    io::stdout().lock().write_all(report.table().as_bytes())?;
    Ok(file.map_or(Ok(()), |mut file| writeln!(file, "{:#}", report.json()))?)
}

/// Runs on as many workers as there are cores, as a function's `#[tokio::main]` does.
fn run<T>(work: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
    let mut builder = runtime::Builder::new_multi_thread();
    builder.thread_keep_alive(THREAD_KEEP_ALIVE).enable_all().build()?.block_on(work)
}

/// Prints a line on standard error. That nobody reads it is no error.
fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
