//! The `microbatch` command. In a checkout, `cargo local` is its alias.

mod args;
mod check;
mod cost;
mod dlq;
mod exit;
mod explain;
mod generate;
mod input;
mod interrupt;
mod invoke;
mod numbers;
mod operate;
mod report;
mod resolve;
#[cfg(test)]
mod runbooks;
mod send;
mod stats;
mod target;
mod telemetry;
mod terminal;
mod up;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::exit::{Exit, Failure};
use crate::operate::stop::stoppable;

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
    // They wait for signals themselves: what runs is to be finished, and what is hidden shown again.
    let hears_signals =
        matches!(cli.command, Some(Command::Up(_) | Command::Dlq(_) | Command::Explain(_) | Command::Resolve(_)));
    let outcome = runtime.block_on(async {
        // Dropping the command kills its children.
        tokio::select! {
            outcome = run(cli) => outcome,
            signal = interrupt::interrupted(), if !hears_signals => Ok(signal),
        }
    });
    runtime.shutdown_timeout(SHUTDOWN_GRACE);
    report(outcome)
}

async fn run(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Some(Command::Invoke(invoke)) => invoke::run(invoke).await,
        Some(Command::Generate(generate)) => generate::run(&generate),
        Some(Command::Check(check)) => check::run(&check),
        Some(Command::Up(up)) => up::run(up).await,
        Some(Command::Send(send)) => send::run(send).await,
        Some(Command::Dlq(args)) => stoppable(async |stop| dlq::run(args.command, stop).await).await,
        Some(Command::Explain(args)) => stoppable(async |stop| explain::run(*args, &stop).await).await,
        Some(Command::Resolve(args)) => stoppable(async |stop| resolve::run(args, &stop).await).await,
        Some(Command::Stats(stats)) => stats::run(stats).await,
        Some(Command::Cost(cost)) => cost::run(*cost).await,
        None => invoke::run(cli.invoke).await,
    }
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
