//! Claims: rules 1, 2, 6, 8, 9 and 10.

use microbatch::{
    Commit, NoWrites,
    record::StoredResult,
    transition::{ClaimAnswer, ClaimRequest, Claimed, CompleteAnswer, OnLapsedLease, ReleaseAnswer, ReleaseKind},
};

use super::case::{Case, Checked, LEASE_MS, RETENTION_S, busy, claimed, duplicate, expect, fingerprint, kept};

/// The fingerprints that a case's record and claim may have without being comparable.
const NOT_COMPARABLE: [(Option<&str>, Option<&str>); 4] = [
    (Some("v1:same"), None),
    (None, Some("v1:same")),
    (Some("v1:same"), Some("v2:same")),
    (Some("abc"), Some("v1:abc")),
];

pub(super) async fn an_absent_key_is_taken<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    for text in [None, Some("v1:same"), Some("0cc175b9c0f1b6a831c399e269772661")] {
        let key = case.key();
        let claim = ClaimRequest { fingerprint: text.map(fingerprint), ..case.request(&key) };
        let answer = case.claim(case.now_ms, &claim).await?;
        expect("the answer", answer, claimed(case.now_ms, 1, &claim))?;
        expect("another claim's answer", case.ask(case.now_ms, &key).await?, busy(claim.lease_end_ms))?;
    }
    Ok(())
}

pub(super) async fn an_expired_record_counts_as_absent<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let olds = [case.held().await?, case.completed(&kept("\"old\"")).await?];
    for key in olds.map(|old| old.key) {
        // Each round finds the record of the one before, whose retention is over.
        let mut last = None;
        for (round, text) in (1..).zip([Some("v1:same"), Some("v1:other"), Some("v2:same"), None]) {
            let at_ms = case.now_ms + round * (RETENTION_S + 1) * 1_000;
            let claim = ClaimRequest { fingerprint: text.map(fingerprint), ..case.request_at(at_ms, &key) };
            expect("the answer", case.claim(at_ms, &claim).await?, claimed(at_ms, round + 1, &claim))?;
            last = Some((at_ms, claim));
        }
        let Some((at_ms, claim)) = last else { continue };
        let answer = case.complete(at_ms, &claim, &StoredResult::None).await?;
        expect("the completion", answer, CompleteAnswer::Completed)?;
        let again = ClaimRequest { fingerprint: None, ..case.request_at(at_ms, &key) };
        expect("a duplicate's answer", case.claim(at_ms, &again).await?, duplicate(&StoredResult::None))?;
    }
    Ok(())
}

pub(super) async fn retention_ends_after_its_last_second<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let result = kept("1");
    let claim = case.completed(&result).await?;
    let last_ms = claim.retention_end_s * 1_000 + 999;
    expect("the answer in the last second", case.ask(last_ms, &claim.key).await?, duplicate(&result))?;
    let claim = case.request_at(last_ms + 1, &claim.key);
    let answer = case.claim(last_ms + 1, &claim).await?;
    expect("the answer after the last second", answer, claimed(last_ms + 1, 2, &claim))
}

pub(super) async fn a_released_key_is_taken_at_once<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    expect("the release", case.release(case.now_ms, &old, ReleaseKind::Now).await?, ReleaseAnswer::Released)?;
    let claim = case.request(&old.key);
    let answer = case.claim(case.now_ms, &claim).await?;
    expect("the answer", answer, claimed(case.now_ms + 1, 2, &claim))?;
    case.expect_held(case.now_ms, &claim).await
}

pub(super) async fn a_lapsed_lease_is_taken_over<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    for text in [Some("v1:same"), None] {
        let key = case.key();
        let with = |claim| ClaimRequest { fingerprint: text.map(fingerprint), ..claim };
        case.win(case.now_ms, &with(case.request(&key))).await?;
        let later_ms = case.now_ms + LEASE_MS + 1;
        let claim = with(case.request_at(later_ms, &key));
        expect("the answer", case.claim(later_ms, &claim).await?, claimed(later_ms, 2, &claim))?;
        case.expect_held(later_ms, &claim).await?;
    }
    Ok(())
}

