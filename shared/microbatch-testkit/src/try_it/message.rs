//! A message to try a processor with.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::queue::{Delivery, NewMessage, Number};

/// A message as the queue hands it out. A plain string is one too: a body, received for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestMessage {
    id: Option<String>,
    receive_count: u32,
    sent: NewMessage,
    attributes: Map<String, Value>,
}

/// A message with this body, received for the first time.
///
/// ```
/// use microbatch_testkit::message;
///
/// let message = message(r#"{"order_id":"1"}"#).group("customer-7").receive_count(3).attribute("tenant", "t-1");
/// ```
pub fn message(body: impl Into<String>) -> TestMessage {
    let sent = NewMessage { body: body.into(), ..NewMessage::default() };
    TestMessage { id: None, receive_count: 1, sent, attributes: Map::new() }
}

impl TestMessage {
    /// The queue's id of the message. Without it, `m0`, `m1` and so on, counted over the life of the pipeline.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// How often the message was delivered, this time included.
    #[must_use]
    pub fn receive_count(mut self, receive_count: u32) -> Self {
        self.receive_count = receive_count;
        self
    }

    /// The message group: on a FIFO queue ([`TestSetup::fifo`](super::TestSetup::fifo)) what keeps order, on a standard one
    /// a tenant.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.sent.group = Some(group.into());
        self
    }

    /// The deduplication id that the sender gave. FIFO queues only.
    #[must_use]
    pub fn deduplication_id(mut self, id: impl Into<String>) -> Self {
        self.sent.deduplication_id = Some(id.into());
        self
    }

    /// A message attribute, of type `String`.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let value: String = value.into();
        self.attributes.insert(name.into(), json!({ "dataType": "String", "stringValue": value }));
        self
    }

    /// The sender's trace, as in `AWSTraceHeader`.
    #[must_use]
    pub fn trace_header(mut self, header: impl Into<String>) -> Self {
        self.sent.trace_header = Some(header.into());
        self
    }

    /// What the queue hands out. `number` counts the messages.
    ///
    /// # Panics
    /// Where no queue would hand out such a message.
    pub(super) fn delivered(self, number: usize, now_ms: u64, fifo: bool) -> Delivery {
        let Self { id, receive_count, mut sent, attributes } = self;
        let message_id = id.unwrap_or_else(|| format!("m{number}"));
        assert!(
            !message_id.is_empty(),
            "expected an id that is not empty, found \"\": no response could name the message; to see what becomes of \
             such a record, use `TestPipeline::send_event`"
        );
        assert!(
            receive_count > 0,
            "message {message_id}: expected a receive count of 1 or more, found 0: it counts this delivery"
        );
        assert!(
            !fifo || sent.group.is_some(),
            "message {message_id}: expected a group, found none, and a FIFO queue takes no message without: add `.group(\"..\")`"
        );
        assert!(
            fifo || sent.deduplication_id.is_none(),
            "message {message_id}: expected no deduplication id, which only FIFO queues have: add `.fifo()` to the set-up"
        );
        sent.attributes = (!attributes.is_empty()).then(|| Value::Object(attributes).to_string());
        Delivery {
            number: Number(number),
            receipt_handle: format!("{message_id}-{receive_count}"),
            message_id,
            receive_count,
            sent_ms: now_ms,
            first_received_ms: now_ms,
            sequence: number as u64,
            message: Arc::new(sent),
        }
    }
}

impl From<&str> for TestMessage {
    fn from(body: &str) -> Self {
        message(body)
    }
}

impl From<String> for TestMessage {
    fn from(body: String) -> Self {
        message(body)
    }
}

impl From<&String> for TestMessage {
    fn from(body: &String) -> Self {
        message(body.as_str())
    }
}

impl From<Value> for TestMessage {
    fn from(body: Value) -> Self {
        message(body.to_string())
    }
}
