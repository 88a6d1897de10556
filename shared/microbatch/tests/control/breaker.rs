//! The breaker: how many calls a dead dependency sees, and that nothing of an earlier state counts in a later one.

use microbatch::{
    Random,
    control::{
        Breaker, BreakerState, FailurePercent,
        breaker::{PROBE_LAPSES_MS, Pass, Refusal},
    },
};
use proptest::prelude::*;

use crate::support::{Seeded, breaker_settings};

/// A process that keeps a dependency as busy as it may.
struct Process {
    breaker: Breaker,
    concurrency: usize,
    random: Seeded,
    now_ms: u64,
    running: Vec<Pass>,
    starts: usize,
}

impl Process {
    /// Starts one, if there is room and the breaker lets it.
    fn start(&mut self) {
        if self.running.len() < self.concurrency
            && let Ok(pass) = self.breaker.start(self.now_ms)
        {
            self.running.push(pass);
            self.starts += 1;
        }
    }

    /// Ends one of those that run, whichever, and tells whether it succeeded. `percent` of them fail.
    fn end(&mut self, percent: u64) -> bool {
        let chosen = usize::try_from(self.random.below(self.running.len() as u64)).expect("a position");
        if self.running.is_empty() {
            return false;
        }
        let pass = self.running.swap_remove(chosen);
        if self.random.chance(percent) {
            self.breaker.failed(pass, self.now_ms);
            return false;
        }
        self.breaker.succeeded(pass);
        true
    }

    fn is_closed(&self) -> bool {
        self.breaker.state() == BreakerState::Closed
    }
}

fn process(percent: u64, window: usize, concurrency: usize, open_ms: u64, seed: u64) -> Process {
    let breaker = Breaker::new(breaker_settings(percent, window, open_ms));
    Process { breaker, concurrency, random: Seeded::new(seed), now_ms: 1_000_000, running: Vec::new(), starts: 0 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn p14_a_dead_dependency_sees_a_window_and_what_is_in_flight_and_then_one_call_per_open_ms(
        percent in 1_u64..=100, window in 1_usize..40, concurrency in 1_usize..40, open_ms in 1_u64..300,
        healthy in 0_usize..200, seed in any::<u64>(),
    ) {
        let mut process = process(percent, window, concurrency, open_ms, seed);
        for _ in 0..healthy {
            process.start();
            if process.random.chance(60) {
                process.end(0);
            }
        }
        prop_assert!(process.is_closed());

        process.starts = 0;
        // It dies. What was in flight may succeed or not; what starts from here on fails.
        for _ in 0..process.running.len() {
            if process.end(50) {
                process.starts = 0;
            }
            if process.random.chance(30) {
                process.start();
            }
        }
        while process.is_closed() {
            process.start();
            if process.random.chance(50) {
                process.end(100);
            }
        }
        prop_assert!(process.starts < window + concurrency, "{} starts since the last success", process.starts);

        let (opened_ms, mut last_start_ms) = (process.now_ms, None);
        process.starts = 0;
        for _ in 0..1_000 {
            let before = process.starts;
            process.start();
            if process.starts > before {
                prop_assert!(process.now_ms >= last_start_ms.unwrap_or(opened_ms) + open_ms);
                last_start_ms = Some(process.now_ms);
            }
            if process.random.chance(30) {
                process.end(100);
            }
            process.now_ms += process.random.below(5);
        }
        let elapsed_ms = usize::try_from(process.now_ms - opened_ms).expect("small");
        prop_assert!(process.starts <= elapsed_ms / usize::try_from(open_ms).expect("small"));
    }

    #[test]
    fn it_opens_exactly_when_the_full_window_holds_the_share(
        percent in 1_u64..=100, window in 1_usize..30, results in prop::collection::vec(any::<bool>(), 0..200),
    ) {
        let mut breaker = Breaker::new(breaker_settings(percent, window, 1_000));
        for (count, failed) in results.iter().enumerate() {
            let pass = breaker.start(0).expect("it is closed");
            if *failed {
                breaker.failed(pass, 0);
            } else {
                breaker.succeeded(pass);
            }
            let seen = &results[..=count];
            let last = &seen[seen.len().saturating_sub(window)..];
            let failures = last.iter().filter(|failed| **failed).count() as u64;
            let opens = *failed && last.len() == window && failures * 100 >= percent * window as u64;
            prop_assert_eq!(breaker.state() != BreakerState::Closed, opens);
            if opens {
                break;
            }
        }
    }

    #[test]
    fn whatever_happens_at_most_one_probe_is_out_and_time_or_its_end_frees_the_place(
        window in 1_usize..4, open_ms in 0_u64..50, steps in prop::collection::vec((0_u8..6, 0_u64..20), 1..200),
    ) {
        let mut breaker = Breaker::new(breaker_settings(50, window, open_ms));
        let mut now_ms = 5_000;
        let mut running: Vec<(Pass, bool)> = Vec::new();
        for (step, number) in steps {
            now_ms += number;
            match step {
                0 | 1 => {
                    let closed = breaker.state() == BreakerState::Closed;
                    let probing = breaker.state() == BreakerState::HalfOpen && running.iter().any(|(_, probe)| *probe);
                    match breaker.start(now_ms) {
                        Ok(pass) => {
                            prop_assert!(!probing, "a second probe");
                            running.push((pass, !closed));
                        }
                        Err(Refusal::Probing) => prop_assert!(probing, "no probe is out"),
                        Err(Refusal::Open { until_ms }) => prop_assert!(now_ms < until_ms),
                    }
                }
                _ if running.is_empty() => {}
                _ => {
                    let chosen = usize::try_from(number).expect("small") % running.len();
                    let (pass, _) = running.swap_remove(chosen);
                    match step {
                        2 => breaker.succeeded(pass),
                        3 | 4 => breaker.failed(pass, now_ms),
                        _ => breaker.ignored(pass),
                    }
                }
            }
        }
        for (pass, _) in running {
            breaker.ignored(pass);
        }
        prop_assert!(breaker.start(now_ms + open_ms).is_ok(), "P12: nothing is stuck");
    }
}

#[test]
fn the_bound_is_met() {
    let (window, concurrency) = (20, 8);
    let mut process = process(100, window, concurrency, 30_000, 1);
    while process.is_closed() {
        while process.running.len() < concurrency {
            process.start();
        }
        process.end(100);
    }
    assert_eq!(process.starts, window + concurrency - 1);
}

/// One that has opened at 1,000 and stays so until 31,000, and the pass of a call that started before.
fn opened() -> (Breaker, Pass) {
    let mut breaker = Breaker::new(breaker_settings(50, 2, 30_000));
    let early = breaker.start(0).expect("closed");
    for _ in 0..2 {
        let pass = breaker.start(0).expect("closed");
        breaker.failed(pass, 1_000);
    }
    assert_eq!(breaker.state(), BreakerState::Open { until_ms: 31_000 });
    (breaker, early)
}

#[test]
fn open_it_refuses_until_its_time_and_then_lets_one_through() {
    let (mut breaker, _early) = opened();
    assert_eq!(breaker.start(30_999).err(), Some(Refusal::Open { until_ms: 31_000 }));
    assert_eq!(breaker.open_until_ms(30_999), Some(31_000));
    assert_eq!(breaker.open_until_ms(31_000), None);
    assert_eq!(breaker.state(), BreakerState::Open { until_ms: 31_000 }, "nobody has asked yet");
    let probe = breaker.start(31_000).expect("the probe");
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert_eq!(breaker.start(99_000).err(), Some(Refusal::Probing));
    breaker.failed(probe, 40_000);
    assert_eq!(breaker.state(), BreakerState::Open { until_ms: 70_000 });
}

#[test]
fn a_good_probe_closes_it_and_old_failures_are_forgotten() {
    let (mut breaker, _early) = opened();
    let probe = breaker.start(31_000).expect("the probe");
    breaker.succeeded(probe);
    assert_eq!(breaker.state(), BreakerState::Closed);
    let pass = breaker.start(31_000).expect("closed");
    breaker.failed(pass, 31_000);
    assert_eq!(breaker.state(), BreakerState::Closed, "one result is not a window");
}

#[test]
fn a_result_from_before_it_opened_counts_in_no_later_state() {
    let (mut breaker, early) = opened();
    breaker.succeeded(early);
    assert!(matches!(breaker.state(), BreakerState::Open { .. }));

    let (mut breaker, early) = opened();
    let _probe = breaker.start(31_000).expect("the probe");
    breaker.failed(early, 31_001);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);

    let (mut breaker, early) = opened();
    let _probe = breaker.start(31_000).expect("the probe");
    breaker.ignored(early);
    assert_eq!(breaker.start(31_001).err(), Some(Refusal::Probing), "the place is the probe's");

    let (mut breaker, early) = opened();
    let probe = breaker.start(31_000).expect("the probe");
    breaker.succeeded(probe);
    let pass = breaker.start(31_000).expect("closed");
    breaker.failed(pass, 31_000);
    breaker.failed(early, 31_001);
    assert_eq!(breaker.state(), BreakerState::Closed, "the early failure would have filled the window");
}

