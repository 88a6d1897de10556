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
    resolve::{self, Resolve, ResolveAnswer, ResolveRequest, Trace},
    transition::{
        Answer, ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, ReleaseAnswer, ReleaseRequest, Request,
        decide,
    },
};

/// The memory store: [`decide`] under a lock. Clones share their records.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    records: Arc<Mutex<HashMap<Key, Kept>>>,
    chunk_size: NonZeroUsize,
}

/// A record, and the trace that an operator left beside it.
#[derive(Debug, Clone)]
struct Kept {
    record: Record,
    resolved: Option<Trace>,
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
        self.lock().get(key).map(|kept| kept.record.clone())
    }

    /// Puts a record in the place of what the key has, past the protocol: for tests of records that others wrote.
    pub fn insert(&self, key: Key, record: Record) {
        self.lock().insert(key, Kept { record, resolved: None });
    }

    /// All records.
    pub fn records(&self) -> Vec<(Key, Record)> {
        self.lock().iter().map(|(key, kept)| (key.clone(), kept.record.clone())).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Kept>> {
        // A record is replaced as a whole: a panic elsewhere leaves no half-written one behind.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, key: &Key, request: Request<'_>, now_ms: u64) -> Answer {
        let mut records = self.lock();
        let mut old = records.get_mut(key);
        let decision = decide(old.as_ref().map(|kept| &kept.record), request, now_ms);
        match (decision.write, &mut old) {
            (Some(record), Some(kept)) => {
                kept.record = record;
                // A claim begins anew; a completion and a release change a part.
                if matches!(request, Request::Claim(_)) {
                    kept.resolved = None;
                }
            }
            (Some(record), None) => {
                records.insert(key.clone(), Kept { record, resolved: None });
            }
            (None, _) => {}
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

impl Resolve for MemoryStore {
    async fn read_resolved(&self, key: &Key) -> Result<Option<(Record, Option<Trace>)>, StoreError> {
        Ok(self.lock().get(key).map(|kept| (kept.record.clone(), kept.resolved.clone())))
    }

    async fn resolve(&self, now_ms: u64, request: &ResolveRequest) -> Result<ResolveAnswer, StoreError> {
        let ResolveRequest { key, shown, to, retention_end_s, trace } = request;
        let record = match resolve::decide(shown.as_ref(), *to, *retention_end_s, now_ms) {
            Ok(record) => record,
            Err(untouched) => return Ok(ResolveAnswer::Untouched(untouched)),
        };
        let mut records = self.lock();
        if records.get(key).map(|kept| &kept.record) != shown.as_ref() {
            return Ok(ResolveAnswer::Changed);
        }
        records.insert(key.clone(), Kept { record: record.clone(), resolved: Some(trace.clone()) });
        Ok(ResolveAnswer::Written(record))
    }
}
