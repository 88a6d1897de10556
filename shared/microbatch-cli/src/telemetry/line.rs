//! What one line of a log says of batches and items.
//!
//! A line is a metrics line of ours (`CloudWatch`'s embedded metric format), a log line of ours about a batch or an item, or
//! something else. Each may stand bare, behind a prefix (`aws logs tail --format short`, `cargo local up --verbose`), or in the
//! `message` of an event: of Lambda's JSON log format, of a subscription, of `aws logs filter-log-events` or of an export.
//! Lines come from anywhere: one whose numbers make no sense is unreadable as a whole.

use microbatch_aws::metrics::METRICS;
use microbatch_local::items::ItemReport;
use serde_json::{Map, Value};

use super::{as_f64, moment};

/// What every line of ours holds one of, also where it stands as text in another: a name or value begins with it.
const MARKERS: [&str; 2] = ["\"_aws", "\"microbatch::"];
const BATCH_TARGET: &str = "microbatch::batch";
const ITEM_TARGET: &str = "microbatch::item";
/// The largest value that is believed: 30,000 years in milliseconds, or a petabyte.
const VALUE_MAX: f64 = 1e15;
/// The largest count of one value that is believed.
const COUNT_MAX: f64 = 1e12;
/// Messages within messages: a subscription's event holds a line of Lambda's format, which holds ours.
const DEPTH_MAX: u32 = 4;
/// Members under which events wrap a line, and a list of such events.
const MESSAGES: [&str; 2] = ["message", "@message"];
const EVENTS: [&str; 2] = ["events", "logEvents"];

/// What was found in a line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Found {
    Record(Record),
    /// Not ours, with its bytes; 0 for what is no line of a log, but of an event printed over several lines.
    Other(u64),
    /// Ours by its looks, and not to be made sense of.
    Unreadable,
}

/// Where a record comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A metrics line: one or more batches.
    Metrics,
    /// The log line of a batch.
    Batch,
    /// The log line of an item.
    Item,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) at_ms: Option<u64>,
    /// Log lines do not say them.
    pub(crate) function: Option<String>,
    pub(crate) queue: Option<String>,
    /// Values of metrics, each with how often it was seen.
    pub(crate) metrics: Vec<(&'static str, Vec<(f64, u64)>)>,
    /// Bytes of the line itself, without what wraps it.
    pub(crate) bytes: u64,
}

/// Reads a line. Most hold one thing, a list of events many; an empty one holds nothing.
pub(crate) fn read(line: &[u8]) -> Vec<Found> {
    let Ok(text) = std::str::from_utf8(line) else {
        // The lines that we look for are ASCII as far as their names go.
        let is_marked = is_marked(&String::from_utf8_lossy(line));
        return vec![if is_marked { Found::Unreadable } else { Found::Other(line.len() as u64) }];
    };
    let mut found = Vec::new();
    read_text(text, 0, &mut found);
    found
}

fn is_marked(text: &str) -> bool {
    MARKERS.iter().any(|marker| text.contains(marker))
}

fn read_text(text: &str, depth: u32, found: &mut Vec<Found>) {
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    let other = Found::Other(if is_layout(text) { 0 } else { text.len() as u64 });
    if !is_marked(text) || depth > DEPTH_MAX {
        return found.push(other);
    }
    if let Some(message) = member_alone(text) {
        return read_text(&message, depth + 1, found);
    }
    let Some(start) = text.find('{') else { return found.push(other) };
    // Of a list in one line all elements count, and not only the first.
    let start = if text.starts_with('[') { 0 } else { start };
    let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => {
            let bytes = values.byte_offset() as u64;
            read_value(value, bytes, depth, found);
        }
        _ => found.push(Found::Unreadable),
    }
}

/// The text of a line that is one member of an event printed over several lines.
fn member_alone(text: &str) -> Option<String> {
    let after = MESSAGES.iter().find_map(|name| text.strip_prefix('"')?.strip_prefix(name)?.strip_prefix('"'))?;
    let value = after.trim_start().strip_prefix(':')?;
    serde_json::from_str(value.trim().trim_end_matches(',')).ok()
}

