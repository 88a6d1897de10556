//! Records that Powertools wrote: no owner, no attempt, no count of tries (rule 12).

use std::future::Future;

use microbatch::{
    Commit, Key, MemoryStore, NoWrites,
    record::{Fingerprint, Record, Status, StoredResult},
    store::StoreErrorKind,
    transition::{ClaimAnswer, ClaimRequest, Claimed, CompleteAnswer, OnLapsedLease, ReleaseAnswer, ReleaseKind},
};

use super::case::{Case, Checked, LEASE_MS, busy, claimed, expect, fingerprint, kept};

/// A record as Powertools writes it, field by field. What is none is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRecord {
    /// `status`; also a text that no peer writes.
    pub status: &'static str,
    /// `expiration`, in epoch seconds.
    pub expiration_s: u64,
    /// `in_progress_expiration`, in epoch milliseconds.
    pub in_progress_expiration_ms: Option<u64>,
    /// `data`.
    pub data: Option<PeerData>,
    /// `validation`.
    pub validation: Option<&'static str>,
}

/// A result as Powertools keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerData {
    /// JSON in a text, as in Python, Java and .NET.
    Json(&'static str),
    /// A native value of the store, as in TypeScript: a map is enough.
    Native,
}

/// Writes records past the store, as another program does that uses the same table.
pub trait RawRecords {
    /// Puts the record in the place of what the key has. False when this store cannot hold such a record at all, as one with
    /// typed fields cannot hold an unknown status: what would be checked with it is then left out.
    ///
    /// A write that fails ends the test: it panics.
    fn put(&self, key: &Key, record: &PeerRecord) -> impl Future<Output = bool>;
}

impl RawRecords for MemoryStore {
    async fn put(&self, key: &Key, record: &PeerRecord) -> bool {
        let Some(status) = Status::parse(record.status) else { return false };
        let result = match record.data {
            None => StoredResult::None,
            Some(PeerData::Json(json)) => kept(json),
            Some(PeerData::Native) => StoredResult::NotKept,
        };
        let record = Record {
            status,
            owner: None,
            attempt: None,
            tries: 0,
            lease_end_ms: record.in_progress_expiration_ms,
            retention_end_s: record.expiration_s,
            fingerprint: record.validation.map(Fingerprint::new),
            result,
        };
        self.insert(key.clone(), record);
        true
    }
}

/// The md5 that Powertools writes as `validation`, and another.
const VALIDATION: &str = "0cc175b9c0f1b6a831c399e269772661";
const OTHER_VALIDATION: &str = "92eb5ffee6ae2fec3ad71c777531578f";

impl<S: Commit<NoWrites>> Case<S> {
    /// A record as Powertools' claim leaves it, with an hour of retention, its default.
    fn in_progress(&self) -> PeerRecord {
        PeerRecord {
            status: "INPROGRESS",
            expiration_s: self.now_ms / 1_000 + 3_600,
            in_progress_expiration_ms: Some(self.now_ms + LEASE_MS),
            data: None,
            validation: None,
        }
    }

    /// A record as its completion leaves it.
    fn peer_completed(&self, data: Option<PeerData>) -> PeerRecord {
        PeerRecord { status: "COMPLETED", data, ..self.in_progress() }
    }

    /// A new key with this record; none if the store cannot hold it.
    async fn put<R: RawRecords>(&self, raw: &R, record: &PeerRecord) -> Option<Key> {
        let key = self.key();
        raw.put(&key, record).await.then_some(key)
    }
}

pub(super) async fn work_in_progress_is_busy_until_its_expiry<S: Commit<NoWrites>, R: RawRecords>(
    case: Case<S>,
    raw: &R,
) -> Checked {
    let until_ms = case.now_ms + LEASE_MS;
    for validation in [None, Some(VALIDATION)] {
        let Some(key) = case.put(raw, &PeerRecord { validation, ..case.in_progress() }).await else { continue };
        for at_ms in [case.now_ms, until_ms] {
            expect("the answer", case.ask(at_ms, &key).await?, busy(until_ms))?;
        }
    }
    Ok(())
}

