//! P11: what waits or is in flight stays within its limits; who finds no room waits.

use std::{
    sync::{Arc, Mutex, atomic::AtomicUsize, atomic::Ordering},
    task::Poll,
};

use futures_util::future::join_all;
use microbatch::batcher::{Batch, Batcher, FlushReason};
use microbatch_testkit::clock::TokioClock;
use tokio::join;

use crate::support::{bounds, entry, gated, limits, poll_once};

#[tokio::test(start_paused = true)]
async fn p11_no_more_entries_are_accepted_than_there_is_room_for() {
    let (batcher, mut driver, log) = gated(limits(2, 100, 0), bounds(5, 1));
    let mut enqueues: Vec<_> = (0..8).map(|id| Box::pin(batcher.enqueue(entry(id)))).collect();
    let mut receipts = Vec::new();
    for enqueue in enqueues.drain(..5) {
        receipts.push(enqueue.await.expect("room"));
    }
    // One batch is in flight, one complete, one entry in the queue: in all their stages they take room.
    assert!(poll_once(&mut driver).is_pending());
    assert!(enqueues.iter_mut().all(|enqueue| poll_once(enqueue).is_pending()));
    assert_eq!((log.seen().len(), log.in_flight()), (1, 1));

    // A batch ends: there is room for as many as it had, for those that waited longest.
    log.gate.add_permits(1);
    assert!(poll_once(&mut driver).is_pending());
    for (position, enqueue) in enqueues.iter_mut().enumerate() {
        match poll_once(enqueue) {
            Poll::Ready(receipt) => {
                assert!(position < 2);
                receipts.push(receipt.expect("room"));
            }
            Poll::Pending => assert_eq!(position, 2),
        }
    }
    drop(enqueues);
    log.gate.add_permits(9);
    batcher.close();
    driver.await;
    assert_eq!(join_all(receipts).await.len(), 7);
    let seen = log.seen();
    assert_eq!(
        seen.iter().map(|seen| seen.ids.clone()).collect::<Vec<_>>(),
        [vec![0, 1], vec![2, 3], vec![4, 5], vec![6]]
    );
}

#[tokio::test(start_paused = true)]
async fn p11_no_more_batches_are_in_flight_than_may_be() {
    let (batcher, mut driver, log) = gated(limits(2, 100, 0), bounds(100, 3));
    let receipts = join_all((0..20).map(|id| batcher.enqueue(entry(id)))).await;
    assert!(poll_once(&mut driver).is_pending());
    assert_eq!((log.seen().len(), log.in_flight()), (3, 3));
    for ended in 1..=7 {
        log.gate.add_permits(1);
        assert!(poll_once(&mut driver).is_pending());
        assert_eq!((log.seen().len(), log.in_flight()), (3 + ended, 3));
    }
    log.gate.add_permits(3);
    batcher.close();
    driver.await;
    for (id, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(receipt.expect("room").await.expect("sent"), id);
    }
    assert!(log.reasons().iter().all(|(_, reason)| *reason == FlushReason::Count));
}

#[tokio::test(start_paused = true)]
async fn many_more_submitters_than_room_all_get_their_own_result() {
    let (batcher, driver, log) = gated(limits(7, 50, 3), bounds(20, 2));
    log.gate.add_permits(10_000);
    let work = async {
        let results = join_all((0..5_000).map(|id| batcher.submit(entry(id)))).await;
        batcher.close();
        results
    };
    let (results, ()) = join!(work, driver);
    for (id, result) in results.into_iter().enumerate() {
        assert_eq!(result.expect("sent"), id);
    }
    let ids: Vec<usize> = log.seen().into_iter().flat_map(|seen| seen.ids).collect();
    assert_eq!(ids, (0..5_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submitters_on_other_threads_keep_the_bounds_and_their_own_order() {
    // Real threads, so that what is asleep must be woken. Each answer is ready at once.
    let (in_flight_max, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (seen_max, log) = (Arc::clone(&in_flight_max), Arc::clone(&sent));
    let sink = move |batch: Batch<(usize, usize)>| {
        seen_max.fetch_max(batch.entries.len(), Ordering::SeqCst);
        log.lock().expect("no panic").extend(batch.entries.iter().copied());
        async move {
            tokio::task::yield_now().await;
            batch.entries
        }
    };
    let clock = Arc::new(TokioClock::default());
    let (batcher, driver) = Batcher::new(limits(8, 100, 0), bounds(16, 2), clock, |_| 1, sink);
    let driver = tokio::spawn(driver);
    let submitters: Vec<_> = (0..4)
        .map(|task| {
            let batcher = batcher.clone();
            tokio::spawn(async move {
                for number in 0..500 {
                    let receipt = batcher.enqueue((task, number)).await.expect("room");
                    if number % 3 == 0 {
                        assert_eq!(receipt.await.expect("sent"), (task, number));
                    }
                }
            })
        })
        .collect();
    drop(batcher);
    for submitter in submitters {
        submitter.await.expect("submitted");
    }
    driver.await.expect("ended");
    let sent = sent.lock().expect("no panic");
    for task in 0..4 {
        let of_task: Vec<usize> = sent.iter().filter(|(of, _)| *of == task).map(|(_, number)| *number).collect();
        assert_eq!(of_task, (0..500).collect::<Vec<_>>());
    }
    assert!(in_flight_max.load(Ordering::SeqCst) <= 8);
}
