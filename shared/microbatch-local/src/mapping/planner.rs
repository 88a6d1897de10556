//! What the mapping does next: receives, invokes, gives messages back. Pure: told the time, and what came of its steps.
//!
//! Messages are received only while a batch of them could run, so that none waits here while its visibility timeout runs. On a
//! FIFO queue the groups of a running batch are locked: what is received of them waits behind it, and is given back unseen if
//! the batch leaves a message of the group in the queue, since that one comes first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::batching::{Batch, BatchLimits, Closed, Collector, split};
use super::event::Received;
use super::scaling::{Invocation, Scaling};
use super::settings::MappingSettings;

/// Most messages that a receive can ask for: SQS's limit.
pub const RECEIVE_MAX: usize = 10;
/// Most receives at once. Ours: enough to fill a batch of 1,000 in a moment, and kind to a small server.
pub const RECEIVES_AT_ONCE: usize = 10;
/// The pause after a failed receive: the first, and the longest; each is twice as long as the one before. Ours.
const RECEIVE_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Receive, and tell [`Planner::received`] or [`Planner::receive_failed`].
    Receive {
        /// Most messages, 1 to 10.
        max: usize,
    },
    /// Invoke the function, delete by its verdict, and tell [`Planner::ended`].
    Invoke {
        /// Names the batch.
        id: u64,
        /// The batch.
        batch: Batch,
    },
    /// Make these messages visible again at once; nothing has seen them.
    Return(Vec<Received>),
}

#[derive(Debug)]
struct Running {
    groups: BTreeSet<String>,
    started_ms: u64,
}

/// The mapping's state.
#[derive(Debug)]
pub struct Planner {
    limits: BatchLimits,
    fifo: bool,
    scaling: Scaling,
    collector: Collector,
    /// Complete batches that have not started yet.
    ready: VecDeque<Batch>,
    /// Messages of locked groups, in order. Every group here is in `running`.
    held: Vec<Received>,
    returns: Vec<Received>,
    running: BTreeMap<u64, Running>,
    batches: u64,
    receives: usize,
    requested: usize,
    /// Whether the last receive brought something, so that more is likely there.
    messages_wait: bool,
    receive_pause_ms: u64,
    receives_again_ms: u64,
    grows_ms: Option<u64>,
    stopping: bool,
}

impl Planner {
    /// The start. `environments_max` limits concurrency further than the settings do.
    pub fn new(settings: &MappingSettings, environments_max: Option<usize>) -> Self {
        let max = [settings.concurrency_max(), environments_max].into_iter().flatten().min();
        let limits = BatchLimits::new(settings);
        Self {
            limits,
            fifo: settings.is_fifo(),
            scaling: Scaling::new(max),
            collector: Collector::new(limits),
            ready: VecDeque::new(),
            held: Vec::new(),
            returns: Vec::new(),
            running: BTreeMap::new(),
            batches: 0,
            receives: 0,
            requested: 0,
            messages_wait: false,
            receive_pause_ms: 0,
            receives_again_ms: 0,
            grows_ms: None,
            stopping: false,
        }
    }

    /// How many batches may run at once, and the pause after errors.
    pub fn scaling(&self) -> &Scaling {
        &self.scaling
    }

    /// How many messages are here without being invoked.
    pub fn waiting(&self) -> usize {
        let ready: usize = self.ready.iter().map(|batch| batch.messages.len()).sum();
        self.collector.len() + ready + self.held.len() + self.returns.len()
    }

    /// The next thing to do. None: nothing before [`Planner::wakes_ms`] or before something is told.
    pub fn step(&mut self, now_ms: u64) -> Option<Step> {
        if self.stopping {
            self.give_up();
        }
        // While a receive is under way, after the stop, it would bring them again.
        let too_early = self.stopping && self.receives > 0;
        if !self.returns.is_empty() && !too_early {
            return Some(Step::Return(std::mem::take(&mut self.returns)));
        }
        self.ready.extend(self.collector.due(now_ms));
        if self.running.len() < self.scaling.limit()
            && let Some(batch) = self.startable()
        {
            return Some(self.start(now_ms, batch));
        }
        self.receive(now_ms)
    }

    /// When [`Planner::step`] is to be asked again although nothing is told.
    pub fn wakes_ms(&self, now_ms: u64) -> Option<u64> {
        let receives = (now_ms < self.receives_again_ms).then_some(self.receives_again_ms);
        let times = [self.collector.closes_at_ms(), receives, self.scaling.paused_until_ms(now_ms), self.grows_ms];
        if self.stopping { None } else { times.into_iter().flatten().min() }
    }

    /// A receive that asked for `max` brought these messages, maybe none.
    pub fn received(&mut self, now_ms: u64, max: usize, messages: Vec<Received>) {
        self.receive_over(max);
        self.receive_pause_ms = 0;
        self.messages_wait = !messages.is_empty();
        for message in messages {
            let complete = self.collector.add(now_ms, message);
            self.ready.extend(complete);
        }
        if self.limits.window_ms == 0 {
            self.ready.extend(self.collector.due(now_ms));
        }
    }

