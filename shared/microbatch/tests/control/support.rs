//! Seeded randomness and small constructors.

use std::{
    num::{NonZeroU64, NonZeroUsize},
    sync::atomic::{AtomicU64, Ordering},
};

use microbatch::{
    Random,
    control::{BreakerSettings, FailurePercent},
};

pub(crate) fn at_most(value: usize) -> NonZeroUsize {
    NonZeroUsize::new(value).expect("not 0")
}

pub(crate) fn per_s(value: u64) -> NonZeroU64 {
    NonZeroU64::new(value).expect("not 0")
}

pub(crate) fn breaker_settings(percent: u64, window: usize, open_ms: u64) -> BreakerSettings {
    BreakerSettings {
        failure_percent: FailurePercent::new(percent).expect("1 to 100"),
        window: at_most(window),
        open_ms,
    }
}

/// `SplitMix64`: the same numbers for the same seed.
#[derive(Debug)]
pub(crate) struct Seeded(AtomicU64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    fn next_u64(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// True for about `percent` of the draws.
    pub(crate) fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

impl Random for Seeded {
    fn next_u128(&self) -> u128 {
        (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64())
    }
}
