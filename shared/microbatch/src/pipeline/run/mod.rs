//! One invocation: messages go in, verdicts come out.
//!
//! The run is one task that polls store calls and items in place. Each round it does all that can be done without waiting
//! ([`Run::advance`]), then waits for the first thing to happen ([`Run::next_events`]). Time cuts it in phases, after
//! [`Schedule`]: items run until the cut-off, then claims are completed or given back until the response is due.
//!
//! [`lineup`] says which message may come, [`claim`] leads from it to a claimed item, [`process`] runs that, [`settle`]
//! completes or releases it and gives the message its verdict, and [`requeue`] has the queue park or delay what is not done.

mod claim;
mod lineup;
mod process;
mod requeue;
mod settle;
mod verdict;

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    num::NonZeroUsize,
    task::{Context, Poll},
};

pub(super) use self::verdict::{Batch, Finished, Verdict};
use self::{
    claim::{ClaimAnswers, Decided, PendingClaim},
    lineup::Lineup,
    process::{PendingItem, Work},
    requeue::{QueueAnswers, Requests},
    settle::{CompletionAnswers, PendingCompletion},
};
use super::{
    Invocation, Shared,
    calls::Caller,
    control::Admitted,
    gate::{Gate, Permit},
    guarded::Ran,
    workers::Workers,
};
use crate::{
    batcher::{Collector, Limits},
    clock::BoxFuture,
    decode::Identity,
    error::ProcessError,
    key::Key,
    lease::Schedule,
    message::Message,
    outcome::Outcome,
    processor::Processor,
    queue::QueueError,
    record::{Fingerprint, Owner, StoredResult},
    store::{Commit, StoreError},
    telemetry::{CallLog, Counts},
    trace::TraceParent,
    transition::{Claimed, ReleaseAnswer, ReleaseKind, ReleaseRequest},
};
use futures_util::stream::{FuturesUnordered, StreamExt};

/// Most bytes of results in one call: far below what DynamoDB takes in a request, 16 MB.
const CALL_BYTES_MAX: NonZeroUsize = NonZeroUsize::new(4 * 1_048_576).expect("not zero");
/// Longest time that a completion waits behind a call that is out. None waits when there is no such call.
const COMPLETION_LINGER_MS: u64 = 20;
/// Longest time that an item waits for others to fill its sub-batch where no such time was set: a claim or a sub-batch that
/// is slow, or hangs, must not hold it up (P7).
const SUB_BATCH_LINGER_MS: u64 = 20;
/// Longest time that items run, one after the other, before the process's other tasks get their turn: on one thread, those of
/// connections are among them, and a request's time must not be over before its answer is read.
const TURN_MS: u64 = 10;
/// Errors of the store that a report holds.
const STORE_ERRORS_MAX: usize = 8;