    /// A receive that asked for `max` failed.
    pub fn receive_failed(&mut self, now_ms: u64, max: usize) {
        self.receive_over(max);
        // Those that were on their way together fail together: one pause for them.
        if now_ms >= self.receives_again_ms {
            let (first, longest) = (whole_ms(RECEIVE_PAUSE.0), whole_ms(RECEIVE_PAUSE.1));
            self.receive_pause_ms = (self.receive_pause_ms * 2).clamp(first, longest);
            self.receives_again_ms = now_ms.saturating_add(self.receive_pause_ms);
        }
    }

    /// A batch has ended: its function's invocation went so, and messages of these groups are still in the queue.
    pub fn ended(&mut self, now_ms: u64, id: u64, invocation: Invocation, left: &BTreeSet<String>) {
        let Some(batch) = self.running.remove(&id) else { return };
        self.scaling.ended(now_ms, batch.started_ms, invocation);
        if !self.fifo {
            return;
        }
        let is_left = |message: &Received| message.group.as_ref().is_some_and(|group| left.contains(group));
        for ready in &mut self.ready {
            self.returns.extend(ready.messages.extract_if(.., |message| is_left(message)));
        }
        self.ready.retain(|ready| !ready.messages.is_empty());
        let unlocked = |message: &Received| message.group.as_ref().is_some_and(|group| batch.groups.contains(group));
        let (freed, held) = std::mem::take(&mut self.held).into_iter().partition(unlocked);
        self.held = held;
        let (returned, next): (Vec<_>, Vec<_>) = Vec::into_iter(freed).partition(is_left);
        self.returns.extend(returned);
        for batch in split(self.limits, now_ms, next, Closed::Group).into_iter().rev() {
            self.ready.push_front(batch);
        }
    }

    /// From now on nothing is received or started, and what was not started is given back once the receives that are under
    /// way are over.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether it was stopped, and nothing is under way or to be given back.
    pub fn is_done(&self) -> bool {
        self.stopping && self.running.is_empty() && self.receives == 0 && self.waiting() == 0
    }

    fn give_up(&mut self) {
        self.returns.append(&mut self.held);
        self.returns.extend(self.ready.drain(..).flat_map(|batch| batch.messages));
        self.returns.extend(self.collector.give_up());
    }

    /// The first batch that can start. Messages of locked groups are held back from it.
    fn startable(&mut self) -> Option<Batch> {
        while let Some(mut batch) = self.ready.pop_front() {
            if !self.fifo {
                return Some(batch);
            }
            let locked: BTreeSet<&String> = self.running.values().flat_map(|running| &running.groups).collect();
            let is_locked = |message: &Received| message.group.as_ref().is_some_and(|group| locked.contains(group));
            let (held, free): (Vec<_>, Vec<_>) = batch.messages.into_iter().partition(is_locked);
            self.held.extend(held);
            if !free.is_empty() {
                batch.messages = free;
                return Some(batch);
            }
        }
        None
    }

    fn start(&mut self, now_ms: u64, batch: Batch) -> Step {
        self.batches += 1;
        let groups =
            if self.fifo { batch.messages.iter().filter_map(|m| m.group.clone()).collect() } else { BTreeSet::new() };
        self.running.insert(self.batches, Running { groups, started_ms: now_ms });
        Step::Invoke { id: self.batches, batch }
    }

    fn receive(&mut self, now_ms: u64) -> Option<Step> {
        self.grows_ms = None;
        if self.stopping || now_ms < self.receives_again_ms || self.scaling.paused_until_ms(now_ms).is_some() {
            return None;
        }
        if self.messages_wait && self.free_slots() == 0 {
            self.grows_ms = self.scaling.saturated(now_ms);
        }
        let at_once = if self.messages_wait { RECEIVES_AT_ONCE } else { 1 };
        let max = self.room().min(RECEIVE_MAX);
        if self.receives >= at_once || max == 0 {
            return None;
        }
        self.receives += 1;
        self.requested += max;
        Some(Step::Receive { max })
    }

    /// How many more batches may exist, the open one included.
    fn free_slots(&self) -> usize {
        self.scaling.limit().saturating_sub(self.running.len() + self.ready.len())
    }

    /// How many messages may still be asked for.
    fn room(&self) -> usize {
        let free = self.free_slots();
        if self.limits.window_ms == 0 {
            // Each receive is a batch.
            return if self.receives < free { self.limits.messages_max } else { 0 };
        }
        (free * self.limits.messages_max).saturating_sub(self.collector.len() + self.requested)
    }

    fn receive_over(&mut self, max: usize) {
        self.receives = self.receives.saturating_sub(1);
        self.requested = self.requested.saturating_sub(max);
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
