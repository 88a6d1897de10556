//! Keeps or counts what a pipeline reports.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use microbatch::{
    BatchReport, FailureKind, Outcome, Recorder, StoreError,
    control::ControlReport,
    queue::QueueError,
    telemetry::{CallReport, Counts},
};

/// Counts the items that were processed, which a response does not tell from duplicates. Clones share the count, and it takes no
/// memory: for what is measured.
#[derive(Debug, Clone, Default)]
pub struct ProcessedCount(Arc<AtomicUsize>);

impl ProcessedCount {
    /// How many there were so far.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Recorder for ProcessedCount {
    fn record(&self, report: &BatchReport<'_>) {
        self.0.fetch_add(report.count(Outcome::Processed), Ordering::Relaxed);
    }
}

/// What became of one message, kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptItem {
    /// The queue's id of the message.
    pub message_id: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What kind of failure it is.
    pub kind: Option<FailureKind>,
    /// It was sent to the dead-letter queue.
    pub parked: bool,
    /// Why.
    pub code: Option<&'static str>,
    /// The fencing token of its claim.
    pub attempt: Option<u64>,
    /// How many claims its record has seen.
    pub tries: Option<u64>,
    /// From the claim that was sent to the outcome.
    pub elapsed_ms: Option<u64>,
    /// When its claim was due, in epoch milliseconds.
    pub claimed_ms: Option<u64>,
    /// When the processor was called, in epoch milliseconds.
    pub started_ms: Option<u64>,
    /// When the processor returned or was cut short, in epoch milliseconds.
    pub ended_ms: Option<u64>,
    /// When the queue was asked to deliver it again, in epoch milliseconds.
    pub delayed_until_ms: Option<u64>,
}

/// What became of a batch, kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptReport {
    /// The host's id of the invocation.
    pub batch_id: String,
    /// Each message, in the order they came.
    pub items: Vec<KeptItem>,
    /// What concerned the store.
    pub counts: Counts,
    /// The store's errors, each kind and text once.
    pub store_errors: Vec<StoreError>,
    /// The queue's errors, each kind and text once.
    pub queue_errors: Vec<QueueError>,
    /// What bounded the starts, as it was in the end.
    pub control: Option<ControlReport>,
    /// From receipt to response.
    pub elapsed_ms: u64,
    /// Bytes of the event.
    pub bytes: usize,
    /// Bytes of all events that the process held when this one came.
    pub buffered_bytes: usize,
    /// Most items of the batch that were under way at once.
    pub concurrency_max: usize,
    /// The requests that were answered.
    pub calls: Vec<CallReport>,
    /// The invocation fails as a whole: the error's name.
    pub failed: Option<&'static str>,
}

impl KeptReport {
    /// The outcome and code of a message.
    pub fn of(&self, message_id: &str) -> Option<(Outcome, Option<&'static str>)> {
        self.items.iter().find(|item| item.message_id == message_id).map(|item| (item.outcome, item.code))
    }
}

/// A recorder that keeps all reports.
#[derive(Debug, Default)]
pub struct KeepingRecorder(Mutex<Vec<KeptReport>>);

impl KeepingRecorder {
    /// The reports so far, oldest first.
    pub fn reports(&self) -> Vec<KeptReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest report of this invocation.
    pub fn of_batch(&self, batch_id: &str) -> Option<KeptReport> {
        let reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.iter().rev().find(|report| report.batch_id == batch_id).cloned()
    }

    /// The newest report; an empty one when there is none.
    pub fn last(&self) -> KeptReport {
        self.reports().pop().unwrap_or_default()
    }
}

impl Recorder for KeepingRecorder {
    fn record(&self, report: &BatchReport<'_>) {
        let items = report.items.iter().map(|item| KeptItem {
            message_id: item.message_id.to_owned(),
            outcome: item.outcome,
            kind: item.kind,
            parked: item.parked,
            code: item.code,
            attempt: item.attempt,
            tries: item.tries,
            elapsed_ms: item.elapsed_ms,
            claimed_ms: item.claimed_ms,
            started_ms: item.started_ms,
            ended_ms: item.ended_ms,
            delayed_until_ms: item.delayed_until_ms,
        });
        let kept = KeptReport {
            batch_id: report.batch_id.to_owned(),
            items: items.collect(),
            counts: report.counts,
            store_errors: report.store_errors.to_vec(),
            queue_errors: report.queue_errors.to_vec(),
            control: Some(report.control),
            elapsed_ms: report.elapsed_ms,
            bytes: report.bytes,
            buffered_bytes: report.buffered_bytes,
            concurrency_max: report.concurrency_max,
            calls: report.calls.to_vec(),
            failed: report.failed,
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
    }
}
