//! Message attributes: as they are given, as Lambda hands them over, and as the SDK wants them.

use std::fmt;

use aws_sdk_sqs::{primitives::Blob, types::MessageAttributeValue};
use aws_smithy_types::base64;
use serde_json::Value;

use super::rules::{is_data_type, is_text};

/// The value of a message attribute, with its data type.
///
/// ```
/// use microbatch_aws::sqs::Attribute;
///
/// let kind = Attribute::string("refund");
/// let cents = Attribute::number(1_250).label("int");
/// let digest = Attribute::binary([0xca, 0xfe]);
/// # let _ = (kind, cents, digest);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Attribute {
    data_type: String,
    content: Content,
}

#[derive(Clone, PartialEq, Eq)]
enum Content {
    Text(String),
    Bytes(Vec<u8>),
}

impl Attribute {
    /// A text: not empty, of the characters that a body may have.
    pub fn string(text: impl Into<String>) -> Self {
        Self { data_type: "String".to_owned(), content: Content::Text(text.into()) }
    }

    /// A number, of up to 38 digits. SQS refuses what it cannot read as one.
    pub fn number(number: impl fmt::Display) -> Self {
        Self { data_type: "Number".to_owned(), content: Content::Text(number.to_string()) }
    }

    /// Bytes: at least one.
    pub fn binary(bytes: impl Into<Vec<u8>>) -> Self {
        Self { data_type: "Binary".to_owned(), content: Content::Bytes(bytes.into()) }
    }

    /// Adds a label of one's own to the data type: `int` makes a `Number.int`. SQS does not look at it.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        self.data_type.push('.');
        self.data_type.push_str(label);
        self
    }

    /// From the value in a record's `messageAttributes`; none where it is no string, number or binary.
    pub(super) fn from_record(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let data_type = text("dataType")?;
        let content = if data_type.starts_with("Binary") {
            Content::Bytes(base64::decode(text("binaryValue")?).ok()?)
        } else {
            Content::Text(text("stringValue")?.to_owned())
        };
        Some(Self { data_type: data_type.to_owned(), content })
    }

    /// From the value in a message that was received; none where it is no string, number or binary.
    pub(super) fn from_received(value: &MessageAttributeValue) -> Option<Self> {
        let data_type = value.data_type().to_owned();
        let content = if data_type.starts_with("Binary") {
            Content::Bytes(value.binary_value()?.as_ref().to_vec())
        } else {
            Content::Text(value.string_value()?.to_owned())
        };
        Some(Self { data_type, content })
    }

    /// Whether SQS takes it.
    pub(super) fn is_valid(&self) -> bool {
        match &self.content {
            Content::Text(text) => is_data_type(&self.data_type, false) && is_text(text),
            Content::Bytes(bytes) => is_data_type(&self.data_type, true) && !bytes.is_empty(),
        }
    }

    /// What counts of it towards a message's size, beside its name.
    pub(super) fn size_bytes(&self) -> usize {
        let content = match &self.content {
            Content::Text(text) => text.len(),
            Content::Bytes(bytes) => bytes.len(),
        };
        self.data_type.len() + content
    }

    pub(super) fn into_sdk(self) -> Option<MessageAttributeValue> {
        let value = MessageAttributeValue::builder().data_type(self.data_type);
        let value = match self.content {
            Content::Text(text) => value.string_value(text),
            Content::Bytes(bytes) => value.binary_value(Blob::new(bytes)),
        };
        value.build().ok()
    }
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Self {
        Self::string(text)
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Self {
        Self::string(text)
    }
}

impl fmt::Debug for Attribute {
    // The value is the sender's text, and debug output ends in logs (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attribute").field("data_type", &self.data_type).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_attributes_of_a_record_are_read_as_lambda_writes_them() {
        let lists = |mut value: Value| {
            value["stringListValues"] = json!([]);
            value["binaryListValues"] = json!([]);
            value
        };
        for (value, expected) in [
            (json!({"stringValue": "a", "dataType": "String"}), Attribute::string("a")),
            (json!({"stringValue": "-1.5e3", "dataType": "Number"}), Attribute::number("-1.5e3")),
            (json!({"stringValue": "7", "dataType": "Number.int"}), Attribute::number(7).label("int")),
            (json!({"binaryValue": "AP8Q", "dataType": "Binary"}), Attribute::binary([0, 255, 16])),
            (json!({"binaryValue": "AP8=", "dataType": "Binary.raw"}), Attribute::binary([0, 255]).label("raw")),
        ] {
            let found = Attribute::from_record(&lists(value.clone())).expect("readable");
            assert!(found == expected && found.is_valid(), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_read_or_sent_is_told_apart_from_what_can() {
        for unreadable in [
            json!({"stringValue": "a"}),
            json!({"dataType": "String"}),
            json!({"dataType": "String", "stringValue": 7}),
            json!({"dataType": "Binary", "binaryValue": "!!"}),
            json!({"dataType": "Binary", "stringValue": "a"}),
            json!({"DataType": "String", "StringValue": "a"}),
            json!("a"),
            json!(null),
        ] {
            assert!(Attribute::from_record(&unreadable).is_none(), "{unreadable}");
        }
        for unsendable in [
            json!({"dataType": "String", "stringValue": ""}),
            json!({"dataType": "String", "stringValue": "\u{1}"}),
            json!({"dataType": "StringList", "stringValue": "a"}),
            json!({"dataType": "Binary", "binaryValue": ""}),
        ] {
            assert!(!Attribute::from_record(&unsendable).expect("readable").is_valid(), "{unsendable}");
        }
    }

    #[test]
    fn type_and_value_count_towards_the_size() {
        assert_eq!(Attribute::string("é").size_bytes(), 6 + 2);
        assert_eq!(Attribute::number(10).label("int").size_bytes(), 10 + 2);
        assert_eq!(Attribute::binary(vec![0; 5]).size_bytes(), 6 + 5);
    }

    #[test]
    fn p13_debug_output_shows_no_value() {
        assert!(!format!("{:?}", Attribute::string("canary")).contains("canary"));
    }
}
