//! A dependency that is down for as long as the settings say it may be: no healthy message reaches the dead-letter queue,
//! and all complete once it is back (P12).

use microbatch::{Clock, FifoFailure, transition::OnLapsedLease};
use microbatch_testkit::{
    clock::TokioClock,
    queue::{Number, What},
};
use proptest::{collection::vec, prelude::*};

use crate::{
    explore,
    schedule::{Act, Body, Can, EFFECT_TIMEOUT_MS, Faults, ITEM_TIMEOUT_MS, Limits, Mail, Setup, breaker, setup},
    search, simulated,
    world::World,
};

/// The longest delay of which the backoff is certain, in seconds: by its documentation two thirds of 42,000.
const DELAY_CERTAIN_MAX_S: u64 = 28_000;
/// The longest outage budget that the settings take, in seconds.
const BUDGET_MAX_S: u64 = 345_600;

/// A dependency that goes down, and the messages that come meanwhile.
#[derive(Debug, Clone)]
struct Schedule {
    setup: Setup,
    /// When it goes down.
    down_at_ms: u64,
    /// How it fails while it is down, over and over.
    failures: Vec<Act>,
    mails: Vec<Mail>,
}

/// A budget that the receives can span: short ones more often, and the default.
fn with_budget(setup: Setup, share_permille: u64) -> Setup {
    // The delays span the breaker's open time and an item's time-out besides.
    let breaker_ms = setup.limits.breaker.as_ref().map_or(0, |breaker| breaker.open_ms + ITEM_TIMEOUT_MS);
    let delays_max_s = u64::from(setup.max_receive_count - 1) * DELAY_CERTAIN_MAX_S;
    let budget_max_s = (delays_max_s - breaker_ms.div_ceil(1_000)).min(BUDGET_MAX_S);
    let outage_budget_s = match share_permille {
        0 => 3_600.min(budget_max_s),
        _ => (budget_max_s * share_permille.pow(3) / 1_000_000_000).max(1),
    };
    Setup { outage_budget_s, ..setup }
}

fn with_backoff() -> impl Strategy<Value = Setup> {
    let max_receive_count = prop_oneof![3 => 2_u32..12, 1 => Just(10), 1 => 12_u32..40];
    let breaker = prop::option::of(breaker(5_u64..=20, 100_u64..=900_000));
    let rest = (max_receive_count, breaker, 0_u64..=1_000, prop::bool::weighted(0.25));
    (setup(), rest).prop_map(|(setup, (max_receive_count, breaker, share_permille, fifo))| {
        let setup = Setup {
            fifo,
            fifo_failure: FifoFailure::Block,
            on_lapsed_lease: OnLapsedLease::Retry,
            fingerprint: false,
            can: Can { delay: true, ..setup.can },
            max_receive_count,
            limits: Limits { breaker, ..setup.limits },
            ..setup
        };
        with_budget(setup, share_permille)
    })
}

/// What a call to a dependency that is down comes to.
fn failure() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0_u64..1_500).prop_map(|after_ms| Act::Fail { after_ms }),
        1 => (0_u64..7_200).prop_map(|retry_after_s| Act::FailWithHint { retry_after_s }),
        1 => (0..EFFECT_TIMEOUT_MS).prop_map(|effect_after_ms| Act::FailUnknown { effect_after_ms }),
        2 => Just(Act::Hang { effect_after_ms: None }),
    ]
}

fn schedule() -> impl Strategy<Value = Schedule> {
    // How long after the one before it, as a share of the outage.
    let after_permille = prop_oneof![Just(0), 0_u64..400];
    let mail = (after_permille, 0_usize..2, prop::bool::weighted(0.15));
    (with_backoff(), 0_u64..60_000, vec(failure(), 1..4), vec(mail, 1..=6)).prop_map(
        |(setup, down_at_ms, failures, mails)| {
            let mails = mails.into_iter().enumerate().map(|(number, (after_permille, group, is_copy))| Mail {
                after_ms: setup.outage_budget_s * after_permille,
                group,
                key: if is_copy { 0 } else { number },
                body: Body::Good,
                acts: Vec::new(),
            });
            Schedule { setup, down_at_ms, failures, mails: mails.collect() }
        },
    )
}

fn simulate(schedule: &Schedule) -> Vec<String> {
    simulated(async {
        let Schedule { setup, down_at_ms, failures, mails } = schedule.clone();
        // The world's clock begins at the same time.
        let down_ms = TokioClock::default().now_ms() + down_at_ms;
        let up_ms = down_ms + setup.outage_budget_s * 1_000;
        let behaviour = move |_, nth: usize, now_ms| {
            if (down_ms..up_ms).contains(&now_ms) {
                failures[nth % failures.len()]
            } else {
                Act::Succeed { after_ms: 0 }
            }
        };
        let world = World::new(setup, &mails, Faults::default(), Some(Box::new(behaviour)));
        world.drain().await;
        if let Some(dead) = first_dead(&world, up_ms) {
            world.stage.violated(format!("P12: {dead} is healthy, and in the dead-letter queue"));
        }
        world.violations()
    })
}

/// A message that went to the dead-letter queue before the outage was over, or whose work was never done. When it is over,
/// one of two copies may: busy at its last receive while the other is processed.
fn first_dead(world: &World, up_ms: u64) -> Option<Number> {
    let model = world.queue.model();
    let mut dead = model.history().entries().iter().filter(|entry| matches!(entry.what, What::Moved | What::Parked));
    dead.find(|entry| entry.at_ms < up_ms || !world.stage.is_done(entry.number)).map(|entry| entry.number)
}

/// P12: an outage within the budget costs no healthy message: 2,000 outages.
#[test]
fn p12_an_outage_within_the_budget_sends_nothing_to_the_dead_letter_queue() {
    explore(2_000, schedule(), simulate);
}

/// P12: the same for 10,000.
#[test]
#[ignore = "takes a minute"]
fn p12_10_000_outages_send_nothing_to_the_dead_letter_queue() {
    explore(10_000, schedule(), simulate);
}

/// P12, of the test itself: without delays messages use up their receives, and that is found.
#[test]
fn p12_an_outage_without_backoff_is_found_to_send_messages_to_the_dead_letter_queue() {
    let hasty = schedule().prop_map(|mut schedule| {
        schedule.setup.can.delay = false;
        schedule
    });
    let found = search(100, hasty, simulate).expect_err("nothing spans the outage");
    assert!(found.contains("P12"), "{found}");
}
