//! A message of a dead-letter queue, and why it is there.

use std::fmt;

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName as System};
use microbatch_aws::sqs::REASON_ATTRIBUTE;
use serde_json::Value;

use crate::args::Filter;

/// Longest text of a reason that is shown.
const TEXT_CHARS_MAX: usize = 300;
/// Longest error code that is taken for one.
const CODE_CHARS_MAX: usize = 100;
/// Longest kind of failure.
const KIND_CHARS_MAX: usize = 32;

/// A message that was received.
#[derive(Clone)]
pub(crate) struct Letter {
    pub(crate) id: String,
    /// Names this receive of it.
    pub(crate) handle: String,
    pub(crate) why: Why,
    pub(crate) message: Message,
}

impl fmt::Debug for Letter {
    // Without the message: bodies and attributes are payload (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letter").field("id", &self.id).field("why", &self.why).finish_non_exhaustive()
    }
}

/// Why a message is in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// A function parked it, and said why.
    Parked(Box<Reason>),
    /// It says so, but not in a way that can be read.
    Unreadable,
    /// It was moved by the queue's redrive policy, after too many deliveries; or sent here by something else.
    Moved,
}

/// What a function said of a message that it parked. Every text in it is one that a function writes: whoever can send to the
/// queue can put anything there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) kind: String,
    pub(crate) code: Option<String>,
    pub(crate) error_type: Option<String>,
    /// The ARN of the queue that it was received from.
    pub(crate) queue: Option<String>,
    /// Its id there.
    pub(crate) message_id: Option<String>,
    pub(crate) receive_count: Option<u64>,
    pub(crate) first_seen_ms: Option<u64>,
    pub(crate) parked_ms: Option<u64>,
}

impl Reason {
    /// Reads the attribute's text; none where a part is not what a function writes there.
    fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok().filter(Value::is_object)?;
        let text = |name: &str, chars_max: usize, allowed: fn(char) -> bool| match &value[name] {
            Value::Null => Some(None),
            Value::String(text) => {
                let fits = (1..=chars_max).contains(&text.len()) && text.chars().all(allowed);
                fits.then(|| Some(text.clone()))
            }
            _ => None,
        };
        let number = |name: &str| match &value[name] {
            Value::Null => Some(None),
            other => other.as_u64().map(Some),
        };
        let graphic = |c: char| c.is_ascii_graphic();
        Some(Self {
            kind: text("kind", KIND_CHARS_MAX, |c| c.is_ascii_lowercase() || c == '_')??,
            code: text("code", CODE_CHARS_MAX, graphic)?,
            error_type: text("error_type", TEXT_CHARS_MAX, |c| c.is_ascii_graphic() || c == ' ')?,
            queue: text("queue", TEXT_CHARS_MAX, graphic)?,
            message_id: text("message_id", TEXT_CHARS_MAX, graphic)?,
            receive_count: number("receive_count")?,
            first_seen_ms: number("first_seen_ms")?,
            parked_ms: number("parked_ms")?,
        })
    }
}

/// The group of messages without a reason, and how it is asked for.
pub(crate) const MOVED: &str = "@moved";
/// The group of messages whose reason cannot be read.
pub(crate) const UNREADABLE: &str = "@unreadable";
/// The group of messages that were parked without a code.
pub(crate) const NO_CODE: &str = "@none";

impl Why {
    /// The code that messages are grouped and filtered by.
    pub(crate) fn code(&self) -> &str {
        match self {
            Why::Parked(reason) => reason.code.as_deref().unwrap_or(NO_CODE),
            Why::Unreadable => UNREADABLE,
            Why::Moved => MOVED,
        }
    }

    /// What the code means, where it is none of a function's.
    pub(crate) fn words(&self) -> &str {
        match self {
            Why::Parked(reason) => &reason.kind,
            Why::Unreadable => "unreadable reason",
            Why::Moved => "moved, or sent in by others",
        }
    }

    pub(crate) fn reason(&self) -> Option<&Reason> {
        match self {
            Why::Parked(reason) => Some(reason),
            Why::Unreadable | Why::Moved => None,
        }
    }
}

impl Letter {
    /// Takes over a message; none where it has no id or handle, as no SQS gives one.
    pub(crate) fn new(message: Message) -> Option<Self> {
        let id = message.message_id().filter(|id| !id.is_empty())?.to_owned();
        let handle = message.receipt_handle().filter(|handle| !handle.is_empty())?.to_owned();
        let why = match message.message_attributes().and_then(|all| all.get(REASON_ATTRIBUTE)) {
            None => Why::Moved,
            Some(value) => value
                .string_value()
                .and_then(Reason::parse)
                .map_or(Why::Unreadable, |reason| Why::Parked(Box::new(reason))),
        };
        Some(Self { id, handle, why, message })
    }

    fn system(&self, name: &System) -> Option<&str> {
        self.message.attributes()?.get(name).map(String::as_str)
    }

    /// When it was sent: to this queue, or where the redrive policy moved it, to its first.
    pub(crate) fn sent_ms(&self) -> Option<u64> {
        self.system(&System::SentTimestamp)?.parse().ok()
    }

    pub(crate) fn receive_count(&self) -> Option<u64> {
        self.system(&System::ApproximateReceiveCount)?.parse().ok()
    }

    pub(crate) fn group(&self) -> Option<&str> {
        self.system(&System::MessageGroupId)
    }

    pub(crate) fn body(&self) -> &str {
        self.message.body().unwrap_or_default()
    }

