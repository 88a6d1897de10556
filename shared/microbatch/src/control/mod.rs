//! When an item's effect may start: how many at once, how many a second, and whether the dependency is up at all.
//!
//! Pure policies: time comes in as wall-clock milliseconds, and nothing here waits. A process has one [`Governor`],
//! which all its invocations ask before they start an item and tell how it ended, so that what was learnt in one
//! invocation serves the next. [`Backoff`] says when the queue should deliver a failed message again.

pub mod adaptive;
pub mod backoff;
pub mod breaker;
pub mod rate;

use std::num::{NonZeroU64, NonZeroUsize};

pub use self::{
    adaptive::AdaptiveLimit,
    backoff::{Backoff, BackoffError},
    breaker::{Breaker, BreakerSettings, BreakerState, FailurePercent},
    rate::RateLimit,
};
use self::{
    adaptive::Epoch,
    breaker::{Pass, Refusal},
};

/// How far back a time may lie behind one seen before, in milliseconds, without the clock counting as set back: callers
/// read the clock before they come to the lock, so that times arrive a little out of order, and NTP steps clocks by
/// fractions of a second.
pub(crate) const CLOCK_WOBBLE_MS: u64 = 1_000;

/// What bounds the starts of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GovernorSettings {
    /// Fewest items at once that the limit adapts down to. None: the limit is fixed. Above `concurrency` it counts as
    /// that.
    pub concurrency_min: Option<NonZeroUsize>,
    /// Most items at once.
    pub concurrency: NonZeroUsize,
    /// When to stop calling a dependency that is down. None: never.
    pub breaker: Option<BreakerSettings>,
    /// Most starts a second, in this process. None: any number.
    pub starts_per_s: Option<NonZeroU64>,
}

/// What an item's end says about its dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It answered, and in what time.
    Succeeded,
    /// A transient error, or none in time.
    Failed,
    /// Nothing: the error was permanent, the processor panicked, or the deadline cancelled it.
    Ignored,
}

/// Whether an item may start now.
#[derive(Debug)]
pub enum Start {
    /// Yes. The token goes back by [`Governor::ended`] or [`Governor::cancel`].
    Go(StartToken),
    /// Not before this time, in epoch milliseconds: the rate limit. Ask again then; others may have been faster.
    At(u64),
    /// Not before the breaker's probe that is out now has ended. Ask again when any item of the process has.
    Probing,
    /// Not before `until_ms`, in epoch milliseconds: the breaker is open.
    Open {
        /// When the first probe may start.
        until_ms: u64,
    },
}

/// Permission for one item to start, and what its end is judged by.
///
/// One that is lost, neither ended nor cancelled, costs no capacity; the breaker's probe place it may hold comes free
/// after [`breaker::PROBE_LAPSES_MS`].
#[derive(Debug)]
#[must_use = "a token that is not given back may hold the breaker's probe place"]
pub struct StartToken {
    started_ms: u64,
    epoch: Epoch,
    pass: Option<Pass>,
}

/// The state of the policies, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlReport {
    /// Most items at once, now.
    pub limit: usize,
    /// The breaker; always closed where there is none.
    pub breaker: BreakerState,
}

/// The policies of a process together. The limit of items at once is for the caller to keep: it has the semaphore.
#[derive(Debug)]
pub struct Governor {
    limit: AdaptiveLimit,
    breaker: Option<Breaker>,
    rate: Option<RateLimit>,
}

impl Governor {
    /// Policies that have seen nothing yet.
    pub fn new(settings: GovernorSettings) -> Self {
        let GovernorSettings { concurrency_min, concurrency, breaker, starts_per_s } = settings;
        Self {
            limit: AdaptiveLimit::new(concurrency_min.unwrap_or(concurrency), concurrency),
            breaker: breaker.map(Breaker::new),
            rate: starts_per_s.map(RateLimit::new),
        }
    }

    /// Whether everything may start at any time and the limit never moves: then nobody has to ask.
    pub fn is_trivial(&self) -> bool {
        self.limit.is_fixed() && self.breaker.is_none() && self.rate.is_none()
    }

    /// Asks to start one item now.
    ///
    /// The breaker is looked at before the rate is paid, and its probe place taken after: nothing is spent on a start
    /// that does not happen.
    pub fn try_start(&mut self, now_ms: u64) -> Start {
        if let Some(Err(refusal)) = self.breaker.as_ref().map(|breaker| breaker.check(now_ms)) {
            return refusal.into();
        }
        if let Some(Err(at_ms)) = self.rate.as_mut().map(|rate| rate.try_start(now_ms)) {
            return Start::At(at_ms);
        }
        let pass = match self.breaker.as_mut().map(|breaker| breaker.start(now_ms)).transpose() {
            Ok(pass) => pass,
            Err(refusal) => return refusal.into(),
        };
        Start::Go(StartToken { started_ms: now_ms, epoch: self.limit.epoch(), pass })
    }

    /// Gives back the token of an item that did not start after all, or was dropped without a result.
    ///
    /// Its share of the rate stays spent: given back late it would come on top of a bucket that has filled up since.
    pub fn cancel(&mut self, token: StartToken) {
        if let (Some(breaker), Some(pass)) = (&mut self.breaker, token.pass) {
            breaker.ignored(pass);
        }
    }

    /// Takes note of how an item ended.
    ///
    /// `in_flight` is how many items the process was processing when this one ended, itself included.
    pub fn ended(&mut self, token: StartToken, signal: Signal, in_flight: usize, now_ms: u64) {
        match signal {
            Signal::Succeeded => {
                self.limit.succeeded(token.epoch, now_ms.saturating_sub(token.started_ms), in_flight);
            }
            Signal::Failed => self.limit.failed(token.epoch),
            Signal::Ignored => {}
        }
        let (Some(breaker), Some(pass)) = (&mut self.breaker, token.pass) else { return };
        match signal {
            Signal::Succeeded => breaker.succeeded(pass),
            Signal::Failed => breaker.failed(pass, now_ms),
            Signal::Ignored => breaker.ignored(pass),
        }
    }

    /// Most items at once, now. It may have fallen below what is in flight: then nothing starts until enough have
    /// ended.
    pub fn limit(&self) -> NonZeroUsize {
        self.limit.limit()
    }

    /// When the breaker lets the first probe through, if it is open at `now_ms`. None while a probe is out.
    pub fn open_until_ms(&self, now_ms: u64) -> Option<u64> {
        self.breaker.as_ref()?.open_until_ms(now_ms)
    }

    /// The state of the policies.
    pub fn report(&self) -> ControlReport {
        ControlReport {
            limit: self.limit().get(),
            breaker: self.breaker.as_ref().map_or(BreakerState::Closed, Breaker::state),
        }
    }
}

impl From<Refusal> for Start {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Probing => Self::Probing,
            Refusal::Open { until_ms } => Self::Open { until_ms },
        }
    }
}
