//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind, value_parser};

use crate::latency::Latency;

/// The event source mapping's largest batch.
const RECORDS_MAX: usize = 10_000;
const QUICK_RUNS: u16 = 3;
const CALLS_HELP: &str = "\
Single store calls against batched ones: requests, processor time and wall time.

The pipeline runs in this process, with an empty processor; its DynamoDB (dynoxide, in memory) runs in another, whose
processor time does not count. A sample is one batch, or as many as have 1,000 records. Every key is new. A run measures
both sides, one right after the other, at every batch size, and a ratio is that of two samples of one run. Requests are
counted apart from the clock.";

const TELEMETRY_HELP: &str = "\
What a batch costs that tells of itself, against one that does not: processor time and wall time.

All else is as in the job `calls`: the processor is empty, so that what is told weighs as much as it can.";

const ADAPTER_HELP: &str = "\
The adapter alone against its floor: processor time and wall time.

The adapter has a store in memory and a processor that does nothing. The floor is what no adapter can leave out: parse the event
with aws_lambda_events, parse each body into its type, and one SHA-256 an item. The ratio `cpu_growth` is that of an item's cost
in the largest batch to that in the smallest of at least 100 records.";

const SIDE_BY_SIDE_HELP: &str = "\
Measures microbatch side by side with what it replaces: the same jobs, the same events, one DynamoDB-compatible endpoint, one
Runtime API, one process for each function.

  handwritten  Rust by hand on lambda_runtime: 64 messages at once, a conditional PutItem and an UpdateItem each
  join-all     the shape of AWS's Rust example: a task for each message, all at once
  python       Powertools for AWS Lambda (Python), its batch processor and idempotency, under awslambdaric
  typescript   Powertools for AWS Lambda (TypeScript), likewise, under aws-lambda-ric

Each makes each order idempotent. A ratio is that of the medians, its spread that of single runs. A sample is one batch, or as many
as have 300 records (100 with --quick): records as AWS sends them up to 1,000 a batch, short ones above. Python is not measured
behind a latency: it sends one request after the other, and would only show that. Of fewer than 100 batches, p99 is the longest.

The job `pure` validates an order and computes a receipt; `transaction` also writes the order: with the completion in one
transaction here, by a request of its own there. Before anything is measured, all must report the same failures and leave the same
records. The first run builds the functions and installs the peers, which takes minutes.";

/// The command.
#[derive(Debug, Parser)]
#[command(name = "bench", version, about = "Measures microbatch, side by side in interleaved runs")]
#[command(long_about = SIDE_BY_SIDE_HELP, args_conflicts_with_subcommands = true)]
#[command(after_help = "Exit codes: 0 measured, 1 could not measure or was interrupted, 2 wrong options.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) side_by_side: SideBySide,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The adapter alone against the parsing and hashing that nobody can leave out
    #[command(long_about = ADAPTER_HELP)]
    Adapter(Runs),
    /// Single store calls against batched ones: requests, processor time and wall time
    #[command(long_about = CALLS_HELP)]
    Calls(Calls),
    /// Metrics or traces against neither: processor time and wall time
    #[command(long_about = TELEMETRY_HELP)]
    Telemetry(Telemetry),
    /// The process of the store: listens until standard input ends.
    #[command(hide = true)]
    Serve { micros: Vec<u64> },
}

#[derive(Debug, Args)]
pub(crate) struct SideBySide {
    #[command(flatten)]
    pub(crate) runs: Runs,
    /// The jobs
    #[arg(long = "job", value_name = "JOB,...", value_delimiter = ',', default_value = "pure,transaction")]
    pub(crate) jobs: Vec<Job>,
    /// What microbatch is compared with
    #[arg(long, value_name = "PEER,...", value_delimiter = ',')]
    #[arg(default_value = "handwritten,join-all,python,typescript")]
    pub(crate) against: Vec<Peer>,
    /// What a request to the store takes where a network stands before it, 1 to 1,000; a statement in a hundred takes ten times
    /// as long, and a request waits for its slowest
    #[arg(long, value_name = "MS", default_value = "4", value_parser = value_parser!(u64).range(1..=1_000))]
    pub(crate) latency_ms: u64,
    /// What each statement of a request after the first takes there, 0 to 100,000; one measurement for each value
    #[arg(long = "statement-us", value_name = "US,...", value_delimiter = ',', default_value = "100,500")]
    #[arg(value_parser = value_parser!(u64).range(0..=100_000))]
    pub(crate) statements_us: Vec<u64>,
    /// Draw the figures at the largest batch of up to 1,000 records to this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Job {
    /// Validates an order and computes a receipt
    Pure,
    /// Writes the order, too
    Transaction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// Rust by hand, 64 messages at once
    Handwritten,
    /// The shape of AWS's Rust example
    JoinAll,
    /// Powertools for Python
    Python,
    /// Powertools for TypeScript
    Typescript,
}

