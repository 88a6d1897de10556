//! Batch processors: items are collected into sub-batches, and each gets its own outcome.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use microbatch::{
    BatchItem, BatchProcessor, Clock, Done, FailureKind, FifoFailure, InBatches, ItemContext, MemoryStore, NoWrites,
    Options,
    Outcome::{Abandoned, Duplicate, Failed, Processed, Rejected},
    Pipeline, PipelineBuilder, ProcessError, Processor, TotalFailure,
    batch_processor::{BatchResult, ItemResult},
    batcher::Limits,
    control::BreakerState,
    record::Status,
    store::StoreErrorKind,
};
use microbatch_testkit::{
    clock::TokioClock,
    fault::{Fault, FaultStore, Operation},
    queue::{CallFault, CallPlan, EntryFault, NewMessage},
    try_it::KeepingStore,
};
use proptest::{collection::vec, prelude::*};
use serde::Deserialize;

use crate::{
    rig::{CUT_OFF_MS, TIMEOUT_MS, item, rig, timed, told},
    support::key_of,
};

#[derive(Deserialize)]
struct Reading {
    id: String,
    #[serde(default)]
    act: String,
    #[serde(default)]
    ms: u64,
}

/// What a batch processor was given.
#[derive(Default)]
struct Calls {
    /// The items of each call, in order, and when it came.
    given: Mutex<Vec<(u64, Vec<String>)>>,
    items_at_once: AtomicUsize,
    items_at_once_max: AtomicUsize,
}

impl Calls {
    /// How many items each call had.
    fn sizes(&self) -> Vec<usize> {
        self.given.lock().expect("lock").iter().map(|(_, ids)| ids.len()).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.given.lock().expect("lock").iter().map(|(_, ids)| ids.join(" ")).collect()
    }

    fn times_ms(&self, since_ms: u64) -> Vec<u64> {
        self.given.lock().expect("lock").iter().map(|(at_ms, _)| at_ms - since_ms).collect()
    }

    /// How often each item was given.
    fn runs(&self) -> HashMap<String, usize> {
        let mut runs = HashMap::new();
        for id in self.given.lock().expect("lock").iter().flat_map(|(_, ids)| ids) {
            *runs.entry(id.clone()).or_default() += 1;
        }
        runs
    }

    fn at_once_max(&self) -> usize {
        self.items_at_once_max.load(Ordering::SeqCst)
    }
}

struct AtOnce<'a>(&'a Calls, usize);

impl<'a> AtOnce<'a> {
    fn new(calls: &'a Calls, count: usize) -> Self {
        let at_once = calls.items_at_once.fetch_add(count, Ordering::SeqCst) + count;
        calls.items_at_once_max.fetch_max(at_once, Ordering::SeqCst);
        Self(calls, count)
    }
}

impl Drop for AtOnce<'_> {
    fn drop(&mut self) {
        self.0.items_at_once.fetch_sub(self.1, Ordering::SeqCst);
    }
}

/// Does what its items say: those whose act begins with `bulk_` speak for the whole sub-batch.
struct Bulk {
    calls: Arc<Calls>,
    clock: TokioClock,
}

impl BatchProcessor for Bulk {
    type Item = Reading;
    type Output = String;
    type Write = NoWrites;

    async fn process_batch(&self, batch: &[BatchItem<Reading>]) -> BatchResult<String, NoWrites> {
        let ids = batch.iter().map(|entry| entry.item.id.clone()).collect();
        self.calls.given.lock().expect("lock").push((self.clock.now_ms(), ids));
        let _at_once = AtOnce::new(&self.calls, batch.len());
        let has = |act: &str| batch.iter().any(|entry| entry.item.act == act);
        let slowest_ms = batch.iter().map(|entry| entry.item.ms).max().unwrap_or_default();
        tokio::time::sleep(Duration::from_millis(slowest_ms)).await;
        if has("bulk_hang") {
            std::future::pending::<()>().await;
        }
        assert!(!has("bulk_panic"), "on purpose");
        let failure = || ProcessError::transient(std::fmt::Error).code("bulk");
        if has("bulk_fail") {
            return Err(failure());
        }
        if has("bulk_permanent") {
            return Err(ProcessError::permanent(std::fmt::Error).code("bulk"));
        }
        if has("bulk_unknown") {
            return Err(failure().effect_unknown());
        }
        let mut results: Vec<_> = batch.iter().map(result).collect();
        if has("too_few") {
            results.pop();
        }
        if has("too_many") {
            results.push(Ok(Done::new("more".into())));
        }
        Ok(results)
    }
}

fn result(entry: &BatchItem<Reading>) -> ItemResult<String, NoWrites> {
    match entry.item.act.as_str() {
        "fail" => Err(ProcessError::transient(std::fmt::Error).code("own")),
        "permanent" => Err(ProcessError::permanent(std::fmt::Error).code("own")),
        _ => Ok(Done::new(entry.item.id.clone())),
    }
}

fn limits(count_max: usize, bytes_max: usize, linger_ms: u64) -> Limits {
    let at_most = |value| NonZeroUsize::new(value).expect("not 0");
    Limits { count_max: at_most(count_max), bytes_max: at_most(bytes_max), linger_ms }
}

