//! From a message that was received to the same message, to be sent again: the way back from a dead-letter queue.

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};

use super::{
    attribute::Attribute,
    message::OutgoingMessage,
    park::{REASON_ATTRIBUTE, deduplication_id},
    send_error::InvalidMessage,
};

/// What precedes the message's id in its deduplication id. So it is no id that a function parks under.
const DEDUPLICATION_PREFIX: &str = "again-";

impl OutgoingMessage {
    /// The same message, to be sent to another queue: its body, attributes, group and trace, without the reason for which it
    /// was parked.
    ///
    /// For a FIFO queue it gets a deduplication id that is derived from its id alone, so that SQS drops it when it is sent
    /// twice within five minutes.
    ///
    /// # Errors
    /// When it has no body, or an attribute that is neither a string, nor a number, nor binary.
    pub fn again(message: &Message, fifo: bool) -> Result<Self, InvalidMessage> {
        let system = |name| message.attributes().and_then(|all| all.get(&name)).map(String::as_str);
        let mut again = Self::new(message.body().ok_or(InvalidMessage::Body)?);
        let attributes = message.message_attributes().into_iter().flatten();
        for (index, (name, value)) in attributes.filter(|(name, _)| *name != REASON_ATTRIBUTE).enumerate() {
            let value = Attribute::from_received(value).ok_or(InvalidMessage::Attribute(index))?;
            again = again.attribute(name, value);
        }
        if let Some(group) = system(MessageSystemAttributeName::MessageGroupId) {
            again = again.group(group);
        }
        if let Some(trace) = system(MessageSystemAttributeName::AwsTraceHeader) {
            again = again.trace_header(trace);
        }
        let id = message.message_id().unwrap_or_default();
        Ok(if fifo { again.deduplication_id(deduplication_id(&format!("{DEDUPLICATION_PREFIX}{id}"))) } else { again })
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::{
        primitives::Blob,
        types::{MessageAttributeValue, MessageSystemAttributeNameForSends},
    };

    use super::*;

    fn value(data_type: &str, text: Option<&str>, bytes: Option<&[u8]>) -> MessageAttributeValue {
        let value = MessageAttributeValue::builder().data_type(data_type).set_string_value(text.map(str::to_owned));
        value.set_binary_value(bytes.map(Blob::new)).build().expect("a type is set")
    }

    fn parked() -> Message {
        Message::builder()
            .message_id("m-1")
            .body("{\"a\": 1}")
            .message_attributes("kind", value("String.x", Some("refund"), None))
            .message_attributes("cents", value("Number", Some("7"), None))
            .message_attributes("raw", value("Binary", None, Some(&[0, 255])))
            .message_attributes(REASON_ATTRIBUTE, value("String", Some("{}"), None))
            .attributes(MessageSystemAttributeName::MessageGroupId, "g")
            .attributes(MessageSystemAttributeName::AwsTraceHeader, "Root=1-5759e988-bd862e3fe1be46a994272793")
            .build()
    }

    #[test]
    fn all_but_the_reason_is_sent_again_as_it_was() {
        let again = OutgoingMessage::again(&parked(), true).expect("it can be sent");
        let entry = again.into_entry(true, String::new).unwrap_or_else(|error| panic!("{error}")).entry;
        assert_eq!((entry.message_body(), entry.message_group_id()), ("{\"a\": 1}", Some("g")));
        assert_eq!(entry.message_deduplication_id(), Some("again-m-1"));
        let attributes = entry.message_attributes().expect("three");
        assert_eq!(attributes.len(), 3);
        assert_eq!(attributes["kind"], value("String.x", Some("refund"), None));
        assert_eq!(attributes["cents"], value("Number", Some("7"), None));
        assert_eq!(attributes["raw"], value("Binary", None, Some(&[0, 255])));
        let system = entry.message_system_attributes().expect("a trace");
        let trace = &system[&MessageSystemAttributeNameForSends::AwsTraceHeader];
        assert_eq!(trace.string_value(), Some("Root=1-5759e988-bd862e3fe1be46a994272793"));
    }

    #[test]
    fn a_standard_queue_gets_no_deduplication_id() {
        let again = OutgoingMessage::again(&parked(), false).expect("it can be sent");
        let entry = again.into_entry(false, String::new).unwrap_or_else(|error| panic!("{error}")).entry;
        assert_eq!((entry.message_deduplication_id(), entry.message_group_id()), (None, Some("g")));
    }

    #[test]
    fn what_cannot_be_sent_is_told() {
        let without_body = Message::builder().message_id("m-1").build();
        assert_eq!(OutgoingMessage::again(&without_body, false), Err(InvalidMessage::Body));
        let odd =
            Message::builder().message_id("m-1").body("b").message_attributes("a", value("StringList", None, None));
        assert_eq!(OutgoingMessage::again(&odd.build(), false), Err(InvalidMessage::Attribute(0)));
    }
}
