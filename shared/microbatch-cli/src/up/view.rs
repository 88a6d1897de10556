//! What a running stack shows: on a terminal a block that is drawn anew, elsewhere a line for each batch and each change.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use microbatch_local::function::{LogSink, LogStream};
use microbatch_local::items::{self, LogLine};
use microbatch_local::mapping::{Counts, MappingEvent, Observer};

use super::sqs::Depth;
use crate::terminal::{self, Colour, Paint};

/// Characters of a function's own line that are shown.
const LINE_CHARS: usize = 2_000;
/// The outcomes in the order in which they are shown; others come behind.
const OUTCOMES: [&str; 7] = ["Processed", "Duplicate", "Busy", "Conflict", "Failed", "Rejected", "Abandoned"];
/// Outcomes that are kept apart; a function could invent any number of them.
const OUTCOMES_MAX: usize = 20;

/// A function and its queues, as they are now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Row {
    name: String,
    has_dead_letters: bool,
    /// None where the queue did not answer.
    queue: Option<Depth>,
    dead_letters: Option<Depth>,
    counts: Counts,
    outcomes: BTreeMap<String, u64>,
}

impl Row {
    /// The queues and the batches.
    fn queues(&self) -> String {
        let number = |depth: Option<u64>| depth.map_or_else(|| "?".to_owned(), |number| number.to_string());
        let dead_letters = number(self.dead_letters.map(|depth| depth.waiting + depth.in_flight));
        let dead_letters =
            if self.has_dead_letters { format!(" · dead letters {dead_letters}") } else { String::new() };
        format!(
            "queue {} · in flight {}{dead_letters} · batches {} · errors {}",
            number(self.queue.map(|depth| depth.waiting)),
            number(self.queue.map(|depth| depth.in_flight)),
            self.counts.batches,
            self.counts.errors + self.counts.bad_responses,
        )
    }

    /// What became of the messages; empty before there are any.
    fn outcomes(&self) -> String {
        let known = OUTCOMES.iter().filter_map(|name| self.outcomes.get_key_value(*name));
        let other = self.outcomes.iter().filter(|(name, _)| !OUTCOMES.contains(&name.as_str()));
        let parts: Vec<String> = known.chain(other).map(|(name, count)| format!("{name} {count}")).collect();
        parts.join(" · ")
    }

    /// All of it in one line.
    fn line(&self) -> String {
        let outcomes = self.outcomes();
        let separator = if outcomes.is_empty() { "" } else { " · " };
        format!("{}: {}{separator}{outcomes}", self.name, self.queues())
    }

    fn add_outcome(&mut self, outcome: &str) {
        if self.outcomes.len() < OUTCOMES_MAX || self.outcomes.contains_key(outcome) {
            *self.outcomes.entry(terminal::tame(outcome, 20)).or_default() += 1;
        }
    }
}

/// What an event has to say beside the numbers; `is_terminal` shows batches in its block.
fn told(name: &str, event: &MappingEvent, is_terminal: bool) -> Option<String> {
    match event {
        MappingEvent::BatchEnded(report) => {
            let error = report.delete_error.as_ref().map_or_else(String::new, |error| format!("; {error}"));
            let is_news = report.outcome.is_error() || report.undeleted > 0 || report.delete_error.is_some();
            (is_news || !is_terminal).then(|| {
                let kept = report.left + report.undeleted;
                format!(
                    "{name}: batch {}: {} messages in {} ms, {} deleted, {kept} kept: {}{error}",
                    report.batch, report.messages, report.elapsed_ms, report.deleted, report.outcome
                )
            })
        }
        MappingEvent::ReceiveFailed(error) => Some(format!("{name}: {error}; it is tried again")),
        MappingEvent::Unusable(incomplete) => Some(format!("{name}: a message is left alone: {incomplete}")),
        MappingEvent::Scaled { pause_ms, .. } if *pause_ms > 0 => {
            Some(format!("{name}: after errors nothing is received for {pause_ms} ms"))
        }
        _ => None,
    }
}

