//! Order within FIFO groups, whatever fails (P16), and that every message comes to its end (P12).

use microbatch::{FifoFailure, transition::OnLapsedLease};
use microbatch_testkit::queue::{Entry, What};
use proptest::prelude::*;

use crate::{
    explore,
    schedule::{Body, Faults, Mail, Setup, faults, mails, setup},
    search, simulated,
    world::World,
};

/// All that befalls a FIFO queue.
#[derive(Debug, Clone)]
struct Schedule {
    setup: Setup,
    mails: Vec<Mail>,
    faults: Faults,
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let body = prop_oneof![12 => Just(Body::Good), 1 => Just(Body::Hopeless), 1 => Just(Body::Undecodable)];
    let setup = setup().prop_map(|setup| Setup { fifo: true, ..setup });
    (setup, mails(10, body), faults(8)).prop_map(|(setup, mails, faults)| Schedule { setup, mails, faults })
}

fn simulate(schedule: &Schedule) -> Vec<String> {
    simulate_with(schedule, |_| {})
}

fn simulate_with(schedule: &Schedule, change: impl FnOnce(&mut World)) -> Vec<String> {
    simulated(async {
        let Schedule { setup, mails, faults } = schedule.clone();
        let mut world = World::new(setup, &mails, faults, None);
        change(&mut world);
        world.drain().await;
        if let Some(inverted) = check_effects(&mails, world.queue.model().history().entries()) {
            world.stage.violated(inverted);
        }
        let parked = world.queue.model().history().count(|what| what == What::Parked);
        if setup.fifo_failure == FifoFailure::Block && parked > 0 {
            world.stage.violated("P16: a message was parked under Block, which gives its order up".to_owned());
        }
        // Of others some never complete: they cannot, or wait for an operator.
        let can_complete = mails.iter().all(|mail| mail.body == Body::Good)
            && setup.on_lapsed_lease == OnLapsedLease::Retry
            && !setup.fingerprint;
        if can_complete && !world.complete_by_redrives().await {
            world.stage.violated("P12: a message does not complete however often it is redriven".to_owned());
        }
        world.violations()
    })
}

/// The effects of each group took place in the order in which its messages were sent; one message may have its effect
/// again before the next one's. Order is given up behind one that was parked: when its answer was lost it comes again, and
/// may succeed.
fn check_effects(mails: &[Mail], history: &[Entry]) -> Option<String> {
    let is_parked = |number| history.iter().any(|entry| entry.number == number && entry.what == What::Parked);
    let effects = history.iter().filter(|entry| entry.what == What::Effect && !is_parked(entry.number));
    let mut effects: Vec<&Entry> = effects.collect();
    effects.sort_by_key(|entry| entry.at_ms);
    effects.iter().enumerate().find_map(|(nth, effect)| {
        let same_group = |other: &Entry| mails[other.number.0].group == mails[effect.number.0].group;
        let later = effects[..nth].iter().find(|before| same_group(before) && before.number > effect.number)?;
        Some(format!("P16: the effect of {} took place behind that of {}", effect.number, later.number))
    })
}

/// P12, P16: no schedule of failures, kills and faults inverts the order of a group: 2,000 of them.
#[test]
fn p16_no_schedule_inverts_the_order_of_a_group() {
    explore(2_000, schedule(), simulate);
}

/// P12, P16: the same for 100,000.
#[test]
#[ignore = "takes minutes"]
fn p16_no_schedule_of_100_000_inverts_the_order_of_a_group() {
    explore(100_000, schedule(), simulate);
}

/// P16, of the test itself: a pipeline that does not know of the order inverts it, and that is found.
#[test]
fn p16_a_pipeline_that_keeps_no_order_is_found() {
    let found = search(100, schedule(), |schedule| simulate_with(schedule, |world| world.hide_order = true));
    let found = found.expect_err("it was told of a standard queue");
    assert!(found.contains("P16"), "{found}");
}
