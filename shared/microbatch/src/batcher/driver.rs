//! The working side of a batcher: collects what was submitted, sends batches, hands out their results.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use super::{
    collector::{Batch, Collector, EntryTooLarge},
    error::BatcherError,
    handle::{Queued, Reply, Shared},
    limits::{Bounds, Limits},
};
use crate::{
    clock::BoxFuture,
    panics::{Panicked, contain, drop_contained},
};

/// Does a batcher's work while it is polled: beside the submitters by `join!` or `select!`, or spawned by the caller.
///
/// A batch is sent when it is full, when its first entry has waited for [`Limits::linger_ms`], and at once when nothing can
/// join it: without a linger, if nothing is queued and no batch is in flight; with one, if it holds all entries that there
/// is room for. While as many batches are in flight as may be, it grows instead.
///
/// It ends when the batcher is closed and every entry has its result. Dropped before, it gives back the entries that were
/// not sent, and cancels the batches in flight by dropping the sink's futures.
#[must_use = "a batcher does nothing unless its driver is polled"]
pub struct Driver<T, R, S, F> {
    shared: Arc<Shared>,
    sink: S,
    queue: mpsc::UnboundedReceiver<Queued<T, R>>,
    /// The queue is closed and empty.
    ended: bool,
    collector: Collector<Queued<T, R>>,
    /// Complete, waiting for a place in flight.
    complete: VecDeque<Batch<Queued<T, R>>>,
    in_flight: FuturesUnordered<InFlight<T, R, F>>,
    bounds: Bounds,
    /// Goes off when what is collected is due.
    timer: Option<(u64, BoxFuture<'static, ()>)>,
}

// The sink is called, never pinned; its futures have a box of their own.
impl<T, R, S, F> Unpin for Driver<T, R, S, F> {}

impl<T, R, S, F> Driver<T, R, S, F>
where
    S: Fn(Batch<T>) -> F,
    F: Future<Output = Vec<R>>,
{
    pub(super) fn new(
        limits: Limits,
        bounds: Bounds,
        shared: Arc<Shared>,
        queue: mpsc::UnboundedReceiver<Queued<T, R>>,
        sink: S,
    ) -> Self {
        Self {
            shared,
            sink,
            queue,
            ended: false,
            collector: Collector::new(limits),
            complete: VecDeque::new(),
            in_flight: FuturesUnordered::new(),
            bounds,
            timer: None,
        }
    }

    /// Takes all that is queued. Each entry keeps its room until it has its result, so that this is bounded.
    fn collect(&mut self, cx: &mut Context<'_>) {
        while !self.ended {
            match self.queue.poll_recv(cx) {
                Poll::Ready(Some(queued)) => self.push(queued),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => return,
            }
        }
    }

    fn push(&mut self, queued: Queued<T, R>) {
        let (bytes, entered_ms) = (queued.bytes, queued.entered_ms);
        match self.collector.push(queued, bytes, entered_ms) {
            Ok(pushed) => self.complete.extend(pushed),
            Err(EntryTooLarge { entry: Queued { entry, reply, .. }, bytes, bytes_max }) => {
                reply.answer(Err(BatcherError::TooLarge(EntryTooLarge { entry, bytes, bytes_max })));
            }
        }
    }

    /// Completes what is collected if it should not wait for more.
    fn flush(&mut self) {
        if self.ended {
            self.complete.extend(self.collector.close());
        }
        if !self.can_send_more() {
            return;
        }
        let due = self.collector.flush_if_due(self.shared.clock.now_ms());
        self.complete.extend(due);
        if self.nothing_can_join() {
            self.complete.extend(self.collector.flush_idle());
        }
    }

    /// Whether a batch completed now would be sent now.
    fn can_send_more(&self) -> bool {
        self.complete.is_empty() && self.in_flight.len() < self.bounds.batches_in_flight_max.get()
    }

    fn nothing_can_join(&self) -> bool {
        let lingers = self.collector.due_at_ms().is_some();
        // Asked of the queue itself: that it was not ready may be the executor's budget.
        let idle = self.queue.is_empty() && self.in_flight.is_empty();
        let holds_all = self.collector.len() >= self.bounds.entries_max.get();
        holds_all || (idle && !lingers)
    }

    fn send(&mut self) {
        while self.in_flight.len() < self.bounds.batches_in_flight_max.get()
            && let Some(batch) = self.complete.pop_front()
        {
            let Batch { entries, bytes, reason } = batch;
            let (entries, replies): (Vec<T>, Vec<_>) =
                entries.into_iter().map(|queued| (queued.entry, queued.reply)).unzip();
            let future = contain(|| Box::pin((self.sink)(Batch { entries, bytes, reason })));
            self.in_flight.push(InFlight { future: future.ok(), replies });
        }
    }

    /// Hands out the results that are there. Says whether there were any.
    fn answer(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(Some((replies, results))) = self.in_flight.poll_next_unpin(cx) {
            any = true;
            answer_batch(replies, results);
        }
        any
    }

    /// Ready when it is time to look whether what is collected is due.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due_at_ms = self.collector.due_at_ms().filter(|_| self.can_send_more());
        let Some(due_at_ms) = due_at_ms else {
            self.timer = None;
            return Poll::Pending;
        };
        let set = self.timer.take().filter(|(at_ms, _)| *at_ms == due_at_ms);
        let (_, sleep) =
            self.timer.insert(set.unwrap_or_else(|| (due_at_ms, self.shared.clock.sleep_until(due_at_ms))));
        let fired = sleep.as_mut().poll(cx);
        if fired.is_ready() {
            // Should it have been a little early, it is set anew.
            self.timer = None;
        }
        fired
    }
}

