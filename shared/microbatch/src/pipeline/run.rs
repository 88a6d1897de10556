//! One invocation: messages go in, verdicts come out.
//!
//! The run is one task that polls store calls and items in place. Each round it does all that can be done without waiting
//! ([`Run::advance`]), then waits for the first thing to happen ([`Run::next_events`]). Time cuts it in phases, after
//! [`Schedule`]: items run until the cut-off, then claims are completed or given back until the response is due.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Shared,
    calls::{may_be_applied, send_with_retries},
    gate::Gate,
    guarded::{Ended, Guarded, Ran},
    verdict::{Finished, Verdict},
    workers::Workers,
};
use crate::{
    clock::BoxFuture,
    decode::{Decoded, decode},
    error::ProcessError,
    key::Key,
    lease::{Schedule, deferred_lease_end_ms, retention_end_s},
    message::Message,
    outcome::Outcome,
    panics::drop_contained,
    processor::{ItemContext, Processor},
    record::{Comparison, Fingerprint, Owner, StoredResult, compare},
    store::{Commit, StoreError},
    telemetry::Counts,
    transition::{
        ClaimAnswer, ClaimRequest, Claimed, CompleteAnswer, CompleteRequest, ReleaseAnswer, ReleaseKind, ReleaseRequest,
    },
};

/// Works on the messages of one invocation until each has a verdict or the response is due.
pub(super) async fn run<P: Processor, S: Commit<P::Write>>(
    shared: &Shared<P, S>,
    messages: &[Message<'_>],
    batch_id: &str,
    schedule: Schedule,
    now_ms: u64,
) -> Finished {
    let mut run = Run::new(shared, messages, batch_id, schedule);
    run.enter(Phase::Running);
    if now_ms < schedule.respond_by_ms {
        run.drive().await;
    }
    run.finish().await
}

/// What may still be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Items are claimed and run.
    Running,
    /// Nothing starts; claims are completed or given back.
    Settling,
    /// Claims still without an answer were given back unseen.
    Closing,
    /// The response is due.
    Over,
}

/// A message's item on its way, from its claim to its verdict.
struct Ticket<T> {
    key: Key,
    owner: Owner,
    /// There until the item starts.
    item: Option<T>,
    claimed: Option<Claimed>,
    /// The effect has happened; its completion is on its way.
    done: bool,
    sent_ms: u64,
    /// The verdict was given while the claim's answer was still out.
    given_up: bool,
    /// Room among the claimed and unfinished; given back when the processor returns.
    claim_permit: Option<OwnedSemaphorePermit>,
    run_permit: Option<OwnedSemaphorePermit>,
}

/// The first message of a key in this batch, and those that came after it (rule 7).
struct Leader {
    fingerprint: Option<Fingerprint>,
    verdict: Option<Verdict>,
    followers: Vec<(usize, Option<Fingerprint>)>,
}

/// Something happened that the run has waited for.
enum Event<W> {
    Claims(Vec<usize>, Vec<Result<ClaimAnswer, StoreError>>),
    Ran(Ran<W>),
    Completions(Vec<usize>, Vec<Result<CompleteAnswer, StoreError>>),
    Releases(Vec<Result<ReleaseAnswer, StoreError>>),
    /// Room at a gate, or a phase is over: the next round looks for itself.
    Wake,
}

type Answers<A> = (Vec<usize>, Vec<Result<A, StoreError>>);

