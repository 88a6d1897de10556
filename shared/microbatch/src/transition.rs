//! The idempotency protocol as one pure, total function: what a request does to a record, and what it is told.
//!
//! Every store obeys [`decide`]: the memory store applies it under a lock, a database applies it by a write that is
//! conditional on the record being the one the decision was made on.

use std::fmt;

use crate::{
    key::Key,
    processor::WriteRefused,
    record::{Comparison, Fingerprint, LEASE_END_RELEASED_MS, Owner, Record, Status, StoredResult, compare},
};

/// Asks to own a key for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The key.
    pub key: Key,
    /// The token of this claim.
    pub owner: Owner,
    /// Digest of what must not differ.
    pub fingerprint: Option<Fingerprint>,
    /// Until when the claim excludes others, in epoch milliseconds.
    pub lease_end_ms: u64,
    /// Until when the record is kept, in epoch seconds.
    pub retention_end_s: u64,
    /// What to do with work whose holder vanished.
    pub on_lapsed_lease: OnLapsedLease,
}

/// Says that the work of a key is done.
#[derive(Clone, PartialEq, Eq)]
pub struct CompleteRequest<W> {
    /// The key.
    pub key: Key,
    /// The claim that did the work.
    pub owner: Owner,
    /// The result to replay to duplicates.
    pub result: StoredResult,
    /// Until when the record is kept, in epoch seconds.
    pub retention_end_s: u64,
    /// Writes to commit together with the completion.
    pub writes: Vec<W>,
}

impl<W> fmt::Debug for CompleteRequest<W> {
    // The writes are the user's data (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompleteRequest")
            .field("key", &self.key)
            .field("owner", &self.owner)
            .field("result", &self.result)
            .field("writes", &self.writes.len())
            .finish_non_exhaustive()
    }
}

/// Gives a key back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseRequest {
    /// The key.
    pub key: Key,
    /// The claim that gives it back.
    pub owner: Owner,
    /// Whether at once or later.
    pub kind: ReleaseKind,
}

/// How a key is given back (rule 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReleaseKind {
    /// Others may try at once: the processor never started, or returned by itself.
    Now,
    /// Others may try from this time on, in epoch milliseconds: the processor was cancelled, timed out or panicked and
    /// may have a request in flight. Never makes a lease longer.
    Deferred {
        /// The new lease end.
        lease_end_ms: u64,
    },
}

/// What becomes of a key whose holder let its lease lapse without giving it back (rule 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnLapsedLease {
    /// The next claim takes it over and runs the work again.
    #[default]
    Retry,
    /// It is never run again by itself: an operator resolves it.
    Park,
}

/// A request to the record of a key.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// To own it.
    Claim(&'a ClaimRequest),
    /// To say it is done; the writes are the store's concern.
    Complete {
        /// The claim that did the work.
        owner: &'a Owner,
        /// The result to keep.
        result: &'a StoredResult,
        /// Until when the record is kept, in epoch seconds.
        retention_end_s: u64,
    },
    /// To give it back.
    Release {
        /// The claim that gives it back.
        owner: &'a Owner,
        /// At once or later.
        kind: ReleaseKind,
    },
}

impl<'a, W> From<&'a CompleteRequest<W>> for Request<'a> {
    fn from(request: &'a CompleteRequest<W>) -> Self {
        let CompleteRequest { owner, result, retention_end_s, .. } = request;
        Request::Complete { owner, result, retention_end_s: *retention_end_s }
    }
}

impl<'a> From<&'a ReleaseRequest> for Request<'a> {
    fn from(request: &'a ReleaseRequest) -> Self {
        Request::Release { owner: &request.owner, kind: request.kind }
    }
}

impl<'a> From<&'a ClaimRequest> for Request<'a> {
    fn from(request: &'a ClaimRequest) -> Self {
        Request::Claim(request)
    }
}

/// What a claim is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimAnswer {
    /// The key is held by this claim.
    Claimed(Claimed),
    /// The work is done; its result is replayed.
    Duplicate {
        /// The stored result.
        result: StoredResult,
        /// False when one of the two fingerprints was missing or of another scheme.
        compared: bool,
    },
    /// The key was used for something else: the fingerprints differ.
    Conflict,
    /// Another claim holds the key.
    Busy {
        /// Until when, in epoch milliseconds, at the latest.
        until_ms: u64,
    },
    /// Its holder vanished, and the policy is not to run such work again.
    Vanished,
}

