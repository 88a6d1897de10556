//! The answers of SQS's batch operations, entry by entry.

use std::collections::HashMap;

use aws_sdk_sqs::{
    Client,
    types::{BatchResultErrorEntry, SendMessageBatchRequestEntry, SendMessageBatchResultEntry},
};
use microbatch::queue::QueueError;

use super::error::{UNAVAILABLE, entry_error, request_error};

const SEND: &str = "SendMessageBatch";

/// A message that SQS took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The id that SQS gave it.
    pub message_id: String,
    /// Its place in its queue, on a FIFO queue: a large number that grows within a group.
    pub sequence_number: Option<String>,
}

impl From<SendMessageBatchResultEntry> for Sent {
    fn from(entry: SendMessageBatchResultEntry) -> Self {
        Self { message_id: entry.message_id, sequence_number: entry.sequence_number }
    }
}

/// Sends entries in one request, and answers each in order. Their ids differ.
pub(super) async fn send(
    client: &Client,
    queue_url: &str,
    entries: Vec<SendMessageBatchRequestEntry>,
) -> Vec<Result<Sent, QueueError>> {
    let ids: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
    let answer = client.send_message_batch().queue_url(queue_url).set_entries(Some(entries)).send().await;
    let answer = answer.map_err(|error| request_error(SEND, &error)).map(|output| Answer {
        successful: output.successful.into_iter().map(|entry| (entry.id.clone(), entry.into())).collect(),
        failed: output.failed,
    });
    by_entry(SEND, &ids, answer)
}

/// The answer to a batch request.
pub(super) struct Answer<T> {
    pub(super) successful: Vec<(String, T)>,
    pub(super) failed: Vec<BatchResultErrorEntry>,
}

/// One answer for each id, in order. An entry that is said to have failed has failed, whatever else is said of it, and one
/// of which nothing is said has failed too.
pub(super) fn by_entry<T>(
    operation: &str,
    ids: &[String],
    answer: Result<Answer<T>, QueueError>,
) -> Vec<Result<T, QueueError>> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return ids.iter().map(|_| Err(error.clone())).collect(),
    };
    let mut results: HashMap<String, Result<T, QueueError>> =
        answer.successful.into_iter().map(|(id, result)| (id, Ok(result))).collect();
    for entry in &answer.failed {
        results.insert(entry.id.clone(), Err(entry_error(operation, entry)));
    }
    let unnamed =
        || Err(QueueError::passing(UNAVAILABLE, format!("{operation}: the answer says nothing of the entry")));
    ids.iter().map(|id| results.remove(id).unwrap_or_else(unnamed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(id: &str, sender_fault: bool) -> BatchResultErrorEntry {
        let entry = BatchResultErrorEntry::builder().id(id).code("InvalidParameterValue").message("canary");
        entry.sender_fault(sender_fault).build().expect("complete")
    }

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|id| id.to_string()).collect()
    }

    /// P1: what the answer does not call successful is never taken for it.
    #[test]
    fn p1_an_entry_succeeds_only_where_the_answer_says_so_and_nothing_else() {
        let successful =
            vec![("3".to_owned(), 'd'), ("0".to_owned(), 'a'), ("1".to_owned(), 'b'), ("9".to_owned(), 'x')];
        let answer = Answer { successful, failed: vec![failed("1", false), failed("2", true), failed("8", true)] };
        let results = by_entry("SendMessageBatch", &ids(5), Ok(answer));
        let shown: Vec<_> = results.iter().map(|result| result.as_ref().map_err(QueueError::is_retryable)).collect();
        assert_eq!(shown, [Ok(&'a'), Err(true), Err(false), Ok(&'d'), Err(true)]);
        assert!(
            results
                .iter()
                .filter_map(|result| result.as_ref().err())
                .all(|error| !error.to_string().contains("canary"))
        );
    }

    #[test]
    fn a_request_that_failed_is_every_entrys_failure() {
        let error = QueueError::passing(UNAVAILABLE, "x");
        assert_eq!(by_entry::<()>("SendMessageBatch", &ids(2), Err(error.clone())), [Err(error.clone()), Err(error)]);
    }

    #[test]
    fn an_empty_answer_is_no_success() {
        let results = by_entry::<()>("SendMessageBatch", &ids(3), Ok(Answer { successful: vec![], failed: vec![] }));
        assert!(results.iter().all(|result| result.as_ref().is_err_and(QueueError::is_retryable)));
    }
}
