//! A store that fails on purpose.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use microbatch::{
    Commit, Key, Store, StoreError,
    record::{Owner, Record},
    store::StoreErrorKind,
    transition::{ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, ReleaseAnswer, ReleaseRequest},
};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A claim.
    Claim,
    /// A completion.
    Complete,
    /// A release or a deferral.
    Release,
    /// A read.
    Read,
}

/// A request that is about to be made.
#[derive(Debug)]
pub struct FaultPoint<'a> {
    /// What it asks for.
    pub operation: Operation,
    /// How many requests of any kind came before.
    pub nth: u64,
    /// Of which key.
    pub key: &'a Key,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It is made.
    None,
    /// It is made after this time.
    Delay(Duration),
    /// It is refused and not made.
    Before(StoreErrorKind),
    /// It is made, and its answer lost.
    After(StoreErrorKind),
    /// It is not made and never answered.
    HangBefore,
    /// It is made and never answered.
    HangAfter,
}

/// Decides on each request.
pub type Faults = dyn Fn(&FaultPoint<'_>) -> Fault + Send + Sync;

/// Wraps a store and makes its requests fail as it is told. Clones share their count.
#[derive(Clone)]
pub struct FaultStore<S> {
    inner: S,
    faults: Arc<Faults>,
    count: Arc<AtomicU64>,
}

impl<S> FaultStore<S> {
    /// `inner`, with `faults`.
    pub fn new(inner: S, faults: impl Fn(&FaultPoint<'_>) -> Fault + Send + Sync + 'static) -> Self {
        Self { inner, faults: Arc::new(faults), count: Arc::default() }
    }

    /// How many requests were made or refused.
    pub fn requests(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The fault of a request: an error in place of the request, or what comes after it.
    async fn before(&self, operation: Operation, key: &Key) -> Result<Fault, StoreError> {
        let nth = self.count.fetch_add(1, Ordering::Relaxed);
        let fault = (self.faults)(&FaultPoint { operation, nth, key });
        match fault {
            Fault::Delay(delay) => tokio::time::sleep(delay).await,
            Fault::Before(kind) => return Err(StoreError::new(kind, "on purpose, before")),
            Fault::HangBefore => std::future::pending().await,
            Fault::None | Fault::After(_) | Fault::HangAfter => {}
        }
        Ok(fault)
    }
}

async fn after<A>(fault: Fault, answers: Vec<Result<A, StoreError>>) -> Vec<Result<A, StoreError>> {
    match fault {
        Fault::After(kind) => answers.into_iter().map(|_| Err(StoreError::new(kind, "on purpose, after"))).collect(),
        Fault::HangAfter => std::future::pending().await,
        _ => answers,
    }
}

impl<S: Store> Store for FaultStore<S> {
    fn chunk_size(&self) -> NonZeroUsize {
        self.inner.chunk_size()
    }

    async fn claim(&self, now_ms: u64, requests: &[ClaimRequest]) -> Vec<Result<ClaimAnswer, StoreError>> {
        let mut answers = Vec::new();
        for request in requests {
            answers.extend(match self.before(Operation::Claim, &request.key).await {
                Ok(fault) => after(fault, self.inner.claim(now_ms, std::slice::from_ref(request)).await).await,
                Err(error) => vec![Err(error)],
            });
        }
        answers
    }

    async fn read(&self, keys: &[Key]) -> Vec<Result<Option<Record>, StoreError>> {
        let mut answers = Vec::new();
        for key in keys {
            answers.extend(match self.before(Operation::Read, key).await {
                Ok(fault) => after(fault, self.inner.read(std::slice::from_ref(key)).await).await,
                Err(error) => vec![Err(error)],
            });
        }
        answers
    }

    async fn release(&self, now_ms: u64, requests: &[ReleaseRequest]) -> Vec<Result<ReleaseAnswer, StoreError>> {
        let mut answers = Vec::new();
        for request in requests {
            answers.extend(match self.before(Operation::Release, &request.key).await {
                Ok(fault) => after(fault, self.inner.release(now_ms, std::slice::from_ref(request)).await).await,
                Err(error) => vec![Err(error)],
            });
        }
        answers
    }
}

impl<W: Send + Sync, S: Commit<W>> Commit<W> for FaultStore<S> {
    /// Passed on as it is: without a record there is no key to decide a fault by.
    async fn write(&self, token: &Owner, writes: &[W]) -> Result<CompleteAnswer, StoreError> {
        self.inner.write(token, writes).await
    }

    async fn complete(&self, now_ms: u64, requests: &[CompleteRequest<W>]) -> Vec<Result<CompleteAnswer, StoreError>> {
        let mut answers = Vec::new();
        for request in requests {
            answers.extend(match self.before(Operation::Complete, &request.key).await {
                Ok(fault) => after(fault, self.inner.complete(now_ms, std::slice::from_ref(request)).await).await,
                Err(error) => vec![Err(error)],
            });
        }
        answers
    }
}
