//! How a batcher ends: by close, by its last handle, by its driver.

use std::task::Poll;

use futures_util::future::join_all;
use microbatch::batcher::{BatcherError, FlushReason};

use crate::support::{bounds, entry, gated, limits, poll_once};

#[tokio::test(start_paused = true)]
async fn close_sends_what_was_accepted_and_gives_back_the_rest() {
    let (batcher, mut driver, log) = gated(limits(3, 100, 1_000), bounds(4, 1));
    let receipts = join_all((0..4).map(|id| batcher.enqueue(entry(id)))).await;
    let mut waiting = Box::pin(batcher.submit(entry(4)));
    assert!(poll_once(&mut waiting).is_pending());
    assert!(poll_once(&mut driver).is_pending());

    batcher.close();
    let Poll::Ready(Err(refused)) = poll_once(&mut waiting) else { panic!("it still waits") };
    assert!(matches!(refused, BatcherError::Closed(_)));
    assert_eq!(refused.into_entry(), Some(entry(4)));
    let late = batcher.clone().submit(entry(5)).await.expect_err("closed");
    assert_eq!(late.into_entry(), Some(entry(5)));

    // Drained, not dropped: it goes on until the last result is there.
    assert!(poll_once(&mut driver).is_pending());
    log.gate.add_permits(2);
    assert!(poll_once(&mut driver).is_ready());
    assert!(poll_once(&mut driver).is_ready());
    for (id, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(receipt.expect("room").await.expect("sent"), id);
    }
    assert_eq!(log.reasons(), [(vec![0, 1, 2], FlushReason::Count), (vec![3], FlushReason::Close)]);
    assert_eq!(log.now_ms(), 0);
}

#[tokio::test(start_paused = true)]
async fn close_wakes_a_driver_that_waits() {
    let (batcher, driver, log) = gated(limits(3, 100, 0), bounds(4, 1));
    let driver = tokio::spawn(driver);
    tokio::task::yield_now().await;
    batcher.close();
    driver.await.expect("ended");
    assert_eq!(log.reasons(), []);
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes() {
    let (batcher, driver, log) = gated(limits(3, 100, 1_000), bounds(4, 1));
    log.gate.add_permits(1);
    let driver = tokio::spawn(driver);
    let other = batcher.clone();
    let receipt = batcher.enqueue(entry(0)).await.expect("room");
    drop(batcher);
    tokio::task::yield_now().await;
    assert!(!driver.is_finished());
    drop(other);
    assert_eq!(receipt.await.expect("sent"), 0);
    driver.await.expect("ended");
    assert_eq!(log.reasons(), [(vec![0], FlushReason::Close)]);
    assert_eq!(log.now_ms(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_driver_gives_back_what_it_did_not_send() {
    // In flight, complete, collected after it, in the queue, without room.
    let (batcher, mut driver, log) = gated(limits(2, 100, 1_000), bounds(6, 1));
    let mut receipts = Vec::new();
    for id in 0..5 {
        receipts.push(batcher.enqueue(entry(id)).await.expect("room"));
    }
    assert!(poll_once(&mut driver).is_pending());
    receipts.push(batcher.enqueue(entry(5)).await.expect("room"));
    let mut waiting = Box::pin(batcher.submit(entry(6)));
    assert!(poll_once(&mut waiting).is_pending());
    assert_eq!(log.in_flight(), 1);

    drop(driver);
    assert_eq!(log.in_flight(), 0);
    for (id, receipt) in receipts.into_iter().enumerate() {
        match receipt.await.expect_err("not sent") {
            BatcherError::Abandoned => assert!(id < 2, "entry {id}"),
            other => assert_eq!(other.into_entry(), Some(entry(id))),
        }
    }
    assert_eq!(waiting.await.expect_err("closed").into_entry(), Some(entry(6)));
    assert_eq!(batcher.submit(entry(7)).await.expect_err("closed").into_entry(), Some(entry(7)));
    assert_eq!(log.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_submitter_disturbs_nobody_and_loses_no_room() {
    let (batcher, mut driver, log) = gated(limits(2, 100, 0), bounds(3, 1));
    let mut submits: Vec<_> = (0..6).map(|id| Some(Box::pin(batcher.submit(entry(id))))).collect();
    for submit in submits.iter_mut().flatten() {
        assert!(poll_once(submit).is_pending());
    }
    assert!(poll_once(&mut driver).is_pending());
    // One in flight, one collected, one that waits for room.
    for cancelled in [0, 2, 3] {
        submits[cancelled] = None;
    }
    assert!(poll_once(&mut driver).is_pending());
    // Their room is not given away before its time.
    let mut probe = Box::pin(batcher.submit(entry(6)));
    assert!(poll_once(&mut probe).is_pending());
    assert_eq!(log.seen().len(), 1);

    log.gate.add_permits(9);
    let work = async {
        let results = join_all(submits.into_iter().flatten()).await;
        probe.await.expect("sent");
        // All the room is there again.
        let receipts = join_all((7..10).map(|id| batcher.enqueue(entry(id)))).await;
        batcher.close();
        join_all(receipts.into_iter().map(|receipt| receipt.expect("room"))).await;
        results
    };
    let (results, ()) = tokio::join!(work, &mut driver);
    assert_eq!(results.into_iter().map(|result| result.expect("sent")).collect::<Vec<_>>(), [1, 4, 5]);
    // What was accepted was sent, and what was taken back was not.
    let ids: Vec<usize> = log.seen().into_iter().flat_map(|seen| seen.ids).collect();
    assert_eq!(ids, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn room_that_was_given_to_a_cancelled_submitter_goes_to_the_next() {
    let (batcher, mut driver, log) = gated(limits(1, 100, 0), bounds(1, 1));
    log.gate.add_permits(9);
    let first = batcher.enqueue(entry(0)).await.expect("room");
    let mut given = Box::pin(batcher.submit(entry(1)));
    let mut next = Box::pin(batcher.submit(entry(2)));
    assert!(poll_once(&mut given).is_pending());
    assert!(poll_once(&mut next).is_pending());
    assert!(poll_once(&mut driver).is_pending());
    assert_eq!(first.await.expect("sent"), 0);
    // The room is its own already, and it never looks.
    drop(given);
    let (result, ()) = tokio::join!(
        async {
            let result = next.await;
            batcher.close();
            result
        },
        driver
    );
    assert_eq!(result.expect("sent"), 2);
    assert_eq!(log.seen().len(), 2);
}
