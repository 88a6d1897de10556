//! Up to 25 records a request, by PartiQL's `BatchExecuteStatement`: INSERT to claim, conditional UPDATE to complete.
//!
//! Statements succeed and fail one by one inside an HTTP 200. What a refused statement met is read by one consistent
//! `BatchGetItem`; a record that may be taken over is taken over by a single conditional write. A statement that was throttled
//! is answered so: the pipeline sends it again by itself, after a pause, as a single conditional write. `DuplicateItem` carries
//! no item anywhere, and `ConditionalCheckFailed` only on some servers: neither is relied on.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{
    AttributeValue, BatchStatementError, BatchStatementErrorCodeEnum as Code, BatchStatementRequest, KeysAndAttributes,
    ReturnValuesOnConditionCheckFailure,
};
use futures_util::future::join_all;
use microbatch::{
    Key, StoreError,
    record::{Record, Status, StoredResult},
    store::StoreErrorKind,
    transition::{ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, decide},
};

use super::{
    DynamoDbStore, Item,
    error::{kind_of_code, store_error},
    item::write_record,
    layout::{Attribute, Layout},
    number, owner,
    single::{claim_answer, judge_completion},
    status,
};

/// Keys that DynamoDB takes in one `BatchGetItem`.
const READ_MAX: usize = 100;

/// The statements, which differ only in their parameters.
#[derive(Debug, Clone)]
pub(super) struct Statements {
    /// UPDATE without a result, with one, and with the marker that it was not kept.
    complete: [String; 3],
    table: String,
}

impl Statements {
    pub(super) fn new(table: &str, layout: &Layout) -> Self {
        // Layouts hold no quotes; a table name from a setting could.
        let table = table.replace('"', "");
        let complete = |result: Option<Attribute>| {
            let mut statement = format!("UPDATE \"{table}\"");
            for attribute in [Attribute::Status, Attribute::Expiration].into_iter().chain(result) {
                statement.push_str(&format!(" SET \"{}\" = ?", layout.name(attribute)));
            }
            for (position, (name, _)) in layout.key("").enumerate() {
                statement.push_str(&format!(" {} \"{name}\" = ?", if position == 0 { "WHERE" } else { "AND" }));
            }
            let (owner, status) = (layout.name(Attribute::Owner), layout.name(Attribute::Status));
            statement.push_str(&format!(" AND \"{owner}\" = ? AND \"{status}\" = ?"));
            statement
        };
        let complete = [complete(None), complete(Some(Attribute::Data)), complete(Some(Attribute::DataNotKept))];
        Self { complete, table }
    }

    fn insert(&self, item: Item) -> BatchStatementRequest {
        let mut statement = format!("INSERT INTO \"{}\" VALUE {{", self.table);
        let mut parameters = Vec::with_capacity(item.len());
        for (name, value) in item {
            if !parameters.is_empty() {
                statement.push_str(", ");
            }
            statement.extend(["'", name.as_str(), "': ?"]);
            parameters.push(value);
        }
        statement.push('}');
        request(statement, parameters)
    }

    fn complete<W>(&self, layout: &Layout, completion: &CompleteRequest<W>) -> BatchStatementRequest {
        let mut parameters = vec![status(Status::Completed), number(completion.retention_end_s)];
        let statement = match &completion.result {
            StoredResult::None => &self.complete[0],
            StoredResult::Kept(json) => {
                parameters.push(AttributeValue::S(json.as_ref().to_owned()));
                &self.complete[1]
            }
            StoredResult::NotKept => {
                parameters.push(AttributeValue::Bool(true));
                &self.complete[2]
            }
        };
        parameters.extend(layout.key(completion.key.as_str()).map(|(_, value)| AttributeValue::S(value.to_owned())));
        parameters.extend([owner(&completion.owner), status(Status::InProgress)]);
        request(statement.clone(), parameters)
    }
}

fn request(statement: String, parameters: Vec<AttributeValue>) -> BatchStatementRequest {
    let request = BatchStatementRequest::builder()
        .statement(statement)
        .set_parameters(Some(parameters))
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
    request.build().expect("a statement was given")
}

/// What became of one statement.
enum Met {
    Applied,
    /// A record is in the way; the one that came with the refusal, if any did.
    Refused(Option<Item>),
    Failed(StoreError),
}

impl Met {
    fn of(error: Option<BatchStatementError>) -> Self {
        let Some(error) = error else { return Met::Applied };
        let code = error.code.as_ref().map_or("an error without a code", Code::as_str);
        match (&error.code, kind_of_code(code, 400)) {
            (Some(Code::DuplicateItem | Code::ConditionalCheckFailed), _) => Met::Refused(error.item),
            (_, kind) => Met::Failed(StoreError::new(kind, format!("BatchExecuteStatement: {code}"))),
        }
    }
}

