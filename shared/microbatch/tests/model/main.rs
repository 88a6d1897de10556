//! A model of the protocol, explored whole by stateright: the very `transition::decide` that the stores use, workers that
//! do what the pipeline does and may be late, unanswered or dead at every step, clocks that disagree.
//!
//! What is abstracted: the store is `decide` applied at once; an item has one effect, which is in flight from its start
//! until its worker hears of its end or its time-out is over; the queue delivers whenever it likes, sooner than a
//! visibility timeout would and twice at once, but a bounded number of times. A request is sent at most twice. A worker
//! that dies is one that makes no further step until the host kills it: whoever reads the store cannot tell the two apart.
//!
//! What is left out: coalescing, batching, the cache of completed keys, the previous key, writes in the completion.
//!
//! `cargo test -p microbatch --test model -- --nocapture` prints the sizes, and what caught each mutant.

#![allow(clippy::print_stdout, reason = "what was explored, and what caught which mutant, is worth reading")]

mod judge;
mod model;
mod mutants;
mod properties;
mod setups;
mod state;
mod worker;

use std::{collections::BTreeSet, time::Instant};

use microbatch::transition::decide;
use stateright::{Checker, HasDiscoveries, Model};

use crate::{
    model::{Check, Setup},
    mutants::Mutant,
    worker::Worker,
};

/// Explores a configuration whole and requires all its properties.
fn holds(name: &str, setup: Setup) {
    let believed = setup.truth.clone();
    let started = Instant::now();
    let checker = Check::new(setup, believed, decide, Worker::OURS).checker().spawn_bfs().join();
    println!(
        "{name}: {} states, {} steps, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64()
    );
    checker.assert_properties();
}

/// Explores a mutant until the property breaks that must catch it, and says what broke.
fn caught(mutant: Mutant) -> bool {
    let Mutant { name, caught_by, setup, believed, decide, worker } = mutant;
    let found = HasDiscoveries::AnyOf(BTreeSet::from([caught_by]));
    let checker = Check::new(setup, believed, decide, worker).checker().finish_when(found).spawn_bfs().join();
    let broken = checker.discovery(caught_by);
    match &broken {
        Some(path) => println!(
            "{name}: caught by \"{caught_by}\" after {} steps: {:?}",
            path.clone().into_actions().len(),
            path.clone().into_actions()
        ),
        None => println!("{name}: NOT caught by \"{caught_by}\" in {} states", checker.unique_state_count()),
    }
    broken.is_some()
}

#[test]
fn p1_to_p5_and_p9_hold_for_three_workers_on_one_key() {
    holds("three workers on one key", setups::three_workers());
}

#[test]
fn p1_to_p5_and_p9_hold_for_two_workers_on_one_key_with_any_clocks_within_the_skew() {
    holds("two workers on one key", setups::two_workers());
}

#[test]
fn p1_to_p5_hold_for_two_workers_on_two_keys() {
    holds("two workers on two keys", setups::two_keys());
}

#[test]
fn p2_holds_when_the_kill_comes_late_by_its_grace() {
    holds("late kill", setups::late_kill());
}

#[test]
fn p2_holds_without_a_kill_by_the_margin_of_rule_5() {
    holds("no kill", setups::no_kill());
}

#[test]
fn p3_ends_with_the_retention() {
    holds("retention ends", setups::retention_ends());
}

#[test]
fn vanished_work_does_not_run_again_under_park() {
    holds("park", setups::parking());
}

/// The limit of a lease: it trusts the clocks. All else holds whatever they say.
#[test]
fn beyond_the_stated_skew_p2_breaks_and_p1_p3_p4_hold() {
    holds("beyond the skew", setups::beyond_the_skew());
    let mut beyond = setups::beyond_the_skew();
    beyond.within_skew = true;
    let believed = beyond.truth.clone();
    let found = HasDiscoveries::AnyOf(BTreeSet::from([properties::P2_OVERLAP]));
    let checker = Check::new(beyond, believed, decide, Worker::OURS).checker().finish_when(found).spawn_bfs().join();
    assert!(checker.discovery(properties::P2_OVERLAP).is_some(), "two steps of skew under a stated one break P2");
}

#[test]
fn every_mutant_is_caught() {
    let missed: Vec<&str> = mutants::all()
        .into_iter()
        .map(|mutant| (mutant.name, caught(mutant)))
        .filter(|(_, caught)| !caught)
        .map(|(name, _)| name)
        .collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
