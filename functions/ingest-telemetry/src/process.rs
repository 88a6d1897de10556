//! The batch processor: what is done with a sub-batch of readings.

use std::{error::Error, fmt, num::NonZeroUsize, sync::Arc};

use microbatch::{
    BatchItem, BatchProcessor, Clock, Done, InBatches, NoWrites, Pipeline, PipelineBuilder, ProcessError, Random,
    batcher::Limits,
};

use crate::{
    bulk::{BulkWriter, RowFailure},
    reading::{Reading, ReadingError},
    row::{Compaction, compact},
    table::BulkTable,
};

/// How large sub-batches are: the more readings, the more of them share a row. Bytes are those of the bodies. For a batch
/// that was collected over a window of seconds the time to wait is short.
pub const SUB_BATCHES: Limits = Limits { count_max: at_most(1_000), bytes_max: at_most(1_048_576), linger_ms: 100 };

/// Items at once in the process: enough for four sub-batches, so that one collects while others are written.
pub const CONCURRENCY: u64 = 4 * 1_000;

/// What is left of a sub-batch's time when its writes end, in milliseconds: its answer comes before it is cancelled, and
/// each reading gets its own.
const ANSWER_MS: u64 = 200;

const fn at_most(value: usize) -> NonZeroUsize {
    NonZeroUsize::new(value).expect("not 0")
}

/// The function: which part of a message names the work, which must not differ, and what is done.
///
/// The whole reading is compared, so that another value under a used sequence number is a conflict rather than lost as a
/// duplicate.
pub fn pipeline<T: BulkTable>(
    table: T,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> PipelineBuilder<InBatches<IngestTelemetry<T>>> {
    Pipeline::builder(InBatches::new(IngestTelemetry::new(table, clock, random), SUB_BATCHES))
        .key("[device_id, metric, sequence]")
        .fingerprint_body()
        .options(|options| options.concurrency = CONCURRENCY)
}

/// Writes valid readings, compacted to rows.
pub struct IngestTelemetry<T> {
    writer: BulkWriter<T>,
    clock: Arc<dyn Clock>,
}

impl<T: BulkTable> IngestTelemetry<T> {
    /// Writes to this table.
    pub fn new(table: T, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { writer: BulkWriter::new(table, Arc::clone(&clock), random), clock }
    }
}

impl<T: BulkTable> BatchProcessor for IngestTelemetry<T> {
    type Item = Reading;
    type Output = ();
    type Write = NoWrites;

    async fn process_batch(
        &self,
        batch: &[BatchItem<Reading>],
    ) -> Result<Vec<Result<Done<()>, ProcessError>>, ProcessError> {
        let now_ms = self.clock.now_ms();
        let left_ms = batch.iter().map(|entry| entry.cx.time_left_ms()).min().unwrap_or_default();
        let invalid = batch.iter().map(|entry| entry.item.validate(now_ms).err().map(Failure::Invalid));
        let mut failures: Vec<Option<Failure>> = invalid.collect();

        let valid = batch.iter().enumerate().filter(|(place, _)| failures[*place].is_none());
        let Compaction { rows, members, taken } = compact(valid.map(|(place, entry)| (place, &entry.item)));
        for place in taken {
            failures[place] = Some(Failure::SequenceTaken);
        }
        let end_ms = now_ms.saturating_add(left_ms.saturating_sub(ANSWER_MS));
        let written = self.writer.write_all(&rows, end_ms).await;
        for (members, result) in members.into_iter().zip(written) {
            for place in members {
                failures[place] = result.err().map(Failure::NotWritten);
            }
        }
        Ok(failures
            .into_iter()
            .map(|failure| failure.map_or(Ok(().into()), |failure| Err(failure.classify())))
            .collect())
    }
}

/// Why a reading was not written, or not for sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The reading is invalid.
    Invalid(ReadingError),
    /// Another reading in the sub-batch has the same device, metric and sequence number. Only without idempotency.
    SequenceTaken,
    /// Its row was not written.
    NotWritten(RowFailure),
}

impl Failure {
    /// A short stable name for logs and dashboards.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Invalid(error) => error.code(),
            Self::SequenceTaken => "sequence_taken",
            Self::NotWritten(RowFailure::NotProcessed) => "not_processed",
            Self::NotWritten(RowFailure::NotAnswered) => "not_answered",
            Self::NotWritten(RowFailure::Refused) => "row_refused",
            Self::NotWritten(RowFailure::TableUnusable) => "table_unusable",
        }
    }

    /// Says whether trying again can help, and whether the reading may be in the table. One that may be keeps its
    /// fingerprint: no other value can be written under its sequence number.
    fn classify(self) -> ProcessError {
        let error = match self {
            Self::Invalid(_) | Self::SequenceTaken | Self::NotWritten(RowFailure::Refused) => {
                ProcessError::permanent(self)
            }
            Self::NotWritten(RowFailure::NotAnswered) => ProcessError::transient(self).effect_unknown(),
            Self::NotWritten(RowFailure::NotProcessed | RowFailure::TableUnusable) => ProcessError::transient(self),
        };
        error.code(self.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(error) => write!(f, "the reading is invalid: {error}"),
            Self::SequenceTaken => f.write_str("another reading of this batch has the same sequence number"),
            Self::NotWritten(failure) => write!(f, "the reading was not written, or not for sure: {failure}"),
        }
    }
}

impl Error for Failure {}
