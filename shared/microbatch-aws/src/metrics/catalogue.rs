//! Every metric: its name, its unit and what it means. The reference page `infra/telemetry.md` has the same table; a test
//! compares the two with what real functions emit.

use metrique_writer_core::{
    Unit,
    unit::{NegativeScale, PositiveScale},
};

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name in CloudWatch.
    pub name: &'static str,
    /// What it is measured in.
    pub unit: Unit,
    /// What one observation is.
    pub meaning: &'static str,
}

impl Metric {
    const fn count(name: &'static str, meaning: &'static str) -> Self {
        Self { name, unit: Unit::Count, meaning }
    }

    const fn milliseconds(name: &'static str, meaning: &'static str) -> Self {
        Self { name, unit: Unit::Second(NegativeScale::Milli), meaning }
    }

    const fn bytes(name: &'static str, meaning: &'static str) -> Self {
        Self { name, unit: Unit::Byte(PositiveScale::One), meaning }
    }
}

macro_rules! metrics {
    ($($constant:ident = $metric:expr;)+) => {
        $(pub(super) const $constant: Metric = $metric;)+

        /// Every metric, in the order of the reference page.
        pub const METRICS: &[Metric] = &[$($constant),+];
    };
}

metrics! {
    BATCH_SIZE = Metric::count("BatchSize", "Records in the batch.");
    BATCH_BYTES = Metric::bytes("BatchBytes", "Bytes of the event.");
    BATCH_LATENCY = Metric::milliseconds("BatchLatency", "From receipt to response; without the export of traces, which takes MICROBATCH_TRACE_FLUSH_MS at most.");
    BATCH_FAILURES = Metric::count("BatchFailures", "1 where the invocation failed as a whole: nothing was done, it was no SQS event, a record had no id, or it panicked outside of items.");
    PARTIAL_FAILURES = Metric::count("PartialFailures", "1 where some messages were reported, and the invocation did not fail as a whole. Its Average is the partial-failure rate.");
    COLD_START = Metric::count("ColdStart", "1 for the first batch of a process.");
    CONCURRENCY = Metric::count("Concurrency", "Most items of the batch that were under way at once.");
    CONCURRENCY_LIMIT = Metric::count("ConcurrencyLimit", "Most items at once that the process allows, when the batch ended.");
    BREAKER_OPEN = Metric::count("BreakerOpen", "1 where the circuit breaker was open or half open when the batch ended.");
    BUFFERED_BYTES = Metric::bytes("BufferedBytes", "Bytes of all events that the process held when the batch came, its own included.");
    CLAIM_LATENCY = Metric::milliseconds("ClaimLatency", "Of each request that claims keys.");
    COMPLETION_LATENCY = Metric::milliseconds("CompletionLatency", "Of each request that completes keys.");
    STORE_ERRORS = Metric::count("StoreErrors", "Requests that claim or complete keys of which an answer was an error, those that a further try mended included.");
    QUEUE_ERRORS = Metric::count("QueueErrors", "Requests that park or delay messages of which an answer was an error.");
    ITEMS = Metric::count("Items", "Items, whatever became of them. Rates are taken of its Sum.");
    ITEMS_PROCESSED = Metric::count("ItemsProcessed", "Items that ran, and whose completion is recorded.");
    DUPLICATES = Metric::count("Duplicates", "Items whose work was done already. The duplicate rate is its Sum by the Sum of Items.");
    ITEMS_BUSY = Metric::count("ItemsBusy", "Items whose key another attempt held.");
    ITEMS_CONFLICT = Metric::count("ItemsConflict", "Items whose key was used for other content.");
    ITEMS_FAILED = Metric::count("ItemsFailed", "Items that failed and may succeed when tried again.");
    ITEMS_REJECTED = Metric::count("ItemsRejected", "Items that cannot succeed.");
    ITEMS_ABANDONED = Metric::count("ItemsAbandoned", "Items that were not started.");
    PARKED = Metric::count("Parked", "Messages sent to the dead-letter queue with their reason.");
    ITEM_LATENCY = Metric::milliseconds("ItemLatency", "Of each item that was claimed: from the claim to the outcome. Equal items of a batch are claimed once.");
    ITEM_AGE = Metric::milliseconds("ItemAge", "Of each message: how long it had been in the queue when it came.");
    LOST_LEASES = Metric::count("LostLeases", "Items whose key another attempt took before the completion, which nobody has recorded.");
    EFFECTS_AFTER_LOST_LEASE = Metric::count("EffectsAfterLostLease", "Effects that may have happened twice: another attempt completed the key meanwhile.");
    COMPLETIONS_LOST = Metric::count("CompletionsLost", "Effects that happened and could not be recorded in time. They are attempted again.");
    RELEASES_LOST = Metric::count("ReleasesLost", "Keys that could not be given back in time. They stay locked until their lease ends.");
    PARKS_FAILED = Metric::count("ParksFailed", "Messages that were to be parked and were not. They are left to the redrive policy.");
    DELAYS_FAILED = Metric::count("DelaysFailed", "Messages whose delay could not be set. They come back after the visibility timeout.");
}
