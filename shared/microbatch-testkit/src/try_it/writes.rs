//! A memory store for processors that hand over writes.

use std::{
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
};

use microbatch::{
    Commit, Key, MemoryStore, NoWrites, Store, StoreError, WriteRefused,
    record::{Owner, Record, Status},
    transition::{ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, ReleaseAnswer, ReleaseRequest},
};

use super::lock;

/// Says which write of an item is refused, if any.
type Judge<W> = dyn Fn(&[W]) -> Option<WriteRefused> + Send + Sync;

/// A [`MemoryStore`] that commits writes of any type with the completion: it keeps them. Clones are one store.
///
/// ```
/// use microbatch::{Done, ItemContext, Outcome, Pipeline, ProcessError, Processor};
/// use microbatch_testkit::{TestPipeline, try_it::KeepingStore};
///
/// struct Book;
///
/// impl Processor for Book {
///     type Item = serde_json::Value;
///     type Output = ();
///     type Write = String; // with DynamoDB, `DynamoDbWrite`
///
///     async fn process(&self, item: serde_json::Value, _cx: &ItemContext) -> Result<Done<(), String>, ProcessError> {
///         Ok(Done::with_writes((), vec![format!("put {}", item["id"])]))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = KeepingStore::default();
/// let bench = TestPipeline::setup(Pipeline::builder(Book).key("id")).store(store.clone()).start();
/// assert_eq!(bench.send([r#"{"id":7}"#]).await.outcomes(), [Outcome::Processed]);
/// assert_eq!(store.committed(), [["put 7"]]);
/// # }
/// ```
pub struct KeepingStore<W> {
    records: MemoryStore,
    committed: Arc<Mutex<Vec<Vec<W>>>>,
    judge: Arc<Judge<W>>,
}

impl<W> Default for KeepingStore<W> {
    fn default() -> Self {
        Self::refusing(|_| None)
    }
}

impl<W> KeepingStore<W> {
    /// Refuses an item's writes where this says so, as a database whose condition does not hold.
    pub fn refusing(judge: impl Fn(&[W]) -> Option<WriteRefused> + Send + Sync + 'static) -> Self {
        Self { records: MemoryStore::new(), committed: Arc::default(), judge: Arc::new(judge) }
    }

    /// The records.
    pub fn records(&self) -> &MemoryStore {
        &self.records
    }
}

impl<W: Clone> KeepingStore<W> {
    /// The writes of each item that had any, in the order in which they were committed.
    pub fn committed(&self) -> Vec<Vec<W>> {
        lock(&self.committed).clone()
    }

    fn commit(&self, writes: &[W]) {
        if !writes.is_empty() {
            lock(&self.committed).push(writes.to_vec());
        }
    }
}

impl<W: Send + Sync + 'static> Store for KeepingStore<W> {
    fn chunk_size(&self) -> NonZeroUsize {
        self.records.chunk_size()
    }

    async fn claim(&self, now_ms: u64, requests: &[ClaimRequest]) -> Vec<Result<ClaimAnswer, StoreError>> {
        self.records.claim(now_ms, requests).await
    }

    async fn read(&self, keys: &[Key]) -> Vec<Result<Option<Record>, StoreError>> {
        self.records.read(keys).await
    }

    async fn release(&self, now_ms: u64, requests: &[ReleaseRequest]) -> Vec<Result<ReleaseAnswer, StoreError>> {
        self.records.release(now_ms, requests).await
    }
}

impl<W: Clone + Send + Sync + 'static> Commit<W> for KeepingStore<W> {
    async fn write(&self, _token: &Owner, writes: &[W]) -> Result<CompleteAnswer, StoreError> {
        if let Some(refused) = (self.judge)(writes) {
            return Ok(CompleteAnswer::WriteRefused(refused));
        }
        self.commit(writes);
        Ok(CompleteAnswer::Completed)
    }

    async fn complete(&self, now_ms: u64, requests: &[CompleteRequest<W>]) -> Vec<Result<CompleteAnswer, StoreError>> {
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            // Nobody but the owner, who asks here, ends a claim that it holds.
            let is_held = self.records.get(&request.key).is_some_and(|record| {
                record.status == Status::InProgress && record.owner.as_ref() == Some(&request.owner)
            });
            if let Some(refused) = (self.judge)(&request.writes).filter(|_| is_held) {
                answers.push(Ok(CompleteAnswer::WriteRefused(refused)));
                continue;
            }
            let completion = CompleteRequest::<NoWrites> {
                key: request.key.clone(),
                owner: request.owner.clone(),
                result: request.result.clone(),
                retention_end_s: request.retention_end_s,
                writes: Vec::new(),
            };
            let answer = self.records.complete(now_ms, std::slice::from_ref(&completion)).await;
            if is_held && answer == [Ok(CompleteAnswer::Completed)] {
                self.commit(&request.writes);
            }
            answers.extend(answer);
        }
        answers
    }
}

impl<W> Clone for KeepingStore<W> {
    fn clone(&self) -> Self {
        Self { records: self.records.clone(), committed: Arc::clone(&self.committed), judge: Arc::clone(&self.judge) }
    }
}

impl<W> fmt::Debug for KeepingStore<W> {
    // Writes are the user's data, and debug output ends in logs (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepingStore").field("committed", &lock(&self.committed).len()).finish_non_exhaustive()
    }
}
