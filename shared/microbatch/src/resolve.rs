//! An operator's word on a key: that its work is done, or is to be tried again. The one way past the protocol.
//!
//! What a claim, a completion and a release may do is the protocol's ([`decide`](crate::transition::decide)). It leaves two
//! things to people: work whose holder vanished under [`OnLapsedLease::Park`](crate::transition::OnLapsedLease), and a
//! completion that is known to be wrong. The decision is pure and total here as well; a store writes it on exactly the
//! record that the operator was shown.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    key::Key,
    record::{LEASE_END_RELEASED_MS, Record, Status, StoredResult},
    store::{Store, StoreError},
};

/// What the operator says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// The work is done: deliveries of it are duplicates from now on.
    Completed,
    /// The work is to be done: the next delivery runs it.
    Retry {
        /// Whether that goes for a completed key too, whose effect then happens a second time (against P3).
        undo_completed: bool,
    },
}

impl Resolution {
    /// Its name, as it stands in a [`Trace`].
    pub fn as_str(self) -> &'static str {
        match self {
            Resolution::Completed => "completed",
            Resolution::Retry { .. } => "retry",
        }
    }
}

/// Why a key is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Untouched {
    /// A claim holds it: its work may be going on this moment.
    Leased {
        /// Until when, in epoch milliseconds.
        until_ms: u64,
    },
    /// Its work is done, and to undo that was not asked for.
    Completed,
    /// It is completed already, as asked.
    AlreadyCompleted,
    /// Nothing keeps the next delivery from running it: it was given back.
    AlreadyFree,
    /// Nothing keeps the next delivery from running it: there is no record, or none that counts any more.
    NoRecord,
}

impl Untouched {
    /// Whether all is as the operator wants it. Otherwise the wish is refused.
    pub fn is_as_asked(self) -> bool {
        match self {
            Untouched::AlreadyCompleted | Untouched::AlreadyFree | Untouched::NoRecord => true,
            Untouched::Leased { .. } | Untouched::Completed => false,
        }
    }
}

/// Decides what becomes of `record` (none: the key is new) at `now_ms`: the record to write in its place, or why there is
/// nothing to write.
///
/// The number of the attempt and the count of tries stay. No owner does: a holder that comes back late meets a key that is no
/// longer its own, and changes nothing (P4).
///
/// # Errors
/// [`Untouched`], where nothing is to be written.
pub fn decide(record: Option<&Record>, to: Resolution, retention_end_s: u64, now_ms: u64) -> Result<Record, Untouched> {
    let live = record.filter(|record| !record.is_expired(now_ms));
    if let Some(leased) = live.filter(|record| record.is_leased(now_ms)) {
        let until_ms = leased.lease_end_ms.unwrap_or(leased.retention_end_s.saturating_mul(1_000));
        return Err(Untouched::Leased { until_ms });
    }
    match (to, live) {
        (Resolution::Completed, Some(live)) if live.status == Status::Completed => Err(Untouched::AlreadyCompleted),
        (Resolution::Completed, live) => Ok(completed(record, live, retention_end_s)),
        (Resolution::Retry { .. }, None) => Err(Untouched::NoRecord),
        (Resolution::Retry { .. }, Some(live)) if live.is_released() => Err(Untouched::AlreadyFree),
        (Resolution::Retry { undo_completed: false }, Some(live)) if live.status == Status::Completed => {
            Err(Untouched::Completed)
        }
        (Resolution::Retry { .. }, Some(live)) => Ok(free(live)),
    }
}

/// Of a record that does not count any more only the numbers are kept.
fn completed(record: Option<&Record>, live: Option<&Record>, retention_end_s: u64) -> Record {
    Record {
        status: Status::Completed,
        owner: None,
        attempt: record.and_then(|record| record.attempt),
        tries: record.map_or(0, |record| record.tries),
        lease_end_ms: live.and_then(|live| live.lease_end_ms),
        retention_end_s,
        fingerprint: live.and_then(|live| live.fingerprint.clone()),
        // Done, and nobody knows with what result.
        result: StoredResult::NotKept,
    }
}

/// As a release leaves it: free at once, and under every policy.
fn free(live: &Record) -> Record {
    Record {
        status: Status::InProgress,
        owner: None,
        lease_end_ms: Some(LEASE_END_RELEASED_MS),
        fingerprint: None,
        result: StoredResult::None,
        ..live.clone()
    }
}

/// Who resolved a key, when and to what: JSON text beside the record, there at least until the next claim.
///
/// ```
/// use microbatch::resolve::{Resolution, Trace};
///
/// let trace = Trace::new(Resolution::Completed, 1_764_000_000_000, "maria", None);
/// assert_eq!(trace.as_str(), r#"{"v":1,"to":"completed","at_ms":1764000000000,"by":"maria","was":"no record"}"#);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Trace(Arc<str>);

/// The parts of a [`Trace`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceParts {
    /// Version of this layout.
    pub v: u8,
    /// `completed` or `retry`.
    pub to: String,
    /// When, in epoch milliseconds.
    pub at_ms: u64,
    /// Who, by the name that was given.
    pub by: String,
    /// What the record said before.
    pub was: String,
}