/// Sub-batches of so many items.
fn of(count_max: usize, linger_ms: u64) -> Limits {
    limits(count_max, 1_000_000, linger_ms)
}

fn bulk(
    limits: Limits,
    change: impl FnOnce(InBatches<Bulk>) -> InBatches<Bulk>,
) -> (PipelineBuilder<InBatches<Bulk>>, Arc<Calls>) {
    let calls = Arc::new(Calls::default());
    let processor = Bulk { calls: Arc::clone(&calls), clock: TokioClock::default() };
    let builder = Pipeline::builder(change(InBatches::new(processor, limits)))
        .key("id")
        .fingerprint_body()
        .options(|options| options.total_failure = TotalFailure::Report);
    (builder, calls)
}

fn plain(limits: Limits) -> (PipelineBuilder<InBatches<Bulk>>, Arc<Calls>) {
    bulk(limits, |processor| processor)
}

fn items(count: usize) -> Vec<String> {
    (0..count).map(|nth| item(&nth.to_string())).collect()
}

/// A store whose claims take so long, by their number.
fn slow_claims(slow_ms: impl Fn(u64) -> u64 + Send + Sync + 'static) -> FaultStore<MemoryStore> {
    let claims = AtomicUsize::new(0);
    FaultStore::new(MemoryStore::new(), move |point| {
        if point.operation != Operation::Claim {
            return Fault::None;
        }
        let nth = claims.fetch_add(1, Ordering::SeqCst) as u64;
        match slow_ms(nth) {
            0 => Fault::None,
            u64::MAX => Fault::HangBefore,
            ms => Fault::Delay(Duration::from_millis(ms)),
        }
    })
}

// --- how they are filled ------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn p11_sub_batches_are_filled_to_the_count_and_the_rest_does_not_wait() {
    let (builder, calls) = plain(of(4, 5_000));
    let rig = rig(builder).start();
    rig.put((0..10).map(|nth| timed(&nth.to_string(), "", 100)));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed; 10]);
    assert_eq!(calls.ids(), ["0 1 2 3", "4 5 6 7", "8 9"]);
    assert_eq!(delivered.took_ms, 100, "nothing could join the rest");
}

#[tokio::test(start_paused = true)]
async fn p11_sub_batches_are_filled_to_the_bytes() {
    let (builder, calls) = plain(limits(60, 80, 5_000));
    let rig = rig(builder).start();
    // 33 bytes each as they stand in the event, and one of 73.
    let long = timed("long-id-and-a-long-time-as-well", "", 1);
    rig.put([told("1", "fail"), told("2", "fail"), told("3", "fail"), long, told("5", "fail")]);
    let delivered = rig.deliver().await;
    assert_eq!(calls.ids(), ["1 2", "3", "long-id-and-a-long-time-as-well", "5"]);
    assert_eq!(delivered.took_ms, 1);
}

#[tokio::test(start_paused = true)]
async fn p11_a_body_above_the_bytes_goes_alone_and_completes_none() {
    let (builder, calls) = plain(limits(60, 80, 5_000));
    let rig = rig(builder).start();
    rig.put([item("1"), item(&"x".repeat(500)), item("2"), item("3")]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed; 4]);
    let mut ids = calls.ids();
    ids.sort();
    assert_eq!(ids, ["1 2", "3", &"x".repeat(500)]);
}

#[tokio::test(start_paused = true)]
async fn an_item_waits_for_others_no_longer_than_its_linger() {
    // The last claim is slow: what is there does not wait for it beyond 100 ms.
    let (builder, calls) = plain(of(10, 100));
    let rig = rig(builder).store(slow_claims(|nth| if nth == 3 { 500 } else { 0 })).start();
    let started_ms = rig.clock.now_ms();
    rig.put(items(4));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed; 4]);
    assert_eq!((calls.ids(), calls.times_ms(started_ms)), (vec!["0 1 2".to_owned(), "3".into()], vec![100, 500]));
}

#[tokio::test(start_paused = true)]
async fn an_item_waits_for_a_claim_that_comes_in_time() {
    let (builder, calls) = plain(of(10, 100));
    let rig = rig(builder).store(slow_claims(|nth| if nth == 3 { 60 } else { 0 })).start();
    let started_ms = rig.clock.now_ms();
    rig.put(items(4));
    rig.deliver().await;
    assert_eq!((calls.ids(), calls.times_ms(started_ms)), (vec!["0 1 2 3".to_owned()], vec![60]));
}

#[tokio::test(start_paused = true)]
async fn a_sub_batch_is_in_the_order_in_which_the_messages_came() {
    let (builder, calls) = plain(of(3, 1_000));
    let rig =
        rig(builder).store(slow_claims(|nth| [30, 10, 20, 60, 50, 40][usize::try_from(nth).expect("small")])).start();
    rig.put(items(6));
    rig.deliver().await;
    assert_eq!(calls.ids(), ["0 1 2", "3 4 5"]);
}

