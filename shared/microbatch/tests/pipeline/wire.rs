//! Any bytes on the wire: P6. The event type of `aws_lambda_events` is the oracle for well-formed events.

use aws_lambda_events::sqs::SqsEvent;
use microbatch::{EventError, message::split_event, pipeline::RunError};
use proptest::prelude::*;

use crate::support::{Bench, body, paused, run_raw};

#[tokio::test(start_paused = true)]
async fn a_message_without_an_id_fails_the_invocation_before_any_item_starts() {
    let bench = Bench::new();
    let event = format!(r#"{{"Records":[{{"messageId":"a","body":{:?}}},{{"body":"{{}}"}}]}}"#, body("a", ""));
    let error = run_raw(&bench.pipeline, &event).await.expect_err("unanswerable");
    assert_eq!(error, RunError::Event(EventError::MissingMessageId { index: 1 }));
    assert!(error.to_string().contains("record 1 has no messageId"), "{error}");
    assert_eq!((bench.seen.total(), bench.pipeline.store().records().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_empty_batch_is_a_success() {
    let bench = Bench::new();
    assert_eq!(run_raw(&bench.pipeline, r#"{"Records":[]}"#).await.expect("an event").failed_ids(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_body_is_bounded_before_it_is_parsed() {
    let bench = Bench::on(microbatch::MemoryStore::new(), |options| options.body_bytes_max = 64);
    let long = body(&"x".repeat(64), "");
    let (reported, report) = bench.send(&[&long, &body("a", "")]).await;
    assert_eq!(reported, ["m0"]);
    assert_eq!(report.items[0].code, Some("body_too_large"));
}

/// JSON values of every kind, with the names that matter among them.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "\\PC{0,12}".prop_map(Into::into),
        Just(serde_json::Value::from(r#"{"id":"k","act":""}"#)),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        let name = prop_oneof![
            Just("messageId".to_owned()),
            Just("body".to_owned()),
            Just("attributes".to_owned()),
            Just("Records".to_owned()),
            Just("ApproximateReceiveCount".to_owned()),
            "[a-z]{1,4}",
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::vec((name, inner), 0..6)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// P6: arbitrary text gives an error or a response, never a panic: 10,000 texts.
    #[test]
    fn no_text_makes_it_panic(text in "(\\PC|[\"{}\\[\\]:,\\\\]){0,60}") {
        paused(async {
            let bench = Bench::new();
            let _either = run_raw(&bench.pipeline, &text).await;
        });
    }

    /// P6: whatever the records are, each reported id was received, is not empty and stands once, in order: 10,000 events.
    #[test]
    fn reported_ids_were_received(records in prop::collection::vec(json(), 0..8), ids in prop::collection::vec("[a-c]{0,2}", 0..8)) {
        let mut records = records;
        for (record, id) in records.iter_mut().zip(&ids) {
            if let serde_json::Value::Object(fields) = record {
                fields.insert("messageId".into(), id.as_str().into());
            }
        }
        let ids: Vec<String> = records.iter().map(|record| {
            record.get("messageId").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
        }).collect();
        let event = serde_json::json!({"Records": records}).to_string();
        paused(async {
            let bench = Bench::new();
            match run_raw(&bench.pipeline, &event).await {
                Ok(response) => {
                    prop_assert_eq!(response.check(ids.iter().map(String::as_str)), Ok(()));
                    prop_assert!(ids.iter().all(|id| !id.is_empty()));
                }
                Err(RunError::Event(EventError::MissingMessageId { index })) => {
                    prop_assert!(ids[index].is_empty());
                    prop_assert_eq!(bench.seen.total(), 0);
                }
                Err(error) => prop_assert!(false, "{}", error),
            }
            Ok(())
        })?;
    }

    /// Where the official type parses an event, we read the same from it.
    #[test]
    fn the_official_type_reads_the_same(
        records in prop::collection::vec(("[a-z0-9-]{1,8}", "\\PC{0,20}", prop::option::of(1_u32..9), prop::option::of("\\PC{1,8}")), 0..6)
    ) {
        let records: Vec<_> = records.into_iter().map(|(id, body, count, group)| {
            let mut attributes = serde_json::Map::new();
            attributes.extend(count.map(|count| ("ApproximateReceiveCount".to_owned(), count.to_string().into())));
            attributes.extend(group.map(|group| ("MessageGroupId".to_owned(), group.into())));
            serde_json::json!({"messageId": id, "body": body, "attributes": attributes, "messageAttributes": {},
                "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:q.fifo"})
        }).collect();
        let event = serde_json::json!({"Records": records}).to_string();
        let official: SqsEvent = serde_json::from_str(&event).expect("well-formed");
        let ours = split_event(&event).expect("well-formed");
        prop_assert_eq!(official.records.len(), ours.len());
        for (theirs, ours) in official.records.iter().zip(&ours) {
            prop_assert_eq!(theirs.message_id.as_deref(), Some(&*ours.id));
            let body: String = serde_json::from_str(ours.body.expect("a body").get()).expect("a string");
            prop_assert_eq!(theirs.body.as_deref(), Some(&*body));
            prop_assert_eq!(theirs.event_source_arn.as_deref(), ours.source_arn.as_deref());
            let attribute = |name: &str| theirs.attributes.get(name).map(String::as_str);
            prop_assert_eq!(attribute("ApproximateReceiveCount").map_or(1, |count| count.parse().expect("a number")), ours.receive_count);
            prop_assert_eq!(attribute("MessageGroupId"), ours.group.as_deref());
        }
    }
}
