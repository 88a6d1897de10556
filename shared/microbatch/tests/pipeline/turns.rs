//! Items that keep their thread leave the process's other tasks their turns: connections are among them where there is one thread.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use microbatch::{
    Clock, Done, ItemContext, MemoryStore, NoWrites, Pipeline, ProcessError, Processor, clock::BoxFuture,
    pipeline::Host,
};
use microbatch_testkit::clock::SeededRandom;
use tokio::task::yield_now;

use crate::support::{Item, body, event};

const ITEMS: usize = 20;
/// What an item takes of its thread's time before it ends, or waits.
const WORK_MS: u64 = 6;

/// Time goes on while an item works, and only then.
#[derive(Debug, Clone)]
struct WorkClock(Arc<AtomicU64>);

impl Clock for WorkClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn sleep_until(&self, _: u64) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

struct Busy {
    clock: WorkClock,
    turns: Arc<AtomicUsize>,
    /// How many turns the other task had had when each piece of work began.
    turns_before: Arc<Mutex<Vec<usize>>>,
    /// Each item waits, and goes on working.
    waits: bool,
}

impl Busy {
    fn work(&self) {
        self.turns_before.lock().expect("no panic").push(self.turns.load(Relaxed));
        self.clock.0.fetch_add(WORK_MS, Relaxed);
    }
}

impl Processor for Busy {
    type Item = Item;
    type Output = ();
    type Write = NoWrites;

    async fn process(&self, _: Item, _: &ItemContext) -> Result<Done<()>, ProcessError> {
        self.work();
        if self.waits {
            yield_now().await;
            self.work();
        }
        Ok(().into())
    }
}

#[tokio::test]
async fn items_that_keep_the_thread_let_others_in_between() {
    assert_others_get_turns(false, ITEMS).await;
}

#[tokio::test]
async fn items_that_keep_the_thread_and_then_wait_let_others_in_between() {
    assert_others_get_turns(true, 2 * ITEMS).await;
}

async fn assert_others_get_turns(waits: bool, works: usize) {
    let clock = WorkClock(Arc::new(AtomicU64::new(1_767_225_600_000)));
    let turns = Arc::new(AtomicUsize::new(0));
    let turns_before = Arc::new(Mutex::new(Vec::new()));
    let busy = Busy { clock: clock.clone(), turns: Arc::clone(&turns), turns_before: Arc::clone(&turns_before), waits };
    let host = Host {
        queue: None,
        // All are claimed at once, and ready at once.
        store: MemoryStore::with_chunk_size(ITEMS.try_into().expect("not zero")),
        clock: Arc::new(clock),
        random: Arc::new(SeededRandom::new(1)),
        recorder: Arc::new(()),
    };
    let builder = Pipeline::builder(busy).key("id").options(|options| options.namespace = "test".into());
    let pipeline = builder.build(host).expect("valid settings");
    let other = tokio::spawn(async move {
        loop {
            turns.fetch_add(1, Relaxed);
            yield_now().await;
        }
    });
    let bodies: Vec<_> = (0..ITEMS).map(|index| body(&index.to_string(), "")).collect();
    let bodies: Vec<_> = bodies.iter().map(String::as_str).collect();
    let response = pipeline.run(&event(&bodies), "batch", None).await.expect("an event");
    other.abort();
    assert!(response.failed_ids().is_empty());
    let turns_before = turns_before.lock().expect("no panic");
    assert_eq!(turns_before.len(), works);
    // Ten milliseconds are two pieces of work.
    for run in turns_before.windows(3) {
        assert!(run[0] < run[2], "three without a turn for others: {turns_before:?}");
    }
}
