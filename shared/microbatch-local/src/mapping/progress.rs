//! What a mapping tells while it runs: events as they happen, and their sums.

use std::fmt;
use std::sync::Arc;

use crate::function::FunctionFailure;
use crate::runtime_api::FunctionError;

use super::batching::Closed;
use super::calls::CallError;
use super::event::Incomplete;
use super::verdict::{Note, ResponseFault};

/// Receives every event, one after the other, from the mapping's own task: a slow observer slows the mapping.
pub type Observer = Arc<dyn Fn(&MappingEvent) + Send + Sync>;

/// Something that happened. No event holds a body; what a function posted as its error is in it as posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MappingEvent {
    /// Messages were received.
    Received {
        /// How many, at least one.
        messages: usize,
    },
    /// A receive failed; polling goes on after a pause.
    ReceiveFailed(CallError),
    /// A message that cannot be used was received and left alone.
    Unusable(Incomplete),
    /// A batch goes to the function.
    BatchStarted {
        /// Names the batch, from 1.
        batch: u64,
        /// How many messages it has.
        messages: usize,
        /// The size of the event in bytes.
        event_bytes: usize,
        /// Why it was complete.
        closed: Closed,
        /// How long its first message has been here, in milliseconds.
        waited_ms: u64,
    },
    /// A batch is over.
    BatchEnded(BatchReport),
    /// Messages that no function has seen were made visible again.
    Returned {
        /// How many.
        messages: usize,
        /// How many more could not be: they become visible when their timeout ends.
        failed: usize,
        /// Why, if there are any.
        error: Option<CallError>,
    },
    /// The concurrency limit or the pause after errors changed.
    Scaled {
        /// How many batches may run at once.
        limit: usize,
        /// How long nothing is received after the last error, in milliseconds; 0 when all is well.
        pause_ms: u64,
    },
}

/// What came of a batch. `messages` is the sum of `deleted`, `left` and `undeleted`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchReport {
    /// Names the batch.
    pub batch: u64,
    /// How many messages it had.
    pub messages: usize,
    /// How many are deleted.
    pub deleted: usize,
    /// How many were left in the queue by the rules.
    pub left: usize,
    /// How many were to be deleted and could not be: they are delivered again.
    pub undeleted: usize,
    /// Why, if there are any.
    pub delete_error: Option<CallError>,
    /// From the start of the invocation to the last deletion, in milliseconds.
    pub elapsed_ms: u64,
    /// What the function did.
    pub outcome: Outcome,
}

/// How a batch's invocation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All messages are done.
    Success {
        /// What its author should know.
        note: Option<Note>,
    },
    /// The response reports some messages, or all.
    Partial,
    /// The response breaks the rules.
    BadResponse(ResponseFault),
    /// The function posted an error.
    FunctionError(FunctionError),
    /// The function's process timed out, died or failed in its init.
    Failure(FunctionFailure),
    /// The function's process could not be started.
    NotStarted {
        /// Why.
        reason: String,
    },
}

impl Outcome {
    /// Whether the invocation itself failed, for which the mapping slows down.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::FunctionError(_) | Self::Failure(_) | Self::NotStarted { .. })
    }
}

/// One line, without the text of a function's own error.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success { note: None } => f.write_str("done"),
            Self::Success { note: Some(note) } => write!(f, "done, but {note}"),
            Self::Partial => f.write_str("some messages failed"),
            Self::BadResponse(fault) => fault.fmt(f),
            Self::FunctionError(error) => write!(f, "the function returned the error {}", error.error_type),
            Self::Failure(FunctionFailure::Init(error)) => {
                write!(f, "the function failed in its init: {}", error.error_type)
            }
            Self::Failure(failure) => failure.fmt(f),
            Self::NotStarted { reason } => f.write_str(reason),
        }
    }
}

