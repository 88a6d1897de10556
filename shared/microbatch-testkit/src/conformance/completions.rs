//! Completions: rules 3 and 4, P3 and P4.

use microbatch::{
    Commit, NoWrites,
    record::StoredResult,
    transition::{CompleteAnswer, ReleaseAnswer, ReleaseKind},
};

use super::case::{Case, Checked, RETENTION_S, claimed, completion, duplicate, expect, kept};

pub(super) async fn the_owner_completes<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let claim = case.held().await?;
    let answer = case.complete(case.now_ms, &claim, &kept("1")).await?;
    expect("the answer", answer, CompleteAnswer::Completed)?;
    expect("a duplicate's answer", case.ask(case.now_ms, &claim.key).await?, duplicate(&kept("1")))
}

pub(super) async fn a_stale_owner_completes_nothing<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let held = case.held().await?;
    for at_ms in [case.now_ms, held.lease_end_ms + 1] {
        let answer = case.complete(at_ms, &case.request(&held.key), &kept("2")).await?;
        expect("the answer", answer, CompleteAnswer::Lost)?;
    }
    case.expect_held(case.now_ms, &held).await
}

pub(super) async fn a_second_completion_is_fine<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let claim = case.completed(&kept("1")).await?;
    for (at_ms, result) in
        [(case.now_ms, kept("1")), (claim.lease_end_ms + 1, kept("22")), (case.now_ms, StoredResult::None)]
    {
        let answer = case.complete(at_ms, &claim, &result).await?;
        expect("the answer", answer, CompleteAnswer::Completed)?;
    }
    // The first stands (P3).
    expect("a duplicate's answer", case.ask(case.now_ms, &claim.key).await?, duplicate(&kept("1")))
}

pub(super) async fn nothing_is_completed_after_a_takeover<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    let later_ms = old.lease_end_ms + 1;
    let taker = case.request_at(later_ms, &old.key);
    case.win(later_ms, &taker).await?;
    // By the old holder's clock, too, its lease may not be over.
    for at_ms in [case.now_ms, later_ms] {
        expect("the answer", case.complete(at_ms, &old, &kept("22")).await?, CompleteAnswer::Lost)?;
    }
    case.expect_held(later_ms, &taker).await
}

pub(super) async fn another_claim_completed_the_key<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    let later_ms = old.lease_end_ms + 1;
    let taker = case.request_at(later_ms, &old.key);
    case.win(later_ms, &taker).await?;
    case.complete(later_ms, &taker, &kept("1")).await?;
    let answer = case.complete(later_ms, &old, &kept("22")).await?;
    expect("the answer", answer, CompleteAnswer::CompletedByOther)?;
    expect("a duplicate's answer", case.ask(later_ms, &old.key).await?, duplicate(&kept("1")))
}

pub(super) async fn an_expired_completion_of_another_is_not_one<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let done = case.completed(&kept("1")).await?;
    let later_ms = (done.retention_end_s + 1) * 1_000;
    let answer = case.complete(later_ms, &case.request(&done.key), &kept("22")).await?;
    expect("the answer", answer, CompleteAnswer::Lost)
}

pub(super) async fn an_absent_key_is_not_completed<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let claim = case.request(&case.key());
    expect("the answer", case.complete(case.now_ms, &claim, &kept("1")).await?, CompleteAnswer::Lost)?;
    case.expect_absent(case.now_ms, &claim.key).await
}

pub(super) async fn a_released_key_is_not_completed<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    expect("the release", case.release(case.now_ms, &old, ReleaseKind::Now).await?, ReleaseAnswer::Released)?;
    expect("the answer", case.complete(case.now_ms, &old, &kept("1")).await?, CompleteAnswer::Lost)?;
    let claim = case.request(&old.key);
    expect("the next claim", case.claim(case.now_ms, &claim).await?, claimed(case.now_ms + 1, 2, &claim))
}

pub(super) async fn a_lapsed_lease_that_nobody_took_is_completed<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let claim = case.held().await?;
    let later_ms = claim.lease_end_ms + 1;
    expect("the answer", case.complete(later_ms, &claim, &kept("1")).await?, CompleteAnswer::Completed)?;
    expect("a duplicate's answer", case.ask(later_ms, &claim.key).await?, duplicate(&kept("1")))
}

pub(super) async fn a_deferred_claim_still_completes<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let claim = case.held().await?;
    case.release(case.now_ms, &claim, ReleaseKind::Deferred { lease_end_ms: case.now_ms + 10 }).await?;
    let answer = case.complete(case.now_ms, &claim, &kept("1")).await?;
    expect("the answer", answer, CompleteAnswer::Completed)?;
    expect("a duplicate's answer", case.ask(case.now_ms, &claim.key).await?, duplicate(&kept("1")))
}

pub(super) async fn retention_counts_from_the_completion<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let claim = case.held().await?;
    let retention_end_s = claim.retention_end_s + RETENTION_S;
    let mut request = completion(&claim, &kept("1"));
    request.retention_end_s = retention_end_s;
    let answers = case.complete_all(case.now_ms, &[request]).await?;
    expect("the answer", answers, vec![CompleteAnswer::Completed])?;
    let last_ms = retention_end_s * 1_000;
    expect("the last second's answer", case.ask(last_ms, &claim.key).await?, duplicate(&kept("1")))?;
    let next = case.request_at(last_ms + 1_000, &claim.key);
    expect("the next second's answer", case.claim(last_ms + 1_000, &next).await?, claimed(last_ms + 1_000, 2, &next))
}
