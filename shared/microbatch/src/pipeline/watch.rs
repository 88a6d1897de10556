//! Notices items that keep their thread: blocking code can be neither cancelled nor timed out.
//!
//! A poll that does not return stops everything that is polled beside it, the timers of this crate included. So the
//! watch is only kept here, two atomic writes a poll; who looks at it is the host, from a thread of its own.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// What one thread is polling, for one invocation.
#[derive(Debug)]
pub(super) struct Watch {
    batch_id: Box<str>,
    index: AtomicUsize,
    /// When the poll began, in epoch milliseconds; 0 between polls.
    since_ms: AtomicU64,
    /// When the thread's other tasks are to get their turn, in epoch milliseconds.
    turn_ends_ms: AtomicU64,
}

impl Watch {
    pub(super) fn enter(&self, index: usize, now_ms: u64) {
        self.index.store(index, Ordering::Relaxed);
        self.since_ms.store(now_ms, Ordering::Release);
    }

    pub(super) fn leave(&self) {
        self.since_ms.store(0, Ordering::Release);
    }

    pub(super) fn begin_turn(&self, ends_ms: u64) {
        self.turn_ends_ms.store(ends_ms, Ordering::Relaxed);
    }

    pub(super) fn is_turn_over(&self, now_ms: u64) -> bool {
        now_ms >= self.turn_ends_ms.load(Ordering::Relaxed)
    }
}

/// An item whose code has not returned to its thread for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocking {
    /// The host's id of the invocation.
    pub batch_id: Box<str>,
    /// Position of the message in its batch, from 0.
    pub index: usize,
    /// Since when, in epoch milliseconds.
    pub since_ms: u64,
}

/// All watches of the process.
#[derive(Debug, Default)]
pub(super) struct Watches(Mutex<Vec<Weak<Watch>>>);

impl Watches {
    pub(super) fn open(&self, batch_id: &str) -> Arc<Watch> {
        let watch = Arc::new(Watch {
            batch_id: batch_id.into(),
            index: AtomicUsize::new(0),
            since_ms: AtomicU64::new(0),
            // Without an end until a first one begins.
            turn_ends_ms: AtomicU64::new(u64::MAX),
        });
        let mut watches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|watch| watch.strong_count() > 0);
        watches.push(Arc::downgrade(&watch));
        watch
    }

    pub(super) fn blocking(&self, now_ms: u64, longer_than_ms: u64) -> Vec<Blocking> {
        let watches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_watch = |watch: Arc<Watch>| {
            let since_ms = watch.since_ms.load(Ordering::Acquire);
            let blocking = since_ms != 0 && now_ms.saturating_sub(since_ms) > longer_than_ms;
            blocking.then(|| Blocking {
                batch_id: watch.batch_id.clone(),
                index: watch.index.load(Ordering::Relaxed),
                since_ms,
            })
        };
        watches.iter().filter_map(Weak::upgrade).filter_map(of_watch).collect()
    }
}
