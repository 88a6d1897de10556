//! From a message to a claimed item: decode, key, coalesce, claim.

use std::{collections::hash_map::Entry, fmt::Write};

use super::{Detail, Phase, Run, Ticket, Verdict, settle::follow};
use crate::{
    batcher::Batch,
    decode::{Decoded, Identity, decode},
    error::ProcessError,
    key::Key,
    lease::retention_end_s,
    outcome::Outcome,
    pipeline::{
        Shared,
        calls::{CallError, Caller, Tried, try_again, try_once},
        gate::Permit,
    },
    processor::Processor,
    record::{Fingerprint, Owner, StoredResult},
    store::{Commit, StoreError},
    transition::{ClaimAnswer, ClaimRequest, ReleaseKind, judge_previous},
};

/// What became of a leader, for followers that come later, where its verdict by itself does not say it.
pub(super) struct Decided {
    pub(super) verdict: Verdict,
    /// What its work gave, where a hook asks for it.
    pub(super) result: Option<StoredResult>,
    /// Why its work failed, likewise.
    pub(super) error: Option<ProcessError>,
}

/// A claim that was not sent yet.
pub(super) struct PendingClaim {
    pub(super) index: usize,
    request: ClaimRequest,
    previous: Option<PreviousKey>,
}

/// The key that an earlier version made of the item, and what must not differ from its record.
type PreviousKey = (Key, Option<Fingerprint>);

/// What came of the claims of a batch.
pub(super) struct ClaimAnswers {
    pub(super) outcomes: Vec<(usize, ClaimOutcome)>,
    pub(super) again: Vec<(PendingClaim, StoreError)>,
}

/// What came of a claim.
pub(super) struct ClaimOutcome {
    answer: Result<ClaimAnswer, StoreError>,
    /// The key was claimed, and then found done, held or unreadable under its previous key: it has to be given back.
    undone: bool,
}

/// Messages that are decoded between two looks at the clock.
const ADMITTED_AT_ONCE: usize = 64;

