//! Where items are polled: within the invocation's own task, or spread over shards where there are several vCPUs.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::{
    FutureExt,
    stream::{FuturesUnordered, StreamExt},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
};

use super::{
    guarded::{Guarded, Ran},
    watch::{Watch, Watches},
};

/// The items being processed in one invocation.
pub(super) enum Workers<T> {
    InPlace(InPlace<T>),
    Shards(Shards<T>),
}

impl<T: Send + 'static> Workers<T> {
    pub(super) fn new(shards: NonZeroUsize, watches: &Watches, batch_id: &str) -> Self {
        if shards == NonZeroUsize::MIN {
            Workers::InPlace(InPlace::new(watches.open(batch_id)))
        } else {
            Workers::Shards(Shards::spawn(shards, watches, batch_id))
        }
    }

    pub(super) fn start(&mut self, item: Guarded<T>) {
        match self {
            Workers::InPlace(in_place) => in_place.started.push_back(item.watched_by(&in_place.watch)),
            Workers::Shards(shards) => shards.start(item),
        }
    }

    /// Lets items of this thread run until then, in epoch milliseconds. What is left over wakes the task at once.
    pub(super) fn begin_turn(&self, ends_ms: u64) {
        match self {
            Workers::InPlace(in_place) => in_place.watch.begin_turn(ends_ms),
            // Theirs are tasks of their own, beside others.
            Workers::Shards(_) => {}
        }
    }

    pub(super) fn poll_ran(&mut self, cx: &mut Context<'_>) -> Poll<Ran<T>> {
        match self {
            Workers::InPlace(in_place) => in_place.poll_ran(cx),
            Workers::Shards(shards) => shards.poll_ran(cx),
        }
    }

    /// Ends whatever still runs and waits until it has ended: no task outlives the invocation.
    pub(super) async fn stop(self) {
        match self {
            Workers::InPlace(in_place) => drop(in_place),
            Workers::Shards(mut shards) => shards.tasks.shutdown().await,
        }
    }
}

/// Items that are polled by the invocation's own task.
pub(super) struct InPlace<T> {
    /// Not polled yet.
    started: VecDeque<Guarded<T>>,
    waiting: FuturesUnordered<Guarded<T>>,
    watch: Arc<Watch>,
}

impl<T> InPlace<T> {
    fn new(watch: Arc<Watch>) -> Self {
        Self { started: VecDeque::new(), waiting: FuturesUnordered::new(), watch }
    }

    fn poll_ran(&mut self, cx: &mut Context<'_>) -> Poll<Ran<T>> {
        while let Some(mut item) = self.started.pop_front() {
            // Many items never wait: only those that do get a waker of their own, which takes an allocation.
            match item.poll_unpin(cx) {
                Poll::Ready(ran) => return Poll::Ready(ran),
                Poll::Pending => {
                    let is_turn_over = self.watch.is_turn_over(item.now_ms());
                    self.waiting.push(item);
                    if is_turn_over {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
            }
        }
        match self.waiting.poll_next_unpin(cx) {
            Poll::Ready(Some(ran)) => Poll::Ready(ran),
            // An empty set is asked again when something was started.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// One task a vCPU, each polling its share of the items in place. Dropping it aborts them.
pub(super) struct Shards<T> {
    tasks: JoinSet<()>,
    inputs: Vec<(UnboundedSender<Guarded<T>>, Arc<Watch>)>,
    results: UnboundedReceiver<Ran<T>>,
    next: usize,
}

impl<T: Send + 'static> Shards<T> {
    fn spawn(count: NonZeroUsize, watches: &Watches, batch_id: &str) -> Self {
        // Unbounded, but never longer than the concurrency limit: an item passes the gate before it is sent.
        let (result_sender, results) = unbounded_channel();
        let mut tasks = JoinSet::new();
        let inputs = (0..count.get())
            .map(|_| {
                let (sender, input) = unbounded_channel();
                tasks.spawn(work(input, result_sender.clone()));
                (sender, watches.open(batch_id))
            })
            .collect();
        Self { tasks, inputs, results, next: 0 }
    }

    fn start(&mut self, item: Guarded<T>) {
        let (input, watch) = &self.inputs[self.next % self.inputs.len()];
        self.next = self.next.wrapping_add(1);
        // A shard ends only when its input is closed, and its items' panics are contained.
        let _sent = input.send(item.watched_by(watch));
    }

    fn poll_ran(&mut self, cx: &mut Context<'_>) -> Poll<Ran<T>> {
        match ready!(self.results.poll_recv(cx)) {
            Some(ran) => Poll::Ready(ran),
            None => Poll::Pending,
        }
    }
}

async fn work<T>(mut input: UnboundedReceiver<Guarded<T>>, results: UnboundedSender<Ran<T>>) {
    let mut items = FuturesUnordered::new();
    let mut open = true;
    std::future::poll_fn(|cx| {
        while open {
            match input.poll_recv(cx) {
                Poll::Ready(Some(item)) => items.push(item),
                Poll::Ready(None) => open = false,
                Poll::Pending => break,
            }
        }
        while let Poll::Ready(Some(ran)) = items.poll_next_unpin(cx) {
            if results.send(ran).is_err() {
                return Poll::Ready(());
            }
        }
        if open || !items.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}
