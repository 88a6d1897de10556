//! A message to be sent, and whether SQS would take it.

use std::fmt;

use aws_sdk_sqs::types::{MessageSystemAttributeNameForSends, SendMessageBatchRequestEntry};
use microbatch::queue::QUEUE_BYTES_MAX;

use super::{
    attribute::Attribute,
    park::trace_attribute,
    rules::{ATTRIBUTES_MAX, is_attribute_name, is_id, is_text},
    send_error::{InvalidMessage, SendError},
};

/// Longest delay of a single message, in seconds.
const DELAY_MAX_S: u32 = 900;

/// A message to be sent.
///
/// ```
/// use microbatch_aws::sqs::{Attribute, OutgoingMessage};
///
/// let message = OutgoingMessage::new(r#"{"order_id":"o-1"}"#)
///     .group("customer-7")
///     .deduplication_id("o-1/created")
///     .attribute("kind", "created")
///     .attribute("cents", Attribute::number(1_250));
/// # let _ = message;
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct OutgoingMessage {
    body: String,
    group: Option<String>,
    deduplication_id: Option<String>,
    attributes: Vec<(String, Attribute)>,
    delay_s: Option<u32>,
    trace_header: Option<String>,
}

impl OutgoingMessage {
    /// A message with this body: not empty, and of characters that XML 1.0 can hold.
    pub fn new(body: impl Into<String>) -> Self {
        Self {
            body: body.into(),
            group: None,
            deduplication_id: None,
            attributes: Vec::new(),
            delay_s: None,
            trace_header: None,
        }
    }

    /// The message group. On a FIFO queue, where every message must have one, messages of a group keep their order; on a
    /// standard queue it names the tenant, for fair queues.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// The deduplication id, on a FIFO queue only: of messages with the same one SQS keeps the first, for five minutes.
    /// Without it every message gets one of its own, which makes its own repetitions harmless.
    #[must_use]
    pub fn deduplication_id(mut self, id: impl Into<String>) -> Self {
        self.deduplication_id = Some(id.into());
        self
    }

    /// Adds an attribute, or replaces the one of this name. At most ten.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<Attribute>) -> Self {
        let (name, value) = (name.into(), value.into());
        match self.attributes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.attributes.push((name, value)),
        }
        self
    }

    /// Seconds until it becomes visible, at most 900; on a standard queue only.
    #[must_use]
    pub fn delay_s(mut self, delay_s: u32) -> Self {
        self.delay_s = Some(delay_s);
        self
    }

    /// The trace that it belongs to, as in `AWSTraceHeader`. One that SQS would refuse is left out: the message matters more.
    #[must_use]
    pub fn trace_header(mut self, trace_header: impl Into<String>) -> Self {
        self.trace_header = Some(trace_header.into());
        self
    }

    /// What SQS counts of it: the body, and of each attribute name, type and value, in bytes. At most 1,048,576.
    pub fn size_bytes(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + value.size_bytes());
        self.body.len() + attributes.sum::<usize>()
    }

    /// The entry to send, its id still missing; on a FIFO queue with a deduplication id that is `make_id`'s unless it has
    /// one.
    pub(super) fn into_entry(self, fifo: bool, make_id: impl FnOnce() -> String) -> Result<Checked, SendError> {
        self.problem(fifo).map_or(Ok(()), |problem| Err(SendError::Invalid(problem)))?;
        let bytes = self.size_bytes();
        if bytes > QUEUE_BYTES_MAX {
            return Err(SendError::TooLarge { bytes, bytes_max: QUEUE_BYTES_MAX });
        }
        let deduplication_id = fifo.then(|| self.deduplication_id.unwrap_or_else(make_id));
        let mut entry = SendMessageBatchRequestEntry::builder()
            .id("0")
            .message_body(self.body)
            .set_message_group_id(self.group.clone())
            .set_message_deduplication_id(deduplication_id)
            .set_delay_seconds(self.delay_s.and_then(|delay_s| i32::try_from(delay_s).ok()));
        for (index, (name, value)) in self.attributes.into_iter().enumerate() {
            let value = value.into_sdk().ok_or(SendError::Invalid(InvalidMessage::Attribute(index)))?;
            entry = entry.message_attributes(name, value);
        }
        if let Some(trace) = trace_attribute(self.trace_header.as_deref()) {
            entry = entry.message_system_attributes(MessageSystemAttributeNameForSends::AwsTraceHeader, trace);
        }
        let entry = entry.build().map_err(|_| SendError::Invalid(InvalidMessage::Body))?;
        Ok(Checked { entry, bytes, group: self.group })
    }

    fn problem(&self, fifo: bool) -> Option<InvalidMessage> {
        let bad_attribute = |(name, value): &(String, Attribute)| !is_attribute_name(name) || !value.is_valid();
        if !is_text(&self.body) {
            return Some(InvalidMessage::Body);
        }
        if self.attributes.len() > ATTRIBUTES_MAX {
            return Some(InvalidMessage::TooManyAttributes);
        }
        if let Some(index) = self.attributes.iter().position(bad_attribute) {
            return Some(InvalidMessage::Attribute(index));
        }
        match (&self.group, &self.deduplication_id, self.delay_s) {
            (None, ..) if fifo => Some(InvalidMessage::NoGroup),
            (Some(group), ..) if !is_id(group) => Some(InvalidMessage::Group),
            (_, Some(_), _) if !fifo => Some(InvalidMessage::DeduplicationIdOnStandardQueue),
            (_, Some(id), _) if !is_id(id) => Some(InvalidMessage::DeduplicationId),
            (.., Some(_)) if fifo => Some(InvalidMessage::DelayOnFifoQueue),
            (.., Some(delay_s)) if delay_s > DELAY_MAX_S => Some(InvalidMessage::Delay),
            _ => None,
        }
    }
}

