//! The user's code that is told what became of each message.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::{
    error::{FailureKind, ProcessError},
    outcome::Outcome,
    record::StoredResult,
};

/// A message whose work is done, by this delivery or by an earlier one.
#[derive(Clone, Copy)]
pub struct Success<'a> {
    /// Position of the message in its batch, from 0.
    pub index: usize,
    /// The queue's id of the message.
    pub message_id: &'a str,
    /// How often it was delivered, this time included.
    pub receive_count: u32,
    /// Processed or Duplicate.
    pub outcome: Outcome,
    pub(crate) result: Option<&'a StoredResult>,
}

impl Success<'_> {
    /// What the processor answered, now or, for a Duplicate, when the work was done: the identical result, replayed.
    /// None where it answered `()`, where the result was not kept, or is of another shape by now.
    pub fn output<T: DeserializeOwned>(&self) -> Option<T> {
        match self.result? {
            StoredResult::Kept(json) => serde_json::from_str(json).ok(),
            StoredResult::None | StoredResult::NotKept => None,
        }
    }

    /// Whether there was a result that was not kept: it is over the cap, or could not be serialized.
    pub fn output_not_kept(&self) -> bool {
        self.result == Some(&StoredResult::NotKept)
    }
}

/// A message whose work is not done.
#[derive(Clone, Copy)]
pub struct Failure<'a> {
    /// Position of the message in its batch, from 0.
    pub index: usize,
    /// The queue's id of the message.
    pub message_id: &'a str,
    /// How often it was delivered, this time included.
    pub receive_count: u32,
    /// Busy, Conflict, Failed, Rejected or Abandoned.
    pub outcome: Outcome,
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// Why, where there is more to say: `undecodable`, `timed_out`, the processor's own code ...
    pub code: Option<&'static str>,
    /// The processor's error, where it returned one. Its text may hold payload.
    pub error: Option<&'a ProcessError>,
}

impl fmt::Debug for Success<'_> {
    // Not the result, as below.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Success")
            .field("index", &self.index)
            .field("message_id", &self.message_id)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Failure<'_> {
    // `ProcessError` shows no text itself: debug output ends in logs (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("index", &self.index)
            .field("message_id", &self.message_id)
            .field("outcome", &self.outcome)
            .field("code", &self.code)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// The hooks of a pipeline. They run on its thread, between items: they must not block. One that panics is counted, and
/// changes nothing else.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) success: Option<Box<OnSuccess>>,
    pub(crate) failure: Option<Box<OnFailure>>,
}

type OnSuccess = dyn Fn(&Success<'_>) + Send + Sync;
type OnFailure = dyn Fn(&Failure<'_>) + Send + Sync;

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("success", &self.success.is_some())
            .field("failure", &self.failure.is_some())
            .finish()
    }
}
