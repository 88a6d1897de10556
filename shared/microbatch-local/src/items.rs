//! What a function's log lines say of the items.
//!
//! With `MICROBATCH_ITEM_LOG=all` a function prints one JSON line an item under the target `microbatch::item`.

use serde::Deserialize;

/// The target of the lines that report an item.
const ITEM_TARGET: &str = "microbatch::item";
/// The target of the line that reports the batch.
const BATCH_TARGET: &str = "microbatch::batch";

/// What became of one item, as its log line reports it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ItemReport {
    /// The batch's id: the invocation's.
    #[serde(default)]
    pub batch_id: String,
    /// The message's place in the event, from 0.
    pub index: usize,
    /// The message id; empty if the line has none.
    #[serde(default)]
    pub message_id: String,
    /// Processed, Duplicate, Busy, Conflict, Failed, Rejected or Abandoned; kept as text, so that a newer function's
    /// outcome is shown and not lost.
    pub outcome: String,
    /// Whether the message is left out of `batchItemFailures`.
    #[serde(default)]
    pub acknowledged: bool,
    /// The fencing token of the claim, if there was one.
    #[serde(default)]
    pub attempt: Option<u64>,
    /// How many claims the key has had since it was last completed, this one included.
    #[serde(default)]
    pub tries: Option<u64>,
    /// How long the item took, in milliseconds.
    #[serde(default)]
    pub elapsed_ms: Option<u64>,
    /// Why: a static code, never text from the payload.
    #[serde(default)]
    pub code: Option<String>,
    /// The type of the processor's error, if it was one.
    #[serde(default)]
    pub error_type: Option<String>,
}

/// A function's log line, as far as this tool understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogLine {
    /// One item's report.
    Item(ItemReport),
    /// The batch's report.
    Batch,
    /// The batch's metrics, in CloudWatch's embedded metric format.
    Metrics,
    /// Anything else, from any library.
    Other,
}

/// Classifies one line of a function's output. A line that claims to be an item's but lacks its index or outcome is `Other`.
pub fn parse(line: &str) -> LogLine {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        target: Option<std::borrow::Cow<'a, str>>,
        #[serde(rename = "_aws")]
        metrics: Option<serde::de::IgnoredAny>,
    }
    // Most lines are not JSON objects or not ours: look before parsing.
    if !line.starts_with('{') || !(line.contains("microbatch::") || line.contains("\"_aws\"")) {
        return LogLine::Other;
    }
    let Ok(head) = serde_json::from_str::<Head<'_>>(line) else { return LogLine::Other };
    match head.target.as_deref() {
        _ if head.metrics.is_some() => LogLine::Metrics,
        Some(ITEM_TARGET) => serde_json::from_str(line).map_or(LogLine::Other, LogLine::Item),
        Some(BATCH_TARGET) => LogLine::Batch,
        _ => LogLine::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","target":"microbatch::item","message":"item",
        "batch_id":"b-1","index":3,"message_id":"m-3","outcome":"Rejected","acknowledged":false,"attempt":1763900000000,
        "tries":2,"elapsed_ms":5,"code":"unknown_currency","error_type":"orders::Refusal"}"#;

    #[test]
    fn an_item_line_is_read_whole() {
        let LogLine::Item(item) = parse(FULL) else { panic!("no item") };
        assert_eq!((item.index, item.message_id.as_str(), item.outcome.as_str()), (3, "m-3", "Rejected"));
        assert_eq!((item.attempt, item.tries, item.elapsed_ms), (Some(1_763_900_000_000), Some(2), Some(5)));
        assert_eq!(item.code.as_deref(), Some("unknown_currency"));
        assert_eq!(item.error_type.as_deref(), Some("orders::Refusal"));
        assert!(!item.acknowledged);
    }

    #[test]
    fn absent_and_unknown_fields_are_fine() {
        let line = r#"{"target":"microbatch::item","index":0,"outcome":"Busy","group":"g"}"#;
        let LogLine::Item(item) = parse(line) else { panic!("no item") };
        assert_eq!((item.attempt, item.tries, item.elapsed_ms, item.code), (None, None, None, None));
    }

    #[test]
    fn other_lines_are_no_items() {
        assert_eq!(parse(r#"{"target":"microbatch::batch","records":1}"#), LogLine::Batch);
        assert_eq!(parse(r#"{"_aws":{"Timestamp":1},"function":"f","level":"WARN"}"#), LogLine::Metrics);
        for line in [
            "",
            "text about microbatch::item",
            r#"{"target":"microbatch::item"}"#,
            r#"{"target":7,"x":"microbatch::"}"#,
            r#"{"x":"\"_aws\""}"#,
        ] {
            assert_eq!(parse(line), LogLine::Other, "{line}");
        }
    }
}
