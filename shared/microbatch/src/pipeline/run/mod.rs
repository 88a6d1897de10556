//! One invocation: messages go in, verdicts come out.
//!
//! The run is one task that polls store calls and items in place. Each round it does all that can be done without waiting
//! ([`Run::advance`]), then waits for the first thing to happen ([`Run::next_events`]). Time cuts it in phases, after
//! [`Schedule`]: items run until the cut-off, then claims are completed or given back until the response is due.
//!
//! [`claim`] leads from a message to a claimed item, [`process`] runs it, [`settle`] completes or releases it and gives the
//! message its verdict.

mod claim;
mod process;
mod settle;
mod verdict;

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    num::NonZeroUsize,
    task::{Context, Poll},
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::OwnedSemaphorePermit;

pub(super) use self::verdict::{Finished, Verdict};
use self::{
    claim::{ClaimAnswers, Leader, PendingClaim},
    settle::{CompletionAnswers, PendingCompletion},
};
use super::{Shared, gate::Gate, guarded::Ran, workers::Workers};
use crate::{
    batcher::{Collector, Limits},
    clock::BoxFuture,
    decode::Identity,
    key::Key,
    lease::Schedule,
    message::Message,
    outcome::Outcome,
    processor::Processor,
    record::{Owner, StoredResult},
    store::{Commit, StoreError},
    telemetry::Counts,
    transition::{Claimed, ReleaseAnswer, ReleaseKind, ReleaseRequest},
};

/// Most bytes of results in one call: far below what DynamoDB takes in a request, 16 MB.
const CALL_BYTES_MAX: NonZeroUsize = NonZeroUsize::new(4 * 1_048_576).expect("not zero");
/// Longest time that a completion waits behind a call that is out. None waits when there is no such call.
const COMPLETION_LINGER_MS: u64 = 20;
/// Errors of the store that a report holds.
const STORE_ERRORS_MAX: usize = 8;

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
    /// The response is due as soon as it is written.
    Over,
}

/// A message's item on its way, from its claim to its verdict.
struct Ticket<T> {
    owner: Owner,
    /// None without idempotency: it is neither claimed nor completed.
    identity: Option<Identity>,
    /// There until the item starts.
    item: Option<T>,
    claimed: Option<Claimed>,
    /// What its completion keeps, for the cache; there once the effect has happened.
    done: Option<StoredResult>,
    /// Its effect is in the completion's transaction: without the completion, nothing has happened.
    transactional: bool,
    sent_ms: u64,
    /// The verdict was given while the claim's answer was still out.
    given_up: bool,
    /// Room among the claimed and unfinished; given back when the processor returns.
    claim_permit: Option<OwnedSemaphorePermit>,
    run_permit: Option<OwnedSemaphorePermit>,
}

