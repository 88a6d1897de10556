//! Records in a DynamoDB table.
//!
//! Every write is a read-decide-write of [`decide`]: the first try of a claim assumes that the key is new, which is what
//! it nearly always is, and costs one conditional put. A refused write brings the record back with it (`ALL_OLD`), the
//! decision is made on that, and a takeover is conditional on the record still being that one.

mod error;
mod expression;
mod item;

use std::{collections::HashMap, num::NonZeroUsize};

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::{get_item::GetItemError, put_item::PutItemError, update_item::UpdateItemError},
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure},
};
use microbatch::{
    Commit, Key, NoWrites, Store, StoreError,
    record::{Owner, Record, Status},
    store::StoreErrorKind,
    transition::{
        Answer, ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, ReleaseAnswer, ReleaseKind, ReleaseRequest,
        decide,
    },
};

pub use self::error::InitError;
use self::{
    error::store_error,
    expression::Expression,
    item::{attribute, read_record, write_record},
};

type Item = HashMap<String, AttributeValue>;

/// The key that [`DynamoDbStore::warm_up`] reads. No record has it: a namespace holds no `#`.
const RESERVED_KEY: &str = "##microbatch-warm-up";

/// Keeps records in a DynamoDB table whose partition key is `id`, a string.
///
/// It makes one try a request: the client must have its retries off ([`crate::sdk::store_client`]), so that tries are
/// bounded and counted in one place.
#[derive(Debug, Clone)]
pub struct DynamoDbStore {
    client: Client,
    table: String,
}

/// A write that was refused because the record is not as expected: the record, if the store had one.
struct Refused(Option<Item>);

