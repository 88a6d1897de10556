//! The policies together: what one refuses costs nothing of another.

use microbatch::control::{
    BreakerState, ControlReport, Governor, GovernorSettings, Signal, Start, StartToken, breaker::PROBE_LAPSES_MS,
};
use proptest::prelude::*;

use crate::support::{at_most, breaker_settings, per_s};

fn fixed(concurrency: usize) -> GovernorSettings {
    GovernorSettings { concurrency_min: None, concurrency: at_most(concurrency), breaker: None, starts_per_s: None }
}

fn go(governor: &mut Governor, now_ms: u64) -> StartToken {
    match governor.try_start(now_ms) {
        Start::Go(token) => token,
        refused => panic!("refused: {refused:?}"),
    }
}

/// Opens after one failure for a second; ten starts a second, no burst.
fn strict() -> Governor {
    let breaker = Some(breaker_settings(100, 1, 1_000));
    Governor::new(GovernorSettings { breaker, starts_per_s: Some(per_s(10)), ..fixed(8) })
}

#[test]
fn nobody_has_to_ask_where_nothing_is_configured() {
    let concurrency_min = Some(at_most(2));
    assert!(Governor::new(fixed(8)).is_trivial());
    assert!(Governor::new(GovernorSettings { concurrency_min: Some(at_most(8)), ..fixed(8) }).is_trivial());
    assert!(!Governor::new(GovernorSettings { concurrency_min, ..fixed(8) }).is_trivial());
    assert!(!Governor::new(GovernorSettings { starts_per_s: Some(per_s(1)), ..fixed(8) }).is_trivial());
    assert!(!strict().is_trivial());
}

#[test]
fn a_fixed_limit_stays_whatever_happens() {
    let mut governor = Governor::new(fixed(8));
    for now_ms in 0..1_000 {
        let token = go(&mut governor, now_ms);
        governor.ended(token, Signal::Failed, 8, now_ms);
    }
    assert_eq!(governor.report(), ControlReport { limit: 8, breaker: BreakerState::Closed });
}

#[test]
fn a_breaker_refusal_costs_no_rate() {
    let mut governor = strict();
    let token = go(&mut governor, 10_000);
    governor.ended(token, Signal::Failed, 1, 10_000);
    for now_ms in 10_001..11_000 {
        assert!(matches!(governor.try_start(now_ms), Start::Open { until_ms: 11_000 }));
        assert_eq!(governor.open_until_ms(now_ms), Some(11_000));
    }
    let probe = go(&mut governor, 11_000);
    for now_ms in 11_001..11_101 {
        assert!(matches!(governor.try_start(now_ms), Start::Probing));
    }
    governor.ended(probe, Signal::Succeeded, 1, 11_101);
    let _token = go(&mut governor, 11_101);
}

#[test]
fn a_rate_refusal_does_not_take_the_probe_place() {
    let breaker = Some(breaker_settings(100, 1, 10));
    let mut governor = Governor::new(GovernorSettings { breaker, starts_per_s: Some(per_s(10)), ..fixed(8) });
    let token = go(&mut governor, 10_000);
    governor.ended(token, Signal::Failed, 1, 10_000);
    for now_ms in 10_010..10_100 {
        assert!(matches!(governor.try_start(now_ms), Start::At(10_100)));
    }
    assert_eq!(governor.report().breaker, BreakerState::Open { until_ms: 10_010 });
    let _probe = go(&mut governor, 10_100);
    assert_eq!(governor.report().breaker, BreakerState::HalfOpen);
}

#[test]
fn a_cancelled_probe_frees_its_place_and_keeps_the_rate_spent() {
    let mut governor = strict();
    let token = go(&mut governor, 10_000);
    governor.ended(token, Signal::Failed, 1, 10_000);
    let probe = go(&mut governor, 11_000);
    governor.cancel(probe);
    assert!(matches!(governor.try_start(11_000), Start::At(11_100)));
    let _probe = go(&mut governor, 11_100);
}

