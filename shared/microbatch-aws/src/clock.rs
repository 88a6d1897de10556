//! The production clock and randomness.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use microbatch::clock::{BoxFuture, Clock, Random};
use uuid::Uuid;

/// Longest single sleep. A Lambda environment is frozen between invocations, and wall time goes on without the timers: a
/// sleep rereads the clock at least this often.
const NAP_MAX: Duration = Duration::from_secs(1);

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep_until(&self, at_ms: u64) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                let left_ms = at_ms.saturating_sub(SystemClock.now_ms());
                if left_ms == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(left_ms).min(NAP_MAX)).await;
            }
        })
    }
}

/// The operating system's randomness, as version 7 UUIDs.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn next_u128(&self) -> u128 {
        Uuid::now_v7().as_u128()
    }
}
