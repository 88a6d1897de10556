//! One record a request: conditional writes that bring the record back when they are refused (`ALL_OLD`).

use aws_sdk_dynamodb::{
    error::SdkError,
    operation::{get_item::GetItemError, put_item::PutItemError, update_item::UpdateItemError},
    types::ReturnValuesOnConditionCheckFailure,
};
use microbatch::{
    Key, StoreError,
    record::Record,
    store::StoreErrorKind,
    transition::{
        Answer, ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, ReleaseAnswer, ReleaseKind, ReleaseRequest,
        decide,
    },
};

use super::{
    DynamoDbStore, Item,
    error::store_error,
    expression::Expression,
    item::{read_record, write_record},
};

/// A write was refused because the record is not as expected: the record, if it came with the refusal.
pub(super) struct Refused(pub(super) Option<Item>);

impl DynamoDbStore {
    pub(super) async fn get_item(&self, key: &str) -> Result<Option<Item>, SdkError<GetItemError>> {
        let read = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(self.layout.key_item(key)))
            .consistent_read(true);
        Ok(read.send().await?.item)
    }

    /// The record of a key, read consistently.
    pub(super) async fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let item = self.get_item(key.as_str()).await.map_err(|error| store_error("GetItem", &error))?;
        self.read_item(item.as_ref())
    }

    pub(super) fn read_item(&self, item: Option<&Item>) -> Result<Option<Record>, StoreError> {
        item.map(|item| read_record(&self.layout, item)).transpose()
    }

    /// Claims a key: the first write assumes that it is new.
    pub(super) async fn claim_one(&self, now_ms: u64, claim: &ClaimRequest) -> Result<ClaimAnswer, StoreError> {
        match self.try_claim(now_ms, claim, None).await? {
            Ok(answer) => Ok(answer),
            Err(found) => self.claim_found(now_ms, claim, found).await,
        }
    }

    /// Claims a key whose record was found: judges it, or takes it over by one write. A second is not tried: whoever
    /// changed the record meanwhile holds it (rule 2).
    pub(super) async fn claim_found(
        &self,
        now_ms: u64,
        claim: &ClaimRequest,
        found: Option<Record>,
    ) -> Result<ClaimAnswer, StoreError> {
        let found = match self.try_claim(now_ms, claim, found).await? {
            Ok(answer) => return Ok(answer),
            Err(found) => found,
        };
        let decision = decide(found.as_ref(), claim.into(), now_ms);
        match decision.write {
            None => claim_answer(decision.answer),
            Some(_) => Ok(ClaimAnswer::Busy { until_ms: now_ms }),
        }
    }

    /// Does what is decided on `record`; refused, it returns the record that is there instead.
    async fn try_claim(
        &self,
        now_ms: u64,
        claim: &ClaimRequest,
        record: Option<Record>,
    ) -> Result<Result<ClaimAnswer, Option<Record>>, StoreError> {
        let decision = decide(record.as_ref(), claim.into(), now_ms);
        let answer = claim_answer(decision.answer)?;
        let Some(new) = decision.write else { return Ok(Ok(answer)) };
        let item = write_record(&self.layout, &claim.key, &new);
        match self.put(item, record.as_ref()).await? {
            Ok(()) => Ok(Ok(answer)),
            Err(refused) => Ok(Err(self.refused_record(&claim.key, refused).await?)),
        }
    }

    /// Writes a record's item in place of `old` (none: where there is none), if that is still the one there.
    pub(super) async fn put(&self, item: Item, old: Option<&Record>) -> Result<Result<(), Refused>, StoreError> {
        let condition = Expression::unchanged(&self.layout, old);
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
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

    pub(super) async fn complete_one<W>(
        &self,
        now_ms: u64,
        request: &CompleteRequest<W>,
    ) -> Result<CompleteAnswer, StoreError> {
        let update = Expression::complete(&self.layout, &request.owner, &request.result, request.retention_end_s);
        let Err(refused) = self.update(&request.key, update).await? else { return Ok(CompleteAnswer::Completed) };
        let record = self.refused_record(&request.key, refused).await?;
        judge_completion(record.as_ref(), now_ms, request)
    }

    pub(super) async fn release_one(&self, now_ms: u64, request: &ReleaseRequest) -> Result<ReleaseAnswer, StoreError> {
        let update = match request.kind {
            ReleaseKind::Now => Expression::release(&self.layout, &request.owner),
            ReleaseKind::Deferred { lease_end_ms } => Expression::defer(&self.layout, &request.owner, lease_end_ms),
        };
        let Err(Refused(item)) = self.update(&request.key, update).await? else { return Ok(ReleaseAnswer::Released) };
        // Nothing hangs on what is told: a release that is refused has nothing to give back.
        let decision = decide(self.read_item(item.as_ref())?.as_ref(), request.into(), now_ms);
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
            .set_key(Some(self.layout.key_item(key.as_str())))
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
    pub(super) async fn refused_record(&self, key: &Key, refused: Refused) -> Result<Option<Record>, StoreError> {
        match refused.0 {
            Some(item) => self.read_item(Some(&item)),
            None => self.record(key).await,
        }
    }
}

pub(super) fn claim_answer(answer: Answer) -> Result<ClaimAnswer, StoreError> {
    match answer {
        Answer::Claim(answer) => Ok(answer),
        _ => Err(StoreError::new(StoreErrorKind::Malformed, "a claim was answered as something else")),
    }
}

/// What a completion that was refused is told, by the record that refused it.
pub(super) fn judge_completion<W>(
    record: Option<&Record>,
    now_ms: u64,
    request: &CompleteRequest<W>,
) -> Result<CompleteAnswer, StoreError> {
    let decision = decide(record, request.into(), now_ms);
    match decision.answer {
        Answer::Complete(answer) if decision.write.is_none() => Ok(answer),
        // The record says that the write should not have been refused: it changed in between. Sent again, it is judged anew.
        _ => Err(StoreError::new(
            StoreErrorKind::Unavailable,
            format!("the record of {:?} changed while it was judged", request.key),
        )),
    }
}
