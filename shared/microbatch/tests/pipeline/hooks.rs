//! Hooks: told once of each message, with what is known of it, and never able to change anything.

use std::sync::{Arc, Mutex};

use microbatch::{
    Done, Failure, FailureKind, FifoFailure, ItemContext, MemoryStore, NoWrites,
    Outcome::{self, Busy, Conflict, Duplicate, Failed, Processed, Rejected},
    Pipeline, PipelineBuilder, ProcessError, Processor, Success, TotalFailure,
};
use microbatch_testkit::{
    fault::{Fault, FaultStore, Operation},
    queue::{CallFault, CallPlan},
    scripted::{Act, Scripted},
};
use proptest::{collection::vec, prelude::*};

use crate::rig::{Delivered, TIMEOUT_MS, item, rig, timed, told};

/// What a hook was told of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    index: usize,
    message_id: String,
    receive_count: u32,
    outcome: Outcome,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Done { output: Option<String>, not_kept: bool },
    Undone { kind: FailureKind, code: Option<&'static str>, error: Option<String> },
}

#[derive(Default)]
struct Hooked(Mutex<Vec<Told>>);

impl Hooked {
    fn success(&self, success: &Success<'_>) {
        self.0.lock().expect("lock").push(Told {
            index: success.index,
            message_id: success.message_id.to_owned(),
            receive_count: success.receive_count,
            outcome: success.outcome,
            what: What::Done { output: success.output(), not_kept: success.output_not_kept() },
        });
    }

    fn failure(&self, failure: &Failure<'_>) {
        let error = failure.error.map(|error| error.source().to_string());
        self.0.lock().expect("lock").push(Told {
            index: failure.index,
            message_id: failure.message_id.to_owned(),
            receive_count: failure.receive_count,
            outcome: failure.outcome,
            what: What::Undone { kind: failure.kind, code: failure.code, error },
        });
    }

    /// What was told since the last time, by message.
    fn take(&self) -> Vec<Told> {
        let mut told = std::mem::take(&mut *self.0.lock().expect("lock"));
        told.sort_by_key(|told| told.index);
        told
    }

    /// Asserts that each message was told of once, as it was reported.
    fn assert_as(&self, delivered: &Delivered) -> Vec<What> {
        let told = self.take();
        assert_eq!(told.len(), delivered.report.items.len(), "each message once: {told:?}");
        for (index, (told, item)) in told.iter().zip(&delivered.report.items).enumerate() {
            assert_eq!((told.index, &told.message_id, told.outcome), (index, &item.message_id, item.outcome));
            if let What::Undone { kind, code, .. } = told.what {
                assert_eq!((Some(kind), code), (item.kind, item.code), "message {index}");
            } else {
                assert_eq!(item.kind, None, "message {index}");
            }
        }
        told.into_iter().map(|told| told.what).collect()
    }
}

fn hooked(processor: Scripted) -> (PipelineBuilder<Scripted>, Arc<Hooked>) {
    let hooked = Arc::new(Hooked::default());
    let (of_success, of_failure) = (Arc::clone(&hooked), Arc::clone(&hooked));
    let builder = Pipeline::builder(processor)
        .key("id")
        .fingerprint_body()
        .options(|options| options.total_failure = TotalFailure::Report)
        .on_success(move |success| of_success.success(success))
        .on_failure(move |failure| of_failure.failure(failure));
    (builder, hooked)
}

fn done(output: &str) -> What {
    What::Done { output: Some(output.to_owned()), not_kept: false }
}

fn undone(kind: FailureKind, code: &'static str) -> What {
    What::Undone { kind, code: Some(code), error: None }
}

fn on_purpose(kind: FailureKind) -> What {
    What::Undone { kind, code: Some("on_purpose"), error: Some("on purpose".to_owned()) }
}