pub(super) async fn a_lease_includes_its_last_millisecond<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    let end_ms = old.lease_end_ms;
    expect("the answer at the lease's end", case.ask(end_ms, &old.key).await?, busy(end_ms))?;
    let claim = case.request_at(end_ms + 1, &old.key);
    expect("the answer after it", case.claim(end_ms + 1, &claim).await?, claimed(end_ms + 1, 2, &claim))
}

pub(super) async fn a_lapsed_lease_of_another_fingerprint_is_a_conflict<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    let later_ms = case.now_ms + LEASE_MS + 1;
    for on_lapsed_lease in [OnLapsedLease::Retry, OnLapsedLease::Park] {
        let fingerprint = Some(fingerprint("v1:other"));
        let other = ClaimRequest { fingerprint, on_lapsed_lease, ..case.request_at(later_ms, &old.key) };
        expect("the answer", case.claim(later_ms, &other).await?, ClaimAnswer::Conflict)?;
    }
    // Nothing changed: the key is still the old holder's, and of the old fingerprint.
    let answer = case.complete(later_ms, &old, &kept("1")).await?;
    expect("the old holder's completion", answer, CompleteAnswer::Completed)?;
    expect("a duplicate's answer", case.ask(later_ms, &old.key).await?, duplicate(&kept("1")))
}

pub(super) async fn a_lapsed_lease_is_taken_over_when_fingerprints_do_not_compare<S: Commit<NoWrites>>(
    case: Case<S>,
) -> Checked {
    for (stored, incoming) in NOT_COMPARABLE {
        let key = case.key();
        let old = ClaimRequest { fingerprint: stored.map(fingerprint), ..case.request(&key) };
        case.win(case.now_ms, &old).await?;
        let later_ms = case.now_ms + LEASE_MS + 1;
        let incoming = incoming.map(fingerprint);
        let claim = ClaimRequest { fingerprint: incoming.clone(), ..case.request_at(later_ms, &key) };
        let expected = Claimed { attempt: later_ms, tries: 2, lease_end_ms: claim.lease_end_ms, compared: false };
        expect("the answer", case.claim(later_ms, &claim).await?, ClaimAnswer::Claimed(expected))?;
        // The record has the new fingerprint now.
        case.complete(later_ms, &claim, &StoredResult::None).await?;
        let again = ClaimRequest { fingerprint: incoming, ..case.request_at(later_ms, &key) };
        expect("a duplicate's answer", case.claim(later_ms, &again).await?, duplicate(&StoredResult::None))?;
    }
    Ok(())
}

pub(super) async fn a_live_lease_is_busy_for_everybody<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    for text in [Some("v1:same"), Some("v1:other"), Some("v2:same"), None] {
        for on_lapsed_lease in [OnLapsedLease::Retry, OnLapsedLease::Park] {
            let fingerprint = text.map(fingerprint);
            let claim = ClaimRequest { fingerprint, on_lapsed_lease, ..case.request(&old.key) };
            expect("the answer", case.claim(case.now_ms, &claim).await?, busy(old.lease_end_ms))?;
        }
    }
    Ok(())
}

pub(super) async fn a_refused_claim_changes_nothing<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let held = case.held().await?;
    let refused = ClaimRequest { lease_end_ms: held.lease_end_ms + LEASE_MS, ..case.request(&held.key) };
    expect("the refused claim's answer", case.claim(case.now_ms, &refused).await?, busy(held.lease_end_ms))?;
    let answer = case.complete(case.now_ms, &refused, &kept("2")).await?;
    expect("the refused claim's completion", answer, CompleteAnswer::Lost)?;
    let answer = case.release(case.now_ms, &refused, ReleaseKind::Now).await?;
    expect("the refused claim's release", answer, ReleaseAnswer::NotHeld)?;
    case.expect_held(case.now_ms, &held).await
}

