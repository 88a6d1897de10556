//! What the queue does for messages that are not done: parks them with their reason, or delivers them later.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use microbatch::{
    Clock, FifoFailure, MemoryStore,
    Outcome::{Abandoned, Busy, Conflict, Duplicate, Failed, Processed, Rejected},
    Pipeline, PipelineBuilder, Queue, TotalFailure,
    clock::BoxFuture,
    control::Backoff,
    queue::{DelayRequest, ParkRequest, QUEUE_BYTES_MAX, QUEUE_ENTRIES_MAX, QueueError},
    store::StoreErrorKind,
};
use microbatch_testkit::{
    fault::{Fault, FaultStore, Operation},
    queue::{CallFault, CallPlan, EntryFault, NewMessage, Number, What},
    recorder::KeepingRecorder,
    scripted::{Act, Script, Scripted},
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use crate::rig::{Delivered, Rig, TIMEOUT_MS, item, rig, timed, told};

/// When calls that are out are given up, by the default settings: half a second to settle, of which a tenth is kept.
const OVER_MS: u64 = TIMEOUT_MS - 500 - 50;

/// A pipeline whose items say what happens to them. A batch of which nothing is done is reported.
fn scripted() -> PipelineBuilder<Scripted> {
    Pipeline::builder(Scripted::by("id").as_told())
        .key("id")
        .fingerprint_body()
        .options(|options| options.total_failure = TotalFailure::Report)
}

// --- parking ------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_parked_message_is_the_one_that_came_and_says_why() {
    let rig = rig(scripted()).parking().start();
    let attributes = r#"{"tenant":{"dataType":"String","stringValue":"t-1"}}"#;
    let message = NewMessage {
        body: told("a", "permanent"),
        group: Some("customer-7".into()),
        trace_header: Some("Root=1-2-3".into()),
        attributes: Some(attributes.into()),
        ..NewMessage::default()
    };
    rig.put_message(message.clone());
    let sent_ms = rig.clock.now_ms();
    tokio::time::sleep(Duration::from_millis(70)).await;
    let delivered = rig.deliver().await;
    assert_eq!((delivered.outcomes(), delivered.reported()), (vec![Rejected], vec![]));
    assert_eq!(delivered.parked(), [true]);
    let letters = rig.queue.model().dead_letters().to_vec();
    assert_eq!(*letters[0].message, message);
    let reason: Value = serde_json::from_str(letters[0].reason.as_deref().expect("a reason")).expect("JSON");
    let expected = json!({
        "v": 1,
        "kind": "permanent",
        "code": "on_purpose",
        "error_type": "microbatch_testkit::scripted::OnPurpose",
        "queue": "arn:aws:sqs:eu-west-1:123456789012:orders",
        "message_id": delivered.report.items[0].message_id,
        "receive_count": 1,
        "first_seen_ms": sent_ms + 70,
        "parked_ms": sent_ms + 70,
    });
    assert_eq!(reason, expected);
}

#[tokio::test(start_paused = true)]
async fn a_fifo_message_is_parked_with_its_group_and_its_deduplication_id() {
    let builder = scripted().options(|options| options.fifo_failure = FifoFailure::ParkAndContinue);
    let rig = rig(builder).fifo().parking().start();
    let message = NewMessage {
        body: "no item".into(),
        group: Some("g".into()),
        deduplication_id: Some("d".into()),
        ..NewMessage::default()
    };
    rig.put_message(message.clone());
    rig.deliver().await;
    let letters = rig.queue.model().dead_letters().to_vec();
    // The event has an empty object where there are no attributes.
    assert_eq!(*letters[0].message, NewMessage { attributes: Some("{}".into()), ..message });
}

/// The reasons in the dead-letter queue: kind, code, type of the error, and how often it was received.
fn reasons(rig: &Rig<Scripted>) -> Vec<Value> {
    let model = rig.queue.model();
    let reason = |letter: &microbatch_testkit::queue::DeadLetter| {
        let reason: Value = serde_json::from_str(letter.reason.as_deref().expect("a reason")).expect("JSON");
        json!([reason["kind"], reason["code"], reason["error_type"], reason["receive_count"]])
    };
    model.dead_letters().iter().map(reason).collect()
}

