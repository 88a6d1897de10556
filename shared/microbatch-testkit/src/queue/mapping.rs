//! What Lambda's event source mapping does with an answer.

use std::collections::HashSet;

use super::{
    message::{Delivery, Number},
    model::QueueModel,
};

/// The answer to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The function answered: the ids in `batchItemFailures`.
    Failed(&'a [String]),
    /// The function erred, was killed, or its answer was lost on the way.
    Error,
}

/// Deletes what the answer acknowledges, and leaves everything else to its visibility timeout. Returns what was deleted.
///
/// With `ReportBatchItemFailures`, a message that the answer does not name is done. An error, an empty id, or one that was
/// not in the event means that all failed ("Handling errors for an SQS event source in Lambda"). What can no longer be
/// deleted, because it was received again meanwhile, stays.
pub fn apply(model: &mut QueueModel, now_ms: u64, deliveries: &[Delivery], answer: Answer<'_>) -> Vec<Number> {
    let Answer::Failed(failed) = answer else { return Vec::new() };
    let received: HashSet<&str> = deliveries.iter().map(|delivery| delivery.message_id.as_str()).collect();
    if failed.iter().any(|id| !received.contains(id.as_str())) {
        return Vec::new();
    }
    let done = deliveries.iter().filter(|delivery| !failed.contains(&delivery.message_id));
    done.filter_map(|delivery| model.delete(now_ms, &delivery.receipt_handle).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{
        message::NewMessage,
        model::{QueueSettings, Refusal},
    };

    fn queue_of(count: usize) -> QueueModel {
        let settings = QueueSettings { fifo: false, visibility_timeout_ms: 30_000, max_receive_count: Some(3) };
        let mut queue = QueueModel::new(settings);
        for _ in 0..count {
            queue.send(0, NewMessage::default()).expect("accepted");
        }
        queue
    }

    #[test]
    fn what_the_answer_does_not_name_is_deleted() {
        let mut queue = queue_of(3);
        let deliveries = queue.receive(0, 10);
        let failed = [deliveries[1].message_id.clone()];
        assert_eq!(apply(&mut queue, 10, &deliveries, Answer::Failed(&failed)), [Number(0), Number(2)]);
        assert_eq!(queue.receive(29_999, 10), []);
        assert_eq!(queue.receive(30_000, 10)[0].number, Number(1));
    }

    #[test]
    fn an_error_and_a_wrong_id_leave_everything() {
        for answer in [Answer::Error, Answer::Failed(&[String::new()]), Answer::Failed(&["another".into()])] {
            let mut queue = queue_of(2);
            let deliveries = queue.receive(0, 10);
            assert_eq!(apply(&mut queue, 10, &deliveries, answer), []);
            assert_eq!(queue.receive(30_000, 10).len(), 2, "{answer:?}");
        }
    }

    #[test]
    fn a_late_answer_deletes_nothing_that_was_received_again() {
        let mut queue = queue_of(1);
        let first = queue.receive(0, 1);
        let second = queue.receive(30_000, 1);
        assert_eq!(apply(&mut queue, 30_001, &first, Answer::Failed(&[])), []);
        assert_eq!(queue.delete(30_001, &first[0].receipt_handle), Err(Refusal::Stale));
        assert_eq!(apply(&mut queue, 30_002, &second, Answer::Failed(&[])), [Number(0)]);
    }
}
