//! When to stop calling a dependency that is down.

use std::{
    collections::VecDeque,
    num::{NonZeroU8, NonZeroUsize},
};

use super::CLOCK_WOBBLE_MS;

/// After this time, in milliseconds, a probe that has neither ended nor been cancelled counts as lost, and another may
/// start. No item runs longer: it is the longest invocation and the largest item time-out. Without it one lost token
/// would keep everything from starting for as long as the process lives.
pub const PROBE_LAPSES_MS: u64 = 900_000;

/// A share that is not nothing: 1 to 100 percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailurePercent(NonZeroU8);

impl FailurePercent {
    /// None unless `percent` is 1 to 100.
    pub fn new(percent: u64) -> Option<Self> {
        let percent = u8::try_from(percent).ok().filter(|percent| *percent <= 100)?;
        NonZeroU8::new(percent).map(Self)
    }

    /// The percentage, 1 to 100.
    pub fn get(self) -> u8 {
        self.0.get()
    }
}

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// The share of failures among the last `window` results that opens it.
    pub failure_percent: FailurePercent,
    /// How many results it looks at. It never opens on fewer: one failure of one call is no outage.
    pub window: NonZeroUsize,
    /// How long nothing starts, in milliseconds, before a probe may.
    pub open_ms: u64,
}

/// What a breaker is doing, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything may start.
    Closed,
    /// Nothing starts until then; it stays so beyond, until something asks to start.
    Open {
        /// When the first probe may start, in epoch milliseconds.
        until_ms: u64,
    },
    /// One call at a time finds out whether the dependency is back.
    HalfOpen,
}

impl BreakerState {
    /// The state's name, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::Open { .. } => "open",
            BreakerState::HalfOpen => "half_open",
        }
    }
}

/// Why a call may not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A probe is out.
    Probing,
    /// The breaker is open.
    Open {
        /// When the first probe may start, in epoch milliseconds.
        until_ms: u64,
    },
}

/// Names the state in which a call started. A later state does not hear of its result.
#[derive(Debug)]
#[must_use = "the probe's place comes free when its pass goes back"]
pub struct Pass {
    generation: u64,
}

/// A circuit breaker, after Nygard, "Release It!": closed it counts, open it refuses, half-open it lets one probe
/// through.
///
/// It opens at a failure, when the last `window` results, all of calls that started since it closed, are there and
/// `failure_percent` of them or more are failures. A count and no time span, as a function may see ten items a day or
/// ten thousand a second. Results that say nothing of the dependency are not counted.
///
/// **Bound** (P14). After the last success of a dependency that died, at most `window + c - 1` calls are started,
/// where `c` is how many run at once: `window` results later nothing but failures is in view, and `c - 1` calls are
/// still out. From then on one a time of `open_ms`. Calls without a result (ignored or cancelled) come on top; while
/// half-open they too run one at a time.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: State,
    /// Raised by every change of state and every probe.
    generation: u64,
    /// The last results while closed, oldest first; true is a failure.
    results: VecDeque<bool>,
    /// How many of them are failures.
    failed: usize,
}

#[derive(Debug)]
enum State {
    Closed,
    Open { since_ms: u64 },
    HalfOpen { probe_since_ms: Option<u64> },
}

impl Breaker {
    /// A closed one.
    pub fn new(settings: BreakerSettings) -> Self {
        Self { settings, state: State::Closed, generation: 0, results: VecDeque::new(), failed: 0 }
    }

    /// What it is doing.
    pub fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { since_ms } => BreakerState::Open { until_ms: self.until_ms(since_ms) },
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Until when nothing starts, if that is so at `now_ms`.
    ///
    /// Also over when the clock is behind the moment of opening: it was set back, and nobody waits for it to catch up.
    pub fn open_until_ms(&self, now_ms: u64) -> Option<u64> {
        let State::Open { since_ms } = self.state else { return None };
        let set_back = now_ms.saturating_add(CLOCK_WOBBLE_MS) < since_ms;
        Some(self.until_ms(since_ms)).filter(|until_ms| now_ms < *until_ms && !set_back)
    }

    /// Whether [`Breaker::start`] would let a call through. Changes nothing.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, now_ms: u64) -> Result<(), Refusal> {
        if let Some(until_ms) = self.open_until_ms(now_ms) {
            return Err(Refusal::Open { until_ms });
        }
        match self.state {
            State::HalfOpen { probe_since_ms: Some(since_ms) } if now_ms.saturating_sub(since_ms) < PROBE_LAPSES_MS => {
                Err(Refusal::Probing)
            }
            _ => Ok(()),
        }
    }

    /// Starts a call, as the probe unless the breaker is closed.
    ///
    /// # Errors
    /// Why not.
    pub fn start(&mut self, now_ms: u64) -> Result<Pass, Refusal> {
        self.check(now_ms)?;
        if !matches!(self.state, State::Closed) {
            self.enter(State::HalfOpen { probe_since_ms: Some(now_ms) });
        }
        Ok(Pass { generation: self.generation })
    }

    /// The call succeeded: one good result, and a probe closes the breaker.
    #[expect(clippy::needless_pass_by_value, reason = "so that no call reports twice")]
    pub fn succeeded(&mut self, pass: Pass) {
        if pass.generation != self.generation {
            return;
        }
        match self.state {
            State::Closed => self.count(false),
            State::HalfOpen { .. } => self.enter(State::Closed),
            State::Open { .. } => {}
        }
    }

    /// The call failed in a way that speaks of the dependency: one bad result, and a probe opens the breaker again.
    #[expect(clippy::needless_pass_by_value, reason = "so that no call reports twice")]
    pub fn failed(&mut self, pass: Pass, now_ms: u64) {
        if pass.generation != self.generation {
            return;
        }
        let opens = match self.state {
            State::Closed => {
                self.count(true);
                self.is_tripped()
            }
            State::HalfOpen { .. } => true,
            State::Open { .. } => false,
        };
        if opens {
            self.enter(State::Open { since_ms: now_ms });
        }
    }

    /// The call said nothing of the dependency, or never started: nothing is counted, and the next one may be the
    /// probe.
    #[expect(clippy::needless_pass_by_value, reason = "so that no call reports twice")]
    pub fn ignored(&mut self, pass: Pass) {
        if let State::HalfOpen { probe_since_ms } = &mut self.state
            && pass.generation == self.generation
        {
            *probe_since_ms = None;
        }
    }

    /// A new state knows nothing of the results before it.
    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
        self.results.clear();
        self.failed = 0;
    }

    fn count(&mut self, failed: bool) {
        if self.results.len() == self.settings.window.get() && self.results.pop_front() == Some(true) {
            self.failed -= 1;
        }
        self.results.push_back(failed);
        self.failed += usize::from(failed);
    }

    fn is_tripped(&self) -> bool {
        let window = self.settings.window.get();
        let percent = usize::from(self.settings.failure_percent.get());
        self.results.len() == window && self.failed.saturating_mul(100) >= window.saturating_mul(percent)
    }

    fn until_ms(&self, since_ms: u64) -> u64 {
        since_ms.saturating_add(self.settings.open_ms)
    }
}
