//! Whether an item's effect may start: the process's policies, shared by its invocations.

use std::sync::{Arc, Mutex, PoisonError};

use super::gate::Gates;
use crate::control::{ControlReport, Governor, Signal, Start, StartToken};

/// The policies, and how many items they let through that have not ended.
pub(super) struct Control(Mutex<State>);

struct State {
    governor: Governor,
    in_flight: usize,
}

/// An item that was let through. It counts until it has ended; dropped before, it never did.
pub(super) struct Admitted {
    control: Arc<Control>,
    token: Option<StartToken>,
    since_ms: u64,
    waited_ms: u64,
}

/// An item may not start now.
pub(super) enum NotNow {
    /// The rate: ask again then.
    Until(u64),
    /// A probe is out, perhaps another invocation's: ask again then.
    Probing(u64),
    /// The breaker is open: nothing starts in this invocation.
    Open,
}

/// How soon to ask again while a probe is out.
const PROBE_LOOK_MS: u64 = 20;

impl Control {
    pub(super) fn new(governor: Governor) -> Self {
        Self(Mutex::new(State { governor, in_flight: 0 }))
    }

    /// Asks to start an item.
    pub(super) fn try_start(self: &Arc<Self>, now_ms: u64) -> Result<Admitted, NotNow> {
        let mut state = self.lock();
        match state.governor.try_start(now_ms) {
            Start::Go(token) => {
                state.in_flight += 1;
                drop(state);
                Ok(Admitted { control: Arc::clone(self), token: Some(token), since_ms: now_ms, waited_ms: 0 })
            }
            Start::At(at_ms) => Err(NotNow::Until(at_ms)),
            Start::Probing => Err(NotNow::Probing(now_ms.saturating_add(PROBE_LOOK_MS))),
            Start::Open { .. } => Err(NotNow::Open),
        }
    }

    /// Until when nothing starts, while the breaker is open.
    pub(super) fn open_until_ms(&self, now_ms: u64) -> Option<u64> {
        self.lock().governor.open_until_ms(now_ms)
    }

    pub(super) fn report(&self) -> ControlReport {
        self.lock().governor.report()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted {
    /// It starts now: that it waited for others to fill its sub-batch is no slowness of the dependency.
    pub(super) fn begin(&mut self, now_ms: u64) {
        self.waited_ms = now_ms.saturating_sub(self.since_ms);
    }

    /// The item has ended like this. Sets the limit that follows from it.
    pub(super) fn ended(mut self, signal: Signal, now_ms: u64, gates: &Gates) {
        let Some(token) = self.token.take() else { return };
        let mut state = self.control.lock();
        let before = state.governor.limit();
        let in_flight = state.in_flight;
        state.in_flight -= 1;
        // Of a success only the latency is looked at, from the token's time to this one.
        let ended_ms = if signal == Signal::Succeeded { now_ms.saturating_sub(self.waited_ms) } else { now_ms };
        state.governor.ended(token, signal, in_flight, ended_ms);
        let limit = state.governor.limit();
        if limit != before {
            gates.resize(limit.get());
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            let mut state = self.control.lock();
            state.in_flight -= 1;
            state.governor.cancel(token);
        }
    }
}