impl Trace {
    /// The trace of a decision on `record`.
    pub fn new(to: Resolution, at_ms: u64, by: &str, record: Option<&Record>) -> Self {
        let was = match record {
            None => "no record".to_owned(),
            Some(record) if record.is_expired(at_ms) => "expired".to_owned(),
            Some(record) if record.is_released() => "released".to_owned(),
            Some(record) => match (record.status, record.attempt) {
                (Status::Completed, _) => "completed".to_owned(),
                (Status::InProgress, Some(attempt)) => format!("attempt {attempt} in progress"),
                (Status::InProgress, None) => "in progress".to_owned(),
            },
        };
        let parts = TraceParts { v: 1, to: to.as_str().to_owned(), at_ms, by: by.to_owned(), was };
        Self(serde_json::to_string(&parts).unwrap_or_default().into())
    }

    /// A trace with this text, as a store holds it.
    pub fn from_stored(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its parts; none where the text is not of this layout.
    pub fn parts(&self) -> Option<TraceParts> {
        serde_json::from_str(&self.0).ok()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Asks for a resolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolveRequest {
    /// The key.
    pub key: Key,
    /// The record that the operator was shown.
    pub shown: Option<Record>,
    /// What is to become of it.
    pub to: Resolution,
    /// Until when a completed record is kept, in epoch seconds.
    pub retention_end_s: u64,
    /// What is left beside the record.
    pub trace: Trace,
}

/// What a resolution is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolveAnswer {
    /// This record stands in the place of the one that was shown.
    Written(Record),
    /// There was nothing to write.
    Untouched(Untouched),
    /// The record is no longer the one that was shown. Nothing was written.
    Changed,
}

/// A store whose keys an operator can resolve.
pub trait Resolve: Store {
    /// Reads a record, and the trace beside it.
    fn read_resolved(
        &self,
        key: &Key,
    ) -> impl Future<Output = Result<Option<(Record, Option<Trace>)>, StoreError>> + Send;

    /// Does what [`decide`] says of the record that was shown, if that is still the one there.
    fn resolve(
        &self,
        now_ms: u64,
        request: &ResolveRequest,
    ) -> impl Future<Output = Result<ResolveAnswer, StoreError>> + Send;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        record::{Fingerprint, Owner},
        transition::{self, Answer, ClaimAnswer, ClaimRequest, OnLapsedLease},
    };

    const NOW_MS: u64 = 1_764_000_000_000;
    const RETENTION_END_S: u64 = NOW_MS / 1_000 + 1_000;
    const RETRY: Resolution = Resolution::Retry { undo_completed: false };
    const UNDO: Resolution = Resolution::Retry { undo_completed: true };

    fn record(status: Status, lease_end_ms: Option<u64>) -> Record {
        Record {
            status,
            owner: Some(Owner::new("o")),
            attempt: Some(7),
            tries: 2,
            lease_end_ms,
            retention_end_s: NOW_MS / 1_000 + 10,
            fingerprint: Some(Fingerprint::new("v1:a")),
            result: StoredResult::None,
        }
    }

    fn on(record: &Record, to: Resolution) -> Result<Record, Untouched> {
        decide(Some(record), to, RETENTION_END_S, NOW_MS)
    }

    #[test]
    fn a_live_lease_is_left_alone() {
        for lease_end_ms in [NOW_MS, NOW_MS + 5] {
            let leased = record(Status::InProgress, Some(lease_end_ms));
            for to in [Resolution::Completed, RETRY, UNDO] {
                assert_eq!(on(&leased, to), Err(Untouched::Leased { until_ms: lease_end_ms }));
            }
        }
        let without_end = record(Status::InProgress, None);
        let until_ms = without_end.retention_end_s * 1_000;
        assert_eq!(on(&without_end, RETRY), Err(Untouched::Leased { until_ms }));
    }

    #[test]
    fn lapsed_work_is_completed_or_given_back() {
        let lapsed = record(Status::InProgress, Some(NOW_MS - 1));
        let done = on(&lapsed, Resolution::Completed).expect("it may be");
        let expected = Record {
            status: Status::Completed,
            owner: None,
            retention_end_s: RETENTION_END_S,
            result: StoredResult::NotKept,
            ..lapsed.clone()
        };
        assert_eq!(done, expected);
        let free = on(&lapsed, RETRY).expect("it may be");
        assert!(free.is_released() && free.owner.is_none() && free.fingerprint.is_none());
        assert_eq!((free.attempt, free.tries, free.retention_end_s), (Some(7), 2, lapsed.retention_end_s));
    }

    /// P3: only who says so twice changes a completed record.
    #[test]
    fn p3_a_completed_record_stays_unless_undoing_it_is_asked_for() {
        let completed = Record { result: StoredResult::Kept("1".into()), ..record(Status::Completed, Some(1)) };
        assert_eq!(on(&completed, Resolution::Completed), Err(Untouched::AlreadyCompleted));
        assert_eq!(on(&completed, RETRY), Err(Untouched::Completed));
        let free = on(&completed, UNDO).expect("it was asked for");
        assert!(free.is_released());
        assert_eq!((free.result, free.attempt), (StoredResult::None, Some(7)));
    }

    #[test]
    fn where_there_is_no_record_only_a_completion_is_written() {
        let expired = Record { retention_end_s: NOW_MS / 1_000 - 1, ..record(Status::Completed, Some(1)) };
        for (record, attempt, tries) in [(None, None, 0), (Some(&expired), Some(7), 2)] {
            let done = decide(record, Resolution::Completed, RETENTION_END_S, NOW_MS).expect("it may be");
            assert_eq!((done.status, done.attempt, done.tries), (Status::Completed, attempt, tries));
            assert_eq!((done.owner, done.fingerprint), (None, None));
            assert_eq!(decide(record, UNDO, RETENTION_END_S, NOW_MS), Err(Untouched::NoRecord));
        }
        let released = record(Status::InProgress, Some(LEASE_END_RELEASED_MS));
        assert_eq!(on(&released, RETRY), Err(Untouched::AlreadyFree));
    }

    #[test]
    fn a_trace_is_read_back_and_says_what_was() {
        let lapsed = record(Status::InProgress, Some(NOW_MS - 1));
        let trace = Trace::new(RETRY, NOW_MS, "a \"b\"", Some(&lapsed));
        let parts = trace.parts().expect("its own text");
        assert_eq!((parts.to.as_str(), parts.by.as_str(), parts.at_ms), ("retry", "a \"b\"", NOW_MS));
        assert_eq!(parts.was, "attempt 7 in progress");
        assert_eq!(Trace::from_stored("no JSON").parts(), None);
    }

    fn records() -> impl Strategy<Value = Option<Record>> {
        let times = prop_oneof![Just(LEASE_END_RELEASED_MS), NOW_MS - 2..NOW_MS + 3, Just(u64::MAX)];
        let parts = (any::<bool>(), any::<bool>(), prop::option::of(0..9u64), 0..4u64, prop::option::of(times));
        let rest = (prop_oneof![Just(NOW_MS / 1_000 - 1), Just(NOW_MS / 1_000 + 1), Just(u64::MAX)], any::<bool>());
        prop::option::of((parts, rest).prop_map(
            |((done, owned, attempt, tries, lease_end_ms), (retention_end_s, marked))| Record {
                status: if done { Status::Completed } else { Status::InProgress },
                owner: owned.then(|| Owner::new("o")),
                attempt,
                tries,
                lease_end_ms,
                retention_end_s,
                fingerprint: marked.then(|| Fingerprint::new("v1:a")),
                result: StoredResult::None,
            },
        ))
    }

    fn asked(record: &Record, on_lapsed_lease: OnLapsedLease) -> ClaimAnswer {
        let claim = ClaimRequest {
            key: Key::from_stored("n#k"),
            owner: Owner::new("next"),
            fingerprint: None,
            lease_end_ms: NOW_MS + 30_000,
            retention_end_s: RETENTION_END_S,
            on_lapsed_lease,
        };
        match transition::decide(Some(record), (&claim).into(), NOW_MS).answer {
            Answer::Claim(answer) => answer,
            other => unreachable!("{other:?}"),
        }
    }

    proptest! {
        /// Whatever is written does what was asked, under both policies; numbers never fall, and no old holder has a say (P4).
        #[test]
        fn p4_what_is_written_does_what_was_asked(record in records(), choice in 0..3usize) {
            let to = [Resolution::Completed, RETRY, UNDO][choice];
            match decide(record.as_ref(), to, RETENTION_END_S, NOW_MS) {
                Ok(written) => {
                    prop_assert_eq!(&written.owner, &None);
                    prop_assert_eq!(written.attempt, record.as_ref().and_then(|record| record.attempt));
                    prop_assert_eq!(written.tries, record.as_ref().map_or(0, |record| record.tries));
                    for policy in [OnLapsedLease::Retry, OnLapsedLease::Park] {
                        let answer = asked(&written, policy);
                        match to {
                            Resolution::Completed => {
                                let is_duplicate = matches!(answer, ClaimAnswer::Duplicate { .. });
                                prop_assert!(is_duplicate, "{:?}", answer);
                            }
                            Resolution::Retry { .. } => {
                                let is_claimed = matches!(answer, ClaimAnswer::Claimed(_));
                                prop_assert!(is_claimed, "{:?}", answer);
                            }
                        }
                    }
                    // A second time there is nothing to do.
                    let again = decide(Some(&written), to, RETENTION_END_S, NOW_MS);
                    prop_assert!(again.is_err_and(Untouched::is_as_asked));
                }
                Err(Untouched::Leased { until_ms }) => prop_assert!(until_ms >= NOW_MS),
                Err(Untouched::Completed) => prop_assert_eq!(to, RETRY),
                Err(Untouched::AlreadyCompleted) => prop_assert_eq!(to, Resolution::Completed),
                Err(_) => prop_assert!(to != Resolution::Completed),
            }
        }
    }
}
