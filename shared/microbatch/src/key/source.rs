//! Where the key of a message is found.

use std::{borrow::Cow, fmt};

use serde_json::value::RawValue;

use super::{
    error::{CanonicalError, KeyError},
    format::KeyFormat,
    scan::find_member,
    selector::{Selector, SelectorError},
};
use crate::message::{Message, decode_str, json_kind};

/// The longest name of a message attribute, in characters (SQS developer guide, "message attribute components").
const ATTRIBUTE_NAME_CHARS_MAX: usize = 256;

/// Where the key of a message is found: in its payload, or beside it.
///
/// What is found beside the payload is text, and makes the key that the same text makes as a JSON string of the payload:
/// the source is no part of the key. So a key that moves from the body into an attribute keeps its records, and under
/// [`KeyFormat::PowertoolsPython`] the keys are those of its `event_key_jmespath` on the whole record (`messageId`,
/// `messageAttributes.NAME.stringValue`). A pipeline has one source: two kinds of text meet only where it is changed, or
/// where two functions share a namespace, which they must not in any case.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum KeySource {
    /// A part of the payload: of the body, or of what an envelope holds.
    Body(Selector),
    /// The queue's id of the message. It tells redeliveries from new messages, and nothing more: work that is sent a
    /// second time, published again to a topic, sent on by parking, or moved back from a dead-letter queue, has another
    /// id and runs again.
    MessageId,
    /// `MessageDeduplicationId`, which only messages of a FIFO queue have: the sender's, or a digest of the body. Work that
    /// is sent again under its id, after the five minutes in which the queue drops it, is recognised.
    DeduplicationId,
    /// The value of the message attribute of this name. Its data type is `String` or `Number`, custom labels included; a
    /// number counts as its text, so `1` and `1.0` are two keys, and neither is that of a JSON number.
    ///
    /// Meant are the attributes of the queue's message. What a topic delivers inside its envelope has other attributes,
    /// which are not read; with raw delivery they are the message's.
    Attribute(String),
}

/// A source that no message can have, or that keys of the format cannot be taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeySourceError {
    /// The selector does not suit the format.
    Selector(SelectorError),
    /// No message attribute has this name.
    AttributeName(String),
}

impl fmt::Display for KeySourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySourceError::Selector(error) => error.fmt(f),
            KeySourceError::AttributeName(name) => write!(
                f,
                "expected a message attribute's name: 1 to {ATTRIBUTE_NAME_CHARS_MAX} letters, digits, '_', '-' or '.'; \
                 found {name:?}"
            ),
        }
    }
}

impl std::error::Error for KeySourceError {}

impl From<Selector> for KeySource {
    fn from(selector: Selector) -> Self {
        KeySource::Body(selector)
    }
}

impl KeySource {
    /// Checks that keys of this format can be made of it.
    ///
    /// # Errors
    /// When the selector does not suit the format ([`Selector::check`]), or no attribute has the name.
    pub fn check(&self, format: KeyFormat) -> Result<(), KeySourceError> {
        match self {
            KeySource::Body(selector) => selector.check(format).map_err(KeySourceError::Selector),
            KeySource::Attribute(name) if !is_attribute_name(name) => Err(KeySourceError::AttributeName(name.clone())),
            KeySource::MessageId | KeySource::DeduplicationId | KeySource::Attribute(_) => Ok(()),
        }
    }

    /// What the key is made of, in the form that the format digests. Without a message, nothing is beside the payload.
    ///
    /// # Errors
    /// [`KeyError`], when nothing is there, or nothing with a single meaning.
    pub(super) fn select<'p>(
        &self,
        message: Option<&Message<'_>>,
        payload: &'p str,
        format: KeyFormat,
    ) -> Result<Cow<'p, str>, KeyError> {
        let text = match self {
            KeySource::Body(selector) => return selector.select(payload, format),
            KeySource::MessageId => message.map(|message| Cow::Borrowed(&*message.id)),
            KeySource::DeduplicationId => {
                message.and_then(|message| message.deduplication_id.as_deref()).map(Cow::from)
            }
            KeySource::Attribute(name) => {
                message.and_then(|message| message.message_attributes).map_or(Ok(None), |raw| attribute(raw, name))?
            }
        };
        let text = text.filter(|text| !text.is_empty()).ok_or(KeyError::Missing)?;
        Ok(format.rewrite(&serde_json::Value::from(text).to_string())?.into_owned().into())
    }
}

