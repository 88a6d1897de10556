//! The operator's commands: `dlq`, `explain`, `resolve`.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::Format;
use crate::exit::EXIT_CODES;
use crate::operate::times;

const DLQ_ABOUT: &str = "\
See what is in a dead-letter queue and why, send messages back, or delete them.

QUEUE is a function of the stack that `up` runs, or a queue's name or URL: of that stack, of an endpoint, or on AWS. Where the
commands act is the first line on standard error.

To look at messages is to receive them: that hides them for a moment and raises their receive count. They are shown again
afterwards, also after Ctrl-C or an error; a command that was killed leaves them hidden for up to two minutes. A FIFO queue
shows about ten messages of a group at a time. Bodies, keys and texts of attributes are never printed, unless `show --body`
asks for the body.";
const EXPLAIN_ABOUT: &str = "\
Say what the idempotency table knows of a key or a message: status, owner, attempt, lease, what the next delivery meets, and
what to do.

SUBJECT is a key as the table holds it (namespace#digest), or the id of a message in the dead-letter queue that --queue names.
With --body the key is made of that body. How a function makes its keys is known of the functions of this workspace and of the
stack that `up` runs; else say it by --namespace and --key.";
const RESOLVE_ABOUT: &str = "\
Overrule the protocol for one key: its work is done (--completed), or is to be done again (--retry).

For work whose holder vanished: only a person can find out whether its effect happened. The record is shown first, then
changed by one write, only if it is still the one that was shown. A key that a live claim holds is refused: wait until its
lease ends. A completed key is refused too, unless --undo-completed says that its effect may happen a second time; that breaks
promise P3, and is the operator's own decision. Functions with a cache of completed keys may not see a change for up to a
minute. Who did it, when, and what was there before stays in the record, at least until the next claim.";
const REDRIVE_ABOUT: &str = "\
Send messages back to the queue they came from, or to another, and delete them here.

Body, attributes, group and trace stay; the reason for which a message was parked does not. A message is deleted only once its
send succeeded. What is sent is noted in a journal first: started again after an interruption, the command goes on where it
was, and sends nothing twice of which it knows that it was sent. A message of which it does not know is sent again. A FIFO queue
drops the repetition within five minutes; for any other queue the summary names it as possibly doubled, and the function's
idempotency table recognises it.

Without a filter the whole queue goes: by a message move task of SQS where there is one (which leaves the reason on the messages), else
as above.";
const PURGE_ABOUT: &str = "\
Delete messages for good. This cannot be undone.

Only what a filter or ids select is deleted, message by message; --all deletes everything at once (PurgeQueue).";

const ENDPOINT_HELP: &str = "Use this endpoint instead of AWS [default: AWS_ENDPOINT_URL_SQS and AWS_ENDPOINT_URL_DYNAMODB, \
                             AWS_ENDPOINT_URL, or the stack that runs here]";
const STATE_HELP: &str = "The folder that `up` was given by its own --state";
const CODE_HELP: &str = "Only messages parked with this error code; or @moved, @unreadable, @none (may be repeated)";

#[derive(Debug, Args)]
#[command(long_about = DLQ_ABOUT)]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    pub(crate) command: Dlq,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// Count the messages of a dead-letter queue by error code
    #[command(after_help = EXIT_CODES)]
    List(List),
    /// Show messages one by one: why each was parked, and what the idempotency table knows of it
    #[command(after_help = EXIT_CODES)]
    Show(Show),
    /// Send messages back to the queue they came from, or to another, and delete them here
    #[command(long_about = REDRIVE_ABOUT, after_help = EXIT_CODES)]
    Redrive(Redrive),
    /// Delete messages for good
    #[command(long_about = PURGE_ABOUT, after_help = EXIT_CODES)]
    Purge(Purge),
}

/// Where queues and tables are.
#[derive(Debug, Clone, Args)]
pub(crate) struct Places {
    /// Another endpoint than AWS.
    #[arg(long, value_name = "URL", help = ENDPOINT_HELP)]
    pub(crate) endpoint_url: Option<String>,
    /// Where the stack's file is.
    #[arg(long, value_name = "DIR", help = STATE_HELP)]
    pub(crate) state: Option<PathBuf>,
}

/// Which messages.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Filter {
    /// Error codes.
    #[arg(long, value_name = "CODE", help = CODE_HELP)]
    pub(crate) code: Vec<String>,
    /// Only messages sent longer ago than this: 90s, 30m, 2h, 3d
    #[arg(long, value_name = "AGE", value_parser = times::duration)]
    pub(crate) older_than: Option<Duration>,
    /// Only messages sent more recently than this
    #[arg(long, value_name = "AGE", value_parser = times::duration)]
    pub(crate) newer_than: Option<Duration>,
    /// Only messages of this message group
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
}

/// A dead-letter queue, and which of its messages.
#[derive(Debug, Args)]
pub(crate) struct Letters {
    /// A function of the running stack, or the dead-letter queue's name or URL
    pub(crate) queue: String,
    /// Only these messages
    #[arg(value_name = "MESSAGE_ID")]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) filter: Filter,
}

