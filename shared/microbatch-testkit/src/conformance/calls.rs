//! Calls of several requests: as many as the store takes at once, every answer different, in the order of the requests.

use microbatch::{
    Commit, NoWrites,
    record::StoredResult,
    transition::{
        ClaimAnswer, ClaimRequest, Claimed, CompleteAnswer, CompleteRequest, ReleaseAnswer, ReleaseKind, ReleaseRequest,
    },
};

use super::case::{Case, Checked, LEASE_MS, busy, claimed, completion, duplicate, expect, fingerprint, kept, release};

/// How many ways there are to prepare a key, in each of the cases.
const WAYS: usize = 9;
/// Two rounds of the ways leave a full call of 25 with a second, partly filled one.
const REQUESTS_MIN: usize = 3 * WAYS + 1;

/// How many requests a case makes: all ways, several calls, and at least one of them full.
fn request_count<S: Commit<NoWrites>>(case: &Case<S>) -> usize {
    REQUESTS_MIN.max(case.store.chunk_size().get() + 1)
}

pub(super) async fn nothing_is_asked<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    expect("the claims' answers", case.claim_all(case.now_ms, &[]).await?, vec![])?;
    expect("the completions' answers", case.complete_all(case.now_ms, &[]).await?, vec![])?;
    expect("the releases' answers", case.release_all(case.now_ms, &[]).await?, vec![])
}

pub(super) async fn claims_are_answered_in_order<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    // All leases that the case prepares are over, except where it says otherwise.
    let later_ms = case.now_ms + LEASE_MS + 1;
    let mut expected = Vec::new();
    let mut claims = Vec::new();
    for nth in 0..request_count(&case) {
        let (claim, answer) = prepare_claim(&case, later_ms, nth).await?;
        claims.push(claim);
        expected.push(answer);
    }
    let mut found = Vec::new();
    for call in claims.chunks(case.store.chunk_size().get()) {
        found.extend(case.claim_all(later_ms, call).await?);
    }
    expect("the answers", found, expected)
}

/// A claim at `later_ms` of a key that something happened to before, and its answer.
async fn prepare_claim<S: Commit<NoWrites>>(
    case: &Case<S>,
    later_ms: u64,
    nth: usize,
) -> Checked<(ClaimRequest, ClaimAnswer)> {
    // All different, so that an answer in another's place is found.
    let lease_end_ms = later_ms + LEASE_MS + nth as u64;
    let claim_of = |key| ClaimRequest { lease_end_ms, ..case.request_at(later_ms, key) };
    let held = |lease_end_ms| ClaimRequest { lease_end_ms, ..case.request(&case.key()) };
    let old = held(case.now_ms + LEASE_MS);
    let claim = claim_of(&old.key);
    if nth.is_multiple_of(WAYS) {
        let expected = claimed(later_ms, 1, &claim);
        return Ok((claim, expected));
    }
    if nth % WAYS == 1 {
        let live = held(later_ms + nth as u64);
        case.win(case.now_ms, &live).await?;
        return Ok((claim_of(&live.key), busy(live.lease_end_ms)));
    }
    case.win(case.now_ms, &old).await?;
    let result = kept(&nth.to_string());
    Ok(match nth % WAYS {
        2 => {
            case.complete(case.now_ms, &old, &result).await?;
            (claim, duplicate(&result))
        }
        3 => {
            case.complete(case.now_ms, &old, &result).await?;
            (ClaimRequest { fingerprint: Some(fingerprint("v1:other")), ..claim }, ClaimAnswer::Conflict)
        }
        4 => {
            let expected = claimed(later_ms, 2, &claim);
            (claim, expected)
        }
        5 => (ClaimRequest { fingerprint: Some(fingerprint("v1:other")), ..claim }, ClaimAnswer::Conflict),
        6 => {
            case.release(case.now_ms, &old, ReleaseKind::Now).await?;
            let expected = claimed(later_ms, 2, &claim);
            (claim, expected)
        }
        7 => {
            let expected = claimed(case.now_ms, 1, &old);
            (old, expected)
        }
        _ => {
            let expected = Claimed { attempt: later_ms, tries: 2, lease_end_ms, compared: false };
            (ClaimRequest { fingerprint: None, ..claim }, ClaimAnswer::Claimed(expected))
        }
    })
}

pub(super) async fn completions_are_answered_in_order<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let later_ms = case.now_ms + LEASE_MS + 1;
    let mut expected = Vec::new();
    let mut completions = Vec::new();
    let mut replayed = Vec::new();
    for nth in 0..request_count(&case) {
        let (completion, answer, result) = prepare_completion(&case, later_ms, nth).await?;
        replayed.push((completion.key.clone(), result));
        completions.push(completion);
        expected.push(answer);
    }
    let mut found = Vec::new();
    for call in completions.chunks(case.store.chunk_size().get()) {
        found.extend(case.complete_all(later_ms, call).await?);
    }
    expect("the answers", found, expected)?;
    for (key, result) in replayed {
        if let Some(result) = result {
            expect("what is replayed then", case.ask(later_ms, &key).await?, duplicate(&result))?;
        }
    }
    Ok(())
}