#[derive(Debug, Args)]
pub(crate) struct Calls {
    #[command(flatten)]
    pub(crate) runs: Runs,
    #[command(flatten)]
    pub(crate) delay: Delay,
}

#[derive(Debug, Args)]
pub(crate) struct Telemetry {
    /// What the measured side tells of each batch
    #[arg(long, value_name = "WHAT", default_value = "metrics")]
    pub(crate) with: Told,
    #[command(flatten)]
    pub(crate) runs: Runs,
    #[command(flatten)]
    pub(crate) delay: Delay,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Told {
    /// A line of metrics
    Metrics,
    /// Spans, at most 100 of items, exported to a collector in the store's process
    Traces,
}

#[derive(Debug, Args)]
pub(crate) struct Runs {
    /// Records in a batch, 1 to 10,000 each; 10 and 100 with --quick
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "10,100,1000,10000")]
    #[arg(default_value_if("quick", "true", "10,100"), value_parser = batch_size)]
    pub(crate) records: Vec<NonZeroUsize>,
    /// Measured runs, 1 to 1,000; one more warms up
    #[arg(long = "runs", value_name = "N", default_value = "15", value_parser = value_parser!(u16).range(1..=1_000))]
    measured: u16,
    /// Three runs of small batches: enough to see that it works, too few to quote
    #[arg(long, conflicts_with = "measured")]
    pub(crate) quick: bool,
    /// Write the ratios, every raw figure, the machine and versions to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Delay {
    /// What a request to the store takes, 0 to 1,000: a loopback takes no time, a network does. A statement in a hundred takes
    /// ten times as long, and a request waits for its slowest
    #[arg(long, value_name = "MS", default_value = "0", value_parser = value_parser!(u64).range(0..=1_000))]
    pub(crate) latency_ms: u64,
}

impl Delay {
    /// The latency to ask for, if any.
    pub(crate) fn latency(&self) -> Option<Latency> {
        let request = Duration::from_millis(self.latency_ms);
        (self.latency_ms > 0).then_some(Latency { request, further_statement: Duration::ZERO })
    }
}

impl SideBySide {
    /// Ends the program where a value is listed twice: its figures would have one name.
    pub(crate) fn refuse_repeats(&self) {
        let repeated = [
            ("--records", repeats(&self.runs.records)),
            ("--job", repeats(&self.jobs)),
            ("--against", repeats(&self.against)),
            ("--statement-us", repeats(&self.statements_us)),
        ];
        if let Some((option, _)) = repeated.into_iter().find(|(_, repeats)| *repeats) {
            let what = format!("{option}: expected each value once");
            Cli::command().error(ErrorKind::ArgumentConflict, what).exit();
        }
    }
}

fn repeats<T: PartialEq>(values: &[T]) -> bool {
    values.iter().enumerate().any(|(at, value)| values[..at].contains(value))
}

impl Runs {
    /// How many runs are measured.
    pub(crate) fn count(&self) -> u16 {
        if self.quick { QUICK_RUNS } else { self.measured }
    }
}

fn batch_size(text: &str) -> Result<NonZeroUsize, String> {
    let records = text.parse().ok().filter(|records: &NonZeroUsize| records.get() <= RECORDS_MAX);
    records.ok_or_else(|| format!("expected whole numbers between 1 and {RECORDS_MAX}, such as 10,100"))
}
