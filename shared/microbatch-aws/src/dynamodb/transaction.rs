//! A processor's writes and the completion of its record, committed together or not at all.

use std::fmt;

use aws_sdk_dynamodb::{
    error::{ProvideErrorMetadata, SdkError},
    operation::transact_write_items::TransactWriteItemsError,
    types::{
        CancellationReason, ConditionCheck, Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
    },
};
use microbatch::{
    Key, StoreError, WriteRefusal, WriteRefused,
    record::Owner,
    store::StoreErrorKind,
    transition::{CompleteAnswer, CompleteRequest},
};
use sha2::{Digest, Sha256};

use super::{
    DynamoDbStore, Item,
    error::{kind_of_code, store_error},
    expression::Expression,
    single::{Refused, judge_completion},
};

/// Writes beside the completion that DynamoDB takes in one transaction.
const WRITES_MAX: usize = 99;

/// The refusal of a transaction in which no single write is named.
const MALFORMED: WriteRefused = WriteRefused { index: 0, reason: WriteRefusal::Invalid };

/// A write of a processor's: put, update, delete, or only a check, with or without a condition.
#[derive(Clone, PartialEq)]
pub struct DynamoDbWrite(TransactWriteItem);

impl fmt::Debug for DynamoDbWrite {
    // The items are the user's data (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbWrite").field("table", &self.target().map(|(table, _)| table)).finish_non_exhaustive()
    }
}

impl From<Put> for DynamoDbWrite {
    fn from(put: Put) -> Self {
        Self(TransactWriteItem::builder().put(put).build())
    }
}

impl From<Update> for DynamoDbWrite {
    fn from(update: Update) -> Self {
        Self(TransactWriteItem::builder().update(update).build())
    }
}

impl From<Delete> for DynamoDbWrite {
    fn from(delete: Delete) -> Self {
        Self(TransactWriteItem::builder().delete(delete).build())
    }
}

impl From<ConditionCheck> for DynamoDbWrite {
    fn from(check: ConditionCheck) -> Self {
        Self(TransactWriteItem::builder().condition_check(check).build())
    }
}

impl DynamoDbWrite {
    /// The table that is written, and the item's key or all of it.
    fn target(&self) -> Option<(&str, &Item)> {
        let TransactWriteItem { put, update, delete, condition_check, .. } = &self.0;
        let put = put.as_ref().map(|put| (put.table_name(), put.item()));
        let update = update.as_ref().map(|update| (update.table_name(), update.key()));
        let delete = delete.as_ref().map(|delete| (delete.table_name(), delete.key()));
        let check = condition_check.as_ref().map(|check| (check.table_name(), check.key()));
        put.or(update).or(delete).or(check)
    }
}

/// Why a transaction was not applied.
enum Refusal {
    /// Cancelled, for these reasons: one an item and in order.
    Cancelled(Vec<CancellationReason>),
    /// Refused as it stands: too large, a bad expression, two writes to one item. DynamoDB does not say which write it is.
    Malformed,
    /// The token is that of another transaction: of an earlier try of this one, then, which may have been applied.
    TokenUsed,
}

impl DynamoDbStore {
    /// Completes a record together with the processor's writes (rule 13).
    pub(super) async fn complete_with_writes(
        &self,
        now_ms: u64,
        request: &CompleteRequest<DynamoDbWrite>,
    ) -> Result<CompleteAnswer, StoreError> {
        if let Some(refused) = self.refuse_writes(&request.writes, Some(&request.key)) {
            return Ok(CompleteAnswer::WriteRefused(refused));
        }
        let mut items = Vec::with_capacity(request.writes.len() + 1);
        items.push(self.completion(request)?);
        items.extend(request.writes.iter().map(|write| write.0.clone()));
        match self.transact(&request.owner, items).await? {
            Ok(()) => Ok(CompleteAnswer::Completed),
            Err(Refusal::Cancelled(reasons)) => self.judge_cancellation(now_ms, request, reasons).await,
            Err(Refusal::Malformed) => self.confirm_refusal(now_ms, request, MALFORMED).await,
            Err(Refusal::TokenUsed) => judge_completion(self.record(&request.key).await?.as_ref(), now_ms, request),
        }
    }