fn read_value(value: Value, bytes: u64, depth: u32, found: &mut Vec<Found>) {
    match value {
        Value::Array(values) if depth < DEPTH_MAX => {
            for value in values {
                read_value(value, 0, depth + 1, found);
            }
        }
        Value::Object(object) => read_object(object, bytes, depth, found),
        _ => found.push(Found::Other(bytes)),
    }
}

fn read_object(mut object: Map<String, Value>, bytes: u64, depth: u32, found: &mut Vec<Found>) {
    if object.get("_aws").is_some_and(Value::is_object) {
        return found.push(metrics(&object, bytes));
    }
    match object.get("target").and_then(Value::as_str) {
        Some(BATCH_TARGET) => return found.push(batch(&object, bytes)),
        Some(ITEM_TARGET) => return found.push(item(object, bytes)),
        _ => {}
    }
    if depth < DEPTH_MAX {
        for name in EVENTS {
            if let Some(events @ Value::Array(_)) = object.remove(name) {
                return read_value(events, 0, depth, found);
            }
        }
        for name in MESSAGES {
            match object.remove(name) {
                // The message of a log line of another library is no line: the whole counts.
                Some(Value::String(message)) if bytes == 0 || is_marked(&message) => {
                    return read_text(&message, depth + 1, found);
                }
                Some(message @ Value::Object(_)) => {
                    let bytes = message.to_string().len() as u64;
                    return read_value(message, bytes, depth + 1, found);
                }
                _ => {}
            }
        }
    }
    found.push(Found::Other(bytes));
}

/// Whether a line is a bracket, or the start of a member, of an event printed over several lines.
fn is_layout(text: &str) -> bool {
    let bare = text.trim_end_matches(',');
    let is_member = || {
        let name = text.strip_prefix('"').and_then(|text| text.split_once("\":"));
        name.is_some_and(|(name, _)| !name.contains(['"', '{']))
    };
    ["{", "}", "[", "]"].contains(&bare) || is_member()
}

/// A metrics line: ours if it has our dimensions and one of our metrics.
fn metrics(object: &Map<String, Value>, bytes: u64) -> Found {
    let text = |name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
    let (Some(function), Some(queue)) = (text("function"), text("queue")) else { return Found::Other(bytes) };
    let mut metrics = Vec::new();
    for metric in METRICS {
        let Some(value) = object.get(metric.name) else { continue };
        let Some(values) = weighted(value) else { return Found::Unreadable };
        metrics.push((metric.name, values));
    }
    if metrics.is_empty() {
        return Found::Other(bytes);
    }
    let at_ms = object["_aws"].get("Timestamp").and_then(Value::as_u64);
    Found::Record(Record { kind: Kind::Metrics, at_ms, function: Some(function), queue: Some(queue), metrics, bytes })
}

/// A metric's values: a number, a list of numbers, or values with their counts.
fn weighted(metric: &Value) -> Option<Vec<(f64, u64)>> {
    match metric {
        Value::Number(_) => Some(vec![(believed(metric)?, 1)]),
        Value::Array(values) => values.iter().map(|value| Some((believed(value)?, 1))).collect(),
        Value::Object(histogram) => {
            let values = histogram.get("Values")?.as_array()?;
            let Some(counts) = histogram.get("Counts") else { return weighted(histogram.get("Values")?) };
            let counts = counts.as_array().filter(|counts| counts.len() == values.len())?;
            values.iter().zip(counts).map(|(value, count)| Some((believed(value)?, times(count)?))).collect()
        }
        _ => None,
    }
}

fn believed(value: &Value) -> Option<f64> {
    value.as_f64().filter(|value| (0.0..=VALUE_MAX).contains(value))
}