    /// The names of the sender's attributes, in order.
    pub(crate) fn attribute_names(&self) -> Vec<&str> {
        let names = self.message.message_attributes().into_iter().flatten().map(|(name, _)| name.as_str());
        let mut names: Vec<&str> = names.filter(|name| *name != REASON_ATTRIBUTE).collect();
        names.sort_unstable();
        names
    }

    /// The message under the id that the function knew it by.
    pub(crate) fn as_first_received(&self) -> Message {
        let mut message = self.message.clone();
        if let Some(id) = self.why.reason().and_then(|reason| reason.message_id.clone()) {
            message.message_id = Some(id);
        }
        message
    }
}

impl Filter {
    /// Whether everything is meant.
    pub(crate) fn is_empty(&self) -> bool {
        self.code.is_empty() && self.older_than.is_none() && self.newer_than.is_none() && self.group.is_none()
    }

    /// Whether a message is meant. One without a time is neither old nor new.
    pub(crate) fn matches(&self, letter: &Letter, now_ms: u64) -> bool {
        let age_ms = letter.sent_ms().map(|sent_ms| u128::from(now_ms.saturating_sub(sent_ms)));
        (self.code.is_empty() || self.code.iter().any(|code| code == letter.why.code()))
            && self.older_than.is_none_or(|age| age_ms.is_some_and(|age_ms| age_ms >= age.as_millis()))
            && self.newer_than.is_none_or(|age| age_ms.is_some_and(|age_ms| age_ms < age.as_millis()))
            && self.group.as_ref().is_none_or(|group| letter.group() == Some(group))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use aws_sdk_sqs::types::MessageAttributeValue;

    use super::*;

    pub(crate) const NOW_MS: u64 = 1_764_000_000_000;

    pub(crate) fn letter(id: &str, reason: Option<&str>, age_s: u64) -> Letter {
        let mut message = Message::builder().message_id(id).receipt_handle("r").body("canary");
        message = message.attributes(System::SentTimestamp, (NOW_MS - age_s * 1_000).to_string());
        if let Some(reason) = reason {
            let value = MessageAttributeValue::builder().data_type("String").string_value(reason);
            message = message.message_attributes(REASON_ATTRIBUTE, value.build().expect("a type is set"));
        }
        Letter::new(message.build()).expect("a whole message")
    }

    pub(crate) const PARKED: &str = r#"{"v":1,"kind":"permanent","code":"invalid_order","error_type":"a::B<dyn C>",
        "queue":"arn:aws:sqs:eu-west-1:1:orders","message_id":"m-0","receive_count":2,"first_seen_ms":1,"parked_ms":2}"#;

    #[test]
    fn a_functions_reason_is_read() {
        let parked = letter("m-1", Some(PARKED), 5);
        let reason = parked.why.reason().expect("it is a function's");
        assert_eq!((parked.why.code(), parked.why.words()), ("invalid_order", "permanent"));
        assert_eq!((reason.receive_count, reason.parked_ms), (Some(2), Some(2)));
        assert_eq!(parked.as_first_received().message_id(), Some("m-0"));
        let without_code = r#"{"kind":"transient","code":null,"new_field":[1]}"#;
        assert_eq!(letter("m", Some(without_code), 0).why.code(), NO_CODE);
    }

    /// P13: whoever can send to the queue can write a reason. What is none is not shown.
    #[test]
    fn p13_what_no_function_writes_is_unreadable() {
        for reason in [
            "",
            "canary",
            "[]",
            "{}",
            r#"{"kind":7}"#,
            r#"{"kind":"Canary canary"}"#,
            r#"{"kind":"permanent","code":"can ary"}"#,
            r#"{"kind":"permanent","code":"\u001b[31mcanary"}"#,
            r#"{"kind":"permanent","code":["canary"]}"#,
            r#"{"kind":"permanent","receive_count":-1}"#,
            r#"{"kind":"permanent","parked_ms":"canary"}"#,
            r#"{"kind":"permanent","error_type":"\u0000"}"#,
        ] {
            let letter = letter("m-1", Some(reason), 0);
            assert_eq!(letter.why, Why::Unreadable, "{reason}");
            assert!(!format!("{letter:?}").contains("canary"));
        }
        assert_eq!(letter("m-1", None, 0).why.code(), MOVED);
    }

    #[test]
    fn filters_are_by_code_age_and_group() {
        let (young, old) = (letter("a", Some(PARKED), 60), letter("b", None, 7_200));
        let matching = |filter: &Filter| [&young, &old].map(|letter| filter.matches(letter, NOW_MS));
        let hour = Some(Duration::from_hours(1));
        assert_eq!(matching(&Filter::default()), [true, true]);
        let codes =
            |code: &[&str]| Filter { code: code.iter().map(|&code| code.to_owned()).collect(), ..Filter::default() };
        assert_eq!(matching(&codes(&["invalid_order"])), [true, false]);
        assert_eq!(matching(&codes(&["@moved"])), [false, true]);
        assert_eq!(matching(&codes(&["x", "@moved", "invalid_order"])), [true, true]);
        assert_eq!(matching(&Filter { older_than: hour, ..Filter::default() }), [false, true]);
        assert_eq!(matching(&Filter { newer_than: hour, ..Filter::default() }), [true, false]);
        assert_eq!(matching(&Filter { group: Some("g".to_owned()), ..Filter::default() }), [false, false]);
    }
}