#[tokio::test(start_paused = true)]
async fn p5_success_shows_the_result_and_a_duplicate_the_identical_one() {
    let (builder, hooked) = hooked(Scripted::by("id").as_told());
    let rig = rig(builder).start();
    // The third follows the first in its batch.
    rig.put([item("a\\u00e9\\n"), item("b"), item("a\\u00e9\\n")]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed, Processed, Duplicate]);
    assert_eq!(hooked.assert_as(&delivered), [done("a\u{e9}\n"), done("b"), done("a\u{e9}\n")]);
    rig.put([item("a\\u00e9\\n")]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Duplicate]);
    assert_eq!(hooked.assert_as(&delivered), [done("a\u{e9}\n")]);
}

#[tokio::test(start_paused = true)]
async fn p5_a_follower_that_comes_when_its_leader_is_done_sees_the_result_too() {
    let (builder, hooked) = hooked(Scripted::by("id").as_told());
    let rig = rig(builder).fifo().start();
    // In order: the second of the group comes when the first is completed.
    rig.put_in([("g", item("a")), ("g", item("a")), ("g", timed("a", "slow", 1))]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed, Duplicate, Conflict]);
    let expected = [done("a"), done("a"), undone(FailureKind::Conflict, "fingerprint_differs")];
    assert_eq!(hooked.assert_as(&delivered), expected);
    // A leader that was a duplicate itself.
    rig.put_in([("h", item("a")), ("h", item("a"))]);
    let delivered = rig.deliver().await;
    assert_eq!(hooked.assert_as(&delivered), [done("a"), done("a")]);
}

#[tokio::test(start_paused = true)]
async fn p5_a_result_that_was_not_kept_is_said_so_each_time() {
    let (builder, hooked) = hooked(Scripted::by("id"));
    let rig = rig(builder.options(|options| options.result_bytes_max = 4)).start();
    for outcome in [Processed, Duplicate] {
        rig.put([item("abc")]);
        let delivered = rig.deliver().await;
        assert_eq!(delivered.outcomes(), [outcome]);
        assert_eq!(hooked.assert_as(&delivered), [What::Done { output: None, not_kept: true }]);
    }
}