/// What of a function's line is shown although nobody asked for all: a warning or an error, or what is no log line at all.
fn news(stream: LogStream, line: &str) -> Option<String> {
    match serde_json::from_str::<serde_json::Value>(line) {
        Ok(value) if value.is_object() => {
            let level = value["level"].as_str().filter(|level| ["WARN", "ERROR"].contains(level))?;
            Some(format!("{level} {}", value["message"].as_str().unwrap_or(line)))
        }
        _ => (stream == LogStream::Stderr && !line.trim().is_empty()).then(|| line.to_owned()),
    }
}

/// The state of the view, shared by all who tell it something.
#[derive(Clone)]
pub(crate) struct View {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    rows: Vec<Row>,
    /// What each row said last.
    said: Vec<String>,
    is_terminal: bool,
    /// Whether every line of the functions is shown.
    verbose: bool,
    /// Lines of the block on the screen.
    drawn: usize,
    is_paused: bool,
    paint: Paint,
}

impl View {
    /// A view of these functions; each with whether its queue has a dead-letter queue.
    pub(crate) fn new(functions: &[(String, bool)], verbose: bool) -> Self {
        let row = |(name, has_dead_letters): &(String, bool)| Row {
            name: name.clone(),
            has_dead_letters: *has_dead_letters,
            ..Row::default()
        };
        let rows: Vec<Row> = functions.iter().map(row).collect();
        // A block is moved up to by control sequences, which a dumb terminal does not know.
        let is_terminal = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let inner = Inner {
            said: vec![String::new(); rows.len()],
            rows,
            is_terminal,
            verbose,
            drawn: 0,
            is_paused: false,
            paint: Paint::for_stderr(),
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each section changes it as a whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears the events of the mapping in this row.
    pub(crate) fn observer(&self, row: usize) -> Observer {
        let view = self.clone();
        Arc::new(move |event| {
            let mut inner = view.lock();
            inner.rows[row].counts.add(event);
            if let Some(told) = told(&inner.rows[row].name, event, inner.is_terminal) {
                inner.print(&told);
            }
        })
    }

    /// Reads what the processes of the function in this row print.
    pub(crate) fn sink(&self, row: usize) -> LogSink {
        let view = self.clone();
        Arc::new(move |stream, line| {
            let mut inner = view.lock();
            let read = items::parse(line);
            if let LogLine::Item(item) = &read {
                inner.rows[row].add_outcome(&item.outcome);
            }
            let shown = match read {
                _ if inner.verbose => Some(line.to_owned()),
                // It is in the numbers, whatever its level is.
                LogLine::Item(_) | LogLine::Metrics => None,
                LogLine::Batch | LogLine::Other => news(stream, line),
            };
            if let Some(shown) = shown {
                let label = inner.paint.paint(Colour::Dim, &format!("{} │", inner.rows[row].name));
                inner.print(&format!("{label} {}", terminal::tame(&shown, LINE_CHARS)));
            }
        })
    }

    /// Tells the depths of a row's queues.
    pub(crate) fn set_depths(&self, row: usize, queue: Option<Depth>, dead_letters: Option<Depth>) {
        let mut inner = self.lock();
        (inner.rows[row].queue, inner.rows[row].dead_letters) = (queue, dead_letters);
    }

    /// Prints a line, above the block where there is one.
    pub(crate) fn print(&self, line: &str) {
        self.lock().print(line);
    }

    /// Shows what is new.
    pub(crate) fn show(&self) {
        let mut inner = self.lock();
        if inner.is_terminal {
            inner.erase();
            inner.draw();
        } else {
            inner.print_changes();
        }
    }

    /// Takes the block away, for others to write, or brings it back.
    pub(crate) fn set_paused(&self, is_paused: bool) {
        let mut inner = self.lock();
        inner.erase();
        inner.is_paused = is_paused;
        inner.draw();
    }

    /// The rows as they are now, for good.
    pub(crate) fn finish(&self) {
        let mut inner = self.lock();
        if inner.is_terminal {
            inner.erase();
            inner.is_paused = false;
            inner.draw();
            // What comes now comes below.
            (inner.drawn, inner.is_paused) = (0, true);
        } else {
            inner.print_changes();
        }
    }
}

impl Inner {
    fn print(&mut self, line: &str) {
        self.erase();
        terminal::line(line);
        self.draw();
    }

    fn print_changes(&mut self) {
        for (row, said) in self.rows.iter().zip(&mut self.said) {
            let line = row.line();
            if *said != line {
                terminal::line(&line);
                *said = line;
            }
        }
    }

    fn block(&self) -> Vec<String> {
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or_default();
        let mut lines = Vec::new();
        for row in &self.rows {
            let name = self.paint.paint(Colour::Cyan, &format!("{:width$}", row.name));
            lines.push(format!("{name}  {}", row.queues()));
            lines.push(format!("{:width$}  {}", "", row.outcomes()));
        }
        lines
    }

    fn draw(&mut self) {
        if !self.is_terminal || self.is_paused {
            return;
        }
        let block = self.block();
        self.drawn = block.len();
        // Without wrapping: a line that is too long for the terminal is still one line.
        let text: String = block.iter().map(|line| format!("{line}\n")).collect();
        let _ = write!(io::stderr().lock(), "\x1b[?7l{text}\x1b[?7h");
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            let _ = write!(io::stderr().lock(), "\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use microbatch_local::mapping::CallError;
    use microbatch_local::mapping::progress::{BatchReport, Outcome};

    use super::*;

    fn report(outcome: Outcome) -> MappingEvent {
        MappingEvent::BatchEnded(BatchReport {
            batch: 3,
            messages: 10,
            deleted: 9,
            left: 1,
            undeleted: 0,
            delete_error: None,
            elapsed_ms: 41,
            outcome,
        })
    }

    #[test]
    fn a_row_says_where_the_messages_are_and_what_became_of_them() {
        let mut row = Row { name: "orders".to_owned(), ..Row::default() };
        assert_eq!(row.line(), "orders: queue ? · in flight ? · batches 0 · errors 0");
        row.has_dead_letters = true;
        assert_eq!(row.line(), "orders: queue ? · in flight ? · dead letters ? · batches 0 · errors 0");
        row.queue = Some(Depth { waiting: 5, in_flight: 2 });
        row.dead_letters = Some(Depth { waiting: 1, in_flight: 1 });
        for outcome in ["Rejected", "Processed", "Novel", "Processed"] {
            row.add_outcome(outcome);
        }
        let expected = "orders: queue 5 · in flight 2 · dead letters 2 · batches 0 · errors 0 · Processed 2 · Rejected 1 · Novel 1";
        assert_eq!(row.line(), expected);
    }

    #[test]
    fn outcomes_that_a_function_invents_are_bounded_and_tame() {
        let mut row = Row::default();
        for number in 0..1_000 {
            row.add_outcome(&format!("\x1b{number}"));
        }
        assert_eq!(row.outcomes.len(), OUTCOMES_MAX);
        assert!(!row.outcomes().contains('\x1b'));
    }

    #[test]
    fn a_terminal_gets_lines_only_for_what_the_block_does_not_show() {
        let line = told("orders", &report(Outcome::Partial), false).expect("a line");
        assert_eq!(line, "orders: batch 3: 10 messages in 41 ms, 9 deleted, 1 kept: some messages failed");
        assert_eq!(told("orders", &report(Outcome::Partial), true), None);
        let broken = report(Outcome::NotStarted { reason: "no file".to_owned() });
        assert!(told("orders", &broken, true).expect("a line").ends_with(": no file"));
        let failed = MappingEvent::ReceiveFailed(CallError { call: "ReceiveMessage", reason: "gone".to_owned() });
        assert_eq!(
            told("orders", &failed, true).expect("a line"),
            "orders: ReceiveMessage failed: gone; it is tried again"
        );
        assert_eq!(told("orders", &MappingEvent::Received { messages: 1 }, false), None);
    }

    #[test]
    fn warnings_and_plain_errors_of_a_function_are_news() {
        for (line, expected) in [
            (r#"{"level":"INFO","message":"a"}"#, None),
            (r#"{"level":"WARN","message":"a"}"#, Some("WARN a")),
            (r#"{"level":"ERROR"}"#, Some(r#"ERROR {"level":"ERROR"}"#)),
            ("thread panicked", Some("thread panicked")),
            (" ", None),
        ] {
            assert_eq!(news(LogStream::Stderr, line).as_deref(), expected, "{line}");
        }
        assert_eq!(news(LogStream::Stdout, "some words"), None);
    }
}
