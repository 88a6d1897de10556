//! The command line.

mod operate;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use microbatch_local::tables::TableSpec;

pub(crate) use self::operate::{
    Dlq, DlqArgs, EnvelopeName, Explain, Filter, KeyFormatName, List, Places, Purge, Records, Redrive, Resolve, Show,
};
use crate::cost::Architecture;
use crate::exit::EXIT_CODES;
use crate::telemetry::moment;

/// Lambda's own longest time-out.
const TIMEOUT_MAX: Duration = Duration::from_mins(15);

const ABOUT: &str =
    "Runs microbatch functions locally: the real binary under the Lambda Runtime API, on an embedded DynamoDB";
const LONG_ABOUT: &str = "\
Runs microbatch functions locally: the real binary under the Lambda Runtime API, on an embedded DynamoDB.

Without a subcommand it invokes: process-orders on events/orders.json, unless told otherwise. The response goes to
standard output, byte for byte, and all else to standard error.";

const ENDPOINT_HELP: &str =
    "Use this DynamoDB instead of the embedded one; missing tables are made only on this machine";

const CHECK_ABOUT: &str =
    "Find the mistakes in SAM and CloudFormation templates that AWS accepts and production regrets";
const TEMPLATES_HELP: &str = "SAM or CloudFormation templates: YAML or JSON, as written or as processed";

const UP_ABOUT: &str = "\
Run a template's stack here until Ctrl-C: queues, tables, functions, rebuilt on change.

The queues are ministack's, a Python program that is installed once into the target folder; the tables those of an embedded
DynamoDB. An event source mapping of our own feeds each function by the template's settings: batch size, window, concurrency,
visibility timeout, redrive policy. Functions are the workspace's packages of the names in the template, at most ten processes
each, with the template's variables. A function whose sources change is built and swapped; a build that fails changes nothing. A
changed template takes a new start.

What happens goes to standard error: on a terminal a block that is drawn anew, elsewhere a line for each batch and each change.
Ctrl-C finishes the batches that run and then ends everything, with exit code 0; a second one, or one while it still starts,
ends it at once, with 130. Messages that are left are gone then; tables are kept with --state.";
const SEND_ABOUT: &str = "\
Send an event's messages to a function's queue in the stack that `up` runs.

Of an SQS event the bodies are sent, with their attributes and groups. Deduplication ids are not: every message is a new one.
Anything else is read as JSON, one body a line.";
const UP_STATE_HELP: &str = "Keep the tables in this folder, so that the next run finds them; `send` needs the same";

const STATS_ABOUT: &str = "\
Show batch sizes, latencies and outcomes from functions' logs, as plots in the terminal.