#[tokio::test(start_paused = true)]
async fn p5_the_cache_replays_the_same_result() {
    let (builder, hooked) = hooked(Scripted::by("id"));
    let rig = rig(builder.options(|options| options.completed_cache_entries = 10)).start();
    for _ in 0..2 {
        rig.put([item("abc"), item("abc")]);
        let delivered = rig.deliver().await;
        assert_eq!(hooked.assert_as(&delivered), [done("abc"), done("abc")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_shows_its_kind_its_code_and_the_processors_error() {
    let (builder, hooked) = hooked(Scripted::by("id").as_told());
    let rig = rig(builder.options(|options| options.item_timeout_ms = 100)).start();
    rig.put([item("taken")]);
    rig.deliver().await;
    hooked.take();
    rig.put([
        told("fail", "fail"),
        told("permanent", "permanent"),
        told("hang", "hang"),
        told("panic", "panic"),
        "no item".into(),
        timed("taken", "slow", 1),
        // These two follow: the same content, and another.
        told("fail", "fail"),
        timed("fail", "fail", 1),
    ]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Failed, Rejected, Failed, Failed, Rejected, Conflict, Failed, Busy]);
    let expected = [
        on_purpose(FailureKind::Transient),
        on_purpose(FailureKind::Permanent),
        undone(FailureKind::Transient, "timed_out"),
        undone(FailureKind::Transient, "panicked"),
        undone(FailureKind::Undecodable, "undecodable"),
        undone(FailureKind::Conflict, "fingerprint_differs"),
        on_purpose(FailureKind::Transient),
        // The error is that of other content: it is not this one's.
        undone(FailureKind::Busy, "held_by_another"),
    ];
    assert_eq!(hooked.assert_as(&delivered), expected);
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_comes_when_its_leader_has_failed_sees_the_error_too() {
    let (builder, hooked) = hooked(Scripted::by("id").as_told());
    let rig = rig(builder).fifo().start();
    rig.put_in([("a", told("x", "fail")), ("b", timed("b0", "slow", 50)), ("b", told("x", "fail"))]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Failed, Processed, Failed]);
    let failed = on_purpose(FailureKind::Transient);
    assert_eq!(hooked.assert_as(&delivered), [failed.clone(), done("b0"), failed]);
}

#[tokio::test(start_paused = true)]
async fn a_hook_sees_how_often_a_message_was_received() {
    let (builder, hooked) = hooked(Scripted::by("id").on("a", microbatch_testkit::scripted::Script::failing(2)));
    let rig = rig(builder).start();
    rig.put([item("a")]);
    for receive_count in 1..=3 {
        rig.deliver().await;
        assert_eq!(hooked.take()[0].receive_count, receive_count);
        rig.until_visible().await;
    }
}

#[tokio::test(start_paused = true)]
async fn p7_a_hook_that_panics_changes_nothing_and_is_counted() {
    let processor = || Scripted::by("id").on("b", Act::Fail).on("c", Act::Permanent);
    let (calm, _) = hooked(processor());
    let panicking = Pipeline::builder(processor())
        .key("id")
        .fingerprint_body()
        .options(|options| options.total_failure = TotalFailure::Report)
        .on_success(|_| panic!("on purpose"))
        .on_failure(|_| panic!("on purpose"));
    let mut seen = Vec::new();
    for builder in [calm, panicking] {
        let rig = rig(builder).parking().delaying().start();
        rig.put([item("a"), item("b"), item("c"), item("a"), "no item".into()]);
        let delivered = rig.deliver().await;
        assert_eq!(delivered.outcomes(), [Processed, Failed, Rejected, Duplicate, Rejected]);
        let delays = (0..5).map(|number| rig.delays_ms(number)).collect::<Vec<_>>();
        seen.push((delivered.reported(), delivered.parked(), delays, delivered.codes()));
        assert_eq!(rig.pipeline.store().records().len(), 3);
        let panics = delivered.report.counts.hook_panics;
        assert_eq!(panics, if seen.len() == 1 { 0 } else { 5 });
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test(start_paused = true)]
async fn blocked_and_abandoned_messages_are_told_of_once() {
    let (builder, hooked) = hooked(Scripted::by("id").as_told());
    let rig = rig(builder.options(|options| options.item_timeout_ms = 600_000)).fifo().start();
    rig.put_in([
        ("a", told("a0", "fail")),
        ("a", item("a1")),
        ("a", item("a2")),
        ("b", told("b0", "hang")),
        ("b", item("b1")),
        ("c", item("c0")),
    ]);
    let delivered = rig.deliver().await;
    let blocked = || undone(FailureKind::Abandoned, "group_blocked");
    let cut_off = undone(FailureKind::Transient, "deadline");
    let expected = [on_purpose(FailureKind::Transient), blocked(), blocked(), cut_off, blocked(), done("c0")];
    assert_eq!(hooked.assert_as(&delivered), expected);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_parked_is_told_of_once_parked_or_not() {
    for fault in [CallFault::None, CallFault::Refused, CallFault::HangBefore] {
        let (builder, hooked) = hooked(Scripted::by("id").as_told());
        let builder = builder.options(|options| options.fifo_failure = FifoFailure::ParkAndContinue);
        let rig = rig(builder).fifo().parking().plans(move |_| CallPlan::of(fault)).start();
        rig.put_in([("a", told("a0", "permanent")), ("a", item("a1")), ("b", "no item".into())]);
        let delivered = rig.deliver().await;
        hooked.assert_as(&delivered);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_is_told_before_the_response_leaves_and_of_nothing_that_is_not_recorded() {
    // P1: that the work is done is said when its completion is answered.
    let store = FaultStore::new(MemoryStore::new(), |point| match point.operation {
        Operation::Complete => Fault::HangAfter,
        _ => Fault::None,
    });
    let (builder, hooked) = hooked(Scripted::by("id"));
    let rig = rig(builder).store(store).start();
    rig.put([item("a"), item("a")]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Failed, Failed]);
    let lost = || undone(FailureKind::Transient, "completion_lost");
    assert_eq!(hooked.assert_as(&delivered), [lost(), lost()]);
}

/// An error whose destructor panics.
#[derive(Debug)]
struct Bomb;

impl std::fmt::Display for Bomb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bomb")
    }
}

impl std::error::Error for Bomb {}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}

struct Bombs;

impl Processor for Bombs {
    type Item = serde_json::Value;
    type Output = ();
    type Write = NoWrites;

    async fn process(&self, item: serde_json::Value, _cx: &ItemContext) -> Result<Done<()>, ProcessError> {
        if item["act"] == "fail" { Err(Bomb)? } else { Ok(().into()) }
    }
}

#[tokio::test(start_paused = true)]
async fn p7_an_error_that_panics_when_it_is_dropped_fails_alone_also_where_a_hook_asks_for_it() {
    let rig = rig(Pipeline::builder(Bombs).key("id").on_failure(|failure| assert!(failure.error.is_some()))).start();
    rig.put([told("a", "fail"), told("a", "fail"), item("b")]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Failed, Failed, Processed]);
    let counts = delivered.report.counts;
    assert_eq!((counts.panics_in_drop, counts.hook_panics), (1, 0));
}

const ACTS: [&str; 8] = ["", "slow", "fail", "permanent", "hang", "panic", "effect_unknown", "no item"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Each message is told of once, as it is reported: whatever its group, its equals, the store and the deadline do.
    #[test]
    fn p6_each_message_is_told_of_once_as_it_is_reported(
        messages in vec((0_usize..3, 0_usize..6, 0..ACTS.len()), 1..=10),
        faults in vec(0_u8..6, 1..8),
        timeout_ms in 0_u64..4_000,
        fifo in any::<bool>(),
        concurrency in 1_u64..5,
        panics in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let store = FaultStore::new(MemoryStore::new(), move |point| {
                match faults[usize::try_from(point.nth).expect("small") % faults.len()] {
                    0 => Fault::HangBefore,
                    1 => Fault::HangAfter,
                    2 => Fault::Before(microbatch::store::StoreErrorKind::Refused),
                    3 => Fault::After(microbatch::store::StoreErrorKind::TimedOut),
                    _ => Fault::None,
                }
            });
            let (builder, hooked) = hooked(Scripted::by("id").as_told());
            let builder = builder.options(|options| {
                (options.concurrency, options.item_timeout_ms) = (concurrency, 900);
                options.fifo_failure = FifoFailure::ParkAndContinue;
            });
            let builder = if panics {
                let (of_success, of_failure) = (Arc::clone(&hooked), Arc::clone(&hooked));
                builder
                    .on_success(move |success| {
                        of_success.success(success);
                        std::panic::resume_unwind(Box::new("on purpose"));
                    })
                    .on_failure(move |failure| {
                        of_failure.failure(failure);
                        std::panic::resume_unwind(Box::new("on purpose"));
                    })
            } else {
                builder
            };
            let rig = rig(builder).store(store).parking().delaying();
            let rig = if fifo { rig.fifo() } else { rig }.start();
            for (group, key, act) in &messages {
                let group = ["a", "b", "c"][*group];
                let body = match ACTS[*act] {
                    "no item" => "no item".to_owned(),
                    act => timed(&key.to_string(), act, 40),
                };
                rig.put_in([(group, body)]);
            }
            let delivered = rig.deliver_within(timeout_ms).await;
            hooked.assert_as(&delivered);
            let panicked = if panics { messages.len() as u64 } else { 0 };
            prop_assert_eq!(delivered.report.counts.hook_panics, panicked);
            prop_assert!(delivered.took_ms <= TIMEOUT_MS);
            Ok(())
        })?;
    }
}
