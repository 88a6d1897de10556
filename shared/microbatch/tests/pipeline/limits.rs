//! P11: what is in flight stays within its limits, also when several invocations run at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use microbatch::MemoryStore;
use microbatch_testkit::fault::{Fault, FaultStore, Operation};

use crate::support::{Bench, body};

#[tokio::test(start_paused = true)]
async fn the_limit_is_the_processs_not_the_invocations() {
    let bench = Arc::new(Bench::on(MemoryStore::new(), |options| options.concurrency = 4));
    let batch = |name: &str| {
        (0..30).map(|index| format!(r#"{{"id":"{name}{index}","act":"slow","ms":10}}"#)).collect::<Vec<_>>()
    };
    let (one, two, three) = (batch("a"), batch("b"), batch("c"));
    let send = |bodies: Vec<String>| {
        let bench = Arc::clone(&bench);
        async move { bench.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await.0 }
    };
    let (one, two, three) = tokio::join!(send(one), send(two), send(three));
    assert_eq!((one.len(), two.len(), three.len()), (0, 0, 0));
    assert_eq!(bench.seen.total(), 90);
    assert_eq!(bench.seen.at_once_max.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_claimed_than_the_limit_and_two_chunks() {
    // Rule 14. Every item hangs: what is claimed in the end is what was ever claimed.
    let claimed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&claimed);
    let store = FaultStore::new(MemoryStore::new(), move |point| {
        if point.operation == Operation::Claim {
            count.fetch_add(1, Ordering::SeqCst);
        }
        Fault::None
    });
    let bench = Bench::on(store, |options| {
        options.concurrency = 5;
        options.item_timeout_ms = 60_000;
    });
    let bodies: Vec<String> = (0..100).map(|index| body(&index.to_string(), "hang")).collect();
    let (reported, report) = bench.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(reported.len(), 100);
    assert_eq!(report.items.iter().filter(|item| item.attempt.is_some()).count(), 5 + 2);
    assert_eq!(claimed.load(Ordering::SeqCst), 5 + 2);
    assert_eq!(bench.seen.total(), 5);
}
