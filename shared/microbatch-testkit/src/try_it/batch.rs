//! What became of a batch.

use microbatch::{Outcome, pipeline::RunError};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::recorder::{KeptItem, KeptReport};

/// What became of a batch: of each message, in the order in which they were sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestBatch {
    pub(super) report: KeptReport,
    pub(super) reported: Vec<String>,
    pub(super) error: Option<RunError>,
    /// None: outputs are not kept.
    pub(super) outputs: Option<Vec<Option<Value>>>,
}

impl TestBatch {
    /// The outcome of each message.
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.report.items.iter().map(|item| item.outcome).collect()
    }

    /// The code of each message: the processor's own, or why microbatch did what it did.
    pub fn codes(&self) -> Vec<Option<&'static str>> {
        self.report.items.iter().map(|item| item.code).collect()
    }

    /// The ids of the messages that the queue delivers again. All others it deletes.
    pub fn reported(&self) -> &[String] {
        &self.reported
    }

    /// What is known of a message.
    ///
    /// # Panics
    /// When the batch has no message of this id.
    pub fn of(&self, message_id: &str) -> &KeptItem {
        let found = self.report.items.iter().find(|item| item.message_id == message_id);
        found.unwrap_or_else(|| {
            let ids: Vec<&str> = self.report.items.iter().map(|item| item.message_id.as_str()).collect();
            panic!("expected one of the ids of this batch, {ids:?}, found {message_id:?}")
        })
    }

    /// The result of a message by its position, from 0: what the processor answered, now or, for a Duplicate, when the work
    /// was done. None where there is none, where it was not kept, or is of another shape.
    ///
    /// # Panics
    /// Without [`TestSetup::keep_outputs`](super::TestSetup::keep_outputs).
    pub fn output<T: DeserializeOwned>(&self, position: usize) -> Option<T> {
        let Some(outputs) = &self.outputs else {
            panic!("expected outputs that were kept, found none: add `.keep_outputs()` to the set-up");
        };
        let output = outputs.get(position)?.clone()?;
        serde_json::from_value(output).ok()
    }

    /// Why the invocation failed as a whole: where nothing was done, so that the queue's event source mapping slows down.
    /// All messages are reported then.
    pub fn error(&self) -> Option<&RunError> {
        self.error.as_ref()
    }

    /// All that was reported of the batch.
    pub fn report(&self) -> &KeptReport {
        &self.report
    }
}
