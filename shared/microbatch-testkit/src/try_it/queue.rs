//! The queue's side of failures: takes what is parked, and notes for how long messages are delayed.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use microbatch::{
    Queue,
    clock::BoxFuture,
    queue::{DelayRequest, ParkRequest, QueueError},
};

/// A message that was sent to the dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The queue's id of the message.
    pub message_id: String,
    /// Its body.
    pub body: String,
    /// Why, as JSON text.
    pub reason: String,
}

/// Does at once what it is asked.
#[derive(Debug)]
pub(super) struct TestQueue {
    pub(super) parks: bool,
    pub(super) delays: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    parked: Vec<Parked>,
    /// By receipt handle.
    delays_s: HashMap<String, u64>,
}

impl TestQueue {
    pub(super) fn new(parks: bool, delays: bool) -> Self {
        Self { parks, delays, state: Mutex::default() }
    }

    pub(super) fn parked(&self) -> Vec<Parked> {
        self.state().parked.clone()
    }

    /// For how long this receipt of a message was delayed.
    pub(super) fn delay_s(&self, receipt_handle: &str) -> Option<u64> {
        self.state().delays_s.get(receipt_handle).copied()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue for TestQueue {
    fn can_park(&self) -> bool {
        self.parks
    }

    fn can_delay(&self) -> bool {
        self.delays
    }

    fn park<'a>(&'a self, entries: &'a [ParkRequest]) -> BoxFuture<'a, Vec<Result<(), QueueError>>> {
        let parked = entries.iter().map(|entry| Parked {
            message_id: entry.message_id.to_string(),
            body: entry.body.to_string(),
            reason: entry.reason.to_string(),
        });
        self.state().parked.extend(parked);
        Box::pin(std::future::ready(vec![Ok(()); entries.len()]))
    }

    fn delay<'a>(&'a self, entries: &'a [DelayRequest]) -> BoxFuture<'a, Vec<Result<(), QueueError>>> {
        let delays = entries.iter().map(|entry| (entry.receipt_handle.to_string(), entry.delay_s));
        self.state().delays_s.extend(delays);
        Box::pin(std::future::ready(vec![Ok(()); entries.len()]))
    }
}
