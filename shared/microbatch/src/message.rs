//! SQS records as they come over the wire: split without decoding bodies, each parsed by itself, tolerantly.
//!
//! A whole-event type fails the whole event over one non-string attribute or one piece of bad base64, before any code
//! of ours runs, and every message of the batch is redelivered. Here only what cannot be answered at all fails the
//! event: text that is no SQS event, or a record without the id by which a response would name it.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::marks::{before_backslash, copy_before_backslash};

/// Why an event as a whole cannot be worked on. The invocation fails, deliberately, before any item starts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventError {
    /// The text is no JSON object with an array of `Records`.
    NotAnSqsEvent {
        /// What it is instead: a type or a missing field, never a value.
        found: &'static str,
    },
    /// A record has no message id, or an empty one. It cannot be named in a response: an empty id there means that the
    /// whole batch failed, and leaving it out would delete it.
    MissingMessageId {
        /// Position of the record, from 0.
        index: usize,
    },
}

impl EventError {
    /// The error's name, for logs and for the Runtime API.
    pub fn name(&self) -> &'static str {
        match self {
            EventError::NotAnSqsEvent { .. } => "NotAnSqsEvent",
            EventError::MissingMessageId { .. } => "MissingMessageId",
        }
    }
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventError::NotAnSqsEvent { found } => {
                write!(f, "expected an SQS event, a JSON object with an array of Records; found {found}")
            }
            EventError::MissingMessageId { index } => write!(
                f,
                "record {index} has no messageId: a response cannot name it, so the whole batch is failed and redelivered; \
                 no item was started"
            ),
        }
    }
}

impl std::error::Error for EventError {}

/// One SQS record, borrowed from the event's text. Its body is decoded only when its turn comes.
#[derive(Clone)]
pub struct Message<'e> {
    /// The queue's id of the message; never empty.
    pub id: Cow<'e, str>,
    /// The body as JSON text, quotes and escapes included; none when it is missing.
    pub body: Option<&'e RawValue>,
    /// How often the message was delivered, this time included; 1 when the queue did not say.
    pub receive_count: u32,
    /// When it was sent, in epoch milliseconds.
    pub sent_ms: Option<u64>,
    /// The message group: an ordered group on a FIFO queue, a tenant on a fair one.
    pub group: Option<Cow<'e, str>>,
    /// The sender's trace.
    pub trace_header: Option<Cow<'e, str>>,
    /// The queue's ARN. One that ends in `.fifo` keeps order.
    pub source_arn: Option<Cow<'e, str>>,
    /// What names this receipt to the queue, to change the visibility of the message.
    pub receipt_handle: Option<Cow<'e, str>>,
    /// The sender's `messageAttributes` as JSON text, of any type; read only when one of them is asked for.
    pub message_attributes: Option<&'e RawValue>,
    /// What the queue deduplicates by: the sender's id, or a digest of the body. FIFO queues only.
    pub deduplication_id: Option<Cow<'e, str>>,
    /// When it was first received, in epoch milliseconds.
    pub first_received_ms: Option<u64>,
}

/// Splits an event into its messages.
///
/// # Errors
/// [`EventError`], when there is no way to answer for each record.
pub fn split_event(event: &str) -> Result<Vec<Message<'_>>, EventError> {
    let records = serde_json::from_str::<RawEvent<'_>>(event)
        .map_err(|error| EventError::NotAnSqsEvent { found: describe_failure(event, &error) })?
        .records
        .ok_or(EventError::NotAnSqsEvent { found: "an object without Records" })?;
    records
        .into_iter()
        .enumerate()
        .map(|(index, Record(message))| message.ok_or(EventError::MissingMessageId { index }))
        .collect()
}

#[derive(Deserialize)]
struct RawEvent<'e> {
    #[serde(borrow, rename = "Records")]
    records: Option<Vec<Record<'e>>>,
}

/// A record; none when it has no usable message id.
struct Record<'e>(Option<Message<'e>>);

