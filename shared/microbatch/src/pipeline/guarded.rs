//! One piece of the user's work, an item or a sub-batch: polled in place, bounded in time, its panics its own.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::watch::Watch;
use crate::{
    clock::{BoxFuture, Clock},
    panics::{Panicked, contain, drop_contained},
};

/// How the work ended.
pub(super) enum Ended<T> {
    /// The processor returned.
    Returned(T),
    /// Its time was over; its future was dropped.
    TimedOut,
    /// It panicked; its future was dropped.
    Panicked,
}

/// Work that ended.
pub(super) struct Ran<T> {
    pub(super) index: usize,
    pub(super) ended: Ended<T>,
    /// When, in epoch milliseconds.
    pub(super) ended_ms: u64,
    /// The future's own destructor panicked.
    pub(super) panicked_in_drop: bool,
}

/// Polls a processor's future until it returns, panics, or its time is over. To cancel it is to drop it.
pub(super) struct Guarded<T> {
    /// Position of the item in its batch, of a sub-batch that of its first.
    index: usize,
    future: Option<BoxFuture<'static, T>>,
    ends_at_ms: u64,
    clock: Arc<dyn Clock>,
    /// The watch of the thread that polls it.
    watch: Option<Arc<Watch>>,
    /// Made when the future first waits: many never do.
    timer: Option<BoxFuture<'static, ()>>,
}

impl<T> Guarded<T> {
    pub(super) fn new(index: usize, future: BoxFuture<'static, T>, ends_at_ms: u64, clock: Arc<dyn Clock>) -> Self {
        Self { index, future: Some(future), ends_at_ms, clock, watch: None, timer: None }
    }

    pub(super) fn watched_by(mut self, watch: &Arc<Watch>) -> Self {
        self.watch = Some(Arc::clone(watch));
        self
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    fn end(&mut self, ended: Ended<T>) -> Poll<Ran<T>> {
        let ended_ms = self.clock.now_ms();
        let panicked_in_drop = drop_contained(self.future.take()).is_err();
        Poll::Ready(Ran { index: self.index, ended, ended_ms, panicked_in_drop })
    }
}

impl<T> Future for Guarded<T> {
    type Output = Ran<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(future) = &mut this.future else { return Poll::Pending };
        if let Some(watch) = &this.watch {
            let now_ms = this.clock.now_ms();
            if watch.is_turn_over(now_ms) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            watch.enter(this.index, now_ms);
        }
        let polled = contain(|| future.as_mut().poll(cx));
        if let Some(watch) = &this.watch {
            watch.leave();
        }
        match polled {
            Ok(Poll::Ready(produced)) => return this.end(Ended::Returned(produced)),
            Err(Panicked) => return this.end(Ended::Panicked),
            Ok(Poll::Pending) => {}
        }
        let timer = this.timer.get_or_insert_with(|| this.clock.sleep_until(this.ends_at_ms));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => this.end(Ended::TimedOut),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T> Drop for Guarded<T> {
    // When the whole run is dropped, the destructors of many items run one after the other: a panic in one must not skip
    // the others, or abort the process as a panic within a panic.
    fn drop(&mut self) {
        let _contained = drop_contained(self.future.take());
    }
}