/// Where the records are, and how keys are made.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Records {
    /// The idempotency table [default: that of the function in the stack, or `MICROBATCH_TABLE`]
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Option<String>,
    /// The function: its package says how keys are made, and its name is the default namespace [default: QUEUE, if it is one]
    #[arg(long, value_name = "NAME")]
    pub(crate) function: Option<String>,
    /// What precedes # in the keys [default: that of the function in the stack, `MICROBATCH_NAMESPACE`, or the function's name]
    #[arg(long, value_name = "TEXT")]
    pub(crate) namespace: Option<String>,
    /// What the body wraps its payload in [default: as the function, or none]
    #[arg(long, value_enum)]
    pub(crate) envelope: Option<EnvelopeName>,
    /// The selector of the key in the payload, as in the function's builder [default: as the function's package says]
    #[arg(long, value_name = "SELECTOR", conflicts_with = "key_from")]
    pub(crate) key: Option<String>,
    /// Where the key is, if not in the payload: message-id, deduplication-id or attribute:NAME
    #[arg(long, value_name = "SOURCE")]
    pub(crate) key_from: Option<String>,
    /// The selector of what must not differ; @ is all of the payload [default: as the function's package says]
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) fingerprint: Option<String>,
    /// How keys are written
    #[arg(long, value_enum, default_value_t = KeyFormatName::Own)]
    pub(crate) key_format: KeyFormatName,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// A function of the running stack, or the dead-letter queue's name or URL
    pub(crate) queue: String,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Look at this many messages at most
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) max: NonZeroU32,
    /// How it is told
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) places: Places,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) letters: Letters,
    /// Look at this many messages at most
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) max: NonZeroU32,
    /// Show this many of them at most
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) limit: NonZeroU32,
    /// Print the bodies too
    #[arg(long)]
    pub(crate) body: bool,
    /// How it is told
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) records: Records,
    #[command(flatten)]
    pub(crate) places: Places,
}

#[derive(Debug, Args)]
pub(crate) struct Redrive {
    #[command(flatten)]
    pub(crate) letters: Letters,
    /// The queue to send to, by name or URL [default: the one that the dead-letter queue belongs to]
    #[arg(long, value_name = "QUEUE")]
    pub(crate) to: Option<String>,
    /// Most messages a second
    #[arg(long, value_name = "N", default_value = "50")]
    pub(crate) rate: NonZeroU32,
    /// Say what would be sent, and send nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Note what is sent in this file, and go on where it ends [default: an unfinished one of these queues, or a new one]
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: Option<PathBuf>,
    /// Receive, send and delete also where a message move task of SQS could move the whole queue
    #[arg(long)]
    pub(crate) one_by_one: bool,
    #[command(flatten)]
    pub(crate) places: Places,
}

#[derive(Debug, Args)]
pub(crate) struct Purge {
    #[command(flatten)]
    pub(crate) letters: Letters,
    /// Delete every message of the queue at once
    #[arg(long, conflicts_with_all = ["ids", "code", "older_than", "newer_than", "group"])]
    pub(crate) all: bool,
    /// Say what would be deleted, and delete nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) places: Places,
}

#[derive(Debug, Args)]
#[command(long_about = EXPLAIN_ABOUT)]
pub(crate) struct Explain {
    /// A key (namespace#digest), or the id of a message in --queue
    #[arg(value_name = "KEY|MESSAGE", required_unless_present = "body", conflicts_with = "body")]
    pub(crate) subject: Option<String>,
    /// The dead-letter queue that holds the message: as for `dlq`
    #[arg(long, value_name = "QUEUE", conflicts_with = "body")]
    pub(crate) queue: Option<String>,
    /// Make the key of this body; - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) body: Option<PathBuf>,
    /// How it is told
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) records: Records,
    #[command(flatten)]
    pub(crate) places: Places,
}

#[derive(Debug, Args)]
#[command(long_about = RESOLVE_ABOUT)]
#[command(group(clap::ArgGroup::new("to").required(true).args(["completed", "retry"])))]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Resolve {
    /// The key, as the table holds it: namespace#digest; `explain` and `dlq show` print it
    pub(crate) key: String,
    /// The work is done: deliveries of it are duplicates from now on
    #[arg(long)]
    pub(crate) completed: bool,
    /// The work is to be done: the next delivery runs it
    #[arg(long)]
    pub(crate) retry: bool,
    /// With --retry: also where the work was completed, so that its effect happens a second time
    #[arg(long, requires = "retry")]
    pub(crate) undo_completed: bool,
    /// Who resolves it, for the trace in the record [default: your login name]
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// The idempotency table [default: that of the function in the stack, or `MICROBATCH_TABLE`]
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Option<String>,
    /// The function whose table it is, in the running stack [default: what precedes # in the key]
    #[arg(long, value_name = "NAME")]
    pub(crate) function: Option<String>,
    #[command(flatten)]
    pub(crate) places: Places,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvelopeName {
    /// The body is the payload
    None,
    /// An SNS notification
    Sns,
    /// An `EventBridge` event
    Eventbridge,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyFormatName {
    /// microbatch's own
    #[default]
    Own,
    /// As Powertools for AWS Lambda (Python)
    PowertoolsPython,
}