fn is_attribute_name(name: &str) -> bool {
    (1..=ATTRIBUTE_NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

/// The text of the attribute `name`; none when it is missing, or has no value.
fn attribute<'e>(attributes: &'e RawValue, name: &str) -> Result<Option<Cow<'e, str>>, KeyError> {
    let Some(attribute) = member(attributes.get(), name, "attributes that are no object")? else { return Ok(None) };
    let data_type = member(attribute, "dataType", "an attribute that is no object")?;
    match data_type.map(|raw| decode_str(raw).ok_or(raw)) {
        Some(Ok(data_type)) if is_text_type(&data_type) => {}
        Some(Ok(_)) => return Err(KeyError::BadAttribute { found: "another dataType" }),
        Some(Err(_)) => return Err(KeyError::BadAttribute { found: "a dataType that is no text" }),
        None => return Err(KeyError::BadAttribute { found: "no dataType" }),
    }
    let Some(value) = member(attribute, "stringValue", "an attribute that is no object")? else { return Ok(None) };
    match decode_str(value) {
        Some(text) => Ok(Some(text)),
        None if value.starts_with('"') => Err(KeyError::BadAttribute { found: "a stringValue that is no text" }),
        None => Err(KeyError::BadAttribute { found: json_kind(value) }),
    }
}

/// The member `name` of an object; none when it is missing or null, or when there is no object but null.
fn member<'t>(text: &'t str, name: &str, no_object: &'static str) -> Result<Option<&'t str>, KeyError> {
    match text.as_bytes().first() {
        Some(b'{') => {}
        Some(b'n') => return Ok(None),
        _ => return Err(KeyError::BadAttribute { found: no_object }),
    }
    let found = find_member(text, name).map_err(|error| match error {
        CanonicalError::NotJson => KeyError::BadAttribute { found: "a name that is no text" },
        error => KeyError::Ambiguous(error),
    })?;
    Ok(found.filter(|value| *value != "null"))
}

