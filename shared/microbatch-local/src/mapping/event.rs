//! The event that Lambda makes of what `ReceiveMessage` gives.
//!
//! The fields and their order are those of "Using Lambda with Amazon SQS" in AWS's Lambda guide: attributes are strings, names
//! are camelCase, and a binary value is Base64 text.

use std::collections::BTreeMap;
use std::fmt;

use aws_sdk_sqs::types::{Message, MessageAttributeValue};
use aws_smithy_types::base64;
use axum::body::Bytes;
use serde::Serialize;

/// Begins and ends an event; between them stand the records, with a comma between each two.
const ENVELOPE: (&str, &str) = ("{\"Records\":[", "]}");

/// The bytes of an event beside its records and their commas.
pub const ENVELOPE_BYTES: usize = ENVELOPE.0.len() + ENVELOPE.1.len();

/// The queue that messages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSource {
    arn: String,
}

impl EventSource {
    /// The queue with this ARN.
    pub fn new(arn: impl Into<String>) -> Self {
        Self { arn: arn.into() }
    }

    /// The queue's ARN.
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// Whether the queue keeps order: told by its name, as AWS does.
    pub fn is_fifo(&self) -> bool {
        self.arn.strip_suffix(".fifo").is_some()
    }

    /// The region in the ARN, `arn:aws:sqs:REGION:ACCOUNT:NAME`; empty where there is none.
    fn region(&self) -> &str {
        self.arn.split(':').nth(3).unwrap_or_default()
    }
}

/// A message that was received, as its record in an event.
#[derive(Clone, PartialEq, Eq)]
pub struct Received {
    /// Names the message.
    pub message_id: String,
    /// Names this receive of it.
    pub receipt_handle: String,
    /// The message group, where it has one: on a FIFO queue what is kept in order.
    pub group: Option<String>,
    record: String,
}

/// What a message lacks that every message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incomplete {
    /// The field's name in `ReceiveMessage`.
    pub field: &'static str,
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiveMessage gave a message without {}; is the endpoint an SQS API?", self.field)
    }
}

impl std::error::Error for Incomplete {}

impl Received {
    /// Takes a message over from the SDK.
    ///
    /// # Errors
    /// When it has no id, no receipt handle or no body: it could not be deleted, or not be told of in a response.
    pub fn new(message: &Message, source: &EventSource) -> Result<Self, Incomplete> {
        let present = |field, value: Option<&str>| match value {
            Some(value) => Ok(value.to_owned()),
            None => Err(Incomplete { field }),
        };
        let message_id = present("MessageId", message.message_id().filter(|id| !id.is_empty()))?;
        let receipt_handle = present("ReceiptHandle", message.receipt_handle().filter(|handle| !handle.is_empty()))?;
        let body = present("Body", message.body())?;
        let attributes: BTreeMap<&str, &str> =
            message.attributes().into_iter().flatten().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let group = attributes.get("MessageGroupId").map(|group| (*group).to_owned());
        let sent = message.message_attributes().into_iter().flatten();
        let record = Record {
            message_id: &message_id,
            receipt_handle: &receipt_handle,
            body: &body,
            attributes,
            message_attributes: sent.map(|(name, value)| (name.as_str(), Attribute::new(value))).collect(),
            md5_of_body: message.md5_of_body(),
            md5_of_message_attributes: message.md5_of_message_attributes(),
            event_source: "aws:sqs",
            event_source_arn: &source.arn,
            aws_region: source.region(),
        };
        let record = serde_json::to_string(&record).expect("strings and maps of strings are always JSON");
        Ok(Self { message_id, receipt_handle, group, record })
    }

    /// The bytes that the message adds to an event, without a comma.
    pub fn record_bytes(&self) -> usize {
        self.record.len()
    }
}

/// Without the record, which holds the body.
impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("message_id", &self.message_id)
            .field("group", &self.group)
            .field("record_bytes", &self.record.len())
            .finish_non_exhaustive()
    }
}

/// The bytes of an event with these many records, whose bytes add up to `record_bytes`.
pub fn event_bytes(records: usize, record_bytes: usize) -> usize {
    ENVELOPE_BYTES + record_bytes + records.saturating_sub(1)
}

/// The event of these messages, in their order.
pub fn event(messages: &[Received]) -> Bytes {
    let record_bytes: usize = messages.iter().map(Received::record_bytes).sum();
    let mut json = String::with_capacity(event_bytes(messages.len(), record_bytes));
    json.push_str(ENVELOPE.0);
    for (index, message) in messages.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        json.push_str(&message.record);
    }
    json.push_str(ENVELOPE.1);
    json.into()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    message_id: &'a str,
    receipt_handle: &'a str,
    body: &'a str,
    attributes: BTreeMap<&'a str, &'a str>,
    message_attributes: BTreeMap<&'a str, Attribute<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    md5_of_body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    md5_of_message_attributes: Option<&'a str>,
    event_source: &'a str,
    #[serde(rename = "eventSourceARN")]
    event_source_arn: &'a str,
    aws_region: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Attribute<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    string_value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    binary_value: Option<String>,
    string_list_values: &'a [String],
    binary_list_values: Vec<String>,
    data_type: &'a str,
}

