//! The `microbatch` command. In a checkout, `cargo local` is its alias.

mod args;
mod exit;
mod generate;
mod input;
mod interrupt;
mod invoke;
mod report;
mod target;
mod terminal;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::exit::{Exit, Failure};

/// How long the end waits for tasks: a read of standard input cannot be cancelled, and children are killed by then.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return report(Err(Failure::environment(format!("no threads can be started: {error}"))));
        }
    };
    let outcome = runtime.block_on(async {
        let command = async {
            match cli.command {
                Some(Command::Invoke(invoke)) => invoke::run(invoke).await,
                Some(Command::Generate(generate)) => generate::run(&generate),
                None => invoke::run(cli.invoke).await,
            }
        };
        // Dropping the command kills its children.
        tokio::select! {
            outcome = command => outcome,
            signal = interrupt::interrupted() => Ok(signal),
        }
    });
    runtime.shutdown_timeout(SHUTDOWN_GRACE);
    report(outcome)
}

fn report(outcome: Result<Exit, Failure>) -> ExitCode {
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            terminal::error(&failure.message);
            failure.exit.into()
        }
    }
}