/// `String` and `Number`, and either with a label behind a point.
fn is_text_type(data_type: &str) -> bool {
    matches!(data_type.split('.').next(), Some("String" | "Number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::split_event;

    const NO_KEY: Result<Cow<'static, str>, KeyError> = Err(KeyError::Missing);

    /// Selects from a message with these attributes, the queue's and the sender's.
    fn select(
        source: &KeySource,
        attributes: &str,
        sent: &str,
        format: KeyFormat,
    ) -> Result<Cow<'static, str>, KeyError> {
        let event = format!(
            r#"{{"Records":[{{"messageId":"m-\u0031","attributes":{attributes},"messageAttributes":{sent}}}]}}"#
        );
        let messages = split_event(&event).expect("named");
        source.select(messages.first(), r#"{"id":"x"}"#, format)
    }

    fn of_attributes(sent: &str) -> Result<Cow<'static, str>, KeyError> {
        select(&KeySource::Attribute("order".into()), "{}", sent, KeyFormat::Own)
    }

    #[test]
    fn text_beside_the_payload_counts_as_the_same_text_within_it() {
        let id = KeySource::from(Selector::parse("id").expect("path"));
        assert_eq!(select(&id, "{}", "{}", KeyFormat::Own).as_deref(), Ok("\"x\""));
        assert_eq!(select(&KeySource::MessageId, "{}", "{}", KeyFormat::Own).as_deref(), Ok("\"m-1\""));
        let attributes = r#"{"MessageDeduplicationId":"x"}"#;
        assert_eq!(select(&KeySource::DeduplicationId, attributes, "{}", KeyFormat::Own).as_deref(), Ok("\"x\""));
        assert_eq!(of_attributes(r#"{"order":{"stringValue":"x","dataType":"String"}}"#).as_deref(), Ok("\"x\""));
        let odd = r#"{"order":{"stringValue":"\u00e9\"","dataType":"String"}}"#;
        assert_eq!(of_attributes(odd).as_deref(), Ok("\"\u{e9}\\\"\""));
        let python = select(&KeySource::Attribute("order".into()), "{}", odd, KeyFormat::PowertoolsPython);
        assert_eq!(python.as_deref(), Ok(r#""\u00e9\"""#), "as json.dumps writes it");
    }

    #[test]
    fn what_is_not_there_is_missing() {
        for attributes in ["{}", r#"{"MessageDeduplicationId":""}"#, r#"{"MessageDeduplicationId":7}"#, "null"] {
            assert_eq!(select(&KeySource::DeduplicationId, attributes, "{}", KeyFormat::Own), NO_KEY, "{attributes}");
        }
        for sent in [
            "null",
            "{}",
            r#"{"Order":{"stringValue":"x","dataType":"String"}}"#,
            r#"{"order":null}"#,
            r#"{"order":{"dataType":"String"}}"#,
            r#"{"order":{"dataType":"String","stringValue":null}}"#,
            r#"{"order":{"dataType":"String","stringValue":""}}"#,
        ] {
            assert_eq!(of_attributes(sent), NO_KEY, "{sent}");
        }
        assert_eq!(KeySource::MessageId.select(None, "{}", KeyFormat::Own), NO_KEY, "no message");
    }

    #[test]
    fn a_data_type_may_have_a_label() {
        for data_type in ["String", "Number", "String.uuid", "Number.int", "String.Array"] {
            let sent = format!(r#"{{"order":{{"stringListValues":[],"dataType":"{data_type}","stringValue":"1.0"}}}}"#);
            assert_eq!(of_attributes(&sent).as_deref(), Ok("\"1.0\""), "{data_type}");
        }
    }

    #[test]
    fn a_malformed_attribute_is_never_taken_for_a_missing_one() {
        for (sent, found) in [
            ("[]", "attributes that are no object"),
            ("\"order\"", "attributes that are no object"),
            (r#"{"order":"x"}"#, "an attribute that is no object"),
            (r#"{"order":[]}"#, "an attribute that is no object"),
            (r#"{"order":{}}"#, "no dataType"),
            (r#"{"order":{"stringValue":"x","dataType":null}}"#, "no dataType"),
            (r#"{"order":{"stringValue":"x","dataType":1}}"#, "a dataType that is no text"),
            (r#"{"order":{"stringValue":"x","dataType":"Binary"}}"#, "another dataType"),
            (r#"{"order":{"binaryValue":"eA==","dataType":"Binary.png"}}"#, "another dataType"),
            (r#"{"order":{"stringValue":"x","dataType":"Strings"}}"#, "another dataType"),
            (r#"{"order":{"stringValue":7,"dataType":"Number"}}"#, "a number or a boolean"),
            (r#"{"order":{"stringValue":{},"dataType":"String"}}"#, "an object"),
            (r#"{"order":{"stringValue":"\ud800","dataType":"String"}}"#, "a stringValue that is no text"),
        ] {
            assert_eq!(of_attributes(sent), Err(KeyError::BadAttribute { found }), "{sent}");
        }
        assert_eq!(KeyError::BadAttribute { found: "null" }.code(), "bad_key_attribute");
    }

    #[test]
    fn what_stands_twice_is_ambiguous() {
        let value = r#"{"stringValue":"x","dataType":"String"}"#;
        for sent in [
            format!(r#"{{"order":{value},"\u006frder":{value}}}"#),
            r#"{"order":{"stringValue":"x","stringValue":"x","dataType":"String"}}"#.to_owned(),
            r#"{"order":{"stringValue":"x","dataType":"String","dataType":"String"}}"#.to_owned(),
        ] {
            assert_eq!(of_attributes(&sent), Err(KeyError::Ambiguous(CanonicalError::RepeatedName)), "{sent}");
        }
        assert!(of_attributes(&format!(r#"{{"other":1,"order":{value},"other":2}}"#)).is_ok(), "not what is asked for");
    }

    #[test]
    fn a_name_that_no_attribute_has_is_refused() {
        let check = |name: &str| KeySource::Attribute(name.into()).check(KeyFormat::Own);
        for name in ["order_id", "Order-1.id", &"x".repeat(256)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in ["", "order id", "caf\u{e9}", &"x".repeat(257)] {
            let error = check(name).expect_err(name);
            assert!(error.to_string().starts_with("expected a message attribute's name"), "{error}");
        }
        let function = KeySource::from(Selector::parse("length(id)").expect("JMESPath"));
        assert_eq!(function.check(KeyFormat::Own), Ok(()));
        assert!(matches!(function.check(KeyFormat::PowertoolsPython), Err(KeySourceError::Selector(_))));
    }
}
