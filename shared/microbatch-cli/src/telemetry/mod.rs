//! What functions log of their batches and items, gathered by function and queue: what `stats` and `cost` start from.
//!
//! Lines are read one by one and kept only as counts, so that memory does not depend on how many there are. Metrics lines name
//! their function and queue. The log lines of batches and items do not; they count only where there is no metrics line.

mod distribution;
mod input;
mod line;
pub(crate) mod moment;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub(crate) use self::distribution::Distribution;
use self::input::Line;
use self::line::{Found, Kind, Record};
use crate::args::Chosen;
use crate::exit::Failure;
use crate::terminal;

/// Metrics of which each value counts, and not only their sum.
pub(crate) const DISTRIBUTED: [&str; 5] = ["BatchSize", "BatchLatency", "ItemLatency", "ItemAge", "ClaimLatency"];
/// Functions and queues that are kept apart; a stack has a handful.
const GROUPS_MAX: usize = 50;
/// Characters of a function's or queue's name.
const NAME_CHARS: usize = 140;

/// All that was found.
#[derive(Debug)]
pub(crate) struct Gathered {
    /// By function, then by queue. Without metrics lines one, of no name.
    pub(crate) groups: Vec<Group>,
    pub(crate) lines: Lines,
}

/// How many lines were of which kind.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Lines {
    pub(crate) metrics: u64,
    pub(crate) batches: u64,
    pub(crate) items: u64,
    /// Of other functions, queues or times than those asked for.
    pub(crate) left_out: u64,
    pub(crate) unreadable: u64,
    pub(crate) other: u64,
    /// Bytes of lines that are no metrics lines: which function they belong to is not known.
    pub(crate) unattributed_bytes: u64,
    /// Metrics lines beyond the most functions and queues that are kept apart.
    pub(crate) beyond: u64,
}

/// The sum and the number of a metric's values.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) sum: f64,
    pub(crate) count: u64,
}

/// What is known of one function on one queue.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    /// None where only log lines tell of it.
    pub(crate) names: Option<(String, String)>,
    /// The first and the last time that a line says.
    pub(crate) period_ms: Option<(u64, u64)>,
    /// Bytes of its metrics lines.
    pub(crate) bytes: u64,
    tallies: BTreeMap<&'static str, Tally>,
    distributions: [Distribution; DISTRIBUTED.len()],
}

