//! Records in a DynamoDB table.
//!
//! Every write is a read-decide-write of [`decide`](microbatch::transition::decide): the first try of a claim assumes that
//! the key is new, which is what it nearly always is. A refused write is classified by the record that refused it, and a
//! takeover is conditional on the record still being that one.
//!
//! Claims and completions go out 25 to a request ([`StoreCalls::Batched`]) or one by one ([`StoreCalls::Single`]). A
//! completion with writes of the processor's is one transaction.

mod batch;
mod error;
mod expression;
mod item;
mod layout;
mod resolve;
mod single;
mod transaction;

use std::{collections::HashMap, num::NonZeroUsize};

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use futures_util::future::join_all;
use microbatch::{
    Commit, Key, NoWrites, Store, StoreError,
    record::{Owner, Record, Status},
    transition::{ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, ReleaseAnswer, ReleaseRequest},
};

use self::batch::Statements;
pub use self::{
    error::InitError,
    layout::{Attribute, Layout, LayoutError},
    transaction::DynamoDbWrite,
};

type Item = HashMap<String, AttributeValue>;

/// The key that [`DynamoDbStore::warm_up`] reads. No record has it: a namespace holds no `#`.
const RESERVED_KEY: &str = "##microbatch-warm-up";

/// Statements that DynamoDB takes in one `BatchExecuteStatement`.
const BATCH_MAX: NonZeroUsize = NonZeroUsize::new(25).expect("not zero");

/// How claims and completions are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreCalls {
    /// Up to 25 to a request, by PartiQL. A request's slowest statement decides when it is answered; at 25 to one, an
    /// item costs about a sixth of the processor time. The default.
    #[default]
    Batched,
    /// One to a request. Each is answered by itself.
    Single,
}

/// Keeps records in a DynamoDB table.
///
/// It makes one try a request: the client must have its retries off ([`crate::sdk::store_client`]), so that tries are
/// bounded and counted in one place.
#[derive(Debug, Clone)]
pub struct DynamoDbStore {
    client: Client,
    table: String,
    layout: Layout,
    calls: StoreCalls,
    statements: Statements,
}

impl DynamoDbStore {
    /// A store on this table, in the default layout, with batched calls.
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        let (table, layout) = (table.into(), Layout::default());
        let statements = Statements::new(&table, &layout);
        Self { client, table, layout, calls: StoreCalls::default(), statements }
    }

    /// This store with another layout.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.statements = Statements::new(&self.table, &layout);
        self.layout = layout;
        self
    }

    /// This store with claims and completions sent in another way.
    #[must_use]
    pub fn calls(mut self, calls: StoreCalls) -> Self {
        self.calls = calls;
        self
    }

    /// Opens the connection by one consistent read of a key that nobody has, so that the first batch does not pay for it.
    ///
    /// # Errors
    /// Only those that will not pass: a missing table, a wrong key schema, a denied read. They say what would make it right.
    pub async fn warm_up(&self) -> Result<(), InitError> {
        let Err(error) = self.get_item(RESERVED_KEY).await else { return Ok(()) };
        InitError::definite(&self.table, &self.layout, &error).map_or(Ok(()), Err)
    }
}

impl Store for DynamoDbStore {
    fn chunk_size(&self) -> NonZeroUsize {
        match self.calls {
            StoreCalls::Batched => BATCH_MAX,
            StoreCalls::Single => NonZeroUsize::MIN,
        }
    }

    async fn claim(&self, now_ms: u64, requests: &[ClaimRequest]) -> Vec<Result<ClaimAnswer, StoreError>> {
        match requests {
            [request] => vec![self.claim_one(now_ms, request).await],
            requests => self.claim_batch(now_ms, requests).await,
        }
    }

    async fn read(&self, keys: &[Key]) -> Vec<Result<Option<Record>, StoreError>> {
        match keys {
            [key] => vec![self.record(key).await],
            keys => self.read_batch(keys).await,
        }
    }

    async fn release(&self, now_ms: u64, requests: &[ReleaseRequest]) -> Vec<Result<ReleaseAnswer, StoreError>> {
        join_all(requests.iter().map(|request| self.release_one(now_ms, request))).await
    }
}

impl Commit<NoWrites> for DynamoDbStore {
    async fn complete(
        &self,
        now_ms: u64,
        requests: &[CompleteRequest<NoWrites>],
    ) -> Vec<Result<CompleteAnswer, StoreError>> {
        self.complete_all(now_ms, &requests.iter().collect::<Vec<_>>()).await
    }

    async fn write(&self, _token: &Owner, _writes: &[NoWrites]) -> Result<CompleteAnswer, StoreError> {
        Ok(CompleteAnswer::Completed)
    }
}

impl Commit<DynamoDbWrite> for DynamoDbStore {
    async fn complete(
        &self,
        now_ms: u64,
        requests: &[CompleteRequest<DynamoDbWrite>],
    ) -> Vec<Result<CompleteAnswer, StoreError>> {
        let (plain, with_writes): (Vec<_>, Vec<_>) =
            (0..requests.len()).partition(|index| requests[*index].writes.is_empty());
        let plain_requests: Vec<_> = plain.iter().map(|index| &requests[*index]).collect();
        let transactions = with_writes.iter().map(|index| self.complete_with_writes(now_ms, &requests[*index]));
        let (plain_answers, transaction_answers) =
            tokio::join!(self.complete_all(now_ms, &plain_requests), join_all(transactions));
        let mut answers: Vec<_> = plain.into_iter().zip(plain_answers).collect();
        answers.extend(with_writes.into_iter().zip(transaction_answers));
        answers.sort_unstable_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    async fn write(&self, token: &Owner, writes: &[DynamoDbWrite]) -> Result<CompleteAnswer, StoreError> {
        self.write_without_record(token, writes).await
    }
}

impl DynamoDbStore {
    async fn complete_all<W: Sync>(
        &self,
        now_ms: u64,
        requests: &[&CompleteRequest<W>],
    ) -> Vec<Result<CompleteAnswer, StoreError>> {
        match requests {
            [] => Vec::new(),
            [request] => vec![self.complete_one(now_ms, request).await],
            requests => self.complete_batch(now_ms, requests).await,
        }
    }
}

/// The values that expressions and statements stand on.
fn status(status: Status) -> AttributeValue {
    AttributeValue::S(status.as_str().to_owned())
}

fn owner(owner: &Owner) -> AttributeValue {
    AttributeValue::S(owner.as_str().to_owned())
}

fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}