#[tokio::test(start_paused = true)]
async fn p7_without_a_linger_a_slow_claim_or_a_hung_sub_batch_holds_up_no_other() {
    // The last claim is never answered.
    let (builder, _calls) = plain(of(10, 0));
    let rig_of_claims = rig(builder).store(slow_claims(|nth| if nth == 3 { u64::MAX } else { 0 })).start();
    rig_of_claims.put(items(4));
    let delivered = rig_of_claims.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed, Processed, Processed, Abandoned]);
    // The first sub-batch hangs until the deadline, and the claims of the others come while it runs.
    let (builder, calls) = plain(of(2, 0));
    let builder = builder.options(|options| (options.concurrency, options.item_timeout_ms) = (3, 600_000));
    let rig = rig(builder).start();
    rig.put([told("h", "bulk_hang"), item("1"), item("2"), item("3"), item("4")]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Failed, Failed, Processed, Processed, Processed], "{:?}", calls.ids());
    assert_eq!(delivered.codes()[..2], ["deadline"; 2]);
}

#[tokio::test(start_paused = true)]
async fn without_a_linger_items_wait_for_the_sub_batch_before_them() {
    // Room for five: three wait while two run, and go together.
    let (builder, calls) = plain(of(2, 0));
    let rig = rig(builder.options(|options| options.concurrency = 2)).start();
    rig.put((0..6).map(|nth| timed(&nth.to_string(), "", 10)));
    let delivered = rig.deliver().await;
    assert_eq!((calls.sizes(), delivered.took_ms), (vec![2, 2, 2], 30));
}

#[tokio::test(start_paused = true)]
async fn p11_items_at_once_stay_within_the_limit_where_more_is_offered() {
    let (builder, calls) = plain(of(4, 50));
    let rig = rig(builder.options(|options| options.concurrency = 5)).start();
    rig.put((0..43).map(|nth| timed(&nth.to_string(), "", 10)));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed; 43]);
    assert!(calls.at_once_max() <= 5 && calls.sizes().iter().all(|size| *size <= 4), "{:?}", calls.sizes());
    assert!(calls.runs().values().all(|runs| *runs == 1), "P14");
}

#[test]
fn a_sub_batch_that_could_never_fill_is_refused() {
    let (builder, _calls) = plain(of(10, 50));
    let error = builder.options(|options| options.concurrency = 9).validate().expect_err("too few");
    assert_eq!(
        error.to_string(),
        "a setting is wrong: concurrency: expected at least the 10 items of a sub-batch, found 9; it counts items"
    );
}

#[tokio::test(start_paused = true)]
async fn two_invocations_that_share_the_limit_never_wait_for_each_other_for_ever() {
    for linger_ms in [0, 1, 500] {
        let (builder, calls) = plain(of(4, linger_ms));
        let rig = Arc::new(rig(builder.options(|options| options.concurrency = 4)).start());
        let batches: Vec<_> = (0..3)
            .map(|batch| {
                rig.put((0..11).map(|nth| timed(&format!("{batch}-{nth}"), "", 5)));
                rig.poll()
            })
            .collect();
        let (one, two, three) = tokio::join!(
            rig.run(&batches[0], TIMEOUT_MS),
            rig.run(&batches[1], TIMEOUT_MS),
            rig.run(&batches[2], TIMEOUT_MS)
        );
        for delivered in [one, two, three] {
            assert_eq!(delivered.outcomes(), [Processed; 11], "{linger_ms} ms");
            assert!(delivered.took_ms < 10_000, "{linger_ms} ms: {}", delivered.took_ms);
        }
        assert!(calls.at_once_max() <= 4, "P11");
    }
}

#[tokio::test(start_paused = true)]
async fn where_another_invocation_has_the_room_nothing_waits_for_it() {
    let (builder, calls) = plain(of(4, 5_000));
    let builder = builder.options(|options| (options.concurrency, options.item_timeout_ms) = (4, 600_000));
    let rig = rig(builder).start();
    rig.put((0..3).map(|nth| told(&nth.to_string(), "bulk_hang")));
    let hanging = rig.poll();
    rig.put((10..15).map(|nth| timed(&nth.to_string(), "", 10)));
    let (_, delivered) = tokio::join!(rig.run(&hanging, TIMEOUT_MS), rig.deliver());
    assert_eq!((delivered.outcomes(), delivered.took_ms), (vec![Processed; 5], 50));
    assert_eq!(calls.sizes(), [3, 1, 1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn p11_no_more_is_claimed_than_the_limit_and_two_chunks() {
    let claims = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&claims);
    let store = FaultStore::new(MemoryStore::new(), move |point| {
        counting.fetch_add(usize::from(point.operation == Operation::Claim), Ordering::SeqCst);
        Fault::None
    });
    let (builder, calls) = plain(of(3, 50));
    let builder = builder.options(|options| (options.concurrency, options.item_timeout_ms) = (6, 600_000));
    let rig = rig(builder).store(store).start();
    rig.put((0..50).map(|nth| told(&nth.to_string(), "bulk_hang")));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.reported().len(), 50);
    assert_eq!((claims.load(Ordering::SeqCst), calls.sizes()), (6 + 2, vec![3, 3]));
}

#[tokio::test(start_paused = true)]
async fn groups_of_a_fifo_queue_share_sub_batches_and_keep_their_order() {
    // P16: a sub-batch never holds two of a group.
    let (builder, calls) = plain(of(10, 100));
    let rig = rig(builder).fifo().start();
    rig.put_in((0..3).flat_map(|nth| ["a", "b", "c"].map(|group| (group, item(&format!("{group}{nth}"))))));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed; 9]);
    assert_eq!(calls.ids(), ["a0 b0 c0", "a1 b1 c1", "a2 b2 c2"]);
    assert_eq!(delivered.took_ms, 0);
}

