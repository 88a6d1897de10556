//! `microbatch dlq`: what is in a dead-letter queue, and what becomes of it.

mod journal;
pub(crate) mod letter;
mod list;
mod move_task;
mod purge;
mod redrive;
mod show;
pub(crate) mod sweep;

use self::letter::Letter;
use crate::args::Dlq;
use crate::exit::{Exit, Failure};
use crate::operate::stop::Stop;

/// Runs the subcommand.
pub(crate) async fn run(command: Dlq, stop: Stop) -> Result<Exit, Failure> {
    match command {
        Dlq::List(args) => list::run(args, &stop).await,
        Dlq::Show(args) => show::run(args, &stop).await,
        Dlq::Redrive(args) => redrive::run(args, &stop).await,
        Dlq::Purge(args) => purge::run(args, &stop).await,
    }
}

/// How many messages, in words.
fn messages(count: usize) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

/// The codes of messages and how many have each, the most frequent first.
fn by_code(letters: &[Letter]) -> String {
    let groups = list::groups(letters);
    let parts: Vec<String> = groups.iter().map(|group| format!("{} {}", group.count, group.code)).collect();
    parts.join(", ")
}
