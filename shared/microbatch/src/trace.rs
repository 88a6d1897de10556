//! Trace contexts: which span a piece of work belongs to, read from and written to the headers that carry it.
//!
//! Two forms are known: W3C's `traceparent` ("Trace Context", level 1) and AWS X-Ray's header, which SQS carries as
//! `AWSTraceHeader` and Lambda announces for each invocation. Both are the sender's text: what is no such header is no
//! trace, and only numbers come out, never text (P13).

use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::message::decode_str;

/// A span, by which others can name it as their parent or link to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: NonZeroU128,
    /// The span in it.
    pub span_id: NonZeroU64,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

/// Spreads the items' span ids over all 64 bits: odd, so that no two indexes meet (Knuth's multiplicative hashing).
const ITEM_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl TraceParent {
    /// Reads W3C's `traceparent`: `00-{32 hex digits}-{16 hex digits}-{2 hex digits}`.
    pub fn from_w3c(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let version = parts.next()?;
        let trace_id = hex(parts.next()?, 32).and_then(NonZeroU128::new)?;
        let span_id = hex(parts.next()?, 16).and_then(|id| NonZeroU64::new(u64::try_from(id).ok()?))?;
        let flags = hex(parts.next()?, 2)?;
        // Later versions may append parts; version ff is forbidden.
        let known =
            hex(version, 2).is_some_and(|version| version != 0xff) && (version != "00" || parts.next().is_none());
        known.then_some(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }

    /// Reads X-Ray's header: `Root=1-{8 hex digits}-{24 hex digits};Parent={16 hex digits};Sampled=1`, in any order. One
    /// without a parent names no span.
    pub fn from_xray(header: &str) -> Option<Self> {
        let field = |name: &str| {
            header.split(';').find_map(|part| {
                let (key, value) = part.trim().split_once('=')?;
                key.eq_ignore_ascii_case(name).then_some(value)
            })
        };
        let (seconds, rest) = field("Root")?.strip_prefix("1-")?.split_once('-')?;
        let trace_id = NonZeroU128::new((hex(seconds, 8)? << 96) | hex(rest, 24)?)?;
        let span_id = NonZeroU64::new(u64::try_from(hex(field("Parent")?, 16)?).ok()?)?;
        Some(Self { trace_id, span_id, sampled: field("Sampled") == Some("1") })
    }

    /// The span of a batch's item, by its position: the same each time it is asked for.
    #[must_use]
    pub fn of_item(self, index: usize) -> Self {
        let id = (index as u64).wrapping_add(1).wrapping_mul(ITEM_STEP).wrapping_add(self.span_id.get());
        Self { span_id: NonZeroU64::new(id).unwrap_or(NonZeroU64::MIN), ..self }
    }
}

/// W3C's `traceparent`.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

/// The span that sent a message: by the attribute `traceparent` that instrumented senders add, else by SQS's own header.
pub(crate) fn sender(message_attributes: Option<&RawValue>, trace_header: Option<&str>) -> Option<TraceParent> {
    let by_attribute = message_attributes.and_then(traceparent_attribute);
    by_attribute.or_else(|| trace_header.and_then(TraceParent::from_xray))
}

fn traceparent_attribute(attributes: &RawValue) -> Option<TraceParent> {
    // A look that costs no parse, for the many messages that have no such attribute.
    if !attributes.get().contains("traceparent") {
        return None;
    }
    let attributes: Attributes<'_> = serde_json::from_str(attributes.get()).ok()?;
    let text = decode_str(attributes.traceparent?.string_value?.get())?;
    TraceParent::from_w3c(&text)
}

#[derive(Deserialize)]
struct Attributes<'e> {
    #[serde(borrow)]
    traceparent: Option<Attribute<'e>>,
}

#[derive(Deserialize)]
struct Attribute<'e> {
    #[serde(borrow, rename = "stringValue")]
    string_value: Option<&'e RawValue>,
}

/// Exactly so many hex digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let all_hex = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    all_hex.then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parent(trace_id: u128, span_id: u64, sampled: bool) -> TraceParent {
        let (trace_id, span_id) = (NonZeroU128::new(trace_id), NonZeroU64::new(span_id));
        TraceParent { trace_id: trace_id.expect("not 0"), span_id: span_id.expect("not 0"), sampled }
    }

    #[test]
    fn an_xray_header_is_read_in_any_order() {
        let expected = parent(0x5759_e988_bd86_2e3f_e1be_46a9_9427_2793, 0x5399_5c3f_42cd_8ad8, true);
        for header in [
            "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1",
            "Sampled=1; Parent=53995c3f42cd8ad8; Lineage=a87bd80c:0; Root=1-5759e988-bd862e3fe1be46a994272793",
        ] {
            assert_eq!(TraceParent::from_xray(header), Some(expected), "{header}");
        }
        let unsampled = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0";
        assert_eq!(TraceParent::from_xray(unsampled).map(|parent| parent.sampled), Some(false));
    }

    #[test]
    fn what_is_no_header_is_no_trace() {
        for header in [
            "",
            "Root=1-5759e988-bd862e3fe1be46a994272793",
            "Root=2-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8",
            "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=0000000000000000",
            "Root=1-00000000-000000000000000000000000;Parent=53995c3f42cd8ad8",
            "Root=1-5759e98é-bd862e3fe1be46a99427279;Parent=53995c3f42cd8ad8",
        ] {
            assert_eq!(TraceParent::from_xray(header), None, "{header}");
        }
        for header in [
            "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8",
            "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01-more",
            "ff-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01",
            "00-+759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01",
        ] {
            assert_eq!(TraceParent::from_w3c(header), None, "{header}");
        }
    }

    #[test]
    fn the_senders_own_attribute_goes_before_the_queues_header() {
        let attributes = RawValue::from_string(
            r#"{"traceparent":{"stringValue":"00-0000000000000000000000000000000a-000000000000000b-01","dataType":"String"}}"#
                .to_owned(),
        )
        .expect("JSON");
        let header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
        assert_eq!(sender(Some(&attributes), Some(header)), Some(parent(10, 11, true)));
        assert_eq!(sender(None, Some(header)), TraceParent::from_xray(header));
        for broken in [r#"{"traceparent":7}"#, r#"{"traceparent":{"stringValue":["x"]}}"#, r#"["traceparent"]"#] {
            let broken = RawValue::from_string(broken.to_owned()).expect("JSON");
            assert_eq!(sender(Some(&broken), Some(header)), TraceParent::from_xray(header), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace_id in 1..u128::MAX, span_id in 1..u64::MAX, sampled: bool) {
            let parent = parent(trace_id, span_id, sampled);
            prop_assert_eq!(TraceParent::from_w3c(&parent.to_string()), Some(parent));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}") {
            let _ = (TraceParent::from_w3c(&text), TraceParent::from_xray(&text));
        }

        #[test]
        fn no_two_items_share_a_span(span_id in 1..u64::MAX, a in 0..10_000_usize, b in 0..10_000_usize) {
            prop_assume!(a != b);
            let batch = parent(1, span_id, true);
            prop_assert_ne!(batch.of_item(a), batch.of_item(b));
        }
    }
}