impl<T, R, S, F> Future for Driver<T, R, S, F>
where
    S: Fn(Batch<T>) -> F,
    F: Future<Output = Vec<R>>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        // Registered before it looks, so that no close is missed in between.
        this.shared.driver.register(cx.waker());
        if this.shared.room.is_closed() {
            this.queue.close();
        }
        loop {
            this.collect(cx);
            this.flush();
            this.send();
            if this.answer(cx) || this.poll_timer(cx).is_ready() {
                continue;
            }
            let idle = this.collector.is_empty() && this.complete.is_empty() && this.in_flight.is_empty();
            return if this.ended && idle { Poll::Ready(()) } else { Poll::Pending };
        }
    }
}

impl<T, R, S, F> Drop for Driver<T, R, S, F> {
    fn drop(&mut self) {
        self.shared.room.close();
        self.queue.close();
        for batch in self.complete.drain(..).chain(self.collector.close()) {
            batch.entries.into_iter().for_each(Queued::refuse);
        }
        while let Ok(queued) = self.queue.try_recv() {
            queued.refuse();
        }
    }
}

impl<T, R, S, F> fmt::Debug for Driver<T, R, S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("collector", &self.collector)
            .field("complete", &self.complete)
            .field("in_flight", &self.in_flight.len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// A batch in the sink, its panics its own.
struct InFlight<T, R, F> {
    /// None once it ended, or where the sink panicked before there was one.
    future: Option<Pin<Box<F>>>,
    replies: Vec<Reply<T, R>>,
}

impl<T, R, F: Future<Output = Vec<R>>> Future for InFlight<T, R, F> {
    type Output = (Vec<Reply<T, R>>, Result<Vec<R>, Panicked>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let results = match &mut self.future {
            None => Err(Panicked),
            Some(future) => match contain(|| future.as_mut().poll(cx)) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(results)) => Ok(results),
                Err(Panicked) => Err(Panicked),
            },
        };
        // A panic of its destructor changes no result that is there.
        let _contained = drop_contained(self.future.take());
        Poll::Ready((std::mem::take(&mut self.replies), results))
    }
}

impl<T, R, F> Drop for InFlight<T, R, F> {
    // When the driver is dropped, so are all batches in flight: a panic in one must not skip the others.
    fn drop(&mut self) {
        let _contained = drop_contained(self.future.take());
    }
}

/// Gives each entry its result, or all of them the reason why there is none.
fn answer_batch<T, R>(replies: Vec<Reply<T, R>>, results: Result<Vec<R>, Panicked>) {
    let expected = replies.len();
    match results {
        Ok(results) if results.len() == expected => {
            for (reply, result) in replies.into_iter().zip(results) {
                reply.answer(Ok(result));
            }
        }
        Ok(results) => {
            let found = results.len();
            for reply in replies {
                reply.answer(Err(BatcherError::WrongCount { expected, found }));
            }
            for result in results {
                let _contained = drop_contained(result);
            }
        }
        Err(Panicked) => {
            for reply in replies {
                reply.answer(Err(BatcherError::SinkPanicked));
            }
        }
    }
}
