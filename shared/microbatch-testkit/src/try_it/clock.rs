//! Time that a test can let pass, and randomness that is the same in every run.

use std::sync::atomic::{AtomicU64, Ordering};

use microbatch::{Clock, Random, clock::BoxFuture};

use crate::clock::{SeededRandom, TokioClock};

/// Tokio's clock, which can be put forward.
#[derive(Debug, Default)]
pub(super) struct TestClock {
    inner: TokioClock,
    ahead_ms: AtomicU64,
}

impl TestClock {
    pub(super) fn advance_ms(&self, ms: u64) {
        self.ahead_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.inner.now_ms().saturating_add(self.ahead_ms.load(Ordering::SeqCst))
    }

    fn sleep_until(&self, at_ms: u64) -> BoxFuture<'static, ()> {
        self.inner.sleep_until(at_ms.saturating_sub(self.ahead_ms.load(Ordering::SeqCst)))
    }
}

/// Chance that is the same in every run, and tokens that no two pipelines of the process share: they may have one store.
#[derive(Debug)]
pub(super) struct TestRandom {
    seeded: SeededRandom,
    pipeline: u64,
}

impl TestRandom {
    pub(super) fn new() -> Self {
        static PIPELINES: AtomicU64 = AtomicU64::new(1);
        Self { seeded: SeededRandom::new(0), pipeline: PIPELINES.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Random for TestRandom {
    fn next_u128(&self) -> u128 {
        (u128::from(self.pipeline) << 64) | (self.seeded.next_u128() & u128::from(u64::MAX))
    }

    fn below(&self, bound: u64) -> u64 {
        self.seeded.below(bound)
    }
}
