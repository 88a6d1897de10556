//! Reads: records as they stand, in the order of the keys.

use microbatch::{
    Commit, NoWrites,
    record::{LEASE_END_RELEASED_MS, Record, Status, StoredResult},
    transition::{ClaimRequest, ReleaseKind},
};

use super::case::{Case, Checked, expect, kept};

/// As many as one call may read.
const KEYS_MAX: usize = 100;

pub(super) async fn a_record_is_read_as_it_stands<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let now_ms = case.now_ms;
    let claim = case.held().await?;
    let held = record_of(&claim, now_ms);
    expect("a claimed key", case.read(&claim.key).await?, Some(held.clone()))?;

    let until_ms = now_ms + 10;
    case.release(now_ms, &claim, ReleaseKind::Deferred { lease_end_ms: until_ms }).await?;
    let deferred = Record { lease_end_ms: Some(until_ms), ..held.clone() };
    expect("a deferred one", case.read(&claim.key).await?, Some(deferred.clone()))?;

    case.release(now_ms, &claim, ReleaseKind::Now).await?;
    let lease_end_ms = Some(LEASE_END_RELEASED_MS);
    let released = Record { owner: None, fingerprint: None, lease_end_ms, ..deferred };
    expect("a released one", case.read(&claim.key).await?, Some(released))?;

    let again = ClaimRequest { fingerprint: None, ..case.request(&claim.key) };
    case.win(now_ms, &again).await?;
    let held = Record { attempt: Some(now_ms + 1), tries: 2, ..record_of(&again, now_ms) };
    expect("one claimed again", case.read(&claim.key).await?, Some(held.clone()))?;

    for result in [StoredResult::None, StoredResult::NotKept, kept("1")] {
        let claim = case.completed(&result).await?;
        let completed = Record { status: Status::Completed, result, ..record_of(&claim, now_ms) };
        expect("a completed one", case.read(&claim.key).await?, Some(completed))?;
    }
    Ok(())
}

pub(super) async fn an_absent_key_has_no_record<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    expect("no keys", case.read_all(&[]).await?, vec![])?;
    expect("an absent key", case.read(&case.key()).await?, None)
}

pub(super) async fn records_are_read_in_order<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let mut keys = Vec::new();
    let mut expected = Vec::new();
    for nth in 0..KEYS_MAX {
        let claim = ClaimRequest { lease_end_ms: case.now_ms + nth as u64, ..case.request(&case.key()) };
        keys.push(claim.key.clone());
        let present = nth % 3 != 1;
        if present {
            case.win(case.now_ms, &claim).await?;
        }
        expected.push(present.then(|| record_of(&claim, case.now_ms)));
    }
    for count in [2, KEYS_MAX] {
        expect("the records", case.read_all(&keys[..count]).await?, expected[..count].to_vec())?;
    }
    keys.reverse();
    expected.reverse();
    expect("the records in reverse", case.read_all(&keys).await?, expected)
}

/// The record of a key that was new when it was claimed.
fn record_of(claim: &ClaimRequest, now_ms: u64) -> Record {
    Record {
        status: Status::InProgress,
        owner: Some(claim.owner.clone()),
        attempt: Some(now_ms),
        tries: 1,
        lease_end_ms: Some(claim.lease_end_ms),
        retention_end_s: claim.retention_end_s,
        fingerprint: claim.fingerprint.clone(),
        result: StoredResult::None,
    }
}
