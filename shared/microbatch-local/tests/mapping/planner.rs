//! The planner, step by step.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use microbatch_local::mapping::batching::{Batch, Closed};
use microbatch_local::mapping::event::{EventSource, Received};
use microbatch_local::mapping::planner::{Planner, RECEIVES_AT_ONCE, Step};
use microbatch_local::mapping::scaling::Invocation;
use microbatch_local::mapping::{MappingInput, MappingSettings, Queue};

fn planner(fifo: bool, batch_size: i64, window_s: i64, concurrency_max: Option<i64>) -> Planner {
    let input = MappingInput { batch_size, window_s, concurrency_max, reports_item_failures: true };
    let queue = Queue { fifo, visibility_timeout_s: 30 };
    Planner::new(&MappingSettings::new(&input, &queue, Duration::from_secs(5)).expect("valid"), None)
}

fn message(number: usize, group: Option<&str>, body_bytes: usize) -> Received {
    let mut builder =
        Message::builder().message_id(number.to_string()).receipt_handle("r").body("x".repeat(body_bytes));
    if let Some(group) = group {
        builder = builder.attributes(MessageSystemAttributeName::MessageGroupId, group);
    }
    Received::new(&builder.build(), &EventSource::new("arn:aws:sqs:eu-west-1:1:q")).expect("whole")
}

fn messages(count: usize) -> Vec<Received> {
    (0..count).map(|number| message(number, None, 1)).collect()
}

/// A megabyte each, so that five fill an event.
fn large(numbers: std::ops::Range<usize>, group: &str) -> Vec<Received> {
    numbers.map(|number| message(number, Some(group), 1024 * 1024)).collect()
}

/// All that is to be done now: how much each receive asks for, the batches, what is given back.
fn steps(planner: &mut Planner, now_ms: u64) -> (Vec<usize>, Vec<(u64, Batch)>, Vec<Received>) {
    let (mut receives, mut batches, mut returned) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(step) = planner.step(now_ms) {
        match step {
            Step::Receive { max } => receives.push(max),
            Step::Invoke { id, batch } => batches.push((id, batch)),
            Step::Return(messages) => returned.extend(messages),
        }
    }
    (receives, batches, returned)
}

fn ids(messages: &[Received]) -> Vec<&str> {
    messages.iter().map(|message| message.message_id.as_str()).collect()
}

fn done(planner: &mut Planner, now_ms: u64, id: u64) {
    planner.ended(now_ms, id, Invocation::Answered, &BTreeSet::new());
}

#[test]
fn an_idle_queue_has_one_poll() {
    let mut planner = planner(false, 10, 0, None);
    for now_ms in 0..5 {
        assert_eq!(steps(&mut planner, now_ms).0, [10]);
        assert_eq!(planner.wakes_ms(now_ms), None);
        planner.received(now_ms, 10, vec![]);
    }
}

#[test]
fn without_a_window_each_receive_is_a_batch_and_at_most_five_are_under_way() {
    let mut planner = planner(false, 7, 0, None);
    assert_eq!(steps(&mut planner, 0).0, [7]);
    planner.received(1, 7, messages(3));
    let (receives, batches, _) = steps(&mut planner, 1);
    assert_eq!(receives, [7; 4], "four more batches may run");
    assert_eq!((batches.len(), batches[0].1.messages.len(), batches[0].1.closed), (1, 3, Closed::Receive));
    for _ in 0..4 {
        planner.received(2, 7, messages(7));
    }
    let (receives, batches, _) = steps(&mut planner, 2);
    assert_eq!((receives.len(), batches.len()), (0, 4));
    done(&mut planner, 3, 1);
    assert_eq!(steps(&mut planner, 3).0, [7]);
}

#[test]
fn a_window_fills_a_batch_by_several_receives_and_is_never_overdrawn() {
    let mut planner = planner(false, 1_000, 2, Some(2));
    assert_eq!(steps(&mut planner, 0).0, [10]);
    planner.received(100, 10, messages(10));
    let mut asked = steps(&mut planner, 100).0;
    assert_eq!(asked, [10; RECEIVES_AT_ONCE]);
    let mut batches = Vec::new();
    let mut now_ms = 100;
    while let Some(max) = asked.pop() {
        now_ms += 1;
        planner.received(now_ms, max, messages(max));
        let (more, started, _) = steps(&mut planner, now_ms);
        asked.extend(more);
        batches.extend(started);
    }
    // Two batches may run, and for no more than two is anything received.
    let sizes: Vec<_> = batches.iter().map(|(_, batch)| (batch.messages.len(), batch.closed)).collect();
    assert_eq!(sizes, [(1_000, Closed::Size), (1_000, Closed::Size)]);
    assert_eq!(planner.waiting(), 0);
}

