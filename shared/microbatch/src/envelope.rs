//! Takes the payload out of what a topic or an event bus wraps around it.

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::message::{CowStr, decode_str, json_kind};

/// What the body of a message wraps its payload in. Items, keys and fingerprints are made of the payload alone.
///
/// Other fields of an envelope are not looked at, beyond that they are JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Envelope {
    /// Nothing: the body is the payload.
    #[default]
    None,
    /// A notification of an SNS topic without raw message delivery: the payload is the text of its `Message`, a string.
    Sns,
    /// An event of an `EventBridge` rule that passes the whole of it on: the payload is its `detail`, an object, as it was
    /// received.
    EventBridge,
}

/// A body is not the envelope that was set. It concerns its message alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeError {
    /// What was expected.
    pub expected: &'static str,
    /// What is there instead: a type or a missing field, never text of the body.
    pub found: &'static str,
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected {}, found {}; the envelope setting must be what the queue receives",
            self.expected, self.found
        )
    }
}

impl std::error::Error for EnvelopeError {}

impl Envelope {
    /// The payload of a body. It is never longer than the body, and borrows from it unless it has escapes to decode.
    ///
    /// # Errors
    /// [`EnvelopeError`], when the body is not this envelope. A field of the payload's name that stands twice is refused:
    /// readers differ in which they take.
    pub fn payload(self, body: &str) -> Result<Cow<'_, str>, EnvelopeError> {
        match self {
            Envelope::None => Ok(Cow::Borrowed(body)),
            Envelope::Sns => payload_of_sns(body),
            Envelope::EventBridge => payload_of_eventbridge(body),
        }
    }
}

fn payload_of_sns(body: &str) -> Result<Cow<'_, str>, EnvelopeError> {
    let error = |found| EnvelopeError { expected: "an SNS notification, an object with a string Message", found };
    let message = find_field(body, "Message").map_err(error)?;
    decode_str(message).ok_or_else(|| {
        error(match json_kind(message) {
            "a string" => "a string with escapes of no character",
            other => other,
        })
    })
}

fn payload_of_eventbridge(body: &str) -> Result<Cow<'_, str>, EnvelopeError> {
    let error = |found| EnvelopeError { expected: "an EventBridge event, an object with an object detail", found };
    let detail = find_field(body, "detail").map_err(error)?;
    match json_kind(detail) {
        "an object" => Ok(Cow::Borrowed(detail)),
        other => Err(error(other)),
    }
}

/// The text of the field `name` of the object that is the body, or what was found instead.
///
/// All of the body is checked to be JSON, without recursion: nesting cannot exhaust the stack.
fn find_field<'b>(body: &'b str, name: &'static str) -> Result<&'b str, &'static str> {
    let mut deserializer = serde_json::Deserializer::from_str(body);
    let found = deserializer.deserialize_map(Field { name }).and_then(|found| deserializer.end().map(|()| found));
    match found {
        Ok(Found::Once(field)) => Ok(field.get()),
        Ok(Found::Never) => Err("an object without it"),
        Ok(Found::Repeatedly) => Err("an object with it twice"),
        Err(error) if error.is_data() => Err(json_kind(body)),
        Err(_) => Err("text that is no JSON"),
    }
}

/// How often a field is there, and what it holds.
enum Found<'b> {
    Never,
    Once(&'b RawValue),
    Repeatedly,
}

/// Looks for a field of an object and passes over the others.
struct Field {
    name: &'static str,
}