#[tokio::test(start_paused = true)]
async fn without_idempotency_items_are_collected_as_well() {
    let (builder, calls) = plain(of(4, 1_000));
    let rig = rig(builder.without_idempotency()).start();
    rig.put(items(6));
    let delivered = rig.deliver().await;
    assert_eq!((delivered.outcomes(), calls.sizes()), (vec![Processed; 6], vec![4, 2]));
}

// --- what becomes of their items ----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn each_entry_gets_its_own_outcome() {
    let (builder, calls) = plain(of(10, 100));
    let rig = rig(builder).parking().start();
    rig.put([item("a"), told("b", "fail"), told("c", "permanent"), item("a"), "no item".into(), item("d")]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed, Failed, Rejected, Duplicate, Rejected, Processed]);
    assert_eq!(delivered.codes(), ["", "own", "own", "", "undecodable", ""]);
    assert_eq!((delivered.reported(), calls.ids()), (vec![1], vec!["a b c d".to_owned()]));
    rig.put([item("a"), item("d")]);
    assert_eq!(rig.deliver().await.outcomes(), [Duplicate; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_number_of_results_fails_all_since_none_can_be_assigned() {
    for act in ["too_few", "too_many"] {
        let (builder, _calls) = plain(of(3, 100));
        let rig = rig(builder).start();
        rig.put([item("a"), told("b", act), item("c"), item("d")]);
        let delivered = rig.deliver().await;
        assert_eq!(delivered.outcomes(), [Failed, Failed, Failed, Processed], "{act}");
        assert_eq!(delivered.codes(), ["wrong_count", "wrong_count", "wrong_count", ""], "{act}");
        // The work may have been done, for some or for all: the keys are held for a while.
        let held_ms = rig.clock.now_ms() + 6_000;
        let held =
            rig.pipeline.store().records().into_iter().filter(|(_, record)| record.lease_end_ms == Some(held_ms));
        assert_eq!(held.count(), 3, "{act}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_whole_is_each_items_error() {
    for (act, outcome, kind) in [
        ("bulk_fail", Failed, FailureKind::Transient),
        ("bulk_permanent", Rejected, FailureKind::Permanent),
        ("bulk_unknown", Failed, FailureKind::Transient),
    ] {
        let told_of = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&told_of);
        let (builder, calls) = plain(of(3, 100));
        let builder = builder.on_failure(move |failure| {
            let error = failure.error.map(|error| error.source().to_string());
            noted.lock().expect("lock").push((failure.kind, failure.code, error));
        });
        let rig = rig(builder).start();
        rig.put([item("a"), told("b", act), item("c"), item("d")]);
        let delivered = rig.deliver().await;
        assert_eq!(delivered.outcomes(), [outcome, outcome, outcome, Processed], "{act}");
        let expected = (kind, Some("bulk"), Some(std::fmt::Error.to_string()));
        assert_eq!(*told_of.lock().expect("lock"), vec![expected; 3], "{act}");
        let released = rig.pipeline.store().records().iter().filter(|(_, record)| record.is_released()).count();
        assert_eq!((released, calls.sizes()), (if act == "bulk_unknown" { 0 } else { 3 }, vec![3, 1]), "{act}");
    }
}

#[tokio::test(start_paused = true)]
async fn p7_a_time_out_and_a_panic_concern_the_items_of_their_sub_batch() {
    for (act, code, took_ms) in [("bulk_hang", "timed_out", 700), ("bulk_panic", "panicked", 0)] {
        let (builder, _calls) = plain(of(2, 100));
        let rig = rig(builder.options(|options| options.item_timeout_ms = 700)).start();
        rig.put([item("a"), item("b"), told("c", act), item("d"), item("e"), item("f")]);
        let delivered = rig.deliver().await;
        assert_eq!(delivered.outcomes(), [Processed, Processed, Failed, Failed, Processed, Processed], "{act}");
        assert_eq!((delivered.codes()[2], delivered.codes()[3], delivered.took_ms), (code, code, took_ms));
        // What they sent may still arrive: their keys are held so long (rule 3).
        let held_ms = rig.clock.now_ms() + 6_000;
        let held =
            rig.pipeline.store().records().into_iter().filter(|(_, record)| record.lease_end_ms == Some(held_ms));
        assert_eq!(held.count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn p10_what_was_collected_and_not_started_at_the_deadline_is_given_back() {
    // Two are claimed and wait for a third, whose claim is never answered.
    let (builder, calls) = plain(of(3, 600_000));
    let rig = rig(builder).delaying().store(slow_claims(|nth| if nth == 2 { u64::MAX } else { 0 })).start();
    rig.put(items(3));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Abandoned; 3]);
    assert_eq!(delivered.codes(), ["deadline", "deadline", "claim_unanswered"]);
    assert_eq!(calls.sizes(), [0_usize; 0]);
    assert!((0..3).all(|number| rig.delays_ms(number).len() == 1));
}

#[tokio::test(start_paused = true)]
async fn p10_a_sub_batch_that_runs_at_the_deadline_is_cut_off() {
    let (builder, _calls) = plain(of(3, 100));
    let rig = rig(builder.options(|options| options.item_timeout_ms = 600_000)).start();
    rig.put([told("a", "bulk_hang"), item("b"), item("c"), item("d")]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Failed, Failed, Failed, Processed]);
    assert_eq!((delivered.codes()[..3].to_vec(), delivered.took_ms), (vec!["deadline"; 3], CUT_OFF_MS));
}

/// Hands over a write for each item.
struct Writing;

impl BatchProcessor for Writing {
    type Item = Reading;
    type Output = ();
    type Write = String;

    async fn process_batch(&self, batch: &[BatchItem<Reading>]) -> BatchResult<(), String> {
        Ok(batch.iter().map(|entry| Ok(Done::with_writes((), vec![entry.item.id.clone()]))).collect())
    }
}

#[tokio::test(start_paused = true)]
async fn the_writes_of_each_entry_are_committed_with_its_own_completion() {
    let refused = microbatch::WriteRefused { index: 0, reason: microbatch::WriteRefusal::Condition };
    let store = KeepingStore::refusing(move |writes: &[String]| (writes == ["b"]).then_some(refused));
    let rig = rig(Pipeline::builder(InBatches::new(Writing, of(4, 100))).key("id")).store(store.clone()).start();
    rig.put([item("a"), item("b"), item("c")]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed, Failed, Processed]);
    assert_eq!(
        (delivered.codes()[1], store.committed()),
        ("write_condition_failed", vec![vec!["a".to_owned()], vec!["c".into()]])
    );
}

#[tokio::test]
async fn a_batch_processor_takes_one_item_as_well() {
    let clock = TokioClock::default();
    let processor = InBatches::new(Bulk { calls: Arc::default(), clock }, of(4, 100));
    let one = |act: &str| Reading { id: "a".into(), act: act.into(), ms: 0 };
    let cx = ItemContext::for_tests(Arc::new(clock));
    assert_eq!(processor.process(one(""), &cx).await.expect("done").output(), "a");
    let error = processor.process(one("too_few"), &cx).await.expect_err("none");
    assert_eq!((error.failure_code(), error.is_effect_unknown()), (Some("wrong_count"), true));
}

// --- bisect -------------------------------------------------------------------------------------------------------

/// Most times that an item is given: each split halves its sub-batch.
fn runs_max(count: usize) -> usize {
    count.next_power_of_two().ilog2() as usize + 1
}

#[tokio::test(start_paused = true)]
async fn p14_bisect_finds_the_culprit_and_the_others_succeed() {
    for culprit in [0, 7, 31] {
        let (builder, calls) = bulk(of(32, 100), InBatches::bisect);
        let rig = rig(builder).start();
        rig.put((0..32).map(|nth| told(&nth.to_string(), if nth == culprit { "bulk_permanent" } else { "" })));
        let delivered = rig.deliver().await;
        for (nth, outcome) in delivered.outcomes().into_iter().enumerate() {
            assert_eq!(outcome, if nth == culprit { Rejected } else { Processed });
        }
        assert_eq!(calls.sizes().len(), 2 * 5 + 1, "a call and two for each split");
        assert!(calls.runs().values().all(|runs| *runs <= runs_max(32)), "{:?}", calls.runs());
        assert_eq!(calls.runs()[&culprit.to_string()], 6);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_unknown_effect_is_not_split() {
    let (builder, calls) = bulk(of(8, 100), InBatches::bisect);
    let rig = rig(builder).start();
    rig.put((0..8).map(|nth| told(&nth.to_string(), if nth == 3 { "bulk_unknown" } else { "" })));
    assert_eq!(rig.deliver().await.outcomes(), [Failed; 8]);
    assert_eq!(calls.sizes(), [8]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// P14, P7: whatever the culprits, everybody else succeeds, in a bounded number of calls.
    #[test]
    fn p7_p14_bisect_isolates_all_culprits_in_bounded_calls(
        culprits in vec(any::<bool>(), 1..40),
        transient in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let (builder, calls) = bulk(of(40, 100), InBatches::bisect);
            let rig = rig(builder).start();
            let act = if transient { "bulk_fail" } else { "bulk_permanent" };
            rig.put(culprits.iter().enumerate().map(|(nth, culprit)| told(&nth.to_string(), if *culprit { act } else { "" })));
            let delivered = rig.deliver().await;
            for (nth, culprit) in culprits.iter().enumerate() {
                let failed = if transient { Failed } else { Rejected };
                prop_assert_eq!(delivered.outcomes()[nth], if *culprit { failed } else { Processed });
            }
            let count = culprits.iter().filter(|culprit| **culprit).count();
            let most = (2 * count * (runs_max(culprits.len()) - 1) + 1).min(2 * culprits.len() - 1);
            prop_assert!(calls.sizes().len() <= most, "{} calls, expected {most}", calls.sizes().len());
            prop_assert!(calls.runs().values().all(|runs| *runs <= runs_max(culprits.len())));
            Ok(())
        })?;
    }
}

// --- with the limits of the process -------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn the_rate_counts_items_and_lets_a_sub_batch_fill_within_its_linger() {
    // Twenty a second, two at once: in 500 ms about ten, and the first ones wait for them.
    let (builder, calls) = plain(of(8, 500));
    let rig = rig(builder.options(|options| options.starts_per_s = 20)).start();
    rig.put(items(24));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed; 24]);
    assert!((1_100..1_200).contains(&delivered.took_ms), "{}", delivered.took_ms);
    assert_eq!(calls.sizes(), [8, 8, 8]);
}