#[test]
fn a_window_ends_a_batch_that_is_not_full() {
    let mut planner = planner(false, 1_000, 2, None);
    steps(&mut planner, 0);
    planner.received(500, 10, messages(4));
    assert_eq!(steps(&mut planner, 500).1, []);
    assert_eq!(planner.wakes_ms(500), Some(2_500));
    assert_eq!(steps(&mut planner, 2_499).1, []);
    let batches = steps(&mut planner, 2_500).1;
    assert_eq!((batches[0].1.messages.len(), batches[0].1.closed), (4, Closed::Window));
}

#[test]
fn a_full_house_grows_while_messages_wait() {
    let mut planner = planner(false, 1, 0, Some(20));
    let mut most = 0;
    for now_ms in (1_000..3_000).step_by(50) {
        let (receives, batches, _) = steps(&mut planner, now_ms);
        most += batches.len();
        for max in receives {
            planner.received(now_ms, max, messages(1));
        }
    }
    // Nothing ends: five at first, then one more each 200 ms.
    assert!((13..=16).contains(&most), "{most}");
    assert!(planner.wakes_ms(2_950).is_some_and(|wakes_ms| wakes_ms > 2_950));
}

#[test]
fn an_error_makes_a_pause_in_which_nothing_is_received() {
    let mut planner = planner(false, 10, 0, None);
    steps(&mut planner, 0);
    planner.received(10, 10, messages(1));
    let (receives, batches, _) = steps(&mut planner, 10);
    for max in receives {
        planner.received(11, max, vec![]);
    }
    planner.ended(1_000, batches[0].0, Invocation::Erred, &BTreeSet::new());
    assert_eq!(planner.scaling().limit(), 2);
    assert_eq!(steps(&mut planner, 1_000).0, [0; 0]);
    assert_eq!(planner.wakes_ms(1_000), Some(1_200));
    assert_eq!(steps(&mut planner, 1_200).0, [10]);
}

#[test]
fn a_failed_receive_is_tried_again_later_and_later() {
    let mut planner = planner(false, 10, 0, None);
    let mut now_ms = 0;
    for pause_ms in [200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
        assert_eq!(steps(&mut planner, now_ms).0, [10]);
        planner.receive_failed(now_ms, 10);
        assert_eq!(steps(&mut planner, now_ms).0, [0; 0]);
        assert_eq!(planner.wakes_ms(now_ms), Some(now_ms + pause_ms));
        now_ms += pause_ms;
    }
    assert_eq!(steps(&mut planner, now_ms).0, [10]);
    planner.received(now_ms, 10, vec![]);
    assert_eq!(steps(&mut planner, now_ms).0, [10]);
    planner.receive_failed(now_ms, 10);
    assert_eq!(planner.wakes_ms(now_ms), Some(now_ms + 200), "a receive that worked begins anew");
}

#[test]
fn what_an_event_has_no_room_for_waits_behind_its_group() {
    let mut planner = planner(true, 10, 0, None);
    steps(&mut planner, 0);
    planner.received(1, 10, large(0..8, "a"));
    let (_, batches, _) = steps(&mut planner, 1);
    assert_eq!((batches.len(), batches[0].1.closed), (1, Closed::Payload));
    assert_eq!((ids(&batches[0].1.messages), planner.waiting()), (vec!["0", "1", "2", "3", "4"], 3));
    done(&mut planner, 2, batches[0].0);
    let (_, batches, _) = steps(&mut planner, 2);
    assert_eq!((ids(&batches[0].1.messages), batches[0].1.closed), (vec!["5", "6", "7"], Closed::Group));
}

#[test]
fn what_waits_behind_a_group_is_given_back_when_an_earlier_message_stays() {
    let mut planner = planner(true, 10, 0, None);
    steps(&mut planner, 0);
    let mut received = large(0..5, "a");
    received.extend(large(5..8, "a"));
    received.push(message(8, Some("b"), 1));
    planner.received(1, 10, received);
    let (_, batches, _) = steps(&mut planner, 1);
    let running: Vec<_> = batches.iter().map(|(_, batch)| ids(&batch.messages)).collect();
    assert_eq!(running, [vec!["0", "1", "2", "3", "4"], vec!["8"]], "another group does not wait");
    planner.ended(2, batches[0].0, Invocation::Answered, &["a".to_owned()].into());
    let (_, batches, returned) = steps(&mut planner, 2);
    assert_eq!((batches, ids(&returned)), (vec![], vec!["5", "6", "7"]));
}

#[test]
fn a_stop_gives_everything_back_that_was_not_invoked() {
    let mut planner = planner(false, 100, 300, None);
    steps(&mut planner, 0);
    planner.received(1, 10, messages(10));
    let asked = steps(&mut planner, 1).0;
    planner.stop();
    assert_eq!(steps(&mut planner, 2), (vec![], vec![], vec![]), "a receive under way would bring it again");
    assert_eq!((planner.is_done(), planner.wakes_ms(2)), (false, None));
    let under_way = asked.len();
    for max in asked {
        planner.received(3, max, messages(1));
    }
    assert_eq!(steps(&mut planner, 3).2.len(), 10 + under_way);
    assert!(planner.is_done());
}
