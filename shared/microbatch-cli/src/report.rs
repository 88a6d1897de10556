//! The table of items and the summary, on standard error.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use microbatch_local::event::SqsEvent;
use microbatch_local::items::ItemReport;

use crate::terminal::{Colour, Paint, line, tame};

/// A batch of at most this many records is shown whole.
const WHOLE_TABLE_ROWS: usize = 50;
/// Of a larger batch, at most this many of the rows that are neither Processed nor Duplicate.
const ROWS_SHOWN: usize = 50;
const ID_CHARS: usize = 100;
const REASON_CHARS: usize = 60;

/// The codes of a processor that gave none: then the error's type says more.
const GENERIC_CODES: [&str; 2] = ["transient", "permanent"];
/// The code of an item for which the time-out was too short from the start.
const NO_TIME_LEFT: &str = "no_time_left";
const NO_TIME_LEFT_HINT: &str = "The function's time-out leaves no time to start an item: it should exceed \
                                 MICROBATCH_DEADLINE_MARGIN_MS plus MICROBATCH_SETTLE_MS, 500 ms each by default.";

/// The outcomes in the order of the summary; any other comes after them.
const OUTCOMES: [&str; 7] = ["Processed", "Duplicate", "Busy", "Conflict", "Failed", "Rejected", "Abandoned"];
const HEADINGS: [&str; 5] = ["message id", "outcome", "try", "ms", "reason"];

/// What is known of a run.
pub(crate) struct Report {
    message_ids: Vec<Option<String>>,
    items: Vec<ItemReport>,
    elapsed: Duration,
    peak_kib: Option<u64>,
    /// The response's ids, if there was a response.
    pub(crate) reported: Option<Vec<String>>,
    /// Lines of the function's log that were not shown.
    pub(crate) other_lines: usize,
}

struct Row {
    id: String,
    outcome: String,
    attempt: String,
    ms: String,
    reason: String,
}

impl Report {
    pub(crate) fn new(event: &SqsEvent, items: Vec<ItemReport>, elapsed: Duration, peak_kib: Option<u64>) -> Self {
        Self { message_ids: event.message_ids.clone(), items, elapsed, peak_kib, reported: None, other_lines: 0 }
    }

    /// Prints the table and the summary.
    pub(crate) fn print(&self) {
        let paint = Paint::for_stderr();
        for text in self.lines(paint) {
            line(&text);
        }
    }

    fn lines(&self, paint: Paint) -> Vec<String> {
        let rows = self.rows();
        let whole = rows.len() <= WHOLE_TABLE_ROWS;
        let is_shown = |row: &&Row| whole || !is_good(&row.outcome);
        let shown: Vec<&Row> = rows.iter().filter(is_shown).take(ROWS_SHOWN).collect();
        let mut lines = table(&shown, paint);
        let more = rows.len() - shown.len();
        if more > 0 {
            let bad = rows.iter().filter(is_shown).count() - shown.len();
            let text = match bad {
                _ if shown.is_empty() => format!("{more} items, all well"),
                0 => format!("and {more} more, all well"),
                bad if bad == more => format!("and {more} more like these"),
                bad => format!("and {more} more, {bad} of them like these"),
            };
            lines.push(paint.paint(Colour::Dim, &text));
        }
        if self.items.iter().any(|item| item.code.as_deref() == Some(NO_TIME_LEFT)) {
            lines.push(NO_TIME_LEFT_HINT.to_owned());
        }
        lines.push(self.summary(&rows));
        lines
    }

    /// A row for each record of the event: from its log line, else from the response, if there is either.
    fn rows(&self) -> Vec<Row> {
        let logged: HashMap<usize, &ItemReport> = self.items.iter().map(|item| (item.index, item)).collect();
        let mut rows = Vec::with_capacity(self.message_ids.len());
        let reported = self.reported_ids();
        for (index, id) in self.message_ids.iter().enumerate() {
            let is_reported = reported.contains(&id.as_deref());
            let id = id.as_deref().map_or_else(|| format!("(record {index}, no id)"), |id| tame(id, ID_CHARS));
            match logged.get(&index) {
                Some(item) => rows.push(logged_row(id, item)),
                None if self.reported.is_some() => rows.push(derived_row(id, is_reported)),
                None => {}
            }
        }
        rows
    }

    /// A record is reported if its id is: of two with one id, a response may name it once.
    fn reported_ids(&self) -> HashSet<Option<&str>> {
        self.reported.iter().flatten().map(|id| Some(id.as_str())).collect()
    }