#[tokio::test(start_paused = true)]
async fn rejected_and_conflict_are_parked_each_with_its_own_reason() {
    let rig = rig(scripted()).parking().start();
    rig.put([item("a")]);
    rig.deliver().await;
    rig.put([timed("a", "slow", 7), "no item".into(), r#"{"x":1}"#.into(), told("b", "what?")]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Conflict, Rejected, Rejected, Rejected]);
    assert_eq!((delivered.parked(), delivered.reported()), (vec![true; 4], vec![]));
    let expected = [
        json!(["conflict", "fingerprint_differs", null, 1]),
        json!(["undecodable", "undecodable", null, 1]),
        json!(["undecodable", "missing_key", null, 1]),
        json!(["permanent", "unknown_act", "serde_json::error::Error", 1]),
    ];
    let found: HashSet<String> = reasons(&rig).iter().map(ToString::to_string).collect();
    assert_eq!(found, expected.iter().map(ToString::to_string).collect());
}

#[tokio::test(start_paused = true)]
async fn p1_busy_failed_and_abandoned_are_never_parked() {
    let store = MemoryStore::new();
    let holder = rig(scripted()).store(store.clone()).start();
    holder.put([timed("held", "slow", 1_000)]);
    let held = holder.poll();
    let builder = scripted().options(|options| options.concurrency = 4);
    let rig = rig(builder).parking().seed(2).store(store).start();
    rig.put([timed("held", "slow", 1_000), told("a", "fail"), told("b", "panic"), timed("c", "effect_unknown", 0)]);
    rig.put((0..20).map(|nth| timed(&format!("slow{nth}"), "slow", 9_000)));
    let (_, delivered) = tokio::join!(holder.run(&held, TIMEOUT_MS), rig.deliver());
    assert_eq!(delivered.outcomes()[..4], [Busy, Failed, Failed, Failed]);
    assert!(delivered.outcomes().contains(&Abandoned));
    assert!(rig.dead().is_empty() && delivered.parked().iter().all(|parked| !parked));
}

#[tokio::test(start_paused = true)]
async fn p1_those_that_follow_a_rejected_message_are_each_parked_by_themselves() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&calls);
    let rig = rig(scripted())
        .parking()
        .plans(move |call| {
            noted.lock().expect("lock").push(call.entries);
            // The second of the three is refused.
            CallPlan { call: CallFault::None, entries: vec![EntryFault::None, EntryFault::Refused, EntryFault::None] }
        })
        .start();
    rig.put([told("a", "permanent"), told("a", "permanent"), told("a", "permanent")]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Rejected; 3]);
    assert_eq!((delivered.parked(), delivered.reported()), (vec![true, false, true], vec![1]));
    assert_eq!((rig.dead().len(), calls.lock().expect("lock").clone()), (2, vec![3]));
    assert_eq!(delivered.report.counts.parks_failed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_follower_of_other_content_is_parked_as_a_conflict() {
    let rig = rig(scripted()).parking().start();
    rig.put([timed("a", "slow", 5), timed("a", "slow", 6), timed("a", "slow", 5)]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed, Conflict, Duplicate]);
    assert_eq!((delivered.parked(), rig.dead()), (vec![false, true, false], vec![timed("a", "slow", 6)]));
}

#[tokio::test(start_paused = true)]
async fn p1_a_message_is_acknowledged_behind_its_park_alone() {
    let rig = rig(scripted()).parking().plans(|_| CallPlan::of(CallFault::Slow(Duration::from_secs(1)))).start();
    rig.put([told("a", "permanent"), item("b")]);
    let delivered = rig.deliver().await;
    assert_eq!((delivered.took_ms, delivered.reported()), (1_000, vec![]));
    let model = rig.queue.model();
    let of_a = model.history().entries().iter().filter(|entry| entry.number == Number(0)).map(|entry| entry.what);
    assert_eq!(
        of_a.collect::<Vec<_>>(),
        [What::Sent, What::Delivered { receive_count: 1 }, What::Parked, What::Acknowledged]
    );
}

#[tokio::test(start_paused = true)]
async fn p14_a_park_that_is_throttled_is_tried_three_times_at_most() {
    for (throttled, parked) in [(0, true), (1, true), (2, true), (3, false), (100, false)] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&calls);
        let rig = rig(scripted())
            .parking()
            .plans(move |_| {
                let nth = counting.fetch_add(1, Ordering::SeqCst);
                CallPlan::of(if nth < throttled { CallFault::Throttled } else { CallFault::None })
            })
            .start();
        rig.put([told("a", "permanent")]);
        let delivered = rig.deliver().await;
        assert_eq!(delivered.parked(), [parked], "{throttled}");
        assert_eq!(calls.load(Ordering::SeqCst), (throttled + 1).min(3), "{throttled}");
        assert_eq!(delivered.reported().is_empty(), parked);
        assert_eq!(delivered.report.queue_errors.len(), usize::from(!parked));
    }
}

