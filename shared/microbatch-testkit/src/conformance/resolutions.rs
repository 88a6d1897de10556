//! Resolutions: an operator's word on a key counts, on the record that was shown and on no other.

use microbatch::{
    Commit, NoWrites,
    record::{Record, Status, StoredResult},
    resolve::{Resolution, Resolve, ResolveAnswer, ResolveRequest, Trace, Untouched},
    transition::{ClaimAnswer, ClaimRequest, CompleteAnswer, OnLapsedLease, ReleaseAnswer, ReleaseKind},
};

use super::case::{Case, Checked, LEASE_MS, RETENTION_S, claimed, completion, duplicate, expect, kept};

const RETRY: Resolution = Resolution::Retry { undo_completed: false };
const UNDO: Resolution = Resolution::Retry { undo_completed: true };

/// A store that a case resolves keys in.
pub(super) trait Resolvable: Commit<NoWrites> + Resolve {}

impl<S: Commit<NoWrites> + Resolve> Resolvable for S {}

fn resolution(now_ms: u64, claim: &ClaimRequest, shown: Option<Record>, to: Resolution) -> ResolveRequest {
    let trace = Trace::new(to, now_ms, "conformance", shown.as_ref());
    let (key, retention_end_s) = (claim.key.clone(), now_ms / 1_000 + RETENTION_S);
    ResolveRequest { key, shown, to, retention_end_s, trace }
}

impl<S: Resolvable> Case<S> {
    async fn resolve(&self, now_ms: u64, request: &ResolveRequest) -> Checked<ResolveAnswer> {
        self.store.resolve(now_ms, request).await.map_err(|error| format!("expected an answer, found: {error}"))
    }

    /// Shows the record, then resolves it.
    async fn resolve_shown(&self, now_ms: u64, claim: &ClaimRequest, to: Resolution) -> Checked<ResolveAnswer> {
        let shown = self.read(&claim.key).await?;
        let request = resolution(now_ms, claim, shown, to);
        self.resolve(now_ms, &request).await
    }

    async fn trace(&self, claim: &ClaimRequest) -> Checked<Option<Trace>> {
        let found = self.store.read_resolved(&claim.key).await;
        Ok(found.map_err(|error| format!("expected a record, found: {error}"))?.and_then(|(_, trace)| trace))
    }

    async fn expect_written(&self, now_ms: u64, claim: &ClaimRequest, to: Resolution) -> Checked<Record> {
        match self.resolve_shown(now_ms, claim, to).await? {
            ResolveAnswer::Written(record) => {
                expect("the record", self.read(&claim.key).await?, Some(record.clone()))?;
                Ok(record)
            }
            other => Err(format!("expected that a record is written, found {other:?}")),
        }
    }
}

pub(super) async fn a_live_lease_is_not_resolved<S: Resolvable>(case: Case<S>) -> Checked {
    let held = case.held().await?;
    for to in [Resolution::Completed, RETRY, UNDO] {
        let answer = case.resolve_shown(case.now_ms, &held, to).await?;
        let untouched = Untouched::Leased { until_ms: held.lease_end_ms };
        expect("the answer", answer, ResolveAnswer::Untouched(untouched))?;
    }
    case.expect_held(case.now_ms, &held).await
}

pub(super) async fn a_key_that_was_resolved_as_completed_is_a_duplicate<S: Resolvable>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    let later_ms = old.lease_end_ms + 1;
    case.expect_written(later_ms, &old, Resolution::Completed).await?;
    expect("a claim's answer", case.ask(later_ms, &old.key).await?, duplicate(&StoredResult::NotKept))?;
    // Its holder comes back: it changes nothing (P4).
    let answer = case.complete(later_ms, &old, &kept("1")).await?;
    expect("the old holder's completion", answer, CompleteAnswer::CompletedByOther)?;
    let answer = case.release(later_ms, &old, ReleaseKind::Now).await?;
    expect("the old holder's release", answer, ReleaseAnswer::NotHeld)?;
    expect("a claim's answer", case.ask(later_ms, &old.key).await?, duplicate(&StoredResult::NotKept))
}

pub(super) async fn an_absent_key_is_resolved_as_completed<S: Resolvable>(case: Case<S>) -> Checked {
    let claim = case.request(&case.key());
    let answer = case.resolve_shown(case.now_ms, &claim, RETRY).await?;
    expect("to retry it", answer, ResolveAnswer::Untouched(Untouched::NoRecord))?;
    let written = case.expect_written(case.now_ms, &claim, Resolution::Completed).await?;
    expect("the status", written.status, Status::Completed)?;
    let answer = case.claim(case.now_ms, &ClaimRequest { fingerprint: None, ..claim }).await?;
    expect("a claim's answer", answer, duplicate(&StoredResult::NotKept))
}