#[test]
fn p12_an_ignored_probe_and_a_lost_one_free_the_place() {
    let (mut breaker, _early) = opened();
    let probe = breaker.start(31_000).expect("the probe");
    breaker.ignored(probe);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    let lost = breaker.start(31_000).expect("the next probe");
    assert_eq!(breaker.start(31_000 + PROBE_LAPSES_MS - 1).err(), Some(Refusal::Probing));
    let probe = breaker.start(31_000 + PROBE_LAPSES_MS).expect("a third probe");
    breaker.succeeded(lost);
    assert_eq!(breaker.state(), BreakerState::HalfOpen, "the lost one no longer speaks");
    breaker.succeeded(probe);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn p12_a_clock_set_back_does_not_keep_it_open() {
    let mut breaker = Breaker::new(breaker_settings(100, 1, 30_000));
    let pass = breaker.start(5_000_000).expect("closed");
    breaker.failed(pass, 5_000_000);
    assert_eq!(breaker.open_until_ms(4_999_000), Some(5_030_000), "a second back is a late caller");
    assert_eq!(breaker.open_until_ms(1_000_000), None);
    let probe = breaker.start(1_000_000).expect("the probe");
    breaker.failed(probe, 1_000_001);
    assert_eq!(breaker.open_until_ms(1_000_002), Some(1_030_001));
}

#[test]
fn extremes_are_harmless() {
    let mut breaker = Breaker::new(breaker_settings(100, usize::MAX, u64::MAX));
    for now_ms in [0, u64::MAX] {
        let pass = breaker.start(now_ms).expect("closed");
        breaker.failed(pass, now_ms);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    let mut breaker = Breaker::new(breaker_settings(1, 1, u64::MAX));
    let pass = breaker.start(7).expect("closed");
    breaker.failed(pass, 7);
    assert_eq!(breaker.state(), BreakerState::Open { until_ms: u64::MAX });
}

#[test]
fn a_percentage_is_1_to_100() {
    assert_eq!(
        [0, 1, 100, 101, 256, 257].map(|percent| FailurePercent::new(percent).map(FailurePercent::get)),
        [None, Some(1), Some(100), None, None, None]
    );
}
