//! Where records are kept.

mod error;
mod memory;

use std::{future::Future, num::NonZeroUsize};

pub use self::{
    error::{StoreError, StoreErrorKind},
    memory::MemoryStore,
};
use crate::{
    key::Key,
    record::{Owner, Record},
    transition::{ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, ReleaseAnswer, ReleaseRequest},
};

/// Keeps records and obeys [`decide`](crate::transition::decide).
///
/// Calls take several requests, of different keys, and answer each in order: exactly one answer a request. They make one
/// try; the pipeline tries again what failed in a way that may pass. A call that is dropped before it answers may or may
/// not have been applied.
pub trait Store: Send + Sync + 'static {
    /// How many requests one call may take: 1 for a store that writes them one by one.
    fn chunk_size(&self) -> NonZeroUsize;

    /// Asks to own keys, at `now_ms` by the caller's clock, read before the call.
    fn claim(
        &self,
        now_ms: u64,
        requests: &[ClaimRequest],
    ) -> impl Future<Output = Vec<Result<ClaimAnswer, StoreError>>> + Send;

    /// Reads the records of keys as they are now, for up to 100 keys.
    fn read(&self, keys: &[Key]) -> impl Future<Output = Vec<Result<Option<Record>, StoreError>>> + Send;

    /// Gives keys back, at once or later.
    fn release(
        &self,
        now_ms: u64,
        requests: &[ReleaseRequest],
    ) -> impl Future<Output = Vec<Result<ReleaseAnswer, StoreError>>> + Send;
}

/// A store that can commit a processor's writes of type `W` together with the completion, or not at all.
///
/// A processor with writes does not compile with a store that cannot.
pub trait Commit<W>: Store {
    /// Says that the work of keys is done, with the writes of each.
    fn complete(
        &self,
        now_ms: u64,
        requests: &[CompleteRequest<W>],
    ) -> impl Future<Output = Vec<Result<CompleteAnswer, StoreError>>> + Send;

    /// Commits writes of an item that runs without idempotency: all of them or none. `token` names the try, so that a
    /// retry of the same writes is recognised where the store can.
    fn write(&self, token: &Owner, writes: &[W]) -> impl Future<Output = Result<CompleteAnswer, StoreError>> + Send;
}
