//! How the queue fails on purpose, call by call and entry by entry.

use std::time::Duration;

use microbatch::queue::QueueError;

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueOperation {
    /// Messages are sent to the dead-letter queue.
    Park,
    /// Messages are delayed.
    Delay,
}

/// A call that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueCall {
    /// What it asks for.
    pub operation: QueueOperation,
    /// How many calls of either kind came before.
    pub nth: u64,
    /// How many entries it has.
    pub entries: usize,
}

/// What becomes of a call as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CallFault {
    /// It is made.
    #[default]
    None,
    /// It is made after this time.
    Slow(Duration),
    /// It is throttled: nothing is done, and it may be tried again.
    Throttled,
    /// It is refused for good: nothing is done.
    Refused,
    /// It is made, and its answer is lost: it looks like a failure that may pass.
    AnswerLost,
    /// It is not made and never answered.
    HangBefore,
    /// It is made and never answered.
    HangAfter,
}

/// What becomes of one entry of a call that is made. The others go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EntryFault {
    /// It is done.
    #[default]
    None,
    /// It is throttled: not done, and may be tried again.
    Throttled,
    /// It is refused for good: not done.
    Refused,
    /// It is done, and answered as a failure that may pass.
    AnswerLost,
    /// It is answered as done, and is not. No queue does so: for tests of what should find it.
    Pretended,
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallPlan {
    /// As a whole.
    pub call: CallFault,
    /// Entry by entry, over and over; empty: nothing befalls any.
    pub entries: Vec<EntryFault>,
}

impl CallPlan {
    /// The call as a whole fails, or not.
    pub fn of(call: CallFault) -> Self {
        Self { call, entries: Vec::new() }
    }

    pub(super) fn of_entry(&self, position: usize) -> EntryFault {
        self.entries.get(position % self.entries.len().max(1)).copied().unwrap_or_default()
    }
}

/// Decides on each call.
pub type CallPlans = dyn Fn(&QueueCall) -> CallPlan + Send + Sync;

pub(super) fn throttled() -> QueueError {
    QueueError::passing("throttled", "on purpose")
}

pub(super) fn refused() -> QueueError {
    QueueError::lasting("refused", "on purpose")
}

pub(super) fn answer_lost() -> QueueError {
    QueueError::passing("timed_out", "on purpose, after it was done")
}
