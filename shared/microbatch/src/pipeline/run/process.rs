//! Runs claimed items, one by one or in sub-batches, and takes in how they ended.

use std::{any::TypeId, sync::Arc};

use serde::Serialize;

use super::{Detail, Run, Verdict};
use crate::{
    batch_processor::{BatchItem, ItemResult},
    control::Signal,
    error::ProcessError,
    lease::deferred_lease_end_ms,
    outcome::Outcome,
    panics::contain,
    pipeline::{
        control::{Admitted, NotNow},
        gate::Permit,
        guarded::{Ended, Guarded, Ran},
    },
    processor::{ItemContext, Processor},
    record::StoredResult,
    store::Commit,
    transition::ReleaseKind,
};

/// What a processor gave for an item: the result to keep and the writes to commit.
pub(super) type Produced<W> = Result<(StoredResult, Vec<W>), ProcessError>;

/// What a piece of work gave.
pub(super) enum Work<W> {
    Item(Produced<W>),
    /// One for each item of a sub-batch, in order.
    SubBatch(Vec<Produced<W>>),
}

/// An item that waits for others to fill its sub-batch.
pub(super) struct PendingItem<T> {
    pub(super) index: usize,
    item: T,
}

impl<P: Processor, S: Commit<P::Write>> Run<'_, P, S> {
    /// Starts claimed items as long as there is room and time, and the dependency is up.
    pub(super) fn start_ready(&mut self) {
        let completing_max = self.shared.gates.claims_max;
        let mut more_by_rate = false;
        self.start_at_ms = None;
        self.now_ms = self.shared.clock.now_ms();
        while !self.ready.is_empty() && self.completing < completing_max {
            let Some(permit) = self.running_gate.try_pass() else { break };
            let mut admitted = None;
            if let Some(control) = &self.shared.control {
                let now_ms = self.shared.clock.now_ms();
                match control.try_start(now_ms) {
                    Ok(granted) => admitted = Some(granted),
                    Err(not_now @ (NotNow::Until(at_ms) | NotNow::Probing(at_ms))) => {
                        self.start_at_ms = Some(at_ms);
                        more_by_rate = matches!(not_now, NotNow::Until(_));
                        break;
                    }
                    Err(NotNow::Open) => {
                        self.abandon_unstarted("breaker_open");
                        break;
                    }
                }
            }
            if let Some(index) = self.ready.pop_front() {
                self.start(index, permit, admitted);
            }
        }
        if self.ready.is_empty() || self.completing >= completing_max || self.start_at_ms.is_some() {
            // Room that cannot be used is another invocation's.
            self.running_gate.close();
        }
        self.start_sub_batch(more_by_rate);
    }

    /// Starts an item, or gives back its room and its permission.
    fn start(&mut self, index: usize, permit: Permit, admitted: Option<Admitted>) {
        let now_ms = self.now_ms;
        let config = &self.shared.config;
        let Some(ticket) = &mut self.tickets[index] else { return };
        // What the item sends must have had its effect before another may start (P2).
        let in_flight_ms = config.effect_timeout_ms.saturating_add(config.clock_skew_ms);
        let ends_too_soon = |lease_end_ms| now_ms.saturating_add(in_flight_ms) >= lease_end_ms;
        if ticket.claimed.is_some_and(|claimed| ends_too_soon(claimed.lease_end_ms)) {
            // An own write met again can carry a shorter lease (rule 5).
            self.release(index, ReleaseKind::Now);
            self.decide(index, Verdict::new(Outcome::Abandoned, Some("lease_too_short")));
            // A hook is the user's code, and may have taken any time.
            self.now_ms = self.shared.clock.now_ms();
            return;
        }
        let Some(item) = ticket.item.take() else { return };
        ticket.run_permit = Some(permit);
        ticket.admitted = admitted;
        // One that waits for its sub-batch starts with it.
        ticket.started_ms = self.to_process.is_none().then_some(now_ms);
        self.under_way += 1;
        self.concurrency_max = self.concurrency_max.max(self.under_way);
        if let Some(collector) = &mut self.to_process {
            let bytes = self.messages[index].body.map_or(0, |body| body.get().len());
            match collector.push(PendingItem { index, item }, bytes, now_ms) {
                Ok(batches) => batches.into_iter().for_each(|batch| self.launch(batch.entries)),
                // A body larger than a sub-batch may be goes by itself.
                Err(too_large) => self.launch(vec![too_large.entry]),
            }
            return;
        }
        let ends_at_ms = self.item_ends_at_ms(now_ms);
        let context = self.context(index, ends_at_ms);
        let processor = Arc::clone(&self.shared.processor);
        let result_bytes_max = config.result_bytes_max;
        let future =
            Box::pin(async move { Work::Item(produced(processor.process(item, &context).await, result_bytes_max)) });
        self.workers.start(Guarded::new(index, future, ends_at_ms, Arc::clone(&self.shared.clock)));
        self.running += 1;
    }

    /// Starts what was collected of a sub-batch when nothing can join it, or it has waited long enough. The rate may let
    /// more join it in time.
    fn start_sub_batch(&mut self, more_by_rate: bool) {
        let nothing_under_way = self.claims.is_empty() && self.claim_retries.is_empty() && self.to_claim.is_empty();
        let none_to_come = nothing_under_way && self.ready.is_empty() && !self.lineup.has_ready();
        // Room and permission come from what runs, here or elsewhere: others' work is not waited for.
        let idle = self.running == 0 && self.claims.is_empty() && self.claim_retries.is_empty() && !more_by_rate;
        let now_ms = self.shared.clock.now_ms();
        let Some(collector) = &mut self.to_process else { return };
        let batch = if none_to_come {
            collector.close()
        } else if idle {
            collector.flush_idle()
        } else {
            collector.flush_if_due(now_ms)
        };
        if let Some(batch) = batch {
            self.launch(batch.entries);
        }
    }

    fn launch(&mut self, mut entries: Vec<PendingItem<P::Item>>) {
        let now_ms = self.shared.clock.now_ms();
        let ends_at_ms = self.item_ends_at_ms(now_ms);
        // Claims are not answered in the order in which the messages came.
        entries.sort_unstable_by_key(|entry| entry.index);
        for entry in &entries {
            let Some(ticket) = &mut self.tickets[entry.index] else { continue };
            ticket.started_ms = Some(now_ms);
            if let Some(admitted) = &mut ticket.admitted {
                admitted.begin(now_ms);
            }
        }
        let indexes: Vec<usize> = entries.iter().map(|entry| entry.index).collect();
        let Some(&first) = indexes.first() else { return };
        let entry = |entry: PendingItem<P::Item>| {
            let cx = self.context(entry.index, ends_at_ms);
            BatchItem { item: entry.item, cx }
        };
        let items: Vec<_> = entries.into_iter().map(entry).collect();
        let processor = Arc::clone(&self.shared.processor);
        let result_bytes_max = self.shared.config.result_bytes_max;
        let future = Box::pin(async move {
            let results = processor.process_many(items).await;
            Work::SubBatch(results.into_iter().map(|result| produced(result, result_bytes_max)).collect())
        });
        self.sub_batches.insert(first, indexes);
        self.workers.start(Guarded::new(first, future, ends_at_ms, Arc::clone(&self.shared.clock)));
        self.running += 1;
    }

    fn item_ends_at_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.shared.config.item_timeout_ms).min(self.schedule.cut_off_ms)
    }

    /// What the processor may know of a message.
    fn context(&self, index: usize, ends_at_ms: u64) -> ItemContext {
        let message = &self.messages[index];
        let ticket = self.tickets[index].as_ref();
        let identity = ticket.and_then(|ticket| ticket.identity.as_ref());
        ItemContext {
            index,
            message_id: (&*message.id).into(),
            receive_count: message.receive_count,
            group: message.group.as_deref().map(Box::from),
            trace_header: message.trace_header.as_deref().map(Box::from),
            attempt: ticket.and_then(|ticket| ticket.claimed).map_or(0, |claimed| claimed.attempt),
            trace: self.trace.map(|batch| batch.of_item(index)),
            key: identity.map(|identity| identity.key.clone()),
            ends_at_ms,
            clock: Arc::clone(&self.shared.clock),
        }
    }

    pub(super) fn work_ended(&mut self, ran: Ran<Work<P::Write>>) {
        let Ran { index, ended, ended_ms, panicked_in_drop } = ran;
        self.running -= 1;
        self.counts.panics_in_drop += u64::from(panicked_in_drop);
        match ended {
            Ended::Returned(Work::Item(produced)) => self.item_ended(index, Ended::Returned(produced), ended_ms),
            Ended::Returned(Work::SubBatch(produced)) => {
                // One each, by the contract of `process_many`; what is missing counts as cut short.
                let mut produced = produced.into_iter();
                for member in self.members(index) {
                    self.item_ended(member, produced.next().map_or(Ended::Panicked, Ended::Returned), ended_ms);
                }
            }
            Ended::TimedOut => {
                self.members(index).into_iter().for_each(|member| self.item_ended(member, Ended::TimedOut, ended_ms));
            }
            Ended::Panicked => {
                self.members(index).into_iter().for_each(|member| self.item_ended(member, Ended::Panicked, ended_ms));
            }
        }
    }

    /// The items of the sub-batch that ended, by its first; or the one item.
    fn members(&mut self, index: usize) -> Vec<usize> {
        self.sub_batches.remove(&index).unwrap_or_else(|| vec![index])
    }

    fn item_ended(&mut self, index: usize, ended: Ended<Produced<P::Write>>, ended_ms: u64) {
        let at_cut_off = ended_ms >= self.schedule.cut_off_ms;
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(ticket) = &mut self.tickets[index] {
            ticket.ended_ms = Some(ended_ms);
            ticket.claim_permit = None;
            ticket.run_permit = None;
            if let Some(admitted) = ticket.admitted.take() {
                admitted.ended(signal(&ended, at_cut_off), ended_ms, &self.shared.gates);
            }
        }
        match ended {
            Ended::Returned(Ok((result, writes))) => self.complete(index, result, writes, ended_ms),
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
        let deferred_ms = error.is_effect_unknown().then(|| self.deferred_lease_end_ms(index));
        self.release(
            index,
            deferred_ms.map_or(ReleaseKind::Now, |lease_end_ms| ReleaseKind::Deferred { lease_end_ms }),
        );
        let (outcome, code) =
            if error.is_permanent() { (Outcome::Rejected, "permanent") } else { (Outcome::Failed, "transient") };
        let verdict = Verdict {
            error_type: Some(error.type_name()),
            busy_until_ms: deferred_ms.filter(|_| self.shared.keying.is_some()),
            retry_after_ms: error.retry_after_hint().map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            ..Verdict::new(outcome, Some(error.failure_code().unwrap_or(code)))
        };
        self.decide_with(index, verdict, Detail::Error(error));
    }

    /// A processor that did not return by itself may have a request in flight: its key is given back later (rule 3).
    fn item_cut_short(&mut self, index: usize, code: &'static str) {
        let lease_end_ms = self.deferred_lease_end_ms(index);
        self.release(index, ReleaseKind::Deferred { lease_end_ms });
        let busy_until_ms = self.shared.keying.is_some().then_some(lease_end_ms);
        self.decide(index, Verdict { busy_until_ms, ..Verdict::new(Outcome::Failed, Some(code)) });
    }

    fn deferred_lease_end_ms(&self, index: usize) -> u64 {
        let claimed = self.tickets[index].as_ref().and_then(|ticket| ticket.claimed);
        let current_ms = claimed.map_or(self.schedule.lease_end_ms, |claimed| claimed.lease_end_ms);
        deferred_lease_end_ms(current_ms, self.shared.clock.now_ms(), &self.shared.config)
    }
}

