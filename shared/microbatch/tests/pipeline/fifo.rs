//! FIFO queues: groups side by side, order within a group, and what a failure does to those behind it (P16).

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use microbatch::{
    Clock, FifoFailure, MemoryStore,
    Outcome::{self, Abandoned, Busy, Conflict, Duplicate, Failed, Processed, Rejected},
    Pipeline, PipelineBuilder,
};
use microbatch_testkit::{
    fault::{Fault, FaultStore, Operation},
    queue::{CallFault, CallPlan, NewMessage, QueueOperation},
    scripted::{Ending, Scripted, Seen},
};
use proptest::{collection::vec, prelude::*};
use serde_json::json;

use crate::rig::{CUT_OFF_MS, Rig, TIMEOUT_MS, item, rig, timed, told};

/// A pipeline whose items say what happens to them.
fn scripted() -> (PipelineBuilder<Scripted>, Arc<Seen>) {
    let processor = Scripted::by("id").as_told();
    let seen = processor.seen();
    (Pipeline::builder(processor).key("id").fingerprint_body(), seen)
}

fn park_and_continue(builder: PipelineBuilder<Scripted>) -> PipelineBuilder<Scripted> {
    builder.options(|options| options.fifo_failure = FifoFailure::ParkAndContinue)
}

#[tokio::test(start_paused = true)]
async fn p16_groups_go_in_parallel_and_each_in_order() {
    let (builder, seen) = scripted();
    let rig = rig(builder).fifo().start();
    for nth in 0..3 {
        rig.put_in(["a", "b", "c"].map(|group| (group, timed(&format!("{group}{nth}"), "slow", 100))));
    }
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed; 9]);
    assert_eq!((delivered.took_ms, seen.at_once_max()), (300, 3));
    assert_eq!(seen.starts(), ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]);
    // The next one starts when the one before it is completed, not when it returns.
    for (nth, event) in seen.events().iter().enumerate().filter(|(_, event)| event.ending.is_none()) {
        let running = seen.events()[..nth].iter().filter(|earlier| earlier.name[..1] == event.name[..1]).count();
        assert_eq!(running % 2, 0, "{} started while another of its group ran", event.name);
    }
}

#[tokio::test(start_paused = true)]
async fn p16_the_next_one_waits_for_the_completion() {
    let completions = Arc::new(Mutex::new(0));
    let counting = Arc::clone(&completions);
    let store = FaultStore::new(MemoryStore::new(), move |point| {
        if point.operation != Operation::Complete {
            return Fault::None;
        }
        *counting.lock().expect("lock") += 1;
        Fault::Delay(Duration::from_millis(50))
    });
    let (builder, seen) = scripted();
    let rig = rig(builder).fifo().store(store).start();
    rig.put_in([("a", item("a0")), ("a", item("a1")), ("a", item("a2"))]);
    let delivered = rig.deliver().await;
    assert_eq!((delivered.outcomes(), delivered.took_ms), (vec![Processed; 3], 150));
    assert_eq!((seen.at_once_max(), *completions.lock().expect("lock")), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn p16_the_rest_of_a_failed_group_is_handed_back_unstarted_with_the_same_delay() {
    let (builder, seen) = scripted();
    let rig = rig(builder).fifo().delaying().start();
    rig.put_in([
        ("a", item("a0")),
        ("b", item("b0")),
        ("a", told("a1", "fail")),
        ("a", item("a2")),
        ("b", item("b1")),
        ("a", item("a3")),
    ]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed, Processed, Failed, Abandoned, Processed, Abandoned]);
    assert_eq!(delivered.codes(), ["", "", "on_purpose", "group_blocked", "", "group_blocked"]);
    assert_eq!(delivered.reported(), [2, 3, 5]);
    assert_eq!((seen.total(), seen.runs("a2"), seen.runs("a3")), (4, 0, 0));
    let delays = [2, 3, 5].map(|number| rig.delays_ms(number));
    assert_eq!(delays[0].len(), 1);
    assert!(delays[0][0] >= 1_000, "{delays:?}");
    assert!(delays.iter().all(|delay| *delay == delays[0]), "the very same: {delays:?}");
    let until = [2, 3, 5].map(|index: usize| delivered.report.items[index].delayed_until_ms);
    assert!(until.iter().all(|until_ms| until_ms.is_some() && *until_ms == until[0]), "{until:?}");
    assert!(rig.delays_ms(0).is_empty() && rig.delays_ms(4).is_empty(), "what is done is not delayed");
}

#[tokio::test(start_paused = true)]
async fn p16_the_rest_gets_the_delay_that_the_failed_one_asked_for() {
    let (builder, _seen) = scripted();
    let rig = rig(builder).fifo().delaying().start();
    rig.put_in([("a", timed("a0", "retry_after", 3_000_000)), ("a", item("a1"))]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Failed, Abandoned]);
    assert_eq!((rig.delays_ms(0), rig.delays_ms(1)), (vec![3_000_000], vec![3_000_000]));
}

