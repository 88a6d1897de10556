//! How many items at once, learnt from how they fare.

use std::{mem, num::NonZeroUsize};

/// A round is so many times what is in flight. Calls that start together end sorted by latency, so a round of one such
/// generation may hold the slow ones only, and one of four at most a quarter of them too many.
const ROUND_GENERATIONS: usize = 4;
/// Fewest results that are judged together. The mean of 16 exponential latencies is over twice the expected one by
/// chance in one round of 1,500, the mean of 64 in one of seven billion.
const ROUND_MIN: usize = 64;
/// A round is slow above this many times the baseline. Netflix's Gradient2 tolerates 1.5, Vector 2.5 deviations.
const SLOW_TIMES: u64 = 2;
/// ... and this much more, in microseconds: times are counted in whole milliseconds, and a few of them are scheduling.
const SLOW_TOLERANCE_US: u64 = 10_000;
/// One result counts for at most this many times what is slow: a single call that hung must not make its round slow.
/// Not less, for where two items in five are slow and the others take no time, the slow ones have to carry the mean.
const OUTLIER_TIMES: u64 = 4;
/// The baseline falls by this fraction of its distance from a round's mean.
const FALL_STEPS: u64 = 8;
/// The baseline rises by this fraction of its distance, in rounds that may raise it: fast, as nothing else runs
/// meanwhile.
const RISE_STEPS: u64 = 2;

/// Which decreases a call has seen when it started. See [`AdaptiveLimit::epoch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(u64);

/// A limit on the number of items at once that falls when the dependency fails or slows down, and rises again when it
/// does well: additive increase, multiplicative decrease, which is both stable and fair among those who share a
/// dependency (Chiu and Jain, 1989). The signals are those of Netflix's concurrency-limits and of Vector's adaptive
/// request concurrency.
///
/// - **It starts at the maximum.** A new environment then does what it would do with a fixed limit. Lambda makes new
///   ones exactly when there is much to do, many live for minutes, and down is fast (from 64 to 1 in 12 falls) while
///   up is slow.
/// - **It rises** by one after as many successes as the limit is, about one a generation, if the limit is used: at
///   least half of it in flight when they ended. An unused limit would rise without having been tried (Netflix's AIMD
///   limit has the same half); the first half of a batch's drain still counts. It does fall, so with less in flight
///   than the limit it may in time come down towards that, and the next burst raises it again.
/// - **It falls to three quarters** at the first transient failure, or when a round of successes (some four
///   generations) is slow, and then does not rise before a round was not. Results of calls that started before the
///   last fall count for nothing: they tell of the load before it.
/// - **Slow** is a mean of over twice the baseline and 10 ms. The baseline follows the means, downwards always,
///   *upwards only in rounds in which no more than the minimum ran*. What is slow there is not slow through us; it is
///   how the baseline learns of bigger items or a slower dependency. One that learnt from loaded rounds would call an
///   overload normal that we cause, let the limit rise, learn that, and so creep to the maximum. For the same reason
///   a slow round with no more than the minimum in flight does not make the limit fall.
///
/// So it cannot see a dependency that was overloaded from the first item on, until it fails. With a share `p` of
/// transient failures that have nothing to do with load it settles near `2 / sqrt(p)`, 20 for one in a hundred: that
/// is what AIMD does, and the minimum is the answer to it.
#[derive(Debug, Clone)]
pub struct AdaptiveLimit {
    min: NonZeroUsize,
    max: NonZeroUsize,
    limit: NonZeroUsize,
    epoch: Epoch,
    /// The latency that is normal, in microseconds. None before the first round.
    baseline_us: Option<u64>,
    /// Successes since the limit last moved, of those that count towards its rise.
    earned: usize,
    /// Whether the last round was slow.
    slow: bool,
    round: Round,
}

/// Successes since the last judgement.
#[derive(Debug, Clone, Default)]
struct Round {
    results: usize,
    in_flight_max: usize,
    latency_sum_us: u64,
}