struct Run<'r, P: Processor, S: Commit<P::Write>> {
    shared: &'r Shared<P, S>,
    messages: &'r [Message<'r>],
    schedule: Schedule,
    phase: Phase,
    /// Ends the phase.
    timer: BoxFuture<'static, ()>,
    /// What precedes the index in the owner tokens of this invocation.
    owner_prefix: String,
    /// The next message to decode.
    next: usize,
    leaders: HashMap<Key, Leader>,
    tickets: Vec<Option<Box<Ticket<P::Item>>>>,
    verdicts: Vec<Option<Verdict>>,
    undecided: usize,
    counts: Counts,

    claims_gate: Gate,
    running_gate: Gate,
    to_claim: Vec<(usize, ClaimRequest)>,
    claims: FuturesUnordered<BoxFuture<'r, Answers<ClaimAnswer>>>,
    /// Claimed, waiting for room to run.
    ready: VecDeque<usize>,
    running: usize,
    workers: Workers<P::Write>,
    to_complete: Vec<(usize, CompleteRequest<P::Write>)>,
    completions: FuturesUnordered<BoxFuture<'r, Answers<CompleteAnswer>>>,
    /// Effects that happened and are not yet recorded.
    completing: usize,
    to_release: Vec<ReleaseRequest>,
    releases: FuturesUnordered<BoxFuture<'r, Vec<Result<ReleaseAnswer, StoreError>>>>,
    releasing: usize,
}

