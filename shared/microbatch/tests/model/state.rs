//! What a state of the model consists of. All that does not bear on the future is normalised away, so that histories
//! that differ in nothing else are one state.

use std::hash::{Hash, Hasher};

use microbatch::{
    record::{Fingerprint, Record, StoredResult},
    transition::ReleaseKind,
};

use crate::properties::Breaches;

/// One step of the clock, in milliseconds. A second, so that retention, kept in seconds, counts the same steps.
pub(crate) const STEP_MS: u64 = 1_000;

/// The host's clock at step 0, in epoch milliseconds: so late that seconds taken for milliseconds lie far in the past.
pub(crate) const EPOCH_MS: u64 = 1_000_000_000;

/// The host's clock at this step, in epoch milliseconds.
pub(crate) fn host_ms(step: u8) -> u64 {
    EPOCH_MS + u64::from(step) * STEP_MS
}

/// A state of the queue, the workers, the network and the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// Steps of the host's clock.
    pub(crate) now: u8,
    /// Which of the setup's clocks the workers have.
    pub(crate) clocks: usize,
    pub(crate) keys: Vec<KeyState>,
    /// Deliveries so far; the position is the owner token.
    pub(crate) deliveries: Vec<Delivery>,
    /// Requests under way, in order.
    pub(crate) packets: Vec<Packet>,
    /// Which messages the queue has deleted.
    pub(crate) acknowledged: Vec<bool>,
    /// Promises that the step into this state broke.
    pub(crate) breaches: Breaches,
}

/// A key's record, and what is remembered beside it to judge by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct KeyState {
    pub(crate) record: Option<Record>,
    /// What the key was completed with.
    pub(crate) completion: Option<Completion>,
    /// The highest fencing token that was given out.
    pub(crate) attempt_max: u64,
}

/// A completion that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) fingerprint: char,
    pub(crate) result: StoredResult,
    pub(crate) retention_end_s: u64,
}

impl Hash for KeyState {
    // By hand, since a record has no hash. Of a completion the record says the rest, unless a promise is broken already.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Self { record, completion, attempt_max } = self;
        attempt_max.hash(hasher);
        completion.as_ref().map(|completion| completion.fingerprint).hash(hasher);
        let Some(record) = record else { return false.hash(hasher) };
        record.status.hash(hasher);
        record.owner.hash(hasher);
        (record.attempt, record.tries, record.lease_end_ms, record.retention_end_s).hash(hasher);
        record.fingerprint.as_ref().map(Fingerprint::as_str).hash(hasher);
        match &record.result {
            StoredResult::Kept(json) => json.hash(hasher),
            other => (*other == StoredResult::NotKept).hash(hasher),
        }
    }
}

/// One delivery of a message to a worker: one claim, one owner token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Delivery {
    pub(crate) message: usize,
    pub(crate) worker: usize,
    /// The step of the invocation's start: its deadline and lease end follow.
    pub(crate) begun: u8,
    pub(crate) phase: Phase,
    /// The step at which an effect started that may still land.
    pub(crate) effect: Option<u8>,
}

/// How far a delivery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Its claim was sent.
    Claiming { resent: bool },
    /// Its processor runs; the effect has not started.
    Running { lease_end_ms: u64 },
    /// Its effect was started; the processor waits for it.
    InEffect { lease_end_ms: u64 },
    /// Its effect has happened; the completion was sent.
    Completing { resent: bool },
    /// Over: reported, acknowledged, or the worker died.
    Gone,
}

/// A request under way to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Packet {
    pub(crate) from: usize,
    /// Whether the sender still listens for this one's answer: it is alive and has not sent it again.
    pub(crate) awaited: bool,
    pub(crate) sent: Sent,
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Sent {
    /// With the sender's clock at sending, which is what the store decides by.
    Claim {
        now_ms: u64,
    },
    Complete,
    /// Deferred to a time, or else at once.
    Release {
        until_ms: Option<u64>,
    },
}

impl State {
    pub(crate) fn send(&mut self, from: usize, awaited: bool, sent: Sent) {
        let packet = Packet { from, awaited, sent };
        let position = self.packets.binary_search(&packet).unwrap_or_else(|position| position);
        self.packets.insert(position, packet);
    }

    /// Whether the worker of a delivery is alive and busy with it.
    pub(crate) fn is_alive(&self, delivery: usize) -> bool {
        self.deliveries[delivery].phase != Phase::Gone
    }

    /// Whatever is still under way from this delivery is waited for no longer.
    pub(crate) fn stop_waiting(&mut self, delivery: usize) {
        for packet in self.packets.iter_mut().filter(|packet| packet.from == delivery) {
            packet.awaited = false;
        }
        self.packets.sort_unstable();
    }

    /// The delivery is over.
    pub(crate) fn end(&mut self, delivery: usize) {
        self.deliveries[delivery].phase = Phase::Gone;
        self.stop_waiting(delivery);
    }

    /// The delivery is over, and its key is given back.
    pub(crate) fn give_back(&mut self, delivery: usize, kind: ReleaseKind) {
        self.end(delivery);
        let until_ms = match kind {
            ReleaseKind::Now => None,
            ReleaseKind::Deferred { lease_end_ms } => Some(lease_end_ms),
        };
        self.send(delivery, false, Sent::Release { until_ms });
    }

    /// Forgets of deliveries that are over what no request and no effect can bring back.
    pub(crate) fn normalise(&mut self) {
        for index in 0..self.deliveries.len() {
            let over = self.deliveries[index].phase == Phase::Gone && self.deliveries[index].effect.is_none();
            if over && self.packets.iter().all(|packet| packet.from != index) {
                self.deliveries[index] = Delivery { message: 0, worker: 0, begun: 0, phase: Phase::Gone, effect: None };
            }
        }
    }
}
