//! What is known of each message in the end.

use crate::{
    control::ControlReport,
    error::FailureKind,
    message::Message,
    outcome::Outcome,
    pipeline::{ALL_FAILED, Invocation},
    policy::TotalFailure,
    queue::QueueError,
    store::StoreError,
    telemetry::{BatchReport, CallReport, Counts, ItemReport},
    trace,
};

/// A message's outcome and what explains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pipeline) struct Verdict {
    pub(in crate::pipeline) outcome: Outcome,
    pub(in crate::pipeline) kind: Option<FailureKind>,
    pub(in crate::pipeline) code: Option<&'static str>,
    pub(in crate::pipeline) error_type: Option<&'static str>,
    pub(in crate::pipeline) parked: bool,
    pub(in crate::pipeline) attempt: Option<u64>,
    pub(in crate::pipeline) tries: Option<u64>,
    pub(in crate::pipeline) elapsed_ms: Option<u64>,
    pub(in crate::pipeline) claimed_ms: Option<u64>,
    pub(in crate::pipeline) started_ms: Option<u64>,
    pub(in crate::pipeline) ended_ms: Option<u64>,
    pub(in crate::pipeline) retry_after_ms: Option<u64>,
    pub(in crate::pipeline) busy_until_ms: Option<u64>,
    pub(in crate::pipeline) delayed_until_ms: Option<u64>,
}

impl Verdict {
    pub(in crate::pipeline) fn new(outcome: Outcome, code: Option<&'static str>) -> Self {
        let kind = match outcome {
            Outcome::Processed | Outcome::Duplicate => None,
            Outcome::Busy => Some(FailureKind::Busy),
            Outcome::Conflict => Some(FailureKind::Conflict),
            Outcome::Failed => Some(FailureKind::Transient),
            Outcome::Rejected => Some(FailureKind::Permanent),
            Outcome::Abandoned => Some(FailureKind::Abandoned),
        };
        Self {
            outcome,
            kind,
            code,
            error_type: None,
            parked: false,
            attempt: None,
            tries: None,
            elapsed_ms: None,
            claimed_ms: None,
            started_ms: None,
            ended_ms: None,
            retry_after_ms: None,
            busy_until_ms: None,
            delayed_until_ms: None,
        }
    }

    /// The body is no item, or has no key.
    pub(in crate::pipeline) fn undecodable(code: &'static str) -> Self {
        Self { kind: Some(FailureKind::Undecodable), ..Self::new(Outcome::Rejected, Some(code)) }
    }

    /// Whether the queue deletes the message.
    pub(in crate::pipeline) fn is_acknowledged(&self) -> bool {
        self.outcome.is_acknowledged() || self.parked
    }
}

/// All verdicts of a run.
pub(in crate::pipeline) struct Finished {
    pub(in crate::pipeline) verdicts: Vec<Option<Verdict>>,
    pub(in crate::pipeline) counts: Counts,
    /// Whether any message is of a queue that keeps order.
    pub(in crate::pipeline) is_fifo: bool,
    pub(in crate::pipeline) decoded_ms: u64,
    pub(in crate::pipeline) concurrency_max: usize,
    pub(in crate::pipeline) calls: Vec<CallReport>,
    pub(in crate::pipeline) store_errors: Vec<StoreError>,
    pub(in crate::pipeline) queue_errors: Vec<QueueError>,
    pub(in crate::pipeline) control: ControlReport,
}

/// What is known of a batch as a whole.
pub(in crate::pipeline) struct Batch<'a> {
    pub(in crate::pipeline) invocation: Invocation<'a>,
    pub(in crate::pipeline) received_ms: u64,
    pub(in crate::pipeline) buffered_bytes: usize,
    pub(in crate::pipeline) elapsed_ms: u64,
}

impl Finished {
    pub(in crate::pipeline) fn report<'a>(
        &'a self,
        messages: &'a [Message<'_>],
        batch: &Batch<'a>,
        total_failure: TotalFailure,
    ) -> BatchReport<'a> {
        let Batch { invocation, received_ms, buffered_bytes, elapsed_ms } = *batch;
        let is_traced = invocation.trace.is_some_and(|trace| trace.sampled);
        let items = messages.iter().zip(&self.verdicts).enumerate().map(|(index, (message, verdict))| {
            let verdict = verdict.unwrap_or(Verdict::new(Outcome::Abandoned, Some("no_verdict")));
            ItemReport {
                index,
                message_id: &message.id,
                outcome: verdict.outcome,
                kind: verdict.kind,
                parked: verdict.parked,
                code: verdict.code,
                error_type: verdict.error_type,
                attempt: verdict.attempt,
                tries: verdict.tries,
                elapsed_ms: verdict.elapsed_ms,
                claimed_ms: verdict.claimed_ms,
                started_ms: verdict.started_ms,
                ended_ms: verdict.ended_ms,
                age_ms: message.sent_ms.map(|sent_ms| received_ms.saturating_sub(sent_ms)),
                retry_after_ms: verdict.retry_after_ms,
                busy_until_ms: verdict.busy_until_ms,
                delayed_until_ms: verdict.delayed_until_ms,
                sender: is_traced
                    .then(|| trace::sender(message.message_attributes, message.trace_header.as_deref()))
                    .flatten(),
            }
        });
        let items: Vec<_> = items.collect();
        let all_failed = total_failure.errs(self.is_fifo, items.iter().map(|item| (item.outcome, item.parked)));
        BatchReport {
            batch_id: invocation.batch_id,
            queue_arn: messages.first().and_then(|message| message.source_arn.as_deref()),
            trace: invocation.trace,
            received_ms,
            bytes: invocation.event.len(),
            buffered_bytes,
            decoded_ms: self.decoded_ms,
            items,
            elapsed_ms,
            concurrency_max: self.concurrency_max,
            failed: all_failed.then_some(ALL_FAILED),
            calls: &self.calls,
            counts: self.counts,
            store_errors: &self.store_errors,
            queue_errors: &self.queue_errors,
            control: self.control,
        }
    }
}
