//! How many effects may start a second.

use std::num::NonZeroU64;

use super::CLOCK_WOBBLE_MS;

/// Parts of a start that the bucket counts in. At `n` starts a second it gains exactly `n` of them a millisecond, so
/// that no rate is rounded.
const PARTS_PER_START: u64 = 1_000;

/// A token bucket: at most `starts_per_s × t + burst` starts in any time `t`.
///
/// The bucket of RFC 2697 and the generic cell rate algorithm (ITU-T I.371) grant the same starts; the bucket is the
/// one that counts in integers without a remainder. It holds [`RateLimit::burst`] starts, a tenth of a second's
/// worth: what comes after a pause is all that can come at once, and a dependency that is sized for the rate takes
/// it. So an environment that was frozen for a day starts no flood.
///
/// The limit is this process's. A function with `n` environments starts up to `n` times as many.
///
/// Nothing that was missed is made up for beyond the burst, so under 20 starts a second, where the burst is one,
/// those who come a millisecond late lose that millisecond.
#[derive(Debug, Clone)]
pub struct RateLimit {
    starts_per_s: NonZeroU64,
    /// What the bucket holds, as of `counted_to_ms`.
    parts: u64,
    counted_to_ms: u64,
}

impl RateLimit {
    /// A full bucket.
    pub fn new(starts_per_s: NonZeroU64) -> Self {
        let mut limit = Self { starts_per_s, parts: 0, counted_to_ms: 0 };
        limit.parts = limit.parts_max();
        limit
    }

    /// Most starts at once: a tenth of a second's worth, and at least one.
    pub fn burst(&self) -> u64 {
        (self.starts_per_s.get() / 10).max(1)
    }

    /// Starts one, or says in `Err` the earliest time, in epoch milliseconds, at which one may start.
    ///
    /// # Errors
    /// The bucket is empty.
    pub fn try_start(&mut self, now_ms: u64) -> Result<(), u64> {
        self.fill(now_ms);
        if let Some(rest) = self.parts.checked_sub(PARTS_PER_START) {
            self.parts = rest;
            return Ok(());
        }
        let missing_ms = (PARTS_PER_START - self.parts).div_ceil(self.starts_per_s.get());
        Err(self.counted_to_ms.saturating_add(missing_ms))
    }

    /// Adds what the time since the last call is worth. No time is counted twice: after a step back it is counted from
    /// there on where the clock was set back, and else only once the clock is past where it has been.
    fn fill(&mut self, now_ms: u64) {
        if now_ms.saturating_add(CLOCK_WOBBLE_MS) < self.counted_to_ms {
            self.counted_to_ms = now_ms;
        }
        let elapsed_ms = now_ms.saturating_sub(self.counted_to_ms);
        let gained = elapsed_ms.saturating_mul(self.starts_per_s.get());
        self.parts = self.parts.saturating_add(gained).min(self.parts_max());
        self.counted_to_ms = self.counted_to_ms.max(now_ms);
    }

    fn parts_max(&self) -> u64 {
        self.burst().saturating_mul(PARTS_PER_START)
    }
}