    /// Commits writes that belong to no record.
    pub(super) async fn write_without_record(
        &self,
        token: &Owner,
        writes: &[DynamoDbWrite],
    ) -> Result<CompleteAnswer, StoreError> {
        if let Some(refused) = self.refuse_writes(writes, None) {
            return Ok(CompleteAnswer::WriteRefused(refused));
        }
        let items = writes.iter().map(|write| write.0.clone()).collect();
        match self.transact(token, items).await? {
            Ok(()) => Ok(CompleteAnswer::Completed),
            Err(Refusal::Cancelled(reasons)) => judge_user_reasons(&reasons).map(CompleteAnswer::WriteRefused),
            Err(Refusal::Malformed) => Ok(CompleteAnswer::WriteRefused(MALFORMED)),
            Err(Refusal::TokenUsed) => Err(reason_error("IdempotentParameterMismatchException")),
        }
    }

    /// Refuses what DynamoDB would, or what would undo the completion, before anything is sent.
    fn refuse_writes(&self, writes: &[DynamoDbWrite], own: Option<&Key>) -> Option<WriteRefused> {
        let invalid = |index| Some(WriteRefused { index, reason: WriteRefusal::Invalid });
        if writes.len() > WRITES_MAX {
            return invalid(WRITES_MAX);
        }
        let to_record = |write: &DynamoDbWrite| {
            let target = write.target().filter(|(table, _)| *table == self.table).zip(own);
            target.is_some_and(|((_, item), key)| self.layout.is_record_of(item, key))
        };
        writes.iter().position(to_record).and_then(invalid)
    }

    fn completion(&self, request: &CompleteRequest<DynamoDbWrite>) -> Result<TransactWriteItem, StoreError> {
        let update = Expression::complete(&self.layout, &request.owner, &request.result, request.retention_end_s);
        let update = Update::builder()
            .table_name(&self.table)
            .set_key(Some(self.layout.key_item(request.key.as_str())))
            .update_expression(update.change)
            .condition_expression(update.text)
            .set_expression_attribute_names(Some(update.names))
            .set_expression_attribute_values(update.values)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .map_err(|_| {
                StoreError::new(StoreErrorKind::Refused, "TransactWriteItems: the completion lacks a field")
            })?;
        Ok(TransactWriteItem::builder().update(update).build())
    }

    /// Sends a transaction.
    async fn transact(&self, token: &Owner, items: Vec<TransactWriteItem>) -> Result<Result<(), Refusal>, StoreError> {
        let transaction = self
            .client
            .transact_write_items()
            .set_transact_items(Some(items))
            .client_request_token(request_token(token));
        match transaction.send().await {
            Ok(_) => Ok(Ok(())),
            Err(SdkError::ServiceError(error)) if error.err().is_transaction_canceled_exception() => {
                let TransactWriteItemsError::TransactionCanceledException(canceled) = error.into_err() else {
                    return Ok(Err(Refusal::Cancelled(Vec::new())));
                };
                Ok(Err(Refusal::Cancelled(canceled.cancellation_reasons.unwrap_or_default())))
            }
            Err(SdkError::ServiceError(error))
                if error.err().code() == Some("IdempotentParameterMismatchException") =>
            {
                Ok(Err(Refusal::TokenUsed))
            }
            // Ours is never malformed on a table that the init has accepted: it is a write of the processor's.
            Err(SdkError::ServiceError(error)) if error.err().code() == Some("ValidationException") => {
                Ok(Err(Refusal::Malformed))
            }
            Err(error) => Err(store_error("TransactWriteItems", &error)),
        }
    }

