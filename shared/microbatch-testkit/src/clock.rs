//! Time and randomness under the test's control.

use std::sync::atomic::{AtomicU64, Ordering};

use microbatch::clock::{BoxFuture, Clock, Random};
use tokio::time::{Duration, Instant};

/// A clock that follows tokio's: on a paused runtime it stands until everything waits, and then jumps.
///
/// Only for tests without sockets. With a real connection paused time jumps to its time-out at once.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    epoch: Instant,
    epoch_ms: u64,
}

impl TokioClock {
    /// A clock that shows `now_ms` now.
    pub fn starting_at(now_ms: u64) -> Self {
        Self { epoch: Instant::now(), epoch_ms: now_ms }
    }
}

impl Default for TokioClock {
    /// A clock that shows the start of 2026 now.
    fn default() -> Self {
        Self::starting_at(1_767_225_600_000)
    }
}

impl Clock for TokioClock {
    fn now_ms(&self) -> u64 {
        self.epoch_ms + u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep_until(&self, at_ms: u64) -> BoxFuture<'static, ()> {
        let at = self.epoch + Duration::from_millis(at_ms.saturating_sub(self.epoch_ms));
        Box::pin(tokio::time::sleep_until(at))
    }
}

/// Numbers that look random and are the same in every run with the same seed.
#[derive(Debug)]
pub struct SeededRandom(AtomicU64);

impl SeededRandom {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn next_u64(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Random for SeededRandom {
    fn next_u128(&self) -> u128 {
        (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64())
    }
}