impl DynamoDbStore {
    pub(super) async fn claim_batch(
        &self,
        now_ms: u64,
        claims: &[ClaimRequest],
    ) -> Vec<Result<ClaimAnswer, StoreError>> {
        let decisions: Vec<_> = claims.iter().map(|claim| decide(None, claim.into(), now_ms)).collect();
        let inserts = claims.iter().zip(&decisions).filter_map(|(claim, decision)| {
            Some(self.statements.insert(write_record(&self.layout, &claim.key, decision.write.as_ref()?)))
        });
        let met = match self.execute(inserts.collect()).await {
            Ok(met) => met,
            Err(error) => return claims.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut found = self.read_refused(claims.iter().map(|claim| &claim.key), &met).await;
        let answers = claims.iter().zip(decisions).zip(met).map(|((claim, decision), met)| {
            let found = found.remove(&claim.key);
            async move {
                match (met, found) {
                    (Met::Applied, _) => claim_answer(decision.answer),
                    (Met::Failed(error), _) => Err(error),
                    (Met::Refused(_), Some(record)) => self.claim_found(now_ms, claim, Some(record?)).await,
                    // Gone again, or not read: from the start, by a write of its own.
                    (Met::Refused(_), None) => self.claim_one(now_ms, claim).await,
                }
            }
        });
        join_all(answers).await
    }

    pub(super) async fn complete_batch<W: Sync>(
        &self,
        now_ms: u64,
        completions: &[&CompleteRequest<W>],
    ) -> Vec<Result<CompleteAnswer, StoreError>> {
        let updates = completions.iter().map(|completion| self.statements.complete(&self.layout, completion));
        let met = match self.execute(updates.collect()).await {
            Ok(met) => met,
            Err(error) => return completions.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut found = self.read_refused(completions.iter().map(|completion| &completion.key), &met).await;
        let answers = completions.iter().zip(met).map(|(completion, met)| {
            let found = found.remove(&completion.key);
            async move {
                match (met, found) {
                    (Met::Applied, _) => Ok(CompleteAnswer::Completed),
                    (Met::Failed(error), _) => Err(error),
                    (Met::Refused(_), Some(record)) => judge_completion(Some(&record?), now_ms, completion),
                    (Met::Refused(_), None) => self.complete_one(now_ms, completion).await,
                }
            }
        });
        join_all(answers).await
    }

    async fn execute(&self, statements: Vec<BatchStatementRequest>) -> Result<Vec<Met>, StoreError> {
        let expected = statements.len();
        let batch = self.client.batch_execute_statement().set_statements(Some(statements));
        let answered = batch.send().await.map_err(|error| store_error("BatchExecuteStatement", &error))?;
        let responses = answered.responses.unwrap_or_default();
        if responses.len() != expected {
            let detail = format!("BatchExecuteStatement: expected {expected} answers, found {}", responses.len());
            return Err(StoreError::new(StoreErrorKind::Unavailable, detail));
        }
        Ok(responses.into_iter().map(|response| Met::of(response.error)).collect())
    }

    /// The records behind refused statements: those that came with the refusal, the others read consistently. A key that
    /// is not in the result could not be read, or is gone.
    async fn read_refused<'a>(
        &self,
        keys: impl Iterator<Item = &'a Key>,
        met: &[Met],
    ) -> HashMap<Key, Result<Record, StoreError>> {
        let mut found = HashMap::new();
        let mut unread = Vec::new();
        for (key, met) in keys.zip(met) {
            match met {
                Met::Refused(Some(item)) if self.layout.is_record_of(item, key) => {
                    found.extend(self.read_item(Some(item)).transpose().map(|record| (key.clone(), record)));
                }
                Met::Refused(_) => unread.push(key.clone()),
                Met::Applied | Met::Failed(_) => {}
            }
        }
        if !unread.is_empty()
            && let Ok(items) = self.get_items(&unread).await
        {
            for item in items {
                let key = unread.iter().find(|key| self.layout.is_record_of(&item, key));
                let record = self.read_item(Some(&item)).transpose();
                found.extend(key.cloned().zip(record));
            }
        }
        found
    }

    pub(super) async fn read_batch(&self, keys: &[Key]) -> Vec<Result<Option<Record>, StoreError>> {
        let mut answers = Vec::with_capacity(keys.len());
        for keys in keys.chunks(READ_MAX) {
            match self.get_items(keys).await {
                Ok(items) => {
                    answers.extend(keys.iter().map(|key| self.read_item(self.find_item(&items, key))));
                }
                Err(error) => answers.extend(keys.iter().map(|_| Err(error.clone()))),
            }
        }
        answers
    }

    fn find_item<'i>(&self, items: &'i [Item], key: &Key) -> Option<&'i Item> {
        items.iter().find(|item| self.layout.is_record_of(item, key))
    }

    /// The items of up to 100 keys, read consistently. An answer holds 16 MB at most: what is left is asked for again, as long
    /// as each answer brings some.
    ///
    /// # Errors
    /// Also when some keys stay unprocessed: absent and unread look alike, and must not.
    async fn get_items(&self, keys: &[Key]) -> Result<Vec<Item>, StoreError> {
        let mut unread: Vec<_> = keys.iter().map(|key| self.layout.key_item(key.as_str())).collect();
        let mut items = Vec::with_capacity(keys.len());
        while !unread.is_empty() {
            let read = KeysAndAttributes::builder().set_keys(Some(unread)).consistent_read(true).build();
            let read = read.expect("keys were given");
            let answered = self.client.batch_get_item().request_items(&self.table, read).send().await;
            let answered = answered.map_err(|error| store_error("BatchGetItem", &error))?;
            let found = answered.responses.unwrap_or_default().remove(&self.table).unwrap_or_default();
            unread = answered.unprocessed_keys.unwrap_or_default().remove(&self.table).map_or(Vec::new(), |it| it.keys);
            if found.is_empty() && !unread.is_empty() {
                return Err(StoreError::new(StoreErrorKind::Throttled, "BatchGetItem: keys were left unprocessed"));
            }
            items.extend(found);
        }
        Ok(items)
    }
}
