//! A queue for the producer's tests that fails entries, loses answers and applies requests late, on virtual time.
//!
//! A double, since no real queue can be made to do that; what a real one does with the same requests is tested end to end.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use microbatch::{
    Clock,
    clock::BoxFuture,
    queue::{QUEUE_BYTES_MAX, QUEUE_ENTRIES_MAX, QueueError},
};

use super::{
    Sent,
    delivery::SendBatch,
    error::{REFUSED, THROTTLED, UNAVAILABLE},
};

/// SQS's deduplication interval.
const DEDUPLICATION_MS: u64 = 300_000;

/// Time that stands until everything waits, and then jumps to the next sleeper.
#[derive(Clone, Default)]
pub(super) struct VirtualClock(Arc<Mutex<Time>>);

#[derive(Default)]
struct Time {
    now_ms: u64,
    next_sleeper: u64,
    sleepers: BTreeMap<(u64, u64), Waker>,
}

impl VirtualClock {
    fn time(&self) -> MutexGuard<'_, Time> {
        self.0.lock().expect("no panic")
    }

    /// Jumps to the next sleeper. False when nobody sleeps.
    fn advance(&self) -> bool {
        let mut time = self.time();
        let Some(((at_ms, _), waker)) = time.sleepers.pop_first() else { return false };
        time.now_ms = time.now_ms.max(at_ms);
        drop(time);
        waker.wake();
        true
    }

    /// Polls a future to its end.
    pub(super) fn run<F: Future>(&self, future: F) -> F::Output {
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
            while !woken.0.swap(false, Ordering::SeqCst) {
                assert!(self.advance(), "everything waits, and for nothing");
            }
        }
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now_ms(&self) -> u64 {
        self.time().now_ms
    }

    fn sleep_until(&self, at_ms: u64) -> BoxFuture<'static, ()> {
        let mut time = self.time();
        time.next_sleeper += 1;
        Box::pin(Sleep { clock: self.clone(), place: (at_ms, time.next_sleeper) })
    }
}

struct Sleep {
    clock: VirtualClock,
    place: (u64, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut time = self.clock.time();
        if time.now_ms >= self.place.0 {
            return Poll::Ready(());
        }
        time.sleepers.insert(self.place, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.clock.time().sleepers.remove(&self.place);
    }
}

/// What the queue does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Each entry has its own fate.
    Answer,
    /// Nothing is applied.
    Throttle,
    /// Nothing is applied, and nothing ever will be.
    Refuse,
    /// Nothing is applied, and nothing answered.
    HangBefore,
    /// Applied, and not answered.
    HangAfter,
    /// Applied, and the connection lost.
    DropAnswer,
    /// The connection is lost, and the request applied a while later.
    Late,
}

/// What the queue does with an entry of a request that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Taken,
    /// Applied, and not named in the answer.
    Unnamed,
    Throttled,
    Broken,
    SendersFault,
}

/// One step of the script; the queue goes through it again and again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) act: Act,
    pub(super) after_ms: u64,
    /// By position in the request.
    pub(super) fates: [Fate; 4],
}

/// One message that the queue has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Try {
    pub(super) at_ms: u64,
    pub(super) message: usize,
}

/// A message that arrives, and its deduplication id.
type Arrival = (usize, Option<String>);

/// The queue, and what it has seen.
#[derive(Default)]
pub(super) struct QueueState {
    /// Messages in the order in which they came into the queue; whether it was later than their request.
    pub(super) content: Vec<(usize, bool)>,
    /// When each deduplication id came first.
    known: HashMap<String, u64>,
    /// Requests that are on their way: when they arrive, and with what.
    late: Vec<(u64, Vec<Arrival>)>,
    pub(super) tries: Vec<Try>,
    pub(super) requests: usize,
    in_flight: usize,
    pub(super) in_flight_max: usize,
    pub(super) broken_rules: Vec<String>,
}

#[derive(Clone)]
pub(super) struct FakeQueue {
    clock: VirtualClock,
    fifo: bool,
    script: Arc<Vec<Step>>,
    state: Arc<Mutex<QueueState>>,
}

struct InFlight(Arc<Mutex<QueueState>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().expect("no panic").in_flight -= 1;
    }
}

