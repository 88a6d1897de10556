//! Equal keys in one batch and across batches, and where keys are found: P1, P5, P8, P9.

use microbatch::{
    KeySource, MemoryStore, MissingKey, Outcome,
    Outcome::{Conflict, Duplicate, Failed, Processed, Rejected},
    Pipeline, PipelineBuilder,
    record::{Status, StoredResult},
    store::StoreErrorKind::{Throttled, TimedOut},
};
use microbatch_testkit::fault::{Fault, FaultStore};
use proptest::prelude::*;

use crate::support::{Bench, Scripted, body, key_of, outcomes, paused, run_raw, scripted};

#[tokio::test(start_paused = true)]
async fn copies_in_a_batch_run_once_and_share_the_outcome() {
    // P8.
    let bench = Bench::new();
    let (good, failing) = (body("a", ""), body("b", "fail"));
    let (reported, report) = bench.send(&[&good, &failing, &good, &failing, &good]).await;
    assert_eq!(outcomes(&report), [Processed, Failed, Duplicate, Failed, Duplicate]);
    assert_eq!(reported, ["m1", "m3"]);
    assert_eq!((bench.seen.runs("a"), bench.seen.runs("b")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_comes_when_its_leader_is_done_shares_the_outcome_too() {
    // One claim at a time: the copies are decoded long after their leader was completed.
    let bench = Bench::on(MemoryStore::new(), |options| options.concurrency = 1);
    let first = body("a", "");
    let others: Vec<String> = (0..20).map(|index| body(&format!("x{index}"), "slow")).collect();
    let mut bodies = vec![first.as_str()];
    bodies.extend(others.iter().map(String::as_str));
    bodies.push(&first);
    let (reported, report) = bench.send(&bodies).await;
    assert_eq!(reported, [""; 0]);
    assert_eq!(report.of("m21"), Some((Duplicate, None)));
    assert_eq!(bench.seen.runs("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_redelivered_batch_has_no_effect_and_replays_the_record() {
    // P1, P5.
    let bench = Bench::new();
    let bodies = [body("a", ""), body("b", "")];
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    bench.send(&bodies).await;
    let before = bench.pipeline.store().get(&key_of("a")).expect("a record");
    assert_eq!((before.status, before.result.clone()), (Status::Completed, StoredResult::Kept("\"a\"".into())));
    let (reported, report) = bench.send(&bodies).await;
    assert_eq!((reported.len(), outcomes(&report)), (0, vec![Duplicate, Duplicate]));
    assert_eq!(bench.seen.total(), 2);
    assert_eq!(bench.pipeline.store().get(&key_of("a")), Some(before));
}

#[tokio::test(start_paused = true)]
async fn other_content_under_a_used_key_never_runs() {
    // P9, within a batch and after it.
    let bench = Bench::new();
    let (one, other) = (r#"{"id":"a","ms":1}"#, r#"{"id":"a","ms":2}"#);
    let (reported, report) = bench.send(&[one, other]).await;
    assert_eq!((reported, outcomes(&report)), (vec!["m1".to_owned()], vec![Processed, Conflict]));
    let (reported, report) = bench.send(&[other]).await;
    assert_eq!((reported, outcomes(&report)), (vec!["m0".to_owned()], vec![Conflict]));
    assert_eq!(bench.seen.runs("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn other_content_is_no_conflict_before_anything_completed() {
    let bench = Bench::new();
    let (reported, report) = bench.send(&[&body("a", "fail"), &body("a", "")]).await;
    assert_eq!(reported, ["m0", "m1"]);
    assert_eq!(report.of("m1"), Some((Outcome::Busy, Some("held_by_another"))));
    let (_, report) = bench.send(&[&body("a", "")]).await;
    assert_eq!(outcomes(&report), [Processed]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_item_runs_again_and_its_record_counts_the_tries() {
    let bench = Bench::new();
    for tries in 1..=3 {
        let (_, report) = bench.send(&[&body("a", "fail")]).await;
        assert_eq!((report.items[0].outcome, report.items[0].code), (Failed, Some("on_purpose")));
        assert_eq!(report.items[0].tries, Some(tries));
    }
    let record = bench.pipeline.store().get(&key_of("a")).expect("a record");
    assert!(record.is_released());
    assert_eq!((record.owner, record.fingerprint), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_result_over_the_cap_is_done_and_not_kept() {
    let bench = Bench::on(MemoryStore::new(), |options| options.result_bytes_max = 2);
    let (_, report) = bench.send(&[&body("long", "")]).await;
    assert_eq!((outcomes(&report), report.counts.results_not_kept), (vec![Processed], 1));
    let record = bench.pipeline.store().get(&key_of("long")).expect("a record");
    assert_eq!(record.result, StoredResult::NotKept);
}

#[tokio::test(start_paused = true)]
async fn an_item_without_a_key_is_rejected_alone() {
    let bench = Bench::new();
    let (reported, report) = bench.send(&[r#"{"id":""}"#, &body("a", ""), "no json", "[7]"]).await;
    assert_eq!(reported, ["m0", "m2", "m3"]);
    assert_eq!(report.of("m0"), Some((Rejected, Some("missing_key"))));
    assert_eq!(report.of("m2"), Some((Rejected, Some("undecodable"))));
    assert_eq!(report.of("m3"), Some((Rejected, Some("undecodable"))));
    assert_eq!(bench.pipeline.store().records().len(), 1);
}

/// A message with an attribute `order` of this JSON text; none when empty.
fn record(id: &str, body: &str, order: &str) -> String {
    let order = if order.is_empty() { String::new() } else { format!(r#""order":{order}"#) };
    format!(
        r#"{{"messageId":"{id}","body":{body:?},"attributes":{{"MessageDeduplicationId":"d-{id}"}},"messageAttributes":{{{order}}}}}"#
    )
}

fn text_attribute(value: &str) -> String {
    format!(r#"{{"stringValue":"{value}","dataType":"String"}}"#)
}

/// Runs records by keys of a source, and returns the outcome and code of each.
async fn run_keyed(
    store: &MemoryStore,
    change: impl FnOnce(PipelineBuilder<Scripted>) -> PipelineBuilder<Scripted>,
    records: &[String],
) -> Vec<(Outcome, Option<&'static str>)> {
    let builder = Pipeline::builder(scripted()).fingerprint_body();
    let bench = Bench::of(change(builder), store.clone());
    let event = format!(r#"{{"Records":[{}]}}"#, records.join(","));
    run_raw(&bench.pipeline, &event).await.expect("an event");
    bench.recorder.last().items.iter().map(|item| (item.outcome, item.code)).collect()
}

#[tokio::test(start_paused = true)]
async fn the_id_of_a_message_tells_redeliveries_from_new_messages() {
    let (store, body) = (MemoryStore::new(), body("a", ""));
    let records = [record("one", &body, ""), record("two", &body, "")];
    for expected in [Processed, Duplicate] {
        let outcomes = run_keyed(&store, |builder| builder.key_from(KeySource::MessageId), &records).await;
        assert_eq!(outcomes, [(expected, None), (expected, None)]);
    }
    assert!(store.get(&key_of("one")).is_some(), "the key of the id's text");
}

#[tokio::test(start_paused = true)]
async fn a_deduplication_id_is_a_key() {
    let store = MemoryStore::new();
    let records = [record("one", &body("a", ""), ""), r#"{"messageId":"two","body":"{\"id\":\"a\"}"}"#.to_owned()];
    let outcomes = run_keyed(&store, |builder| builder.key_from(KeySource::DeduplicationId), &records).await;
    assert_eq!(outcomes, [(Processed, None), (Rejected, Some("missing_key"))]);
    assert!(store.get(&key_of("d-one")).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_attribute_is_a_key_and_the_body_still_makes_the_fingerprint() {
    let source = || KeySource::Attribute("order".into());
    let (store, a, b) = (MemoryStore::new(), body("a", ""), body("b", ""));
    let records = [
        record("m0", &a, &text_attribute("o-1")),
        record("m1", &a, &text_attribute("o-1")),
        record("m2", &b, &text_attribute("o-1")),
        record("m3", &a, &text_attribute("o-2")),
        record("m4", &a, ""),
        record("m5", &a, &text_attribute("")),
        record("m6", &a, r#"{"binaryValue":"bw==","dataType":"Binary"}"#),
    ];
    let outcomes = run_keyed(&store, |builder| builder.key_from(source()), &records).await;
    let expected = [
        (Processed, None),
        (Duplicate, None),
        (Conflict, Some("fingerprint_differs")),
        (Processed, None),
        (Rejected, Some("missing_key")),
        (Rejected, Some("missing_key")),
        (Rejected, Some("bad_key_attribute")),
    ];
    assert_eq!(outcomes, expected);
    // Without a key they run, where that is the policy; what is malformed does not.
    let lenient =
        |builder: PipelineBuilder<Scripted>| builder.key_from(source()).on_missing_key(MissingKey::RunWithout);
    let outcomes = run_keyed(&store, lenient, &records[4..]).await;
    assert_eq!(outcomes, [(Processed, None), (Processed, None), (Rejected, Some("bad_key_attribute"))]);
    // A key that moves from the body into an attribute keeps its records.
    let outcomes = run_keyed(&store, |builder| builder.key("id"), &[record("m7", &body("o-1", ""), "")]).await;
    assert_eq!(outcomes, [(Conflict, Some("fingerprint_differs"))]);
}

#[tokio::test(start_paused = true)]
async fn a_previous_key_is_of_the_body() {
    let (store, records) = (MemoryStore::new(), [record("m0", &body("a", ""), "")]);
    assert_eq!(run_keyed(&store, |builder| builder.key("id"), &records).await, [(Processed, None)]);
    let moved = |builder: PipelineBuilder<Scripted>| builder.key_from(KeySource::MessageId).previous_key("id");
    assert_eq!(run_keyed(&store, moved, &records).await, [(Duplicate, None)]);
}

#[test]
fn a_source_that_no_message_has_is_a_wrong_setting() {
    let builder = Pipeline::builder(scripted()).key_from(KeySource::Attribute("order id".into()));
    let error = builder.options(|options| options.namespace = "test".into()).validate().expect_err("a space");
    assert_eq!(error.problems.len(), 1);
    assert_eq!(error.problems[0].setting, "key");
    assert!(error.problems[0].what.starts_with("expected a message attribute's name"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// P8: however many copies of a key a batch holds and wherever they stand, its work runs once, and each copy shares the
    /// outcome: whatever the limits, the calls' size, and whether the copy comes before or after its leader has ended:
    /// 10,000 batches.
    #[test]
    fn copies_of_a_key_run_once(
        ids in prop::collection::vec(0_usize..6, 1..24),
        concurrency in 1_u64..8,
        chunk_size in 1_usize..9,
    ) {
        const ACTS: [&str; 6] = ["", "slow", "fail", "permanent", "panic", ""];
        paused(async {
            let store = MemoryStore::with_chunk_size(chunk_size.try_into().expect("not zero"));
            let bench = Bench::on(store, |options| options.concurrency = concurrency);
            let bodies: Vec<String> = ids.iter().map(|id| body(&id.to_string(), ACTS[*id])).collect();
            let (reported, report) = bench.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
            let mut seen = std::collections::HashSet::new();
            for (index, id) in ids.iter().enumerate() {
                let first = seen.insert(*id);
                let of_leader = [Processed, Processed, Failed, Rejected, Failed, Processed][*id];
                let expected = if first || of_leader != Processed { of_leader } else { Duplicate };
                prop_assert_eq!(report.items[index].outcome, expected, "message {} of key {}", index, id);
                prop_assert_eq!(reported.contains(&format!("m{index}")), of_leader != Processed);
                prop_assert_eq!(bench.seen.runs(&id.to_string()), 1);
            }
            Ok(())
        })?;
    }

    /// P9: once a key is completed no message under it runs again, whatever its content, in that batch or a later one; and all
    /// that are ever acknowledged have the content that was completed. However the store fails: 10,000 histories.
    #[test]
    fn p9_what_was_completed_with_other_content_never_runs(
        batches in prop::collection::vec((prop::collection::vec((0_usize..3, 0_usize..6), 1..8), any::<bool>()), 1..5),
        faults in prop::collection::vec(0_u8..16, 1..12),
        concurrency in 1_u64..5,
        chunk_size in 1_usize..5,
    ) {
        // The content says what happens, and is part of the fingerprint.
        const ACTS: [&str; 6] = ["", "slow", "succeed", "fail", "permanent", "panic"];
        paused(async {
            let memory = MemoryStore::with_chunk_size(chunk_size.try_into().expect("not zero"));
            let store = FaultStore::new(memory.clone(), move |point| {
                match faults[usize::try_from(point.nth).expect("small") % faults.len()] {
                    0 => Fault::Before(Throttled),
                    1 => Fault::After(TimedOut),
                    2 => Fault::HangAfter,
                    3 => Fault::Delay(std::time::Duration::from_millis(40)),
                    _ => Fault::None,
                }
            });
            let bench = Bench::on(store, |options| options.concurrency = concurrency);
            let mut acknowledged_content = std::collections::HashMap::new();
            for (messages, pause) in &batches {
                let completed = |key: &usize| {
                    let record = memory.get(&key_of(&key.to_string()));
                    record.is_some_and(|record| record.status == Status::Completed)
                };
                let done: Vec<usize> = (0..3).filter(completed).collect();
                let runs = |key: &usize| bench.seen.runs(&key.to_string());
                let runs_before: Vec<usize> = done.iter().map(runs).collect();
                let bodies: Vec<String> =
                    messages.iter().map(|(key, content)| body(&key.to_string(), ACTS[*content])).collect();
                let (reported, _) = bench.send_by(&bodies.iter().map(String::as_str).collect::<Vec<_>>(), 3_000).await;
                prop_assert_eq!(done.iter().map(runs).collect::<Vec<_>>(), runs_before, "of the keys {:?}", done);
                for (index, (key, content)) in messages.iter().enumerate() {
                    if !reported.contains(&format!("m{index}")) {
                        let first = acknowledged_content.entry(*key).or_insert(*content);
                        prop_assert_eq!(*first, *content, "key {}", key);
                    }
                }
                if *pause {
                    // Until leases have lapsed.
                    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
                }
            }
            Ok(())
        })?;
    }
}