#[tokio::test(start_paused = true)]
async fn p1_each_entry_of_a_park_counts_by_itself() {
    // Every call does this to its entries: those that are tried again are alone in theirs.
    let entries = vec![EntryFault::None, EntryFault::Throttled, EntryFault::Refused, EntryFault::AnswerLost];
    let plan = CallPlan { call: CallFault::None, entries };
    let rig = rig(scripted()).parking().plans(move |_| plan.clone()).start();
    rig.put((0..4).map(|nth| told(&nth.to_string(), "permanent")));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.parked(), [true, true, false, true]);
    assert_eq!((delivered.reported(), delivered.report.counts.parks_failed), (vec![2], 1));
    // The one whose answer was lost lies there twice: parking is at least once.
    assert_eq!(rig.dead().len(), 4);
    assert_eq!(rig.queue.model().check(|_| false).map_err(|fault| fault.to_string()), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn p10_a_park_that_is_never_answered_is_given_up_in_time() {
    for (fault, copies) in [(CallFault::HangBefore, 0), (CallFault::HangAfter, 1)] {
        let rig = rig(scripted()).parking().plans(move |_| CallPlan::of(fault)).start();
        rig.put([told("a", "permanent"), item("b")]);
        let delivered = rig.deliver().await;
        assert_eq!((delivered.took_ms, delivered.reported()), (OVER_MS, vec![0]));
        assert_eq!((delivered.report.counts.parks_failed, rig.dead().len()), (1, copies));
        assert_eq!((delivered.outcomes(), delivered.parked()), (vec![Rejected, Processed], vec![false; 2]));
    }
}

/// A queue that watches what is asked of it at once.
#[derive(Default)]
struct Watched {
    hangs: bool,
    /// Calls to park that are out, and their bytes.
    out: Mutex<(usize, usize)>,
    most: Mutex<(usize, usize)>,
    entries_max: AtomicUsize,
    parked: AtomicUsize,
}

impl Queue for Watched {
    fn can_park(&self) -> bool {
        true
    }

    fn can_delay(&self) -> bool {
        false
    }

    fn park<'a>(&'a self, entries: &'a [ParkRequest]) -> BoxFuture<'a, Vec<Result<(), QueueError>>> {
        Box::pin(async move {
            let bytes: usize = entries.iter().map(|entry| entry.body.len() + entry.reason.len()).sum();
            assert!(bytes <= QUEUE_BYTES_MAX && entries.len() <= QUEUE_ENTRIES_MAX);
            {
                let (mut out, mut most) = (self.out.lock().expect("lock"), self.most.lock().expect("lock"));
                *out = (out.0 + 1, out.1 + bytes);
                *most = (most.0.max(out.0), most.1.max(out.1));
            }
            self.entries_max.fetch_max(entries.len(), Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(if self.hangs { 1_000_000 } else { 10 })).await;
            let mut out = self.out.lock().expect("lock");
            *out = (out.0 - 1, out.1 - bytes);
            self.parked.fetch_add(entries.len(), Ordering::SeqCst);
            vec![Ok(()); entries.len()]
        })
    }

    fn delay<'a>(&'a self, _entries: &'a [DelayRequest]) -> BoxFuture<'a, Vec<Result<(), QueueError>>> {
        unreachable!("it cannot delay")
    }
}

#[tokio::test(start_paused = true)]
async fn p11_a_thousand_big_rejected_bodies_are_parked_four_calls_at_once() {
    let queue = Arc::new(Watched::default());
    let rig = rig(scripted()).queue(Arc::clone(&queue) as _).start();
    let sizes = [2_000, 90_000, 30, 150_000, 5_000, 40, 100, 50_000, 9, 300];
    rig.put((0..1_000).map(|nth| "x".repeat(sizes[nth % sizes.len()])));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.reported(), [0_usize; 0]);
    assert_eq!(
        (queue.parked.load(Ordering::SeqCst), queue.entries_max.load(Ordering::SeqCst)),
        (1_000, QUEUE_ENTRIES_MAX)
    );
    let (calls, bytes) = *queue.most.lock().expect("lock");
    assert_eq!(calls, 4);
    assert!(bytes <= 4 * QUEUE_BYTES_MAX, "{bytes}");
}