/// What an item's end says about what it depends on.
fn signal<W>(ended: &Ended<Produced<W>>, at_cut_off: bool) -> Signal {
    match ended {
        Ended::Returned(Ok(_)) => Signal::Succeeded,
        Ended::Returned(Err(error)) if error.is_permanent() => Signal::Ignored,
        // Cut short by the invocation's end, it says nothing.
        Ended::TimedOut if at_cut_off => Signal::Ignored,
        Ended::Returned(Err(_)) | Ended::TimedOut => Signal::Failed,
        Ended::Panicked => Signal::Ignored,
    }
}

fn produced<O: Serialize + 'static, W>(result: ItemResult<O, W>, result_bytes_max: usize) -> Produced<W> {
    let (output, writes) = result?.into_parts();
    Ok((stored_result(&output, result_bytes_max), writes))
}

/// The result to keep. It is made after the effect, so that it cannot be kept is no failure.
fn stored_result<O: Serialize + 'static>(output: &O, bytes_max: usize) -> StoredResult {
    if TypeId::of::<O>() == TypeId::of::<()>() {
        // Most give nothing: it need not be written to be known.
        return StoredResult::None;
    }
    let Ok(written) = contain(|| serde_json::to_string(output)) else { return StoredResult::NotKept };
    match written {
        Ok(json) if json == "null" => StoredResult::None,
        Ok(json) if json.len() <= bytes_max => StoredResult::Kept(json.into()),
        _ => StoredResult::NotKept,
    }
}
