//! Envelopes, and keys from elsewhere than the body: what they hold makes the item, and whatever stands there concerns its
//! own message only (P6, P7) and is never shown (P13).

use std::collections::BTreeSet;

use microbatch::{
    Envelope, KeySource, MemoryStore, MissingKey,
    Outcome::{Duplicate, Processed, Rejected},
    Pipeline, Selector,
    decode::{DecodeError, Decoded, Keying, decode},
    key::KeyMaker,
    message::{Message, split_event},
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::value::RawValue;

use crate::support::{Bench, Item, body, key_of, outcomes, run_raw, scripted};

const ENVELOPES: [Envelope; 3] = [Envelope::None, Envelope::Sns, Envelope::EventBridge];

/// The text that must not be shown: it stands wherever a sender can put text.
const CANARY: &str = "canary4111";

/// A payload in an envelope.
fn wrap(envelope: Envelope, payload: &str) -> String {
    match envelope {
        Envelope::Sns => format!(r#"{{"Type":"Notification","Message":{},"Signature":"x"}}"#, quoted(payload)),
        Envelope::EventBridge => format!(r#"{{"version":"0","detail-type":"x","detail":{payload}}}"#),
        _ => payload.to_owned(),
    }
}

/// Text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn bench(envelope: Envelope, store: MemoryStore) -> Bench<MemoryStore> {
    let builder = Pipeline::builder(scripted()).key("id").fingerprint_body();
    Bench::of(builder.envelope(envelope), store)
}

#[tokio::test(start_paused = true)]
async fn what_an_envelope_holds_is_the_item() {
    for envelope in ENVELOPES {
        let store = MemoryStore::new();
        let bench_of_envelope = bench(envelope, store.clone());
        let (reported, report) = bench_of_envelope.send(&[&wrap(envelope, &body("a", ""))]).await;
        assert_eq!((reported.len(), outcomes(&report)), (0, vec![Processed]), "{envelope:?}");
        assert!(store.get(&key_of("a")).is_some(), "the key is that of the payload");
        // The same work by another way: key and fingerprint are the same.
        let (_, report) = bench(Envelope::None, store).send(&[&body("a", "")]).await;
        assert_eq!(outcomes(&report), [Duplicate], "{envelope:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_its_envelope_is_rejected_alone() {
    for envelope in [Envelope::Sns, Envelope::EventBridge] {
        let (a, b) = (wrap(envelope, &body("a", "")), wrap(envelope, &body("b", "")));
        let bench = bench(envelope, MemoryStore::new());
        let (reported, report) = bench.send(&[&a, &body("c", ""), "no json", &wrap(envelope, "[]"), &b]).await;
        assert_eq!(reported, ["m1", "m2", "m3"], "{envelope:?}");
        assert_eq!(report.of("m1"), Some((Rejected, Some("bad_envelope"))));
        assert_eq!(report.of("m2"), Some((Rejected, Some("bad_envelope"))));
        let no_item = if envelope == Envelope::Sns { "undecodable" } else { "bad_envelope" };
        assert_eq!(report.of("m3"), Some((Rejected, Some(no_item))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_bounded_with_its_envelope() {
    let wrapped = wrap(Envelope::Sns, &body("a", ""));
    for (bytes_max, code) in [(wrapped.len(), None), (wrapped.len() - 1, Some("body_too_large"))] {
        let builder = Pipeline::builder(scripted()).key("id").envelope(Envelope::Sns);
        let limited = builder.options(|options| options.body_bytes_max = bytes_max.try_into().expect("small"));
        let (_, report) = Bench::of(limited, MemoryStore::new()).send(&[&wrapped]).await;
        assert_eq!(report.items[0].code, code);
    }
}

/// A message of which any part may be anything that is JSON.
#[derive(Debug, Clone)]
struct Hostile {
    /// Each is JSON text: what the message's body is, the queue's attributes, and the sender's.
    body: String,
    attributes: String,
    sent: String,
}

impl Hostile {
    fn record(&self, id: &str) -> String {
        let Self { body, attributes, sent } = self;
        format!(r#"{{"messageId":"{id}","body":{body},"attributes":{attributes},"messageAttributes":{sent}}}"#)
    }
}

/// JSON text, also such as no value has: with repeated names, broken surrogates, numbers of any size, and nested deeply.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => prop::sample::select(vec!["null", "true", "7", "-0.0", "1e400", "100000000000000000001", "\"\"", r#""\ud800""#])
            .prop_map(str::to_owned),
        4 => Just(quoted(CANARY)),
        2 => "\\PC{0,8}".prop_map(|text| quoted(&text)),
        2 => Just(quoted(&body(CANARY, ""))),
        1 => (100_usize..300).prop_map(|levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels))),
    ];
    let name = prop::sample::select(vec![
        "id",
        "act",
        "ms",
        "Message",
        "detail",
        "order",
        "stringValue",
        "dataType",
        r"\u0069d",
        r"\ud800",
        CANARY,
    ]);
    leaf.prop_recursive(4, 24, 6, move |inner| {
        let member = (name.clone(), inner.clone()).prop_map(|(name, value)| format!(r#""{name}":{value}"#));
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(|elements| format!("[{}]", elements.join(","))),
            prop::collection::vec(member, 0..6).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

/// Text that may be an item, JSON, cut off, or anything.
fn payload_text() -> impl Strategy<Value = String> {
    prop_oneof![
        json_text(),
        json_text().prop_map(|value| format!(r#"{{"id":"{CANARY}","x":{value}}}"#)),
        json_text().prop_map(|value| format!(r#"{{"id":{value}}}"#)),
        (json_text(), any::<prop::sample::Index>()).prop_map(|(text, end)| {
            let end = (0..=end.index(text.len() + 1)).rev().find(|end| text.is_char_boundary(*end));
            text[..end.unwrap_or_default()].to_owned()
        }),
        "(\\PC|[\"{}\\[\\]:,\\\\]){0,40}",
    ]
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let body = prop_oneof![
        1 => json_text(),
        8 => (payload_text(), prop::sample::select(ENVELOPES.to_vec()))
            .prop_map(|(payload, envelope)| quoted(&wrap(envelope, &payload))),
    ];
    let attributes =
        prop_oneof![json_text(), json_text().prop_map(|value| format!(r#"{{"MessageDeduplicationId":{value}}}"#)),];
    let data_type =
        prop_oneof![json_text(), prop::sample::select(vec!["\"String\"".to_owned(), "\"Binary\"".to_owned()])];
    let sent = prop_oneof![
        json_text(),
        json_text().prop_map(|value| format!(r#"{{"order":{value}}}"#)),
        (data_type, json_text()).prop_map(|(data_type, value)| {
            format!(r#"{{"order":{{"dataType":{data_type},"stringValue":{value}}}}}"#)
        }),
    ];
    (body, attributes, sent).prop_map(|(body, attributes, sent)| Hostile { body, attributes, sent })
}

fn sources() -> Vec<KeySource> {
    let selector = |expression: &str| Selector::parse(expression).expect("a selector").into();
    vec![
        selector("id"),
        selector("[id, x] | [0]"),
        KeySource::MessageId,
        KeySource::DeduplicationId,
        KeySource::Attribute("order".into()),
    ]
}

fn keying(source: KeySource, missing: MissingKey) -> Keying {
    let current = KeyMaker::new("test", source, Some(Selector::whole_body()));
    let previous = Some(KeyMaker::new("test", Selector::parse("x").expect("a path"), None));
    Keying { current, previous, missing }
}

/// The errors of a message under every envelope and source of keys.
fn errors(message: &Message<'_>) -> Vec<DecodeError> {
    let mut errors = Vec::new();
    for envelope in ENVELOPES {
        for source in sources() {
            let keying = keying(source, MissingKey::Reject);
            errors.extend(decode::<Item>(message, envelope, Some(&keying), 1_000).err());
        }
        errors.extend(decode::<Item>(message, envelope, None, 1_000).err());
    }
    errors
}

#[test]
fn the_hostile_messages_meet_every_error() {
    let (mut runner, strategy) = (TestRunner::deterministic(), hostile());
    let mut codes = BTreeSet::new();
    for _ in 0..3_000 {
        let hostile = strategy.new_tree(&mut runner).expect("a message").current();
        let event = format!(r#"{{"Records":[{}]}}"#, hostile.record("m0"));
        codes.extend(errors(&split_event(&event).expect("named")[0]).iter().map(DecodeError::code));
    }
    let expected = [
        "bad_envelope",
        "bad_key_attribute",
        "body_too_large",
        "inexact_number",
        "missing_key",
        "no_body",
        "not_json",
        "repeated_name",
        "too_deep",
        "undecodable",
    ];
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), expected);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// P6, P7: whatever a message's body, envelope and attributes are, nothing panics, the messages beside it are processed,
    /// and no other id than its own is reported.
    #[test]
    fn p6_p7_hostile_envelopes_and_attributes_concern_their_own_message(
        hostile in hostile(),
        envelope in prop::sample::select(ENVELOPES.to_vec()),
        source in prop::sample::select(sources()),
        missing in prop::sample::select(vec![MissingKey::Reject, MissingKey::RunWithout]),
    ) {
        let good = |id: &str| Hostile {
            body: quoted(&wrap(envelope, &body(id, ""))),
            attributes: format!(r#"{{"MessageDeduplicationId":"{id}"}}"#),
            sent: format!(r#"{{"order":{{"dataType":"String","stringValue":"{id}"}}}}"#),
        };
        let records = [good("good-0").record("m0"), hostile.record("m1"), good("good-2").record("m2")];
        let event = format!(r#"{{"Records":[{}]}}"#, records.join(","));
        runtime().block_on(async {
            let builder = Pipeline::builder(scripted()).key_from(source).envelope(envelope);
            let bench = Bench::of(builder.fingerprint_body().on_missing_key(missing), MemoryStore::new());
            let response = run_raw(&bench.pipeline, &event).await.expect("all are named");
            let report = bench.recorder.last();
            prop_assert_eq!((report.items[0].outcome, report.items[2].outcome), (Processed, Processed));
            prop_assert!([Processed, Rejected].contains(&report.items[1].outcome));
            let reported: &[&str] = if report.items[1].outcome == Rejected { &["m1"] } else { &[] };
            prop_assert_eq!(response.failed_ids(), reported);
            let shown = format!("{report:?}");
            prop_assert!(!shown.contains(CANARY), "{}", shown);
            Ok(())
        })?;
    }

    /// P13: no error shows what is in a body, an envelope or an attribute.
    #[test]
    fn p13_no_error_shows_what_was_sent(hostile in hostile()) {
        let event = format!(r#"{{"Records":[{}]}}"#, hostile.record("m0"));
        let messages = split_event(&event).expect("named");
        let mut shown = vec![format!("{:?}", messages[0])];
        shown.extend(errors(&messages[0]).iter().map(|error| format!("{error} {error:?} {error:#?}")));
        for shown in shown {
            prop_assert!(!shown.contains(CANARY), "{}", shown);
        }
    }

    /// An envelope is no part of the work: its payload makes the item, the key and the fingerprint that it makes as a body,
    /// or fails as it fails there.
    #[test]
    fn an_envelope_changes_nothing_of_what_it_holds(value in json_text(), source in prop::sample::select(sources())) {
        let payload = format!(r#"{{"x":{value},"id":"k"}}"#);
        let keying = keying(source, MissingKey::Reject);
        let decoded = ENVELOPES.map(|envelope| {
            let hostile = Hostile {
                body: quoted(&wrap(envelope, &payload)),
                attributes: r#"{"MessageDeduplicationId":"d"}"#.to_owned(),
                sent: r#"{"order":{"dataType":"Number","stringValue":"1"}}"#.to_owned(),
            };
            let event = format!(r#"{{"Records":[{}]}}"#, hostile.record("m0"));
            let decoded = decode(&split_event(&event).expect("named")[0], envelope, Some(&keying), 1_000_000);
            decoded.map(|Decoded { item, identity }: Decoded<Box<RawValue>>| (item.get().to_owned(), identity))
        });
        prop_assert_eq!(&decoded[1], &decoded[0]);
        prop_assert_eq!(&decoded[2], &decoded[0]);
    }
}