Reads the metrics lines that functions print (CloudWatch's embedded metric format), bare, behind a prefix as `aws logs tail
--format short` prints them, or in the `message` of CloudWatch's and Lambda's JSON events. Where there are none, the JSON log lines of
batches and items. All other lines are skipped. `cargo local up --log FILE` keeps such a log.";
const COST_ABOUT: &str = "\
Say what an item costs on AWS, from functions' logs or from given figures.

Reads the same lines as `stats`. What they do not tell is given by options, or assumed; the assumptions are printed, and an
option wins over what was measured. The model is explained in infra/cost.md.";
const ARCHITECTURE_HELP: &str = "The function's processor [x86_64]";
const PRICES_HELP: &str = "Prices instead of the built-in ones: a JSON file of the same form";

/// The command: a subcommand, or `invoke` without its name.
#[derive(Debug, Parser)]
#[command(name = "microbatch", version, about = ABOUT, long_about = LONG_ABOUT, after_help = EXIT_CODES)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) invoke: Invoke,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Invoke a function once with an SQS event (the same as no subcommand)
    #[command(after_help = EXIT_CODES)]
    Invoke(Invoke),
    /// Make an SQS event full of valid orders, of any size up to Lambda's 6 MB
    #[command(after_help = EXIT_CODES)]
    Generate(Generate),
    #[command(about = CHECK_ABOUT, after_help = EXIT_CODES)]
    Check(Check),
    /// Run a template's stack here until Ctrl-C: queues, tables, functions, rebuilt on change
    #[command(long_about = UP_ABOUT, after_help = EXIT_CODES)]
    Up(Up),
    /// Send an event's messages to a function's queue in the stack that `up` runs
    #[command(long_about = SEND_ABOUT, after_help = EXIT_CODES)]
    Send(Send),
    /// See what is in a dead-letter queue and why, send messages back, or delete them
    Dlq(DlqArgs),
    /// Say what the idempotency table knows of a key or a message, and what to do
    #[command(after_help = EXIT_CODES)]
    Explain(Box<Explain>),
    /// Overrule the protocol for one key: its work is done, or is to be done again
    #[command(after_help = EXIT_CODES)]
    Resolve(Resolve),
    /// Show batch sizes, latencies and outcomes from functions' logs, as plots in the terminal
    #[command(long_about = STATS_ABOUT, after_help = EXIT_CODES)]
    Stats(Stats),
    /// Say what an item costs on AWS, from functions' logs or from given figures
    #[command(long_about = COST_ABOUT, after_help = EXIT_CODES)]
    Cost(Box<Cost>),
}

#[derive(Debug, Args)]
pub(crate) struct Invoke {
    /// The SQS event: a JSON file, or - for standard input [default: events/orders.json, unless the
    /// package names one]
    pub(crate) event: Option<PathBuf>,
    /// A package of the workspace, which is built; or the path of a built binary, which contains a /
    /// [default: process-orders, or the only one]
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) function: Option<String>,
    /// Keep the tables in this folder, so that the next run finds them
    #[arg(long, value_name = "DIR", conflicts_with = "endpoint_url")]
    pub(crate) state: Option<PathBuf>,
    /// Another `DynamoDB` than the embedded one.
    #[arg(long, value_name = "URL", help = ENDPOINT_HELP)]
    pub(crate) endpoint_url: Option<String>,
    /// The function's time-out in seconds, up to 900; fractions are fine
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Build and run the release profile
    #[arg(long)]
    pub(crate) release: bool,
    /// Set a variable for the function; may be repeated, and wins over what its package says
    #[arg(long, value_name = "KEY=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// Make a table that the function needs, beside those its package names; may be repeated
    #[arg(long, value_name = "NAME=KEY[,SORT_KEY]")]
    pub(crate) table: Vec<TableSpec>,
    /// Show the function's own log lines
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// How many records
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) records: u32,
    /// What surrounds each body
    #[arg(long, value_enum, default_value_t = Envelope::Real)]
    pub(crate) envelope: Envelope,
    /// Pad each body to at least this many bytes
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) body_bytes: usize,
    /// The same seed gives the same event
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) seed: u64,
    /// A FIFO queue with message groups
    #[arg(long)]
    pub(crate) fifo: bool,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The templates.
    #[arg(required = true, value_name = "TEMPLATE", help = TEMPLATES_HELP)]
    pub(crate) templates: Vec<PathBuf>,
    /// A parameter's value instead of its default; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) parameter: Vec<(String, String)>,
    /// How findings are told
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// Let warnings count as errors
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The SAM or `CloudFormation` template [default: infra/template.yaml]
    #[arg(long, value_name = "FILE")]
    pub(crate) template: Option<PathBuf>,
    /// A parameter's value instead of its default; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) parameter: Vec<(String, String)>,
    /// Run only this function; may be repeated [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) function: Vec<String>,
    /// Run this built binary as a function, instead of building its package; may be repeated
    #[arg(long, value_name = "NAME=PATH", value_parser = variable)]
    pub(crate) binary: Vec<(String, String)>,
    /// Where the tables are kept.
    #[arg(long, value_name = "DIR", help = UP_STATE_HELP)]
    pub(crate) state: Option<PathBuf>,
    /// Build and run the release profile
    #[arg(long)]
    pub(crate) release: bool,
    /// The port of SQS on 127.0.0.1 [default: a free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Use this SQS of this machine, which runs already, instead of one of its own
    #[arg(long, value_name = "URL", conflicts_with = "port")]
    pub(crate) sqs_endpoint_url: Option<String>,
    /// Show every line that the functions log
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Add every line that the functions log to this file, for `stats` and `cost`
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Send {
    /// A function of the running stack
    pub(crate) function: String,
    /// An SQS event, or JSON lines; - for standard input
    pub(crate) file: PathBuf,
    /// Send this many messages: the file's first ones, or all of them over and over [default: each once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: Option<u32>,
    /// The folder that `up` was given by its own --state
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Log files; - for standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// The function's time-out in seconds, to judge the latency of batches by
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
    /// Draw with plain characters, as where standard output is no terminal
    #[arg(long)]
    pub(crate) ascii: bool,
    /// How the figures are told
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// Which lines of a log count.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Chosen {
    /// Only this function
    #[arg(long, value_name = "NAME")]
    pub(crate) function: Option<String>,
    /// Only this queue
    #[arg(long, value_name = "NAME")]
    pub(crate) queue: Option<String>,
    /// Only lines from this time on: 2026-11-28, 2026-11-28T21:00:00Z or 2h (ago)
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    pub(crate) since: Option<u64>,
    /// Only lines before this time
    #[arg(long, value_name = "TIME", value_parser = moment::argument)]
    pub(crate) until: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Cost {
    /// Log files, as for `stats`; - for standard input; none: only given figures
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// Also say what this many items cost
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) items: Option<u64>,
    /// The rate of items, for the cost of a month [default: as measured]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) items_per_s: Option<f64>,
    /// Other prices.
    #[arg(long, value_name = "FILE", help = PRICES_HELP)]
    pub(crate) prices: Option<PathBuf>,
    /// How the figures are told
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// Last, since its heading holds for all that follows.
    #[command(flatten)]
    pub(crate) figures: Figures,
}

/// Figures of the workload. None is what was measured, or else the default.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Figures (what was measured is the default, then what is named)")]
pub(crate) struct Figures {
    /// Items in a batch [10]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) batch_size: Option<f64>,
    /// Time of a batch, in milliseconds [from that of an item]
    #[arg(long, value_name = "MS", value_parser = positive)]
    pub(crate) batch_latency_ms: Option<f64>,
    /// Time of an item, in milliseconds [20]
    #[arg(long, value_name = "MS", value_parser = positive)]
    pub(crate) item_latency_ms: Option<f64>,
    /// Items at once in a batch [64]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) concurrency: Option<f64>,
    /// The function's memory [256]
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u32).range(128..=10_240))]
    pub(crate) memory_mb: Option<u32>,
    /// The function's processor.
    #[arg(long, value_enum, help = ARCHITECTURE_HELP)]
    pub(crate) architecture: Option<Architecture>,
    /// A FIFO queue [by the queue's name]
    #[arg(long)]
    pub(crate) fifo: bool,
    /// The effect's writes are committed in the completion's transaction
    #[arg(long)]
    pub(crate) transactional: bool,
    /// Write units of the processor's own to DynamoDB for an item, before they count twice in a transaction [0, or 1 with
    /// --transactional]
    #[arg(long, value_name = "N", value_parser = not_negative)]
    pub(crate) writes_per_item: Option<f64>,
    /// Bytes of a message, its attributes included [1024]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) message_bytes: Option<u32>,
    /// Bytes of a record in the idempotency table, its result included [400]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=409_600))]
    pub(crate) record_bytes: Option<u32>,
    /// How long a record is kept, in days [22]
    #[arg(long, value_name = "DAYS", value_parser = not_negative)]
    pub(crate) retention_days: Option<f64>,
    /// Messages that the sender puts into one request [10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=10))]
    pub(crate) sends_per_request: Option<u8>,
    /// Share of items that are duplicates [0]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) duplicate_percent: Option<f64>,
    /// Share of items that fail and come again [0]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) failed_percent: Option<f64>,
    /// Share of items that are rejected, and parked [0]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) rejected_percent: Option<f64>,
    /// Share of batches that start a process [0]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) cold_start_percent: Option<f64>,
    /// Time of a process's start, in milliseconds [100]
    #[arg(long, value_name = "MS", value_parser = not_negative)]
    pub(crate) init_ms: Option<f64>,
    /// Bytes that a batch logs, Lambda's own lines included
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32))]
    pub(crate) log_bytes_per_batch: Option<u32>,
    /// Custom metrics of the function and queue
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16))]
    pub(crate) metrics: Option<u16>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Envelope {
    /// As AWS sends it, about 940 bytes: some 5,000 records fit an event
    Real,
    /// Short ids and handles, as AWS never sends them: 10,000 records fit an event
    Short,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|timeout| (Duration::from_millis(1)..=TIMEOUT_MAX).contains(timeout))
        .ok_or_else(|| "expected seconds between 0.001 and 900, such as 3 or 0.5".to_owned())
}

/// The largest figure that is taken: far more than any workload has, and no sum of such is infinite.
const FIGURE_MAX: f64 = 1e9;

fn within(text: &str, least: f64, most: f64, expected: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("expected {expected}"))
}

fn positive(text: &str) -> Result<f64, String> {
    within(text, 1e-6, FIGURE_MAX, "a number over 0")
}

fn not_negative(text: &str) -> Result<f64, String> {
    within(text, 0.0, FIGURE_MAX, "a number from 0 on")
}

fn at_least_one(text: &str) -> Result<f64, String> {
    within(text, 1.0, 10_000.0, "a number from 1 to 10,000")
}

fn percent(text: &str) -> Result<f64, String> {
    within(text, 0.0, 100.0, "a number from 0 to 100")
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn invoke_is_the_default() {
        let short = Cli::try_parse_from(["microbatch", "e.json", "--timeout", "0.5"]).expect("arguments");
        assert_eq!((short.invoke.event, short.invoke.timeout), (Some("e.json".into()), Duration::from_millis(500)));
        let long = Cli::try_parse_from(["microbatch", "invoke", "-", "--env", "A=b=c"]).expect("arguments");
        let Some(Command::Invoke(long)) = long.command else { panic!("{long:?}") };
        assert_eq!((long.event, long.env), (Some("-".into()), vec![("A".to_owned(), "b=c".to_owned())]));
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [
            ["--timeout", "0"],
            ["--timeout", "-1"],
            ["--timeout", "901"],
            ["--timeout", "NaN"],
            ["--timeout", "soon"],
            ["--env", "A"],
            ["--env", "=b"],
            ["--table", "orders"],
        ] {
            assert!(Cli::try_parse_from(["microbatch", bad[0], bad[1]]).is_err(), "{bad:?}");
        }
        assert!(Cli::try_parse_from(["microbatch", "--state", "d", "--endpoint-url", "http://127.0.0.1:1"]).is_err());
    }
}
