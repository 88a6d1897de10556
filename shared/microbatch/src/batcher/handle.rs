//! The submitters' side of a batcher.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{
    collector::Batch,
    driver::Driver,
    error::BatcherError,
    limits::{Bounds, Limits},
};
use crate::{clock::Clock, panics::drop_contained};

/// Takes single entries and gives each its result, while its [`Driver`] sends them in batches. Cheap to clone; clones are
/// one batcher.
///
/// An entry that was accepted is sent, also when its submitter no longer waits for the result: to drop a submit that waits
/// for room takes the entry back, to drop it later only gives up the result. Either way the room is not lost.
///
/// Accepted entries are never reordered. To fix the order, [`Batcher::enqueue`] them one after the other.
pub struct Batcher<T, R> {
    queue: mpsc::UnboundedSender<Queued<T, R>>,
    shared: Arc<Shared>,
    /// In the submitter's hands, so that its panic is the submitter's own.
    size_bytes: fn(&T) -> usize,
}

/// What handles and driver share.
pub(super) struct Shared {
    /// Room for entries, waiting or in flight. It bounds the queue, and is closed with the batcher.
    pub(super) room: Arc<Semaphore>,
    /// Wakes the driver when the batcher is closed; entries wake it by the queue.
    pub(super) driver: AtomicWaker,
    pub(super) clock: Arc<dyn Clock>,
}

/// An accepted entry.
pub(super) struct Queued<T, R> {
    pub(super) entry: T,
    pub(super) bytes: usize,
    pub(super) entered_ms: u64,
    pub(super) reply: Reply<T, R>,
}

impl<T, R> Queued<T, R> {
    /// Gives back an entry that will not be sent.
    pub(super) fn refuse(self) {
        self.reply.answer(Err(BatcherError::Closed(self.entry)));
    }
}

/// Where an entry's result goes, and the room that it takes until then.
pub(super) struct Reply<T, R> {
    sender: oneshot::Sender<Result<R, BatcherError<T>>>,
    _room: OwnedSemaphorePermit,
}

impl<T, R> Reply<T, R> {
    pub(super) fn answer(self, result: Result<R, BatcherError<T>>) {
        if let Err(unwanted) = self.sender.send(result) {
            // The submitter is gone. The value's destructor is the user's code.
            let _contained = drop_contained(unwanted);
        }
    }
}

impl<T, R> Batcher<T, R> {
    /// A batcher and the driver that must be polled for it to work.
    ///
    /// `size_bytes` measures an entry. `sink` sends a batch and answers with one result an entry, in order. It bounds its own
    /// time: a batch that never ends keeps its place among those in flight. `clock` is read for [`Limits::linger_ms`] only.
    pub fn new<S, F>(
        limits: Limits,
        bounds: Bounds,
        clock: Arc<dyn Clock>,
        size_bytes: fn(&T) -> usize,
        sink: S,
    ) -> (Self, Driver<T, R, S, F>)
    where
        S: Fn(Batch<T>) -> F,
        F: Future<Output = Vec<R>> + Send,
    {
        // More room than a semaphore can count is more than there is memory for.
        let room = Arc::new(Semaphore::new(bounds.entries_max.get().min(Semaphore::MAX_PERMITS)));
        let shared = Arc::new(Shared { room, driver: AtomicWaker::new(), clock });
        let (queue, queued) = mpsc::unbounded_channel();
        let driver = Driver::new(limits, bounds, Arc::clone(&shared), queued, sink);
        (Self { queue, shared, size_bytes }, driver)
    }

    /// Sends an entry with others and waits for its result. Waits for room first, in the order of the calls.
    ///
    /// # Errors
    /// [`BatcherError`]; it holds the entry if that was not sent.
    pub async fn submit(&self, entry: T) -> Result<R, BatcherError<T>> {
        self.enqueue(entry).await?.await
    }

    /// Waits until there is room for an entry, not for its result: that is what the receipt is for.
    ///
    /// Entries that one task enqueues are sent in that order.
    ///
    /// # Errors
    /// [`BatcherError::Closed`], with the entry.
    pub async fn enqueue(&self, entry: T) -> Result<Receipt<T, R>, BatcherError<T>> {
        let bytes = (self.size_bytes)(&entry);
        let Ok(room) = Arc::clone(&self.shared.room).acquire_owned().await else {
            return Err(BatcherError::Closed(entry));
        };
        let (sender, receiver) = oneshot::channel();
        let entered_ms = self.shared.clock.now_ms();
        let queued = Queued { entry, bytes, entered_ms, reply: Reply { sender, _room: room } };
        match self.queue.send(queued) {
            Ok(()) => Ok(Receipt(receiver)),
            Err(mpsc::error::SendError(queued)) => Err(BatcherError::Closed(queued.entry)),
        }
    }

    /// Accepts no more: who waits for room gets the entry back. What was accepted is sent at once, and the driver ends when
    /// the last result is there. Dropping the last handle does the same.
    pub fn close(&self) {
        self.shared.room.close();
        self.shared.driver.wake();
    }
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), shared: Arc::clone(&self.shared), size_bytes: self.size_bytes }
    }
}

impl<T, R> fmt::Debug for Batcher<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher")
            .field("room", &self.shared.room.available_permits())
            .field("closed", &self.shared.room.is_closed())
            .finish_non_exhaustive()
    }
}

/// The result to come of an entry that was accepted: a future. Dropping it gives up the result, not the entry.
#[derive(Debug)]
#[must_use = "the result of the entry comes out of it"]
pub struct Receipt<T, R>(oneshot::Receiver<Result<R, BatcherError<T>>>);

impl<T, R> Future for Receipt<T, R> {
    type Output = Result<R, BatcherError<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(BatcherError::Abandoned)))
    }
}