impl<'de: 'e, 'e> Deserialize<'de> for Record<'e> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // At once, so that the event is read through no more often than it must be.
        RawRecord::deserialize(deserializer).map(|fields| Self(Message::from_fields(&fields)))
    }
}

fn describe_failure(event: &str, error: &serde_json::Error) -> &'static str {
    if !error.is_data() {
        return "text that is no JSON";
    }
    match json_kind(event) {
        "an object" => "Records that are no array",
        other => other,
    }
}

/// What a JSON text is: for errors, which say what was found without showing it (P13).
pub(crate) fn json_kind(text: &str) -> &'static str {
    match text.trim_start().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b'n') => "null",
        _ => "a number or a boolean",
    }
}

impl<'e> Message<'e> {
    /// Whether its queue keeps order. A group alone does not say so: fair queues have groups too.
    pub fn is_from_fifo_queue(&self) -> bool {
        self.source_arn.as_deref().is_some_and(|arn| arn.as_bytes().ends_with(b".fifo"))
    }

    /// The message of a record; none when that has no usable message id.
    fn from_fields(fields: &RawRecord<'e>) -> Option<Self> {
        let attributes = fields.attributes.and_then(|raw| RawAttributes::deserialize(raw).ok()).unwrap_or_default();
        Some(Self {
            id: text(fields.message_id).filter(|id| !id.is_empty())?,
            body: fields.body,
            receive_count: number(attributes.receive_count).and_then(|count| u32::try_from(count).ok()).unwrap_or(1),
            sent_ms: number(attributes.sent_timestamp),
            group: text(attributes.message_group_id),
            trace_header: text(attributes.trace_header),
            source_arn: text(fields.event_source_arn),
            receipt_handle: text(fields.receipt_handle),
            message_attributes: fields.message_attributes,
            deduplication_id: text(attributes.deduplication_id),
            first_received_ms: number(attributes.first_received),
        })
    }
}

impl fmt::Debug for Message<'_> {
    // Bodies, attributes, groups and traces are the sender's text, receipt handles are capabilities, and debug output
    // ends in logs (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("receive_count", &self.receive_count)
            .finish_non_exhaustive()
    }
}

/// A string field, or none when it is missing or of another type.
fn text(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
    decode_str(raw?.get())
}

/// Decodes a JSON string, borrowing when it has no escapes; none when the text is no valid string.
pub(crate) fn decode_str(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    let plain = before_backslash(inner.as_bytes());
    if plain == inner.len() { Some(Cow::Borrowed(inner)) } else { unescape(inner, plain).map(Cow::Owned) }
}

/// The text that a JSON string with escapes stands for, `inner` being what is between its quotes, of which the first `plain` bytes
/// have none; none when it is no valid string.
///
/// `serde_json` would do it in a buffer that grows from nothing, and copy that: for bodies, which are JSON within JSON, seven
/// allocations each, where one is enough.
fn unescape(inner: &str, plain: usize) -> Option<String> {
    let bytes = inner.as_bytes();
    // No escape is shorter than what it stands for.
    let mut text = vec![0; bytes.len()];
    text[..plain].copy_from_slice(&bytes[..plain]);
    let (mut read, mut written) = (plain, plain);
    // As JSON that was parsed, it has no quote and no control character of its own.
    while read < bytes.len() {
        let escaped = read + 1;
        let same = *bytes.get(escaped)?;
        if let b'"' | b'\\' | b'/' = same {
            // Nearly all are these.
            text[written] = same;
            (read, written) = (escaped + 1, written + 1);
        } else {
            let (character, length) = unescape_other(&inner[escaped..])?;
            written += character.encode_utf8(&mut text[written..]).len();
            read = escaped + length;
        }
        let copied = copy_before_backslash(&bytes[read..], &mut text[written..]);
        (read, written) = (read + copied, written + copied);
    }
    text.truncate(written);
    String::from_utf8(text).ok()
}

/// The character that an escape stands for, `escaped` being what is behind its backslash, and how many bytes of it that takes;
/// none when there is no such escape.
fn unescape_other(escaped: &str) -> Option<(char, usize)> {
    let character = match *escaped.as_bytes().first()? {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unescape_unicode(&escaped[1..]),
        _ => return None,
    };
    Some((character, 1))
}