pub(super) async fn work_without_an_expiry_is_busy_until_retention_ends<S: Commit<NoWrites>, R: RawRecords>(
    case: Case<S>,
    raw: &R,
) -> Checked {
    // What Powertools writes outside of Lambda, where it does not know the time left.
    let record = PeerRecord { in_progress_expiration_ms: None, ..case.in_progress() };
    let Some(key) = case.put(raw, &record).await else { return Ok(()) };
    let until_ms = record.expiration_s * 1_000;
    for at_ms in [case.now_ms, case.now_ms + LEASE_MS + 1, until_ms] {
        expect("the answer", case.ask(at_ms, &key).await?, busy(until_ms))?;
    }
    let claim = case.request_at(until_ms + 1_000, &key);
    let answer = case.claim(until_ms + 1_000, &claim).await?;
    expect("the answer then", answer, claimed(until_ms + 1_000, 1, &claim))?;
    case.expect_held(until_ms + 1_000, &claim).await
}

pub(super) async fn lapsed_work_is_taken_over<S: Commit<NoWrites>, R: RawRecords>(case: Case<S>, raw: &R) -> Checked {
    let later_ms = case.now_ms + LEASE_MS + 1;
    for (validation, incoming, compared) in [
        (None, Some("v1:same"), false),
        (Some(VALIDATION), Some("v1:same"), false),
        (Some(VALIDATION), None, false),
        (Some(VALIDATION), Some(VALIDATION), true),
        (None, None, true),
    ] {
        let Some(key) = case.put(raw, &PeerRecord { validation, ..case.in_progress() }).await else { continue };
        let fingerprint = incoming.map(fingerprint);
        let claim = ClaimRequest { fingerprint: fingerprint.clone(), ..case.request_at(later_ms, &key) };
        let expected = Claimed { attempt: later_ms, tries: 1, lease_end_ms: claim.lease_end_ms, compared };
        expect("the answer", case.claim(later_ms, &claim).await?, ClaimAnswer::Claimed(expected))?;
        case.complete(later_ms, &claim, &kept("1")).await?;
        let again = ClaimRequest { fingerprint, ..case.request_at(later_ms, &key) };
        let expected = ClaimAnswer::Duplicate { result: kept("1"), compared: true };
        expect("a duplicate's answer", case.claim(later_ms, &again).await?, expected)?;
    }
    Ok(())
}

pub(super) async fn lapsed_work_is_parked<S: Commit<NoWrites>, R: RawRecords>(case: Case<S>, raw: &R) -> Checked {
    let Some(key) = case.put(raw, &case.in_progress()).await else { return Ok(()) };
    let later_ms = case.now_ms + LEASE_MS + 1;
    let claim = ClaimRequest { on_lapsed_lease: OnLapsedLease::Park, ..case.request_at(later_ms, &key) };
    expect("the answer", case.claim(later_ms, &claim).await?, ClaimAnswer::Vanished)
}

pub(super) async fn an_expired_record_counts_as_absent<S: Commit<NoWrites>, R: RawRecords>(
    case: Case<S>,
    raw: &R,
) -> Checked {
    let in_progress = case.in_progress();
    let later_ms = (in_progress.expiration_s + 1) * 1_000;
    let completed = case.peer_completed(Some(PeerData::Json("1")));
    for record in [in_progress, PeerRecord { validation: Some(VALIDATION), ..completed }] {
        let Some(key) = case.put(raw, &record).await else { continue };
        let claim = case.request_at(later_ms, &key);
        expect("the answer", case.claim(later_ms, &claim).await?, claimed(later_ms, 1, &claim))?;
    }
    Ok(())
}

pub(super) async fn a_completed_record_is_replayed<S: Commit<NoWrites>, R: RawRecords>(
    case: Case<S>,
    raw: &R,
) -> Checked {
    let text = "{\"a\": \"\u{1F600} \\u00e9\", \"b\": 1.0}";
    for (data, result) in [(None, StoredResult::None), (Some(PeerData::Json(text)), kept(text))] {
        for in_progress_expiration_ms in [Some(case.now_ms + LEASE_MS), None] {
            let record = PeerRecord { in_progress_expiration_ms, ..case.peer_completed(data) };
            let Some(key) = case.put(raw, &record).await else { continue };
            for at_ms in [case.now_ms, case.now_ms + LEASE_MS + 1, record.expiration_s * 1_000] {
                let expected = ClaimAnswer::Duplicate { result: result.clone(), compared: false };
                expect("the answer", case.ask(at_ms, &key).await?, expected)?;
            }
        }
    }
    Ok(())
}

pub(super) async fn a_native_result_is_not_replayed<S: Commit<NoWrites>, R: RawRecords>(
    case: Case<S>,
    raw: &R,
) -> Checked {
    let Some(key) = case.put(raw, &case.peer_completed(Some(PeerData::Native))).await else { return Ok(()) };
    let expected = ClaimAnswer::Duplicate { result: StoredResult::NotKept, compared: false };
    expect("the answer", case.ask(case.now_ms, &key).await?, expected)
}

