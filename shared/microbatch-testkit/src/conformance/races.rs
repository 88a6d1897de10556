//! Races: requests for one key that are under way at the same time. Which of them wins is open; that one does is not.

use std::{future::Future, sync::Arc};

use microbatch::{
    Commit, NoWrites,
    transition::{ClaimAnswer, ClaimRequest, CompleteAnswer, ReleaseAnswer, ReleaseKind},
};
use tokio::sync::Barrier;

use super::case::{Case, Checked, LEASE_MS, busy, duplicate, expect, kept};

/// How many requests are under way at once.
const RIVALS: usize = 12;
/// How often a race is run, each time on a new key.
const ROUNDS: usize = 6;

pub(super) async fn one_claim_wins_a_new_key<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    for _ in 0..ROUNDS {
        let key = case.key();
        let claims = (0..RIVALS).map(|_| case.request(&key)).collect();
        one_wins(&case, case.now_ms, claims, 1).await?;
    }
    Ok(())
}

pub(super) async fn one_claim_wins_a_lapsed_key<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    for _ in 0..ROUNDS {
        let old = case.held().await?;
        one_takes_over(&case, old.lease_end_ms + 1, &old).await?;
    }
    Ok(())
}

pub(super) async fn one_claim_wins_a_released_key<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    for _ in 0..ROUNDS {
        let old = case.held().await?;
        case.release(case.now_ms, &old, ReleaseKind::Now).await?;
        one_takes_over(&case, case.now_ms, &old).await?;
    }
    Ok(())
}

pub(super) async fn one_claim_wins_an_expired_key<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    for _ in 0..ROUNDS {
        let old = case.completed(&kept("1")).await?;
        one_takes_over(&case, (old.retention_end_s + 1) * 1_000, &old).await?;
    }
    Ok(())
}

async fn one_takes_over<S: Commit<NoWrites>>(case: &Case<S>, now_ms: u64, old: &ClaimRequest) -> Checked {
    let claims = (0..RIVALS).map(|_| case.request_at(now_ms, &old.key)).collect();
    one_wins(case, now_ms, claims, 2).await
}

/// Makes all claims at once: one must win, and only that one can complete the key.
async fn one_wins<S: Commit<NoWrites>>(case: &Case<S>, now_ms: u64, claims: Vec<ClaimRequest>, tries: u64) -> Checked {
    let answers = claim_at_once(case, now_ms, &claims).await?;
    let winner = the_winner(&claims, &answers)?.ok_or_else(|| format!("expected a winner, found {answers:?}"))?;
    let won = case.win(now_ms, winner).await?;
    expect("the winner's tries", won.tries, tries)?;
    for loser in claims.iter().filter(|claim| claim.owner != winner.owner) {
        expect("a loser's completion", case.complete(now_ms, loser, &kept("22")).await?, CompleteAnswer::Lost)?;
    }
    case.expect_held(now_ms, winner).await
}

/// The claim that won, if one did; the others must be busy, until the winner's lease end at the latest.
fn the_winner<'a>(claims: &'a [ClaimRequest], answers: &[ClaimAnswer]) -> Checked<Option<&'a ClaimRequest>> {
    let mut winners = claims.iter().zip(answers).filter(|(_, answer)| matches!(answer, ClaimAnswer::Claimed(_)));
    let winner = winners.next().map(|(claim, _)| claim);
    let one = winners.next().is_none();
    let busy = |(claim, answer): (&ClaimRequest, &ClaimAnswer)| match answer {
        ClaimAnswer::Claimed(_) => true,
        // They all ask for the same lease.
        ClaimAnswer::Busy { until_ms } => *until_ms <= claim.lease_end_ms,
        _ => false,
    };
    if one && claims.iter().zip(answers).all(busy) {
        return Ok(winner);
    }
    Err(format!("expected one Claimed at most, and all others Busy, found {answers:?}"))
}

pub(super) async fn a_claim_sent_twice_at_once_is_one_claim<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    for nth in 0..ROUNDS {
        let (key, at_ms) = if nth.is_multiple_of(2) {
            (case.key(), case.now_ms)
        } else {
            let old = case.held().await?;
            (old.key, old.lease_end_ms + 1)
        };
        let claim = case.request_at(at_ms, &key);
        let answers = claim_at_once(&case, at_ms, &[claim.clone(), claim.clone()]).await?;
        let ClaimAnswer::Claimed(won) = answers[0] else { return Err(format!("expected Claimed, found {answers:?}")) };
        expect("the second answer", &answers[1], &ClaimAnswer::Claimed(won))?;
        case.expect_held(at_ms, &claim).await?;
    }
    Ok(())
}

pub(super) async fn a_completion_sent_often_at_once_succeeds<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    for _ in 0..ROUNDS {
        let claim = case.held().await?;
        let jobs = (0..RIVALS).map(|_| {
            let (case, claim) = (case.clone(), claim.clone());
            async move { case.complete(case.now_ms, &claim, &kept("1")).await }
        });
        expect("the answers", at_once(jobs).await?, vec![CompleteAnswer::Completed; RIVALS])?;
        expect("a duplicate's answer", case.ask(case.now_ms, &claim.key).await?, duplicate(&kept("1")))?;
    }
    Ok(())
}

