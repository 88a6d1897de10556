//! Records in this process's memory: for tests and for trying things out. Nothing survives the process.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Commit, Store, StoreError};
use crate::{
    key::Key,
    processor::NoWrites,
    record::{Owner, Record},
    transition::{
        Answer, ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, ReleaseAnswer, ReleaseRequest, Request,
        decide,
    },
};

/// The memory store: [`decide`] under a lock. Clones share their records.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    records: Arc<Mutex<HashMap<Key, Record>>>,
    chunk_size: NonZeroUsize,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_chunk_size(NonZeroUsize::MIN)
    }
}

impl MemoryStore {
    /// An empty store that takes one request a call.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that takes up to `chunk_size` requests a call.
    pub fn with_chunk_size(chunk_size: NonZeroUsize) -> Self {
        Self { records: Arc::default(), chunk_size }
    }

    /// The record of a key.
    pub fn get(&self, key: &Key) -> Option<Record> {
        self.lock().get(key).cloned()
    }

    /// Puts a record in the place of what the key has, past the protocol: for tests of records that others wrote.
    pub fn insert(&self, key: Key, record: Record) {
        self.lock().insert(key, record);
    }

    /// All records.
    pub fn records(&self) -> Vec<(Key, Record)> {
        self.lock().iter().map(|(key, record)| (key.clone(), record.clone())).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Record>> {
        // A record is replaced as a whole: a panic elsewhere leaves no half-written one behind.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, key: &Key, request: Request<'_>, now_ms: u64) -> Answer {
        let mut records = self.lock();
        let decision = decide(records.get(key), request, now_ms);
        if let Some(record) = decision.write {
            records.insert(key.clone(), record);
        }
        decision.answer
    }
}

impl Store for MemoryStore {
    fn chunk_size(&self) -> NonZeroUsize {
        self.chunk_size
    }

    async fn claim(&self, now_ms: u64, requests: &[ClaimRequest]) -> Vec<Result<ClaimAnswer, StoreError>> {
        let answer = |request: &ClaimRequest| match self.apply(&request.key, request.into(), now_ms) {
            Answer::Claim(answer) => Ok(answer),
            other => unreachable!("a claim was answered by {other:?}"),
        };
        requests.iter().map(answer).collect()
    }

    async fn read(&self, keys: &[Key]) -> Vec<Result<Option<Record>, StoreError>> {
        keys.iter().map(|key| Ok(self.get(key))).collect()
    }

    async fn release(&self, now_ms: u64, requests: &[ReleaseRequest]) -> Vec<Result<ReleaseAnswer, StoreError>> {
        let answer = |request: &ReleaseRequest| match self.apply(&request.key, request.into(), now_ms) {
            Answer::Release(answer) => Ok(answer),
            other => unreachable!("a release was answered by {other:?}"),
        };
        requests.iter().map(answer).collect()
    }
}

impl Commit<NoWrites> for MemoryStore {
    async fn write(&self, _token: &Owner, _writes: &[NoWrites]) -> Result<CompleteAnswer, StoreError> {
        Ok(CompleteAnswer::Completed)
    }

    async fn complete(
        &self,
        now_ms: u64,
        requests: &[CompleteRequest<NoWrites>],
    ) -> Vec<Result<CompleteAnswer, StoreError>> {
        let answer = |request: &CompleteRequest<NoWrites>| match self.apply(&request.key, request.into(), now_ms) {
            Answer::Complete(answer) => Ok(answer),
            other => unreachable!("a completion was answered by {other:?}"),
        };
        requests.iter().map(answer).collect()
    }
}