#[tokio::test(start_paused = true)]
async fn p16_a_record_that_does_not_decode_is_its_groups_failure() {
    let (builder, seen) = scripted();
    let rig = rig(builder).fifo().parking().delaying().start();
    rig.put_in([("a", "no item"), ("a", "also none"), ("b", "{\"id\":\"b0\"}")]);
    rig.put_in([("a", item("a2"))]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Rejected, Abandoned, Processed, Abandoned]);
    assert_eq!(delivered.codes(), ["undecodable", "group_blocked", "", "group_blocked"]);
    assert_eq!(seen.starts(), ["b0"]);
}

#[tokio::test(start_paused = true)]
async fn block_parks_nothing_and_leaves_the_rejected_one_to_the_redrive_policy() {
    let (builder, seen) = scripted();
    let rig = rig(builder).fifo().parking().delaying().start();
    rig.put_in([("a", told("a0", "permanent")), ("a", item("a1")), ("b", "no item".into()), ("b", "no item".into())]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Rejected, Abandoned, Rejected, Abandoned]);
    assert_eq!((delivered.parked(), delivered.reported()), (vec![false; 4], vec![0, 1, 2, 3]));
    assert_eq!(rig.dead(), [""; 0]);
    assert_eq!(seen.starts(), ["a0"]);
    // Nor is any delayed: the sooner it comes, the sooner the redrive policy has it. The rest comes with it.
    assert!((0..4).all(|number| rig.delays_ms(number).is_empty()));
}

#[tokio::test(start_paused = true)]
async fn park_and_continue_goes_on_behind_a_message_that_was_parked() {
    let (builder, seen) = scripted();
    let slow = |_: &_| CallPlan::of(CallFault::Slow(Duration::from_millis(500)));
    let rig = rig(park_and_continue(builder)).fifo().parking().plans(slow).start();
    rig.put_in([("a", told("a0", "permanent")), ("a", item("a1")), ("a", "no item".into()), ("b", item("b0"))]);
    rig.put_in([("a", item("a3"))]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Rejected, Processed, Rejected, Processed, Processed]);
    assert_eq!(delivered.parked(), [true, false, true, false, false]);
    assert_eq!(delivered.reported(), [0_usize; 0]);
    assert_eq!(rig.dead(), [told("a0", "permanent"), "no item".to_owned()]);
    assert_eq!(seen.starts(), ["a0", "b0", "a1", "a3"]);
    assert_eq!(delivered.took_ms, 1_000, "each of the two was parked before the next one came");
}