pub(super) async fn validation_is_compared<S: Commit<NoWrites>, R: RawRecords>(case: Case<S>, raw: &R) -> Checked {
    let later_ms = case.now_ms + LEASE_MS + 1;
    let completed = case.peer_completed(Some(PeerData::Json("1")));
    let duplicate = |compared| ClaimAnswer::Duplicate { result: kept("1"), compared };
    for (record, incoming, expected) in [
        (&completed, Some(VALIDATION), duplicate(true)),
        (&completed, Some(OTHER_VALIDATION), ClaimAnswer::Conflict),
        (&completed, Some("v1:same"), duplicate(false)),
        (&completed, None, duplicate(false)),
        (&case.in_progress(), Some(OTHER_VALIDATION), ClaimAnswer::Conflict),
    ] {
        let record = PeerRecord { validation: Some(VALIDATION), ..record.clone() };
        let Some(key) = case.put(raw, &record).await else { continue };
        let claim = ClaimRequest { fingerprint: incoming.map(fingerprint), ..case.request_at(later_ms, &key) };
        expect("the answer", case.claim(later_ms, &claim).await?, expected)?;
    }
    Ok(())
}

pub(super) async fn what_nobody_owns_is_not_completed_or_released<S: Commit<NoWrites>, R: RawRecords>(
    case: Case<S>,
    raw: &R,
) -> Checked {
    for (record, lost) in [
        (case.in_progress(), CompleteAnswer::Lost),
        (case.peer_completed(Some(PeerData::Json("1"))), CompleteAnswer::CompletedByOther),
    ] {
        // Ours lapsed, or was deleted by a peer, and then the peer wrote its own.
        let ours = case.held().await?;
        if !raw.put(&ours.key, &record).await {
            continue;
        }
        let before = case.ask(case.now_ms, &ours.key).await?;
        expect("the completion", case.complete(case.now_ms, &ours, &kept("22")).await?, lost)?;
        for kind in [ReleaseKind::Now, ReleaseKind::Deferred { lease_end_ms: case.now_ms }] {
            expect("the release", case.release(case.now_ms, &ours, kind).await?, ReleaseAnswer::NotHeld)?;
        }
        expect("another's answer after as before", case.ask(case.now_ms, &ours.key).await?, before)?;
    }
    Ok(())
}

pub(super) async fn a_record_is_read_as_it_stands<S: Commit<NoWrites>, R: RawRecords>(
    case: Case<S>,
    raw: &R,
) -> Checked {
    let without_expiry = PeerRecord { in_progress_expiration_ms: None, ..case.in_progress() };
    let completed = PeerRecord { validation: Some(VALIDATION), ..case.peer_completed(Some(PeerData::Json("1"))) };
    for (peer, status, result) in [
        (without_expiry, Status::InProgress, StoredResult::None),
        (completed, Status::Completed, kept("1")),
        (case.peer_completed(Some(PeerData::Native)), Status::Completed, StoredResult::NotKept),
    ] {
        let Some(key) = case.put(raw, &peer).await else { continue };
        let expected = Record {
            status,
            owner: None,
            attempt: None,
            tries: 0,
            lease_end_ms: peer.in_progress_expiration_ms,
            retention_end_s: peer.expiration_s,
            fingerprint: peer.validation.map(Fingerprint::new),
            result,
        };
        expect("the record", case.read(&key).await?, Some(expected))?;
    }
    Ok(())
}

pub(super) async fn an_unknown_status_is_an_error<S: Commit<NoWrites>, R: RawRecords>(
    case: Case<S>,
    raw: &R,
) -> Checked {
    for status in ["EXPIRED", "completed", ""] {
        let record = PeerRecord { status, ..case.peer_completed(Some(PeerData::Json("\"secret\""))) };
        let Some(key) = case.put(raw, &record).await else { continue };
        let answers = case.store.claim(case.now_ms, &[case.request(&key)]).await;
        let Some(Err(error)) = answers.first() else { return Err(format!("expected an error, found {answers:?}")) };
        expect("the error's kind", error.kind(), StoreErrorKind::Malformed)?;
        let text = error.to_string();
        if !text.contains(key.as_str()) || text.contains("secret") {
            return Err(format!("expected an error that names the key and no value, found {text}"));
        }
    }
    Ok(())
}
