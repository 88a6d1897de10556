//! What a pipeline asks of its store, and how much it holds of what it has claimed and decoded.

use std::{
    cell::RefCell,
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use microbatch::{
    Clock, Commit, Done, ItemContext, Key, NoWrites, ProcessError, Processor, Store, StoreError,
    record::{Owner, Record},
    transition::{ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, ReleaseAnswer, ReleaseRequest},
};
use microbatch_testkit::{clock::TokioClock, fault::Operation};
use serde::Deserialize;

/// The requests of a pipeline.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// When each was made, by what it asked for.
    pub(crate) tries: HashMap<(Operation, Key), Vec<u64>>,
    /// Most requests in one call.
    pub(crate) largest_call: usize,
    /// Claims in flight, and claims that were won.
    claims: usize,
    /// Most claims in flight, and claims that were won whose items had not ended.
    pub(crate) unfinished_max: usize,
}

/// Watches the requests to a store.
#[derive(Clone)]
pub(crate) struct Watched<S> {
    inner: S,
    clock: TokioClock,
    requests: Arc<Mutex<Requests>>,
}

impl<S> Watched<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, clock: TokioClock::default(), requests: Arc::default() }
    }

    pub(crate) fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().expect("no panic")
    }

    fn note<'k>(&self, operation: Operation, keys: impl ExactSizeIterator<Item = &'k Key>) {
        let (now_ms, mut requests) = (self.clock.now_ms(), self.requests());
        requests.largest_call = requests.largest_call.max(keys.len());
        for key in keys {
            requests.tries.entry((operation, key.clone())).or_default().push(now_ms);
        }
    }
}

impl<S: Store> Store for Watched<S> {
    fn chunk_size(&self) -> NonZeroUsize {
        self.inner.chunk_size()
    }

    async fn claim(&self, now_ms: u64, requests: &[ClaimRequest]) -> Vec<Result<ClaimAnswer, StoreError>> {
        self.note(Operation::Claim, requests.iter().map(|request| &request.key));
        {
            let mut noted = self.requests();
            noted.claims += requests.len();
            noted.unfinished_max = noted.unfinished_max.max(noted.claims - GAUGE.with_borrow(|gauge| gauge.ended));
        }
        let answers = self.inner.claim(now_ms, requests).await;
        let lost = answers.iter().filter(|answer| !matches!(answer, Ok(ClaimAnswer::Claimed(_)))).count();
        self.requests().claims -= lost;
        answers
    }

    async fn read(&self, keys: &[Key]) -> Vec<Result<Option<Record>, StoreError>> {
        self.inner.read(keys).await
    }

    async fn release(&self, now_ms: u64, requests: &[ReleaseRequest]) -> Vec<Result<ReleaseAnswer, StoreError>> {
        self.note(Operation::Release, requests.iter().map(|request| &request.key));
        self.inner.release(now_ms, requests).await
    }
}

impl<S: Commit<NoWrites>> Commit<NoWrites> for Watched<S> {
    async fn write(&self, token: &Owner, writes: &[NoWrites]) -> Result<CompleteAnswer, StoreError> {
        self.inner.write(token, writes).await
    }

    async fn complete(
        &self,
        now_ms: u64,
        requests: &[CompleteRequest<NoWrites>],
    ) -> Vec<Result<CompleteAnswer, StoreError>> {
        self.note(Operation::Complete, requests.iter().map(|request| &request.key));
        self.inner.complete(now_ms, requests).await
    }
}

/// How much there is of what was decoded, on this thread: a case of a property has it to itself.
#[derive(Debug, Default, Clone)]
pub(crate) struct Gauge {
    pub(crate) decoded: usize,
    pub(crate) decoded_max: usize,
    pub(crate) decoded_bytes: usize,
    pub(crate) decoded_bytes_max: usize,
    running: usize,
    pub(crate) running_max: usize,
    /// Items that ended, however they did.
    pub(crate) ended: usize,
    pub(crate) runs: HashMap<String, usize>,
}

thread_local! {
    static GAUGE: RefCell<Gauge> = RefCell::default();
}

pub(crate) fn gauge() -> Gauge {
    GAUGE.with_borrow(Gauge::clone)
}

pub(crate) fn reset_gauge() {
    GAUGE.set(Gauge::default());
}

/// An item that is counted for as long as it is there.
pub(crate) struct Load {
    id: String,
    act: String,
    ms: u64,
    bytes: usize,
}

impl<'de> Deserialize<'de> for Load {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            id: String,
            act: String,
            ms: u64,
            padding: String,
        }
        let Fields { id, act, ms, padding } = Fields::deserialize(deserializer)?;
        let bytes = padding.len();
        GAUGE.with_borrow_mut(|gauge| {
            gauge.decoded += 1;
            gauge.decoded_max = gauge.decoded_max.max(gauge.decoded);
            gauge.decoded_bytes += bytes;
            gauge.decoded_bytes_max = gauge.decoded_bytes_max.max(gauge.decoded_bytes);
        });
        Ok(Self { id, act, ms, bytes })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        GAUGE.with_borrow_mut(|gauge| {
            gauge.decoded -= 1;
            gauge.decoded_bytes -= self.bytes;
        });
    }
}

/// A body of a [`Load`].
pub(crate) fn load(id: &str, act: &str, ms: u64, padding: usize) -> String {
    format!(r#"{{"id":"{id}","act":"{act}","ms":{ms},"padding":"{}"}}"#, "x".repeat(padding))
}

/// Works on [`Load`]s.
pub(crate) struct Worker;

struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        GAUGE.with_borrow_mut(|gauge| {
            gauge.running -= 1;
            gauge.ended += 1;
        });
    }
}

impl Processor for Worker {
    type Item = Load;
    type Output = ();
    type Write = NoWrites;

    async fn process(&self, item: Load, _cx: &ItemContext) -> Result<Done<()>, ProcessError> {
        GAUGE.with_borrow_mut(|gauge| {
            gauge.running += 1;
            gauge.running_max = gauge.running_max.max(gauge.running);
            *gauge.runs.entry(item.id.clone()).or_default() += 1;
        });
        let _running = Running;
        match item.act.as_str() {
            "hang" => std::future::pending().await,
            "panic" => std::panic::resume_unwind(Box::new("on purpose")),
            "fail" => return Err(ProcessError::transient(std::fmt::Error)),
            "permanent" => return Err(ProcessError::permanent(std::fmt::Error)),
            _ => tokio::time::sleep(Duration::from_millis(item.ms)).await,
        }
        Ok(().into())
    }
}