/// What is known of a claim that was won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimed {
    /// The fencing token.
    pub attempt: u64,
    /// How many claims the record has seen, this one included.
    pub tries: u64,
    /// Until when the claim excludes others, in epoch milliseconds.
    pub lease_end_ms: u64,
    /// False when it was taken over from a record whose fingerprint was missing or of another scheme.
    pub compared: bool,
}

/// What a completion is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompleteAnswer {
    /// The record is Completed by this claim, now or by an earlier try of the same request.
    Completed,
    /// Another claim completed the key after this one's lease had lapsed. Whether it was for the same content is not asked:
    /// this claim's effect has happened either way (rule 4).
    CompletedByOther,
    /// The key is no longer this claim's, and nobody has completed it.
    Lost,
    /// A write of the processor's was refused: nothing was written, and the key is still this claim's.
    WriteRefused(WriteRefused),
}

/// What a release is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReleaseAnswer {
    /// The key is given back; or it was deferred this far already.
    Released,
    /// The key was not this claim's to give back: nothing changed. So is told the second of two equal releases, since a
    /// released record names no owner.
    NotHeld,
}

/// What a request is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Answer to a claim.
    Claim(ClaimAnswer),
    /// Answer to a completion.
    Complete(CompleteAnswer),
    /// Answer to a release.
    Release(ReleaseAnswer),
}

/// The outcome of [`decide`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The record to write in place of the old one, if it changes.
    pub write: Option<Record>,
    /// What the request is told once that write has happened.
    pub answer: Answer,
}

impl Decision {
    fn tell(answer: Answer) -> Self {
        Self { write: None, answer }
    }

    fn write(record: Record, answer: Answer) -> Self {
        Self { write: Some(record), answer }
    }
}

/// Decides what `request` does to `record` (none: the key is new) at `now_ms`.
pub fn decide(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    match request {
        Request::Claim(claim) => decide_claim(record, claim, now_ms),
        Request::Complete { owner, result, retention_end_s } => {
            decide_complete(record, owner, result, retention_end_s, now_ms)
        }
        Request::Release { owner, kind } => decide_release(record, owner, kind),
    }
}

fn decide_claim(record: Option<&Record>, claim: &ClaimRequest, now_ms: u64) -> Decision {
    let Some(record) = record else { return take(None, claim, now_ms) };
    // Before expiry: an own write met again is the claim, however late the answer.
    if record.owner.as_ref() == Some(&claim.owner) && record.status == Status::InProgress {
        return Decision::tell(Answer::Claim(ClaimAnswer::Claimed(Claimed {
            attempt: record.attempt.unwrap_or_default(),
            tries: record.tries,
            lease_end_ms: record.lease_end_ms.unwrap_or_default(),
            compared: true,
        })));
    }
    if record.is_expired(now_ms) {
        return take(Some(record), claim, now_ms);
    }
    let comparison = compare(record.fingerprint.as_ref(), claim.fingerprint.as_ref());
    let answer = match record.status {
        Status::Completed if comparison == Comparison::Different => ClaimAnswer::Conflict,
        Status::Completed => {
            ClaimAnswer::Duplicate { result: record.result.clone(), compared: comparison != Comparison::NotComparable }
        }
        Status::InProgress if record.is_leased(now_ms) => ClaimAnswer::Busy { until_ms: busy_until_ms(record) },
        Status::InProgress if comparison == Comparison::Different => ClaimAnswer::Conflict,
        Status::InProgress if !record.is_released() && claim.on_lapsed_lease == OnLapsedLease::Park => {
            ClaimAnswer::Vanished
        }
        Status::InProgress => return take(Some(record), claim, now_ms),
    };
    Decision::tell(Answer::Claim(answer))
}

