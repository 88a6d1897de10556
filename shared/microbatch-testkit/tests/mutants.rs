//! The conformance suite finds what it is there to find: stores that break one rule each.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard},
};

use microbatch::{
    Commit, Key, NoWrites, Store, StoreError,
    record::{Comparison, Owner, Record, Status, StoredResult, compare},
    transition::{
        Answer, ClaimAnswer, ClaimRequest, Claimed, CompleteAnswer, CompleteRequest, Decision, OnLapsedLease,
        ReleaseAnswer, ReleaseKind, ReleaseRequest, Request, decide,
    },
};
use microbatch_testkit::conformance::{self, Histories};

type Decide = fn(Option<&Record>, Request<'_>, u64) -> Decision;

/// What is wrong with how a store answers, not with what it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// Others may write between the read and the write.
    Races,
    AnswersInReverse,
    FirstRequestOnly,
    ReadsInReverse,
}

#[derive(Debug)]
struct Mutant {
    records: Mutex<HashMap<Key, Record>>,
    decide: Decide,
    flaw: Flaw,
}

impl Mutant {
    fn new(decide: Decide, flaw: Flaw) -> Arc<Self> {
        Arc::new(Self { records: Mutex::default(), decide, flaw })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Record>> {
        self.records.lock().expect("no panic under the lock")
    }

    async fn apply(&self, key: &Key, request: Request<'_>, now_ms: u64) -> Answer {
        if self.flaw == Flaw::Races {
            let found = self.lock().get(key).cloned();
            let decision = (self.decide)(found.as_ref(), request, now_ms);
            tokio::task::yield_now().await;
            self.lock().extend(decision.write.map(|record| (key.clone(), record)));
            return decision.answer;
        }
        let mut records = self.lock();
        let decision = (self.decide)(records.get(key), request, now_ms);
        records.extend(decision.write.map(|record| (key.clone(), record)));
        decision.answer
    }

    fn answers<A>(&self, mut answers: Vec<A>) -> Vec<Result<A, StoreError>> {
        match self.flaw {
            Flaw::AnswersInReverse => answers.reverse(),
            Flaw::FirstRequestOnly => answers.truncate(1),
            _ => {}
        }
        answers.into_iter().map(Ok).collect()
    }
}

impl Store for Mutant {
    fn chunk_size(&self) -> NonZeroUsize {
        NonZeroUsize::new(25).expect("not zero")
    }

    async fn claim(&self, now_ms: u64, requests: &[ClaimRequest]) -> Vec<Result<ClaimAnswer, StoreError>> {
        let mut answers = Vec::new();
        for request in requests {
            let Answer::Claim(answer) = self.apply(&request.key, request.into(), now_ms).await else { unreachable!() };
            answers.push(answer);
        }
        self.answers(answers)
    }

    async fn read(&self, keys: &[Key]) -> Vec<Result<Option<Record>, StoreError>> {
        let mut answers: Vec<_> = keys.iter().map(|key| Ok(self.lock().get(key).cloned())).collect();
        if self.flaw == Flaw::ReadsInReverse {
            answers.reverse();
        }
        answers
    }

    async fn release(&self, now_ms: u64, requests: &[ReleaseRequest]) -> Vec<Result<ReleaseAnswer, StoreError>> {
        let mut answers = Vec::new();
        for request in requests {
            let Answer::Release(answer) = self.apply(&request.key, request.into(), now_ms).await else {
                unreachable!()
            };
            answers.push(answer);
        }
        self.answers(answers)
    }
}

impl Commit<NoWrites> for Mutant {
    async fn complete(
        &self,
        now_ms: u64,
        requests: &[CompleteRequest<NoWrites>],
    ) -> Vec<Result<CompleteAnswer, StoreError>> {
        let mut answers = Vec::new();
        for request in requests {
            let Answer::Complete(answer) = self.apply(&request.key, request.into(), now_ms).await else {
                unreachable!()
            };
            answers.push(answer);
        }
        self.answers(answers)
    }