/// Works on the messages of one invocation until each has a verdict or the response is due.
pub(super) async fn run<P: Processor, S: Commit<P::Write>>(
    shared: &Shared<P, S>,
    messages: &[Message<'_>],
    invocation: &Invocation<'_>,
    schedule: Schedule,
    now_ms: u64,
) -> Finished {
    let calls = CallLog::default();
    let mut run = Run::new(shared, &calls, messages, invocation, schedule);
    run.enter(Phase::Running);
    if now_ms < schedule.respond_by_ms {
        run.drive().await;
    }
    let mut finished = run.finish().await;
    finished.calls = calls.into_calls();
    finished
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
    started_ms: Option<u64>,
    ended_ms: Option<u64>,
    /// The verdict was given while the claim's answer was still out.
    given_up: bool,
    /// Room among the claimed and unfinished; given back when the processor returns.
    claim_permit: Option<Permit>,
    run_permit: Option<Permit>,
    /// Counts it among what the dependency is judged by.
    admitted: Option<Admitted>,
    /// Messages of the same key that came before its verdict, with what must not differ.
    followers: Vec<(usize, Option<Fingerprint>)>,
}

/// What a hook may see beside the verdict.
#[derive(Clone, Copy)]
enum Detail<'d> {
    None,
    Error(&'d ProcessError),
    Result(&'d StoredResult),
}

/// Something happened that the run has waited for.
enum Event<W> {
    Claims(ClaimAnswers),
    Ran(Ran<Work<W>>),
    Completions(CompletionAnswers<W>),
    Releases(Vec<Result<ReleaseAnswer, StoreError>>),
    Queue(QueueAnswers),
    /// Room at a gate, or a phase is over: the next round looks for itself.
    Wake,
}

struct Run<'r, P: Processor, S: Commit<P::Write>> {
    shared: &'r Shared<P, S>,
    calls: &'r CallLog,
    messages: &'r [Message<'r>],
    /// The batch's own span.
    trace: Option<TraceParent>,
    schedule: Schedule,
    /// When what is being done now was begun, in epoch milliseconds: a round, or what is made of an event.
    now_ms: u64,
    phase: Phase,
    /// Ends the phase.
    timer: BoxFuture<'static, ()>,
    /// The last owner token. They differ behind the prefix, whose length this is.
    owner_token: String,
    owner_prefix_len: usize,
    lineup: Lineup,
    /// There is more to decode or to run at once; first the process's other tasks get their turn.
    more_at_once: bool,
    /// Messages were decoded since the clock was last read.
    decoded: bool,
    /// When messages were last decoded, in epoch milliseconds.
    decoded_ms: u64,
    /// The first message of each key in this batch (rule 7). There is one a key: it is kept small.
    leaders: HashMap<Key, usize>,
    /// What must not differ from a leader, by its message. Empty where nothing is compared.
    fingerprints: Vec<Option<Fingerprint>>,
    /// Leaders that followers may need to know more of than their verdict, or before it is final.
    decided: HashMap<usize, Decided>,
    tickets: Vec<Option<Box<Ticket<P::Item>>>>,
    verdicts: Vec<Option<Verdict>>,
    undecided: usize,
    counts: Counts,
    /// The first of each kind and text.
    store_errors: Vec<StoreError>,

    /// What has happened and was not handled yet.
    events: Vec<Event<P::Write>>,
    claims_gate: Gate,
    running_gate: Gate,
    to_claim: Collector<PendingClaim>,
    claims: FuturesUnordered<BoxFuture<'r, ClaimAnswers>>,
    claim_retries: FuturesUnordered<BoxFuture<'r, ClaimAnswers>>,
    /// Claimed, waiting for room to run.
    ready: VecDeque<usize>,
    /// When the next may start, where the rate or a probe holds them back.
    start_at_ms: Option<u64>,
    /// Items that wait for others to fill their sub-batch; none where they run one by one.
    to_process: Option<Collector<PendingItem<P::Item>>>,
    /// Pieces of work under way: items or sub-batches.
    running: usize,
    /// Items that were started and have not ended, those included that wait for their sub-batch.
    under_way: usize,
    /// The most that there were.
    concurrency_max: usize,
    /// The items of each sub-batch under way, by the first.
    sub_batches: HashMap<usize, Vec<usize>>,
    workers: Workers<Work<P::Write>>,
    to_complete: Collector<PendingCompletion<P::Write>>,
    /// Wakes for what has waited long enough: when, and the timer.
    wake: Option<(u64, BoxFuture<'static, ()>)>,
    completions: FuturesUnordered<BoxFuture<'r, CompletionAnswers<P::Write>>>,
    completion_retries: FuturesUnordered<BoxFuture<'r, CompletionAnswers<P::Write>>>,
    /// Effects that happened and are not yet recorded.
    completing: usize,
    to_release: Vec<ReleaseRequest>,
    releases: FuturesUnordered<BoxFuture<'r, Vec<Result<ReleaseAnswer, StoreError>>>>,
    releasing: usize,
    requests: Requests,
    queue_calls: FuturesUnordered<BoxFuture<'r, QueueAnswers>>,
    /// The first of each kind and text.
    queue_errors: Vec<QueueError>,
}

impl<'r, P: Processor, S: Commit<P::Write>> Run<'r, P, S> {
    fn new(
        shared: &'r Shared<P, S>,
        calls: &'r CallLog,
        messages: &'r [Message<'r>],
        invocation: &Invocation<'_>,
        schedule: Schedule,
    ) -> Self {
        let owner_token = format!("{:032x}-", shared.random.next_u128());
        Self {
            shared,
            calls,
            messages,
            trace: invocation.trace,
            schedule,
            now_ms: shared.clock.now_ms(),
            phase: Phase::Running,
            timer: Box::pin(std::future::pending()),
            owner_prefix_len: owner_token.len(),
            owner_token,
            lineup: Lineup::new(messages),
            leaders: HashMap::with_capacity(messages.len()),
            fingerprints: Vec::new(),
            decided: HashMap::new(),
            tickets: messages.iter().map(|_| None).collect(),
            verdicts: messages.iter().map(|_| None).collect(),
            undecided: messages.len(),
            counts: Counts::default(),
            store_errors: Vec::new(),
            events: Vec::new(),
            claims_gate: shared.gates.claims(),
            running_gate: shared.gates.running(),
            to_claim: Collector::new(limits(shared.store.chunk_size(), 0)),
            claims: FuturesUnordered::new(),
            claim_retries: FuturesUnordered::new(),
            more_at_once: false,
            decoded: false,
            decoded_ms: 0,
            ready: VecDeque::new(),
            start_at_ms: None,
            to_process: shared.processor.sub_batches().map(|limits| Collector::new(with_linger(limits))),
            running: 0,
            under_way: 0,
            concurrency_max: 0,
            sub_batches: HashMap::new(),
            workers: Workers::new(shared.config.shards, &shared.watches, invocation.batch_id),
            to_complete: Collector::new(limits(shared.store.chunk_size(), COMPLETION_LINGER_MS)),
            wake: None,
            completions: FuturesUnordered::new(),
            completion_retries: FuturesUnordered::new(),
            completing: 0,
            to_release: Vec::new(),
            releases: FuturesUnordered::new(),
            releasing: 0,
            requests: Requests::default(),
            queue_calls: FuturesUnordered::new(),
            queue_errors: Vec::new(),
        }
    }

    async fn drive(&mut self) {
        loop {
            self.advance();
            if self.phase == Phase::Over || self.is_done() {
                return;
            }
            self.next_events().await;
            let mut events = std::mem::take(&mut self.events);
            for event in events.drain(..) {
                self.handle(event);
            }
            // Its room is used again.
            self.events = events;
        }
    }

    /// What a request needs; its end stands in the report.
    fn caller(&self) -> Caller<'r> {
        let shared = self.shared;
        Caller { clock: &*shared.clock, random: &*shared.random, places: &shared.retry_places, log: self.calls }
    }

    /// Everything that can be done without waiting.
    fn advance(&mut self) {
        // Read here too, not only from the timer: a batch that never waits never lets a timer fire.
        self.now_ms = self.shared.clock.now_ms();
        self.pass_time(self.now_ms);
        if self.phase == Phase::Running {
            self.heed_breaker();
            self.admit();
            if std::mem::take(&mut self.decoded) {
                self.decoded_ms = self.shared.clock.now_ms();
            }
            self.send_claims();
            self.start_ready();
        } else {
            // What became free behind a message that was done late.
            self.abandon_unbegun("deadline");
        }
        self.send_completions();
        self.send_releases();
        self.send_parks();
        self.send_delays();
    }

    fn is_done(&self) -> bool {
        self.undecided == 0
            && self.claims.is_empty()
            && self.claim_retries.is_empty()
            && self.to_release.is_empty()
            && self.releases.is_empty()
            && self.running == 0
            && self.requests.is_done()
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
        // Nothing looks at it any more: a time in the past would wake the run for ever.
        self.start_at_ms = None;
        self.abandon_unstarted(self.deadline_code());
    }

    /// Nothing was begun: the time is too short for the margins, which more deliveries will not change.
    fn deadline_code(&self) -> &'static str {
        if self.lineup.is_untouched() { "no_time_left" } else { "deadline" }
    }

    /// While the breaker is open nothing is claimed either: it would only be given back.
    fn heed_breaker(&mut self) {
        let Some(control) = &self.shared.control else { return };
        let collected = self.to_process.as_ref().is_some_and(|collector| !collector.is_empty());
        let unstarted = self.lineup.has_ready() || !self.ready.is_empty() || collected;
        if unstarted && control.open_until_ms(self.shared.clock.now_ms()).is_some() {
            self.abandon_unstarted("breaker_open");
        }
    }

    /// What has not started will not, in this invocation.
    fn abandon_unstarted(&mut self, code: &'static str) {
        self.abandon_unbegun(code);
        for pending in self.to_claim.close().into_iter().flat_map(|batch| batch.entries) {
            self.decide(pending.index, Verdict::new(Outcome::Abandoned, Some(code)));
        }
        let collected = self.to_process.as_mut().and_then(Collector::close);
        let collected = collected.into_iter().flat_map(|batch| batch.entries).map(|entry| {
            let index = entry.index;
            (index, entry)
        });
        for (index, entry) in collected.collect::<Vec<_>>() {
            self.count_drop(entry);
            self.under_way = self.under_way.saturating_sub(1);
            self.ready.push_back(index);
        }
        for index in std::mem::take(&mut self.ready) {
            self.release(index, ReleaseKind::Now);
            self.decide(index, Verdict::new(Outcome::Abandoned, Some(code)));
        }
    }

    /// Messages that were not looked at will not be.
    fn abandon_unbegun(&mut self, code: &'static str) {
        while let Some(index) = self.lineup.next() {
            self.decide(index, Verdict::new(Outcome::Abandoned, Some(code)));
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

    /// Waits for something to happen and collects all that has.
    async fn next_events(&mut self) {
        if std::mem::take(&mut self.more_at_once) {
            tokio::task::yield_now().await;
            return;
        }
        poll_fn(|cx| {
            self.poll_events(cx);
            if self.events.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    fn poll_events(&mut self, cx: &mut Context<'_>) {
        let events = &mut self.events;
        for claims in [&mut self.claims, &mut self.claim_retries] {
            while let Poll::Ready(Some(answers)) = claims.poll_next_unpin(cx) {
                events.push(Event::Claims(answers));
            }
        }
        let turn_ends_ms = self.shared.clock.now_ms().saturating_add(TURN_MS);
        self.workers.begin_turn(turn_ends_ms);
        while let Poll::Ready(ran) = self.workers.poll_ran(cx) {
            let is_turn_over = ran.ended_ms >= turn_ends_ms;
            events.push(Event::Ran(ran));
            if is_turn_over {
                break;
            }
        }
        // Also after items that are not at their end.
        self.more_at_once = self.shared.clock.now_ms() >= turn_ends_ms;
        for completions in [&mut self.completions, &mut self.completion_retries] {
            while let Poll::Ready(Some(answers)) = completions.poll_next_unpin(cx) {
                events.push(Event::Completions(answers));
            }
        }
        while let Poll::Ready(Some(answers)) = self.releases.poll_next_unpin(cx) {
            events.push(Event::Releases(answers));
        }
        while let Poll::Ready(Some(answers)) = self.queue_calls.poll_next_unpin(cx) {
            events.push(Event::Queue(answers));
        }
        let room = self.claims_gate.poll(cx).is_ready() | self.running_gate.poll(cx).is_ready();
        let over = self.timer.as_mut().poll(cx).is_ready();
        if over {
            // A timer may fire a little early: it is set anew until the clock agrees.
            self.enter(self.phase);
        }
        let due = self.poll_wake(cx).is_ready();
        if room || over || due {
            self.events.push(Event::Wake);
        }
    }

    /// Ready when a completion or a sub-batch has waited long enough for others, or the next item may start.
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sub_batch_due_ms = self.to_process.as_ref().and_then(Collector::due_at_ms);
        let dues_ms = [self.to_complete.due_at_ms(), sub_batch_due_ms, self.start_at_ms];
        let Some(due_at_ms) = dues_ms.into_iter().flatten().min() else {
            self.wake = None;
            return Poll::Pending;
        };
        let (at_ms, timer) = self.wake.get_or_insert_with(|| (due_at_ms, self.shared.clock.sleep_until(due_at_ms)));
        if *at_ms != due_at_ms {
            (*at_ms, *timer) = (due_at_ms, self.shared.clock.sleep_until(due_at_ms));
        }
        let due = timer.as_mut().poll(cx);
        if due.is_ready() {
            self.wake = None;
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
        self.now_ms = match &event {
            Event::Ran(ran) => ran.ended_ms,
            _ => self.shared.clock.now_ms(),
        };
        match event {
            Event::Claims(answers) => {
                for (index, outcome) in answers.outcomes {
                    self.claim_answered(index, outcome);
                }
                for (pending, error) in answers.again {
                    self.claim_again(pending, error);
                }
            }
            Event::Ran(ran) => self.work_ended(ran),
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
            Event::Queue(answers) => self.queue_answered(answers),
            Event::Wake => {}
        }
    }

    /// The response is due, or all is done: what has no verdict gets one, and nothing runs on.
    async fn finish(mut self) -> Finished {
        self.counts.completions_lost += self.completing as u64;
        // A claim that was never answered may still arrive after the release that was sent behind it.
        let unanswered = self.tickets.iter().flatten().filter(|ticket| ticket.given_up).count();
        self.counts.releases_lost += (self.releasing + self.to_release.len() + unanswered) as u64;
        self.counts.delays_failed += self.requests.undelayed() as u64;
        self.enter(Phase::Over);
        for index in 0..self.messages.len() {
            if self.verdicts[index].is_some() {
                self.drop_ticket(index);
            } else if let Some(verdict) = self.requests.give_up_park(index) {
                // Its send may still have succeeded: it then stands in both queues (parking is at least once).
                self.counts.parks_failed += 1;
                self.close(index, verdict);
            } else {
                let verdict = self.last_verdict(index);
                self.decide(index, verdict);
            }
        }
        for decided in std::mem::take(&mut self.decided).into_values() {
            // It may hold the last of an error, whose destructor is the user's code.
            self.count_drop(decided);
        }
        self.workers.stop().await;
        Finished {
            verdicts: self.verdicts,
            counts: self.counts,
            is_fifo: self.lineup.is_fifo(),
            decoded_ms: self.decoded_ms,
            concurrency_max: self.concurrency_max,
            calls: Vec::new(),
            store_errors: self.store_errors,
            queue_errors: self.queue_errors,
            control: self.shared.control_report(),
        }
    }
}

impl<P: Processor, S: Commit<P::Write>> Run<'_, P, S> {
    /// The verdict of a message that has none when the response is due.
    fn last_verdict(&mut self, index: usize) -> Verdict {
        let Some(ticket) = &self.tickets[index] else {
            return Verdict::new(Outcome::Abandoned, Some(self.deadline_code()));
        };
        if ticket.done.is_some() {
            return Verdict::new(Outcome::Failed, Some("completion_lost"));
        }
        // Cut short so late that it was not even given back.
        self.counts.releases_lost += u64::from(ticket.claimed.is_some());
        if ticket.item.is_none() {
            return Verdict::new(Outcome::Failed, Some("deadline"));
        }
        Verdict::new(Outcome::Abandoned, Some(self.deadline_code()))
    }
}

fn with_linger(limits: Limits) -> Limits {
    let linger_ms = if limits.linger_ms == 0 { SUB_BATCH_LINGER_MS } else { limits.linger_ms };
    Limits { linger_ms, ..limits }
}

/// One call's worth of claims or completions.
fn limits(chunk_size: NonZeroUsize, linger_ms: u64) -> Limits {
    Limits { count_max: chunk_size, bytes_max: CALL_BYTES_MAX, linger_ms }
}