impl<P: Processor, S: Commit<P::Write>> Run<'_, P, S> {
    /// Decodes messages as long as there is room for their claims.
    pub(super) fn admit(&mut self) {
        for _ in 0..ADMITTED_AT_ONCE {
            if !self.lineup.has_ready() {
                self.claims_gate.close();
                return;
            }
            let Some(permit) = self.claims_gate.try_pass() else { return };
            let Some(index) = self.lineup.next() else { return };
            let (shared, message) = (self.shared, &self.messages[index]);
            match decode(message, shared.config.envelope, shared.keying.as_ref(), shared.config.body_bytes_max) {
                Ok(decoded) => self.admit_item(index, decoded, permit),
                Err(error) => self.decide(index, Verdict::undecodable(error.code())),
            }
            self.decoded = true;
        }
        // The clock and the others get their turn: records that need no claim never wait.
        self.more_at_once = true;
    }

    fn admit_item(&mut self, index: usize, decoded: Decoded<P::Item>, permit: Permit) {
        let Decoded { item, identity } = decoded;
        let Some(identity) = identity else {
            // Without idempotency there is nothing to claim.
            let now_ms = self.shared.clock.now_ms();
            self.open_ticket(index, item, None, permit, now_ms);
            self.ready.push_back(index);
            return;
        };
        match self.leaders.entry(identity.key.clone()) {
            Entry::Occupied(leader) => {
                let leader = *leader.get();
                self.count_drop(item);
                self.follow_leader(index, identity.fingerprint, leader);
            }
            Entry::Vacant(entry) => {
                entry.insert(index);
                if identity.fingerprint.is_some() {
                    self.fingerprints.resize_with(self.messages.len(), || None);
                    self.fingerprints[index].clone_from(&identity.fingerprint);
                }
                self.claim(index, item, identity, permit);
            }
        }
    }

    /// Gives a message what becomes of the one before it with its key, now or when that is known.
    fn follow_leader(&mut self, index: usize, fingerprint: Option<Fingerprint>, leader: usize) {
        let decided = self.decided.get(&leader);
        let verdict = decided.map(|decided| decided.verdict).or(self.verdicts[leader]);
        let Some(verdict) = verdict else {
            if let Some(ticket) = &mut self.tickets[leader] {
                ticket.followers.push((index, fingerprint));
            }
            return;
        };
        let result = decided.and_then(|decided| decided.result.clone());
        let error = decided.and_then(|decided| decided.error.as_ref()).map(ProcessError::same);
        let of_leader = self.fingerprints.get(leader).and_then(Option::as_ref);
        let verdict = follow(verdict, of_leader, fingerprint.as_ref());
        let result = result.as_ref().map_or(Detail::None, Detail::Result);
        let detail = error.as_ref().filter(|_| verdict.outcome != Outcome::Busy).map_or(result, Detail::Error);
        self.decide_with(index, verdict, detail);
    }

    fn claim(&mut self, index: usize, item: P::Item, identity: Identity, permit: Permit) {
        let now_ms = self.shared.clock.now_ms();
        let remembered = self.shared.completed.answer(&identity.key, identity.fingerprint.as_ref(), now_ms);
        let (key, fingerprint) = (identity.key.clone(), identity.fingerprint.clone());
        let previous = identity.previous.clone().map(|previous| (previous, fingerprint.clone()));
        let owner = self.open_ticket(index, item, Some(identity), permit, now_ms);
        if let Some(answer) = remembered {
            self.claim_answered(index, ClaimOutcome { answer: Ok(answer), undone: false });
            return;
        }
        let config = &self.shared.config;
        let request = ClaimRequest {
            key,
            owner,
            fingerprint,
            lease_end_ms: self.schedule.lease_end_ms,
            retention_end_s: retention_end_s(now_ms, self.schedule.lease_end_ms, config),
            on_lapsed_lease: config.on_lapsed_lease,
        };
        // A claim is a few hundred bytes, whatever its item: only the count limits a call.
        let pushed = self.to_claim.push(PendingClaim { index, request, previous }, 0, now_ms);
        for batch in pushed.into_iter().flatten() {
            self.send_claim_batch(batch);
        }
    }

    fn open_ticket(
        &mut self,
        index: usize,
        item: P::Item,
        identity: Option<Identity>,
        permit: Permit,
        now_ms: u64,
    ) -> Owner {
        let owner = self.new_owner(index);
        self.tickets[index] = Some(Box::new(Ticket {
            owner: owner.clone(),
            identity,
            item: Some(item),
            claimed: None,
            done: None,
            transactional: false,
            sent_ms: now_ms,
            started_ms: None,
            ended_ms: None,
            given_up: false,
            claim_permit: Some(permit),
            run_permit: None,
            admitted: None,
            followers: Vec::new(),
        }));
        owner
    }

    /// A token for a claim of this invocation.
    fn new_owner(&mut self, index: usize) -> Owner {
        self.owner_token.truncate(self.owner_prefix_len);
        // Writing to a string cannot fail.
        let _ = write!(self.owner_token, "{index}");
        Owner::new(&*self.owner_token)
    }

    /// Sends a last, smaller batch once nothing can be added to it, or nothing else is under way.
    pub(super) fn send_claims(&mut self) {
        let last = !self.lineup.has_ready();
        let idle = self.claims.is_empty() && self.ready.is_empty();
        let batch = if last {
            self.to_claim.close()
        } else if idle {
            self.to_claim.flush_idle()
        } else {
            None
        };
        if let Some(batch) = batch {
            self.send_claim_batch(batch);
        }
    }

    fn send_claim_batch(&mut self, batch: Batch<PendingClaim>) {
        self.claims.push(Box::pin(send_batch(self.shared, self.caller(), batch.entries)));
    }

    /// Tries a claim again by itself, so that the others of its batch need not wait for it.
    pub(super) fn claim_again(&mut self, pending: PendingClaim, error: StoreError) {
        let (shared, caller, give_up_ms) = (self.shared, self.caller(), self.schedule.cut_off_ms);
        self.claim_retries.push(Box::pin(async move {
            let PendingClaim { index, request, previous } = pending;
            let answer = try_again(&shared.store, caller, request, error, give_up_ms).await;
            let previous = previous.map(|previous| (0, previous)).into_iter().collect();
            let mut outcomes = [(index, ClaimOutcome { answer, undone: false })];
            check_previous(shared, &mut outcomes, previous).await;
            let [outcome] = outcomes;
            ClaimAnswers { outcomes: vec![outcome], again: Vec::new() }
        }));
    }

    pub(super) fn claim_answered(&mut self, index: usize, outcome: ClaimOutcome) {
        let ClaimOutcome { answer, undone } = outcome;
        let Some(ticket) = &mut self.tickets[index] else { return };
        if let Ok(ClaimAnswer::Claimed(claimed)) = answer {
            ticket.claimed = Some(claimed);
        }
        // Every claim that was sent is given back, answered or not (rule 3).
        let maybe_held = undone || answer.as_ref().is_err_and(CallError::may_be_applied);
        if ticket.given_up {
            // The verdict stands. The release that was sent unseen may have overtaken the claim.
            if ticket.claimed.is_some() || maybe_held {
                self.release(index, ReleaseKind::Now);
            }
            self.drop_ticket(index);
            return;
        }
        if maybe_held {
            self.release(index, ReleaseKind::Now);
        }
        let verdict = match answer {
            Ok(ClaimAnswer::Claimed(claimed)) => {
                self.counts.fingerprints_not_compared += u64::from(!claimed.compared);
                if self.phase == Phase::Running {
                    self.ready.push_back(index);
                    return;
                }
                self.release(index, ReleaseKind::Now);
                Verdict::new(Outcome::Abandoned, Some("deadline"))
            }
            Ok(ClaimAnswer::Duplicate { result, compared }) => {
                self.counts.fingerprints_not_compared += u64::from(!compared);
                self.decide_with(index, Verdict::new(Outcome::Duplicate, None), Detail::Result(&result));
                return;
            }
            Ok(ClaimAnswer::Conflict) => Verdict::new(Outcome::Conflict, Some("fingerprint_differs")),
            Ok(ClaimAnswer::Busy { until_ms }) => {
                Verdict { busy_until_ms: Some(until_ms), ..Verdict::new(Outcome::Busy, Some("held_by_another")) }
            }
            Ok(ClaimAnswer::Vanished) => Verdict::new(Outcome::Rejected, Some("holder_vanished")),
            Err(error) => {
                self.note_error(&error);
                Verdict::new(Outcome::Failed, Some(error.code()))
            }
        };
        self.decide(index, verdict);
    }
}

