//! Is this JSON an SQS event? If not, what is it?
//!
//! The check is loose on purpose: a record without a message id or with unknown attributes is the function's to judge.
//! Only what cannot be an SQS event at all is refused, with a word on what was found: kinds and key names, never values.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// How many key names a message may show, and how long each.
const KEYS_SHOWN: usize = 6;
const KEY_CHARS_SHOWN: usize = 40;

/// An SQS event, as far as the tools need to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqsEvent {
    /// The message id of each record, in order; `None` where it is missing, empty or no string.
    pub message_ids: Vec<Option<String>>,
}

/// Why a text is no SQS event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventProblem {
    /// Not JSON.
    NotJson {
        /// The line of the first error, from 1.
        line: usize,
        /// The column of the first error, from 1; 0 at the end of a line.
        column: usize,
        /// Whether the text ends too early.
        truncated: bool,
    },
    /// JSON of another shape.
    NotSqs {
        /// What it is instead.
        found: String,
    },
    /// A record of another source.
    OtherSource {
        /// The record's place, from 0.
        index: usize,
        /// Its event source.
        source: String,
    },
}

impl fmt::Display for EventProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson { line: 1, column: 0, truncated: true } => {
                f.write_str("expected an SQS event in JSON; found nothing")
            }
            Self::NotJson { line, column, truncated } => {
                let what = if *truncated { "the text ends too early" } else { "it is not JSON" };
                write!(f, "expected an SQS event in JSON; {what} (line {line}, column {column})")
            }
            Self::NotSqs { found } => {
                write!(f, "expected an object with a `Records` array of SQS records; found {found}")
            }
            Self::OtherSource { index, source } => {
                write!(f, "expected records of the event source aws:sqs; record {index} is of {source}")
            }
        }
    }
}

impl std::error::Error for EventProblem {}

/// Checks that `json` is an SQS event and returns its message ids.
pub fn check(json: &[u8]) -> Result<SqsEvent, EventProblem> {
    let text = std::str::from_utf8(json).map_err(|error| not_utf8(json, error.valid_up_to()))?;
    let whole: &RawValue = serde_json::from_str(text).map_err(|error| EventProblem::NotJson {
        line: error.line(),
        column: error.column(),
        truncated: error.is_eof(),
    })?;
    let not_sqs = |found: String| EventProblem::NotSqs { found };
    let Ok(top) = serde_json::from_str::<BTreeMap<String, &RawValue>>(whole.get()) else {
        return Err(not_sqs(describe_non_object(whole)));
    };
    let Some(records) = top.get("Records") else {
        return Err(not_sqs(describe_object(&top)));
    };
    let Ok(records) = serde_json::from_str::<Vec<&RawValue>>(records.get()) else {
        return Err(not_sqs(format!("an object whose `Records` is {}", kind(records))));
    };
    let message_ids =
        records.iter().enumerate().map(|(index, record)| message_id(index, record)).collect::<Result<_, _>>()?;
    Ok(SqsEvent { message_ids })
}

fn message_id(index: usize, record: &RawValue) -> Result<Option<String>, EventProblem> {
    let Ok(record) = serde_json::from_str::<BTreeMap<String, &RawValue>>(record.get()) else {
        return Err(EventProblem::NotSqs { found: format!("{} as record {index}", kind(record)) });
    };
    let string = |name: &str| record.get(name).and_then(|value| serde_json::from_str::<String>(value.get()).ok());
    // SNS spells it with a capital.
    match string("eventSource").or_else(|| string("EventSource")) {
        Some(source) if source != "aws:sqs" => Err(EventProblem::OtherSource { index, source: shortened(&source) }),
        None if !record.contains_key("messageId") && !record.contains_key("body") => Err(EventProblem::NotSqs {
            found: format!("a record {index} that is no SQS message: {}", key_list(record.keys())),
        }),
        _ => Ok(string("messageId").filter(|id| !id.is_empty())),
    }
}

fn not_utf8(json: &[u8], valid_up_to: usize) -> EventProblem {
    let before = &json[..valid_up_to];
    let line = before.split(|&byte| byte == b'\n').count();
    let column = before.rsplit(|&byte| byte == b'\n').next().map_or(0, <[u8]>::len) + 1;
    EventProblem::NotJson { line, column, truncated: false }
}

fn describe_non_object(whole: &RawValue) -> String {
    let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(whole.get()) else {
        return kind(whole).to_owned();
    };
    let is_record = |element: &&RawValue| {
        serde_json::from_str::<Map<String, Value>>(element.get()).is_ok_and(|record| record.contains_key("messageId"))
    };
    if elements.first().is_some_and(is_record) {
        return "an array of records (wrap it: {\"Records\": [...]})".to_owned();
    }
    format!("an array of {} elements", elements.len())
}