/// Something happened that the run has waited for.
enum Event<W> {
    Claims(ClaimAnswers),
    Ran(Ran<W>),
    Completions(CompletionAnswers<W>),
    Releases(Vec<Result<ReleaseAnswer, StoreError>>),
    /// Room at a gate, or a phase is over: the next round looks for itself.
    Wake,
}

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
    /// There is more to decode at once; first the others get their turn.
    more_to_admit: bool,
    leaders: HashMap<Key, Leader>,
    tickets: Vec<Option<Box<Ticket<P::Item>>>>,
    verdicts: Vec<Option<Verdict>>,
    undecided: usize,
    counts: Counts,
    /// The first of each kind and text.
    store_errors: Vec<StoreError>,

    claims_gate: Gate,
    running_gate: Gate,
    to_claim: Collector<PendingClaim>,
    claims: FuturesUnordered<BoxFuture<'r, ClaimAnswers>>,
    claim_retries: FuturesUnordered<BoxFuture<'r, ClaimAnswers>>,
    /// Claimed, waiting for room to run.
    ready: VecDeque<usize>,
    running: usize,
    workers: Workers<P::Write>,
    to_complete: Collector<PendingCompletion<P::Write>>,
    /// Wakes for completions that have waited long enough: when, and the timer.
    linger: Option<(u64, BoxFuture<'static, ()>)>,
    completions: FuturesUnordered<BoxFuture<'r, CompletionAnswers<P::Write>>>,
    completion_retries: FuturesUnordered<BoxFuture<'r, CompletionAnswers<P::Write>>>,
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
            counts: Counts { unordered_fifo: count_fifo(messages), ..Counts::default() },
            store_errors: Vec::new(),
            claims_gate: shared.gates.claims(),
            running_gate: shared.gates.running(),
            to_claim: Collector::new(limits(shared.store.chunk_size(), 0)),
            claims: FuturesUnordered::new(),
            claim_retries: FuturesUnordered::new(),
            more_to_admit: false,
            ready: VecDeque::new(),
            running: 0,
            workers: Workers::new(shared.config.shards, &shared.watches, batch_id),
            to_complete: Collector::new(limits(shared.store.chunk_size(), COMPLETION_LINGER_MS)),
            linger: None,
            completions: FuturesUnordered::new(),
            completion_retries: FuturesUnordered::new(),
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
            && self.claim_retries.is_empty()
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
        if self.phase == Phase::Closing && now_ms >= self.schedule.over_ms {
            self.enter(Phase::Over);
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        let ends_at_ms = match phase {
            Phase::Running => self.schedule.cut_off_ms,
            Phase::Settling => self.schedule.last_release_ms,
            Phase::Closing | Phase::Over => self.schedule.over_ms,
        };
        self.timer = self.shared.clock.sleep_until(ends_at_ms);
    }

    /// The cut-off: what has not started will not. Items that run are cancelled by their own time-outs, at this instant.
    fn stop_starting(&mut self) {
        self.claims_gate.close();
        self.running_gate.close();
        // Nothing was begun: the time is too short for the margins, which more deliveries will not change.
        let code = if self.next == 0 { "no_time_left" } else { "deadline" };
        for index in std::mem::replace(&mut self.next, self.messages.len())..self.messages.len() {
            self.decide(index, Verdict::new(Outcome::Abandoned, Some(code)));
        }
        for pending in self.to_claim.close().into_iter().flat_map(|batch| batch.entries) {
            self.decide(pending.index, Verdict::new(Outcome::Abandoned, Some("deadline")));
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
            if ticket.identity.is_some() && ticket.claimed.is_none() {
                ticket.given_up = true;
                self.release(index, ReleaseKind::Now);
                self.decide(index, Verdict::new(Outcome::Abandoned, Some("claim_unanswered")));
            }
        }
    }

    // --- events ---------------------------------------------------------------------------------------------------

    /// Waits for something to happen and returns all that has.
    async fn next_events(&mut self) -> Vec<Event<P::Write>> {
        if std::mem::take(&mut self.more_to_admit) {
            tokio::task::yield_now().await;
            return Vec::new();
        }
        poll_fn(|cx| {
            let mut events = Vec::new();
            self.poll_events(cx, &mut events);
            if events.is_empty() { Poll::Pending } else { Poll::Ready(events) }
        })
        .await
    }

    fn poll_events(&mut self, cx: &mut Context<'_>, events: &mut Vec<Event<P::Write>>) {
        for claims in [&mut self.claims, &mut self.claim_retries] {
            while let Poll::Ready(Some(answers)) = claims.poll_next_unpin(cx) {
                events.push(Event::Claims(answers));
            }
        }
        while let Poll::Ready(ran) = self.workers.poll_ran(cx) {
            events.push(Event::Ran(ran));
        }
        for completions in [&mut self.completions, &mut self.completion_retries] {
            while let Poll::Ready(Some(answers)) = completions.poll_next_unpin(cx) {
                events.push(Event::Completions(answers));
            }
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
        let due = self.poll_linger(cx).is_ready();
        if room || over || due {
            events.push(Event::Wake);
        }
    }

    /// Ready when a completion has waited long enough behind the calls that are out.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due_at_ms) = self.to_complete.due_at_ms() else {
            self.linger = None;
            return Poll::Pending;
        };
        let (at_ms, timer) = self.linger.get_or_insert_with(|| (due_at_ms, self.shared.clock.sleep_until(due_at_ms)));
        if *at_ms != due_at_ms {
            (*at_ms, *timer) = (due_at_ms, self.shared.clock.sleep_until(due_at_ms));
        }
        let due = timer.as_mut().poll(cx);
        if due.is_ready() {
            self.linger = None;
        }
        due
    }

    /// Keeps an error for the report.
    fn note_error(&mut self, error: &StoreError) {
        if self.store_errors.len() < STORE_ERRORS_MAX && !self.store_errors.contains(error) {
            self.store_errors.push(error.clone());
        }
    }

    fn handle(&mut self, event: Event<P::Write>) {
        match event {
            Event::Claims(answers) => {
                for (index, outcome) in answers.outcomes {
                    self.claim_answered(index, outcome);
                }
                for (pending, error) in answers.again {
                    self.claim_again(pending, error);
                }
            }
            Event::Ran(ran) => self.item_ran(ran),
            Event::Completions(answers) => {
                for (index, answer) in answers.answers {
                    self.completion_answered(index, &answer);
                }
                for (pending, error) in answers.again {
                    self.complete_again(pending, error);
                }
            }
            Event::Releases(answers) => {
                self.releasing -= answers.len();
                for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
                    self.counts.releases_lost += 1;
                    self.note_error(error);
                }
            }
            Event::Wake => {}
        }
    }

    /// The response is due, or all is done: what has no verdict gets one, and nothing runs on.
    async fn finish(mut self) -> Finished {
        self.counts.completions_lost += self.completing as u64;
        // A claim that was never answered may still arrive after the release that was sent behind it.
        let unanswered = self.tickets.iter().flatten().filter(|ticket| ticket.given_up).count();
        self.counts.releases_lost += (self.releasing + self.to_release.len() + unanswered) as u64;
        for index in 0..self.messages.len() {
            if self.verdicts[index].is_some() {
                self.drop_ticket(index);
            } else {
                let done = self.tickets[index].as_ref().is_some_and(|ticket| ticket.done.is_some());
                let verdict = if done {
                    Verdict::new(Outcome::Failed, Some("completion_lost"))
                } else {
                    Verdict::new(Outcome::Abandoned, Some(if self.next == 0 { "no_time_left" } else { "deadline" }))
                };
                self.decide(index, verdict);
            }
        }
        self.workers.stop().await;
        Finished { verdicts: self.verdicts, counts: self.counts, store_errors: self.store_errors }
    }
}

/// One call's worth of claims or completions.
fn limits(chunk_size: NonZeroUsize, linger_ms: u64) -> Limits {
    Limits { count_max: chunk_size, bytes_max: CALL_BYTES_MAX, linger_ms }
}

fn count_fifo(messages: &[Message<'_>]) -> u64 {
    messages.iter().filter(|message| message.is_from_fifo_queue()).count() as u64
}
