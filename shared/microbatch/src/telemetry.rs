//! What a batch reports about itself, and to whom.

use crate::{control::ControlReport, error::FailureKind, outcome::Outcome, queue::QueueError, store::StoreError};

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
    /// How long the message had been in the queue, by the sender's clock.
    pub age_ms: Option<u64>,
    /// The delay that the processor asked for before the next try.
    pub retry_after_ms: Option<u64>,
    /// Until when its key is held, by another claim or by one that was cut short, in epoch milliseconds.
    pub busy_until_ms: Option<u64>,
    /// When the queue was asked to deliver it again, in epoch milliseconds.
    pub delayed_until_ms: Option<u64>,
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
    /// Each message, in the order they came.
    pub items: Vec<ItemReport<'a>>,
    /// From receipt to response.
    pub elapsed_ms: u64,
    /// Events that concern the store rather than one outcome.
    pub counts: Counts,
    /// What the store answered instead of an answer: the first error of each kind and text, at most 8.
    pub store_errors: &'a [StoreError],
    /// What the queue answered instead of parking or delaying: the first error of each kind and text, at most 8.
    pub queue_errors: &'a [QueueError],
    /// What bounded the starts, as it was in the end.
    pub control: ControlReport,
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

/// Told of each batch once, after its response is decided and before it leaves.
pub trait Recorder: Send + Sync + 'static {
    /// Records a batch. It must not block: the deadline is near.
    fn record(&self, report: &BatchReport<'_>);
}

/// Records nothing.
impl Recorder for () {
    fn record(&self, _report: &BatchReport<'_>) {}
}