#[tokio::test(start_paused = true)]
async fn what_the_rate_lets_through_waits_no_longer_than_its_linger() {
    let (builder, calls) = plain(of(8, 100));
    let rig = rig(builder.options(|options| options.starts_per_s = 20)).start();
    let started_ms = rig.clock.now_ms();
    rig.put(items(6));
    rig.deliver().await;
    // Two at once, then one each 50 ms.
    assert_eq!((calls.sizes(), calls.times_ms(started_ms)), (vec![4, 2], vec![100, 200]));
}

#[tokio::test(start_paused = true)]
async fn p14_a_sub_batch_that_fails_opens_the_breaker_and_what_was_collected_is_given_back() {
    let (builder, calls) = plain(of(5, 400));
    let builder = builder.options(|options| {
        options.concurrency = 8;
        (options.breaker_failure_percent, options.breaker_window, options.breaker_open_ms) = (50, 5, 10_000);
    });
    let rig = rig(builder).start();
    // The first five fail after 100 ms, while three wait for others.
    rig.put((0..5).map(|nth| timed(&nth.to_string(), "bulk_fail", 100)));
    rig.put(items(30).into_iter().skip(5));
    let delivered = rig.deliver().await;
    assert_eq!(calls.sizes(), [5]);
    assert_eq!(delivered.codes()[5..], ["breaker_open"; 25]);
    let control = delivered.report.control.expect("reported");
    assert!(matches!(control.breaker, BreakerState::Open { .. }));
    assert!(rig.pipeline.store().records().iter().all(|(_, record)| record.is_released()), "all keys are given back");
    // The probe is one item, which waits for no other.
    tokio::time::sleep(Duration::from_secs(10)).await;
    rig.put((100..110).map(|nth| item(&nth.to_string())));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed; 10]);
    assert_eq!((calls.sizes()[1], delivered.took_ms), (1, 0));
    assert_eq!(delivered.report.control.expect("reported").breaker, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn p14_what_waits_for_others_does_not_start_when_the_breaker_opens() {
    // Five fail after 100 ms, while three wait up to 200 ms for one whose claim takes 300.
    let (builder, calls) = plain(of(5, 200));
    let builder = builder.options(|options| {
        (options.breaker_failure_percent, options.breaker_window, options.breaker_open_ms) = (50, 5, 10_000);
    });
    let rig = rig(builder).store(slow_claims(|nth| if nth == 8 { 300 } else { 0 })).start();
    rig.put((0..5).map(|nth| timed(&nth.to_string(), "bulk_fail", 100)));
    rig.put(items(9).into_iter().skip(5));
    let delivered = rig.deliver().await;
    assert_eq!((calls.sizes(), delivered.codes()[5..].to_vec()), (vec![5], vec!["breaker_open"; 4]));
}

#[tokio::test(start_paused = true)]
async fn the_time_that_an_item_waits_for_others_is_no_slowness_of_the_dependency() {
    // Every batch is one full sub-batch at once, and a few that wait for a claim that is slow.
    let (builder, _calls) = plain(of(16, 200));
    let builder = builder.options(|options| (options.concurrency, options.concurrency_min) = (32, Some(2)));
    let lingers = Arc::new(AtomicUsize::new(0));
    let lingering = Arc::clone(&lingers);
    let store = FaultStore::new(MemoryStore::new(), move |point| {
        let slow = point.operation == Operation::Claim && lingering.fetch_add(1, Ordering::SeqCst) % 17 == 16;
        if slow && lingering.load(Ordering::SeqCst) > 34 * 8 {
            Fault::Delay(Duration::from_millis(300))
        } else {
            Fault::None
        }
    });
    let rig = rig(builder).store(store).start();
    for batch in 0..60 {
        let size = if batch < 16 { 17 } else { 15 };
        rig.put((0..size).map(|nth| timed(&format!("{batch}-{nth}"), "", 5)));
        let delivered = rig.deliver().await;
        assert_eq!(delivered.report.control.expect("reported").limit, 32, "batch {batch}");
    }
}

const ACTS: [&str; 9] =
    ["", "", "fail", "permanent", "bulk_fail", "bulk_permanent", "bulk_hang", "bulk_panic", "too_few"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// P10, P11, P14: whatever sub-batches do, and however they are cut, the response is in time, no limit is broken, no item
    /// runs twice, and each gets an outcome that its own sub-batch explains.
    #[test]
    fn p10_p11_p14_sub_batches_keep_every_limit(
        acts in vec((0..ACTS.len(), 0_u64..80), 1..40),
        count_max in 1_usize..7,
        bytes_max in 30_usize..200,
        linger_ms in prop_oneof![Just(0_u64), 1_u64..300],
        extra in 0_u64..4,
        timeout_ms in 1_200_u64..4_000,
        starts_per_s in prop_oneof![2 => Just(0_u64), 1 => 10_u64..200],
        slow in vec(prop_oneof![5 => Just(0_u64), 2 => 1_u64..200, 1 => Just(u64::MAX)], 1..10),
        shards in 1_u64..3,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let (builder, calls) = plain(limits(count_max, bytes_max, linger_ms));
            let concurrency = count_max as u64 + extra;
            let builder = builder.options(|options| {
                (options.concurrency, options.starts_per_s, options.item_timeout_ms) = (concurrency, starts_per_s, 900);
                options.shards = Some(shards);
            });
            let store = slow_claims(move |nth| slow[usize::try_from(nth).expect("small") % slow.len()]);
            let rig = rig(builder).delaying().store(store).start();
            rig.put(acts.iter().enumerate().map(|(nth, (act, ms))| timed(&nth.to_string(), ACTS[*act], *ms)));
            let delivered = rig.deliver_within(timeout_ms).await;
            prop_assert!(calls.at_once_max() <= usize::try_from(concurrency).expect("small"));
            prop_assert!(calls.sizes().iter().all(|size| *size <= count_max));
            let bytes = |ids: &[String]| -> usize {
                let of_item = |id: &String| {
                    let (act, ms) = acts[id.parse::<usize>().expect("a number")];
                    serde_json::to_string(&timed(id, ACTS[act], ms)).expect("a string").len()
                };
                ids.iter().map(of_item).sum()
            };
            for (_, ids) in calls.given.lock().expect("lock").iter() {
                prop_assert!(ids.len() == 1 || bytes(ids) <= bytes_max, "{:?} has {} bytes", ids, bytes(ids));
                prop_assert!(ids.is_sorted_by_key(|id| id.parse::<usize>().expect("a number")));
                let bad = ids.iter().any(|id| ACTS[acts[id.parse::<usize>().expect("a number")].0].contains('_'));
                for id in ids {
                    let nth: usize = id.parse().expect("a number");
                    let own = [Processed, Processed, Failed, Rejected][acts[nth].0.min(3)];
                    let outcome = delivered.outcomes()[nth];
                    let cut_off = delivered.codes()[nth] == "deadline";
                    prop_assert!(bad || cut_off || outcome == own, "{} of {:?}", outcome, acts[nth]);
                }
            }
            prop_assert!(calls.runs().values().all(|runs| *runs == 1));
            for (nth, outcome) in delivered.outcomes().iter().enumerate() {
                let ran = calls.runs().contains_key(&nth.to_string());
                prop_assert_eq!(!ran, *outcome == Abandoned, "message {}", nth);
            }
            Ok(())
        })?;
    }
}

