//! What is known of each message in the end.

use crate::{
    message::Message,
    outcome::Outcome,
    store::StoreError,
    telemetry::{BatchReport, Counts, ItemReport},
};

/// A message's outcome and what explains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pipeline) struct Verdict {
    pub(in crate::pipeline) outcome: Outcome,
    pub(in crate::pipeline) code: Option<&'static str>,
    pub(in crate::pipeline) error_type: Option<&'static str>,
    pub(in crate::pipeline) attempt: Option<u64>,
    pub(in crate::pipeline) tries: Option<u64>,
    pub(in crate::pipeline) elapsed_ms: Option<u64>,
    pub(in crate::pipeline) retry_after_ms: Option<u64>,
    pub(in crate::pipeline) busy_until_ms: Option<u64>,
}

impl Verdict {
    pub(in crate::pipeline) fn new(outcome: Outcome, code: Option<&'static str>) -> Self {
        Self {
            outcome,
            code,
            error_type: None,
            attempt: None,
            tries: None,
            elapsed_ms: None,
            retry_after_ms: None,
            busy_until_ms: None,
        }
    }
}

/// All verdicts of a run.
pub(in crate::pipeline) struct Finished {
    pub(in crate::pipeline) verdicts: Vec<Option<Verdict>>,
    pub(in crate::pipeline) counts: Counts,
    pub(in crate::pipeline) store_errors: Vec<StoreError>,
}

impl Finished {
    pub(in crate::pipeline) fn report<'a>(
        &'a self,
        messages: &'a [Message<'_>],
        batch_id: &'a str,
        elapsed_ms: u64,
        received_ms: u64,
    ) -> BatchReport<'a> {
        let items = messages.iter().zip(&self.verdicts).enumerate().map(|(index, (message, verdict))| {
            let verdict = verdict.unwrap_or(Verdict::new(Outcome::Abandoned, Some("no_verdict")));
            ItemReport {
                index,
                message_id: &message.id,
                outcome: verdict.outcome,
                code: verdict.code,
                error_type: verdict.error_type,
                attempt: verdict.attempt,
                tries: verdict.tries,
                elapsed_ms: verdict.elapsed_ms,
                age_ms: message.sent_ms.map(|sent_ms| received_ms.saturating_sub(sent_ms)),
                retry_after_ms: verdict.retry_after_ms,
                busy_until_ms: verdict.busy_until_ms,
            }
        });
        BatchReport {
            batch_id,
            items: items.collect(),
            elapsed_ms,
            counts: self.counts,
            store_errors: &self.store_errors,
        }
    }
}