impl Group {
    /// A group of one record, for tests.
    #[cfg(test)]
    pub(crate) fn of(metrics: &[(&'static str, &[(f64, u64)])]) -> Self {
        let metrics = metrics.iter().map(|(name, values)| (*name, values.to_vec())).collect();
        let record = Record { kind: Kind::Metrics, at_ms: None, function: None, queue: None, metrics, bytes: 0 };
        let mut group = Self::default();
        group.add(&record);
        group
    }

    fn add(&mut self, record: &Record) {
        self.period_ms = spanned(self.period_ms, record.at_ms);
        self.bytes = self.bytes.saturating_add(record.bytes);
        for (name, values) in &record.metrics {
            let tally = self.tallies.entry(name).or_default();
            for (value, count) in values {
                tally.sum += value * as_f64(*count);
                tally.count = tally.count.saturating_add(*count);
            }
            if let Some(position) = DISTRIBUTED.iter().position(|distributed| distributed == name) {
                for (value, count) in values {
                    self.distributions[position].add(*value, *count);
                }
            }
        }
    }

    pub(crate) fn tally(&self, metric: &str) -> Tally {
        self.tallies.get(metric).copied().unwrap_or_default()
    }

    pub(crate) fn sum(&self, metric: &str) -> f64 {
        self.tally(metric).sum
    }

    pub(crate) fn mean(&self, metric: &str) -> Option<f64> {
        let Tally { sum, count } = self.tally(metric);
        (count > 0).then(|| sum / as_f64(count))
    }

    /// The values of one of [`DISTRIBUTED`].
    pub(crate) fn distribution(&self, metric: &str) -> Option<&Distribution> {
        DISTRIBUTED.iter().position(|name| *name == metric).map(|position| &self.distributions[position])
    }

    /// Batches, those included that were refused as a whole and have no size.
    pub(crate) fn batches(&self) -> u64 {
        self.tally("BatchSize").count.max(self.tally("BatchFailures").count)
    }

    /// Items, of whatever outcome.
    pub(crate) fn items(&self) -> f64 {
        self.sum("Items")
    }

    /// Items a second over the time that the lines span; none when they span less than a second.
    pub(crate) fn items_per_s(&self) -> Option<f64> {
        let (first, last) = self.period_ms?;
        (last - first >= 1_000).then(|| self.items() * 1_000.0 / as_f64(last - first))
    }

    /// How many metrics it has.
    pub(crate) fn metrics(&self) -> usize {
        self.tallies.len()
    }

    /// What it is called: its function and its queue.
    pub(crate) fn title(&self) -> String {
        match &self.names {
            Some((function, queue)) => format!("{function}, queue {queue}"),
            None => "all functions (log lines do not name theirs)".to_owned(),
        }
    }
}

/// The first and the last of the times so far and another.
fn spanned(period_ms: Option<(u64, u64)>, at_ms: Option<u64>) -> Option<(u64, u64)> {
    let Some(at_ms) = at_ms else { return period_ms };
    let (first, last) = period_ms.unwrap_or((at_ms, at_ms));
    Some((first.min(at_ms), last.max(at_ms)))
}

/// Counts as doubles: exact up to 9e15, and no metric needs more.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}

/// Reads files (`-`: standard input) and gathers what was asked for.
///
/// # Errors
/// When a file cannot be read, or nothing in them is ours or was asked for.
pub(crate) async fn gather(files: Vec<PathBuf>, chosen: Chosen) -> Result<Gathered, Failure> {
    // Standard input may take for ever, a large file long; meanwhile Ctrl-C is heard.
    let reading = tokio::task::spawn_blocking(move || {
        let mut gatherer = Gatherer::new(chosen);
        input::read(input::open(&files)?, |line| gatherer.line(&line))?;
        gatherer.finish()
    });
    let gathered = reading.await.unwrap_or_else(|_| Err("the input cannot be read".to_owned()));
    gathered.map_err(Failure::usage)
}

struct Gatherer {
    chosen: Chosen,
    metrics: BTreeMap<(String, String), Group>,
    logs: Group,
    lines: Lines,
    /// Those that there are, for when none of them was asked for.
    seen: BTreeSet<(String, String)>,
    seen_ms: Option<(u64, u64)>,
}

impl Gatherer {
    fn new(chosen: Chosen) -> Self {
        let lines = Lines::default();
        Self { chosen, metrics: BTreeMap::new(), logs: Group::default(), lines, seen: BTreeSet::new(), seen_ms: None }
    }

    fn line(&mut self, line: &Line<'_>) {
        let Line::Whole(line) = line else {
            self.lines.unreadable += 1;
            return;
        };
        for found in line::read(line) {
            match found {
                Found::Record(record) => self.record(record),
                Found::Other(bytes) => {
                    self.lines.other += 1;
                    self.lines.unattributed_bytes += bytes;
                }
                Found::Unreadable => self.lines.unreadable += 1,
            }
        }
    }

    fn record(&mut self, mut record: Record) {
        let named = record.function.take().zip(record.queue.take());
        let named =
            named.map(|(function, queue)| (terminal::tame(&function, NAME_CHARS), terminal::tame(&queue, NAME_CHARS)));
        if let Some(named) = &named
            && self.seen.len() < GROUPS_MAX
        {
            self.seen.insert(named.clone());
        }
        self.seen_ms = spanned(self.seen_ms, record.at_ms);
        if !self.chosen.holds(named.as_ref(), record.at_ms) {
            self.lines.left_out += 1;
            return;
        }
        match record.kind {
            Kind::Metrics => self.lines.metrics += 1,
            Kind::Batch => self.lines.batches += 1,
            Kind::Item => self.lines.items += 1,
        }
        let Some(named) = named else {
            self.lines.unattributed_bytes += record.bytes;
            self.logs.add(&record);
            return;
        };
        if self.metrics.len() >= GROUPS_MAX && !self.metrics.contains_key(&named) {
            self.lines.beyond += 1;
            return;
        }
        self.metrics.entry(named).or_default().add(&record);
    }

    fn finish(self) -> Result<Gathered, String> {
        let Self { chosen, metrics, logs, lines, seen, seen_ms } = self;
        if lines.metrics > 0 {
            let groups = metrics.into_iter().map(|(names, group)| Group { names: Some(names), ..group });
            return Ok(Gathered { groups: groups.collect(), lines });
        }
        if lines.batches > 0 {
            return Ok(Gathered { groups: vec![logs], lines });
        }
        Err(nothing(&lines, &chosen, &seen, seen_ms))
    }
}

impl Chosen {
    /// Whether a line of this function and queue, and of this time, was asked for. What does not say it, was not.
    fn holds(&self, named: Option<&(String, String)>, at_ms: Option<u64>) -> bool {
        let is = |wanted: &Option<String>, name: Option<&String>| wanted.is_none() || wanted.as_ref() == name;
        let since = self.since.is_none_or(|since_ms| at_ms.is_some_and(|at_ms| at_ms >= since_ms));
        let until = self.until.is_none_or(|until_ms| at_ms.is_some_and(|at_ms| at_ms < until_ms));
        is(&self.function, named.map(|named| &named.0))
            && is(&self.queue, named.map(|named| &named.1))
            && since
            && until
    }
}

/// Why there is nothing to tell, and what to do.
fn nothing(lines: &Lines, chosen: &Chosen, seen: &BTreeSet<(String, String)>, seen_ms: Option<(u64, u64)>) -> String {
    let unreadable = match lines.unreadable {
        0 => String::new(),
        count => format!("; {count} were unreadable: cut off, or with values that no metric has"),
    };
    if lines.left_out > 0 {
        let names: Vec<String> = seen.iter().map(|(function, queue)| format!("{function} ({queue})")).collect();
        let there = match (names.is_empty(), chosen.function.is_some() || chosen.queue.is_some()) {
            (false, true) => format!("; functions (and queues) that are there: {}", names.join(", ")),
            (true, true) => "; they are log lines, which do not name their function: leave the filter out".to_owned(),
            (_, false) => String::new(),
        };
        let there = match seen_ms.filter(|_| chosen.since.is_some() || chosen.until.is_some()) {
            Some((first, last)) => {
                format!("{there}; they are of {} to {}", moment::shown(first), moment::shown(last))
            }
            None => there,
        };
        return format!("none of {} lines matches the filters{there}{unreadable}", lines.left_out);
    }
    if lines.items > 0 {
        return format!("{} log lines of items, but none of a batch: log at level INFO{unreadable}", lines.items);
    }
    let all = lines.other + lines.unreadable;
    if all == 0 {
        return "the input is empty".to_owned();
    }
    format!(
        "none of {all} lines is a metrics line of microbatch or a log line of a batch{unreadable}\n\
         Metrics lines are one JSON object with _aws in one line (`aws logs tail` prints them with --format short); log lines \
         need AWS_LAMBDA_LOG_FORMAT=JSON"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 1_795_867_200_000;

    fn emf(function: &str, queue: &str, at_ms: u64, size: u64) -> String {
        format!(
            r#"{{"_aws":{{"Timestamp":{at_ms}}},"function":"{function}","queue":"{queue}","BatchSize":{size},"Items":{size}}}"#
        )
    }

    const BATCH: &str =
        r#"{"timestamp":"2026-11-28T12:00:00Z","target":"microbatch::batch","records":5,"elapsed_ms":29}"#;
    const ITEM: &str =
        r#"{"timestamp":"2026-11-28T12:00:00Z","target":"microbatch::item","index":0,"outcome":"Failed"}"#;

    fn gathered(lines: &[&str], chosen: Chosen) -> Result<Gathered, String> {
        let mut gatherer = Gatherer::new(chosen);
        for line in lines {
            gatherer.line(&Line::Whole(line.as_bytes()));
        }
        gatherer.finish()
    }

    fn chosen(function: Option<&str>, since: Option<u64>, until: Option<u64>) -> Chosen {
        Chosen { function: function.map(str::to_owned), queue: None, since, until }
    }

    #[test]
    fn groups_are_functions_and_queues_and_log_lines_do_not_count_beside_them() {
        let (first, second) = (emf("a", "q", AT, 10), emf("a", "q", AT + 2_000, 30));
        let found = gathered(&[&first, BATCH, &emf("a", "other", AT, 1), "START", &second], Chosen::default());
        let Gathered { groups, lines } = found.expect("groups");
        let titles: Vec<String> = groups.iter().map(Group::title).collect();
        assert_eq!(titles, ["a, queue other", "a, queue q"]);
        let group = &groups[1];
        assert_eq!((group.batches(), group.items(), group.items_per_s()), (2, 40.0, Some(20.0)));
        assert_eq!(group.mean("BatchSize"), Some(20.0));
        assert_eq!(group.distribution("BatchSize").and_then(Distribution::max), Some(30.0));
        assert_eq!((lines.metrics, lines.batches, lines.other), (3, 1, 1));
        assert_eq!(group.bytes, (first.len() + second.len()) as u64);
        assert_eq!(lines.unattributed_bytes, (BATCH.len() + "START".len()) as u64);
    }

    #[test]
    fn without_metrics_lines_the_log_lines_count() {
        let Gathered { groups, .. } = gathered(&[BATCH, ITEM, BATCH], Chosen::default()).expect("a group");
        let group = &groups[0];
        assert_eq!((group.batches(), group.items(), group.sum("ItemsFailed")), (2, 10.0, 1.0));
        assert!(group.names.is_none() && group.title().contains("log lines"));
    }

    #[test]
    fn filters_choose_function_and_time() {
        let lines = [emf("a", "q", AT, 1), emf("b", "q", AT, 2), emf("b", "q", AT + 10, 4), emf("b", "q", AT + 20, 8)];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let items = |chosen| gathered(&lines, chosen).map(|found| found.groups.iter().map(Group::items).sum::<f64>());
        assert_eq!(items(chosen(Some("b"), None, None)), Ok(14.0));
        assert_eq!(items(chosen(None, Some(AT + 10), None)), Ok(12.0));
        assert_eq!(items(chosen(Some("b"), Some(AT), Some(AT + 20))), Ok(6.0));
        let none = items(chosen(Some("c"), None, None)).expect_err("nobody");
        assert_eq!(none, "none of 4 lines matches the filters; functions (and queues) that are there: a (q), b (q)");
        let logs = gathered(&[BATCH], chosen(Some("a"), None, None)).expect_err("no names");
        assert!(logs.contains("leave the filter out"), "{logs}");
    }

    #[test]
    fn what_holds_nothing_says_why() {
        let error = |lines: &[&str]| gathered(lines, Chosen::default()).expect_err("nothing");
        assert_eq!(error(&[]), "the input is empty");
        assert!(error(&["START", r#"{"_aws":"#]).contains("none of 2 lines"), "{}", error(&["START", r#"{"_aws":"#]));
        assert!(error(&[r#"{"_aws":"#]).contains("1 were unreadable"));
        assert!(error(&[ITEM]).contains("level INFO"));
    }

    #[test]
    fn names_are_bounded_and_tame() {
        let lines: Vec<String> = (0..200).map(|number| emf(&format!("f{number}"), "q", AT, 1)).collect();
        let mut gatherer = Gatherer::new(Chosen::default());
        for line in &lines {
            gatherer.line(&Line::Whole(line.as_bytes()));
        }
        let found = gatherer.finish().expect("groups");
        assert_eq!((found.groups.len(), found.lines.beyond), (GROUPS_MAX, 150));
        let wild = emf(&format!("\\u001b[2J{}", "x".repeat(500)), "q", AT, 1);
        let found = gathered(&[&wild], Chosen::default()).expect("a group");
        assert!(found.groups[0].title().starts_with("?[2Jx") && found.groups[0].title().len() < 200);
    }
}