pub(super) async fn a_completed_key_is_a_duplicate<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let result = kept("{\"receipt\":7}");
    let claim = case.completed(&result).await?;
    // However often and late, also long after the lease.
    for at_ms in [case.now_ms, case.now_ms, claim.lease_end_ms + 1, claim.retention_end_s * 1_000] {
        expect("the answer", case.ask(at_ms, &claim.key).await?, duplicate(&result))?;
    }
    let key = case.key();
    let claim = ClaimRequest { fingerprint: None, ..case.request(&key) };
    case.win(case.now_ms, &claim).await?;
    case.complete(case.now_ms, &claim, &result).await?;
    let answer = case.claim(case.now_ms, &ClaimRequest { fingerprint: None, ..case.request(&key) }).await?;
    expect("the answer where nobody has a fingerprint", answer, duplicate(&result))
}

pub(super) async fn another_fingerprint_of_a_completed_key_is_a_conflict<S: Commit<NoWrites>>(
    case: Case<S>,
) -> Checked {
    let result = kept("1");
    let claim = case.completed(&result).await?;
    for at_ms in [case.now_ms, claim.lease_end_ms + 1] {
        let other = ClaimRequest { fingerprint: Some(fingerprint("v1:other")), ..case.request_at(at_ms, &claim.key) };
        expect("the answer", case.claim(at_ms, &other).await?, ClaimAnswer::Conflict)?;
    }
    expect("the right fingerprint's answer", case.ask(case.now_ms, &claim.key).await?, duplicate(&result))
}

pub(super) async fn a_completed_key_is_a_duplicate_when_fingerprints_do_not_compare<S: Commit<NoWrites>>(
    case: Case<S>,
) -> Checked {
    for (stored, incoming) in NOT_COMPARABLE {
        let key = case.key();
        let claim = ClaimRequest { fingerprint: stored.map(fingerprint), ..case.request(&key) };
        case.win(case.now_ms, &claim).await?;
        case.complete(case.now_ms, &claim, &kept("1")).await?;
        let again = ClaimRequest { fingerprint: incoming.map(fingerprint), ..case.request(&key) };
        let expected = ClaimAnswer::Duplicate { result: kept("1"), compared: false };
        expect("the answer", case.claim(case.now_ms, &again).await?, expected)?;
    }
    Ok(())
}

pub(super) async fn an_own_write_met_again_is_the_claim<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let claim = case.held().await?;
    // However late the answer: within the lease, after it, after the retention.
    let late_ms = [case.now_ms, claim.lease_end_ms + 1, (claim.retention_end_s + 1) * 1_000];
    for at_ms in late_ms {
        for on_lapsed_lease in [OnLapsedLease::Retry, OnLapsedLease::Park] {
            let again = ClaimRequest { on_lapsed_lease, ..claim.clone() };
            expect("the answer", case.claim(at_ms, &again).await?, claimed(case.now_ms, 1, &claim))?;
        }
    }
    case.complete(case.now_ms, &claim, &kept("1")).await?;
    expect("the answer after the completion", case.claim(case.now_ms, &claim).await?, duplicate(&kept("1")))
}

pub(super) async fn an_own_claim_that_was_taken_over_is_not_met_again<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    let later_ms = old.lease_end_ms + 1;
    let taker = case.request_at(later_ms, &old.key);
    case.win(later_ms, &taker).await?;
    expect("the old holder's claim", case.claim(later_ms, &old).await?, busy(taker.lease_end_ms))?;
    case.expect_held(later_ms, &taker).await
}

pub(super) async fn parked_work_is_not_taken_over<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let vanished = case.held().await?;
    let deferred = case.held().await?;
    let kind = ReleaseKind::Deferred { lease_end_ms: case.now_ms + 10 };
    expect("the deferral", case.release(case.now_ms, &deferred, kind).await?, ReleaseAnswer::Released)?;
    let later_ms = case.now_ms + LEASE_MS + 1;
    for old in [vanished, deferred] {
        for text in [Some("v1:same"), Some("v2:same"), None] {
            let fingerprint = text.map(fingerprint);
            let claim = ClaimRequest { fingerprint, ..parking(case.request_at(later_ms, &old.key)) };
            expect("the answer", case.claim(later_ms, &claim).await?, ClaimAnswer::Vanished)?;
        }
        // Nothing changed, and one who retries takes it over.
        let claim = case.request_at(later_ms, &old.key);
        expect("a retry's answer", case.claim(later_ms, &claim).await?, claimed(later_ms, 2, &claim))?;
    }
    Ok(())
}