/// A whole number that is not negative, as some libraries write it with a decimal point.
fn times(count: &Value) -> Option<u64> {
    let count = count.as_f64().filter(|count| (0.0..=COUNT_MAX).contains(count) && count.fract() == 0.0)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Some(count as u64)
}

/// The log line of a batch, as the metrics that it gives.
fn batch(object: &Map<String, Value>, bytes: u64) -> Found {
    const COUNTS: [(&str, &str); 7] = [
        ("Parked", "parked"),
        ("LostLeases", "lost_leases"),
        ("EffectsAfterLostLease", "effect_after_lost_lease"),
        ("CompletionsLost", "completions_lost"),
        ("ReleasesLost", "releases_lost"),
        ("ParksFailed", "parks_failed"),
        ("DelaysFailed", "delays_failed"),
    ];
    let count = |name: &str| object.get(name).and_then(Value::as_u64);
    let (records, elapsed_ms) = match (count("records"), count("elapsed_ms")) {
        (Some(records), Some(elapsed_ms)) => (records, elapsed_ms),
        // That it failed as a whole is another line of the same target.
        (None, None) if !object.contains_key("records") && !object.contains_key("elapsed_ms") => {
            return Found::Other(bytes);
        }
        _ => return Found::Unreadable,
    };
    let is_partial = count("reported").is_some_and(|reported| reported > 0 && reported < records);
    let mut metrics = vec![
        ("BatchSize", Some(records)),
        ("BatchLatency", Some(elapsed_ms)),
        ("PartialFailures", Some(u64::from(is_partial))),
        ("ConcurrencyLimit", count("concurrency_limit")),
        ("Items", Some(records)),
    ];
    metrics.extend(COUNTS.map(|(metric, name)| (metric, count(name))));
    log_record(Kind::Batch, object.get("timestamp"), bytes, &metrics)
}

/// The log line of an item, as the metrics that it gives.
fn item(object: Map<String, Value>, bytes: u64) -> Found {
    let age_ms = object.get("age_ms").and_then(Value::as_u64);
    let at = object.get("timestamp").cloned();
    let Ok(line) = serde_json::from_value::<ItemReport>(Value::Object(object)) else { return Found::Unreadable };
    let of = |outcome| (line.outcome == outcome).then_some(1);
    let metrics = [
        ("ItemsProcessed", of("Processed")),
        ("Duplicates", of("Duplicate")),
        ("ItemsBusy", of("Busy")),
        ("ItemsConflict", of("Conflict")),
        ("ItemsFailed", of("Failed")),
        ("ItemsRejected", of("Rejected")),
        ("ItemsAbandoned", of("Abandoned")),
        ("ItemLatency", line.elapsed_ms),
        ("ItemAge", age_ms),
    ];
    log_record(Kind::Item, at.as_ref(), bytes, &metrics)
}