impl DynamoDbStore {
    /// A store on this table.
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self { client, table: table.into() }
    }

    /// Opens the connection by one consistent read of a key that nobody has, so that the first batch does not pay for it.
    ///
    /// # Errors
    /// Only those that will not pass: a missing table, a wrong key schema, a denied read. They say what would make it right.
    pub async fn warm_up(&self) -> Result<(), InitError> {
        let Err(error) = self.get(RESERVED_KEY).await else { return Ok(()) };
        InitError::definite(&self.table, &error).map_or(Ok(()), Err)
    }

    async fn get(&self, key: &str) -> Result<Option<Item>, SdkError<GetItemError>> {
        let read = self
            .client
            .get_item()
            .table_name(&self.table)
            .key(attribute::ID, AttributeValue::S(key.to_owned()))
            .consistent_read(true);
        Ok(read.send().await?.item)
    }

    /// The record of a key, read consistently.
    ///
    /// # Errors
    /// When the table cannot be read or the record is not one that this version knows.
    pub async fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let item = self.get(key.as_str()).await.map_err(|error| store_error("GetItem", &error))?;
        item.as_ref().map(read_record).transpose()
    }

    // --- claim ----------------------------------------------------------------------------------------------------

    async fn claim_one(&self, now_ms: u64, claim: &ClaimRequest) -> Result<ClaimAnswer, StoreError> {
        let mut found = None;
        // The first write assumes that the key is new; the second takes over a record that may be taken. A third is
        // not tried: whoever changed the record meanwhile holds it (rule 2).
        for _ in 0..2 {
            let decision = decide(found.as_ref(), claim.into(), now_ms);
            let answer = expect_claim(decision.answer)?;
            let Some(record) = decision.write else { return Ok(answer) };
            match self.put(&claim.key, &record, found.as_ref()).await? {
                Ok(()) => return Ok(answer),
                Err(Refused(Some(item))) => found = Some(read_record(&item)?),
                Err(Refused(None)) => found = self.record(&claim.key).await?,
            }
        }
        let decision = decide(found.as_ref(), claim.into(), now_ms);
        match decision.write {
            None => expect_claim(decision.answer),
            Some(_) => Ok(ClaimAnswer::Busy { until_ms: now_ms }),
        }
    }

    /// Writes a record in place of `old` (none: where there is none), if that is still the one there.
    async fn put(&self, key: &Key, record: &Record, old: Option<&Record>) -> Result<Result<(), Refused>, StoreError> {
        let condition = Expression::unchanged(old);
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(write_record(key, record)))
            .condition_expression(condition.text)
            .set_expression_attribute_names(Some(condition.names))
            .set_expression_attribute_values(condition.values)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match put.send().await {
            Ok(_) => Ok(Ok(())),
            Err(SdkError::ServiceError(error)) if error.err().is_conditional_check_failed_exception() => {
                let PutItemError::ConditionalCheckFailedException(refused) = error.into_err() else {
                    return Ok(Err(Refused(None)));
                };
                Ok(Err(Refused(refused.item)))
            }
            Err(error) => Err(store_error("PutItem", &error)),
        }
    }

    // --- complete, release ----------------------------------------------------------------------------------------

    async fn complete_one<W>(&self, now_ms: u64, request: &CompleteRequest<W>) -> Result<CompleteAnswer, StoreError> {
        let update = Expression::complete(&request.owner, &request.result, request.retention_end_s);
        let Err(refused) = self.update(&request.key, update).await? else { return Ok(CompleteAnswer::Completed) };
        let record = self.refused_record(&request.key, refused).await?;
        let decision = decide(record.as_ref(), request.into(), now_ms);
        match decision.answer {
            Answer::Complete(answer) if decision.write.is_none() => Ok(answer),
            _ => Err(contradiction(&request.key)),
        }
    }

    async fn release_one(&self, now_ms: u64, request: &ReleaseRequest) -> Result<ReleaseAnswer, StoreError> {
        let update = match request.kind {
            ReleaseKind::Now => Expression::release(&request.owner),
            ReleaseKind::Deferred { lease_end_ms } => Expression::defer(&request.owner, lease_end_ms),
        };
        let Err(Refused(item)) = self.update(&request.key, update).await? else { return Ok(ReleaseAnswer::Released) };
        // Nothing hangs on what is told: a release that is refused has nothing to give back.
        let record = item.as_ref().map(read_record).transpose()?;
        let decision = decide(record.as_ref(), request.into(), now_ms);
        match decision.answer {
            Answer::Release(answer) if decision.write.is_none() => Ok(answer),
            _ => Ok(ReleaseAnswer::NotHeld),
        }
    }

    async fn update(&self, key: &Key, update: Expression) -> Result<Result<(), Refused>, StoreError> {
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(attribute::ID, AttributeValue::S(key.as_str().to_owned()))
            .update_expression(update.change)
            .condition_expression(update.text)
            .set_expression_attribute_names(Some(update.names))
            .set_expression_attribute_values(update.values)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match update.send().await {
            Ok(_) => Ok(Ok(())),
            Err(SdkError::ServiceError(error)) if error.err().is_conditional_check_failed_exception() => {
                let UpdateItemError::ConditionalCheckFailedException(refused) = error.into_err() else {
                    return Ok(Err(Refused(None)));
                };
                Ok(Err(Refused(refused.item)))
            }
            Err(error) => Err(store_error("UpdateItem", &error)),
        }
    }

    /// The record that refused a write: the one that came with the refusal, or else read consistently.
    async fn refused_record(&self, key: &Key, refused: Refused) -> Result<Option<Record>, StoreError> {
        match refused.0 {
            Some(item) => read_record(&item).map(Some),
            None => self.record(key).await,
        }
    }
}

fn expect_claim(answer: Answer) -> Result<ClaimAnswer, StoreError> {
    match answer {
        Answer::Claim(answer) => Ok(answer),
        _ => Err(StoreError::new(StoreErrorKind::Malformed, "a claim was answered as something else")),
    }
}

/// A write was refused, and the record says that it should not have been: it changed in between. Sent again, it is judged anew.
fn contradiction(key: &Key) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, format!("the record of {key:?} changed while it was judged"))
}

impl Store for DynamoDbStore {
    fn chunk_size(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    async fn claim(&self, now_ms: u64, requests: &[ClaimRequest]) -> Vec<Result<ClaimAnswer, StoreError>> {
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            answers.push(self.claim_one(now_ms, request).await);
        }
        answers
    }

    async fn release(&self, now_ms: u64, requests: &[ReleaseRequest]) -> Vec<Result<ReleaseAnswer, StoreError>> {
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            answers.push(self.release_one(now_ms, request).await);
        }
        answers
    }
}

impl Commit<NoWrites> for DynamoDbStore {
    async fn complete(
        &self,
        now_ms: u64,
        requests: &[CompleteRequest<NoWrites>],
    ) -> Vec<Result<CompleteAnswer, StoreError>> {
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            answers.push(self.complete_one(now_ms, request).await);
        }
        answers
    }
}

/// The values an expression stands on.
fn status(status: Status) -> AttributeValue {
    AttributeValue::S(status.as_str().to_owned())
}

fn owner(owner: &Owner) -> AttributeValue {
    AttributeValue::S(owner.as_str().to_owned())
}

fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}