#[test]
fn p12_an_ignored_probe_lets_the_next_one_through() {
    let breaker = Some(breaker_settings(100, 1, 10));
    let mut governor = Governor::new(GovernorSettings { breaker, ..fixed(8) });
    let token = go(&mut governor, 10_000);
    governor.ended(token, Signal::Failed, 1, 10_000);
    let probe = go(&mut governor, 10_010);
    assert!(matches!(governor.try_start(10_010), Start::Probing));
    governor.ended(probe, Signal::Ignored, 1, 10_011);
    let probe = go(&mut governor, 10_011);
    governor.ended(probe, Signal::Succeeded, 1, 10_012);
    assert_eq!(governor.report().breaker, BreakerState::Closed);
}

#[test]
fn ignored_ends_move_neither_limit_nor_breaker() {
    let settings =
        GovernorSettings { concurrency_min: Some(at_most(1)), breaker: Some(breaker_settings(1, 1, 9)), ..fixed(8) };
    let mut governor = Governor::new(settings);
    for now_ms in 0..1_000 {
        let token = go(&mut governor, now_ms);
        governor.ended(token, Signal::Ignored, 8, now_ms + 900_000);
    }
    assert_eq!(governor.report(), ControlReport { limit: 8, breaker: BreakerState::Closed });
}

#[test]
fn failures_lower_the_limit_and_open_the_breaker() {
    let settings =
        GovernorSettings { concurrency_min: Some(at_most(2)), breaker: Some(breaker_settings(50, 20, 9)), ..fixed(64) };
    let mut governor = Governor::new(settings);
    for now_ms in 0..19 {
        let token = go(&mut governor, now_ms);
        governor.ended(token, Signal::Failed, 1, now_ms);
    }
    assert_eq!(governor.report(), ControlReport { limit: 2, breaker: BreakerState::Closed });
    let token = go(&mut governor, 19);
    governor.ended(token, Signal::Failed, 1, 19);
    assert_eq!(governor.report(), ControlReport { limit: 2, breaker: BreakerState::Open { until_ms: 28 } });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Lost tokens, a clock that jumps, ends in any order: the limit stays within its bounds (P11), and some time after
    /// everything has stopped, a start is possible again (P12).
    #[test]
    fn p11_p12_in_bounds_and_never_stuck(
        min in 1_usize..20, max in 1_usize..40, rate in 1_u64..200, window in 1_usize..10,
        steps in prop::collection::vec((0_u8..8, any::<u16>()), 1..150),
    ) {
        let mut governor = Governor::new(GovernorSettings {
            concurrency_min: Some(at_most(min)),
            concurrency: at_most(max),
            breaker: Some(breaker_settings(50, window, 500)),
            starts_per_s: Some(per_s(rate)),
        });
        let mut now_ms: u64 = 10_000_000;
        let mut running = Vec::new();
        for (step, number) in steps {
            let chosen = usize::from(number) % running.len().max(1);
            match step {
                0..=2 => match governor.try_start(now_ms) {
                    Start::Go(token) => running.push(token),
                    Start::At(at_ms) => prop_assert!(at_ms > now_ms),
                    Start::Open { until_ms } => prop_assert!(until_ms > now_ms),
                    Start::Probing => {}
                },
                3 => now_ms += u64::from(number) / 100,
                4 if number % 2 == 0 => now_ms += u64::from(number) * 100,
                4 => now_ms -= u64::from(number),
                _ if running.is_empty() => {}
                5 => drop(running.swap_remove(chosen)),
                6 => governor.cancel(running.swap_remove(chosen)),
                _ => {
                    let signal = [Signal::Succeeded, Signal::Failed, Signal::Ignored][usize::from(number % 3)];
                    let in_flight = running.len();
                    governor.ended(running.swap_remove(chosen), signal, in_flight, now_ms);
                }
            }
            prop_assert!((min.min(max)..=max).contains(&governor.limit().get()));
        }
        let later_ms = now_ms + PROBE_LAPSES_MS + 10_000_000;
        prop_assert!(matches!(governor.try_start(later_ms), Start::Go(_)));
    }
}
