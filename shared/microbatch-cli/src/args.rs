//! The command line.

mod operate;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use microbatch_local::tables::TableSpec;

pub(crate) use self::operate::{
    Dlq, DlqArgs, EnvelopeName, Explain, Filter, KeyFormatName, List, Places, Purge, Records, Redrive, Resolve, Show,
};
use crate::exit::EXIT_CODES;

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

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    /// For people: a line for each finding, its fix, and a summary
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