pub(super) async fn completion_and_takeover_exclude_each_other<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    for _ in 0..ROUNDS {
        let old = case.held().await?;
        let later_ms = old.lease_end_ms + 1;
        let completion = {
            let (case, old) = (case.clone(), old.clone());
            tokio::spawn(async move { case.complete(later_ms, &old, &kept("1")).await })
        };
        let takers: Vec<_> = (0..RIVALS).map(|_| case.request_at(later_ms, &old.key)).collect();
        let answers = claim_at_once(&case, later_ms, &takers).await?;
        match joined(completion).await? {
            CompleteAnswer::Completed => {
                let refused = |answer: &ClaimAnswer| match answer {
                    // Told to one that was about to take the key over when it was completed.
                    ClaimAnswer::Busy { until_ms } => *until_ms <= later_ms,
                    other => *other == duplicate(&kept("1")),
                };
                if !answers.iter().all(refused) {
                    return Err(format!("the key was completed, expected Duplicate for all, found {answers:?}"));
                }
                expect("a duplicate's answer", case.ask(later_ms, &old.key).await?, duplicate(&kept("1")))?;
            }
            CompleteAnswer::Lost => {
                let winner = the_winner(&takers, &answers)?.ok_or("the completion lost, and no claim won")?;
                case.expect_held(later_ms, winner).await?;
            }
            other => return Err(format!("the completion: expected Completed or Lost, found {other:?}")),
        }
    }
    Ok(())
}

pub(super) async fn a_release_lets_one_claim_in<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    for _ in 0..ROUNDS {
        let old = case.held().await?;
        let release = {
            let (case, old) = (case.clone(), old.clone());
            tokio::spawn(async move { case.release(case.now_ms, &old, ReleaseKind::Now).await })
        };
        let takers: Vec<_> = (0..RIVALS).map(|_| case.request(&old.key)).collect();
        let answers = claim_at_once(&case, case.now_ms, &takers).await?;
        expect("the release", joined(release).await?, ReleaseAnswer::Released)?;
        match the_winner(&takers, &answers)? {
            Some(winner) => case.expect_held(case.now_ms, winner).await?,
            None => case.win(case.now_ms, &takers[0]).await.map(drop)?,
        }
    }
    Ok(())
}

pub(super) async fn a_late_release_or_deferral_spares_the_taker<S: Commit<NoWrites>>(case: Case<S>) -> Checked {
    for nth in 0..ROUNDS {
        let old = case.held().await?;
        let later_ms = old.lease_end_ms + 1;
        let kind = if nth.is_multiple_of(2) {
            ReleaseKind::Now
        } else {
            ReleaseKind::Deferred { lease_end_ms: old.lease_end_ms - 1 }
        };
        let release = {
            let (case, old) = (case.clone(), old.clone());
            tokio::spawn(async move { case.release(later_ms, &old, kind).await })
        };
        let takers: Vec<_> = (0..RIVALS).map(|_| case.request_at(later_ms, &old.key)).collect();
        let answers = claim_at_once(&case, later_ms, &takers).await?;
        joined(release).await?;
        match the_winner(&takers, &answers)? {
            Some(winner) => {
                let end_ms = later_ms + LEASE_MS;
                expect("a claim of the taker's key", case.ask(later_ms, &old.key).await?, busy(end_ms))?;
                case.expect_held(later_ms, winner).await?;
            }
            None => case.win(later_ms, &takers[0]).await.map(drop)?,
        }
    }
    Ok(())
}

async fn claim_at_once<S: Commit<NoWrites>>(
    case: &Case<S>,
    now_ms: u64,
    claims: &[ClaimRequest],
) -> Checked<Vec<ClaimAnswer>> {
    at_once(claims.iter().map(|claim| {
        let (case, claim) = (case.clone(), claim.clone());
        async move { case.claim(now_ms, &claim).await }
    }))
    .await
}

/// Runs jobs in tasks of their own, which start together, and gives their answers in order.
async fn at_once<A: Send + 'static>(
    jobs: impl Iterator<Item = impl Future<Output = Checked<A>> + Send + 'static>,
) -> Checked<Vec<A>> {
    let jobs: Vec<_> = jobs.collect();
    let start = Arc::new(Barrier::new(jobs.len()));
    let tasks: Vec<_> = jobs
        .into_iter()
        .map(|job| {
            let start = Arc::clone(&start);
            tokio::spawn(async move {
                start.wait().await;
                job.await
            })
        })
        .collect();
    let mut answers = Vec::with_capacity(tasks.len());
    for task in tasks {
        answers.push(joined(task).await?);
    }
    Ok(answers)
}

async fn joined<A>(task: tokio::task::JoinHandle<Checked<A>>) -> Checked<A> {
    task.await.unwrap_or_else(|error| Err(format!("the store panicked: {error}")))
}