/// Names the events that people hold most often when they should hold an SQS event.
fn describe_object(top: &BTreeMap<String, &RawValue>) -> String {
    let has = |name: &str| top.contains_key(name);
    let known = if has("detail-type") {
        "an EventBridge event"
    } else if has("Messages") {
        "the output of ReceiveMessage, whose `Messages` are spelt otherwise"
    } else if has("requestContext") || has("httpMethod") {
        "an HTTP request event (API Gateway, function URL or load balancer)"
    } else if has("TopicArn") {
        "an SNS notification"
    } else if has("awslogs") {
        "a CloudWatch Logs event"
    } else if has("messageId") && has("body") {
        "a single SQS record (wrap it: {\"Records\": [...]})"
    } else if has("batchItemFailures") {
        "a batch response"
    } else if has("records") {
        "an object with `records` in small letters (Firehose, Kafka, or a spelling mistake)"
    } else {
        return format!("an object with {}", key_list(top.keys()));
    };
    known.to_owned()
}

fn key_list<'a>(keys: impl ExactSizeIterator<Item = &'a String>) -> String {
    let count = keys.len();
    if count == 0 {
        return "no keys".to_owned();
    }
    let shown: Vec<String> = keys.take(KEYS_SHOWN).map(|key| shortened(key)).collect();
    let more = if count > KEYS_SHOWN { format!(" and {} more", count - KEYS_SHOWN) } else { String::new() };
    format!("keys: {}{more}", shown.join(", "))
}

/// Cuts a name and drops control characters, so that an odd file cannot disturb the terminal.
pub(crate) fn shortened(name: &str) -> String {
    let mut short: String = name.chars().filter(|c| !c.is_control()).take(KEY_CHARS_SHOWN).collect();
    if name.chars().count() > KEY_CHARS_SHOWN {
        short.push('…');
    }
    short
}

/// What kind of JSON value this is, with its article.
pub(crate) fn kind(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> String {
        check(json.as_bytes()).expect_err(json).to_string()
    }

    #[test]
    fn an_sqs_event_gives_its_message_ids() {
        let json = r#"{"Records":[
            {"messageId":"a","body":"{}","eventSource":"aws:sqs","new":[1]},
            {"messageId":"","body":"{}","eventSource":"aws:sqs"},
            {"messageId":7,"body":"{}"},
            {"body":"x"}]}"#;
        let event = check(json.as_bytes()).expect("an event");
        assert_eq!(event.message_ids, [Some("a".to_owned()), None, None, None]);
        assert!(check(br#"{"Records":[]}"#).expect("an event").message_ids.is_empty());
    }

    #[test]
    fn what_was_found_is_named() {
        for (json, words) in [
            ("", "found nothing"),
            ("{\"Records\": [", "ends too early"),
            ("order 7", "not JSON (line 1"),
            ("{} {}", "not JSON"),
            // A function would be sent it as it is.
            ("\u{feff}{\"Records\":[]}", "not JSON (line 1"),
            ("\"x\"", "found a string"),
            ("null", "found null"),
            ("3", "found a number"),
            ("[1,2]", "an array of 2 elements"),
            (r#"[{"messageId":"a"}]"#, "array of records (wrap it"),
            (r#"{"messageId":"a","body":""}"#, "single SQS record"),
            (r#"{"detail-type":"x","source":"y"}"#, "EventBridge"),
            (r#"{"Messages":[]}"#, "ReceiveMessage"),
            (r#"{"requestContext":{}}"#, "HTTP request"),
            (r#"{"Records":{}}"#, "whose `Records` is an object"),
            (r#"{"Records":["x"]}"#, "a string as record 0"),
            (r#"{"Records":[{"EventSource":"aws:sns","Sns":{}}]}"#, "record 0 is of aws:sns"),
            (
                r#"{"Records":[{"body":"","eventSource":"aws:sqs"},{"eventSource":"aws:s3","s3":{}}]}"#,
                "record 1 is of aws:s3",
            ),
            (r#"{"Records":[{"x":1}]}"#, "a record 0 that is no SQS message: keys: x"),
            (r#"{"a":1,"b":2}"#, "an object with keys: a, b"),
            ("{}", "an object with no keys"),
        ] {
            assert!(problem(json).contains(words), "{json}: {}", problem(json));
        }
    }

    #[test]
    fn values_and_long_names_are_not_shown() {
        let many: Map<String, Value> = (0..9).map(|n| (format!("k{n}{}", "x".repeat(99)), "secret".into())).collect();
        let text = problem(&Value::from(many).to_string());
        assert!(!text.contains("secret") && text.contains("and 3 more") && text.len() < 500, "{text}");
    }

    #[test]
    fn bytes_that_are_no_text_are_placed() {
        let problem = check(b"{\n \xff").expect_err("no text");
        assert_eq!(problem, EventProblem::NotJson { line: 2, column: 2, truncated: false });
    }
}