/// A queue that answers more or fewer entries than it was asked for.
struct Miscounting(isize);

impl Miscounting {
    fn answer(&self, entries: usize) -> BoxFuture<'_, Vec<Result<(), QueueError>>> {
        Box::pin(std::future::ready(vec![Ok(()); entries.saturating_add_signed(self.0)]))
    }
}

impl Queue for Miscounting {
    fn can_park(&self) -> bool {
        true
    }

    fn can_delay(&self) -> bool {
        true
    }

    fn park<'a>(&'a self, entries: &'a [ParkRequest]) -> BoxFuture<'a, Vec<Result<(), QueueError>>> {
        self.answer(entries.len())
    }

    fn delay<'a>(&'a self, entries: &'a [DelayRequest]) -> BoxFuture<'a, Vec<Result<(), QueueError>>> {
        self.answer(entries.len())
    }
}

#[tokio::test(start_paused = true)]
async fn p1_answers_that_can_be_assigned_to_no_entry_acknowledge_none() {
    for difference in [-1, 1, -3] {
        let rig = rig(scripted()).queue(Arc::new(Miscounting(difference))).start();
        rig.put([told("a", "permanent"), told("b", "permanent"), told("c", "permanent"), told("d", "fail")]);
        let delivered = rig.deliver().await;
        assert_eq!((delivered.reported(), delivered.parked()), (vec![0, 1, 2, 3], vec![false; 4]), "{difference}");
        let counts = delivered.report.counts;
        assert_eq!((counts.parks_failed, counts.delays_failed), (3, 1), "{difference}");
    }
}

/// The largest body that is parked.
async fn largest_parked() -> usize {
    let (mut fits, mut too_large) = (QUEUE_BYTES_MAX - 4_096, QUEUE_BYTES_MAX);
    while too_large - fits > 1 {
        let middle = fits.midpoint(too_large);
        let rig = rig(scripted()).parking().start();
        rig.put(["x".repeat(middle)]);
        let parked = rig.deliver().await.parked()[0];
        *(if parked { &mut fits } else { &mut too_large }) = middle;
    }
    fits
}

#[tokio::test(start_paused = true)]
async fn p11_no_fifth_call_goes_out_for_a_body_that_fills_one() {
    let largest = largest_parked().await;
    let queue = Arc::new(Watched { hangs: true, ..Watched::default() });
    let rig = rig(scripted()).queue(Arc::clone(&queue) as _).start();
    // The last fills a call to the byte, and completes the one before it.
    rig.put([largest, largest, largest, 10, largest].map(|size| "x".repeat(size)));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.reported().len(), 5);
    assert_eq!(queue.most.lock().expect("lock").0, 4);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_fit_with_its_reason_is_left_to_the_redrive_policy() {
    let rig = rig(scripted()).parking().delaying().start();
    rig.put(["x".repeat(QUEUE_BYTES_MAX), "no item".into(), "x".repeat(QUEUE_BYTES_MAX - 4_096)]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Rejected; 3]);
    assert_eq!((delivered.parked(), delivered.reported()), (vec![false, true, true], vec![0]));
    let error = &delivered.report.queue_errors[0];
    assert_eq!((error.code(), delivered.report.counts.parks_failed), ("park_does_not_fit", 1));
    assert_eq!(rig.queue.model().check(|_| false).map_err(|fault| fault.to_string()), Ok(()), "no call was too large");
    assert!(rig.delays_ms(0).is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_queue_to_park_in_the_rejected_are_reported() {
    let rig = rig(scripted()).delaying().start();
    rig.put([told("a", "permanent"), "no item".into()]);
    let delivered = rig.deliver().await;
    assert_eq!((delivered.outcomes(), delivered.reported()), (vec![Rejected; 2], vec![0, 1]));
    assert_eq!((delivered.report.counts.parks_failed, rig.dead().len()), (0, 0), "none was to be parked");
}

#[tokio::test(start_paused = true)]
async fn calls_to_the_queue_that_hang_take_no_releases_place() {
    // Every park is throttled once, and hangs when it is tried again; every release is throttled once.
    let releases = Arc::new(Mutex::new(HashSet::new()));
    let memory = MemoryStore::new();
    let store = FaultStore::new(memory.clone(), move |point| {
        let first = point.operation == Operation::Release && releases.lock().expect("lock").insert(point.key.clone());
        if first { Fault::Before(StoreErrorKind::Throttled) } else { Fault::None }
    });
    let calls = Arc::new(AtomicUsize::new(0));
    let rig = rig(scripted().options(|options| options.concurrency = 200))
        .parking()
        .store(store)
        .plans(move |_| {
            let first = calls.fetch_add(1, Ordering::SeqCst) < 2;
            CallPlan::of(if first { CallFault::Throttled } else { CallFault::HangBefore })
        })
        .start();
    rig.put((0..20).map(|nth| told(&nth.to_string(), "permanent")));
    rig.put((20..40).map(|nth| timed(&nth.to_string(), "fail", 0)));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.reported().len(), 40);
    assert_eq!(delivered.report.counts.releases_lost, 0);
    assert!(memory.records().iter().all(|(_, record)| record.is_released()), "no key stays locked");
}

