//! From a message that is to be parked to the entry that is sent: body and attributes as they were, and the reason.

use aws_sdk_sqs::types::{
    MessageSystemAttributeNameForSends, MessageSystemAttributeValue, SendMessageBatchRequestEntry,
};
use microbatch::queue::{ParkRequest, QUEUE_BYTES_MAX, QueueError};
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use super::{
    attribute::Attribute,
    error::DOES_NOT_FIT,
    rules::{ATTRIBUTES_MAX, is_attribute_name, is_id, is_text},
};

/// The attribute that is added to a parked message: why it was parked, as JSON. A message that was parked before, and sent
/// back to its queue with it, gets the new reason instead of the old one.
pub const REASON_ATTRIBUTE: &str = "microbatch.reason";

/// An entry, and what it counts towards the size of a request.
pub(super) struct ParkEntry {
    pub(super) entry: SendMessageBatchRequestEntry,
    pub(super) bytes: usize,
}

/// The entry for a message; `position` is its place in the call, and names it in the answer.
pub(super) fn park_entry(position: usize, request: &ParkRequest, fifo: bool) -> Result<ParkEntry, QueueError> {
    if !is_text(&request.body) {
        return Err(does_not_fit("the body is empty or has characters that SQS does not take"));
    }
    let attributes = attributes(request)?;
    let size = |(name, value): &(String, Attribute)| name.len() + value.size_bytes();
    let bytes = request.body.len() + attributes.iter().map(size).sum::<usize>();
    if bytes > QUEUE_BYTES_MAX {
        return Err(does_not_fit("with the reason it is over 1 MiB"));
    }
    let mut entry = SendMessageBatchRequestEntry::builder().id(position.to_string()).message_body(&*request.body);
    for (name, value) in attributes {
        let value = value.into_sdk().ok_or_else(|| does_not_fit("an attribute has no data type"))?;
        entry = entry.message_attributes(name, value);
    }
    if let Some(trace) = trace_attribute(request.trace_header.as_deref()) {
        entry = entry.message_system_attributes(MessageSystemAttributeNameForSends::AwsTraceHeader, trace);
    }
    let group = request.group.as_deref().filter(|group| is_id(group));
    if fifo {
        let id = deduplication_id(&request.message_id);
        entry = entry.message_group_id(group.unwrap_or(&id)).message_deduplication_id(&id);
    } else {
        // A tenant of a fair queue. SQS keeps it too when it moves a message itself.
        entry = entry.set_message_group_id(group.map(str::to_owned));
    }
    let entry = entry.build().map_err(|_| does_not_fit("it has no body"))?;
    Ok(ParkEntry { entry, bytes })
}

fn does_not_fit(why: &'static str) -> QueueError {
    QueueError::lasting(DOES_NOT_FIT, why)
}

/// The attributes that the message had, and the reason.
fn attributes(request: &ParkRequest) -> Result<Vec<(String, Attribute)>, QueueError> {
    let mut attributes = original_attributes(request.attributes.as_deref())?;
    attributes.retain(|(name, _)| name != REASON_ATTRIBUTE);
    attributes.push((REASON_ATTRIBUTE.to_owned(), Attribute::string(&*request.reason)));
    if attributes.len() > ATTRIBUTES_MAX {
        return Err(does_not_fit("it has ten attributes already, and the reason is one more"));
    }
    if !attributes.iter().all(|(name, value)| is_attribute_name(name) && value.is_valid()) {
        return Err(does_not_fit("an attribute or the reason is something that SQS does not take"));
    }
    Ok(attributes)
}

/// The record's `messageAttributes`.
fn original_attributes(raw: Option<&RawValue>) -> Result<Vec<(String, Attribute)>, QueueError> {
    let unreadable = || does_not_fit("its attributes cannot be read");
    let Some(raw) = raw else { return Ok(Vec::new()) };
    match serde_json::from_str(raw.get()) {
        Ok(Value::Null) => Ok(Vec::new()),
        Ok(Value::Object(values)) => values
            .into_iter()
            .map(|(name, value)| Some((name, Attribute::from_record(&value)?)))
            .collect::<Option<_>>()
            .ok_or_else(unreadable),
        _ => Err(unreadable()),
    }
}

/// The sender's trace. It does not count towards the size. One that SQS would refuse is left behind: the message matters
/// more than its trace.
pub(super) fn trace_attribute(trace_header: Option<&str>) -> Option<MessageSystemAttributeValue> {
    let trace = trace_header.filter(|trace| is_text(trace))?;
    MessageSystemAttributeValue::builder().data_type("String").string_value(trace).build().ok()
}

