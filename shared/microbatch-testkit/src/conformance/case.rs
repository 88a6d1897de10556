//! What a case is written with: fresh keys and owners, requests with defaults, calls of one request, expectations.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use microbatch::{
    Commit, Key, NoWrites, StoreError,
    record::{Fingerprint, Owner, Record, StoredResult},
    transition::{
        ClaimAnswer, ClaimRequest, Claimed, CompleteAnswer, CompleteRequest, OnLapsedLease, ReleaseAnswer, ReleaseKind,
        ReleaseRequest,
    },
};

/// What came of a case, or of a part of it.
pub(super) type Checked<T = ()> = Result<T, String>;

/// How long the lease of a case's claims is.
pub(super) const LEASE_MS: u64 = 30_000;
/// How long a case's records are kept.
pub(super) const RETENTION_S: u64 = 3_600;
/// How often a request is made that fails in a way that may pass.
const TRIES_MAX: u32 = 3;
const BACKOFF: Duration = Duration::from_millis(100);

/// One case at work on a store.
#[derive(Debug)]
pub(super) struct Case<S> {
    pub(super) store: Arc<S>,
    /// When the case starts, at a full second.
    pub(super) now_ms: u64,
    name: &'static str,
}

impl<S> Clone for Case<S> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), ..*self }
    }
}

impl<S> Case<S> {
    pub(super) fn new(store: Arc<S>, name: &'static str) -> Self {
        // The time of the machine, so that a table's own expiry keeps the records of a case for its length, and then drops them.
        let now_ms = since_epoch().as_secs() * 1_000;
        Self { store, now_ms, name }
    }

    /// A key that nobody has used before.
    pub(super) fn key(&self) -> Key {
        Key::from_stored(format!("conformance-{}#{}", self.name, unique()))
    }

    /// A claim of `key` by a new owner at the case's start.
    pub(super) fn request(&self, key: &Key) -> ClaimRequest {
        self.request_at(self.now_ms, key)
    }

    /// A claim of `key` by a new owner.
    pub(super) fn request_at(&self, now_ms: u64, key: &Key) -> ClaimRequest {
        ClaimRequest {
            key: key.clone(),
            owner: Owner::new(format!("owner-{}-{}", self.name, unique())),
            fingerprint: Some(fingerprint("v1:same")),
            lease_end_ms: now_ms + LEASE_MS,
            retention_end_s: now_ms / 1_000 + RETENTION_S,
            on_lapsed_lease: OnLapsedLease::Retry,
        }
    }
}

/// The answers to a call, in order. What failed in a way that may pass is asked again, alone.
macro_rules! answers {
    ($case:ident.$operation:ident, [$($now_ms:ident)?], $requests:ident) => {{
        let first = $case.store.$operation($($now_ms,)? $requests).await;
        expect("the number of answers", first.len(), $requests.len())?;
        let mut answers = Vec::with_capacity(first.len());
        for (request, mut answer) in $requests.iter().zip(first) {
            for nth in 1..TRIES_MAX {
                if !answer.as_ref().is_err_and(StoreError::is_retryable) {
                    break;
                }
                tokio::time::sleep(BACKOFF * nth).await;
                let again = $case.store.$operation($($now_ms,)? std::slice::from_ref(request)).await.pop();
                answer = again.ok_or("expected an answer, found none")?;
            }
            answers.push(answer.map_err(|error| format!("expected an answer, found: {error}"))?);
        }
        answers
    }};
}

impl<S: Commit<NoWrites>> Case<S> {
    pub(super) async fn claim_all(&self, now_ms: u64, claims: &[ClaimRequest]) -> Checked<Vec<ClaimAnswer>> {
        Ok(answers!(self.claim, [now_ms], claims))
    }

    pub(super) async fn complete_all(
        &self,
        now_ms: u64,
        completions: &[CompleteRequest<NoWrites>],
    ) -> Checked<Vec<CompleteAnswer>> {
        Ok(answers!(self.complete, [now_ms], completions))
    }

    pub(super) async fn release_all(&self, now_ms: u64, releases: &[ReleaseRequest]) -> Checked<Vec<ReleaseAnswer>> {
        Ok(answers!(self.release, [now_ms], releases))
    }

    pub(super) async fn read_all(&self, keys: &[Key]) -> Checked<Vec<Option<Record>>> {
        Ok(answers!(self.read, [], keys))
    }

    pub(super) async fn read(&self, key: &Key) -> Checked<Option<Record>> {
        the_one(self.read_all(std::slice::from_ref(key)).await?)
    }

    pub(super) async fn claim(&self, now_ms: u64, claim: &ClaimRequest) -> Checked<ClaimAnswer> {
        the_one(self.claim_all(now_ms, std::slice::from_ref(claim)).await?)
    }