pub(super) async fn parking_spares_what_was_given_back_or_expired<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let absent = parking(case.request(&case.key()));
    expect("an absent key", case.claim(case.now_ms, &absent).await?, claimed(case.now_ms, 1, &absent))?;
    case.release(case.now_ms, &absent, ReleaseKind::Now).await?;
    let released = parking(case.request(&absent.key));
    expect("a released key", case.claim(case.now_ms, &released).await?, claimed(case.now_ms + 1, 2, &released))?;
    let later_ms = (released.retention_end_s + 1) * 1_000;
    let expired = parking(case.request_at(later_ms, &absent.key));
    expect("an expired record", case.claim(later_ms, &expired).await?, claimed(later_ms, 3, &expired))
}

pub(super) async fn parking_changes_no_other_answer<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let held = case.held().await?;
    let answer = case.claim(case.now_ms, &parking(case.request(&held.key))).await?;
    expect("a live lease", answer, busy(held.lease_end_ms))?;
    let done = case.completed(&kept("1")).await?;
    let later_ms = done.lease_end_ms + 1;
    let answer = case.claim(later_ms, &parking(case.request_at(later_ms, &done.key))).await?;
    expect("a completed key", answer, duplicate(&kept("1")))
}

fn parking(claim: ClaimRequest) -> ClaimRequest {
    ClaimRequest { on_lapsed_lease: OnLapsedLease::Park, ..claim }
}

pub(super) async fn the_attempt_rises_with_each_claim<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let key = case.key();
    let mut last = 0;
    // The same time twice, a later one, and an earlier one, as of a worker whose clock is behind.
    for at_ms in [case.now_ms, case.now_ms, case.now_ms + 500, case.now_ms + 20] {
        let claim = case.request_at(at_ms, &key);
        let attempt = case.win(at_ms, &claim).await?.attempt;
        expect("the attempt", attempt, at_ms.max(last + 1))?;
        last = attempt;
        case.release(at_ms, &claim, ReleaseKind::Now).await?;
    }
    Ok(())
}

pub(super) async fn the_attempt_rises_when_the_clock_does_not<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    const TEN_YEARS_MS: u64 = 10 * 366 * 24 * 3_600 * 1_000;
    /// Beyond what a double holds exactly.
    const BEYOND_DOUBLE: u64 = (1 << 53) + 1;
    for far_ms in [case.now_ms + TEN_YEARS_MS, BEYOND_DOUBLE] {
        let key = case.key();
        let far = ClaimRequest { retention_end_s: case.now_ms / 1_000 + RETENTION_S, ..case.request_at(far_ms, &key) };
        expect("the attempt from the future", case.win(far_ms, &far).await?.attempt, far_ms)?;
        case.release(far_ms, &far, ReleaseKind::Now).await?;
        for nth in 1..=2 {
            let claim = case.request(&key);
            let answer = case.claim(case.now_ms, &claim).await?;
            expect("a claim of today", answer, claimed(far_ms + nth, nth + 1, &claim))?;
            case.release(case.now_ms, &claim, ReleaseKind::Now).await?;
        }
    }
    Ok(())
}

pub(super) async fn tries_are_counted<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let key = case.key();
    for tries in 1..=4 {
        let claim = case.request(&key);
        expect("the tries", case.win(case.now_ms, &claim).await?.tries, tries)?;
        // Neither a refused claim nor one that is met again counts.
        case.ask(case.now_ms, &key).await?;
        expect("the tries of the same claim", case.win(case.now_ms, &claim).await?.tries, tries)?;
        case.release(case.now_ms, &claim, ReleaseKind::Now).await?;
    }
    Ok(())
}