impl<'b> Visitor<'b> for Field {
    type Value = Found<'b>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Found::Never;
        while let Some(CowStr(name)) = map.next_key()? {
            if name == self.name {
                let value = map.next_value()?;
                found = if matches!(found, Found::Never) { Found::Once(value) } else { Found::Repeatedly };
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(envelope: Envelope, body: &str) -> &'static str {
        envelope.payload(body).expect_err(body).found
    }

    #[test]
    fn without_an_envelope_the_body_is_the_payload() {
        for body in ["", "no json", r#"{"Message":"x","detail":{}}"#] {
            assert!(matches!(Envelope::None.payload(body), Ok(Cow::Borrowed(payload)) if payload == body));
        }
    }

    #[test]
    fn a_notification_holds_its_payload_as_text() {
        // As SNS writes it, shortened.
        let body = r#"{
            "Type" : "Notification", "MessageId" : "5", "TopicArn" : "arn:aws:sns:eu-west-1:123456789012:orders",
            "Message" : "{\"order_id\":\"o-1\",\"note\":\"\\u00e9\"}",
            "MessageAttributes" : {"Message" : {"Type":"String","Value":"no"}} }"#;
        assert_eq!(Envelope::Sns.payload(body).as_deref(), Ok(r#"{"order_id":"o-1","note":"\u00e9"}"#));
        assert!(matches!(Envelope::Sns.payload(r#"{"\u004dessage":"7"}"#), Ok(Cow::Borrowed("7"))));
        assert_eq!(Envelope::Sns.payload(r#"{"Message":""}"#).as_deref(), Ok(""));
    }

    #[test]
    fn an_event_holds_its_payload_as_it_was_received() {
        let body = r#"{"version":"0","detail-type":"x","detail": {"n":1.50, "big":100000000000000000001} ,"a":[]}"#;
        let payload = Envelope::EventBridge.payload(body).expect("an event");
        assert!(matches!(payload, Cow::Borrowed(r#"{"n":1.50, "big":100000000000000000001}"#)), "{payload}");
    }

    #[test]
    fn what_is_no_envelope_is_named_by_its_type() {
        for envelope in [Envelope::Sns, Envelope::EventBridge] {
            for (body, expected) in [
                ("", "text that is no JSON"),
                ("{", "text that is no JSON"),
                ("{} {}", "text that is no JSON"),
                (r#"{"a":}"#, "text that is no JSON"),
                (r#"{"\ud800":1}"#, "text that is no JSON"),
                ("[]", "an array"),
                (" \"x\"", "a string"),
                ("null", "null"),
                ("7", "a number or a boolean"),
                ("{}", "an object without it"),
                (r#"{"message":"x","Detail":{}}"#, "an object without it"),
                (r#"{"a":{"Message":"x","detail":{}}}"#, "an object without it"),
                (r#"{"Message":null,"detail":null}"#, "null"),
                (r#"{"Message":["x"],"detail":["x"]}"#, "an array"),
                (r#"{"Message":true,"detail":1e400}"#, "a number or a boolean"),
                (r#"{"Message":"x","\u004dessage":"x","detail":{},"d\u0065tail":{}}"#, "an object with it twice"),
            ] {
                assert_eq!(found(envelope, body), expected, "{envelope:?}: {body}");
            }
        }
        assert_eq!(found(Envelope::Sns, r#"{"Message":{}}"#), "an object");
        assert_eq!(found(Envelope::Sns, r#"{"Message":"\ud800"}"#), "a string with escapes of no character");
        assert_eq!(found(Envelope::EventBridge, r#"{"detail":"{}"}"#), "a string");
        let error = Envelope::Sns.payload("[4111]").expect_err("no object").to_string();
        assert_eq!(
            error,
            "expected an SNS notification, an object with a string Message, found an array; \
             the envelope setting must be what the queue receives"
        );
    }

    #[test]
    fn nesting_does_not_exhaust_the_stack() {
        let deep = format!("{}{}", "[".repeat(400_000), "]".repeat(400_000));
        let body = format!(r#"{{"Message":"x","other":{deep},"detail":{{"a":{deep}}}}}"#);
        assert_eq!(Envelope::Sns.payload(&body).as_deref(), Ok("x"));
        assert!(Envelope::EventBridge.payload(&body).is_ok(), "its decoding refuses it");
        assert_eq!(found(Envelope::Sns, &"{\"a\":".repeat(100_000)), "text that is no JSON");
        assert_eq!(found(Envelope::Sns, &deep), "an array");
    }
}
