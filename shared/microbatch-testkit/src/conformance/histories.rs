//! Random histories: a store's answers beside those of `decide` on a map.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use microbatch::{
    Commit, Key, NoWrites,
    record::{Owner, Record, StoredResult},
    transition::{Answer, ClaimRequest, CompleteRequest, OnLapsedLease, ReleaseKind, ReleaseRequest, Request, decide},
};
use proptest::{
    collection::vec,
    prelude::{Just, Strategy, prop_oneof},
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::case::{Case, Checked, expect, fingerprint, kept};

/// How many random histories to try, and how long they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histories {
    /// How many.
    pub count: u32,
    /// How many steps each has at most. A step makes one to four requests.
    pub steps: usize,
    /// Decides on all of them.
    pub seed: u64,
}

impl Histories {
    /// As many of at most that many steps, others in each run. A failure names the seed.
    pub fn random(count: u32, steps: usize) -> Self {
        Self { count, steps, seed: RandomState::new().hash_one(0) }
    }
}

/// How many keys and owners a history has: few, so that they meet.
const KEYS: usize = 4;
const OWNERS: usize = 3;

/// Some requests of one kind, at a time.
#[derive(Debug, Clone)]
struct Step {
    /// How the clock moves before: also back, as another worker's may be behind.
    moves_ms: i64,
    first_key: usize,
    asked: Asked,
}

/// What is asked of the first key, the one after it, and so on.
#[derive(Debug, Clone)]
enum Asked {
    Claims(Vec<Claim>),
    Completions(Vec<Completion>),
    Releases(Vec<(usize, Option<i64>)>),
}

#[derive(Debug, Clone)]
struct Claim {
    owner: usize,
    fingerprint: Option<&'static str>,
    lease_ms: u64,
    retention_s: u64,
    parks: bool,
}

#[derive(Debug, Clone)]
struct Completion {
    owner: usize,
    result: Option<&'static str>,
    retention_s: u64,
}

fn history(steps: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..=steps.max(1))
}

fn step() -> impl Strategy<Value = Step> {
    let moves_ms = prop_oneof![4 => Just(0), 3 => 1_i64..20, 3 => 500_i64..2_500, 1 => -600_i64..0];
    let asked = prop_oneof![
        5 => vec(claim(), 1..=KEYS).prop_map(Asked::Claims),
        3 => vec(completion(), 1..=KEYS).prop_map(Asked::Completions),
        3 => vec((0..OWNERS, prop_oneof![Just(None), (-500_i64..2_500).prop_map(Some)]), 1..=KEYS)
            .prop_map(Asked::Releases),
    ];
    (moves_ms, 0..KEYS, asked).prop_map(|(moves_ms, first_key, asked)| Step { moves_ms, first_key, asked })
}

fn claim() -> impl Strategy<Value = Claim> {
    let fingerprints = vec![Some("v1:a"), Some("v1:a"), Some("v1:b"), Some("v2:a"), Some("abc"), None];
    let on_lapse = prop_oneof![3 => Just(false), 1 => Just(true)];
    (0..OWNERS, select(fingerprints), 0_u64..2_000, 1_u64..8, on_lapse).prop_map(
        |(owner, fingerprint, lease_ms, retention_s, parks)| Claim { owner, fingerprint, lease_ms, retention_s, parks },
    )
}

/// Results of different lengths, which is all of them that is shown.
fn completion() -> impl Strategy<Value = Completion> {
    let results = vec![None, Some("1"), Some("\"\u{1F600}\""), Some("not kept")];
    (0..OWNERS, select(results), 1_u64..8).prop_map(|(owner, result, retention_s)| Completion {
        owner,
        result,
        retention_s,
    })
}

/// Tries the histories, and makes the first that the store fails as short as it can.
pub(super) async fn check<S: Commit<NoWrites>>(store: &Arc<S>, histories: Histories) -> Checked {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&histories.seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let strategy = history(histories.steps);
    for nth in 0..histories.count {
        let mut tree = strategy.new_tree(&mut runner).map_err(|reason| format!("no history: {reason}"))?;
        let Err(mut violation) = run(store, &tree.current()).await else { continue };
        let mut shortest = tree.current();
        let mut goes_on = tree.simplify();
        while goes_on {
            let history = tree.current();
            goes_on = match run(store, &history).await {
                Err(found) => {
                    (violation, shortest) = (found, history);
                    tree.simplify()
                }
                Ok(()) => tree.complicate(),
            };
        }
        return Err(describe(nth, histories, &violation, &shortest));
    }
    Ok(())
}

fn describe(nth: u32, histories: Histories, violation: &str, shortest: &[Step]) -> String {
    let mut text = format!("history {nth} of {histories:?}, made shorter: {violation}");
    for (nth, step) in shortest.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  {nth}: {step:?}");
    }
    text
}

/// One history under way: the store, the map that it must equal, and the time.
struct Run<S> {
    case: Case<S>,
    keys: Vec<Key>,
    owners: Vec<Owner>,
    now_ms: u64,
    model: HashMap<Key, Record>,
}