/// The character that `XXXX` stands for, or `XXXX\uXXXX` as a surrogate pair, and how many bytes of the escape that is with its `u`;
/// none for half a pair.
fn unescape_unicode(digits: &str) -> Option<(char, usize)> {
    let unit = |digits: &str| {
        let digits = digits.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(digits)?;
    if let Some(character) = char::from_u32(first.into()) {
        return Some((character, 5));
    }
    let second = digits.get(4..)?.strip_prefix("\\u").and_then(unit)?;
    let character = char::decode_utf16([first, second]).next()?.ok()?;
    Some((character, 11))
}

/// A number that SQS sends as a string (`"ApproximateReceiveCount": "2"`); a bare number is taken too.
fn number(raw: Option<&RawValue>) -> Option<u64> {
    let raw = raw?.get();
    raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')).unwrap_or(raw).parse().ok()
}

/// Declares a struct of raw fields that takes any JSON: unknown fields are skipped, of repeated ones the last counts (serde's
/// derived structs refuse those), and what is no object has none.
macro_rules! raw_fields {
    ($name:ident { $($field:ident = $json:literal),+ $(,)? }) => {
        #[derive(Default)]
        struct $name<'e> {
            $($field: Option<&'e RawValue>,)+
        }

        impl<'de> Deserialize<'de> for $name<'de> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;

                impl<'de> Visitor<'de> for Fields {
                    type Value = $name<'de>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("any JSON")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        let mut fields = $name::default();
                        // As it stands: a name that cannot be decoded is one that is not known.
                        while let Some(name) = map.next_key::<&RawValue>()? {
                            let field = match name.get() {
                                // Nobody has cause to write a known name with escapes: it need not be decoded first.
                                $(concat!('"', $json, '"') => Some(&mut fields.$field),)+
                                name => match decode_str(name).as_deref() {
                                    $(Some($json) => Some(&mut fields.$field),)+
                                    _ => None,
                                },
                            };
                            match field {
                                Some(field) => *field = Some(map.next_value()?),
                                None => drop(map.next_value::<IgnoredAny>()?),
                            }
                        }
                        Ok(fields)
                    }

                    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
                        while elements.next_element::<IgnoredAny>()?.is_some() {}
                        Ok($name::default())
                    }

                    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                        Ok($name::default())
                    }

                    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                        Ok($name::default())
                    }

                    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                        Ok($name::default())
                    }

                    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                        Ok($name::default())
                    }

                    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                        Ok($name::default())
                    }

                    fn visit_unit<E>(self) -> Result<Self::Value, E> {
                        Ok($name::default())
                    }
                }

                deserializer.deserialize_any(Fields)
            }
        }
    };
}

raw_fields!(RawRecord {
    message_id = "messageId",
    body = "body",
    attributes = "attributes",
    event_source_arn = "eventSourceARN",
    receipt_handle = "receiptHandle",
    message_attributes = "messageAttributes",
});

raw_fields!(RawAttributes {
    receive_count = "ApproximateReceiveCount",
    sent_timestamp = "SentTimestamp",
    message_group_id = "MessageGroupId",
    trace_header = "AWSTraceHeader",
    deduplication_id = "MessageDeduplicationId",
    first_received = "ApproximateFirstReceiveTimestamp",
});