#[tokio::test(start_paused = true)]
async fn park_and_continue_waits_where_the_park_fails() {
    // Refused for good; throttled for good; lost on the way; never answered.
    for fault in [CallFault::Refused, CallFault::Throttled, CallFault::AnswerLost, CallFault::HangBefore] {
        let (builder, seen) = scripted();
        let rig = rig(park_and_continue(builder)).fifo().parking().plans(move |_| CallPlan::of(fault)).start();
        rig.put_in([("a", told("a0", "permanent")), ("a", item("a1")), ("b", item("b0"))]);
        let delivered = rig.deliver().await;
        assert_eq!(delivered.outcomes(), [Rejected, Abandoned, Processed], "{fault:?}");
        assert_eq!(delivered.codes(), ["on_purpose", "group_blocked", ""], "{fault:?}");
        assert_eq!((delivered.parked()[0], delivered.reported()), (false, vec![0, 1]), "{fault:?}");
        assert_eq!((delivered.report.counts.parks_failed, seen.runs("a1")), (1, 0), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn park_and_continue_waits_where_a_message_does_not_fit() {
    let (builder, seen) = scripted();
    let rig = rig(park_and_continue(builder)).fifo().parking().start();
    rig.put_in([("a", "x".repeat(1_048_576)), ("a", item("a1"))]);
    let delivered = rig.deliver().await;
    assert_eq!((delivered.outcomes(), delivered.reported()), (vec![Rejected, Abandoned], vec![0, 1]));
    assert_eq!((seen.total(), rig.dead().len(), delivered.report.counts.parks_failed), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn p16_what_may_succeed_later_blocks_its_group_under_either_policy() {
    for policy in [FifoFailure::Block, FifoFailure::ParkAndContinue] {
        let (builder, seen) = scripted();
        let rig = rig(builder.options(|options| options.fifo_failure = policy)).fifo().parking().start();
        rig.put_in([("a", told("a0", "fail")), ("a", item("a1")), ("b", told("b0", "panic")), ("b", item("b1"))]);
        let delivered = rig.deliver().await;
        assert_eq!(delivered.outcomes(), [Failed, Abandoned, Failed, Abandoned], "{policy:?}");
        assert_eq!((rig.dead().len(), seen.runs("a1"), seen.runs("b1")), (0, 0, 0), "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn p16_busy_and_conflict_block_their_group_and_a_duplicate_does_not() {
    let store = MemoryStore::new();
    let (builder, _seen) = scripted();
    let other = rig(builder).store(store.clone()).start();
    other.put([item("done"), item("taken")]);
    other.deliver().await;
    other.put([timed("busy", "slow", 1_000)]);
    let held = other.poll();

    let (builder, seen) = scripted();
    let rig = rig(builder).fifo().delaying().seed(2).store(store).start();
    rig.put_in([("a", timed("busy", "slow", 1_000)), ("a", item("a1"))]);
    rig.put_in([("b", timed("taken", "slow", 7)), ("b", item("b1")), ("c", item("done")), ("c", item("c1"))]);
    let now_ms = rig.clock.now_ms();
    let (_, delivered) = tokio::join!(other.run(&held, TIMEOUT_MS), rig.deliver());
    assert_eq!(delivered.outcomes(), [Busy, Abandoned, Conflict, Abandoned, Duplicate, Processed]);
    assert_eq!(seen.starts(), ["c1"]);
    // The holder's lease: its deadline, a grace, the time of an effect in flight and the skew.
    let lease_end_ms = now_ms + TIMEOUT_MS + 1_000 + 5_000 + 1_000;
    let until = [0, 1].map(|index: usize| delivered.report.items[index].delayed_until_ms);
    assert_eq!(until, [Some(lease_end_ms + 1); 2]);
}

#[tokio::test(start_paused = true)]
async fn the_groups_of_a_fair_queue_are_tenants_and_keep_no_order() {
    let (builder, seen) = scripted();
    let rig = rig(builder).start();
    rig.put_in([("a", told("a0", "fail")), ("a", timed("a1", "slow", 100)), ("a", timed("a2", "slow", 100))]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Failed, Processed, Processed]);
    assert_eq!((delivered.took_ms, seen.at_once_max()), (100, 2));
}

/// An event of records with these queues, groups and bodies.
fn event(records: &[(&str, Option<&str>, String)]) -> String {
    let records = records.iter().enumerate().map(|(index, (queue, group, body))| {
        let attributes = group.map_or_else(|| json!({}), |group| json!({ "MessageGroupId": group }));
        json!({
            "messageId": format!("m{index}"),
            "body": body,
            "attributes": attributes,
            "eventSourceARN": format!("arn:aws:sqs:eu-west-1:123456789012:{queue}"),
        })
    });
    json!({ "Records": records.collect::<Vec<_>>() }).to_string()
}

async fn send(rig: &Rig<Scripted>, records: &[(&str, Option<&str>, String)]) -> Vec<(Outcome, Option<&'static str>)> {
    rig.pipeline.run(&event(records), "raw", None).await.expect("an event");
    rig.recorder.last().items.iter().map(|item| (item.outcome, item.code)).collect()
}

#[tokio::test(start_paused = true)]
async fn p16_records_without_a_group_keep_order_among_themselves() {
    let (builder, seen) = scripted();
    let rig = rig(builder).start();
    let outcomes = send(
        &rig,
        &[
            ("q.fifo", None, told("0", "slow")),
            ("q.fifo", Some("a"), told("1", "slow")),
            ("q.fifo", None, told("2", "fail")),
            ("q.fifo", None, item("3")),
            ("q.fifo", Some("a"), item("4")),
        ],
    )
    .await;
    let blocked = (Abandoned, Some("group_blocked"));
    let done = (Processed, None);
    assert_eq!(outcomes, [done, done, (Failed, Some("on_purpose")), blocked, done]);
    assert_eq!(seen.runs("3"), 0);
}

#[tokio::test(start_paused = true)]
async fn groups_of_one_name_in_two_queues_are_two() {
    let (builder, _seen) = scripted();
    let rig = rig(builder).start();
    let outcomes = send(
        &rig,
        &[
            ("one.fifo", Some("a"), told("0", "fail")),
            ("two.fifo", Some("a"), item("1")),
            ("one.fifo", Some("a"), item("2")),
            ("three", Some("a"), item("3")),
        ],
    )
    .await;
    assert_eq!(
        outcomes.iter().map(|(outcome, _)| *outcome).collect::<Vec<_>>(),
        [Failed, Processed, Abandoned, Processed]
    );
}

#[tokio::test(start_paused = true)]
async fn p8_p16_equal_keys_in_several_groups_run_once_and_never_wait_for_each_other() {
    let (builder, seen) = scripted();
    let rig = rig(builder).fifo().start();
    // Each group's second is the other's first.
    let slow = |id: &str| timed(id, "slow", 100);
    rig.put_in([("a", slow("x")), ("b", slow("y")), ("a", slow("y")), ("b", slow("x")), ("a", item("a2"))]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed, Processed, Duplicate, Duplicate, Processed]);
    assert_eq!((seen.runs("x"), seen.runs("y"), delivered.took_ms), (1, 1, 100));
}

#[tokio::test(start_paused = true)]
async fn p16_a_follower_in_another_group_shares_its_leaders_failure_and_blocks_its_own_group() {
    let (builder, seen) = scripted();
    let rig = rig(builder).fifo().start();
    rig.put_in([("a", timed("x", "fail", 0)), ("b", item("b0")), ("b", timed("x", "fail", 0)), ("b", item("b2"))]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Failed, Processed, Failed, Abandoned]);
    assert_eq!((seen.runs("x"), seen.runs("b2")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn p10_p16_at_the_deadline_the_running_head_is_cut_off_and_its_group_goes_back_with_it() {
    let (builder, seen) = scripted();
    let rig = rig(builder.options(|options| options.item_timeout_ms = 600_000)).fifo().delaying().start();
    rig.put_in([("a", told("a0", "hang")), ("a", item("a1")), ("b", item("b0")), ("b", item("b1"))]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Failed, Abandoned, Processed, Processed]);
    assert_eq!(delivered.codes(), ["deadline", "group_blocked", "", ""]);
    assert_eq!((delivered.took_ms, seen.runs("a1")), (CUT_OFF_MS, 0));
    // Not before what the head has sent can no longer have its effect.
    let delays = [rig.delays_ms(0), rig.delays_ms(1)];
    assert!(delays[0].len() == 1 && delays[0] == delays[1] && delays[0][0] >= 6_000, "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn p16_behind_a_head_that_is_done_late_nothing_starts() {
    // The head returns before the cut-off, and its completion is answered after it.
    let store = FaultStore::new(MemoryStore::new(), |point| match point.operation {
        Operation::Complete => Fault::Delay(Duration::from_millis(300)),
        _ => Fault::None,
    });
    let (builder, seen) = scripted();
    let rig = rig(builder.options(|options| options.item_timeout_ms = 600_000)).fifo().delaying().store(store).start();
    rig.put_in([("a", timed("a0", "slow", CUT_OFF_MS - 100)), ("a", item("a1")), ("a", item("a2"))]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed, Abandoned, Abandoned]);
    assert_eq!(delivered.codes(), ["", "deadline", "group_blocked"]);
    assert_eq!((delivered.reported(), seen.total()), (vec![1, 2], 1));
    let delays = [rig.delays_ms(1), rig.delays_ms(2)];
    assert!(delays[0].len() == 1 && delays[0] == delays[1], "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn p16_without_time_left_every_group_goes_back_whole() {
    let (builder, seen) = scripted();
    let rig = rig(builder).fifo().delaying().start();
    rig.put_in([("a", item("a0")), ("b", item("b0")), ("a", item("a1"))]);
    let delivered = rig.deliver_within(400).await;
    assert_eq!(delivered.outcomes(), [Abandoned; 3]);
    assert_eq!(delivered.codes(), ["no_time_left", "no_time_left", "group_blocked"]);
    assert_eq!((seen.total(), delivered.took_ms), (0, 0));
    assert_eq!(delivered.report.counts.delays_failed, 3, "there was no time to ask for one");
}

#[tokio::test(start_paused = true)]
async fn nothing_leaks_into_the_next_invocation() {
    let processor = Scripted::by("id").on("a0", microbatch_testkit::scripted::Script::failing(1));
    let seen = processor.seen();
    let rig = rig(Pipeline::builder(processor).key("id")).fifo().start();
    rig.put_in([("a", item("a0")), ("a", item("a1")), ("b", item("b0"))]);
    assert_eq!(rig.deliver().await.outcomes(), [Failed, Abandoned, Processed]);
    rig.put_in([("c", item("c0"))]);
    // Another invocation of the same pipeline, while that group is still hidden, and one with it.
    assert_eq!(rig.deliver().await.outcomes(), [Processed]);
    rig.until_visible().await;
    assert_eq!(rig.deliver().await.outcomes(), [Processed; 2]);
    assert_eq!(seen.starts(), ["a0", "b0", "c0", "a0", "a1"]);
}

#[tokio::test(start_paused = true)]
async fn p7_p16_a_claim_that_is_slow_holds_up_its_own_group_alone() {
    let store = FaultStore::new(MemoryStore::with_chunk_size(5.try_into().expect("not 0")), |point| {
        if point.operation == Operation::Claim && point.nth == 0 {
            Fault::Delay(Duration::from_secs(5))
        } else {
            Fault::None
        }
    });
    let (builder, seen) = scripted();
    let rig = rig(builder).fifo().store(store).start();
    rig.put_in([("a", item("a0")), ("a", item("a1"))]);
    rig.put_in((0..4).map(|nth| ("b", item(&format!("b{nth}")))));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Processed; 6]);
    assert_eq!(seen.ends().len(), 6);
    assert_eq!(delivered.took_ms, 5_000);
}

/// What happens to an item, and what is to come of it in the first delivery.
const ACTS: [(&str, Outcome); 5] =
    [("", Processed), ("fail", Failed), ("permanent", Rejected), ("panic", Failed), ("yield", Processed)];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// P16, P14: in every batch each group runs up to its first failure, in order, one at a time, and each message once at
    /// most. Across redeliveries until all is done nothing runs before what stands before it is done or parked.
    #[test]
    fn p14_p16_each_group_runs_in_order_up_to_its_first_failure(
        messages in vec((0_usize..3, 0_usize..ACTS.len()), 1..=10),
        concurrency in 1_u64..5,
        chunk_size in 1_usize..4,
        shards in 1_u64..3,
        continues in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let (builder, seen) = scripted();
            let policy = if continues { FifoFailure::ParkAndContinue } else { FifoFailure::Block };
            let rig = rig(builder.options(|options| {
                options.concurrency = concurrency;
                options.shards = Some(shards);
                options.fifo_failure = policy;
            }))
            .fifo()
            .parking()
            .delaying()
            .store(MemoryStore::with_chunk_size(chunk_size.try_into().expect("not 0")))
            .start();
            for (nth, (group, act)) in messages.iter().enumerate() {
                let act = if ACTS[*act].0 == "yield" { timed(&nth.to_string(), "slow", 1) } else { told(&nth.to_string(), ACTS[*act].0) };
                rig.put_message(NewMessage { body: act, group: Some(group.to_string()), ..NewMessage::default() });
            }
            let delivered = rig.deliver().await;
            let mut blocked = [false; 3];
            for (nth, (group, act)) in messages.iter().enumerate() {
                let outcome = ACTS[*act].1;
                let expected = if blocked[*group] { Abandoned } else { outcome };
                prop_assert_eq!(delivered.outcomes()[nth], expected, "message {} of {:?}", nth, messages);
                let goes_on = matches!(outcome, Processed) || (outcome == Rejected && continues);
                prop_assert_eq!(delivered.reported().contains(&nth), blocked[*group] || !goes_on);
                prop_assert_eq!(seen.runs(&nth.to_string()), usize::from(!blocked[*group]));
                blocked[*group] |= !goes_on;
            }
            for group in 0..3 {
                let mut running = 0_i32;
                let mut last = None;
                for event in seen.events() {
                    let nth: usize = event.name.parse().expect("a number");
                    if messages[nth].0 != group {
                        continue;
                    }
                    match event.ending {
                        None => {
                            prop_assert_eq!(running, 0);
                            prop_assert!(last < Some(nth));
                            (running, last) = (1, Some(nth));
                        }
                        Some(ending) => {
                            prop_assert!(ending != Ending::Cancelled);
                            running = 0;
                        }
                    }
                }
            }
            let model = rig.queue.model();
            let done = |number: microbatch_testkit::queue::Number| ACTS[messages[number.0].1].1 == Processed;
            prop_assert_eq!(model.check(done).map_err(|fault| fault.to_string()), Ok(()));
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_park_holds_up_no_other_group() {
    let (builder, seen) = scripted();
    let hang = |call: &microbatch_testkit::queue::QueueCall| {
        let hangs = call.operation == QueueOperation::Park;
        if hangs { CallPlan::of(CallFault::HangAfter) } else { CallPlan::default() }
    };
    let rig = rig(park_and_continue(builder)).fifo().parking().delaying().plans(hang).start();
    rig.put_in([("a", told("a0", "permanent")), ("a", item("a1")), ("b", timed("b0", "slow", 50)), ("b", item("b1"))]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes(), [Rejected, Abandoned, Processed, Processed]);
    assert_eq!((delivered.reported(), seen.starts()), (vec![0, 1], vec!["a0".into(), "b0".into(), "b1".into()]));
    assert_eq!((delivered.report.counts.parks_failed, rig.dead().len()), (1, 1), "it may lie in both queues");
}