impl<'a> Attribute<'a> {
    fn new(value: &'a MessageAttributeValue) -> Self {
        let lists = value.binary_list_values().iter();
        Self {
            string_value: value.string_value(),
            binary_value: value.binary_value().map(base64::encode),
            string_list_values: value.string_list_values(),
            binary_list_values: lists.map(base64::encode).collect(),
            data_type: value.data_type(),
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::primitives::Blob;
    use aws_sdk_sqs::types::MessageSystemAttributeName as Name;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const ARN: &str = "arn:aws:sqs:eu-central-1:123456789012:orders.fifo";

    fn message(body: &str) -> Message {
        let builder = Message::builder().message_id("id-1").receipt_handle("AQEB+/=").md5_of_body("d41d");
        builder.body(body).attributes(Name::ApproximateReceiveCount, "2").attributes(Name::MessageGroupId, "g").build()
    }

    fn received(message: &Message) -> Received {
        Received::new(message, &EventSource::new(ARN)).expect("a whole message")
    }

    #[test]
    fn a_record_is_lambdas_with_its_fields_in_order() {
        let value = |data_type: &str| MessageAttributeValue::builder().data_type(data_type);
        let mut message = message("{\"a\": \"b\"}");
        message.md5_of_message_attributes = Some("900".to_owned());
        message.message_attributes = Some(
            [
                ("blob", value("Binary.png").binary_value(Blob::new([0, 255, 16])).build()),
                ("text", value("String").string_value("\"x\"").build()),
            ]
            .map(|(name, value)| (name.to_owned(), value.expect("a type is set")))
            .into(),
        );
        let event = event(&[received(&message)]);
        let expected = concat!(
            r#"{"Records":[{"messageId":"id-1","receiptHandle":"AQEB+/=","body":"{\"a\": \"b\"}","#,
            r#""attributes":{"ApproximateReceiveCount":"2","MessageGroupId":"g"},"messageAttributes":{"#,
            r#""blob":{"binaryValue":"AP8Q","stringListValues":[],"binaryListValues":[],"dataType":"Binary.png"},"#,
            r#""text":{"stringValue":"\"x\"","stringListValues":[],"binaryListValues":[],"dataType":"String"}},"#,
            r#""md5OfBody":"d41d","md5OfMessageAttributes":"900","eventSource":"aws:sqs","#,
            r#""eventSourceARN":"arn:aws:sqs:eu-central-1:123456789012:orders.fifo","awsRegion":"eu-central-1"}]}"#,
        );
        assert_eq!(std::str::from_utf8(&event), Ok(expected));
    }

    #[test]
    fn what_a_message_cannot_do_without_is_named() {
        let source = EventSource::new(ARN);
        for (field, spoil) in [
            ("MessageId", (|message| message.message_id = None) as fn(&mut Message)),
            ("MessageId", |message| message.message_id = Some(String::new())),
            ("ReceiptHandle", |message| message.receipt_handle = None),
            ("Body", |message| message.body = None),
        ] {
            let mut message = message("x");
            spoil(&mut message);
            assert_eq!(Received::new(&message, &source), Err(Incomplete { field }));
        }
        let bare = Message::builder().message_id("i").receipt_handle("r").body("").build();
        assert_eq!(received(&bare).group, None);
    }

    #[test]
    fn a_queue_is_known_by_its_arn() {
        assert!(EventSource::new(ARN).is_fifo());
        assert!(!EventSource::new("arn:aws:sqs:eu-west-1:1:fifo").is_fifo());
        assert_eq!(EventSource::new("nonsense").region(), "");
    }

    #[test]
    fn nothing_of_a_body_is_shown_for_debugging() {
        assert!(!format!("{:?}", received(&message("secret"))).contains("secret"));
    }

    proptest! {
        /// Whatever the bodies are, the event is JSON that holds them as they are, and its size is known before it is made.
        #[test]
        fn any_body_arrives_unchanged(bodies in proptest::collection::vec(any::<String>(), 0..5)) {
            let messages: Vec<Received> = bodies.iter().map(|body| received(&message(body))).collect();
            let event = event(&messages);
            let record_bytes = messages.iter().map(Received::record_bytes).sum();
            prop_assert_eq!(event.len(), event_bytes(messages.len(), record_bytes));
            let event: Value = serde_json::from_slice(&event).expect("JSON");
            let arrived: Vec<&Value> = event["Records"].as_array().expect("records").iter().map(|r| &r["body"]).collect();
            prop_assert_eq!(json!(arrived), json!(bodies));
        }
    }
}