/// The same for every try to park this message, so that SQS drops a repeated one within its five minutes; not the sender's
/// own id, under which two messages that the queue told apart by time would be one.
pub(super) fn deduplication_id(message_id: &str) -> String {
    if is_id(message_id) {
        return message_id.to_owned();
    }
    Sha256::digest(message_id).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::{primitives::Blob, types::MessageAttributeValue};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const REASON: &str = r#"{"code":"unknown_currency"}"#;

    fn request(body: &str, attributes: &Value) -> ParkRequest {
        ParkRequest {
            index: 4,
            message_id: "id-1".into(),
            body: body.into(),
            attributes: Some(serde_json::value::to_raw_value(attributes).expect("JSON")),
            group: None,
            deduplication_id: Some("the-senders".into()),
            trace_header: None,
            reason: REASON.into(),
        }
    }

    fn fits(request: &ParkRequest) -> SendMessageBatchRequestEntry {
        park_entry(3, request, false).unwrap_or_else(|error| panic!("{error}")).entry
    }

    fn refused(request: &ParkRequest) -> QueueError {
        let error = park_entry(3, request, false).err().expect("it does not fit");
        assert_eq!((error.is_retryable(), error.code()), (false, "park_does_not_fit"));
        error
    }

    fn text(value: &MessageAttributeValue) -> (&str, Option<&str>) {
        (value.data_type(), value.string_value())
    }

    fn strings(count: usize) -> Value {
        (0..count).map(|n| (format!("a{n}"), json!({"stringValue": "x", "dataType": "String"}))).collect()
    }

    #[test]
    fn body_and_attributes_are_sent_as_they_were_with_one_more() {
        let attributes = json!({
            "kind": {"stringValue": "refund", "stringListValues": [], "binaryListValues": [], "dataType": "String"},
            "cents": {"stringValue": "1250", "dataType": "Number.int"},
            "digest": {"binaryValue": "AP8Q", "dataType": "Binary"},
        });
        let mut request = request("{\"a\": \"\u{1f600}\\u0000\"}", &attributes);
        request.trace_header = Some("Root=1-5759e988-bd862e3fe1be46a994272793".into());
        let entry = fits(&request);
        assert_eq!((entry.id(), entry.message_body()), ("3", &*request.body));
        let sent = entry.message_attributes().expect("some");
        assert_eq!(sent.len(), 4);
        assert_eq!(text(&sent["kind"]), ("String", Some("refund")));
        assert_eq!(text(&sent["cents"]), ("Number.int", Some("1250")));
        assert_eq!(sent["digest"].binary_value().map(AsRef::as_ref), Some(&[0, 255, 16][..]));
        assert_eq!(text(&sent["microbatch.reason"]), ("String", Some(REASON)));
        let trace =
            &entry.message_system_attributes().expect("one")[&MessageSystemAttributeNameForSends::AwsTraceHeader];
        assert_eq!((trace.data_type(), trace.string_value()), ("String", request.trace_header.as_deref()));
        assert_eq!((entry.message_group_id(), entry.message_deduplication_id()), (None, None), "a standard queue");
    }

    #[test]
    fn missing_attributes_are_none() {
        for attributes in [None, Some(json!(null)), Some(json!({}))] {
            let mut request = request("b", &json!({}));
            request.attributes = attributes.map(|value| serde_json::value::to_raw_value(&value).expect("JSON"));
            assert_eq!(fits(&request).message_attributes().map(std::collections::HashMap::len), Some(1));
        }
    }

    #[test]
    fn nine_attributes_leave_room_for_the_reason_and_ten_do_not() {
        assert_eq!(fits(&request("b", &strings(9))).message_attributes().map(std::collections::HashMap::len), Some(10));
        assert!(refused(&request("b", &strings(10))).to_string().contains("ten attributes"));
    }

    #[test]
    fn the_reason_of_an_earlier_parking_is_replaced() {
        let mut attributes = strings(9);
        attributes[REASON_ATTRIBUTE] = json!({"stringValue": "old", "dataType": "String"});
        let entry = fits(&request("b", &attributes));
        assert_eq!(text(&entry.message_attributes().expect("ten")[REASON_ATTRIBUTE]), ("String", Some(REASON)));
    }

    #[test]
    fn the_reason_counts_towards_the_size_to_the_byte() {
        let attributes = json!({"kind": {"stringValue": "refund", "dataType": "String"}});
        let beside =
            "kind".len() + "String".len() + "refund".len() + REASON_ATTRIBUTE.len() + "String".len() + REASON.len();
        let mut request = request(&"x".repeat(QUEUE_BYTES_MAX - beside), &attributes);
        // Not counted, by the API reference.
        request.trace_header = Some("Root=1-5759e988-bd862e3fe1be46a994272793".into());
        assert_eq!(park_entry(0, &request, false).map(|entry| entry.bytes).ok(), Some(QUEUE_BYTES_MAX));
        request.body = "x".repeat(QUEUE_BYTES_MAX - beside + 1).into();
        assert!(refused(&request).to_string().contains("1 MiB"));
    }

    #[test]
    fn what_sqs_does_not_take_does_not_fit() {
        for body in ["", "\0", "a\u{ffff}"] {
            refused(&request(body, &json!({})));
        }
        for attributes in [
            json!([]),
            json!("x"),
            json!({"a": null}),
            json!({"a": {"stringValue": "x"}}),
            json!({"a": {"dataType": "Binary", "binaryValue": "!!"}}),
            json!({"a": {"dataType": "String", "stringValue": ""}}),
            json!({"a": {"dataType": "String", "stringValue": "\u{1}"}}),
            json!({"AWS.a": {"dataType": "String", "stringValue": "x"}}),
        ] {
            refused(&request("b", &attributes));
        }
        let mut bad_reason = request("b", &json!({}));
        bad_reason.reason = "\u{1}".into();
        refused(&bad_reason);
    }

    /// P13.
    #[test]
    fn p13_a_refusal_quotes_nothing() {
        let attributes = json!({"canary": {"dataType": "String", "stringValue": ""}});
        let error = refused(&request("canary", &attributes));
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }

    #[test]
    fn on_a_fifo_queue_a_message_keeps_its_group_and_is_parked_once_in_five_minutes() {
        let entry =
            |request: &ParkRequest| park_entry(0, request, true).unwrap_or_else(|error| panic!("{error}")).entry;
        let mut request = request("b", &json!({}));
        request.group = Some("account-7".into());
        let first = entry(&request);
        assert_eq!((first.message_group_id(), first.message_deduplication_id()), (Some("account-7"), Some("id-1")));
        request.reason = r#"{"code":"another"}"#.into();
        assert_eq!(
            entry(&request).message_deduplication_id(),
            first.message_deduplication_id(),
            "derived from the id alone"
        );

        request.group = None;
        assert_eq!(entry(&request).message_group_id(), Some("id-1"));
        request.message_id = "an id with spaces".into();
        let hashed = entry(&request);
        assert!(hashed.message_deduplication_id().is_some_and(|id| id.len() == 64 && is_id(id)));
        assert_eq!(hashed.message_group_id(), hashed.message_deduplication_id());
    }

    #[test]
    fn the_tenant_of_a_fair_queue_is_kept() {
        let mut request = request("b", &json!({}));
        request.group = Some("tenant-7".into());
        let entry = fits(&request);
        assert_eq!((entry.message_group_id(), entry.message_deduplication_id()), (Some("tenant-7"), None));
    }

    /// A name, its type and its value, as the sender gave them.
    type Given = (String, &'static str, Vec<u8>);

    fn given() -> impl Strategy<Value = Vec<Given>> {
        let value = prop_oneof![
            ("[a-c]{1,2}", Just("String"), "[\\PC\\t\\n]{1,8}".prop_map(String::into_bytes)),
            ("[d-f]{1,2}", Just("Number.int"), "-?[0-9]{1,9}".prop_map(String::into_bytes)),
            ("[g-i]{1,2}", Just("Binary.raw"), prop::collection::vec(any::<u8>(), 1..40)),
        ];
        prop::collection::vec(value, 0..14).prop_map(|mut given| {
            given.sort();
            given.dedup_by(|one, other| one.0 == other.0);
            given
        })
    }

    fn as_in_a_record((name, data_type, value): &Given) -> (String, Value) {
        let value = if data_type.starts_with("Binary") {
            json!({"binaryValue": aws_smithy_types::base64::encode(value), "dataType": data_type})
        } else {
            json!({"stringValue": String::from_utf8_lossy(value), "dataType": data_type})
        };
        (name.clone(), value)
    }

    proptest! {
        /// P1: a message is parked as it was, to the byte, or not at all.
        #[test]
        fn p1_what_fits_is_sent_as_it_was(body in "\\PC{0,40}|.{0,20}", given in given(), fifo: bool) {
            let record: Value = given.iter().map(as_in_a_record).collect();
            let fits = is_text(&body) && given.len() < ATTRIBUTES_MAX;
            let entry = park_entry(7, &request(&body, &record), fifo).map(|entry| entry.entry);
            prop_assert_eq!(entry.is_ok(), fits);
            let Ok(entry) = entry else { return Ok(()) };
            prop_assert_eq!((entry.id(), entry.message_body()), ("7", &*body));
            let mut sent = entry.message_attributes.expect("at least the reason");
            prop_assert_eq!(sent.remove(REASON_ATTRIBUTE).and_then(|reason| reason.string_value), Some(REASON.to_owned()));
            let text = |value: MessageAttributeValue| value.string_value.map(String::into_bytes);
            let mut sent: Vec<_> = sent.into_iter().map(|(name, value)| {
                let data_type = value.data_type.clone();
                (name, data_type, value.binary_value.clone().map(Blob::into_inner).or_else(|| text(value)))
            }).collect();
            sent.sort();
            let given: Vec<_> = given.into_iter().map(|(name, kind, value)| (name, kind.to_owned(), Some(value))).collect();
            prop_assert_eq!(sent, given);
        }
    }
}