/// A message that SQS takes, as far as can be seen from here.
pub(super) struct Checked {
    pub(super) entry: SendMessageBatchRequestEntry,
    pub(super) bytes: usize,
    pub(super) group: Option<String>,
}

impl fmt::Debug for OutgoingMessage {
    // Body, group and attributes are payload, and debug output ends in logs (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingMessage")
            .field("bytes", &self.size_bytes())
            .field("attributes", &self.attributes.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(message: OutgoingMessage, fifo: bool) -> Result<Checked, SendError> {
        message.into_entry(fifo, || "made".to_owned())
    }

    #[track_caller]
    fn refused(message: OutgoingMessage, fifo: bool) -> SendError {
        entry(message, fifo).err().expect("refused")
    }

    fn body() -> OutgoingMessage {
        OutgoingMessage::new("b")
    }

    #[test]
    fn what_sqs_would_refuse_is_refused_before_it_is_sent() {
        let many = (0..11).fold(body(), |message, n| message.attribute(format!("a{n}"), "x"));
        for (message, fifo, expected) in [
            (OutgoingMessage::new(""), false, InvalidMessage::Body),
            (OutgoingMessage::new("\0"), false, InvalidMessage::Body),
            (many, false, InvalidMessage::TooManyAttributes),
            (body().attribute("a", "x").attribute("aws.b", "x"), false, InvalidMessage::Attribute(1)),
            (body().attribute("a", ""), false, InvalidMessage::Attribute(0)),
            (body(), true, InvalidMessage::NoGroup),
            (body().group("a b"), true, InvalidMessage::Group),
            (body().group(""), false, InvalidMessage::Group),
            (body().deduplication_id("a"), false, InvalidMessage::DeduplicationIdOnStandardQueue),
            (body().group("g").deduplication_id("é"), true, InvalidMessage::DeduplicationId),
            (body().group("g").delay_s(0), true, InvalidMessage::DelayOnFifoQueue),
            (body().delay_s(901), false, InvalidMessage::Delay),
        ] {
            let error = refused(message, fifo);
            assert_eq!(error, SendError::Invalid(expected));
            assert!(!error.may_be_sent() && !error.to_string().is_empty());
        }
    }

    #[test]
    fn names_types_and_values_count_and_the_limit_is_met_to_the_byte() {
        let message =
            |bytes: usize| OutgoingMessage::new("x".repeat(bytes)).attribute("ab", Attribute::number(1).label("i"));
        let beside = 2 + "Number.i".len() + 1;
        assert_eq!(message(5).size_bytes(), 5 + beside);
        let most = entry(message(QUEUE_BYTES_MAX - beside), false).map(|checked| checked.bytes);
        assert_eq!(most.ok(), Some(QUEUE_BYTES_MAX));
        let error = refused(message(QUEUE_BYTES_MAX - beside + 1), false);
        assert_eq!(error, SendError::TooLarge { bytes: QUEUE_BYTES_MAX + 1, bytes_max: QUEUE_BYTES_MAX });
    }

    #[test]
    fn a_fifo_message_gets_a_deduplication_id_unless_it_has_one() {
        let id = |message: OutgoingMessage, fifo| {
            entry(message, fifo).ok().and_then(|checked| checked.entry.message_deduplication_id)
        };
        assert_eq!(id(body().group("g"), true).as_deref(), Some("made"));
        assert_eq!(id(body().group("g").deduplication_id("own"), true).as_deref(), Some("own"));
        assert_eq!(id(body().group("g"), false), None);
    }

    #[test]
    fn the_last_attribute_of_a_name_counts() {
        let message = body().attribute("a", "first").attribute("b", "x").attribute("a", "last");
        let entry = entry(message, false).unwrap_or_else(|error| panic!("{error}")).entry;
        let attributes = entry.message_attributes().expect("two");
        assert_eq!((attributes.len(), attributes["a"].string_value()), (2, Some("last")));
    }

    #[test]
    fn p13_neither_debug_output_nor_errors_show_payload() {
        let message = OutgoingMessage::new("canary").group("canary").attribute("canary", "canary");
        assert!(!format!("{message:?}").contains("canary"));
        let error = refused(message.attribute("canary\0", "canary"), false);
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}
