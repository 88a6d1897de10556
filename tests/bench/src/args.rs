//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

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

/// The command.
#[derive(Debug, Parser)]
#[command(name = "bench", version, about = "Measures microbatch, side by side in interleaved runs")]
#[command(after_help = "Exit codes: 0 measured, 1 could not measure, 2 wrong options.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Single store calls against batched ones: requests, processor time and wall time
    #[command(long_about = CALLS_HELP)]
    Calls(Calls),
    /// Metrics or traces against neither: processor time and wall time
    #[command(long_about = TELEMETRY_HELP)]
    Telemetry(Telemetry),
    /// The process of the store: listens until standard input ends.
    #[command(hide = true)]
    Serve { latency_ms: u64 },
}

#[derive(Debug, Args)]
pub(crate) struct Calls {
    #[command(flatten)]
    pub(crate) runs: Runs,
}

#[derive(Debug, Args)]
pub(crate) struct Telemetry {
    /// What the measured side tells of each batch
    #[arg(long, value_name = "WHAT", default_value = "metrics")]
    pub(crate) with: Told,
    #[command(flatten)]
    pub(crate) runs: Runs,
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
    /// Records in a batch, 1 to 10,000 each
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "10,100,1000,10000")]
    #[arg(value_parser = batch_size)]
    pub(crate) records: Vec<NonZeroUsize>,
    /// Measured runs, 1 to 1,000; one more warms up
    #[arg(long = "runs", value_name = "N", default_value = "15", value_parser = value_parser!(u16).range(1..=1_000))]
    measured: u16,
    /// Three runs: enough to see that it works, too few to quote
    #[arg(long, conflicts_with = "measured")]
    quick: bool,
    /// Delay each request on its way to the store, 0 to 1,000; a loopback takes no time, a network does
    #[arg(long, value_name = "MS", default_value = "0", value_parser = value_parser!(u64).range(0..=1_000))]
    pub(crate) latency_ms: u64,
    /// Write the ratios, every raw figure, the machine and versions to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
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