impl AdaptiveLimit {
    /// A limit that starts at `max`. With `min` equal to it, or above, it is fixed.
    pub fn new(min: NonZeroUsize, max: NonZeroUsize) -> Self {
        Self {
            min: min.min(max),
            max,
            limit: max,
            epoch: Epoch(0),
            baseline_us: None,
            earned: 0,
            slow: false,
            round: Round::default(),
        }
    }

    /// Most items at once, now.
    pub fn limit(&self) -> NonZeroUsize {
        self.limit
    }

    /// Whether it never changes.
    pub fn is_fixed(&self) -> bool {
        self.min == self.max
    }

    /// What a call that starts now has to bring along when it ends.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A call that started in `epoch` succeeded in `latency_ms`; with it there were `in_flight`.
    pub fn succeeded(&mut self, epoch: Epoch, latency_ms: u64, in_flight: usize) {
        if self.is_fixed() || epoch != self.epoch {
            return;
        }
        // The call itself was in flight, even if the caller has forgotten it: else a limit of 1 would never be used.
        let in_flight = in_flight.max(1);
        self.earn(in_flight);
        let most_us = self.slow_us().map_or(u64::MAX, |slow_us| slow_us.saturating_mul(OUTLIER_TIMES));
        self.round.results += 1;
        self.round.in_flight_max = self.round.in_flight_max.max(in_flight);
        let counted_us = latency_ms.saturating_mul(1_000).min(most_us);
        self.round.latency_sum_us = self.round.latency_sum_us.saturating_add(counted_us);
        if self.round.results >= self.round_length() {
            self.judge();
        }
    }

    /// A call that started in `epoch` failed in a way that may be overload.
    pub fn failed(&mut self, epoch: Epoch) {
        if !self.is_fixed() && epoch == self.epoch {
            self.fall();
        }
    }

    fn earn(&mut self, in_flight: usize) {
        let used = in_flight.saturating_mul(2) >= self.limit.get();
        if self.slow || !used {
            return;
        }
        self.earned += 1;
        if self.earned >= self.limit.get() {
            self.earned = 0;
            self.limit = self.limit.saturating_add(1).min(self.max);
        }
    }

    /// Above this latency, in microseconds, a round is slow. None before there is a baseline.
    fn slow_us(&self) -> Option<u64> {
        Some(self.baseline_us?.saturating_mul(SLOW_TIMES).saturating_add(SLOW_TOLERANCE_US))
    }

    fn round_length(&self) -> usize {
        let generation = self.round.in_flight_max.min(self.limit.get());
        generation.saturating_mul(ROUND_GENERATIONS).max(ROUND_MIN)
    }

    fn judge(&mut self) {
        let round = mem::take(&mut self.round);
        let mean_us = round.mean_us();
        let lightly_loaded = self.limit == self.min || round.in_flight_max <= self.min.get();
        self.slow = self.slow_us().is_some_and(|slow_us| mean_us > slow_us);
        self.learn(mean_us, lightly_loaded);
        if self.slow && !lightly_loaded {
            self.fall();
        }
    }

    fn learn(&mut self, mean_us: u64, may_rise: bool) {
        let baseline_us = self.baseline_us.unwrap_or(mean_us);
        let above_us = if may_rise { mean_us.saturating_sub(baseline_us) } else { 0 };
        let below_us = baseline_us.saturating_sub(mean_us);
        self.baseline_us = Some(baseline_us + above_us / RISE_STEPS - below_us / FALL_STEPS);
    }

    fn fall(&mut self) {
        let limit = self.limit.get();
        self.limit = NonZeroUsize::new(limit - limit.div_ceil(4)).map_or(self.min, |limit| limit.max(self.min));
        self.epoch.0 += 1;
        self.earned = 0;
        self.round = Round::default();
    }
}

impl Round {
    fn mean_us(&self) -> u64 {
        self.latency_sum_us / u64::try_from(self.results).unwrap_or(u64::MAX).max(1)
    }
}
