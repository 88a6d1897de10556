//! Completes or releases what was claimed, and gives each message its verdict.

use super::{Phase, Run, Ticket, Verdict};
use crate::{
    lease::retention_end_s,
    outcome::Outcome,
    panics::{contain, drop_contained},
    pipeline::calls::{Tried, UnkeyedWrite, may_be_applied, send_with_retries, try_again, try_once},
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
    pub(super) fn complete(&mut self, index: usize, result: StoredResult, writes: Vec<P::Write>) {
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
        let now_ms = self.shared.clock.now_ms();
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
        let (shared, give_up_ms) = (self.shared, self.schedule.over_ms);
        self.completion_retries.push(Box::pin(async move {
            let answers = send_with_retries(shared, vec![write], give_up_ms).await;
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
        let shared = self.shared;
        self.completions.push(Box::pin(async move {
            let Tried { answered, again } = try_once(shared, requests).await;
            let answers = answered.into_iter().map(|(position, answer)| (indexes[position], answer)).collect();
            let again = again
                .into_iter()
                .map(|(position, request, error)| (PendingCompletion { index: indexes[position], request }, error));
            CompletionAnswers { answers, again: again.collect() }
        }));
    }

    /// Tries a completion again by itself, so that no other waits for it.
    pub(super) fn complete_again(&mut self, pending: PendingCompletion<P::Write>, error: StoreError) {
        let (shared, give_up_ms) = (self.shared, self.schedule.over_ms);
        self.completion_retries.push(Box::pin(async move {
            let PendingCompletion { index, request } = pending;
            let answer = try_again(shared, request, error, give_up_ms).await;
            CompletionAnswers { answers: vec![(index, answer)], again: Vec::new() }
        }));
    }

    pub(super) fn completion_answered(&mut self, index: usize, answer: &Result<CompleteAnswer, StoreError>) {
        self.completing -= 1;
        let transactional = self.tickets[index].as_ref().is_some_and(|ticket| ticket.transactional);
        let verdict = match answer {
            Ok(CompleteAnswer::Completed) => {
                self.remember(index);
                Verdict::new(Outcome::Processed, None)
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
            Err(error) if transactional && !may_be_applied(error) => {
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
            let (shared, give_up_ms) = (self.shared, self.schedule.over_ms);
            self.releases.push(Box::pin(async move { send_with_retries(shared, requests, give_up_ms).await }));
        }
    }

    /// Gives a message its verdict, and those that follow it theirs.
    pub(super) fn decide(&mut self, index: usize, verdict: Verdict) {
        let Some(ticket) = self.give_verdict(index, verdict) else { return };
        let leader = ticket.identity.as_ref().and_then(|identity| self.leaders.get_mut(&identity.key));
        if let Some(leader) = leader {
            leader.verdict = Some(verdict);
            let fingerprint = leader.fingerprint.clone();
            for (follower, of_follower) in std::mem::take(&mut leader.followers) {
                self.give_verdict(follower, follow(verdict, fingerprint.as_ref(), of_follower.as_ref()));
            }
        }
        if ticket.given_up {
            // Its claim's answer may still come.
            self.tickets[index] = Some(ticket);
        } else {
            self.count_drop(ticket);
        }
    }

    fn give_verdict(&mut self, index: usize, mut verdict: Verdict) -> Option<Box<Ticket<P::Item>>> {
        let ticket = self.tickets[index].take();
        if let Some(ticket) = &ticket {
            verdict.elapsed_ms = Some(self.shared.clock.now_ms().saturating_sub(ticket.sent_ms));
            verdict.attempt = ticket.claimed.map(|claimed| claimed.attempt);
            verdict.tries = ticket.claimed.map(|claimed| claimed.tries);
        }
        if self.verdicts[index].replace(verdict).is_none() {
            self.undecided -= 1;
        }
        ticket
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
    Verdict { outcome, ..leader }
}