    fn summary(&self, rows: &[Row]) -> String {
        let records = self.message_ids.len();
        let mut parts = vec![count(records, "record")];
        let outcomes = outcome_counts(rows);
        if !outcomes.is_empty() {
            parts[0] = format!("{}: {outcomes}", parts[0]);
        }
        if self.reported.is_some() {
            let ids = self.reported_ids();
            let reported = self.message_ids.iter().filter(|id| ids.contains(&id.as_deref())).count();
            parts.push(format!("{} acknowledged, {reported} reported", records - reported));
        }
        parts.push(format!("{} ms", self.elapsed.as_millis()));
        if let Some(kib) = self.peak_kib {
            // In tenths of a megabyte, without floating point.
            let tenths = kib * 1_024 / 100_000;
            parts.push(format!("peak {}.{} MB", tenths / 10, tenths % 10));
        }
        if self.other_lines > 0 {
            parts.push(format!("{} not shown (-v)", count(self.other_lines, "log line")));
        }
        parts.join("; ")
    }
}

fn logged_row(id: String, item: &ItemReport) -> Row {
    let number = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
    Row {
        id,
        outcome: tame(&item.outcome, REASON_CHARS),
        attempt: number(item.tries),
        ms: number(item.elapsed_ms),
        reason: reason(item),
    }
}

fn reason(item: &ItemReport) -> String {
    let code = item.code.as_deref().unwrap_or_default();
    match item.error_type.as_deref().filter(|_| GENERIC_CODES.contains(&code)) {
        Some(error_type) => tame(&format!("{code}: {}", without_paths(error_type)), REASON_CHARS),
        None => tame(code, REASON_CHARS),
    }
}

/// A long type without the modules that its parts are in; a short one as it is.
fn without_paths(error_type: &str) -> String {
    if error_type.len() <= REASON_CHARS / 2 {
        return error_type.to_owned();
    }
    let parts: Vec<&str> = error_type.split("::").collect();
    let last = parts.len() - 1;
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let kept = |(n, part): (usize, &&str)| if n < last { part.trim_end_matches(is_name) } else { part }.to_owned();
    parts.iter().enumerate().map(kept).collect()
}

/// A function that logs no items is known by its response alone.
fn derived_row(id: String, reported: bool) -> Row {
    let outcome = if reported { "reported" } else { "acknowledged" };
    Row { id, outcome: outcome.to_owned(), attempt: String::new(), ms: String::new(), reason: String::new() }
}

fn is_good(outcome: &str) -> bool {
    matches!(outcome, "Processed" | "Duplicate" | "acknowledged")
}

fn colour(outcome: &str) -> Colour {
    match outcome {
        "Processed" | "acknowledged" => Colour::Green,
        "Duplicate" => Colour::Cyan,
        "Busy" | "Abandoned" => Colour::Yellow,
        _ => Colour::Red,
    }
}

fn table(rows: &[&Row], paint: Paint) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let cells =
        |row: &Row| [&row.id, &row.outcome, &row.attempt, &row.ms, &row.reason].map(|cell| cell.chars().count());
    let mut widths = HEADINGS.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(cells(row)) {
            *width = (*width).max(cell);
        }
    }
    let [id, outcome, attempt, ms, _] = widths;
    let headings = HEADINGS;
    let heading = format!(
        "{:id$}  {:outcome$}  {:>attempt$}  {:>ms$}  {}",
        headings[0], headings[1], headings[2], headings[3], headings[4]
    );
    let mut lines = vec![paint.paint(Colour::Dim, &heading)];
    for row in rows {
        // Padded before it is painted: the codes have no width.
        let painted = paint.paint(colour(&row.outcome), &format!("{:outcome$}", row.outcome));
        let text = format!("{:id$}  {painted}  {:>attempt$}  {:>ms$}  {}", row.id, row.attempt, row.ms, row.reason);
        lines.push(text.trim_end().to_owned());
    }
    lines
}

fn outcome_counts(rows: &[Row]) -> String {
    let mut counts: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    for row in rows.iter().filter(|row| !matches!(row.outcome.as_str(), "acknowledged" | "reported")) {
        let place = OUTCOMES.iter().position(|outcome| *outcome == row.outcome).unwrap_or(OUTCOMES.len());
        *counts.entry((place, &row.outcome)).or_default() += 1;
    }
    let texts: Vec<String> = counts.iter().map(|((_, outcome), count)| format!("{count} {outcome}")).collect();
    texts.join(", ")
}

fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(records: usize) -> SqsEvent {
        SqsEvent { message_ids: (0..records).map(|n| Some(format!("m-{n}"))).collect() }
    }

    fn item(index: usize, outcome: &str) -> ItemReport {
        ItemReport {
            batch_id: String::new(),
            index,
            message_id: format!("m-{index}"),
            outcome: outcome.to_owned(),
            acknowledged: is_good(outcome),
            attempt: Some(1_763_900_000_000),
            tries: Some(2),
            elapsed_ms: Some(13),
            code: (!is_good(outcome)).then(|| "unknown_currency".to_owned()),
            error_type: None,
        }
    }

    fn lines(records: usize, items: Vec<ItemReport>, reported: Option<&[&str]>) -> Vec<String> {
        let mut report = Report::new(&event(records), items, Duration::from_millis(31), Some(17_000));
        report.reported = reported.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect());
        report.lines(Paint::never())
    }

    #[test]
    fn a_small_batch_is_shown_whole() {
        let lines = lines(2, vec![item(1, "Rejected"), item(0, "Processed")], Some(&["m-1"]));
        assert_eq!(
            lines,
            [
                "message id  outcome    try  ms  reason",
                "m-0         Processed    2  13",
                "m-1         Rejected     2  13  unknown_currency",
                "2 records: 1 Processed, 1 Rejected; 1 acknowledged, 1 reported; 31 ms; peak 17.4 MB",
            ]
        );
    }

    #[test]
    fn without_item_lines_the_response_speaks() {
        let lines = lines(2, Vec::new(), Some(&["m-0"]));
        assert_eq!(lines[1], "m-0         reported");
        assert_eq!(lines[2], "m-1         acknowledged");
        assert_eq!(lines[3], "2 records; 1 acknowledged, 1 reported; 31 ms; peak 17.4 MB");
    }

    #[test]
    fn a_code_that_says_little_comes_with_the_errors_type() {
        let of = |code: &str, error_type: &str| {
            let (code, error_type) = (Some(code.to_owned()), Some(error_type.to_owned()));
            reason(&ItemReport { code, error_type, ..item(0, "Failed") })
        };
        assert_eq!(of("transient", "std::io::error::Error"), "transient: std::io::error::Error");
        let sdk =
            "aws_smithy_runtime_api::client::result::SdkError<aws_sdk_dynamodb::operation::put_item::PutItemError>";
        assert_eq!(of("permanent", sdk), "permanent: SdkError<PutItemError>");
        assert_eq!(of("unknown_currency", "orders::Refusal"), "unknown_currency");
    }

    #[test]
    fn records_of_one_id_are_counted_each() {
        let event = SqsEvent { message_ids: ["a", "b", "a"].map(|id| Some(id.to_owned())).to_vec() };
        let mut report = Report::new(&event, Vec::new(), Duration::from_millis(31), None);
        report.reported = Some(vec!["a".to_owned()]);
        assert_eq!(report.lines(Paint::never())[3], "a           reported");
        assert_eq!(report.lines(Paint::never())[4], "3 records; 1 acknowledged, 2 reported; 31 ms");
    }

    #[test]
    fn a_time_out_that_is_too_short_is_explained() {
        let late = ItemReport { code: Some(NO_TIME_LEFT.to_owned()), ..item(0, "Abandoned") };
        let lines = lines(1, vec![late], Some(&["m-0"]));
        assert!(lines[2].contains("MICROBATCH_SETTLE_MS"), "{lines:?}");
    }

    #[test]
    fn of_a_big_batch_only_what_went_wrong_is_shown() {
        let mut items: Vec<ItemReport> = (0..1_000).map(|n| item(n, "Processed")).collect();
        items[700] = item(700, "Failed");
        let one = lines(1_000, items.clone(), Some(&["m-700"]));
        assert_eq!(one.len(), 4, "{one:?}");
        assert!(one[1].starts_with("m-700"));
        assert_eq!(one[2], "and 999 more, all well");

        for (index, item) in items.iter_mut().enumerate().take(80) {
            *item = self::item(index, "Failed");
        }
        let many = lines(1_000, items, Some(&[]));
        assert_eq!(many[ROWS_SHOWN + 1], "and 950 more, 31 of them like these");
        let none = lines(60, (0..60).map(|n| item(n, "Duplicate")).collect(), Some(&[]));
        assert_eq!(none[0], "60 items, all well");
    }

    #[test]
    fn without_a_response_only_what_was_logged_is_shown() {
        assert_eq!(lines(2, Vec::new(), None), ["2 records; 31 ms; peak 17.4 MB"]);
        assert_eq!(lines(2, vec![item(1, "Processed")], None)[1], "m-1         Processed    2  13");
    }

    #[test]
    fn ids_cannot_disturb_the_terminal() {
        let event = SqsEvent { message_ids: vec![Some("\u{1b}[2Jx".to_owned()), None] };
        let mut report = Report::new(&event, Vec::new(), Duration::ZERO, None);
        report.reported = Some(Vec::new());
        let lines = report.lines(Paint::never());
        assert!(lines[1].starts_with("?[2Jx") && lines[2].starts_with("(record 1, no id)"), "{lines:?}");
    }
}