/// A message's group, key, act and time.
type Mail = (usize, usize, usize, u64);

/// All that can be set and all that can go wrong, at once.
#[derive(Debug, Clone)]
struct Chaos {
    limits: (usize, usize, u64),
    bisect: bool,
    fifo: bool,
    continues: bool,
    concurrency: u64,
    concurrency_min: Option<u64>,
    breaker: Option<(u64, u64, u64)>,
    starts_per_s: u64,
    shards: u64,
    chunk_size: usize,
    timeout_ms: u64,
    /// The batches that are sent together.
    rounds: Vec<[Vec<Mail>; 3]>,
    store: Vec<(u8, u64)>,
    queue: Vec<CallPlan>,
}

fn chaos() -> impl Strategy<Value = Chaos> {
    let message = (0_usize..3, 0_usize..30, 0..ACTS.len(), prop_oneof![2 => Just(0_u64), 1 => 1_u64..600]);
    let rounds = vec([vec(message.clone(), 1..=10), vec(message.clone(), 0..=10), vec(message, 0..=10)], 1..4);
    let settings = (
        (1_usize..5, 30_usize..200, prop_oneof![Just(0_u64), 1_u64..300]),
        any::<(bool, bool, bool, bool)>(),
        0_u64..4,
        prop::option::of((1_u64..=100, 5_u64..9, 100_u64..900)),
        prop_oneof![2 => Just(0_u64), 1 => 5_u64..100],
        (1_u64..3, 1_usize..4, 900_u64..5_000),
    );
    let queue = (0_u8..9, vec(0_u8..4, 0..3)).prop_map(|(call, entries)| CallPlan {
        call: match call {
            0 => CallFault::Throttled,
            1 => CallFault::Refused,
            2 => CallFault::AnswerLost,
            3 => CallFault::HangBefore,
            4 => CallFault::HangAfter,
            5 => CallFault::Slow(Duration::from_millis(300)),
            _ => CallFault::None,
        },
        entries: entries
            .into_iter()
            .map(|fault| match fault {
                0 => EntryFault::Throttled,
                1 => EntryFault::Refused,
                2 => EntryFault::AnswerLost,
                _ => EntryFault::None,
            })
            .collect(),
    });
    (settings, rounds, vec((0_u8..12, 0_u64..400), 1..10), vec(queue, 1..5)).prop_map(
        |((limits, flags, extra, breaker, starts_per_s, (shards, chunk_size, timeout_ms)), rounds, store, queue)| {
            Chaos {
                limits,
                bisect: flags.0,
                fifo: flags.1,
                continues: flags.2,
                concurrency: limits.0 as u64 + extra,
                concurrency_min: flags.3.then_some(1),
                breaker,
                starts_per_s,
                shards,
                chunk_size,
                timeout_ms,
                rounds,
                store,
                queue,
            }
        },
    )
}