/// A completion at `later_ms` of a key that something happened to before, its answer, and the result that is replayed after
/// it, if the key is completed then.
async fn prepare_completion<S: Commit<NoWrites>>(
    case: &Case<S>,
    later_ms: u64,
    nth: usize,
) -> Checked<(CompleteRequest<NoWrites>, CompleteAnswer, Option<StoredResult>)> {
    let (old, result, others) = (case.request(&case.key()), kept(&nth.to_string()), kept("\"other\""));
    if nth.is_multiple_of(WAYS) {
        return Ok((completion(&old, &result), CompleteAnswer::Lost, None));
    }
    case.win(case.now_ms, &old).await?;
    let taker = case.request_at(later_ms, &old.key);
    Ok(match nth % WAYS {
        1 => {
            case.complete(case.now_ms, &old, &others).await?;
            (completion(&old, &result), CompleteAnswer::Completed, Some(others))
        }
        2 => {
            case.win(later_ms, &taker).await?;
            (completion(&old, &result), CompleteAnswer::Lost, None)
        }
        3 => {
            case.win(later_ms, &taker).await?;
            case.complete(later_ms, &taker, &others).await?;
            (completion(&old, &result), CompleteAnswer::CompletedByOther, Some(others))
        }
        4 => {
            case.release(case.now_ms, &old, ReleaseKind::Now).await?;
            (completion(&old, &result), CompleteAnswer::Lost, None)
        }
        5 => (completion(&taker, &result), CompleteAnswer::Lost, None),
        6 => (completion(&old, &StoredResult::None), CompleteAnswer::Completed, Some(StoredResult::None)),
        7 => (completion(&old, &StoredResult::NotKept), CompleteAnswer::Completed, Some(StoredResult::NotKept)),
        _ => (completion(&old, &result), CompleteAnswer::Completed, Some(result)),
    })
}

pub(super) async fn releases_are_answered_in_order<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    let mut expected = Vec::new();
    let mut releases = Vec::new();
    let mut after = Vec::new();
    for nth in 0..request_count(&case) {
        let (release, answer, lease_end_ms) = prepare_release(&case, nth).await?;
        after.push((release.key.clone(), lease_end_ms));
        releases.push(release);
        expected.push(answer);
    }
    let mut found = Vec::new();
    for call in releases.chunks(case.store.chunk_size().get()) {
        found.extend(case.release_all(case.now_ms, call).await?);
    }
    expect("the answers", found, expected)?;
    for (key, lease_end_ms) in after {
        let answer = case.ask(case.now_ms, &key).await?;
        match lease_end_ms {
            Some(lease_end_ms) => expect("a claim of a key that is held", answer, busy(lease_end_ms))?,
            None if matches!(answer, ClaimAnswer::Claimed(_) | ClaimAnswer::Duplicate { .. }) => {}
            None => return Err(format!("expected a key that is not held, found {answer:?}")),
        }
    }
    Ok(())
}

/// A release at the case's start of a key that something happened to before, its answer, and the lease that holds the key after
/// it.
async fn prepare_release<S: Commit<NoWrites>>(
    case: &Case<S>,
    nth: usize,
) -> Checked<(ReleaseRequest, ReleaseAnswer, Option<u64>)> {
    let claim = case.request(&case.key());
    if nth.is_multiple_of(WAYS) {
        return Ok((release(&claim, ReleaseKind::Now), ReleaseAnswer::NotHeld, None));
    }
    case.win(case.now_ms, &claim).await?;
    let sooner_ms = case.now_ms + nth as u64;
    let deferred = |lease_end_ms| ReleaseKind::Deferred { lease_end_ms };
    let stranger = case.request(&claim.key);
    Ok(match nth % WAYS {
        1 => (release(&stranger, ReleaseKind::Now), ReleaseAnswer::NotHeld, Some(claim.lease_end_ms)),
        2 => (release(&stranger, deferred(sooner_ms)), ReleaseAnswer::NotHeld, Some(claim.lease_end_ms)),
        3 => (release(&claim, deferred(sooner_ms)), ReleaseAnswer::Released, Some(sooner_ms)),
        4 => {
            let longer = deferred(claim.lease_end_ms + 1);
            (release(&claim, longer), ReleaseAnswer::Released, Some(claim.lease_end_ms))
        }
        5 => {
            case.complete(case.now_ms, &claim, &StoredResult::None).await?;
            (release(&claim, ReleaseKind::Now), ReleaseAnswer::NotHeld, None)
        }
        6 => {
            case.release(case.now_ms, &claim, ReleaseKind::Now).await?;
            (release(&claim, ReleaseKind::Now), ReleaseAnswer::NotHeld, None)
        }
        _ => (release(&claim, ReleaseKind::Now), ReleaseAnswer::Released, None),
    })
}

pub(super) async fn a_full_call_carries_results<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    // Results that together are far more than an answer or a page of one holds in a common store.
    const RESULT_BYTES: usize = 100 * 1024;
    let count = case.store.chunk_size().get().min(WAYS * WAYS);
    let claims: Vec<_> = (0..count).map(|_| case.request(&case.key())).collect();
    case.claim_all(case.now_ms, &claims).await?;
    let result = |nth: usize| kept(&format!("\"{nth}{}\"", "x".repeat(RESULT_BYTES)));
    let completions: Vec<_> = claims.iter().enumerate().map(|(nth, claim)| completion(claim, &result(nth))).collect();
    let found = case.complete_all(case.now_ms, &completions).await?;
    expect("the answers", found, vec![CompleteAnswer::Completed; count])?;
    let again: Vec<_> = claims.iter().map(|claim| case.request(&claim.key)).collect();
    let found = case.claim_all(case.now_ms, &again).await?;
    expect("the duplicates' answers", found, (0..count).map(|nth| duplicate(&result(nth))).collect())
}