pub(super) async fn a_key_that_was_resolved_to_be_retried_is_free<S: Resolvable>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    let later_ms = old.lease_end_ms + 1;
    let park = |claim: ClaimRequest| ClaimRequest { on_lapsed_lease: OnLapsedLease::Park, ..claim };
    let parked = park(case.request_at(later_ms, &old.key));
    expect("a claim before", case.claim(later_ms, &parked).await?, ClaimAnswer::Vanished)?;
    case.expect_written(later_ms, &old, RETRY).await?;
    let claim = park(case.request_at(later_ms, &old.key));
    expect("a claim after", case.claim(later_ms, &claim).await?, claimed(later_ms, 2, &claim))?;
    let answer = case.complete(later_ms, &claim, &kept("1")).await?;
    expect("its completion", answer, CompleteAnswer::Completed)
}

pub(super) async fn a_completed_key_is_resolved_only_by_undoing_it<S: Resolvable>(case: Case<S>) -> Checked {
    let done = case.completed(&kept("1")).await?;
    for (to, untouched) in [(RETRY, Untouched::Completed), (Resolution::Completed, Untouched::AlreadyCompleted)] {
        let answer = case.resolve_shown(case.now_ms, &done, to).await?;
        expect("the answer", answer, ResolveAnswer::Untouched(untouched))?;
    }
    expect("a claim before", case.ask(case.now_ms, &done.key).await?, duplicate(&kept("1")))?;
    case.expect_written(case.now_ms, &done, UNDO).await?;
    let claim = case.request(&done.key);
    expect("a claim after", case.claim(case.now_ms, &claim).await?, claimed(case.now_ms + 1, 2, &claim))
}

pub(super) async fn a_record_that_changed_is_not_resolved<S: Resolvable>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    let later_ms = old.lease_end_ms + 1;
    let shown = case.read(&old.key).await?;
    let taker = case.request_at(later_ms, &old.key);
    case.win(later_ms, &taker).await?;
    for to in [Resolution::Completed, RETRY] {
        let request = resolution(later_ms, &old, shown.clone(), to);
        expect("the answer", case.resolve(later_ms, &request).await?, ResolveAnswer::Changed)?;
    }
    case.expect_held(later_ms, &taker).await?;
    // Nor one that was not there.
    let request = resolution(later_ms, &old, None, Resolution::Completed);
    expect("the answer", case.resolve(later_ms, &request).await?, ResolveAnswer::Changed)
}

/// The trace is one attribute more in the record: it must not disturb any request, alone or among others.
pub(super) async fn a_trace_stays_until_the_next_claim_and_disturbs_nothing<S: Resolvable>(case: Case<S>) -> Checked {
    for count in [1, 3] {
        let mut old = Vec::new();
        for _ in 0..count {
            old.push(case.held().await?);
        }
        let later_ms = case.now_ms + LEASE_MS + 1;
        for claim in &old {
            case.expect_written(later_ms, claim, RETRY).await?;
            let trace = case.trace(claim).await?.and_then(|trace| trace.parts());
            let parts = trace.ok_or("expected a trace, found none")?;
            expect("who and what", (parts.by.as_str(), parts.to.as_str()), ("conformance", "retry"))?;
        }
        let claims: Vec<_> = old.iter().map(|claim| case.request_at(later_ms, &claim.key)).collect();
        let expected = claims.iter().map(|claim| claimed(later_ms, 2, claim)).collect();
        expect("the claims", case.claim_all(later_ms, &claims).await?, expected)?;
        expect("the trace of a claimed key", case.trace(&claims[0]).await?, None)?;

        let completions: Vec<_> = claims.iter().map(|claim| completion(claim, &kept("1"))).collect();
        let expected = vec![CompleteAnswer::Completed; count];
        expect("the completions", case.complete_all(later_ms, &completions).await?, expected)?;
        for claim in &claims {
            case.expect_written(later_ms, claim, UNDO).await?;
            expect("that there is a trace", case.trace(claim).await?.is_some(), true)?;
        }
        let again: Vec<_> = claims.iter().map(|claim| case.request_at(later_ms, &claim.key)).collect();
        let expected = again.iter().map(|claim| claimed(later_ms + 1, 3, claim)).collect();
        expect("the claims after", case.claim_all(later_ms, &again).await?, expected)?;
    }
    Ok(())
}

pub(super) async fn a_resolution_sent_again_does_no_harm<S: Resolvable>(case: Case<S>) -> Checked {
    let old = case.held().await?;
    let later_ms = old.lease_end_ms + 1;
    let request = resolution(later_ms, &old, case.read(&old.key).await?, RETRY);
    let written = case.resolve(later_ms, &request).await?;
    let claim = case.request_at(later_ms, &old.key);
    case.win(later_ms, &claim).await?;
    expect("that it was written", matches!(written, ResolveAnswer::Written(_)), true)?;
    expect("the same again, late", case.resolve(later_ms, &request).await?, ResolveAnswer::Changed)?;
    case.expect_held(later_ms, &claim).await
}
