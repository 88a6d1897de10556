//! The telemetry table as the bulk writer sees it: one request, one try, and what was not done.

use std::{collections::HashSet, error::Error, fmt, future::Future};

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    types::{PutRequest, WriteRequest},
};

use crate::row::{Item, Row};

/// Most rows that DynamoDB takes in a request. Rows are bounded so that they stay far below its 16 MB.
pub const ROWS_MAX: usize = 25;

/// A table that takes rows in bulk. Rows that are put again change nothing.
pub trait BulkTable: Send + Sync + 'static {
    /// Puts up to [`ROWS_MAX`] different rows in one request, and tries once. Answers with the places of those that were
    /// not processed and are to be sent again.
    fn put(&self, rows: &[&Row]) -> impl Future<Output = Result<Vec<usize>, PutError>> + Send;
}

/// Why a request as a whole was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutError {
    /// There is too much load. Nothing was written.
    Throttled,
    /// No answer, or an error of the service's own: some or all rows may be written, now or in a moment.
    Unanswered,
    /// One of the rows, or each, is none that the table takes. Nothing was written.
    Refused,
    /// The table is not there, not allowed, or not configured. Nothing was written.
    Unusable,
}

impl fmt::Display for PutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Throttled => "the telemetry table has too much load",
            Self::Unanswered => "the telemetry table did not answer",
            Self::Refused => {
                "the telemetry table cannot take a row: are its keys device_id and row_id, strings, and those of its indexes as \
                 the rows have them?"
            }
            Self::Unusable => {
                "the telemetry table cannot be used: is it there, and is dynamodb:BatchWriteItem on it allowed to the role?"
            }
        })
    }
}

impl Error for PutError {}

/// The telemetry table in DynamoDB.
#[derive(Clone, Debug)]
pub struct DynamoDbTable {
    client: Client,
    name: String,
}

impl DynamoDbTable {
    /// The table of this name. The client makes one try a request: its retries are off.
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        Self { client, name: name.into() }
    }
}

impl BulkTable for DynamoDbTable {
    async fn put(&self, rows: &[&Row]) -> Result<Vec<usize>, PutError> {
        let writes = rows.iter().map(|row| {
            let put = PutRequest::builder().set_item(Some(row.to_item())).build().expect("the item was given");
            WriteRequest::builder().put_request(put).build()
        });
        let sent = self.client.batch_write_item().request_items(&self.name, writes.collect()).send().await;
        let unprocessed = sent.map_err(|error| put_error(&error))?.unprocessed_items.unwrap_or_default();
        let left: Vec<WriteRequest> = unprocessed.into_values().flatten().collect();
        Ok(places(rows, &left))
    }
}

/// The places of rows that came back. What came back and is none of them leaves open which are meant: it is all of them.
fn places(rows: &[&Row], left: &[WriteRequest]) -> Vec<usize> {
    let key = |item: &'_ Item| {
        let text = |name| item.get(name).and_then(|value| value.as_s().ok()).cloned();
        text("device_id").zip(text("row_id"))
    };
    let keys: HashSet<_> = left.iter().map(|write| write.put_request().and_then(|put| key(put.item()))).collect();
    let came_back = |row: &Row| keys.contains(&Some((row.device_id().to_owned(), row.row_id().to_owned())));
    let places: Vec<usize> = (0..rows.len()).filter(|place| came_back(rows[*place])).collect();
    if places.len() == keys.len() { places } else { (0..rows.len()).collect() }
}

/// What an SDK error means, after the page on error handling in DynamoDB's developer guide.
fn put_error<E: ProvideErrorMetadata>(error: &SdkError<E>) -> PutError {
    match error {
        SdkError::ConstructionFailure(_) => PutError::Unusable,
        SdkError::DispatchFailure(failure) if failure.is_user() => PutError::Unusable,
        SdkError::ServiceError(service) => match service.err().code().unwrap_or_default() {
            "ProvisionedThroughputExceededException"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "ReplicatedWriteConflictException" => PutError::Throttled,
            "ValidationException" | "ItemCollectionSizeLimitExceededException" => PutError::Refused,
            _ if service.raw().status().as_u16() >= 500 => PutError::Unanswered,
            _ => PutError::Unusable,
        },
        _ => PutError::Unanswered,
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::operation::batch_write_item::BatchWriteItemError;

    use super::*;
    use crate::{reading::Reading, row::compact};

    fn rows(devices: &[&str]) -> Vec<Row> {
        let reading = |device: &&str| Reading {
            device_id: (*device).to_owned(),
            metric: "t".to_owned(),
            at_ms: 1_763_900_000_000,
            value: 1.0,
            sequence: 1,
        };
        let readings: Vec<_> = devices.iter().map(reading).collect();
        compact(readings.iter().enumerate()).rows
    }

    fn write(item: Item) -> WriteRequest {
        let put = PutRequest::builder().set_item(Some(item)).build().expect("an item");
        WriteRequest::builder().put_request(put).build()
    }

    #[test]
    fn rows_that_came_back_are_found_again() {
        let rows = rows(&["a", "b", "c"]);
        let sent: Vec<&Row> = rows.iter().collect();
        assert_eq!(places(&sent, &[]), [0; 0]);
        assert_eq!(places(&sent, &[write(rows[2].to_item()), write(rows[0].to_item())]), [0, 2]);
        let unknown = [write(rows[0].to_item()), write(Item::new())];
        assert_eq!(places(&sent, &unknown), [0, 1, 2]);
    }

    #[test]
    fn what_was_not_answered_may_have_been_written_and_what_was_not_sent_was_not() {
        let unanswered: SdkError<BatchWriteItemError> = SdkError::timeout_error("late");
        assert_eq!(put_error(&unanswered), PutError::Unanswered);
        let not_sent: SdkError<BatchWriteItemError> = SdkError::construction_failure("no region");
        assert_eq!(put_error(&not_sent), PutError::Unusable);
    }
}
