//! The rate limit: never more than the rate over any window and the burst, whatever the clock does.

use microbatch::control::RateLimit;
use proptest::prelude::*;

use crate::support::per_s;

/// The most by which the starts at these times, in order, exceed `starts_per_s × t` over any window, in thousandths.
fn excess_milli(starts_ms: &[u64], starts_per_s: u64) -> i128 {
    let mut least_before = i128::MAX;
    let mut excess = 0;
    for (count, at_ms) in (0_i128..).zip(starts_ms) {
        let allowed = i128::from(*at_ms) * i128::from(starts_per_s);
        least_before = least_before.min(count * 1_000 - allowed);
        excess = excess.max((count + 1) * 1_000 - allowed - least_before);
    }
    excess
}

fn rates() -> impl Strategy<Value = u64> {
    prop_oneof![1_u64..30, 1_u64..2_000, 1_000_u64..50_000]
}

/// Milliseconds until somebody asks again: mostly at once, at times after a pause.
fn steps() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(prop_oneof![6 => Just(0_u64), 3 => 1_u64..40, 1 => 40_u64..3_000], 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn p11_no_window_holds_more_starts_than_rate_and_burst(
        rate in rates(), start_ms in 0_u64..2_000_000_000_000, steps in steps(),
    ) {
        let mut limit = RateLimit::new(per_s(rate));
        let mut now_ms = start_ms;
        let mut starts_ms = Vec::new();
        for step_ms in steps {
            now_ms += step_ms;
            match limit.try_start(now_ms) {
                Ok(()) => starts_ms.push(now_ms),
                Err(at_ms) => prop_assert!(at_ms > now_ms),
            }
        }
        prop_assert!(excess_milli(&starts_ms, rate) <= i128::from(limit.burst()) * 1_000);
    }

    #[test]
    fn the_time_it_names_is_the_first_at_which_one_may_start(rate in rates(), start_ms in 0_u64..2_000_000_000_000) {
        let mut limit = RateLimit::new(per_s(rate));
        let at_ms = loop {
            if let Err(at_ms) = limit.try_start(start_ms) {
                break at_ms;
            }
        };
        for early_ms in start_ms..at_ms {
            prop_assert_eq!(limit.clone().try_start(early_ms), Err(at_ms));
        }
        prop_assert_eq!(limit.try_start(at_ms), Ok(()));
    }

    #[test]
    fn p12_a_clock_set_back_grants_no_flood_and_no_standstill(
        rate in rates(), wall_ms in 10_000_u64..2_000_000_000_000, back_ms in 1_u64..2_000_000_000_000,
        at in 0_u64..200,
    ) {
        let mut limit = RateLimit::new(per_s(rate));
        let after_ms = wall_ms.saturating_sub(back_ms);
        let mut starts_ms = Vec::new();
        // Asked once every millisecond of true time, until one has come after the step or a second and a period are
        // over.
        let give_up_ms = at + 1_002 + 1_000 / rate;
        for true_ms in 0..=give_up_ms {
            let now_ms = if true_ms < at { wall_ms + true_ms } else { after_ms + true_ms };
            if limit.try_start(now_ms).is_ok() {
                starts_ms.push(true_ms);
            }
        }
        prop_assert!(starts_ms.last().is_some_and(|true_ms| *true_ms >= at));
        prop_assert!(excess_milli(&starts_ms, rate) <= i128::from(limit.burst()) * 1_000);
    }
}

#[test]
fn who_asks_when_told_gets_the_rate() {
    for rate in [1, 2, 3, 7, 15, 19, 20, 64, 333, 999, 1_000, 1_500, 12_345] {
        let mut limit = RateLimit::new(per_s(rate));
        let (mut now_ms, mut starts) = (1_000, 0);
        while now_ms < 101_000 {
            match limit.try_start(now_ms) {
                Ok(()) => starts += 1,
                Err(at_ms) => now_ms = at_ms,
            }
        }
        assert!(starts * 100 >= rate * 100 * 98, "{starts} starts in 100 s at {rate} a second");
    }
}

#[test]
fn the_burst_is_a_tenth_of_a_second() {
    for (rate, burst) in [(1, 1), (9, 1), (19, 1), (20, 2), (100, 10), (5_000, 500), (u64::MAX, u64::MAX / 10)] {
        assert_eq!(RateLimit::new(per_s(rate)).burst(), burst);
    }
}

#[test]
fn p14_an_environment_frozen_for_any_time_starts_no_flood() {
    for later_ms in [1_000_u64, 86_400_000, u64::MAX - 5_000] {
        let mut limit = RateLimit::new(per_s(100));
        let starts = |limit: &mut RateLimit, now_ms| (0..1_000).filter(|_| limit.try_start(now_ms).is_ok()).count();
        assert_eq!(starts(&mut limit, 5_000), 10);
        assert_eq!(starts(&mut limit, 5_000 + later_ms), 10);
    }
}

#[test]
fn extreme_rates_and_times_are_harmless() {
    let mut limit = RateLimit::new(per_s(u64::MAX));
    for now_ms in [0, u64::MAX, 0, u64::MAX / 2] {
        assert_eq!(limit.try_start(now_ms), Ok(()));
    }
    let mut limit = RateLimit::new(per_s(1));
    assert_eq!(limit.try_start(u64::MAX), Ok(()));
    assert_eq!(limit.try_start(u64::MAX), Err(u64::MAX));
    assert_eq!(limit.try_start(0), Err(1_000));
}

#[test]
fn p11_callers_that_read_the_clock_early_and_come_late_count_no_time_twice() {
    let mut limit = RateLimit::new(per_s(10));
    let times_ms = [5_500, 5_000, 4_600].into_iter().cycle().take(3_000);
    let starts = times_ms.filter(|now_ms| limit.try_start(*now_ms).is_ok()).count();
    assert_eq!(starts, 1, "the clock never came past 5,500");
}
