//! Messages that cannot succeed, and parks that fail: none is lost, and none is acknowledged before it is parked (P1).

use microbatch::{FifoFailure, transition::OnLapsedLease};
use microbatch_testkit::queue::{CallFault, CallPlan, EntryFault, NewMessage, QueueModel};
use proptest::prelude::*;
use serde_json::Value;

use crate::{
    explore,
    schedule::{Body, Can, End, Faults, Mail, Setup, faults, mails, setup},
    search, simulated,
    stage::new_message,
    world::World,
};

/// Messages of which many cannot succeed, and a dead-letter queue that fails.
#[derive(Debug, Clone)]
struct Schedule {
    setup: Setup,
    mails: Vec<Mail>,
    faults: Faults,
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let body = prop_oneof![2 => Just(Body::Good), 2 => Just(Body::Hopeless), 2 => Just(Body::Undecodable)];
    // So many in a batch that they take several calls to park.
    let setup = (setup(), 1_usize..=25, prop::bool::weighted(0.25)).prop_map(|(setup, batch_max, fifo)| Setup {
        fifo,
        fifo_failure: FifoFailure::ParkAndContinue,
        can: Can { park: true, ..setup.can },
        batch_max,
        ..setup
    });
    (setup, mails(25, body), faults(10)).prop_map(|(setup, mails, faults)| Schedule { setup, mails, faults })
}

fn simulate(schedule: &Schedule) -> Vec<String> {
    simulated(async {
        let world = World::new(schedule.setup, &schedule.mails, schedule.faults.clone(), None);
        world.drain().await;
        if let Some(changed) = check_copies(schedule, &world.queue.model()) {
            world.stage.violated(changed);
        }
        // Else some never complete: they are in conflict, or wait for an operator.
        let can_complete = schedule.setup.on_lapsed_lease == OnLapsedLease::Retry && !schedule.setup.fingerprint;
        if can_complete && !world.complete_by_redrives().await {
            world.stage.violated("P12: a message does not complete however often it is redriven".to_owned());
        }
        world.violations()
    })
}

/// What was parked is what was sent, with a reason that can be read.
fn check_copies(schedule: &Schedule, queue: &QueueModel) -> Option<String> {
    for letter in queue.dead_letters() {
        let Some(reason) = &letter.reason else { continue };
        let number = letter.number;
        let sent = new_message(number, &schedule.mails[number.0], schedule.setup.fifo);
        let found = &*letter.message;
        let is_same = (&found.body, &found.group, &found.trace_header) == (&sent.body, &sent.group, &sent.trace_header)
            && attributes(found) == attributes(&sent);
        if !is_same {
            return Some(format!("P1: {number} was sent as {sent:?}, and parked as {found:?}"));
        }
        if !serde_json::from_str::<Value>(reason).is_ok_and(|reason| reason.is_object()) {
            return Some(format!("P1: {number} was parked for a reason that is no JSON object: {reason}"));
        }
    }
    None
}

/// The sender's attributes: none are as good as an empty object, and their order does not count.
fn attributes(message: &NewMessage) -> Value {
    let text = message.attributes.as_deref().unwrap_or("{}");
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// P1, P12: parks that fail lose no message: 1,000 schedules.
#[test]
fn p1_no_failed_park_loses_a_message() {
    explore(1_000, schedule(), simulate);
}

/// P1, P12: the same for 10,000.
#[test]
#[ignore = "takes a minute"]
fn p1_no_failed_park_of_10_000_schedules_loses_a_message() {
    explore(10_000, schedule(), simulate);
}

/// P1, of the test itself: a queue that says that it has parked and has not loses messages, and that is found.
#[test]
fn p1_a_park_that_did_not_happen_is_found() {
    let pretending = schedule().prop_map(|mut schedule| {
        schedule.faults.ends = vec![End::Answered; 20];
        schedule.faults.queue = vec![CallPlan { call: CallFault::None, entries: vec![EntryFault::Pretended] }];
        schedule
    });
    let found = search(100, pretending, simulate).expect_err("parked messages are gone");
    assert!(found.contains("P1"), "{found}");
}