impl FakeQueue {
    /// A queue that goes through the steps again and again.
    pub(super) fn new(clock: &VirtualClock, fifo: bool, script: Vec<Step>) -> Self {
        Self { clock: clock.clone(), fifo, script: Arc::new(script), state: Arc::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().expect("no panic")
    }

    /// Lets everything arrive that is on its way, and gives what there was to see.
    pub(super) fn into_state(self) -> QueueState {
        self.clock.time().now_ms += 1_000_000;
        self.apply(&[]);
        std::mem::take(&mut *self.state())
    }

    /// Looks at a request as SQS would, and counts it.
    fn admit(&self, entries: &[SendMessageBatchRequestEntry]) -> (InFlight, Step) {
        let mut state = self.state();
        let step = self.script[state.requests % self.script.len()];
        state.requests += 1;
        state.in_flight += 1;
        state.in_flight_max = state.in_flight_max.max(state.in_flight);
        let at_ms = self.clock.now_ms();
        state.tries.extend(entries.iter().map(|entry| Try { at_ms, message: number(entry) }));
        let distinct: HashSet<&str> = entries.iter().map(SendMessageBatchRequestEntry::id).collect();
        let bytes: usize = entries.iter().map(|entry| entry.message_body().len()).sum();
        if entries.is_empty()
            || entries.len() > QUEUE_ENTRIES_MAX
            || bytes > QUEUE_BYTES_MAX
            || distinct.len() != entries.len()
        {
            state.broken_rules.push(format!("{} entries of {bytes} bytes, {} ids", entries.len(), distinct.len()));
        }
        let groups: Vec<&str> = entries.iter().filter_map(|entry| entry.message_group_id()).collect();
        let distinct_groups: HashSet<&&str> = groups.iter().collect();
        if self.fifo && (groups.len() != entries.len() || distinct_groups.len() != entries.len()) {
            state.broken_rules.push(format!("{} groups for {} entries", distinct_groups.len(), entries.len()));
        }
        (InFlight(Arc::clone(&self.state)), step)
    }

    /// Puts what is due into the queue, and then these.
    fn apply(&self, messages: &[Arrival]) {
        let now_ms = self.clock.now_ms();
        let mut state = self.state();
        let (due, later) = std::mem::take(&mut state.late).into_iter().partition(|(at_ms, _)| *at_ms <= now_ms);
        state.late = later;
        let mut due: Vec<(u64, Vec<Arrival>)> = due;
        due.sort_by_key(|(at_ms, _)| *at_ms);
        for (at_ms, messages) in due {
            state.put(&messages, at_ms, true);
        }
        state.put(messages, now_ms, false);
    }
}

impl QueueState {
    fn put(&mut self, messages: &[Arrival], at_ms: u64, late: bool) {
        for (message, id) in messages {
            let known =
                id.as_ref().and_then(|id| self.known.get(id)).is_some_and(|first| at_ms - first < DEDUPLICATION_MS);
            if !known {
                self.content.push((*message, late));
                self.known.extend(id.clone().map(|id| (id, at_ms)));
            }
        }
    }
}

/// The message's number, which its body begins with.
fn number(entry: &SendMessageBatchRequestEntry) -> usize {
    entry.message_body().split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

impl SendBatch for FakeQueue {
    async fn send(&self, entries: Vec<SendMessageBatchRequestEntry>) -> Vec<Result<Sent, QueueError>> {
        let (_in_flight, Step { act, after_ms, fates }) = self.admit(&entries);
        let fates: Vec<Fate> = (0..entries.len()).map(|position| fates[position % fates.len()]).collect();
        let message = |entry: &SendMessageBatchRequestEntry| (number(entry), entry.message_deduplication_id.clone());
        let taken = |position: &usize| act != Act::Answer || matches!(fates[*position], Fate::Taken | Fate::Unnamed);
        let applied: Vec<_> = (0..entries.len()).filter(taken).map(|position| message(&entries[position])).collect();
        let now_ms = self.clock.now_ms();
        // On its way there, then on its way back.
        self.clock.sleep_until(now_ms + after_ms / 2).await;
        match act {
            Act::Throttle | Act::Refuse => {}
            Act::HangBefore => std::future::pending().await,
            Act::Late => {
                let at_ms = self.clock.now_ms() + 10 * after_ms;
                self.state().late.push((at_ms, applied));
            }
            Act::Answer | Act::HangAfter | Act::DropAnswer => self.apply(&applied),
        }
        self.clock.sleep_until(now_ms + after_ms).await;
        let all = |error: QueueError| vec![Err(error); entries.len()];
        match act {
            Act::Answer => entries.iter().zip(&fates).map(|(entry, fate)| answer(entry, *fate)).collect(),
            Act::Throttle => all(QueueError::passing(THROTTLED, "scripted")),
            Act::Refuse => all(QueueError::lasting(REFUSED, "scripted")),
            Act::DropAnswer | Act::Late => all(QueueError::passing(UNAVAILABLE, "scripted")),
            Act::HangBefore | Act::HangAfter => std::future::pending().await,
        }
    }
}

fn answer(entry: &SendMessageBatchRequestEntry, fate: Fate) -> Result<Sent, QueueError> {
    match fate {
        Fate::Taken => Ok(Sent { message_id: number(entry).to_string(), sequence_number: None }),
        Fate::Unnamed | Fate::Broken => Err(QueueError::passing(UNAVAILABLE, "scripted")),
        Fate::Throttled => Err(QueueError::passing(THROTTLED, "scripted")),
        Fate::SendersFault => Err(QueueError::lasting(REFUSED, "scripted")),
    }
}
