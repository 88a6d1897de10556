//! Compares each step with the promises. It reads the record before and after a step, never the code under test.

use microbatch::{
    record::{LEASE_END_RELEASED_MS, Record, Status, StoredResult},
    transition::{Answer, ClaimAnswer, CompleteAnswer, Decision, OnLapsedLease, ReleaseKind, Request},
};

use crate::{
    model::{Check, Message},
    properties::{Broken, Seen},
    state::{Completion, Packet, Phase, STEP_MS, Sent, State, host_ms},
};

/// One step of the store, as it was seen from outside.
pub(crate) struct Step<'a> {
    pub(crate) packet: Packet,
    pub(crate) before: Option<&'a Record>,
    pub(crate) write: Option<&'a Record>,
    pub(crate) answer: &'a Answer,
}

impl Step<'_> {
    /// The record after the step.
    fn after(&self) -> Option<&Record> {
        self.write.or(self.before)
    }

    fn changes(&self) -> bool {
        self.write.is_some() && self.write != self.before
    }
}

/// Judges a step of the store, and remembers what later ones are judged by.
pub(crate) fn judge_step(check: &Check, state: &mut State, step: &Step<'_>) {
    let owner = check.owner(step.packet.from);
    let held = step.before.is_some_and(|record| record.owner.as_ref() == Some(owner));
    let completed = step.before.filter(|record| record.status == Status::Completed);
    if completed.is_some_and(|record| is_retained(record, state)) && step.changes() {
        state.breaches.add(Broken::CompletedChanged);
    }
    if let Some(record) = step.write {
        probe(check, state, record);
    }
    match (step.packet.sent, step.answer) {
        (Sent::Claim { now_ms }, Answer::Claim(answer)) => judge_claim(check, state, step, answer, now_ms),
        (Sent::Claim { .. }, other) => unreachable!("a claim was answered by {other:?}"),
        (_, answer) => {
            if !held && step.changes() {
                state.breaches.add(Broken::StaleOwnerChanged);
            }
            judge_end(check, state, step, answer, held);
        }
    }
}

/// Whether a record counts on every clock: one that is ahead ends a retention early.
fn is_retained(record: &Record, state: &State) -> bool {
    record.retention_end_s > host_ms(state.now) / 1_000 + 1
}

/// Asks a new record for what nobody may be granted. It stands until it is written again, so that this covers every
/// request that may ever reach it.
fn probe(check: &Check, state: &mut State, record: &Record) {
    let now_ms = host_ms(state.now);
    let changes = |request: Request<'_>| {
        let Decision { write, .. } = (check.decide)(Some(record), request, now_ms);
        write.is_some_and(|write| write != *record)
    };
    let completed = record.status == Status::Completed && is_retained(record, state);
    for owner in check.owners() {
        let deferred = ReleaseKind::Deferred { lease_end_ms: LEASE_END_RELEASED_MS + 1 };
        let ends = [
            Request::Complete { owner, result: &StoredResult::NotKept, retention_end_s: record.retention_end_s + 1 },
            Request::Release { owner, kind: ReleaseKind::Now },
            Request::Release { owner, kind: deferred },
        ];
        let ended = ends.into_iter().any(changes);
        if ended && record.owner.as_ref() != Some(owner) {
            state.breaches.add(Broken::StaleOwnerChanged);
        }
        let claims = |message: &Message| {
            let claim = check.claim(owner, *message, now_ms + STEP_MS, record.retention_end_s + 1);
            changes((&claim).into())
        };
        let claimed = || check.setup.messages.iter().any(claims);
        if completed && (ended || claimed()) {
            state.breaches.add(Broken::CompletedChanged);
        }
    }
}

fn judge_end(check: &Check, state: &mut State, step: &Step<'_>, answer: &Answer, held: bool) {
    let message = check.message(state, step.packet.from);
    let alive = state.is_alive(step.packet.from);
    if !held && step.before.is_some() {
        check.sightings.add(Seen::StaleOwnerRefused);
    }
    match answer {
        Answer::Complete(CompleteAnswer::Completed) if step.write.is_none() => {
            check.sightings.add(Seen::CompletedTwice);
        }
        Answer::Complete(CompleteAnswer::Completed) if !alive => check.sightings.add(Seen::CompletedAfterDeath),
        Answer::Complete(CompleteAnswer::CompletedByOther) if alive => check.sightings.add(Seen::EffectAfterLostLease),
        Answer::Complete(CompleteAnswer::Lost) if alive => check.sightings.add(Seen::LeaseLost),
        _ => {}
    }
    if matches!(step.packet.sent, Sent::Release { until_ms: Some(_) }) && step.changes() {
        check.sightings.add(Seen::LeaseDeferred);
    }
    let Some(record) = step.write.filter(|record| record.status == Status::Completed) else { return };
    state.keys[message.key].completion.get_or_insert_with(|| Completion {
        fingerprint: message.fingerprint,
        result: record.result.clone(),
        retention_end_s: record.retention_end_s,
    });
}