/// Claims the keys of a batch, and then looks at the previous keys of those that were won.
async fn send_batch<P: Processor, S: Commit<P::Write>>(
    shared: &Shared<P, S>,
    caller: Caller<'_>,
    batch: Vec<PendingClaim>,
) -> ClaimAnswers {
    let (mut keep, requests): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|pending| ((pending.index, pending.previous), pending.request)).unzip();
    let Tried { answered, again } = try_once(&shared.store, caller, requests).await;
    let mut previous = Vec::new();
    let mut outcomes = Vec::with_capacity(answered.len());
    for (position, answer) in answered {
        let (index, of_item) = &mut keep[position];
        previous.extend(of_item.take().map(|of_item| (outcomes.len(), of_item)));
        outcomes.push((*index, ClaimOutcome { answer, undone: false }));
    }
    check_previous(shared, &mut outcomes, previous).await;
    let again = again.into_iter().map(|(position, request, error)| {
        let (index, previous) = &mut keep[position];
        (PendingClaim { index: *index, request, previous: previous.take() }, error)
    });
    ClaimAnswers { again: again.collect(), outcomes }
}

/// Looks at the previous keys of the claims that were won, each with its position in `outcomes`.
async fn check_previous<P: Processor, S: Commit<P::Write>>(
    shared: &Shared<P, S>,
    outcomes: &mut [(usize, ClaimOutcome)],
    mut previous: Vec<(usize, PreviousKey)>,
) {
    previous.retain(|(position, _)| matches!(outcomes[*position].1.answer, Ok(ClaimAnswer::Claimed(_))));
    if previous.is_empty() {
        return;
    }
    let keys: Vec<Key> = previous.iter().map(|(_, (key, _))| key.clone()).collect();
    let records = shared.store.read(&keys).await;
    let policy = shared.config.on_lapsed_lease;
    for ((position, (_, fingerprint)), record) in previous.into_iter().zip(records) {
        let now_ms = shared.clock.now_ms();
        let judged = record.map(|record| judge_previous(record.as_ref(), fingerprint.as_ref(), policy, now_ms));
        if let Some(answer) = judged.transpose() {
            outcomes[position].1 = ClaimOutcome { answer, undone: true };
        }
    }
}
