//! Releases and deferrals: rule 3, P4.

use microbatch::{
    Commit, NoWrites,
    transition::{ClaimAnswer, ClaimRequest, ReleaseAnswer, ReleaseKind},
};

use super::case::{Case, Checked, LEASE_MS, busy, claimed, duplicate, expect, fingerprint, kept};

pub(super) async fn a_released_key_is_free_at_once<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    // Within the lease, and by an owner whose lease is over but whose key nobody took.
    for wait_ms in [0, LEASE_MS + 1] {
        let (old, at_ms) = (case.held().await?, case.now_ms + wait_ms);
        expect("the answer", case.release(at_ms, &old, ReleaseKind::Now).await?, ReleaseAnswer::Released)?;
        let claim = case.request_at(at_ms, &old.key);
        let attempt = at_ms.max(case.now_ms + 1);
        expect("the next claim's answer", case.claim(at_ms, &claim).await?, claimed(attempt, 2, &claim))?;
    }
    Ok(())
}

pub(super) async fn a_released_record_has_no_fingerprint<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    for text in [Some("v1:other"), Some("v2:same"), None] {
        let old = case.held().await?;
        case.release(case.now_ms, &old, ReleaseKind::Now).await?;
        let claim = ClaimRequest { fingerprint: text.map(fingerprint), ..case.request(&old.key) };
        // Compared: a released record has none by design, which is not worth a count.
        expect("the answer", case.claim(case.now_ms, &claim).await?, claimed(case.now_ms + 1, 2, &claim))?;
        case.complete(case.now_ms, &claim, &kept("1")).await?;
        let again = ClaimRequest { fingerprint: claim.fingerprint.clone(), ..case.request(&old.key) };
        expect("a duplicate's answer", case.claim(case.now_ms, &again).await?, duplicate(&kept("1")))?;
    }
    Ok(())
}

pub(super) async fn a_deferred_key_is_free_later<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    let until_ms = case.now_ms + LEASE_MS / 2;
    let kind = ReleaseKind::Deferred { lease_end_ms: until_ms };
    expect("the answer", case.release(case.now_ms, &old, kind).await?, ReleaseAnswer::Released)?;
    expect("a claim before", case.ask(until_ms, &old.key).await?, busy(until_ms))?;
    // Not given back for good: what may have taken effect has that fingerprint.
    let other = ClaimRequest { fingerprint: Some(fingerprint("v1:other")), ..case.request_at(until_ms + 1, &old.key) };
    expect("another fingerprint after", case.claim(until_ms + 1, &other).await?, ClaimAnswer::Conflict)?;
    let claim = case.request_at(until_ms + 1, &old.key);
    expect("a claim after", case.claim(until_ms + 1, &claim).await?, claimed(until_ms + 1, 2, &claim))
}

pub(super) async fn a_deferral_never_makes_a_lease_longer<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let held = case.held().await?;
    for longer_ms in [0, 1, LEASE_MS] {
        let kind = ReleaseKind::Deferred { lease_end_ms: held.lease_end_ms + longer_ms };
        expect("the answer", case.release(case.now_ms, &held, kind).await?, ReleaseAnswer::Released)?;
        expect("another claim's answer", case.ask(case.now_ms, &held.key).await?, busy(held.lease_end_ms))?;
    }
    // Nor does a second one that of the first.
    let until_ms = case.now_ms + 10;
    for lease_end_ms in [until_ms, until_ms + 10] {
        let kind = ReleaseKind::Deferred { lease_end_ms };
        expect("the answer", case.release(case.now_ms, &held, kind).await?, ReleaseAnswer::Released)?;
        expect("another claim's answer", case.ask(case.now_ms, &held.key).await?, busy(until_ms))?;
    }
    let taker = case.request_at(until_ms + 1, &held.key);
    expect("a claim after it", case.claim(until_ms + 1, &taker).await?, claimed(until_ms + 1, 2, &taker))
}

pub(super) async fn a_deferral_may_end_the_lease_at_once<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    let kind = ReleaseKind::Deferred { lease_end_ms: case.now_ms - 1 };
    expect("the answer", case.release(case.now_ms, &old, kind).await?, ReleaseAnswer::Released)?;
    let claim = case.request(&old.key);
    expect("the next claim's answer", case.claim(case.now_ms, &claim).await?, claimed(case.now_ms + 1, 2, &claim))
}

/// Each way to give a key back, at a time within the lease of the case's claims.
fn kinds(now_ms: u64) -> [ReleaseKind; 3] {
    [
        ReleaseKind::Now,
        ReleaseKind::Deferred { lease_end_ms: now_ms },
        ReleaseKind::Deferred { lease_end_ms: u64::MAX >> 12 },
    ]
}

pub(super) async fn a_stale_owner_releases_nothing<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let held = case.held().await?;
    let stranger = case.request(&held.key);
    for kind in kinds(case.now_ms) {
        expect("the answer", case.release(case.now_ms, &stranger, kind).await?, ReleaseAnswer::NotHeld)?;
    }
    case.expect_held(case.now_ms, &held).await
}

pub(super) async fn a_completed_key_is_not_released<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let done = case.completed(&kept("1")).await?;
    for kind in kinds(case.now_ms) {
        expect("the answer", case.release(case.now_ms, &done, kind).await?, ReleaseAnswer::NotHeld)?;
        expect("a duplicate's answer", case.ask(case.now_ms, &done.key).await?, duplicate(&kept("1")))?;
    }
    Ok(())
}

pub(super) async fn a_taken_over_key_is_not_released<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    let later_ms = old.lease_end_ms + 1;
    let taker = case.request_at(later_ms, &old.key);
    case.win(later_ms, &taker).await?;
    for kind in kinds(later_ms) {
        expect("the answer", case.release(later_ms, &old, kind).await?, ReleaseAnswer::NotHeld)?;
    }
    case.expect_held(later_ms, &taker).await
}

pub(super) async fn an_absent_key_is_not_released<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let claim = case.request(&case.key());
    for kind in kinds(case.now_ms) {
        expect("the answer", case.release(case.now_ms, &claim, kind).await?, ReleaseAnswer::NotHeld)?;
    }
    case.expect_absent(case.now_ms, &claim.key).await
}

pub(super) async fn a_release_sent_again_does_no_harm<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    expect("the release", case.release(case.now_ms, &old, ReleaseKind::Now).await?, ReleaseAnswer::Released)?;
    // A released record names no owner: the same release cannot be told from a stranger's.
    expect("the same again", case.release(case.now_ms, &old, ReleaseKind::Now).await?, ReleaseAnswer::NotHeld)?;
    let claim = case.request(&old.key);
    expect("the next claim's answer", case.claim(case.now_ms, &claim).await?, claimed(case.now_ms + 1, 2, &claim))?;
    for kind in kinds(case.now_ms) {
        expect("the same, late", case.release(case.now_ms, &old, kind).await?, ReleaseAnswer::NotHeld)?;
    }
    case.expect_held(case.now_ms, &claim).await
}

pub(super) async fn the_attempt_survives_a_release<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let key = case.key();
    let behind_ms = case.now_ms - 5_000;
    for (at_ms, attempt) in [(case.now_ms, case.now_ms), (behind_ms, case.now_ms + 1), (behind_ms, case.now_ms + 2)] {
        let claim = case.request_at(at_ms, &key);
        expect("the attempt", case.win(at_ms, &claim).await?.attempt, attempt)?;
        case.release(at_ms, &claim, ReleaseKind::Now).await?;
    }
    Ok(())
}
