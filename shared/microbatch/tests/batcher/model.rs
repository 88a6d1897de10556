//! What a batcher must do, said again without futures: plain lists, and one event at a time.
//!
//! It predicts to the millisecond what the sink sees and what each submitter gets. Where two events share an instant, their
//! order is the executor's: such schedules are left to the rules that hold in any order.

use std::{collections::VecDeque, mem::take};

use microbatch::batcher::FlushReason;

use crate::{
    schedules::{Act, Fate, Schedule},
    support::{Entry, Seen},
};

/// What the sink sees and what the submitters get.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Predicted {
    /// The batches, in order.
    pub(crate) seen: Vec<Seen>,
    /// Each entry that was accepted, and when.
    pub(crate) accepted: Vec<(usize, u64)>,
    /// What became of each entry, and when.
    pub(crate) fates: Vec<Option<(Fate, u64)>>,
}

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Arrival(usize),
    Impatience(usize),
    Close,
    BatchEnds,
    Due,
}

struct Model<'a> {
    schedule: &'a Schedule,
    now_ms: u64,
    closed: bool,
    /// Entries that have arrived.
    arrived: Vec<bool>,
    /// Wait for room, in the order in which they came.
    waiting: VecDeque<usize>,
    room: usize,
    /// Accepted and not looked at.
    queued: Vec<usize>,
    /// The batch that is not complete, and when its first entry was accepted.
    open: Vec<usize>,
    opened_ms: u64,
    /// Complete, without a place in flight.
    complete: VecDeque<(Vec<usize>, FlushReason)>,
    /// Batches in the sink: number and end.
    in_flight: Vec<(usize, u64)>,
    predicted: Predicted,
}

/// What happens under a schedule; none where that depends on the order of two events of one instant.
pub(crate) fn predict(schedule: &Schedule) -> Option<Predicted> {
    let entries = schedule.submits.len();
    let mut model = Model {
        schedule,
        now_ms: 0,
        closed: false,
        arrived: vec![false; entries],
        waiting: VecDeque::new(),
        room: schedule.bounds.entries_max.get(),
        queued: Vec::new(),
        open: Vec::new(),
        opened_ms: 0,
        complete: VecDeque::new(),
        in_flight: Vec::new(),
        predicted: Predicted { fates: vec![None; entries], ..Predicted::default() },
    };
    loop {
        let mut next = model.events();
        next.sort_by_key(|(at_ms, _)| *at_ms);
        let Some(&(at_ms, event)) = next.first() else { return Some(model.predicted) };
        if next.get(1).is_some_and(|(other_ms, _)| *other_ms == at_ms) {
            return None;
        }
        model.now_ms = at_ms;
        model.happen(event);
    }
}