    async fn write(&self, _token: &Owner, _writes: &[NoWrites]) -> Result<CompleteAnswer, StoreError> {
        Ok(CompleteAnswer::Completed)
    }
}

// --- what a mutant decides otherwise --------------------------------------------------------------------------------

/// Decides on another record than the one there.
fn as_if(record: Option<&Record>, request: Request<'_>, now_ms: u64, change: impl FnOnce(&mut Record)) -> Decision {
    let mut record = record.cloned();
    if let Some(record) = &mut record {
        change(record);
    }
    decide(record.as_ref(), request, now_ms)
}

/// Decides on another claim than the one made.
fn as_if_claim(
    record: Option<&Record>,
    request: Request<'_>,
    now_ms: u64,
    change: impl FnOnce(&mut ClaimRequest),
) -> Decision {
    let Request::Claim(claim) = request else { return decide(record, request, now_ms) };
    let mut claim = claim.clone();
    change(&mut claim);
    decide(record, Request::Claim(&claim), now_ms)
}

/// Decides rightly and writes something else.
fn but_writes(
    record: Option<&Record>,
    request: Request<'_>,
    now_ms: u64,
    change: impl FnOnce(&mut Record),
) -> Decision {
    let mut decision = decide(record, request, now_ms);
    if let Some(record) = &mut decision.write {
        change(record);
    }
    decision
}

fn owner_of(record: Option<&Record>) -> Option<Owner> {
    record.and_then(|record| record.owner.clone())
}

fn with_attempt(mut decision: Decision, attempt: u64) -> Decision {
    if let (Some(record), Answer::Claim(ClaimAnswer::Claimed(claimed))) = (&mut decision.write, &mut decision.answer) {
        record.attempt = Some(attempt);
        *claimed = Claimed { attempt, ..*claimed };
    }
    decision
}

fn stored_result(request: Request<'_>) -> Option<&StoredResult> {
    match request {
        Request::Complete { result, .. } => Some(result),
        _ => None,
    }
}

/// Which rule each breaks, and how.
const MUTANTS: [(&str, Decide); 32] = [
    ("a completion without the owner condition", |record, request, now_ms| match (request, owner_of(record)) {
        (Request::Complete { result, retention_end_s, .. }, Some(owner)) => {
            decide(record, Request::Complete { owner: &owner, result, retention_end_s }, now_ms)
        }
        _ => decide(record, request, now_ms),
    }),
    ("a release without the owner condition", |record, request, now_ms| match (request, owner_of(record)) {
        (Request::Release { kind, .. }, Some(owner)) => {
            decide(record, Request::Release { owner: &owner, kind }, now_ms)
        }
        _ => decide(record, request, now_ms),
    }),
    ("a release without the status condition", |record, request, now_ms| {
        let releases = matches!(request, Request::Release { .. });
        as_if(record, request, now_ms, |record| {
            if releases {
                record.status = Status::InProgress;
            }
        })
    }),
    ("a release by deletion", |record, request, now_ms| {
        let releases = matches!(request, Request::Release { kind: ReleaseKind::Now, .. });
        but_writes(record, request, now_ms, |record| {
            if releases {
                *record = Record { attempt: None, tries: 0, retention_end_s: 0, ..record.clone() };
            }
        })
    }),
    ("a release that keeps the fingerprint", |record, request, now_ms| {
        let fingerprint = record.and_then(|record| record.fingerprint.clone());
        let releases = matches!(request, Request::Release { .. });
        but_writes(record, request, now_ms, |record| {
            if releases {
                record.fingerprint = fingerprint;
            }
        })
    }),
    ("a released lease that ends at 0", |record, request, now_ms| {
        but_writes(record, request, now_ms, |record| {
            if record.lease_end_ms == Some(1) {
                record.lease_end_ms = Some(0);
            }
        })
    }),
    ("a deferral that makes leases longer", |record, request, now_ms| match request {
        Request::Release { kind: ReleaseKind::Deferred { .. }, .. } => {
            as_if(record, request, now_ms, |record| record.lease_end_ms = Some(u64::MAX))
        }
        _ => decide(record, request, now_ms),
    }),
    ("a deferral that releases", |record, request, now_ms| match request {
        Request::Release { owner, .. } => decide(record, Request::Release { owner, kind: ReleaseKind::Now }, now_ms),
        _ => decide(record, request, now_ms),
    }),
    ("an attempt that is the time", |record, request, now_ms| with_attempt(decide(record, request, now_ms), now_ms)),
    ("an attempt that is counted from 1", |record, request, now_ms| {
        let old = record.and_then(|record| record.attempt).unwrap_or(0);
        with_attempt(decide(record, request, now_ms), old + 1)
    }),
    ("tries that are not counted", |record, request, now_ms| {
        let mut decision = as_if(record, request, now_ms, |record| record.tries = 0);
        if let Answer::Claim(ClaimAnswer::Claimed(claimed)) = &mut decision.answer {
            claimed.tries = 1;
        }
        decision
    }),
    ("an own write that is not recognised", |record, request, now_ms| match request {
        Request::Claim(_) => as_if(record, request, now_ms, |record| record.owner = Some(Owner::new("nobody"))),
        _ => decide(record, request, now_ms),
    }),
    ("an own write that is recognised within its lease only", |record, request, now_ms| match request {
        Request::Claim(_) if record.is_some_and(|record| !record.is_leased(now_ms)) => {
            as_if(record, request, now_ms, |record| record.owner = None)
        }
        _ => decide(record, request, now_ms),
    }),
    ("a live lease that is taken over", |record, request, now_ms| {
        as_if(record, request, now_ms, |record| record.lease_end_ms = record.lease_end_ms.map(|_| now_ms - 1))
    }),
    ("a lease without its last millisecond", |record, request, now_ms| match request {
        Request::Claim(_) if record.is_some_and(|record| record.lease_end_ms == Some(now_ms)) => {
            as_if(record, request, now_ms, |record| record.lease_end_ms = Some(now_ms - 1))
        }
        _ => decide(record, request, now_ms),
    }),
    ("a busy answer with another end", |record, request, now_ms| {
        let mut decision = decide(record, request, now_ms);
        if let Answer::Claim(ClaimAnswer::Busy { until_ms }) = &mut decision.answer {
            *until_ms = now_ms;
        }
        decision
    }),
    ("a fingerprint that is ignored", |record, request, now_ms| {
        let stored = record.and_then(|record| record.fingerprint.clone());
        as_if_claim(record, request, now_ms, |claim| claim.fingerprint = stored.or(claim.fingerprint.take()))
    }),
    ("a busy answer to the same fingerprint only", |record, request, now_ms| match request {
        Request::Claim(claim) if claim.fingerprint.as_ref() != record.and_then(|it| it.fingerprint.as_ref()) => {
            as_if(record, request, now_ms, |record| record.lease_end_ms = record.lease_end_ms.min(Some(now_ms - 1)))
        }
        _ => decide(record, request, now_ms),
    }),
    ("fingerprints that do not compare and count as different", |record, request, now_ms| match (request, record) {
        (Request::Claim(claim), Some(found))
            if compare(found.fingerprint.as_ref(), claim.fingerprint.as_ref()) == Comparison::NotComparable =>
        {
            let decision = decide(record, request, now_ms);
            match decision.answer {
                Answer::Claim(ClaimAnswer::Duplicate { .. }) => {
                    Decision { write: None, answer: Answer::Claim(ClaimAnswer::Conflict) }
                }
                _ => decision,
            }
        }
        _ => decide(record, request, now_ms),
    }),
    ("parked work that is run again", |record, request, now_ms| {
        as_if_claim(record, request, now_ms, |claim| claim.on_lapsed_lease = OnLapsedLease::Retry)
    }),
    ("released work that is parked", |record, request, now_ms| {
        as_if(record, request, now_ms, |record| {
            if record.is_released() {
                record.lease_end_ms = Some(2);
            }
        })
    }),
    ("retention that never ends", |record, request, now_ms| {
        as_if(record, request, now_ms, |record| record.retention_end_s = u64::MAX >> 12)
    }),
    ("retention in milliseconds", |record, request, now_ms| {
        as_if(record, request, now_ms, |record| record.retention_end_s /= 1_000)
    }),
    ("retention without its last second", |record, request, now_ms| {
        as_if(record, request, now_ms, |record| record.retention_end_s -= 1)
    }),
    ("an old result that stays", |record, request, now_ms| {
        let old = record.map_or(StoredResult::None, |record| record.result.clone());
        but_writes(record, request, now_ms, |record| {
            if record.result == StoredResult::None {
                record.result = old;
            }
        })
    }),
    ("a result that is written anew", |record, request, now_ms| {
        but_writes(record, request, now_ms, |record| {
            if let StoredResult::Kept(json) = &record.result {
                record.result = StoredResult::Kept(json.trim().into());
            }
        })
    }),
    ("a marker that is lost", |record, request, now_ms| {
        but_writes(record, request, now_ms, |record| {
            if record.result == StoredResult::NotKept {
                record.result = StoredResult::None;
            }
        })
    }),
    ("a second completion that is lost", |record, request, now_ms| {
        let completes = stored_result(request).is_some();
        as_if(record, request, now_ms, |record| {
            if completes && record.status == Status::Completed {
                record.owner = None;
                record.retention_end_s = 0;
            }
        })
    }),
    ("a second completion that overwrites the first", |record, request, now_ms| {
        let completes = stored_result(request).is_some();
        as_if(record, request, now_ms, |record| {
            if completes {
                record.status = Status::InProgress;
            }
        })
    }),
    ("a completion by another that is lost", |record, request, now_ms| {
        let mut decision = decide(record, request, now_ms);
        if decision.answer == Answer::Complete(CompleteAnswer::CompletedByOther) {
            decision.answer = Answer::Complete(CompleteAnswer::Lost);
        }
        decision
    }),
    ("a completion that is refused after the lease", |record, request, now_ms| match request {
        Request::Complete { .. } if record.is_some_and(|record| !record.is_leased(now_ms)) => {
            as_if(record, request, now_ms, |record| record.owner = None)
        }
        _ => decide(record, request, now_ms),
    }),
    ("a completion that leaves retention as it was", |record, request, now_ms| {
        let (completes, old_s) = (stored_result(request).is_some(), record.map(|record| record.retention_end_s));
        but_writes(record, request, now_ms, |record| {
            if let (true, Some(old_s)) = (completes, old_s) {
                record.retention_end_s = old_s;
            }
        })
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_mutant_fails_a_case() {
    for (name, decide) in MUTANTS {
        let checked = conformance::check(&Mutant::new(decide, Flaw::None)).await;
        assert!(checked.is_err(), "no case fails {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mutant_fails_a_history() {
    for (name, decide) in MUTANTS {
        if name == "a result that is written anew" {
            // Histories compare lengths and kinds of results; texts are a matter of the cases.
            continue;
        }
        let checked =
            conformance::check_histories(&Mutant::new(decide, Flaw::None), Histories::random(2_000, 40)).await;
        assert!(checked.is_err(), "no history fails {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flaw_fails_a_case() {
    for flaw in [Flaw::Races, Flaw::AnswersInReverse, Flaw::FirstRequestOnly, Flaw::ReadsInReverse] {
        let checked = conformance::check(&Mutant::new(decide, flaw)).await;
        assert!(checked.is_err(), "no case fails {flaw:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_a_flaw_passes() {
    let store = Mutant::new(decide, Flaw::None);
    conformance::check(&store).await.expect("it obeys");
    conformance::check_histories(&store, Histories::random(200, 40)).await.expect("it obeys");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_names_the_cases_and_a_short_history() {
    let (name, decide) = MUTANTS[0];
    let store = Mutant::new(decide, Flaw::None);
    let cases = conformance::check(&store).await.expect_err(name).to_string();
    assert!(cases.contains("completions::a_stale_owner_completes_nothing: the answer: expected Lost"), "{cases}");
    let histories = Histories { count: 2_000, steps: 40, seed: 7 };
    let found = conformance::check_histories(&store, histories).await.expect_err(name).to_string();
    assert!(found.contains("seed: 7") && found.lines().count() <= 4, "{found}");
    let again = conformance::check_histories(&store, histories).await.expect_err(name).to_string();
    let number = |text: &str| text.split_whitespace().skip_while(|word| *word != "history").nth(1).map(str::to_owned);
    assert_eq!(number(&found), number(&again), "one seed gives the same histories");
}
