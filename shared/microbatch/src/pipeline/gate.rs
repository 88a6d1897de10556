//! Limits of the process, shared by the invocations that run in it at once (P11).

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::BoxFuture;

/// The two limits an item passes.
pub(super) struct Gates {
    /// Claimed and unfinished items, claims in flight included: the concurrency limit plus two chunks (rule 14).
    claims: Arc<Room>,
    /// Items being processed.
    running: Arc<Room>,
    /// The two chunks.
    claims_ahead: usize,
    /// The most claimed items that an invocation may hold, by the first limit at its highest.
    pub(super) claims_max: usize,
}

impl Gates {
    pub(super) fn new(concurrency: NonZeroUsize, chunk_size: NonZeroUsize) -> Self {
        let claims_ahead = 2 * chunk_size.get();
        let claims_max = concurrency.get() + claims_ahead;
        Self {
            claims: Arc::new(Room::new(claims_max)),
            running: Arc::new(Room::new(concurrency.get())),
            claims_ahead,
            claims_max,
        }
    }

    pub(super) fn claims(&self) -> Gate {
        Gate::new(Arc::clone(&self.claims))
    }

    pub(super) fn running(&self) -> Gate {
        Gate::new(Arc::clone(&self.running))
    }

    /// Sets how many items may be processed at once. Those beyond that are under way end as they would.
    pub(super) fn resize(&self, concurrency: usize) {
        self.running.resize(concurrency);
        self.claims.resize(concurrency + self.claims_ahead);
    }
}

/// A number of permits that can change.
struct Room {
    semaphore: Arc<Semaphore>,
    /// How many there are to be.
    size: Mutex<usize>,
    /// How many of those given out are to be forgotten when they have come back.
    debt: AtomicUsize,
}

impl Room {
    fn new(size: usize) -> Self {
        Self { semaphore: Arc::new(Semaphore::new(size)), size: Mutex::new(size), debt: AtomicUsize::new(0) }
    }

    fn resize(&self, to: usize) {
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        if to > *size {
            let mut grow = to - *size;
            while grow > 0 && self.pay_debt() {
                grow -= 1;
            }
            self.semaphore.add_permits(grow);
        } else {
            let shrink = *size - to;
            let forgotten = self.semaphore.forget_permits(shrink);
            self.debt.fetch_add(shrink - forgotten, Ordering::AcqRel);
        }
        *size = to;
    }

    /// A permit, if there is one.
    fn try_take(&self) -> Option<Permit> {
        loop {
            let permit = Arc::clone(&self.semaphore).try_acquire_owned().ok()?;
            if let Some(permit) = self.admit(permit) {
                return Some(permit);
            }
        }
    }

    /// A permit, once there is one.
    async fn take(self: Arc<Self>) -> Option<Permit> {
        loop {
            let permit = Arc::clone(&self.semaphore).acquire_owned().await.ok()?;
            if let Some(permit) = self.admit(permit) {
                return Some(permit);
            }
        }
    }

    /// None: it is one of those that are owed, and is forgotten. Here, and not when it comes back, since the debt may have
    /// grown in between.
    fn admit(&self, permit: OwnedSemaphorePermit) -> Option<Permit> {
        if self.pay_debt() {
            permit.forget();
            return None;
        }
        Some(Permit { _permit: permit })
    }

    /// Takes one from the debt, if there is any.
    fn pay_debt(&self) -> bool {
        self.debt.load(Ordering::Acquire) > 0
            && self.debt.fetch_update(Ordering::AcqRel, Ordering::Acquire, |debt| debt.checked_sub(1)).is_ok()
    }
}

/// Room for one item; given back by dropping it.
pub(super) struct Permit {
    _permit: OwnedSemaphorePermit,
}

/// One invocation's way through a limit.
pub(super) struct Gate {
    room: Arc<Room>,
    /// Set while this invocation waits for another one to make room.
    waiting: Option<BoxFuture<'static, Option<Permit>>>,
    granted: Option<Permit>,
}

impl Gate {
    fn new(room: Arc<Room>) -> Self {
        Self { room, waiting: None, granted: None }
    }

    /// A permit, or none: then the gate waits for one, and [`Gate::poll`] wakes when it is there.
    pub(super) fn try_pass(&mut self) -> Option<Permit> {
        if let Some(permit) = self.granted.take() {
            return Some(permit);
        }
        if self.waiting.is_none() {
            if let Some(permit) = self.room.try_take() {
                return Some(permit);
            }
            self.waiting = Some(Box::pin(Arc::clone(&self.room).take()));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(gates: &Gates, count: usize) -> Vec<Permit> {
        (0..count).filter_map(|_| gates.running().try_pass()).collect()
    }

    #[test]
    fn p11_a_limit_that_shrank_holds_once_those_beyond_it_have_ended() {
        let gates = Gates::new(NonZeroUsize::new(4).expect("not 0"), NonZeroUsize::MIN);
        let mut permits = taken(&gates, 9);
        assert_eq!(permits.len(), 4);
        gates.resize(2);
        permits.truncate(2);
        assert!(taken(&gates, 1).is_empty(), "two of four have ended, and two is the limit");
        permits.truncate(1);
        assert_eq!(taken(&gates, 9).len(), 1);
        gates.resize(3);
        assert_eq!(taken(&gates, 9).len(), 2);
    }

    #[test]
    fn p11_a_permit_that_comes_back_while_the_limit_shrinks_is_given_to_nobody() {
        let gates = Gates::new(NonZeroUsize::new(2).expect("not 0"), NonZeroUsize::MIN);
        let permits = taken(&gates, 1);
        // Another thread has found the other one out, and owes it, when it comes back.
        gates.running.debt.fetch_add(1, Ordering::AcqRel);
        assert!(taken(&gates, 1).is_empty());
        drop(permits);
        assert_eq!(taken(&gates, 9).len(), 1);
    }

    #[test]
    fn a_limit_that_grows_again_owes_nothing() {
        let gates = Gates::new(NonZeroUsize::new(4).expect("not 0"), NonZeroUsize::MIN);
        let permits = taken(&gates, 4);
        gates.resize(1);
        gates.resize(4);
        drop(permits);
        assert_eq!(taken(&gates, 9).len(), 4);
    }
}