/// The sums of a mapping's events. Those from `running_batches` on are of this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Messages received.
    pub received: u64,
    /// Batches that went to the function.
    pub batches: u64,
    /// Their messages.
    pub invoked: u64,
    /// Messages deleted.
    pub deleted: u64,
    /// Messages left in the queue by the rules, once for each delivery.
    pub left: u64,
    /// Messages that could not be deleted.
    pub undeleted: u64,
    /// Batches whose response reported messages.
    pub partial_batches: u64,
    /// Batches whose response broke the rules.
    pub bad_responses: u64,
    /// Batches whose invocation failed.
    pub errors: u64,
    /// Messages made visible again that no function has seen.
    pub returned: u64,
    /// Receives that failed.
    pub receive_failures: u64,
    /// The largest batch so far, in messages.
    pub largest_batch: u64,
    /// Batches at the function now.
    pub running_batches: u64,
    /// Their messages.
    pub running_messages: u64,
    /// How many batches may run at once.
    pub concurrency_limit: u64,
    /// How long nothing is received after the last error, in milliseconds.
    pub pause_ms: u64,
}

impl Counts {
    /// Adds an event.
    pub fn add(&mut self, event: &MappingEvent) {
        match event {
            MappingEvent::Received { messages } => self.received += count(*messages),
            MappingEvent::ReceiveFailed(_) => self.receive_failures += 1,
            MappingEvent::Unusable(_) => {}
            MappingEvent::BatchStarted { messages, .. } => {
                self.batches += 1;
                self.invoked += count(*messages);
                self.largest_batch = self.largest_batch.max(count(*messages));
                self.running_batches += 1;
                self.running_messages += count(*messages);
            }
            MappingEvent::BatchEnded(report) => self.add_ended(report),
            MappingEvent::Returned { messages, .. } => self.returned += count(*messages),
            MappingEvent::Scaled { limit, pause_ms } => {
                (self.concurrency_limit, self.pause_ms) = (count(*limit), *pause_ms);
            }
        }
    }

    fn add_ended(&mut self, report: &BatchReport) {
        self.deleted += count(report.deleted);
        self.left += count(report.left);
        self.undeleted += count(report.undeleted);
        self.partial_batches += u64::from(report.outcome == Outcome::Partial);
        self.bad_responses += u64::from(matches!(report.outcome, Outcome::BadResponse(_)));
        self.errors += u64::from(report.outcome.is_error());
        self.running_batches = self.running_batches.saturating_sub(1);
        self.running_messages = self.running_messages.saturating_sub(count(report.messages));
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_add_up() {
        let started = |batch, messages| MappingEvent::BatchStarted {
            batch,
            messages,
            event_bytes: 10,
            closed: Closed::Size,
            waited_ms: 0,
        };
        let ended = |batch, deleted, left, undeleted, outcome| {
            let messages = deleted + left + undeleted;
            let report =
                BatchReport { batch, messages, deleted, left, undeleted, delete_error: None, elapsed_ms: 1, outcome };
            MappingEvent::BatchEnded(report)
        };
        let mut counts = Counts::default();
        for event in [
            MappingEvent::Scaled { limit: 5, pause_ms: 0 },
            MappingEvent::Received { messages: 9 },
            started(1, 4),
            started(2, 3),
            ended(1, 2, 1, 1, Outcome::Partial),
            MappingEvent::Returned { messages: 2, failed: 0, error: None },
            started(3, 1),
            ended(3, 0, 1, 0, Outcome::NotStarted { reason: "no file".to_owned() }),
        ] {
            counts.add(&event);
        }
        let expected = Counts {
            received: 9,
            batches: 3,
            invoked: 8,
            deleted: 2,
            left: 2,
            undeleted: 1,
            partial_batches: 1,
            errors: 1,
            returned: 2,
            largest_batch: 4,
            running_batches: 1,
            running_messages: 3,
            concurrency_limit: 5,
            ..Counts::default()
        };
        assert_eq!(counts, expected);
    }
}
