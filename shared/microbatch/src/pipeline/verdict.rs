//! What is known of each message in the end.

use crate::{
    message::Message,
    outcome::Outcome,
    telemetry::{BatchReport, Counts, ItemReport},
};

/// A message's outcome and what explains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) code: Option<&'static str>,
    pub(super) error_type: Option<&'static str>,
    pub(super) attempt: Option<u64>,
    pub(super) tries: Option<u64>,
    pub(super) elapsed_ms: Option<u64>,
    pub(super) retry_after_ms: Option<u64>,
    pub(super) busy_until_ms: Option<u64>,
}

impl Verdict {
    pub(super) fn new(outcome: Outcome, code: Option<&'static str>) -> Self {
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
pub(super) struct Finished {
    pub(super) verdicts: Vec<Option<Verdict>>,
    pub(super) counts: Counts,
}

impl Finished {
    pub(super) fn report<'a>(
        &self,
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
        BatchReport { batch_id, items: items.collect(), elapsed_ms, counts: self.counts }
    }
}