/// A string that borrows when it can; serde's own `Cow<str>` always copies.
#[derive(Deserialize)]
pub(crate) struct CowStr<'e>(#[serde(borrow)] pub(crate) Cow<'e, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_taken_whatever_its_other_fields_are() {
        let event = r#"{"Records":[{"messageId":"a","body":"{}","attributes":{"ApproximateReceiveCount":3,"x":null,
            "SentTimestamp":"17","MessageGroupId":["no"]},"messageAttributes":{"b":{"binaryValue":"!!","dataType":"Binary"}},
            "awsRegion":7},{"messageId":"b","attributes":"none"}],"more":1}"#;
        let messages = split_event(event).expect("both can be named");
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].receive_count, messages[0].sent_ms), (3, Some(17)));
        assert_eq!(messages[0].group, None);
        assert!(messages[0].message_attributes.is_some());
        assert_eq!(messages[1].receive_count, 1);
        assert!(messages[1].body.is_none());
    }

    #[test]
    fn what_the_queue_adds_is_read() {
        let event = r#"{"Records":[{"messageId":"a","receiptHandle":"AQEB+/","attributes":{"MessageDeduplicationId":"d",
            "ApproximateFirstReceiveTimestamp":"19"},"messageAttributes":{"x":{"stringValue":"1"}}},
            {"messageId":"b","receiptHandle":7,"attributes":{"MessageDeduplicationId":null,
            "ApproximateFirstReceiveTimestamp":"-1"},"messageAttributes":[]}]}"#;
        let messages = split_event(event).expect("both can be named");
        let of = |index: usize| {
            let message: &Message<'_> = &messages[index];
            (message.receipt_handle.as_deref(), message.deduplication_id.as_deref(), message.first_received_ms)
        };
        assert_eq!(of(0), (Some("AQEB+/"), Some("d"), Some(19)));
        assert_eq!(messages[0].message_attributes.map(RawValue::get), Some(r#"{"x":{"stringValue":"1"}}"#));
        assert_eq!(of(1), (None, None, None));
        assert_eq!(messages[1].message_attributes.map(RawValue::get), Some("[]"), "judged by who reads it");
    }

    #[test]
    fn an_escaped_string_is_what_serde_makes_of_it() {
        for raw in [
            r#""\"\\\/\b\f\n\r\t\u0041\u00e9\u20ac\uD83D\ude00""#,
            r#""a\"""#,
            r#""\\""#,
            r#""\u0000x\u001f""#,
            "\"\u{e9}\\n\u{1f600}\\\"\"",
            r#""\ud800""#,
            r#""\udc00\ud800""#,
            r#""\ud800\u0041""#,
            r#""\ud800x""#,
            r#""\u12""#,
            r#""\u+123""#,
            r#""\x""#,
            r#""a\""#,
        ] {
            let expected = serde_json::from_str::<String>(raw).ok();
            assert_eq!(decode_str(raw).as_deref(), expected.as_deref(), "{raw}");
        }
    }

    #[test]
    fn of_a_repeated_field_the_last_counts() {
        let messages = split_event(r#"{"Records":[{"messageId":"a","messageId":"b"}]}"#).expect("named");
        assert_eq!(messages[0].id, "b");
    }

    #[test]
    fn a_record_that_cannot_be_named_fails_the_event() {
        for record in [r"{}", r#"{"messageId":""}"#, r#"{"messageId":7}"#, "null", "[]", r#"{"messageId":"\ud800"}"#] {
            let event = format!(r#"{{"Records":[{{"messageId":"a"}},{record}]}}"#);
            assert_eq!(split_event(&event).err(), Some(EventError::MissingMessageId { index: 1 }), "{record}");
        }
    }

    #[test]
    fn what_is_no_event_is_named() {
        for (event, found) in [
            ("[]", "an array"),
            ("\"x\"", "a string"),
            ("{}", "an object without Records"),
            ("{\"Records\":{}}", "Records that are no array"),
            ("{", "text that is no JSON"),
            ("null", "null"),
            ("3", "a number or a boolean"),
        ] {
            assert_eq!(split_event(event).err(), Some(EventError::NotAnSqsEvent { found }), "{event}");
        }
    }

    #[test]
    fn debug_output_shows_no_payload() {
        let messages = split_event(
            r#"{"Records":[{"messageId":"a","body":"4111","receiptHandle":"4111","messageAttributes":{"4111":"4111"},
            "attributes":{"MessageDeduplicationId":"4111","MessageGroupId":"4111","AWSTraceHeader":"4111"}}]}"#,
        )
        .expect("named");
        assert!(!format!("{messages:?}").contains("4111"));
    }
}
