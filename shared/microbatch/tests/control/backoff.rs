//! The backoff: whatever it accepts spans the outage, and no delay is longer than the queue allows.

use microbatch::{
    Random,
    control::{Backoff, BackoffError, backoff::DELAY_MAX_S},
};
use proptest::prelude::*;

use crate::support::Seeded;

/// Always the least, or always the most.
struct Edge(bool);

impl Random for Edge {
    fn next_u128(&self) -> u128 {
        0
    }

    fn below(&self, bound: u64) -> u64 {
        if self.0 { bound.saturating_sub(1) } else { 0 }
    }
}

fn floors_s(backoff: &Backoff, max_receive_count: u32) -> Vec<u64> {
    (1..max_receive_count).map(|receive_count| backoff.floor_s(receive_count)).collect()
}

fn budgets_s() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..100, 0_u64..20_000, 0_u64..2_000_000, any::<u64>()]
}

fn counts() -> impl Strategy<Value = u32> {
    prop_oneof![0_u32..5, 2_u32..30, 2_u32..1_001]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn p12_what_it_accepts_spans_the_outage(budget_s in budgets_s(), count in counts()) {
        if let Ok(backoff) = Backoff::spanning(budget_s, count) {
            let floors_s = floors_s(&backoff, count);
            let span_s: u64 = floors_s.iter().sum();
            prop_assert!(span_s >= budget_s);
            prop_assert!(floors_s.is_sorted());
            // Nothing is wasted: with a ceiling a second lower it would not be enough.
            let ceiling_s = backoff.floor_s(u32::MAX);
            let lower_s: u64 = floors_s.iter().map(|floor_s| *floor_s.min(&(ceiling_s - 1))).sum();
            prop_assert!(ceiling_s == 1 || lower_s < budget_s);
        }
    }

    #[test]
    fn it_accepts_whatever_is_possible_and_says_what_would_be(budget_s in budgets_s(), count in any::<u32>()) {
        let possible = u128::from(count.saturating_sub(1)) * 28_000 >= u128::from(budget_s);
        let accepted = Backoff::spanning(budget_s, count);
        prop_assert_eq!(accepted.is_ok(), possible);
        let Err(error) = accepted else { return Ok(()) };
        prop_assert!(Backoff::spanning(error.outage_budget_max_s(), count).is_ok());
        prop_assert!(Backoff::spanning(error.outage_budget_max_s() + 1, count).is_err());
        if let Ok(enough) = u32::try_from(error.max_receive_count_min()) {
            prop_assert!(Backoff::spanning(budget_s, enough).is_ok());
            prop_assert!(Backoff::spanning(budget_s, enough - 1).is_err());
        }
    }

    #[test]
    fn a_delay_is_the_certain_part_and_up_to_half_of_it(
        budget_s in budgets_s(), count in any::<u32>(), receive_count in prop_oneof![0_u32..80, any::<u32>()],
        seed in any::<u64>(),
    ) {
        let Ok(backoff) = Backoff::spanning(budget_s, count) else { return Ok(()) };
        let floor_s = backoff.floor_s(receive_count);
        let delay_s = backoff.delay_s(receive_count, &Seeded::new(seed));
        prop_assert!(floor_s >= 1);
        prop_assert!((floor_s..=floor_s + floor_s / 2).contains(&delay_s));
        prop_assert!(backoff.delay_s(receive_count, &Edge(true)) <= DELAY_MAX_S);
        prop_assert_eq!(backoff.delay_s(receive_count, &Edge(false)), floor_s);
        prop_assert_eq!(backoff.delay_s(receive_count, &Edge(true)), floor_s + floor_s / 2);
    }
}

#[test]
fn the_delays_of_the_defaults() {
    let backoff = Backoff::spanning(3_600, 10).expect("it fits");
    assert_eq!(floors_s(&backoff, 10), [8, 16, 32, 64, 128, 256, 512, 1_024, 1_560]);
}

#[test]
fn few_receives_wait_long_and_many_wait_short() {
    let floors = |budget_s, count| floors_s(&Backoff::spanning(budget_s, count).expect("it fits"), count);
    assert_eq!(floors(3_600, 2), [3_600]);
    assert_eq!(floors(3_600, 3), [1_200, 2_400]);
    assert_eq!(floors(100, 20)[..8], [1, 2, 4, 6, 6, 6, 6, 6], "the budget is spread over all there are");
    assert_eq!(floors(56_000, 3), [28_000, 28_000]);
}

#[test]
fn receive_counts_that_no_queue_sends_work() {
    let backoff = Backoff::spanning(3_600, 10).expect("it fits");
    assert_eq!(backoff.floor_s(0), backoff.floor_s(1));
    assert_eq!(backoff.floor_s(u32::MAX), 1_560);
    assert!(Backoff::spanning(u64::from(u32::MAX), u32::MAX).is_ok());
}

#[test]
fn the_error_says_what_would_fit() {
    let error = Backoff::spanning(100_000, 3).expect_err("56,000 s is the most");
    assert_eq!(error, BackoffError { outage_budget_s: 100_000, max_receive_count: 3 });
    assert_eq!(
        error.to_string(),
        "an outage_budget_s of 100000 s does not fit into a max_receive_count of 3, with delays of 28000 s at most and as \
         much again at random as half of that: expected an outage_budget_s of at most 56000, or a max_receive_count of at \
         least 5"
    );
    assert!(Backoff::spanning(1, 1).is_err(), "there is no second receive");
    assert!(Backoff::spanning(0, 0).is_ok());
}

#[test]
fn messages_that_failed_together_do_not_come_back_together() {
    let backoff = Backoff::spanning(3_600, 10).expect("it fits");
    let random = Seeded::new(7);
    let mut a_second = vec![0; 513];
    for _ in 0..10_000 {
        a_second[usize::try_from(backoff.delay_s(8, &random) - 1_024).expect("small")] += 1;
    }
    assert!(a_second.iter().all(|messages| (1..60).contains(messages)), "20 a second were expected");
}