fn take(old: Option<&Record>, claim: &ClaimRequest, now_ms: u64) -> Decision {
    // At least the time: the number keeps rising when the store forgets the record by itself (rule 1).
    let attempt = old.and_then(|record| record.attempt).map_or(now_ms, |attempt| now_ms.max(attempt.saturating_add(1)));
    let tries = old.map_or(0, |record| record.tries).saturating_add(1);
    // An expired record counts as absent, and a released one has no fingerprint by design.
    let compared = old.is_none_or(|old| {
        old.is_expired(now_ms)
            || old.is_released()
            || compare(old.fingerprint.as_ref(), claim.fingerprint.as_ref()) != Comparison::NotComparable
    });
    let record = Record {
        status: Status::InProgress,
        owner: Some(claim.owner.clone()),
        attempt: Some(attempt),
        tries,
        lease_end_ms: Some(claim.lease_end_ms),
        retention_end_s: claim.retention_end_s,
        fingerprint: claim.fingerprint.clone(),
        result: StoredResult::None,
    };
    let claimed = Claimed { attempt, tries, lease_end_ms: claim.lease_end_ms, compared };
    Decision::write(record, Answer::Claim(ClaimAnswer::Claimed(claimed)))
}

/// What the record of the key that an earlier version made of an item says about a claim of its new key, which is held
/// already (rule 15). None: nothing stands in the way.
///
/// Two versions that each have the other's key as their previous one claim their own key first and then look at the other's.
/// Whichever looks last sees the other's claim, so that no two of them run; both may find the other busy, and the queue
/// delivers again. A version that does not know the new key looks at nothing: it must not run beside the new one.
pub fn judge_previous(
    record: Option<&Record>,
    fingerprint: Option<&Fingerprint>,
    on_lapsed_lease: OnLapsedLease,
    now_ms: u64,
) -> Option<ClaimAnswer> {
    let record = record.filter(|record| !record.is_expired(now_ms))?;
    let comparison = compare(record.fingerprint.as_ref(), fingerprint);
    match record.status {
        Status::Completed if comparison == Comparison::Different => Some(ClaimAnswer::Conflict),
        Status::Completed => Some(ClaimAnswer::Duplicate {
            result: record.result.clone(),
            compared: comparison != Comparison::NotComparable,
        }),
        Status::InProgress if record.is_leased(now_ms) => Some(ClaimAnswer::Busy { until_ms: busy_until_ms(record) }),
        Status::InProgress if comparison == Comparison::Different => Some(ClaimAnswer::Conflict),
        Status::InProgress if !record.is_released() && on_lapsed_lease == OnLapsedLease::Park => {
            Some(ClaimAnswer::Vanished)
        }
        Status::InProgress => None,
    }
}

/// A lease without an end lasts as long as the record does.
fn busy_until_ms(record: &Record) -> u64 {
    record.lease_end_ms.unwrap_or(record.retention_end_s.saturating_mul(1_000))
}

fn decide_complete(
    record: Option<&Record>,
    owner: &Owner,
    result: &StoredResult,
    retention_end_s: u64,
    now_ms: u64,
) -> Decision {
    let answer = match record {
        Some(record) if record.owner.as_ref() == Some(owner) => {
            if record.status == Status::InProgress {
                let completed =
                    Record { status: Status::Completed, result: result.clone(), retention_end_s, ..record.clone() };
                return Decision::write(completed, Answer::Complete(CompleteAnswer::Completed));
            }
            CompleteAnswer::Completed
        }
        Some(record) if record.status == Status::Completed && !record.is_expired(now_ms) => {
            CompleteAnswer::CompletedByOther
        }
        _ => CompleteAnswer::Lost,
    };
    Decision::tell(Answer::Complete(answer))
}

fn decide_release(record: Option<&Record>, owner: &Owner, kind: ReleaseKind) -> Decision {
    let held = record.filter(|record| record.owner.as_ref() == Some(owner) && record.status == Status::InProgress);
    let Some(record) = held else { return Decision::tell(Answer::Release(ReleaseAnswer::NotHeld)) };
    let released = Answer::Release(ReleaseAnswer::Released);
    match kind {
        ReleaseKind::Now => Decision::write(
            Record { owner: None, fingerprint: None, lease_end_ms: Some(LEASE_END_RELEASED_MS), ..record.clone() },
            released,
        ),
        ReleaseKind::Deferred { lease_end_ms } if record.lease_end_ms.is_some_and(|end_ms| end_ms <= lease_end_ms) => {
            Decision::tell(released)
        }
        ReleaseKind::Deferred { lease_end_ms } => {
            Decision::write(Record { lease_end_ms: Some(lease_end_ms), ..record.clone() }, released)
        }
    }
}
