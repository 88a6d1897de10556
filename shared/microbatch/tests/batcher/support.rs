//! Entries, sinks that the test holds open, and futures polled by hand.

use std::{
    future::Future,
    num::NonZeroUsize,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use microbatch::{
    Clock,
    batcher::{Batch, Batcher, Bounds, Driver, FlushReason, Limits},
};
use microbatch_testkit::clock::TokioClock;
use tokio::sync::Semaphore;

/// An entry of a chosen size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: usize,
    pub(crate) bytes: usize,
}

impl Entry {
    pub(crate) fn size(&self) -> usize {
        self.bytes
    }
}

/// An entry of one byte.
pub(crate) fn entry(id: usize) -> Entry {
    Entry { id, bytes: 1 }
}

pub(crate) fn limits(count_max: usize, bytes_max: usize, linger_ms: u64) -> Limits {
    Limits { count_max: at_most(count_max), bytes_max: at_most(bytes_max), linger_ms }
}

pub(crate) fn bounds(entries_max: usize, batches_in_flight_max: usize) -> Bounds {
    Bounds { entries_max: at_most(entries_max), batches_in_flight_max: at_most(batches_in_flight_max) }
}

fn at_most(value: usize) -> NonZeroUsize {
    NonZeroUsize::new(value).expect("not 0")
}

/// A batch as the sink saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) ids: Vec<usize>,
    pub(crate) bytes: usize,
    pub(crate) reason: FlushReason,
    /// Milliseconds since the test began.
    pub(crate) at_ms: u64,
    /// Batches in flight beside it when it came.
    pub(crate) others: usize,
}

/// What a sink saw, and how many of its batches are in flight.
pub(crate) struct Log {
    clock: TokioClock,
    began_ms: u64,
    seen: Mutex<Vec<Seen>>,
    in_flight: AtomicUsize,
    /// Batches may end: one for each permit.
    pub(crate) gate: Semaphore,
}

impl Log {
    pub(crate) fn new(clock: TokioClock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            began_ms: clock.now_ms(),
            seen: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            gate: Semaphore::new(0),
        })
    }

    /// Notes a batch that came. It is in flight until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>, batch: &Batch<Entry>) -> InFlight {
        let seen = Seen {
            ids: batch.entries.iter().map(|entry| entry.id).collect(),
            bytes: batch.bytes,
            reason: batch.reason,
            at_ms: self.now_ms(),
            others: self.in_flight.fetch_add(1, Ordering::SeqCst),
        };
        self.seen.lock().expect("no panic").push(seen);
        InFlight(Arc::clone(self))
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms() - self.began_ms
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }

    pub(crate) fn reasons(&self) -> Vec<(Vec<usize>, FlushReason)> {
        self.seen().into_iter().map(|seen| (seen.ids, seen.reason)).collect()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }
}

/// A batch in flight.
pub(crate) struct InFlight(Arc<Log>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) fn ids(batch: &Batch<Entry>) -> Vec<usize> {
    batch.entries.iter().map(|entry| entry.id).collect()
}

/// A batcher whose sink answers each entry with its id, once the gate lets its batch go.
pub(crate) fn gated(limits: Limits, bounds: Bounds) -> (Batcher<Entry, usize>, GatedDriver, Arc<Log>) {
    let clock = TokioClock::default();
    let log = Log::new(clock);
    let sink_log = Arc::clone(&log);
    let sink: GatedSink = Box::new(move |batch| {
        let log = Arc::clone(&sink_log);
        let in_flight = log.begin(&batch);
        Box::pin(async move {
            log.gate.acquire().await.expect("open").forget();
            drop(in_flight);
            ids(&batch)
        })
    });
    let (batcher, driver) = Batcher::new(limits, bounds, Arc::new(clock), Entry::size, sink);
    (batcher, driver, log)
}

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

type GatedSink = Box<dyn Fn(Batch<Entry>) -> BoxFuture<Vec<usize>> + Send>;
pub(crate) type GatedDriver = Driver<Entry, usize, GatedSink, BoxFuture<Vec<usize>>>;

/// Polls a future once.
pub(crate) fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}
