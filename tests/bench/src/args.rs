//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, value_parser};

/// The event source mapping's largest batch.
const RECORDS_MAX: usize = 10_000;
const QUICK_RUNS: u16 = 3;
const CALLS_HELP: &str = "\
Single store calls against batched ones: requests, processor time and wall time.

The pipeline runs in this process, with an empty processor; its DynamoDB (dynoxide, in memory) runs in another, whose
processor time does not count. A sample is one batch, or as many as have 1,000 records. Every key is new. A run measures
both sides, one right after the other, at every batch size, and a ratio is that of two samples of one run. Requests are
counted apart from the clock.";

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
    /// The process of the store: listens until standard input ends.
    #[command(hide = true)]
    Serve { latency_ms: u64 },
}

#[derive(Debug, Args)]
pub(crate) struct Calls {
    /// Records in a batch, 1 to 10,000 each
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "10,100,1000,10000")]
    #[arg(value_parser = batch_size)]
    pub(crate) records: Vec<NonZeroUsize>,
    /// Measured runs, 1 to 1,000; one more warms up
    #[arg(long, value_name = "N", default_value = "15", value_parser = value_parser!(u16).range(1..=1_000))]
    runs: u16,
    /// Three runs: enough to see that it works, too few to quote
    #[arg(long, conflicts_with = "runs")]
    quick: bool,
    /// Delay each request on its way to the store, 0 to 1,000; a loopback takes no time, a network does
    #[arg(long, value_name = "MS", default_value = "0", value_parser = value_parser!(u64).range(0..=1_000))]
    pub(crate) latency_ms: u64,
    /// Write the ratios, every raw figure, the machine and versions to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl Calls {
    /// How many runs are measured.
    pub(crate) fn runs(&self) -> u16 {
        if self.quick { QUICK_RUNS } else { self.runs }
    }
}

fn batch_size(text: &str) -> Result<NonZeroUsize, String> {
    let records = text.parse().ok().filter(|records: &NonZeroUsize| records.get() <= RECORDS_MAX);
    records.ok_or_else(|| format!("expected whole numbers between 1 and {RECORDS_MAX}, such as 10,100"))
}