impl<'r, P: Processor, S: Commit<P::Write>> Run<'r, P, S> {
    fn new(shared: &'r Shared<P, S>, messages: &'r [Message<'r>], batch_id: &str, schedule: Schedule) -> Self {
        Self {
            shared,
            messages,
            schedule,
            phase: Phase::Running,
            timer: Box::pin(std::future::pending()),
            owner_prefix: format!("{:032x}", shared.random.next_u128()),
            next: 0,
            leaders: HashMap::with_capacity(messages.len()),
            tickets: messages.iter().map(|_| None).collect(),
            verdicts: messages.iter().map(|_| None).collect(),
            undecided: messages.len(),
            counts: Counts::default(),
            claims_gate: shared.gates.claims(),
            running_gate: shared.gates.running(),
            to_claim: Vec::new(),
            claims: FuturesUnordered::new(),
            ready: VecDeque::new(),
            running: 0,
            workers: Workers::new(shared.config.shards, &shared.watches, batch_id),
            to_complete: Vec::new(),
            completions: FuturesUnordered::new(),
            completing: 0,
            to_release: Vec::new(),
            releases: FuturesUnordered::new(),
            releasing: 0,
        }
    }

    async fn drive(&mut self) {
        loop {
            self.advance();
            if self.phase == Phase::Over || self.is_done() {
                return;
            }
            for event in self.next_events().await {
                self.handle(event);
            }
        }
    }

    /// Everything that can be done without waiting.
    fn advance(&mut self) {
        // Read here too, not only from the timer: a batch that never waits never lets a timer fire.
        self.pass_time(self.shared.clock.now_ms());
        if self.phase == Phase::Running {
            self.admit();
            self.send_claims();
            self.start_ready();
        }
        self.send_completions();
        self.send_releases();
    }

    fn is_done(&self) -> bool {
        self.undecided == 0
            && self.claims.is_empty()
            && self.to_release.is_empty()
            && self.releases.is_empty()
            && self.running == 0
    }

    // --- time -----------------------------------------------------------------------------------------------------

    fn pass_time(&mut self, now_ms: u64) {
        if self.phase == Phase::Running && now_ms >= self.schedule.cut_off_ms {
            self.enter(Phase::Settling);
            self.stop_starting();
        }
        if self.phase == Phase::Settling && now_ms >= self.schedule.last_release_ms {
            self.enter(Phase::Closing);
            self.give_up_claims();
        }
        if self.phase == Phase::Closing && now_ms >= self.schedule.respond_by_ms {
            self.enter(Phase::Over);
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        let ends_at_ms = match phase {
            Phase::Running => self.schedule.cut_off_ms,
            Phase::Settling => self.schedule.last_release_ms,
            Phase::Closing | Phase::Over => self.schedule.respond_by_ms,
        };
        self.timer = self.shared.clock.sleep_until(ends_at_ms);
    }

    /// The cut-off: what has not started will not. Items that run are cancelled by their own time-outs, at this instant.
    fn stop_starting(&mut self) {
        self.claims_gate.close();
        self.running_gate.close();
        for index in std::mem::replace(&mut self.next, self.messages.len())..self.messages.len() {
            self.decide(index, Verdict::new(Outcome::Abandoned, Some("deadline")));
        }
        for (index, _) in std::mem::take(&mut self.to_claim) {
            self.decide(index, Verdict::new(Outcome::Abandoned, Some("deadline")));
        }
        for index in std::mem::take(&mut self.ready) {
            self.release(index, ReleaseKind::Now);
            self.decide(index, Verdict::new(Outcome::Abandoned, Some("deadline")));
        }
    }

    /// Claims that were sent and not answered may have been applied: they are given back as if they had been (rule 3).
    fn give_up_claims(&mut self) {
        for index in 0..self.tickets.len() {
            let Some(ticket) = &mut self.tickets[index] else { continue };
            if ticket.claimed.is_none() {
                ticket.given_up = true;
                self.release(index, ReleaseKind::Now);
                self.decide(index, Verdict::new(Outcome::Abandoned, Some("claim_unanswered")));
            }
        }
    }

    // --- decode, key, coalesce, claim -----------------------------------------------------------------------------

    /// Decodes messages as long as there is room for their claims.
    fn admit(&mut self) {
        while self.next < self.messages.len() {
            let Some(permit) = self.claims_gate.try_pass() else { return };
            let index = self.next;
            self.next += 1;
            match decode(&self.messages[index], &self.shared.keys, self.shared.config.body_bytes_max) {
                Ok(decoded) => self.coalesce(index, decoded, permit),
                Err(error) => self.decide(index, Verdict::new(Outcome::Rejected, Some(error.code()))),
            }
            if self.to_claim.len() >= self.shared.store.chunk_size().get() {
                self.send_claim_chunk();
            }
        }
        self.claims_gate.close();
    }

    fn coalesce(&mut self, index: usize, decoded: Decoded<P::Item>, permit: OwnedSemaphorePermit) {
        let Decoded { item, key, fingerprint } = decoded;
        match self.leaders.entry(key.clone()) {
            Entry::Occupied(mut leader) => {
                let verdict = {
                    let leader = leader.get_mut();
                    if leader.verdict.is_none() {
                        leader.followers.push((index, fingerprint.clone()));
                    }
                    leader.verdict.map(|verdict| follow(verdict, leader.fingerprint.as_ref(), fingerprint.as_ref()))
                };
                self.count_drop(item);
                if let Some(verdict) = verdict {
                    self.decide(index, verdict);
                }
            }
            Entry::Vacant(entry) => {
                entry.insert(Leader { fingerprint: fingerprint.clone(), verdict: None, followers: Vec::new() });
                self.collect_claim(index, item, key, fingerprint, permit);
            }
        }
    }

    fn collect_claim(
        &mut self,
        index: usize,
        item: P::Item,
        key: Key,
        fingerprint: Option<Fingerprint>,
        permit: OwnedSemaphorePermit,
    ) {
        let config = &self.shared.config;
        let now_ms = self.shared.clock.now_ms();
        let owner = Owner::new(format!("{}-{index}", self.owner_prefix));
        let request = ClaimRequest {
            key: key.clone(),
            owner: owner.clone(),
            fingerprint,
            lease_end_ms: self.schedule.lease_end_ms,
            retention_end_s: retention_end_s(now_ms, self.schedule.lease_end_ms, config),
            on_lapsed_lease: config.on_lapsed_lease,
        };
        self.tickets[index] = Some(Box::new(Ticket {
            key,
            owner,
            item: Some(item),
            claimed: None,
            done: false,
            sent_ms: now_ms,
            given_up: false,
            claim_permit: Some(permit),
            run_permit: None,
        }));
        self.to_claim.push((index, request));
    }

    /// Sends a last, smaller chunk once nothing can be added to it, or nothing else is under way.
    fn send_claims(&mut self) {
        let last = self.next == self.messages.len();
        let idle = self.claims.is_empty() && self.ready.is_empty();
        if !self.to_claim.is_empty() && (last || idle) {
            self.send_claim_chunk();
        }
    }

    fn send_claim_chunk(&mut self) {
        let (indexes, requests): (Vec<usize>, Vec<ClaimRequest>) =
            std::mem::take(&mut self.to_claim).into_iter().unzip();
        let (shared, give_up_ms) = (self.shared, self.schedule.cut_off_ms);
        self.claims.push(Box::pin(async move {
            let answers = send_with_retries(&shared.store, &*shared.clock, &*shared.random, requests, give_up_ms).await;
            (indexes, answers)
        }));
    }

    fn claim_answered(&mut self, index: usize, answer: Result<ClaimAnswer, StoreError>) {
        let Some(ticket) = &mut self.tickets[index] else { return };
        if let Ok(ClaimAnswer::Claimed(claimed)) = answer {
            ticket.claimed = Some(claimed);
        }
        if ticket.given_up {
            // The verdict stands. The release that was sent unseen may have overtaken the claim.
            if ticket.claimed.is_some() {
                self.release(index, ReleaseKind::Now);
            }
            self.drop_ticket(index);
            return;
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
            Ok(ClaimAnswer::Duplicate { compared, .. }) => {
                self.counts.fingerprints_not_compared += u64::from(!compared);
                Verdict::new(Outcome::Duplicate, None)
            }
            Ok(ClaimAnswer::Conflict) => Verdict::new(Outcome::Conflict, Some("fingerprint_differs")),
            Ok(ClaimAnswer::Busy { until_ms }) => {
                Verdict { busy_until_ms: Some(until_ms), ..Verdict::new(Outcome::Busy, Some("held_by_another")) }
            }
            Ok(ClaimAnswer::Vanished) => Verdict::new(Outcome::Rejected, Some("holder_vanished")),
            Err(error) => {
                // Every claim that was sent is given back, answered or not (rule 3).
                if may_be_applied(&error) {
                    self.release(index, ReleaseKind::Now);
                }
                Verdict::new(Outcome::Failed, Some(error.code()))
            }
        };
        self.decide(index, verdict);
    }

    // --- process --------------------------------------------------------------------------------------------------

    /// Starts claimed items as long as there is room and time.
    fn start_ready(&mut self) {
        while !self.ready.is_empty() && self.completing < self.shared.gates.claims_max {
            let Some(permit) = self.running_gate.try_pass() else { return };
            if let Some(index) = self.ready.pop_front() {
                self.start(index, permit);
            }
        }
        if self.ready.is_empty() {
            self.running_gate.close();
        }
    }

    fn start(&mut self, index: usize, permit: OwnedSemaphorePermit) {
        let now_ms = self.shared.clock.now_ms();
        let config = &self.shared.config;
        let Some(ticket) = &mut self.tickets[index] else { return };
        let (Some(claimed), Some(item)) = (ticket.claimed, ticket.item.take()) else { return };
        if now_ms.saturating_add(config.deadline_margin_ms) >= claimed.lease_end_ms {
            // An own write met again can carry a shorter lease (rule 5).
            ticket.item = Some(item);
            self.release(index, ReleaseKind::Now);
            self.decide(index, Verdict::new(Outcome::Abandoned, Some("lease_too_short")));
            return;
        }
        ticket.run_permit = Some(permit);
        let ends_at_ms = now_ms.saturating_add(config.item_timeout_ms).min(self.schedule.cut_off_ms);
        let context =
            context(&self.messages[index], index, ticket.key.clone(), claimed.attempt, ends_at_ms, self.shared);
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

    fn item_ran(&mut self, ran: Ran<P::Write>) {
        let Ran { index, ended, panicked_in_drop } = ran;
        self.running -= 1;
        self.counts.panics_in_drop += u64::from(panicked_in_drop);
        if let Some(ticket) = &mut self.tickets[index] {
            ticket.claim_permit = None;
            ticket.run_permit = None;
        }
        let at_cut_off = self.shared.clock.now_ms() >= self.schedule.cut_off_ms;
        match ended {
            Ended::Returned(Ok((result, writes))) => self.collect_completion(index, result, writes),
            Ended::Returned(Err(error)) => self.item_failed(index, &error),
            Ended::TimedOut => self.item_cut_short(index, if at_cut_off { "deadline" } else { "timed_out" }),
            Ended::Panicked => self.item_cut_short(index, "panicked"),
        }
    }

    fn item_failed(&mut self, index: usize, error: &ProcessError) {
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

    // --- complete, release ----------------------------------------------------------------------------------------

    fn collect_completion(&mut self, index: usize, result: StoredResult, writes: Vec<P::Write>) {
        let Some(ticket) = &mut self.tickets[index] else { return };
        ticket.done = true;
        self.counts.results_not_kept += u64::from(result == StoredResult::NotKept);
        let now_ms = self.shared.clock.now_ms();
        let request = CompleteRequest {
            key: ticket.key.clone(),
            owner: ticket.owner.clone(),
            result,
            retention_end_s: retention_end_s(now_ms, self.schedule.lease_end_ms, &self.shared.config),
            writes,
        };
        self.completing += 1;
        self.to_complete.push((index, request));
    }

    /// Sends completions: full chunks, and a smaller one when no other call is out that it could wait behind.
    fn send_completions(&mut self) {
        let chunk_size = self.shared.store.chunk_size().get();
        while self.to_complete.len() >= chunk_size || (!self.to_complete.is_empty() && self.completions.is_empty()) {
            let rest = self.to_complete.split_off(chunk_size.min(self.to_complete.len()));
            let chunk = std::mem::replace(&mut self.to_complete, rest);
            let (indexes, requests): (Vec<usize>, Vec<_>) = chunk.into_iter().unzip();
            let (shared, give_up_ms) = (self.shared, self.schedule.respond_by_ms);
            self.completions.push(Box::pin(async move {
                let answers =
                    send_with_retries(&shared.store, &*shared.clock, &*shared.random, requests, give_up_ms).await;
                (indexes, answers)
            }));
        }
    }

    fn completion_answered(&mut self, index: usize, answer: &Result<CompleteAnswer, StoreError>) {
        self.completing -= 1;
        let verdict = match answer {
            Ok(CompleteAnswer::Completed) => Verdict::new(Outcome::Processed, None),
            Ok(CompleteAnswer::CompletedByOther) => {
                self.counts.effect_after_lost_lease += 1;
                Verdict::new(Outcome::Processed, Some("effect_after_lost_lease"))
            }
            Ok(CompleteAnswer::Lost) => {
                self.counts.lost_leases += 1;
                Verdict::new(Outcome::Failed, Some("lost_lease"))
            }
            Err(_) => {
                self.counts.completions_lost += 1;
                Verdict::new(Outcome::Failed, Some("completion_lost"))
            }
        };
        self.decide(index, verdict);
    }

    fn release(&mut self, index: usize, kind: ReleaseKind) {
        let Some(ticket) = &self.tickets[index] else { return };
        self.to_release.push(ReleaseRequest { key: ticket.key.clone(), owner: ticket.owner.clone(), kind });
    }

    fn send_releases(&mut self) {
        let chunk_size = self.shared.store.chunk_size().get();
        while !self.to_release.is_empty() {
            let rest = self.to_release.split_off(chunk_size.min(self.to_release.len()));
            let requests = std::mem::replace(&mut self.to_release, rest);
            self.releasing += requests.len();
            let (shared, give_up_ms) = (self.shared, self.schedule.respond_by_ms);
            self.releases.push(Box::pin(async move {
                send_with_retries(&shared.store, &*shared.clock, &*shared.random, requests, give_up_ms).await
            }));
        }
    }

    // --- verdicts -------------------------------------------------------------------------------------------------

    /// Gives a message its verdict, and those that follow it theirs.
    fn decide(&mut self, index: usize, verdict: Verdict) {
        let Some(ticket) = self.settle(index, verdict) else { return };
        let Some(leader) = self.leaders.get_mut(&ticket.key) else { return };
        leader.verdict = Some(verdict);
        let fingerprint = leader.fingerprint.clone();
        for (follower, of_follower) in std::mem::take(&mut leader.followers) {
            self.settle(follower, follow(verdict, fingerprint.as_ref(), of_follower.as_ref()));
        }
        if ticket.given_up {
            // Its claim's answer may still come.
            self.tickets[index] = Some(ticket);
        } else {
            self.count_drop(ticket);
        }
    }

    fn settle(&mut self, index: usize, mut verdict: Verdict) -> Option<Box<Ticket<P::Item>>> {
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

    fn drop_ticket(&mut self, index: usize) {
        let ticket = self.tickets[index].take();
        self.count_drop(ticket);
    }

    /// Drops what holds an item: its destructor is the user's code.
    fn count_drop<T>(&mut self, value: T) {
        self.counts.panics_in_drop += u64::from(drop_contained(value).is_err());
    }

    // --- events ---------------------------------------------------------------------------------------------------

    /// Waits for something to happen and returns all that has.
    async fn next_events(&mut self) -> Vec<Event<P::Write>> {
        poll_fn(|cx| {
            let mut events = Vec::new();
            self.poll_events(cx, &mut events);
            if events.is_empty() { Poll::Pending } else { Poll::Ready(events) }
        })
        .await
    }

    fn poll_events(&mut self, cx: &mut Context<'_>, events: &mut Vec<Event<P::Write>>) {
        while let Poll::Ready(Some((indexes, answers))) = self.claims.poll_next_unpin(cx) {
            events.push(Event::Claims(indexes, answers));
        }
        while let Poll::Ready(ran) = self.workers.poll_ran(cx) {
            events.push(Event::Ran(ran));
        }
        while let Poll::Ready(Some((indexes, answers))) = self.completions.poll_next_unpin(cx) {
            events.push(Event::Completions(indexes, answers));
        }
        while let Poll::Ready(Some(answers)) = self.releases.poll_next_unpin(cx) {
            events.push(Event::Releases(answers));
        }
        let room = self.claims_gate.poll(cx).is_ready() | self.running_gate.poll(cx).is_ready();
        let over = self.timer.as_mut().poll(cx).is_ready();
        if over {
            // A timer may fire a little early: it is set anew until the clock agrees.
            self.enter(self.phase);
        }
        if room || over {
            events.push(Event::Wake);
        }
    }

    fn handle(&mut self, event: Event<P::Write>) {
        match event {
            Event::Claims(indexes, answers) => {
                for (index, answer) in indexes.into_iter().zip(answers) {
                    self.claim_answered(index, answer);
                }
            }
            Event::Ran(ran) => self.item_ran(ran),
            Event::Completions(indexes, answers) => {
                for (index, answer) in indexes.into_iter().zip(answers) {
                    self.completion_answered(index, &answer);
                }
            }
            Event::Releases(answers) => {
                self.releasing -= answers.len();
                self.counts.releases_lost += answers.iter().filter(|answer| answer.is_err()).count() as u64;
            }
            Event::Wake => {}
        }
    }

    /// The response is due, or all is done: what has no verdict gets one, and nothing runs on.
    async fn finish(mut self) -> Finished {
        self.counts.completions_lost += self.completing as u64;
        self.counts.releases_lost += (self.releasing + self.to_release.len()) as u64;
        for index in 0..self.messages.len() {
            if self.verdicts[index].is_none() {
                let done = self.tickets[index].as_ref().is_some_and(|ticket| ticket.done);
                self.decide(
                    index,
                    if done {
                        Verdict::new(Outcome::Failed, Some("completion_lost"))
                    } else {
                        Verdict::new(Outcome::Abandoned, Some("deadline"))
                    },
                );
            }
        }
        self.workers.stop().await;
        Finished { verdicts: self.verdicts, counts: self.counts }
    }
}

/// What a message gets whose equal came first in the batch (rule 7).
fn follow(leader: Verdict, of_leader: Option<&Fingerprint>, of_follower: Option<&Fingerprint>) -> Verdict {
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

fn context<P, S>(
    message: &Message<'_>,
    index: usize,
    key: Key,
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
        key: Some(key),
        ends_at_ms,
        clock: Arc::clone(&shared.clock),
    }
}

/// The result to keep. It is made after the effect, so that it cannot be kept is no failure.
fn stored_result<O: Serialize>(output: &O, bytes_max: usize) -> StoredResult {
    match serde_json::to_string(output) {
        Ok(json) if json == "null" => StoredResult::None,
        Ok(json) if json.len() <= bytes_max => StoredResult::Kept(json.into()),
        _ => StoredResult::NotKept,
    }
}