    /// Judges a cancelled transaction: by our own reason first.
    async fn judge_cancellation(
        &self,
        now_ms: u64,
        request: &CompleteRequest<DynamoDbWrite>,
        mut reasons: Vec<CancellationReason>,
    ) -> Result<CompleteAnswer, StoreError> {
        if reasons.len() != request.writes.len() + 1 {
            return Err(StoreError::new(
                StoreErrorKind::Unavailable,
                "TransactWriteItems: cancelled without a reason for each write",
            ));
        }
        let ours = reasons.remove(0);
        match ours.code.as_deref() {
            None | Some("None") => self.confirm_refusal(now_ms, request, judge_user_reasons(&reasons)?).await,
            Some("ConditionalCheckFailed") => {
                let record = self.refused_record(&request.key, Refused(ours.item)).await?;
                judge_completion(record.as_ref(), now_ms, request)
            }
            Some(code) => Err(reason_error(code)),
        }
    }

    /// Reads the record before a refusal of the user's writes is believed: an earlier try of this very transaction may
    /// have been applied, and its writes are then in their own way.
    async fn confirm_refusal(
        &self,
        now_ms: u64,
        request: &CompleteRequest<DynamoDbWrite>,
        refused: WriteRefused,
    ) -> Result<CompleteAnswer, StoreError> {
        let record = self.record(&request.key).await?;
        // Still held and in progress: nothing was committed.
        judge_completion(record.as_ref(), now_ms, request).or(Ok(CompleteAnswer::WriteRefused(refused)))
    }
}

/// Which of the user's writes was refused, by the reasons of all of them.
fn judge_user_reasons(reasons: &[CancellationReason]) -> Result<WriteRefused, StoreError> {
    let codes = || reasons.iter().map(|reason| reason.code.as_deref().unwrap_or("None")).enumerate();
    // What passes by itself goes first: nothing was judged to the end then. The same request is sent again with the same
    // token.
    if let Some(error) = codes().map(|(_, code)| reason_error(code)).find(StoreError::is_retryable) {
        return Err(error);
    }
    let refused = codes().find_map(|(index, code)| {
        let reason = match code {
            "None" => return None,
            "ConditionalCheckFailed" => WriteRefusal::Condition,
            _ => WriteRefusal::Invalid,
        };
        Some(WriteRefused { index, reason })
    });
    refused
        .ok_or_else(|| StoreError::new(StoreErrorKind::Unavailable, "TransactWriteItems: cancelled without a reason"))
}

/// The error of a cancellation reason: retryable for a conflict with another transaction, or load.
fn reason_error(code: &str) -> StoreError {
    StoreError::new(kind_of_code(code, 400), format!("TransactWriteItems: {code}"))
}

/// One token a claim, so that a retry of its transaction is recognised. DynamoDB takes at most 36 characters.
fn request_token(owner: &Owner) -> String {
    let digest = Sha256::digest(owner.as_str());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(codes: &[&str]) -> Result<WriteRefused, StoreErrorKind> {
        let reason = |code: &&str| CancellationReason::builder().code(*code).build();
        judge_user_reasons(&codes.iter().map(reason).collect::<Vec<_>>()).map_err(|error| error.kind())
    }

    #[test]
    fn the_first_write_with_a_reason_was_refused() {
        let refused = |index, reason| Ok(WriteRefused { index, reason });
        let cases = [
            (["None", "ConditionalCheckFailed", "ConditionalCheckFailed"], refused(1, WriteRefusal::Condition)),
            (["None", "None", "ValidationError"], refused(2, WriteRefusal::Invalid)),
            (["ItemCollectionSizeLimitExceeded", "ConditionalCheckFailed", "None"], refused(0, WriteRefusal::Invalid)),
        ];
        for (codes, expected) in cases {
            assert_eq!(judge(&codes), expected, "{codes:?}");
        }
    }

    #[test]
    fn what_passes_by_itself_is_no_refusal() {
        for code in ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"] {
            assert_eq!(judge(&["ConditionalCheckFailed", "None", code]), Err(StoreErrorKind::Throttled), "{code}");
        }
        assert_eq!(judge(&["None", "None"]), Err(StoreErrorKind::Unavailable));
    }

    #[test]
    fn a_token_is_one_claims_own_and_short_enough() {
        let token = request_token(&Owner::new("o-1"));
        assert_eq!(token, request_token(&Owner::new("o-1")));
        assert_ne!(token, request_token(&Owner::new("o-2")));
        assert!(token.len() <= 36, "{token}");
    }
}
