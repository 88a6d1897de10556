//! How many batches may run at once, and the pause after function errors.
//!
//! AWS gives the start (5), the growth (300 a minute, while messages wait) and the ends (1,250, or `MaximumConcurrency`); see
//! "Configuring scaling behavior for SQS event source mappings". Of errors it says only that Lambda "gradually backs off,
//! reducing the amount of concurrency". The numbers of that are ours: a function error halves the limit and pauses the polling,
//! 200 ms at first and twice as long each time, up to 10 s; a success halves the pause and gives one step back. Batches that
//! ran at the time of a reduction do not cause another one.

use std::time::Duration;

/// How many batches run at once at first.
pub const START: usize = 5;
/// How many may run at once at most, unless `MaximumConcurrency` says less.
pub const MAX: usize = 1_250;
/// One more batch each time: 300 a minute.
pub const GROWTH_INTERVAL: Duration = Duration::from_millis(200);
/// The first pause. Ours.
pub const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause. Ours.
pub const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The limit and the pause, as a state machine that is told the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaling {
    max: usize,
    /// What the limit was before errors lowered it, grown since.
    healthy: usize,
    limit: usize,
    pause_ms: u64,
    resumes_ms: u64,
    reduced_ms: Option<u64>,
    grown_ms: u64,
}

/// How a batch's invocation went, as far as scaling cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invocation {
    /// The function answered. That some messages failed, or all, or that the answer breaks the rules, does not matter.
    Answered,
    /// It erred, timed out or died, or could not be started.
    Erred,
}

impl Scaling {
    /// The start. `max` is `MaximumConcurrency`, or another limit of the machine.
    pub fn new(max: Option<usize>) -> Self {
        let max = max.unwrap_or(MAX).clamp(1, MAX);
        let limit = START.min(max);
        Self { max, healthy: limit, limit, pause_ms: 0, resumes_ms: 0, reduced_ms: None, grown_ms: 0 }
    }

    /// How many batches may run at once.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The pause that the last error caused, in milliseconds; 0 when all is well.
    pub fn pause_ms(&self) -> u64 {
        self.pause_ms
    }

    /// Until when nothing is polled, if that is not over.
    pub fn paused_until_ms(&self, now_ms: u64) -> Option<u64> {
        (now_ms < self.resumes_ms).then_some(self.resumes_ms)
    }

    /// To be called while as many batches run as may, and messages wait. When it is time, the limit grows by one; else the
    /// answer is when that will be. None: it has grown as far as it can for now.
    pub fn saturated(&mut self, now_ms: u64) -> Option<u64> {
        if self.limit >= self.max || self.limit < self.healthy {
            return None;
        }
        let grows_ms = self.grown_ms.saturating_add(whole_ms(GROWTH_INTERVAL));
        if now_ms < grows_ms {
            return Some(grows_ms);
        }
        self.limit += 1;
        self.healthy = self.limit;
        self.grown_ms = now_ms;
        Some(now_ms.saturating_add(whole_ms(GROWTH_INTERVAL)))
    }

