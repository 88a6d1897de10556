//! What a batch reports about itself, and to whom.

use std::sync::{Mutex, PoisonError};

use crate::{
    control::ControlReport, error::FailureKind, outcome::Outcome, queue::QueueError, store::StoreError,
    trace::TraceParent,
};

/// What became of one message, and at what cost. Holds no payload, key or attribute text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemReport<'a> {
    /// Position in the batch, from 0.
    pub index: usize,
    /// The queue's id of the message.
    pub message_id: &'a str,
    /// What became of it.
    pub outcome: Outcome,
    /// What kind of failure it is; none for one whose work is done.
    pub kind: Option<FailureKind>,
    /// It was sent to the dead-letter queue, and is acknowledged for that.
    pub parked: bool,
    /// Why, where there is more to say: `undecodable`, `timed_out`, a processor's own code ...
    pub code: Option<&'static str>,
    /// The type of the processor's error.
    pub error_type: Option<&'static str>,
    /// The fencing token of its claim.
    pub attempt: Option<u64>,
    /// How many claims its record has seen.
    pub tries: Option<u64>,
    /// From the claim that was sent to the outcome; none for one that was never claimed.
    pub elapsed_ms: Option<u64>,
    /// When it was decoded and its claim was due, in epoch milliseconds; none for one that was never claimed.
    pub claimed_ms: Option<u64>,
    /// When the processor was called, in epoch milliseconds.
    pub started_ms: Option<u64>,
    /// When the processor returned, or was cut short, in epoch milliseconds.
    pub ended_ms: Option<u64>,
    /// How long the message had been in the queue, by the sender's clock.
    pub age_ms: Option<u64>,
    /// The delay that the processor asked for before the next try.
    pub retry_after_ms: Option<u64>,
    /// Until when its key is held, by another claim or by one that was cut short, in epoch milliseconds.
    pub busy_until_ms: Option<u64>,
    /// When the queue was asked to deliver it again, in epoch milliseconds.
    pub delayed_until_ms: Option<u64>,
    /// The span that sent the message, where the batch is traced and the message says so.
    pub sender: Option<TraceParent>,
}

impl ItemReport<'_> {
    /// Whether the queue deletes the message: its work is done, or it was parked.
    pub fn is_acknowledged(&self) -> bool {
        self.outcome.is_acknowledged() || self.parked
    }
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchReport<'a> {
    /// The host's id of the invocation.
    pub batch_id: &'a str,
    /// The ARN of the queue that its first message came from, where it says so.
    pub queue_arn: Option<&'a str>,
    /// The batch's own span, where the host has one.
    pub trace: Option<TraceParent>,
    /// When the event was received, in epoch milliseconds.
    pub received_ms: u64,
    /// Bytes of the event.
    pub bytes: usize,
    /// Bytes of all events that the process held when this one came, its own included.
    pub buffered_bytes: usize,
    /// When the last message was decoded, in epoch milliseconds; the first one is as soon as the event is received.
    pub decoded_ms: u64,
    /// Each message, in the order they came.
    pub items: Vec<ItemReport<'a>>,
    /// From receipt to response.
    pub elapsed_ms: u64,
    /// Most items of this batch that were under way at once.
    pub concurrency_max: usize,
    /// The invocation fails although each message has its outcome: the error's name, `AllFailed`.
    pub failed: Option<&'static str>,
    /// The requests to the store and to the queue that were answered, in the order of their answers; at most 32,768.
    pub calls: &'a [CallReport],
    /// Events that concern the store rather than one outcome.
    pub counts: Counts,
    /// What the store answered instead of an answer: the first error of each kind and text, at most 8.
    pub store_errors: &'a [StoreError],
    /// What the queue answered instead of parking or delaying: the first error of each kind and text, at most 8.
    pub queue_errors: &'a [QueueError],
    /// What bounded the starts, as it was in the end.
    pub control: ControlReport,
}

/// What a request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// Claims of keys.
    Claim,
    /// Completions, or a processor's writes without idempotency.
    Complete,
    /// Releases of keys.
    Release,
    /// Messages to the dead-letter queue.
    Park,
    /// Later visibility of messages.
    Delay,
}

impl CallKind {
    /// Its name, as in traces.
    pub fn as_str(self) -> &'static str {
        match self {
            CallKind::Claim => "claim",
            CallKind::Complete => "complete",
            CallKind::Release => "release",
            CallKind::Park => "park",
            CallKind::Delay => "delay",
        }
    }

    /// Whether the store is asked; else it is the queue.
    pub fn is_to_store(self) -> bool {
        matches!(self, CallKind::Claim | CallKind::Complete | CallKind::Release)
    }
}

