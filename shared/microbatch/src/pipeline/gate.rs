//! Limits of the process, shared by the invocations that run in it at once (P11).

use std::{
    num::NonZeroUsize,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::BoxFuture;

/// The two limits an item passes.
pub(super) struct Gates {
    /// Claimed and unfinished items, claims in flight included: the concurrency limit plus two chunks (rule 14).
    claims: Arc<Semaphore>,
    /// Items being processed.
    running: Arc<Semaphore>,
    /// How many claimed items an invocation may hold, by the first limit.
    pub(super) claims_max: usize,
}

impl Gates {
    pub(super) fn new(concurrency: NonZeroUsize, chunk_size: NonZeroUsize) -> Self {
        let claims_max = concurrency.get() + 2 * chunk_size.get();
        Self {
            claims: Arc::new(Semaphore::new(claims_max)),
            running: Arc::new(Semaphore::new(concurrency.get())),
            claims_max,
        }
    }

    pub(super) fn claims(&self) -> Gate {
        Gate::new(Arc::clone(&self.claims))
    }

    pub(super) fn running(&self) -> Gate {
        Gate::new(Arc::clone(&self.running))
    }
}

/// One invocation's way through a limit.
pub(super) struct Gate {
    semaphore: Arc<Semaphore>,
    /// Set while this invocation waits for another one to make room.
    waiting: Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
    granted: Option<OwnedSemaphorePermit>,
}

impl Gate {
    fn new(semaphore: Arc<Semaphore>) -> Self {
        Self { semaphore, waiting: None, granted: None }
    }

    /// A permit, or none: then the gate waits for one, and [`Gate::poll`] wakes when it is there.
    pub(super) fn try_pass(&mut self) -> Option<OwnedSemaphorePermit> {
        if let Some(permit) = self.granted.take() {
            return Some(permit);
        }
        if self.waiting.is_none() {
            if let Ok(permit) = Arc::clone(&self.semaphore).try_acquire_owned() {
                return Some(permit);
            }
            let semaphore = Arc::clone(&self.semaphore);
            self.waiting = Some(Box::pin(async move { semaphore.acquire_owned().await.ok() }));
        }
        None
    }

    /// Ready once after a permit came that [`Gate::try_pass`] had been waiting for.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(waiting) = &mut self.waiting else { return Poll::Pending };
        match waiting.as_mut().poll(cx) {
            Poll::Ready(permit) => {
                self.waiting = None;
                self.granted = permit;
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Stops waiting and gives back what came: nothing will pass for now.
    pub(super) fn close(&mut self) {
        self.waiting = None;
        self.granted = None;
    }
}