    /// A claim that must succeed.
    pub(super) async fn win(&self, now_ms: u64, claim: &ClaimRequest) -> Checked<Claimed> {
        match self.claim(now_ms, claim).await? {
            ClaimAnswer::Claimed(claimed) => Ok(claimed),
            other => Err(format!("expected the claim to succeed, found {other:?}")),
        }
    }

    /// A new key, claimed at the case's start.
    pub(super) async fn held(&self) -> Checked<ClaimRequest> {
        let claim = self.request(&self.key());
        self.win(self.now_ms, &claim).await?;
        Ok(claim)
    }

    /// A new key, claimed and completed at the case's start.
    pub(super) async fn completed(&self, result: &StoredResult) -> Checked<ClaimRequest> {
        let claim = self.held().await?;
        let answer = self.complete(self.now_ms, &claim, result).await?;
        expect("the owner's completion", answer, CompleteAnswer::Completed)?;
        Ok(claim)
    }

    pub(super) async fn complete(
        &self,
        now_ms: u64,
        claim: &ClaimRequest,
        result: &StoredResult,
    ) -> Checked<CompleteAnswer> {
        the_one(self.complete_all(now_ms, &[completion(claim, result)]).await?)
    }

    pub(super) async fn release(&self, now_ms: u64, claim: &ClaimRequest, kind: ReleaseKind) -> Checked<ReleaseAnswer> {
        the_one(self.release_all(now_ms, &[release(claim, kind)]).await?)
    }

    /// The answer to somebody else's claim of the same key, with the same fingerprint.
    pub(super) async fn ask(&self, now_ms: u64, key: &Key) -> Checked<ClaimAnswer> {
        self.claim(now_ms, &self.request_at(now_ms, key)).await
    }

    /// Checks that the key is still held by this claim, to the end of its lease and by its owner.
    pub(super) async fn expect_held(&self, now_ms: u64, claim: &ClaimRequest) -> Checked {
        expect("another claim's answer", self.ask(now_ms, &claim.key).await?, busy(claim.lease_end_ms))?;
        let answer = self.complete(now_ms, claim, &kept("\"by its holder\"")).await?;
        expect("the holder's completion", answer, CompleteAnswer::Completed)
    }

    /// Checks that there is no record of the key.
    pub(super) async fn expect_absent(&self, now_ms: u64, key: &Key) -> Checked {
        let claim = self.request_at(now_ms, key);
        let answer = self.claim(now_ms, &claim).await?;
        expect("the claim of a key that must be absent", answer, claimed(now_ms, 1, &claim))
    }
}

fn the_one<A>(answers: Vec<A>) -> Checked<A> {
    answers.into_iter().next().ok_or_else(|| "expected an answer, found none".to_owned())
}

/// A text that nobody has used before, on any machine.
fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{:x}-{count}", since_epoch().as_nanos(), std::process::id())
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(super) fn fingerprint(text: &str) -> Fingerprint {
    Fingerprint::new(text)
}

pub(super) fn kept(json: &str) -> StoredResult {
    StoredResult::Kept(json.into())
}

pub(super) fn completion(claim: &ClaimRequest, result: &StoredResult) -> CompleteRequest<NoWrites> {
    CompleteRequest {
        key: claim.key.clone(),
        owner: claim.owner.clone(),
        result: result.clone(),
        retention_end_s: claim.retention_end_s,
        writes: Vec::new(),
    }
}

pub(super) fn release(claim: &ClaimRequest, kind: ReleaseKind) -> ReleaseRequest {
    ReleaseRequest { key: claim.key.clone(), owner: claim.owner.clone(), kind }
}

/// The answer to a claim that succeeds, its fingerprint compared.
pub(super) fn claimed(attempt: u64, tries: u64, claim: &ClaimRequest) -> ClaimAnswer {
    ClaimAnswer::Claimed(Claimed { attempt, tries, lease_end_ms: claim.lease_end_ms, compared: true })
}

pub(super) fn busy(until_ms: u64) -> ClaimAnswer {
    ClaimAnswer::Busy { until_ms }
}

pub(super) fn duplicate(result: &StoredResult) -> ClaimAnswer {
    ClaimAnswer::Duplicate { result: result.clone(), compared: true }
}

#[expect(clippy::needless_pass_by_value, reason = "both are made for the comparison, in nearly every line of a case")]
pub(super) fn expect<T: Debug + PartialEq>(what: &str, found: T, expected: T) -> Checked {
    if found == expected { Ok(()) } else { Err(format!("{what}: expected {expected:?}, found {found:?}")) }
}