async fn run<S: Commit<NoWrites>>(store: &Arc<S>, history: &[Step]) -> Checked {
    let case = Case::new(Arc::clone(store), "histories");
    let keys: Vec<Key> = (0..KEYS).map(|_| case.key()).collect();
    let owners = (0..OWNERS).map(|_| case.request(&keys[0]).owner).collect();
    let mut run = Run { now_ms: case.now_ms, case, keys, owners, model: HashMap::new() };
    for (nth, step) in history.iter().enumerate() {
        run.step(step).await.map_err(|violation| format!("step {nth}: {violation}"))?;
    }
    let expected = run.keys.iter().map(|key| run.model.get(key).cloned()).collect();
    expect("the records at the end", run.case.read_all(&run.keys).await?, expected)
}

impl<S: Commit<NoWrites>> Run<S> {
    async fn step(&mut self, step: &Step) -> Checked {
        self.now_ms = self.now_ms.saturating_add_signed(step.moves_ms).max(self.case.now_ms);
        let keys: Vec<Key> = (0..KEYS).map(|nth| self.keys[(step.first_key + nth) % KEYS].clone()).collect();
        let chunk = self.case.store.chunk_size().get();
        let now_ms = self.now_ms;
        match &step.asked {
            Asked::Claims(claims) => {
                let requests: Vec<_> = keys.iter().zip(claims).map(|(key, claim)| self.claim(key, claim)).collect();
                for call in requests.chunks(chunk) {
                    let found = self.case.claim_all(now_ms, call).await?;
                    self.compare(call, |it| &it.key, |it| it.into(), found.into_iter().map(Answer::Claim))?;
                }
            }
            Asked::Completions(completions) => {
                let requests: Vec<_> = keys.iter().zip(completions).map(|(key, it)| self.completion(key, it)).collect();
                for call in requests.chunks(chunk) {
                    let found = self.case.complete_all(now_ms, call).await?;
                    self.compare(call, |it| &it.key, |it| it.into(), found.into_iter().map(Answer::Complete))?;
                }
            }
            Asked::Releases(releases) => {
                let requests: Vec<_> = keys.iter().zip(releases).map(|(key, it)| self.release(key, *it)).collect();
                for call in requests.chunks(chunk) {
                    let found = self.case.release_all(now_ms, call).await?;
                    self.compare(call, |it| &it.key, |it| it.into(), found.into_iter().map(Answer::Release))?;
                }
            }
        }
        Ok(())
    }

    fn compare<R: std::fmt::Debug>(
        &mut self,
        call: &[R],
        key_of: impl Fn(&R) -> &Key,
        request_of: impl for<'r> Fn(&'r R) -> Request<'r>,
        found: impl Iterator<Item = Answer>,
    ) -> Checked {
        let mut seen = HashSet::new();
        for (request, found) in call.iter().zip(found) {
            let key = key_of(request);
            // A call has no key twice, by the contract of `Store`.
            assert!(seen.insert(key), "a call with a key twice");
            let before = self.model.get(key).cloned();
            let decision = decide(before.as_ref(), request_of(request), self.now_ms);
            if found != decision.answer {
                let now_ms = self.now_ms;
                return Err(format!(
                    "at {now_ms} expected {:?}, found {found:?}, for {request:?} of {before:?}",
                    decision.answer
                ));
            }
            if let Some(record) = decision.write {
                self.model.insert(key.clone(), record);
            }
        }
        Ok(())
    }

    fn claim(&self, key: &Key, claim: &Claim) -> ClaimRequest {
        ClaimRequest {
            key: key.clone(),
            owner: self.owners[claim.owner].clone(),
            fingerprint: claim.fingerprint.map(fingerprint),
            lease_end_ms: self.now_ms + claim.lease_ms,
            retention_end_s: self.now_ms / 1_000 + claim.retention_s,
            on_lapsed_lease: if claim.parks { OnLapsedLease::Park } else { OnLapsedLease::Retry },
        }
    }

    fn completion(&self, key: &Key, completion: &Completion) -> CompleteRequest<NoWrites> {
        let result = match completion.result {
            None => StoredResult::None,
            Some("not kept") => StoredResult::NotKept,
            Some(json) => kept(json),
        };
        CompleteRequest {
            key: key.clone(),
            owner: self.owners[completion.owner].clone(),
            result,
            retention_end_s: self.now_ms / 1_000 + completion.retention_s,
            writes: Vec::new(),
        }
    }

    fn release(&self, key: &Key, (owner, later_ms): (usize, Option<i64>)) -> ReleaseRequest {
        let kind = later_ms.map_or(ReleaseKind::Now, |later_ms| ReleaseKind::Deferred {
            lease_end_ms: self.now_ms.saturating_add_signed(later_ms),
        });
        ReleaseRequest { key: key.clone(), owner: self.owners[owner].clone(), kind }
    }
}