impl Chaos {
    fn set(&self, options: &mut Options) {
        options.concurrency = self.concurrency;
        options.concurrency_min = self.concurrency_min;
        options.starts_per_s = self.starts_per_s;
        options.shards = Some(self.shards);
        options.item_timeout_ms = 700;
        options.fifo_failure = if self.continues { FifoFailure::ParkAndContinue } else { FifoFailure::Block };
        if let Some((percent, window, open_ms)) = self.breaker {
            (options.breaker_failure_percent, options.breaker_window, options.breaker_open_ms) =
                (percent, window, open_ms);
        }
    }

    fn store(&self, memory: MemoryStore) -> FaultStore<MemoryStore> {
        let faults = self.store.clone();
        FaultStore::new(memory, move |point| {
            let (fault, ms) = faults[usize::try_from(point.nth).expect("small") % faults.len()];
            match fault {
                0 => Fault::HangBefore,
                1 => Fault::HangAfter,
                2 => Fault::Before(StoreErrorKind::Throttled),
                3 => Fault::After(StoreErrorKind::TimedOut),
                4 => Fault::Before(StoreErrorKind::Refused),
                5 | 6 => Fault::Delay(Duration::from_millis(ms)),
                _ => Fault::None,
            }
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// P1, P6, P10, P11 with everything at once: sub-batches, groups, equal keys, a breaker, a rate, a limit that adapts,
    /// invocations side by side, and a store and a queue that fail in every way.
    #[test]
    fn p1_p6_p10_p11_with_everything_at_once(chaos in chaos()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let (count_max, bytes_max, linger_ms) = chaos.limits;
            let (builder, calls) = bulk(limits(count_max, bytes_max, linger_ms), |processor| {
                if chaos.bisect { processor.bisect() } else { processor }
            });
            let hooked = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
            let (of_success, of_failure) = (Arc::clone(&hooked), Arc::clone(&hooked));
            let count = |hooked: &Mutex<HashMap<String, usize>>, id: &str| {
                *hooked.lock().expect("lock").entry(id.to_owned()).or_default() += 1;
            };
            let builder = builder
                .options(|options| chaos.set(options))
                .on_success(move |success| count(&of_success, success.message_id))
                .on_failure(move |failure| count(&of_failure, failure.message_id));
            let memory = MemoryStore::with_chunk_size(chaos.chunk_size.try_into().expect("not 0"));
            let plans = chaos.queue.clone();
            let rig = rig(builder)
                .parking()
                .delaying()
                .plans(move |call| plans[usize::try_from(call.nth).expect("small") % plans.len()].clone())
                .store(chaos.store(memory.clone()));
            let rig = if chaos.fifo { rig.fifo() } else { rig }.start();
            let acknowledged = Mutex::new(HashSet::new());
            let mut sent = 0;
            for round in &chaos.rounds {
                let mut batches = Vec::new();
                for batch in round {
                    for (group, key, act, ms) in batch {
                        // A group is one invocation's: names differ between batches.
                        let group = format!("{}-{group}", batches.len());
                        let body = timed(&key.to_string(), ACTS[*act], *ms);
                        rig.put_message(NewMessage { body, group: Some(group), ..NewMessage::default() });
                        sent += 1;
                    }
                    batches.extend(rig.try_poll());
                }
                let runs = batches.iter().map(|batch| async {
                    let delivered = rig.run(batch, chaos.timeout_ms).await;
                    let reported = delivered.reported();
                    for (nth, item) in delivered.report.items.iter().enumerate() {
                        let done = matches!(item.outcome, Processed | Duplicate);
                        prop_assert_eq!(!reported.contains(&nth), done || item.parked);
                        if done {
                            let body = &batch.deliveries[nth].message.body;
                            let key = key_of(&serde_json::from_str::<Reading>(body).expect("an item").id);
                            let status = memory.get(&key).map(|record| record.status);
                            prop_assert_eq!(status, Some(Status::Completed), "message {} of {:?}", nth, item);
                            acknowledged.lock().expect("lock").insert(batch.deliveries[nth].number);
                        }
                        prop_assert_eq!(hooked.lock().expect("lock").remove(&item.message_id), Some(1));
                    }
                    Ok(())
                });
                for run in futures_util::future::join_all(runs).await {
                    run?;
                }
                prop_assert_eq!(calls.items_at_once.load(Ordering::SeqCst), 0, "P10");
            }
            prop_assert!(sent > 0 && calls.at_once_max() <= usize::try_from(chaos.concurrency).expect("small"));
            prop_assert!(calls.sizes().iter().all(|size| *size <= count_max));
            let done = acknowledged.lock().expect("lock");
            let checked = rig.queue.model().check(|number| done.contains(&number));
            prop_assert_eq!(checked.map_err(|fault| fault.to_string()), Ok(()));
            Ok(())
        })?;
    }
}
