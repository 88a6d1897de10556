//! Runs claimed items, and takes in how they ended.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::{Run, Verdict};
use crate::{
    error::ProcessError,
    key::Key,
    lease::deferred_lease_end_ms,
    message::Message,
    outcome::Outcome,
    panics::contain,
    pipeline::{
        Shared,
        guarded::{Ended, Guarded, Ran},
    },
    processor::{ItemContext, Processor},
    record::StoredResult,
    store::Commit,
    transition::ReleaseKind,
};

impl<P: Processor, S: Commit<P::Write>> Run<'_, P, S> {
    /// Starts claimed items as long as there is room and time.
    pub(super) fn start_ready(&mut self) {
        let completing_max = self.shared.gates.claims_max;
        while !self.ready.is_empty() && self.completing < completing_max {
            let Some(permit) = self.running_gate.try_pass() else { return };
            if let Some(index) = self.ready.pop_front() {
                self.start(index, permit);
            }
        }
        if self.ready.is_empty() || self.completing >= completing_max {
            // Room that cannot be used is another invocation's.
            self.running_gate.close();
        }
    }

    fn start(&mut self, index: usize, permit: OwnedSemaphorePermit) {
        let now_ms = self.shared.clock.now_ms();
        let config = &self.shared.config;
        let Some(ticket) = &mut self.tickets[index] else { return };
        // What the item sends must have had its effect before another may start (P2).
        let in_flight_ms = config.effect_timeout_ms.saturating_add(config.clock_skew_ms);
        let ends_too_soon = |lease_end_ms| now_ms.saturating_add(in_flight_ms) >= lease_end_ms;
        if ticket.claimed.is_some_and(|claimed| ends_too_soon(claimed.lease_end_ms)) {
            // An own write met again can carry a shorter lease (rule 5).
            self.release(index, ReleaseKind::Now);
            self.decide(index, Verdict::new(Outcome::Abandoned, Some("lease_too_short")));
            return;
        }
        let Some(item) = ticket.item.take() else { return };
        ticket.run_permit = Some(permit);
        let ends_at_ms = now_ms.saturating_add(config.item_timeout_ms).min(self.schedule.cut_off_ms);
        let key = ticket.identity.as_ref().map(|identity| identity.key.clone());
        let attempt = ticket.claimed.map_or(0, |claimed| claimed.attempt);
        let context = context(&self.messages[index], index, key, attempt, ends_at_ms, self.shared);
        let processor = Arc::clone(&self.shared.processor);
        let result_bytes_max = config.result_bytes_max;
        let future = Box::pin(async move {
            let done = processor.process(item, &context).await?;
            let (output, writes) = done.into_parts();
            Ok((stored_result(&output, result_bytes_max), writes))
        });
        self.workers.start(Guarded::new(index, future, ends_at_ms, Arc::clone(&self.shared.clock)));
        self.running += 1;
    }

    pub(super) fn item_ran(&mut self, ran: Ran<P::Write>) {
        let Ran { index, ended, panicked_in_drop } = ran;
        self.running -= 1;
        self.counts.panics_in_drop += u64::from(panicked_in_drop);
        if let Some(ticket) = &mut self.tickets[index] {
            ticket.claim_permit = None;
            ticket.run_permit = None;
        }
        let at_cut_off = self.shared.clock.now_ms() >= self.schedule.cut_off_ms;
        match ended {
            Ended::Returned(Ok((result, writes))) => self.complete(index, result, writes),
            Ended::Returned(Err(error)) => {
                self.item_failed(index, &error);
                // Its destructor is the user's code.
                self.count_drop(error);
            }
            Ended::TimedOut => self.item_cut_short(index, if at_cut_off { "deadline" } else { "timed_out" }),
            Ended::Panicked => self.item_cut_short(index, "panicked"),
        }
    }

    pub(super) fn item_failed(&mut self, index: usize, error: &ProcessError) {
        let kind = if error.is_effect_unknown() { self.deferral(index) } else { ReleaseKind::Now };
        self.release(index, kind);
        let (outcome, code) =
            if error.is_permanent() { (Outcome::Rejected, "permanent") } else { (Outcome::Failed, "transient") };
        let verdict = Verdict {
            error_type: Some(error.type_name()),
            retry_after_ms: error.retry_after_hint().map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            ..Verdict::new(outcome, Some(error.failure_code().unwrap_or(code)))
        };
        self.decide(index, verdict);
    }

    /// A processor that did not return by itself may have a request in flight: its key is given back later (rule 3).
    fn item_cut_short(&mut self, index: usize, code: &'static str) {
        let kind = self.deferral(index);
        self.release(index, kind);
        self.decide(index, Verdict::new(Outcome::Failed, Some(code)));
    }

    fn deferral(&self, index: usize) -> ReleaseKind {
        let claimed = self.tickets[index].as_ref().and_then(|ticket| ticket.claimed);
        let current_ms = claimed.map_or(self.schedule.lease_end_ms, |claimed| claimed.lease_end_ms);
        let now_ms = self.shared.clock.now_ms();
        ReleaseKind::Deferred { lease_end_ms: deferred_lease_end_ms(current_ms, now_ms, &self.shared.config) }
    }
}

fn context<P, S>(
    message: &Message<'_>,
    index: usize,
    key: Option<Key>,
    attempt: u64,
    ends_at_ms: u64,
    shared: &Shared<P, S>,
) -> ItemContext {
    ItemContext {
        index,
        message_id: (&*message.id).into(),
        receive_count: message.receive_count,
        group: message.group.as_deref().map(Box::from),
        trace_header: message.trace_header.as_deref().map(Box::from),
        attempt,
        key,
        ends_at_ms,
        clock: Arc::clone(&shared.clock),
    }
}

/// The result to keep. It is made after the effect, so that it cannot be kept is no failure.
fn stored_result<O: Serialize>(output: &O, bytes_max: usize) -> StoredResult {
    let Ok(written) = contain(|| serde_json::to_string(output)) else { return StoredResult::NotKept };
    match written {
        Ok(json) if json == "null" => StoredResult::None,
        Ok(json) if json.len() <= bytes_max => StoredResult::Kept(json.into()),
        _ => StoredResult::NotKept,
    }
}
