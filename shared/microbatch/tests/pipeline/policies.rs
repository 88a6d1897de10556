//! What a user can choose: missing keys, no idempotency, previous keys, the cache, and refused writes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use microbatch::{
    Done, ItemContext, MemoryStore, MissingKey, NoWrites,
    Outcome::{Busy, Conflict, Duplicate, Processed, Rejected},
    Pipeline, ProcessError, Processor,
    record::{Record, Status, StoredResult},
};
use microbatch_testkit::fault::{Fault, FaultStore};
use serde::Deserialize;

use crate::support::{Bench, body, outcomes};

/// An item whose two versions have different keys, either of which may be missing.
#[derive(Deserialize)]
struct Versioned {}

struct Accept;

impl Processor for Accept {
    type Item = Versioned;
    type Output = ();
    type Write = NoWrites;

    async fn process(&self, _item: Versioned, _cx: &ItemContext) -> Result<Done<()>, ProcessError> {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        Ok(().into())
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_without_a_key_runs_only_if_that_was_asked_for() {
    let strict = Bench::of(Pipeline::builder(Accept).key("id"), MemoryStore::new());
    let (reported, report) = strict.send(&["{}"]).await;
    assert_eq!((reported.len(), outcomes(&report)), (1, vec![Rejected]));
    let lenient =
        Bench::of(Pipeline::builder(Accept).key("id").on_missing_key(MissingKey::RunWithout), MemoryStore::new());
    let (reported, report) = lenient.send(&["{}", "{}", r#"{"id":"a"}"#, r#"{"id":"a"}"#]).await;
    assert_eq!((reported.len(), outcomes(&report)), (0, vec![Processed, Processed, Processed, Duplicate]));
    assert_eq!(lenient.pipeline.store().records().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_of_two_meanings_is_never_run_for_want_of_a_key() {
    let lenient =
        Bench::of(Pipeline::builder(Accept).key("id").on_missing_key(MissingKey::RunWithout), MemoryStore::new());
    let (_, report) = lenient.send(&[r#"{"id":"a","id":"b"}"#]).await;
    assert_eq!(report.items[0].code, Some("repeated_name"));
}

#[tokio::test(start_paused = true)]
async fn without_idempotency_every_delivery_runs_and_nothing_is_stored() {
    let bench = Bench::on(MemoryStore::new(), |options| options.idempotency = false);
    for _ in 0..2 {
        let (reported, report) = bench.send(&[&body("a", ""), &body("a", ""), &body("b", "fail")]).await;
        assert_eq!((reported, outcomes(&report)[..2].to_vec()), (vec!["m2".to_owned()], vec![Processed, Processed]));
    }
    assert_eq!((bench.seen.runs("a"), bench.pipeline.store().records().len()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_version_did_under_its_key_is_not_done_again() {
    // Rule 15.
    let memory = MemoryStore::new();
    let old = Bench::of(Pipeline::builder(Accept).key("old"), memory.clone());
    let new = Bench::of(Pipeline::builder(Accept).key("new").previous_key("old"), memory.clone());
    let item = r#"{"old":"o","new":"n"}"#;
    assert_eq!(outcomes(&old.send(&[item]).await.1), [Processed]);
    let (reported, report) = new.send(&[item]).await;
    assert_eq!((reported.len(), outcomes(&report)), (0, vec![Duplicate]));
    let claimed_and_released: Vec<Record> = memory
        .records()
        .into_iter()
        .map(|(_, record)| record)
        .filter(|record| record.status == Status::InProgress)
        .collect();
    assert!(claimed_and_released.iter().all(Record::is_released), "{claimed_and_released:?}");
    // Another item under the new key, whose old key is free.
    assert_eq!(outcomes(&new.send(&[r#"{"old":"p","new":"m"}"#]).await.1), [Processed]);
}

#[tokio::test(start_paused = true)]
async fn two_versions_that_look_at_each_others_keys_never_both_run() {
    let memory = MemoryStore::new();
    let old = Bench::of(Pipeline::builder(Accept).key("old").previous_key("new"), memory.clone());
    let new = Bench::of(Pipeline::builder(Accept).key("new").previous_key("old"), memory);
    let item = [r#"{"old":"o","new":"n"}"#];
    let (one, other) = tokio::join!(old.send(&item), new.send(&item));
    let both = [outcomes(&one.1)[0], outcomes(&other.1)[0]];
    assert!(both.contains(&Busy), "{both:?}");
    assert!(both.iter().filter(|outcome| **outcome == Processed).count() <= 1, "{both:?}");
}

#[tokio::test(start_paused = true)]
async fn the_cache_spares_the_request_and_is_off_by_default() {
    for (entries, requests_of_a_redelivery) in [(0, 1), (10, 0)] {
        let count = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&count);
        let store = FaultStore::new(MemoryStore::new(), move |_| {
            counting.fetch_add(1, Ordering::SeqCst);
            Fault::None
        });
        let bench = Bench::on(store, |options| options.completed_cache_entries = entries);
        bench.send(&[&body("a", "")]).await;
        let before = count.load(Ordering::SeqCst);
        let (reported, report) = bench.send(&[&body("a", "")]).await;
        assert_eq!((reported.len(), outcomes(&report)), (0, vec![Duplicate]));
        assert_eq!(count.load(Ordering::SeqCst) - before, requests_of_a_redelivery, "{entries} entries");
        let (_, report) = bench.send(&[r#"{"id":"a","act":"","ms":7}"#]).await;
        assert_eq!(outcomes(&report), [Conflict], "other content is a conflict, cached or not");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_item_is_not_cached() {
    let bench = Bench::on(MemoryStore::new(), |options| options.completed_cache_entries = 10);
    for _ in 0..2 {
        bench.send(&[&body("a", "fail")]).await;
    }
    assert_eq!(bench.seen.runs("a"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_result_is_replayed_byte_for_byte() {
    // P5.
    let bench = Bench::new();
    bench.send(&[&body("a\\u00e9\\n", "")]).await;
    let records = bench.pipeline.store().records();
    assert_eq!(records[0].1.result, StoredResult::Kept("\"a\u{e9}\\n\"".into()));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_did_not_change_is_not_its_own_predecessor() {
    let builder = Pipeline::builder(Accept).key("new || old").previous_key("old");
    let bench = Bench::of(builder, MemoryStore::new());
    assert_eq!(outcomes(&bench.send(&[r#"{"old":"o"}"#]).await.1), [Processed]);
    assert_eq!(outcomes(&bench.send(&[r#"{"old":"o"}"#]).await.1), [Duplicate]);
}

#[tokio::test(start_paused = true)]
async fn work_whose_holder_vanished_is_parked_under_either_key() {
    // Rule 9: under Park nothing runs that a vanished holder may have done.
    let memory = MemoryStore::new();
    let old = Bench::of(Pipeline::builder(Accept).key("old"), memory.clone());
    old.send(&[r#"{"old":"o"}"#]).await;
    let (key, mut record) = memory.records().remove(0);
    (record.status, record.result) = (Status::InProgress, StoredResult::None);
    record.lease_end_ms = Some(2);
    memory.insert(key, record);
    let park =
        |options: &mut microbatch::Options| options.on_lapsed_lease = microbatch::transition::OnLapsedLease::Park;
    let same = Bench::of(Pipeline::builder(Accept).key("old").options(park), memory.clone());
    let new = Bench::of(Pipeline::builder(Accept).key("new").previous_key("old").options(park), memory.clone());
    for bench in [same, new] {
        let (reported, report) = bench.send(&[r#"{"old":"o","new":"n"}"#]).await;
        assert_eq!((reported.len(), outcomes(&report)), (1, vec![Rejected]));
        assert_eq!(report.items[0].code, Some("holder_vanished"));
    }
    let retry = Bench::of(Pipeline::builder(Accept).key("new").previous_key("old"), memory);
    assert_eq!(outcomes(&retry.send(&[r#"{"old":"o","new":"n"}"#]).await.1), [Processed]);
}

/// A result whose serialization panics, and an error whose destructor does.
struct Bomb;

impl serde::Serialize for Bomb {
    fn serialize<S: serde::Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        panic!("on purpose");
    }
}

#[derive(Debug)]
struct ErrorBomb;

impl std::fmt::Display for ErrorBomb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bomb")
    }
}

impl std::error::Error for ErrorBomb {}

impl Drop for ErrorBomb {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}

struct Bombs;

impl Processor for Bombs {
    type Item = serde_json::Value;
    type Output = Bomb;
    type Write = NoWrites;

    async fn process(&self, item: serde_json::Value, _cx: &ItemContext) -> Result<Done<Bomb>, ProcessError> {
        if item["fail"] == true { Err(ErrorBomb)? } else { Ok(Bomb.into()) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_that_panics_is_done_and_not_kept_and_an_error_that_panics_fails_alone() {
    // P7: the effect has happened; that its result cannot be kept must not repeat it.
    let bench = Bench::of(Pipeline::builder(Bombs).key("id"), MemoryStore::new());
    let (reported, report) = bench.send(&[r#"{"id":1}"#, r#"{"id":2,"fail":true}"#, r#"{"id":3}"#]).await;
    assert_eq!(reported, ["m1"]);
    assert_eq!((report.counts.results_not_kept, report.counts.panics_in_drop), (2, 1));
    let (_, report) = bench.send(&[r#"{"id":1}"#]).await;
    assert_eq!(outcomes(&report), [Duplicate]);
}