    /// A batch that began at `started_ms` has ended.
    pub fn ended(&mut self, now_ms: u64, started_ms: u64, invocation: Invocation) {
        match invocation {
            Invocation::Answered => {
                self.limit = (self.limit + 1).min(self.healthy);
                self.pause_ms = if self.pause_ms / 2 < whole_ms(PAUSE_MIN) { 0 } else { self.pause_ms / 2 };
            }
            // What ran already when the last reduction was made tells nothing new.
            Invocation::Erred if self.reduced_ms.is_some_and(|reduced_ms| started_ms < reduced_ms) => {}
            Invocation::Erred => {
                self.limit = (self.limit / 2).max(1);
                self.pause_ms = (self.pause_ms * 2).clamp(whole_ms(PAUSE_MIN), whole_ms(PAUSE_MAX));
                self.resumes_ms = now_ms.saturating_add(self.pause_ms);
                self.reduced_ms = Some(now_ms);
            }
        }
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_starts_at_five_or_at_the_maximum() {
        for (max, start) in [(None, 5), (Some(2), 2), (Some(1_000), 5)] {
            assert_eq!(Scaling::new(max).limit(), start);
        }
    }

    #[test]
    fn it_grows_by_300_a_minute_while_messages_wait() {
        let mut scaling = Scaling::new(Some(400));
        for now_ms in 0..60_000 {
            scaling.saturated(now_ms);
        }
        // The first step is due at once or after one interval, as the clock stands.
        assert!((304..=305).contains(&scaling.limit()), "{}", scaling.limit());
        for now_ms in 60_000..120_000 {
            scaling.saturated(now_ms);
        }
        assert_eq!(scaling.limit(), 400);
        assert_eq!(scaling.saturated(120_000), None);
    }

    #[test]
    fn errors_lower_the_limit_and_make_a_pause_and_successes_undo_both() {
        let mut scaling = Scaling::new(None);
        let mut seen = Vec::new();
        for n in 1..=8 {
            scaling.ended(n * 1_000, n * 1_000 - 1, Invocation::Erred);
            seen.push((scaling.limit(), scaling.pause_ms()));
        }
        let expected = [(2, 200), (1, 400), (1, 800), (1, 1_600), (1, 3_200), (1, 6_400), (1, 10_000), (1, 10_000)];
        assert_eq!(seen, expected);
        assert_eq!(scaling.paused_until_ms(8_001), Some(18_000));
        assert_eq!(scaling.paused_until_ms(18_000), None);

        let mut limits = Vec::new();
        for n in 20..=26 {
            scaling.ended(n * 1_000, n * 1_000 - 1, Invocation::Answered);
            limits.push((scaling.limit(), scaling.pause_ms()));
        }
        assert_eq!(limits, [(2, 5_000), (3, 2_500), (4, 1_250), (5, 625), (5, 312), (5, 0), (5, 0)]);
    }

    #[test]
    fn batches_that_ran_side_by_side_count_once() {
        let mut scaling = Scaling::new(None);
        for now_ms in 100..105 {
            scaling.ended(now_ms, 50, Invocation::Erred);
        }
        assert_eq!((scaling.limit(), scaling.pause_ms()), (2, 200));
        scaling.ended(500, 110, Invocation::Erred);
        assert_eq!((scaling.limit(), scaling.pause_ms()), (1, 400));
    }

    #[test]
    fn a_lowered_limit_comes_back_by_success_only() {
        let mut scaling = Scaling::new(None);
        scaling.ended(10, 5, Invocation::Erred);
        assert_eq!((scaling.limit(), scaling.saturated(100_000)), (2, None));
    }

    proptest! {
        #[test]
        fn the_limit_is_never_zero_and_never_over_the_maximum(
            max in proptest::option::of(2_usize..50), steps in proptest::collection::vec((0_u8..3, 0_u64..500), 0..200),
        ) {
            let mut scaling = Scaling::new(max);
            let mut now_ms = 0;
            for (what, later_ms) in steps {
                now_ms += later_ms;
                match what {
                    0 => scaling.ended(now_ms, now_ms.saturating_sub(10), Invocation::Erred),
                    1 => scaling.ended(now_ms, now_ms.saturating_sub(10), Invocation::Answered),
                    _ => { scaling.saturated(now_ms); }
                }
                prop_assert!((1..=max.unwrap_or(MAX)).contains(&scaling.limit()));
                prop_assert!(scaling.pause_ms() <= 10_000);
                prop_assert!(scaling.paused_until_ms(now_ms).is_none_or(|until_ms| until_ms <= now_ms + 10_000));
            }
            // However bad it was, successes bring it back.
            for _ in 0..60 {
                scaling.ended(now_ms, now_ms, Invocation::Answered);
            }
            prop_assert_eq!(scaling.pause_ms(), 0);
            prop_assert!(scaling.limit() >= START.min(max.unwrap_or(MAX)));
        }
    }
}