impl Model<'_> {
    fn events(&self) -> Vec<(u64, Event)> {
        let mut events = Vec::new();
        for (id, submit) in self.schedule.submits.iter().enumerate() {
            if !self.arrived[id] {
                events.push((submit.after_ms, Event::Arrival(id)));
            } else if self.predicted.fates[id].is_none() {
                events.extend(submit.patience_ms.map(|ms| (submit.after_ms + ms, Event::Impatience(id))));
            }
        }
        if !self.closed {
            events.push((self.schedule.close_at_ms, Event::Close));
        }
        events.extend(self.in_flight.iter().map(|(_, ends_ms)| (*ends_ms, Event::BatchEnds)));
        let due_ms = self.opened_ms + self.schedule.limits.linger_ms;
        if self.lingers() && self.has_place() {
            events.push((due_ms, Event::Due));
        }
        events
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival(id) => {
                self.arrived[id] = true;
                self.waiting.push_back(id);
            }
            Event::Impatience(id) => {
                self.waiting.retain(|waiting| *waiting != id);
                self.give(id, Fate::Cancelled);
            }
            Event::Close => self.closed = true,
            Event::BatchEnds | Event::Due => {}
        }
        loop {
            self.work();
            if !self.admit() {
                return;
            }
        }
    }

    /// Lets in whom there is room for. Says whether anyone came in.
    fn admit(&mut self) -> bool {
        if self.closed {
            for id in take(&mut self.waiting) {
                self.give(id, Fate::Closed(self.entry(id)));
            }
            return false;
        }
        let count = self.room.min(self.waiting.len());
        let mut admitted: Vec<usize> = self.waiting.drain(..count).collect();
        // Room goes to those that waited longest. All who got some at this instant go on in the order of the test's list.
        admitted.sort_unstable();
        self.room -= count;
        self.predicted.accepted.extend(admitted.iter().map(|id| (*id, self.now_ms)));
        self.queued.extend(admitted);
        count > 0
    }

    /// Everything that can be done with what has been accepted.
    fn work(&mut self) {
        loop {
            for id in take(&mut self.queued) {
                self.collect(id);
            }
            if self.closed {
                self.complete_open(FlushReason::Close);
            }
            if self.has_place() {
                self.flush();
            }
            while self.in_flight.len() < self.schedule.bounds.batches_in_flight_max.get()
                && let Some((ids, reason)) = self.complete.pop_front()
            {
                self.send(ids, reason);
            }
            if !self.end_batches() {
                return;
            }
        }
    }

    fn collect(&mut self, id: usize) {
        let limits = self.schedule.limits;
        let (size, bytes_max) = (self.size(&[id]), limits.bytes_max.get());
        if size > bytes_max {
            self.room += 1;
            self.give(id, Fate::TooLarge(self.entry(id)));
            return;
        }
        if self.size(&self.open) + size > bytes_max {
            self.complete_open(FlushReason::Bytes);
        }
        if self.open.is_empty() {
            self.opened_ms = self.now_ms;
        }
        self.open.push(id);
        if self.open.len() == limits.count_max.get() {
            self.complete_open(FlushReason::Count);
        } else if self.size(&self.open) == bytes_max {
            self.complete_open(FlushReason::Bytes);
        }
    }

    /// Completes what should not wait for more.
    fn flush(&mut self) {
        if self.lingers() && self.now_ms >= self.opened_ms + self.schedule.limits.linger_ms {
            self.complete_open(FlushReason::Age);
        }
        let holds_all = self.open.len() >= self.schedule.bounds.entries_max.get();
        if holds_all || (self.schedule.limits.linger_ms == 0 && self.in_flight.is_empty()) {
            self.complete_open(FlushReason::Idle);
        }
    }

    fn send(&mut self, ids: Vec<usize>, reason: FlushReason) {
        let number = self.predicted.seen.len();
        let (act, takes_ms) = self.schedule.act(number);
        let takes_ms = if act == Act::PanicInCall { 0 } else { takes_ms };
        // A call that panicked keeps its place until it is answered, and is in the sink no more.
        let in_sink = |number: usize| self.schedule.act(number).0 != Act::PanicInCall;
        let others = self.in_flight.iter().filter(|(number, _)| in_sink(*number)).count();
        let seen = Seen { bytes: self.size(&ids), ids, reason, at_ms: self.now_ms, others };
        self.predicted.seen.push(seen);
        self.in_flight.push((number, self.now_ms + takes_ms));
    }

    /// Answers the batches that end now. Says whether there were any.
    fn end_batches(&mut self) -> bool {
        let (ended, rest) = take(&mut self.in_flight).into_iter().partition(|(_, ends_ms)| *ends_ms <= self.now_ms);
        self.in_flight = rest;
        let ended: Vec<(usize, u64)> = ended;
        for (number, _) in &ended {
            let ids = self.predicted.seen[*number].ids.clone();
            self.room += ids.len();
            for id in &ids {
                self.give(*id, self.schedule.fate(*number, *id, ids.len()));
            }
        }
        !ended.is_empty()
    }

    /// Whether a batch completed now would be sent now.
    fn has_place(&self) -> bool {
        self.complete.is_empty() && self.in_flight.len() < self.schedule.bounds.batches_in_flight_max.get()
    }

    fn lingers(&self) -> bool {
        self.schedule.limits.linger_ms > 0 && !self.open.is_empty()
    }

    fn complete_open(&mut self, reason: FlushReason) {
        if !self.open.is_empty() {
            self.complete.push_back((take(&mut self.open), reason));
        }
    }

    /// The first fate stands: who has lost patience gets nothing more.
    fn give(&mut self, id: usize, fate: Fate) {
        self.predicted.fates[id].get_or_insert((fate, self.now_ms));
    }

    fn entry(&self, id: usize) -> Entry {
        Entry { id, bytes: self.schedule.submits[id].bytes }
    }

    fn size(&self, ids: &[usize]) -> usize {
        ids.iter().map(|id| self.schedule.submits[*id].bytes).sum()
    }
}
