//! `microbatch dlq list`: the messages by error code.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde_json::{Value, json};

use super::letter::Letter;
use super::sweep::{Selection, look};
use crate::args::{Format, List};
use crate::exit::{Exit, Failure};
use crate::operate::place::{self, Place};
use crate::operate::stop::Stop;
use crate::operate::times::{now_ms, when_and_ago};
use crate::terminal;
use crate::up::sqs::Depth;

/// The messages of one code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) code: String,
    pub(super) kind: String,
    pub(super) count: usize,
    pub(super) oldest_ms: Option<u64>,
    pub(super) newest_ms: Option<u64>,
}

pub(super) async fn run(args: List, stop: &Stop) -> Result<Exit, Failure> {
    let place = place::find(&args.queue, &args.places).await?;
    let depth = place::depth(&place).await;
    let selection = Selection::new(&args.filter, &[]);
    let looked = look(&place, stop, &selection, seen_max(args.max)).await?;
    let groups = groups(&looked.letters);
    let text = match args.format {
        Format::Text => table(&groups, now_ms()),
        Format::Json => {
            let about = depth.map(|depth| depth.waiting + depth.in_flight);
            let groups: Vec<Value> = groups.iter().map(Group::to_json).collect();
            json!({"queue": place.url, "seen": looked.seen, "about": about, "groups": groups}).to_string()
        }
    };
    if !text.is_empty() {
        terminal::output(text.as_bytes()).map_err(Failure::environment)?;
    }
    terminal::line(&seen(&place, looked.seen, looked.letters.len(), depth, args.max));
    Ok(stop.heard().unwrap_or(Exit::Done))
}

/// Most messages to look at.
pub(super) fn seen_max(max: NonZeroU32) -> usize {
    usize::try_from(max.get()).unwrap_or(usize::MAX)
}

/// How much of the queue was looked at.
pub(super) fn seen(place: &Place, seen: usize, meant: usize, depth: Option<Depth>, max: NonZeroU32) -> String {
    let about = depth.map_or_else(String::new, |depth| format!(" of about {}", depth.waiting + depth.in_flight));
    let mut text = format!("looked at {seen}{about} messages");
    if meant < seen {
        text.push_str(&format!(", {meant} of them as asked for"));
    }
    let hidden = depth.map_or(0, |depth| depth.in_flight);
    if hidden > 0 {
        text.push_str(&format!("; {hidden} were hidden, received by someone else"));
    }
    let left = depth.is_some_and(|depth| depth.waiting > seen as u64);
    if left && seen >= seen_max(max) {
        text.push_str("; --max N looks at more");
    } else if left && place.is_fifo() {
        text.push_str("; a FIFO queue shows only the first messages of each group");
    }
    text
}

/// The messages by code, the most frequent first.
pub(super) fn groups(letters: &[Letter]) -> Vec<Group> {
    let mut groups: BTreeMap<(&str, &str), Group> = BTreeMap::new();
    for letter in letters {
        let (code, kind) = (letter.why.code(), letter.why.words());
        let group = groups.entry((code, kind)).or_insert_with(|| Group {
            code: code.to_owned(),
            kind: kind.to_owned(),
            count: 0,
            oldest_ms: None,
            newest_ms: None,
        });
        group.count += 1;
        let sent_ms = letter.sent_ms();
        group.oldest_ms = group.oldest_ms.into_iter().chain(sent_ms).min();
        group.newest_ms = group.newest_ms.into_iter().chain(sent_ms).max();
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    groups
}

impl Group {
    fn to_json(&self) -> Value {
        let Self { code, kind, count, oldest_ms, newest_ms } = self;
        json!({"code": code, "kind": kind, "count": count, "oldest_ms": oldest_ms, "newest_ms": newest_ms})
    }
}

fn table(groups: &[Group], now_ms: u64) -> String {
    if groups.is_empty() {
        return String::new();
    }
    let time = |at_ms: Option<u64>| at_ms.map_or_else(|| "?".to_owned(), |at_ms| when_and_ago(at_ms, now_ms));
    let rows = groups.iter().map(|group| {
        [&group.code, &group.kind, &group.count.to_string(), &time(group.oldest_ms), &time(group.newest_ms)]
            .map(ToOwned::to_owned)
    });
    let headings = ["code", "kind", "count", "oldest sent", "newest sent"].map(str::to_owned);
    columns(std::iter::once(headings).chain(rows).collect())
}

/// Rows with their columns below each other; the third is of numbers.
fn columns(rows: Vec<[String; 5]>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; 5] = std::array::from_fn(width);
    let lines: Vec<String> = rows
        .into_iter()
        .map(|row| {
            let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
                if column == 2 { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::letter::tests::{NOW_MS, PARKED, letter};
    use super::*;

    #[test]
    fn messages_are_counted_by_code_the_most_frequent_first() {
        let letters = [
            letter("a", Some(PARKED), 60),
            letter("b", None, 7_200),
            letter("c", None, 10_800),
            letter("d", Some("canary"), 5),
        ];
        let groups = groups(&letters);
        let found: Vec<_> = groups.iter().map(|group| (group.code.as_str(), group.count)).collect();
        assert_eq!(found, [("@moved", 2), ("@unreadable", 1), ("invalid_order", 1)]);
        let text = table(&groups, NOW_MS);
        let expected = "\
code           kind                         count  oldest sent                  newest sent
@moved         moved, or sent in by others      2  2025-11-24 13:00:00Z (3 h ago)   2025-11-24 14:00:00Z (2 h ago)
@unreadable    unreadable reason                1  2025-11-24 15:59:55Z (5 s ago)   2025-11-24 15:59:55Z (5 s ago)
invalid_order  permanent                        1  2025-11-24 15:59:00Z (60 s ago)  2025-11-24 15:59:00Z (60 s ago)";
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&text), squeeze(expected));
        assert!(!text.contains("canary"), "P13");
    }
}
