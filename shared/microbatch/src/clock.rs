//! Time and randomness, which come in from outside so that tests can own them.

use std::{future::Future, pin::Pin};

/// A boxed future that may be sent to another thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Wall-clock time and waiting for it.
///
/// Wall time, not a monotonic clock: leases and deadlines are absolute, shared with other machines, and a Lambda
/// environment is frozen between invocations, during which wall time goes on.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;

    /// Waits until `now_ms() >= at_ms`.
    fn sleep_until(&self, at_ms: u64) -> BoxFuture<'static, ()>;
}

/// Unpredictable numbers, for owner tokens and jitter.
pub trait Random: Send + Sync + 'static {
    /// 128 unpredictable bits, never the same twice.
    fn next_u128(&self) -> u128;

    /// A number below `bound`; 0 when `bound` is 0.
    fn below(&self, bound: u64) -> u64 {
        let rest = self.next_u128().checked_rem(u128::from(bound)).unwrap_or_default();
        u64::try_from(rest).unwrap_or_default()
    }
}