fn log_record(kind: Kind, at: Option<&Value>, bytes: u64, metrics: &[(&'static str, Option<u64>)]) -> Found {
    let mut known = Vec::with_capacity(metrics.len());
    for (name, value) in metrics {
        let Some(value) = value.map(as_f64) else { continue };
        if value > VALUE_MAX {
            return Found::Unreadable;
        }
        known.push((*name, vec![(value, 1)]));
    }
    let at_ms = at.and_then(Value::as_str).and_then(moment::timestamp);
    Found::Record(Record { kind, at_ms, function: None, queue: None, metrics: known, bytes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn emf(metrics: &Value) -> Value {
        let mut line = json!({
            "_aws": {"Timestamp": 1_795_867_200_000_u64, "CloudWatchMetrics": []},
            "function": "orders", "queue": "orders-queue", "batch_id": "b",
        });
        let members = metrics.as_object().expect("an object").clone();
        line.as_object_mut().expect("an object").extend(members);
        line
    }

    fn good() -> Value {
        emf(
            &json!({"BatchSize": {"Values": [100], "Counts": [1]}, "ItemLatency": {"Values": [3, 5.5], "Counts": [60, 40]},
            "Items": 100, "ItemAge": [10, 20, 20]}),
        )
    }

    fn read_one(line: &str) -> Found {
        let mut found = read(line.as_bytes());
        assert_eq!(found.len(), 1, "{line}: {found:?}");
        found.remove(0)
    }

    fn record(line: &str) -> Record {
        match read_one(line) {
            Found::Record(record) => record,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_metrics_line_is_read_whole() {
        let text = good().to_string();
        let record = record(&text);
        assert_eq!(
            (record.kind, record.at_ms, record.bytes),
            (Kind::Metrics, Some(1_795_867_200_000), text.len() as u64)
        );
        assert_eq!((record.function.as_deref(), record.queue.as_deref()), (Some("orders"), Some("orders-queue")));
        let expected = [
            ("BatchSize", vec![(100.0, 1)]),
            ("Items", vec![(100.0, 1)]),
            ("ItemLatency", vec![(3.0, 60), (5.5, 40)]),
            ("ItemAge", vec![(10.0, 1), (20.0, 1), (20.0, 1)]),
        ];
        assert_eq!(record.metrics, expected);
    }

    #[test]
    fn what_wraps_a_line_changes_nothing() {
        let line = good().to_string();
        let bare = record(&line);
        let quoted = Value::String(line.clone()).to_string();
        for wrapped in [
            format!("  {line}\r"),
            format!("2026-11-28T12:00:00.000000+00:00 2026/11/28/[$LATEST]0f {line}"),
            format!("process-orders │ {line}"),
            format!("{line}\t1795867200000"),
            format!(r#"            "message": {quoted},"#),
            format!(r#"{{"timestamp":1795867200000,"message":{quoted}}}"#),
            format!(r#"{{"@timestamp":"2026-11-28 12:00:00.000","@message":{line}}}"#),
            format!(r#"{{"messageType":"DATA_MESSAGE","logEvents":[{{"id":"1","timestamp":1,"message":{quoted}}}]}}"#),
            json!([{"message": json!({"time": "now", "message": line}).to_string()}]).to_string(),
        ] {
            assert_eq!(record(&wrapped), bare, "{wrapped}");
        }
        let two = format!(r#"{{"events":[{{"message":{quoted}}},{{"message":"START"}},{{"message":{quoted}}}]}}"#);
        assert_eq!(read(two.as_bytes()), [Found::Record(bare.clone()), Found::Other(5), Found::Record(bare)]);
    }

    #[test]
    fn log_lines_give_the_metrics_they_know() {
        let batch = record(
            r#"{"timestamp":"2026-11-28T12:00:00Z","level":"INFO","target":"microbatch::batch","message":"batch","batch_id":"b",
            "records":5,"acknowledged":3,"reported":2,"parked":0,"elapsed_ms":29,"concurrency_limit":64}"#,
        );
        assert_eq!((batch.kind, batch.at_ms, batch.function), (Kind::Batch, Some(1_795_867_200_000), None));
        for expected in [("BatchSize", 5.0), ("Items", 5.0), ("BatchLatency", 29.0), ("PartialFailures", 1.0)] {
            assert!(batch.metrics.contains(&(expected.0, vec![(expected.1, 1)])), "{expected:?}");
        }
        let item = record(
            r#"{"timestamp":"2026-11-28T12:00:00Z","target":"microbatch::item","index":1,"outcome":"Failed","elapsed_ms":4,"age_ms":50}"#,
        );
        let expected = [("ItemsFailed", vec![(1.0, 1)]), ("ItemLatency", vec![(4.0, 1)]), ("ItemAge", vec![(50.0, 1)])];
        assert_eq!((item.kind, item.at_ms, item.metrics), (Kind::Item, Some(1_795_867_200_000), expected.to_vec()));
    }

    #[test]
    fn lines_of_others_are_not_ours() {
        assert!(read(b" \r").is_empty());
        for line in [
            "START RequestId: 1 Version: $LATEST",
            r#"{"level":"INFO","target":"orders","message":"about _aws and microbatch::item"}"#,
            r#"{"_aws":{"Timestamp":1},"function_name":"f","service":"s","ColdStart":1}"#,
            r#"{"_aws":{"Timestamp":1},"function":"f","queue":"q","Latency":1}"#,
            r#"{"target":"microbatch::store","message":"store error"}"#,
            "text about microbatch::batch",
            "microbatch_aws::lambda{batch=7 it is no JSON",
            &"[".repeat(10_000),
        ] {
            assert_eq!(read_one(line), Found::Other(line.len() as u64), "{line}");
        }
        assert_eq!(read(b"\xff\xfe"), [Found::Other(2)]);
        // They are not what the function logged.
        for line in ["{", "  },", r#"    "eventId": "1","#] {
            assert_eq!(read_one(line), Found::Other(0), "{line}");
        }
    }

    #[test]
    fn that_a_batch_failed_as_a_whole_is_another_line() {
        let line = r#"{"timestamp":"2026-11-28T23:42:37Z","level":"ERROR","target":"microbatch::batch","message":"batch failed","batch_id":"b"}"#;
        assert!(matches!(read_one(line), Found::Other(_)));
        let broken =
            r#"{"timestamp":"2026-11-28T23:42:37Z","target":"microbatch::batch","message":"batch","records":"7"}"#;
        assert_eq!(read_one(broken), Found::Unreadable);
    }

    #[test]
    fn hostile_lines_are_unreadable() {
        let with = |metric: Value| emf(&json!({"BatchSize": 3, "BatchLatency": metric})).to_string();
        let deep = format!(r#"{{"_aws":{}1"#, r#"{"a":"#.repeat(100_000));
        for line in [
            with(json!(-1)),
            with(json!(1e308)),
            with(json!("12")),
            with(Value::Null),
            with(json!({"Values": [1, 2], "Counts": [1]})),
            with(json!({"Values": [1], "Counts": [-1]})),
            with(json!({"Values": [1], "Counts": [1.5]})),
            with(json!({"Values": [1], "Counts": [1e13]})),
            with(json!({"Values": 1, "Counts": 1})),
            with(json!({"Counts": [1]})),
            with(json!({"Max": 3, "Min": 1, "Sum": 4, "SampleCount": 2})),
            with(json!([[1]])),
            with(json!(7)).replace('7', "NaN"),
            with(json!(7)).replace('7', "1e999"),
            good().to_string().trim_end_matches('}').to_owned(),
            good().to_string().split_inclusive("_aws").next().expect("a start").to_owned(),
            r#"{"target":"microbatch::batch","records":-5,"elapsed_ms":29}"#.to_owned(),
            r#"{"target":"microbatch::batch","records":5,"elapsed_ms":18446744073709551615}"#.to_owned(),
            r#"{"target":"microbatch::item","outcome":"Processed"}"#.to_owned(),
            deep,
        ] {
            let shown = &line[..line.len().min(200)];
            assert_eq!(read_one(&line), Found::Unreadable, "{shown}");
        }
        assert_eq!(read(b"{\"_aws\":\"\xff\"}"), [Found::Unreadable]);
        assert_eq!(read_one(r#"{"message":"{\"message\":\"{\\\"_aws\"}"}"#), Found::Unreadable);
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(text in ".{0,200}", marker in prop::sample::select(&MARKERS[..])) {
            read(text.as_bytes());
            read(format!("{text}{{{marker}\":{text}}}").as_bytes());
            read(format!(r#"{{"_aws":{{}},"function":"f","queue":"q","BatchSize":{text}}}"#).as_bytes());
        }

        #[test]
        fn a_line_that_is_cut_is_never_half_read(cut in 1_usize..120) {
            let line = good().to_string();
            let found = read_one(&line[..line.len().saturating_sub(cut)]);
            prop_assert!(!matches!(found, Found::Record(_)), "{:?}", found);
        }
    }
}
