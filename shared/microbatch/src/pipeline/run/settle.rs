//! Completes or releases what was claimed, and gives each message its verdict.

use super::{Detail, Phase, Run, Ticket, Verdict, claim::Decided};
use crate::{
    hooks::{Failure, Success},
    lease::retention_end_s,
    message::Message,
    outcome::Outcome,
    panics::{contain, drop_contained},
    pipeline::calls::{CallError, Tried, UnkeyedWrite, send_with_retries, try_again, try_once},
    processor::{Processor, WriteRefused},
    record::{Comparison, Fingerprint, StoredResult, compare},
    store::{Commit, StoreError},
    transition::{CompleteAnswer, CompleteRequest, ReleaseKind, ReleaseRequest},
};

/// What came of completions.
pub(super) struct CompletionAnswers<W> {
    pub(super) answers: Vec<(usize, Result<CompleteAnswer, StoreError>)>,
    pub(super) again: Vec<(PendingCompletion<W>, StoreError)>,
}

/// A completion that was not sent yet.
pub(super) struct PendingCompletion<W> {
    index: usize,
    request: CompleteRequest<W>,
}

impl<P: Processor, S: Commit<P::Write>> Run<'_, P, S> {
    /// The effect has happened, or is in `writes`.
    pub(super) fn complete(&mut self, index: usize, result: StoredResult, writes: Vec<P::Write>, now_ms: u64) {
        let Some(ticket) = &mut self.tickets[index] else { return };
        ticket.done = Some(result.clone());
        ticket.transactional = !writes.is_empty();
        self.counts.results_not_kept += u64::from(result == StoredResult::NotKept);
        self.completing += 1;
        let owner = ticket.owner.clone();
        let Some(identity) = &ticket.identity else {
            self.complete_unkeyed(index, UnkeyedWrite { token: owner, writes });
            return;
        };
        let key = identity.key.clone();
        let retention_end_s = retention_end_s(now_ms, self.schedule.lease_end_ms, &self.shared.config);
        let request = CompleteRequest { key, owner, result, retention_end_s, writes };
        let pending = PendingCompletion { index, request };
        if !pending.request.writes.is_empty() {
            // A transaction is a request of its own: it would gain nothing from company, and might have to wait for it.
            self.send_completion_batch(vec![pending]);
            return;
        }
        let bytes = match &pending.request.result {
            StoredResult::Kept(json) => json.len(),
            StoredResult::None | StoredResult::NotKept => 0,
        };
        // A result has a cap far below that of a call: none is ever too large for one.
        let pushed = self.to_complete.push(pending, bytes, now_ms);
        for batch in pushed.into_iter().flatten() {
            self.send_completion_batch(batch.entries);
        }
    }

    /// Without idempotency only the processor's own writes are left to do.
    fn complete_unkeyed(&mut self, index: usize, write: UnkeyedWrite<P::Write>) {
        if write.writes.is_empty() {
            self.completion_answered(index, &Ok(CompleteAnswer::Completed));
            return;
        }
        let (shared, caller, give_up_ms) = (self.shared, self.caller(), self.schedule.over_ms);
        self.completion_retries.push(Box::pin(async move {
            let answers = send_with_retries(&shared.store, caller, vec![write], give_up_ms).await;
            let answers = answers.into_iter().map(|answer| (index, answer)).collect();
            CompletionAnswers { answers, again: Vec::new() }
        }));
    }

    /// Sends a smaller batch when no call is out that it could wait behind, or it has waited long enough.
    pub(super) fn send_completions(&mut self) {
        let batch = if self.completions.is_empty() || self.phase > Phase::Running {
            self.to_complete.flush_idle()
        } else {
            self.to_complete.flush_if_due(self.shared.clock.now_ms())
        };
        if let Some(batch) = batch {
            self.send_completion_batch(batch.entries);
        }
    }

    fn send_completion_batch(&mut self, batch: Vec<PendingCompletion<P::Write>>) {
        let (indexes, requests): (Vec<usize>, Vec<_>) =
            batch.into_iter().map(|pending| (pending.index, pending.request)).unzip();
        let (shared, caller) = (self.shared, self.caller());
        self.completions.push(Box::pin(async move {
            let Tried { answered, again } = try_once(&shared.store, caller, requests).await;
            let answers = answered.into_iter().map(|(position, answer)| (indexes[position], answer)).collect();
            let again = again
                .into_iter()
                .map(|(position, request, error)| (PendingCompletion { index: indexes[position], request }, error));
            CompletionAnswers { answers, again: again.collect() }
        }));
    }

    /// Tries a completion again by itself, so that no other waits for it.
    pub(super) fn complete_again(&mut self, pending: PendingCompletion<P::Write>, error: StoreError) {
        let (shared, caller, give_up_ms) = (self.shared, self.caller(), self.schedule.over_ms);
        self.completion_retries.push(Box::pin(async move {
            let PendingCompletion { index, request } = pending;
            let answer = try_again(&shared.store, caller, request, error, give_up_ms).await;
            CompletionAnswers { answers: vec![(index, answer)], again: Vec::new() }
        }));
    }

    pub(super) fn completion_answered(&mut self, index: usize, answer: &Result<CompleteAnswer, StoreError>) {
        self.completing -= 1;
        let transactional = self.tickets[index].as_ref().is_some_and(|ticket| ticket.transactional);
        let verdict = match answer {
            Ok(CompleteAnswer::Completed) => {
                self.remember(index);
                let done = self.tickets[index].as_mut().and_then(|ticket| ticket.done.take());
                let detail = done.as_ref().map_or(Detail::None, Detail::Result);
                self.decide_with(index, Verdict::new(Outcome::Processed, None), detail);
                return;
            }
            // Another's effect; ours was not committed.
            Ok(CompleteAnswer::CompletedByOther) if transactional => Verdict::new(Outcome::Duplicate, None),
            Ok(CompleteAnswer::CompletedByOther) => {
                self.counts.effect_after_lost_lease += 1;
                Verdict::new(Outcome::Processed, Some("effect_after_lost_lease"))
            }
            Ok(CompleteAnswer::Lost) => {
                self.counts.lost_leases += 1;
                Verdict::new(Outcome::Failed, Some("lost_lease"))
            }
            Ok(CompleteAnswer::WriteRefused(refused)) => {
                self.write_refused(index, *refused);
                return;
            }
            Err(error) if transactional && !error.may_be_applied() => {
                // Nothing was written: the item has failed as if it had never run.
                self.note_error(error);
                self.release(index, ReleaseKind::Now);
                Verdict::new(Outcome::Failed, Some(error.code()))
            }
            Err(error) => {
                self.note_error(error);
                self.counts.completions_lost += 1;
                // Refused for good, it says why; else all that is known is that nobody has recorded the effect.
                let code = if error.is_retryable() { "completion_lost" } else { error.code() };
                Verdict::new(Outcome::Failed, Some(code))
            }
        };
        self.decide(index, verdict);
    }

    /// Nothing was written: the processor says what that means, and its item fails like any that returned an error.
    fn write_refused(&mut self, index: usize, refused: WriteRefused) {
        if let Some(ticket) = &mut self.tickets[index] {
            ticket.done = None;
        }
        if let Ok(error) = contain(|| self.shared.processor.write_refused(refused)) {
            self.item_failed(index, &error);
            self.count_drop(error);
        } else {
            self.release(index, ReleaseKind::Now);
            self.decide(index, Verdict::new(Outcome::Failed, Some("panicked")));
        }
    }

    /// Keeps a completed key in the process's cache, where there is one.
    fn remember(&self, index: usize) {
        let cache = &self.shared.completed;
        let Some(ticket) = self.tickets[index].as_ref().filter(|_| !cache.is_off()) else { return };
        if let (Some(identity), Some(result)) = (&ticket.identity, &ticket.done) {
            let now_ms = self.shared.clock.now_ms();
            let retention_end_s = retention_end_s(now_ms, self.schedule.lease_end_ms, &self.shared.config);
            let (key, fingerprint) = (identity.key.clone(), identity.fingerprint.clone());
            cache.put(key, fingerprint, result.clone(), retention_end_s, now_ms);
        }
    }

    pub(super) fn release(&mut self, index: usize, kind: ReleaseKind) {
        let Some(ticket) = &self.tickets[index] else { return };
        let Some(identity) = &ticket.identity else { return };
        self.to_release.push(ReleaseRequest { key: identity.key.clone(), owner: ticket.owner.clone(), kind });
    }

    pub(super) fn send_releases(&mut self) {
        let chunk_size = self.shared.store.chunk_size().get();
        while !self.to_release.is_empty() {
            let rest = self.to_release.split_off(chunk_size.min(self.to_release.len()));
            let requests = std::mem::replace(&mut self.to_release, rest);
            self.releasing += requests.len();
            let (shared, caller, give_up_ms) = (self.shared, self.caller(), self.schedule.over_ms);
            self.releases
                .push(Box::pin(async move { send_with_retries(&shared.store, caller, requests, give_up_ms).await }));
        }
    }

    /// Gives a message its verdict, and those that follow it theirs.
    pub(super) fn decide(&mut self, index: usize, verdict: Verdict) {
        self.decide_with(index, verdict, Detail::None);
    }

    /// [`Run::decide`], with what the hooks may see.
    pub(super) fn decide_with(&mut self, index: usize, mut verdict: Verdict, detail: Detail<'_>) {
        let Some(mut ticket) = self.tickets[index].take() else {
            self.conclude(index, verdict, detail);
            return;
        };
        verdict.elapsed_ms = Some(self.now_ms.saturating_sub(ticket.sent_ms));
        verdict.claimed_ms = Some(ticket.sent_ms);
        (verdict.started_ms, verdict.ended_ms) = (ticket.started_ms, ticket.ended_ms);
        verdict.attempt = ticket.claimed.map(|claimed| claimed.attempt);
        verdict.tries = ticket.claimed.map(|claimed| claimed.tries);
        let followers = std::mem::take(&mut ticket.followers);
        self.conclude(index, verdict, detail);
        self.remember_decided(index, &ticket, verdict, detail);
        for (follower, of_follower) in followers {
            let of_leader = ticket.identity.as_ref().and_then(|identity| identity.fingerprint.as_ref());
            let of_follower = follow(verdict, of_leader, of_follower.as_ref());
            // Of other content, it has no part in what the leader's work gave.
            let detail = if of_follower.kind == verdict.kind { detail } else { Detail::None };
            self.conclude(follower, of_follower, detail);
        }
        if ticket.given_up {
            // Its claim's answer may still come.
            self.tickets[index] = Some(ticket);
        } else {
            self.count_drop(ticket);
        }
    }

    /// Keeps what followers that come later are told: what a hook asks for, and a verdict that is not final yet.
    fn remember_decided(&mut self, index: usize, ticket: &Ticket<P::Item>, verdict: Verdict, detail: Detail<'_>) {
        let hooks = &self.shared.hooks;
        let (result, error) = match detail {
            Detail::Result(result) if hooks.success.is_some() => (Some(result.clone()), None),
            Detail::Error(error) if hooks.failure.is_some() => (None, Some(error.same())),
            _ => (None, None),
        };
        let is_final = self.verdicts[index].is_some();
        if ticket.identity.is_some() && (!is_final || result.is_some() || error.is_some()) {
            self.decided.insert(index, Decided { verdict, result, error });
        }
    }

    /// Tells the hooks, and parks the message or closes it.
    fn conclude(&mut self, index: usize, verdict: Verdict, detail: Detail<'_>) {
        if self.verdicts[index].is_some() {
            return;
        }
        self.call_hook(index, &verdict, detail);
        if self.shall_park(index, &verdict) {
            self.park(index, verdict);
        } else {
            self.close(index, verdict);
        }
    }

    /// Makes a verdict final. The rest of a group whose message is not done is blocked, and comes back when it does (P16).
    pub(super) fn close(&mut self, index: usize, verdict: Verdict) {
        let visible_at_ms = self.visible_at_ms(index, &verdict);
        self.close_at(index, verdict, visible_at_ms);
        if verdict.is_acknowledged() {
            self.lineup.done(index);
            return;
        }
        for blocked in self.lineup.failed(index) {
            let verdict = Verdict::new(Outcome::Abandoned, Some("group_blocked"));
            self.call_hook(blocked, &verdict, Detail::None);
            self.close_at(blocked, verdict, visible_at_ms);
        }
    }

    fn close_at(&mut self, index: usize, verdict: Verdict, visible_at_ms: Option<u64>) {
        if let Some(visible_at_ms) = visible_at_ms {
            self.delay(index, visible_at_ms);
        }
        if self.verdicts[index].replace(verdict).is_none() {
            self.undecided -= 1;
        }
    }

    /// A hook is the user's code: what becomes of it changes nothing here.
    fn call_hook(&mut self, index: usize, verdict: &Verdict, detail: Detail<'_>) {
        // Borrowed, not read: most have no hooks, and messages are no longer in the caches.
        let Message { id: message_id, receive_count, .. } = &self.messages[index];
        let hooks = &self.shared.hooks;
        let called = match (verdict.kind, &hooks.success, &hooks.failure) {
            (None, Some(hook), _) => {
                let result = if let Detail::Result(result) = detail { Some(result) } else { None };
                let success =
                    Success { index, message_id, receive_count: *receive_count, outcome: verdict.outcome, result };
                contain(|| hook(&success))
            }
            (Some(kind), _, Some(hook)) => {
                let error = if let Detail::Error(error) = detail { Some(error) } else { None };
                let (outcome, code) = (verdict.outcome, verdict.code);
                let failure = Failure { index, message_id, receive_count: *receive_count, outcome, kind, code, error };
                contain(|| hook(&failure))
            }
            _ => return,
        };
        self.counts.hook_panics += u64::from(called.is_err());
    }

    pub(super) fn drop_ticket(&mut self, index: usize) {
        let ticket = self.tickets[index].take();
        self.count_drop(ticket);
    }

    /// Drops what holds an item: its destructor is the user's code.
    pub(super) fn count_drop<T>(&mut self, value: T) {
        self.counts.panics_in_drop += u64::from(drop_contained(value).is_err());
    }
}

/// What a message gets whose equal came first in the batch (rule 7).
pub(super) fn follow(leader: Verdict, of_leader: Option<&Fingerprint>, of_follower: Option<&Fingerprint>) -> Verdict {
    let completed = matches!(leader.outcome, Outcome::Processed | Outcome::Duplicate);
    if compare(of_leader, of_follower) == Comparison::Different {
        return if completed {
            Verdict::new(Outcome::Conflict, Some("fingerprint_differs"))
        } else {
            Verdict { busy_until_ms: leader.busy_until_ms, ..Verdict::new(Outcome::Busy, Some("held_by_another")) }
        };
    }
    let outcome = if completed { Outcome::Duplicate } else { leader.outcome };
    // Claimed, run, parked and delayed was the leader.
    Verdict {
        outcome,
        elapsed_ms: None,
        claimed_ms: None,
        started_ms: None,
        ended_ms: None,
        parked: false,
        delayed_until_ms: None,
        ..leader
    }
}