fn judge_claim(check: &Check, state: &mut State, step: &Step<'_>, answer: &ClaimAnswer, now_ms: u64) {
    let message = check.message(state, step.packet.from);
    let own = check.owner(step.packet.from);
    let in_progress = step.before.filter(|record| record.status == Status::InProgress);
    let claimed = matches!(answer, ClaimAnswer::Claimed(_));
    if in_progress.is_some_and(|record| record.owner.as_ref() == Some(own)) {
        if claimed {
            check.sightings.add(Seen::OwnWriteMet);
        } else {
            state.breaches.add(Broken::OwnWriteRefused);
        }
    } else if is_free(check, step, now_ms, message.fingerprint) && !claimed {
        state.breaches.add(Broken::FreeKeyRefused);
    }
    match answer {
        ClaimAnswer::Claimed(told) => {
            let record = step.after().expect("a claim that was won left a record");
            if (Some(told.attempt), Some(told.lease_end_ms)) != (record.attempt, record.lease_end_ms) {
                state.breaches.add(Broken::WrongToken);
            }
            if step.changes() {
                if !state.is_alive(step.packet.from) {
                    check.sightings.add(Seen::LateClaimTook);
                }
                judge_takeover(check, state, step, now_ms);
            }
        }
        ClaimAnswer::Duplicate { result, .. } => {
            check.sightings.add(Seen::Duplicate);
            judge_replay(state, message.key, result);
        }
        ClaimAnswer::Conflict => check.sightings.add(Seen::Conflict),
        ClaimAnswer::Busy { until_ms } => {
            let lapsed = in_progress.is_none_or(|record| record.lease_end_ms.is_some_and(|end_ms| end_ms < now_ms));
            check.sightings.add(Seen::Busy);
            if lapsed || *until_ms < now_ms {
                state.breaches.add(Broken::FreeKeyRefused);
            }
        }
        ClaimAnswer::Vanished => check.sightings.add(Seen::Vanished),
    }
}

/// Whether a claim must be granted (rule 1).
fn is_free(check: &Check, step: &Step<'_>, now_ms: u64, fingerprint: char) -> bool {
    let Some(record) = step.before else { return true };
    if record.retention_end_s < now_ms / 1_000 {
        return true;
    }
    let Some(lease_end_ms) = record.lease_end_ms else { return false };
    if record.status == Status::Completed {
        return false;
    }
    let same = record.fingerprint.as_ref() == Some(check.fingerprint(fingerprint));
    let retried = check.believed.on_lapsed_lease == OnLapsedLease::Retry;
    lease_end_ms == LEASE_END_RELEASED_MS || (lease_end_ms < now_ms && same && retried)
}

fn judge_replay(state: &mut State, key: usize, replayed: &StoredResult) {
    let identical = state.keys[key].completion.as_ref().is_some_and(|completion| completion.result == *replayed);
    if !identical {
        state.breaches.add(Broken::WrongReplay);
    }
}

/// Judges a claim that took the key.
fn judge_takeover(check: &Check, state: &mut State, step: &Step<'_>, now_ms: u64) {
    let message = check.message(state, step.packet.from);
    let key = &mut state.keys[message.key];
    let attempt = step.write.and_then(|record| record.attempt).unwrap_or_default();
    if attempt <= key.attempt_max {
        state.breaches.add(Broken::AttemptNotRaised);
    }
    key.attempt_max = key.attempt_max.max(attempt);
    let Some(before) = step.before else { return };
    let other = before.fingerprint.as_ref().is_some_and(|found| found != check.fingerprint(message.fingerprint));
    if before.retention_end_s < now_ms / 1_000 {
        key.completion = None;
        check.sightings.add(Seen::ExpiredTaken);
    } else if before.lease_end_ms == Some(LEASE_END_RELEASED_MS) {
        check.sightings.add(Seen::ReleasedTaken);
    } else if before.status == Status::InProgress {
        check.sightings.add(Seen::LapsedTaken);
        if other {
            state.breaches.add(Broken::LapsedTakenByOtherFingerprint);
        }
        if check.believed.on_lapsed_lease == OnLapsedLease::Park {
            state.breaches.add(Broken::VanishedRanAgain);
        }
    }
}

/// Judges the start of a delivery's effect.
pub(crate) fn judge_effect(check: &Check, state: &mut State, delivery: usize) {
    let message = check.message(state, delivery);
    let key = &state.keys[message.key];
    let mut breaches = state.breaches;
    let others = (0..state.deliveries.len()).filter(|&other| other != delivery);
    for other in others {
        if state.deliveries[other].effect.is_some() && check.message(state, other).key == message.key {
            breaches.add(Broken::EffectsOverlap);
        }
    }
    let foreign = key.record.as_ref().filter(|record| {
        record.status == Status::InProgress
            && record.owner.as_ref().is_some_and(|owner| owner != check.owner(delivery))
            && record.lease_end_ms.is_some_and(|end_ms| end_ms >= host_ms(state.now))
    });
    if foreign.is_some() {
        breaches.add(Broken::EffectUnderAnothersLease);
    }
    if let Some(completion) = &key.completion
        && completion.retention_end_s >= host_ms(state.now) / 1_000
    {
        let same = completion.fingerprint == message.fingerprint;
        breaches.add(if same { Broken::CompletedRanAgain } else { Broken::OtherFingerprintRan });
    }
    state.breaches = breaches;
}

/// Notes what a death shows.
pub(crate) fn judge_death(check: &Check, state: &State, delivery: usize) {
    if matches!(state.deliveries[delivery].phase, Phase::Completing { .. }) {
        check.sightings.add(Seen::DiedAfterEffect);
    }
}

/// Judges the deletion of a delivery's message from the queue.
pub(crate) fn judge_acknowledgement(check: &Check, state: &mut State, delivery: usize) {
    let message = check.message(state, delivery);
    let key = &state.keys[message.key];
    let completed = key.record.as_ref().is_some_and(|record| record.status == Status::Completed);
    match &key.completion {
        Some(completion) if completed && completion.fingerprint == message.fingerprint => {}
        Some(_) if completed => state.breaches.add(Broken::AcknowledgedForOther),
        _ => state.breaches.add(Broken::AcknowledgedUndone),
    }
}