// --- delays -------------------------------------------------------------------------------------------------------

/// The delays between deliveries by the default settings.
fn backoff() -> Backoff {
    Backoff::spanning(3_600, 10).expect("the default")
}

#[tokio::test(start_paused = true)]
async fn a_failed_message_is_delayed_by_how_often_it_was_received() {
    let rig = rig(scripted()).delaying().start();
    rig.put([told("a", "fail")]);
    for receive_count in 1..=12 {
        let delivered = rig.deliver().await;
        assert_eq!((delivered.outcomes(), delivered.reported()), (vec![Failed], vec![0]));
        let delay_ms = *rig.delays_ms(0).last().expect("delayed");
        let floor_ms = backoff().floor_s(receive_count) * 1_000;
        assert!((floor_ms..=floor_ms * 3 / 2).contains(&delay_ms), "{receive_count}: {delay_ms} of {floor_ms}");
        let until_ms = rig.clock.now_ms() + delay_ms;
        assert_eq!(delivered.report.items[0].delayed_until_ms, Some(until_ms));
        rig.until_visible().await;
    }
}

#[tokio::test(start_paused = true)]
async fn messages_that_failed_together_do_not_come_back_together() {
    let rig = rig(scripted()).delaying().start();
    rig.put((0..40).map(|nth| told(&nth.to_string(), "fail")));
    for _ in 0..6 {
        rig.deliver().await;
        rig.until_visible().await;
    }
    rig.deliver().await;
    let last: HashSet<u64> = (0..40).map(|nth| *rig.delays_ms(nth).last().expect("delayed")).collect();
    assert!(last.len() > 20, "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_processor_asks_for_is_the_least_that_it_gets() {
    let rig = rig(scripted()).delaying().start();
    rig.put([timed("a", "retry_after", 2_000_000), timed("b", "retry_after", 1), timed("c", "retry_after", 1_999_500)]);
    rig.deliver().await;
    assert_eq!(rig.delays_ms(0), [2_000_000]);
    assert_eq!(rig.delays_ms(2), [2_000_000], "whole seconds, and never sooner");
    let floor_ms = backoff().floor_s(1) * 1_000;
    assert!((floor_ms..=floor_ms * 3 / 2).contains(&rig.delays_ms(1)[0]), "asked for less");
}

#[tokio::test(start_paused = true)]
async fn no_delay_goes_beyond_what_the_queue_takes() {
    let rig = rig(scripted()).delaying().start();
    rig.put([timed("a", "retry_after", 1_000 * 3_600 * 100), timed("b", "retry_after", u64::MAX)]);
    let delivered = rig.deliver().await;
    // 12 hours from the receipt, less what may have passed since.
    assert_eq!((rig.delays_ms(0), rig.delays_ms(1)), (vec![42_000_000], vec![42_000_000]));
    let until_ms = Some(rig.clock.now_ms() + 42_000_000);
    assert_eq!(delivered.report.items[0].delayed_until_ms, until_ms, "as it was asked for");
    assert_eq!(rig.queue.model().check(|_| false).map_err(|fault| fault.to_string()), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_busy_message_comes_back_when_its_holders_lease_is_over() {
    let store = MemoryStore::new();
    let holder = rig(scripted()).store(store.clone()).start();
    holder.put([timed("held", "slow", 1_000)]);
    let held = holder.poll();
    let rig = rig(scripted()).delaying().seed(2).store(store).start();
    rig.put([timed("held", "slow", 1_000)]);
    let (_, delivered) = tokio::join!(holder.run(&held, TIMEOUT_MS), rig.deliver());
    assert_eq!(delivered.outcomes(), [Busy]);
    // The lease is the holder's deadline, a grace, an effect in flight and the skew; it holds to its last millisecond, and
    // delays are whole seconds. One has passed since.
    assert_eq!(rig.delays_ms(0), [TIMEOUT_MS + 7_000 + 1_000 - 1_000]);
    rig.until_visible().await;
    assert_eq!(rig.deliver().await.outcomes(), [Duplicate]);
}

/// Short delays: 1 s after the first receive.
fn briefly(builder: PipelineBuilder<Scripted>) -> PipelineBuilder<Scripted> {
    builder.options(|options| options.outage_budget_s = 9)
}

#[tokio::test(start_paused = true)]
async fn p2_what_was_cut_short_comes_back_when_its_effect_can_no_longer_happen() {
    let rig = rig(briefly(scripted()).options(|options| options.item_timeout_ms = 100)).delaying().start();
    rig.put([told("a", "hang"), told("b", "panic"), told("c", "effect_unknown"), told("d", "fail")]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.codes(), ["timed_out", "panicked", "on_purpose", "on_purpose"]);
    // An effect in flight takes 5 s and the skew is one; delays are whole seconds.
    for number in 0..3 {
        assert!((6_000..=7_000).contains(&rig.delays_ms(number)[0]), "{number}: {:?}", rig.delays_ms(number));
    }
    assert!(rig.delays_ms(3)[0] <= 2_000, "{:?}", rig.delays_ms(3));
    let item = &delivered.report.items[0];
    assert!(item.delayed_until_ms.is_some());
    rig.until_visible().await;
    let again = rig.deliver().await;
    assert!(!again.outcomes().contains(&Busy), "no key is still held then: {:?}", again.outcomes());
}

#[tokio::test(start_paused = true)]
async fn while_the_breaker_is_open_nothing_comes_back_before_it_lets_a_probe_through() {
    let builder = briefly(scripted()).options(|options| {
        options.concurrency = 2;
        (options.breaker_failure_percent, options.breaker_window, options.breaker_open_ms) = (50, 5, 60_000);
    });
    let rig = rig(builder).delaying().start();
    rig.put((0..20).map(|nth| told(&nth.to_string(), "fail")));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.codes()[19], "breaker_open");
    let opened = delivered.codes().iter().filter(|code| **code == "breaker_open").count();
    assert!(opened >= 13, "{opened}");
    for (number, code) in delivered.codes().iter().enumerate() {
        let delay_ms = rig.delays_ms(number)[0];
        if *code == "breaker_open" {
            assert!((60_000..=61_000).contains(&delay_ms), "{number}: {delay_ms}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_never_started_is_delayed_too_for_it_was_received() {
    let builder = scripted().options(|options| (options.concurrency, options.item_timeout_ms) = (1, 600_000));
    let rig = rig(builder).delaying().start();
    rig.put([told("a", "hang"), item("b"), item("c"), item("d"), item("e")]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.codes(), ["deadline"; 5]);
    assert_eq!(delivered.outcomes()[1..], [Abandoned; 4]);
    let floor_ms = backoff().floor_s(1) * 1_000;
    for number in 1..5 {
        assert!((floor_ms..=floor_ms * 3 / 2).contains(&rig.delays_ms(number)[0]), "{:?}", rig.delays_ms(number));
    }
}

#[tokio::test(start_paused = true)]
async fn delays_go_out_ten_a_call() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&calls);
    let rig = rig(scripted())
        .delaying()
        .plans(move |call| {
            noted.lock().expect("lock").push(call.entries);
            CallPlan::default()
        })
        .start();
    rig.put((0..25).map(|nth| told(&nth.to_string(), "fail")));
    rig.put([item("done"), told("rejected", "permanent")]);
    rig.deliver().await;
    let mut calls = calls.lock().expect("lock").clone();
    calls.sort_unstable();
    assert_eq!(calls, [5, 10, 10]);
    assert!(rig.delays_ms(25).is_empty() && rig.delays_ms(26).is_empty(), "done, and left to the redrive policy");
}

#[tokio::test(start_paused = true)]
async fn a_delay_that_fails_changes_no_outcome_and_is_counted() {
    for (fault, tries, took_ms) in [
        (CallFault::Refused, 1, 0..1),
        (CallFault::Throttled, 3, 0..1_000),
        (CallFault::AnswerLost, 3, 0..1_000),
        (CallFault::HangBefore, 1, OVER_MS..OVER_MS + 1),
        (CallFault::HangAfter, 1, OVER_MS..OVER_MS + 1),
    ] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&calls);
        let rig = rig(scripted())
            .delaying()
            .plans(move |_| {
                counting.fetch_add(1, Ordering::SeqCst);
                CallPlan::of(fault)
            })
            .start();
        rig.put([told("a", "fail"), item("b")]);
        let delivered = rig.deliver().await;
        assert_eq!(delivered.outcomes(), [Failed, Processed], "{fault:?}");
        assert_eq!((delivered.reported(), delivered.report.counts.delays_failed), (vec![0], 1), "{fault:?}");
        assert_eq!(delivered.report.items[0].delayed_until_ms, None, "{fault:?}");
        assert_eq!(calls.load(Ordering::SeqCst), tries, "P14: {fault:?}");
        assert!(took_ms.contains(&delivered.took_ms), "{fault:?}: {}", delivered.took_ms);
    }
}

#[tokio::test(start_paused = true)]
async fn each_entry_of_a_delay_counts_by_itself() {
    let entries = vec![EntryFault::None, EntryFault::Refused, EntryFault::Throttled];
    let plan = CallPlan { call: CallFault::None, entries };
    let rig = rig(scripted()).delaying().plans(move |_| plan.clone()).start();
    rig.put((0..3).map(|nth| told(&nth.to_string(), "fail")));
    let delivered = rig.deliver().await;
    let delayed: Vec<bool> = delivered.report.items.iter().map(|item| item.delayed_until_ms.is_some()).collect();
    assert_eq!((delayed, delivered.report.counts.delays_failed), (vec![true, false, true], 1));
    assert_eq!((rig.delays_ms(1).len(), rig.delays_ms(2).len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn delays_that_were_never_sent_are_counted_as_well() {
    // Eight calls are out and hang: ten entries each.
    let rig = rig(scripted().options(|options| options.concurrency = 200))
        .delaying()
        .plans(|_| CallPlan::of(CallFault::HangBefore))
        .start();
    rig.put((0..95).map(|nth| told(&nth.to_string(), "fail")));
    let delivered = rig.deliver().await;
    assert_eq!((delivered.reported().len(), delivered.report.counts.delays_failed), (95, 95));
}

#[tokio::test(start_paused = true)]
async fn a_record_without_a_receipt_handle_is_reported_and_not_delayed() {
    let rig = rig(scripted()).delaying().start();
    let event = json!({"Records": [{"messageId": "m", "body": told("a", "fail"), "receiptHandle": 7}]}).to_string();
    let response = rig.pipeline.run(&event, "batch", None).await.expect("an event");
    assert_eq!(response.into_failed_ids(), ["m"]);
    let report = rig.recorder.last();
    assert_eq!((report.items[0].delayed_until_ms, report.queue_errors.len()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn where_the_host_cannot_delay_nothing_is_delayed() {
    let rig = rig(scripted()).parking().start();
    rig.put([told("a", "fail")]);
    rig.deliver().await;
    assert!(rig.delays_ms(0).is_empty());
}

#[tokio::test(start_paused = true)]
async fn p10_nothing_spins_while_the_queue_keeps_the_response() {
    // Delays and parks that hang, items that hang, a rate that holds items back: time must go on to the end.
    let builder = scripted().options(|options| (options.starts_per_s, options.item_timeout_ms) = (2, 600_000));
    let rig = rig(builder).parking().delaying().plans(|_| CallPlan::of(CallFault::HangBefore)).start();
    rig.put([told("a", "permanent"), told("b", "fail"), told("c", "hang")]);
    rig.put((0..90).map(|nth| item(&nth.to_string())));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.took_ms, OVER_MS);
    assert_eq!(delivered.codes()[2], "deadline");
    assert_eq!(delivered.codes()[92], "deadline");
}

// --- together -----------------------------------------------------------------------------------------------------

fn call_plan() -> impl Strategy<Value = CallPlan> {
    let call = prop_oneof![
        5 => Just(CallFault::None),
        1 => (0_u64..3_000).prop_map(|ms| CallFault::Slow(Duration::from_millis(ms))),
        1 => Just(CallFault::Throttled),
        1 => Just(CallFault::Refused),
        1 => Just(CallFault::AnswerLost),
        1 => Just(CallFault::HangBefore),
        1 => Just(CallFault::HangAfter),
    ];
    let entry = prop_oneof![
        3 => Just(EntryFault::None),
        1 => Just(EntryFault::Throttled),
        1 => Just(EntryFault::Refused),
        1 => Just(EntryFault::AnswerLost),
    ];
    (call, vec(entry, 0..4)).prop_map(|(call, entries)| CallPlan { call, entries })
}

const ACTS: [&str; 8] = ["", "slow", "fail", "permanent", "hang", "panic", "effect_unknown", "no item"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// P1, P10, P11: whatever the queue does with parks and delays, the response is in time, what is acknowledged is done
    /// or parked, no queue's limit is broken, and no outcome depends on it.
    #[test]
    fn p1_p10_the_queues_own_failures_change_no_outcome(
        acts in vec(0..ACTS.len(), 1..30),
        plans in vec(call_plan(), 1..6),
        timeout_ms in 1_200_u64..6_000,
        concurrency in 1_u64..6,
        starts_per_s in prop_oneof![3 => Just(0_u64), 1 => 5_u64..50],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let hooked = Arc::new(Mutex::new(vec![0_usize; acts.len()]));
            let (of_success, of_failure) = (Arc::clone(&hooked), Arc::clone(&hooked));
            let builder = scripted()
                .options(|options| {
                    (options.concurrency, options.starts_per_s, options.item_timeout_ms) = (concurrency, starts_per_s, 700);
                })
                .on_success(move |success| of_success.lock().expect("lock")[success.index] += 1)
                .on_failure(move |failure| of_failure.lock().expect("lock")[failure.index] += 1);
            let rig = rig(builder)
                .parking()
                .delaying()
                .plans(move |call| plans[usize::try_from(call.nth).expect("small") % plans.len()].clone())
                .start();
            rig.put(acts.iter().enumerate().map(|(nth, act)| match ACTS[*act] {
                "no item" => "no item".to_owned(),
                act => timed(&nth.to_string(), act, 50),
            }));
            let delivered: Delivered = rig.deliver_within(timeout_ms).await;
            for (nth, act) in acts.iter().enumerate() {
                let outcome = delivered.outcomes()[nth];
                let expected = match ACTS[*act] {
                    "" | "slow" => [Processed, Abandoned],
                    "permanent" | "no item" => [Rejected, Abandoned],
                    _ => [Failed, Abandoned],
                };
                // Cut off before it returned, it failed.
                let cut_off = (outcome, delivered.codes()[nth]) == (Failed, "deadline");
                prop_assert!(expected.contains(&outcome) || cut_off, "{} of {}", outcome, ACTS[*act]);
                let acknowledged = !delivered.reported().contains(&nth);
                prop_assert_eq!(acknowledged, outcome == Processed || delivered.parked()[nth]);
                prop_assert_eq!(hooked.lock().expect("lock")[nth], 1, "hooks of {}", nth);
            }
            let outcomes = delivered.outcomes();
            let checked = rig.queue.model().check(|number| outcomes[number.0] == Processed);
            prop_assert_eq!(checked.map_err(|fault| fault.to_string()), Ok(()));
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_without_a_queue_reports_all_that_is_not_done() {
    let recorder = Arc::new(KeepingRecorder::default());
    let processor = Scripted::by("id").on("a", Script::failing(1)).on("b", Act::Permanent);
    let pipeline = Pipeline::builder(processor)
        .key("id")
        .build(microbatch::pipeline::Host {
            store: MemoryStore::new(),
            clock: Arc::new(microbatch_testkit::clock::TokioClock::default()),
            random: Arc::new(microbatch_testkit::clock::SeededRandom::new(1)),
            recorder: Arc::clone(&recorder) as _,
            queue: None,
        })
        .expect("valid settings");
    let event = crate::support::event(&[&item("a"), &item("b"), &item("c")]);
    let failed = pipeline.run(&event, "batch", None).await.expect("an event").into_failed_ids();
    assert_eq!(failed, ["m0", "m1"]);
    assert!(recorder.last().items.iter().all(|item| !item.parked && item.delayed_until_ms.is_none()));
}