/// One request to the store or to the queue, with its answer. A store may need several requests on the wire for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallReport {
    /// What was asked.
    pub kind: CallKind,
    /// When it was sent, in epoch milliseconds.
    pub started_ms: u64,
    /// When it was answered, in epoch milliseconds.
    pub ended_ms: u64,
    /// How many keys or messages it was about.
    pub entries: usize,
    /// How many of their answers were errors.
    pub errors: usize,
}

/// Most calls that a report has: a batch of 10,000 with single calls has as many. Completions are tried again until time is
/// over; what they add beyond that says nothing new.
const CALLS_MAX: usize = 32_768;

/// Collects the calls of a batch: they end inside of futures that know nothing of the run.
#[derive(Default)]
pub(crate) struct CallLog(Mutex<Vec<CallReport>>);

impl CallLog {
    pub(crate) fn push(&self, call: CallReport) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() < CALLS_MAX {
            calls.push(call);
        }
    }

    pub(crate) fn into_calls(self) -> Vec<CallReport> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An invocation that failed before any item was started, or in a way that nobody has foreseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedBatch<'a> {
    /// The host's id of the invocation.
    pub batch_id: &'a str,
    /// The batch's own span, where the host has one.
    pub trace: Option<TraceParent>,
    /// The error's name: `NotAnSqsEvent`, `MissingMessageId`, or the host's `Panicked`.
    pub error: &'static str,
    /// When the event was received, in epoch milliseconds.
    pub received_ms: u64,
    /// From receipt to answer.
    pub elapsed_ms: u64,
    /// Bytes of the event.
    pub bytes: usize,
}

/// Events worth an operator's attention, beside the outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Effects that happened although the lease had lapsed and another claim completed the key.
    pub effect_after_lost_lease: u64,
    /// Claims that were lost to another before the completion, which nobody has recorded.
    pub lost_leases: u64,
    /// Effects that happened and whose completion could not be recorded in time: they will be attempted again.
    pub completions_lost: u64,
    /// Fingerprints that could not be compared and were taken as the same.
    pub fingerprints_not_compared: u64,
    /// Results that were over the cap or could not be serialized, and are replayed as "not kept".
    pub results_not_kept: u64,
    /// Keys that could not be given back in time: they stay locked until their lease ends.
    pub releases_lost: u64,
    /// Messages that were to be parked and were not: they are reported, and left to the queue's redrive policy.
    pub parks_failed: u64,
    /// Messages whose delay could not be set: they come back after the queue's own visibility timeout.
    pub delays_failed: u64,
    /// Hooks that panicked.
    pub hook_panics: u64,
    /// Items whose code panicked while it was being dropped.
    pub panics_in_drop: u64,
}

impl BatchReport<'_> {
    /// How many messages had this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.items.iter().filter(|item| item.outcome == outcome).count()
    }

    /// How many messages the queue deletes.
    pub fn acknowledged(&self) -> usize {
        self.items.iter().filter(|item| item.is_acknowledged()).count()
    }

    /// How many messages were sent to the dead-letter queue.
    pub fn parked(&self) -> usize {
        self.items.iter().filter(|item| item.parked).count()
    }
}

/// Told of each batch once, after its response is decided and before it leaves. A panic of its changes no response.
pub trait Recorder: Send + Sync + 'static {
    /// Records a batch. It must not block: the deadline is near.
    fn record(&self, report: &BatchReport<'_>);

    /// Records an invocation that has no report, since nothing is known of its messages. It must not block either.
    fn record_refused(&self, _refused: &RefusedBatch<'_>) {}
}

/// Records nothing.
impl Recorder for () {
    fn record(&self, _report: &BatchReport<'_>) {}
}

/// Records with one, then with the other.
impl<A: Recorder, B: Recorder> Recorder for (A, B) {
    fn record(&self, report: &BatchReport<'_>) {
        self.0.record(report);
        self.1.record(report);
    }

    fn record_refused(&self, refused: &RefusedBatch<'_>) {
        self.0.record_refused(refused);
        self.1.record_refused(refused);
    }
}

/// Records where there is one to record with.
impl<R: Recorder> Recorder for Option<R> {
    fn record(&self, report: &BatchReport<'_>) {
        if let Some(recorder) = self {
            recorder.record(report);
        }
    }

    fn record_refused(&self, refused: &RefusedBatch<'_>) {
        if let Some(recorder) = self {
            recorder.record_refused(refused);
        }
    }
}
