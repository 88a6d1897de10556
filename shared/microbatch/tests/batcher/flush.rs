//! When a batch goes, and why.

use futures_util::future::join_all;
use microbatch::batcher::{BatcherError, EntryTooLarge, FlushReason};
use tokio::{join, sync::Semaphore};

use crate::support::{Entry, bounds, entry, gated, limits};

#[tokio::test(start_paused = true)]
async fn full_batches_go_at_once_and_the_rest_exactly_when_it_is_due() {
    let (batcher, driver, log) = gated(limits(10, 100, 50), bounds(100, 9));
    log.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    let work = async {
        let results = join_all((0..25).map(|id| batcher.submit(entry(id)))).await;
        let ids: Vec<usize> = results.into_iter().map(|result| result.expect("sent")).collect();
        assert_eq!(ids, (0..25).collect::<Vec<_>>());
        assert_eq!(log.now_ms(), 50);
        batcher.close();
    };
    join!(work, driver);
    let seen: Vec<_> = log.seen().into_iter().map(|seen| (seen.ids.len(), seen.reason, seen.at_ms)).collect();
    assert_eq!(seen, [(10, FlushReason::Count, 0), (10, FlushReason::Count, 0), (5, FlushReason::Age, 50)]);
}

#[tokio::test(start_paused = true)]
async fn the_age_counts_from_the_first_entry() {
    let (batcher, driver, log) = gated(limits(10, 100, 50), bounds(100, 9));
    log.gate.add_permits(9);
    let work = async {
        let first = batcher.enqueue(entry(0)).await.expect("room");
        tokio::time::advance(std::time::Duration::from_millis(30)).await;
        let second = batcher.enqueue(entry(1)).await.expect("room");
        assert_eq!((first.await.expect("sent"), second.await.expect("sent")), (0, 1));
        assert_eq!(log.now_ms(), 50);
        batcher.close();
    };
    join!(work, driver);
    assert_eq!(log.reasons(), [(vec![0, 1], FlushReason::Age)]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_aged_also_while_another_is_in_flight() {
    let (batcher, driver, log) = gated(limits(2, 100, 50), bounds(100, 2));
    let work = async {
        let receipts = join_all((0..3).map(|id| batcher.enqueue(entry(id)))).await;
        tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        log.gate.add_permits(2);
        for receipt in receipts {
            receipt.expect("room").await.expect("sent");
        }
        batcher.close();
    };
    join!(driver, work);
    let seen: Vec<_> = log.seen().into_iter().map(|seen| (seen.ids, seen.reason, seen.at_ms, seen.others)).collect();
    assert_eq!(seen, [(vec![0, 1], FlushReason::Count, 0, 0), (vec![2], FlushReason::Age, 50, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_due_batch_without_a_place_in_flight_grows_until_there_is_one() {
    let (batcher, driver, log) = gated(limits(2, 100, 10), bounds(100, 1));
    let work = async {
        let receipts = join_all((0..3).map(|id| batcher.enqueue(entry(id)))).await;
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        assert_eq!(log.seen().len(), 1);
        let joined = batcher.enqueue(entry(3)).await.expect("room");
        log.gate.add_permits(2);
        for receipt in receipts {
            receipt.expect("room").await.expect("sent");
        }
        joined.await.expect("sent");
        batcher.close();
    };
    join!(driver, work);
    assert_eq!(log.reasons(), [(vec![0, 1], FlushReason::Count), (vec![2, 3], FlushReason::Count)]);
}

#[tokio::test(start_paused = true)]
async fn without_a_linger_an_entry_waits_for_the_batch_in_flight_only() {
    let (batcher, driver, log) = gated(limits(10, 100, 0), bounds(100, 9));
    let driver = tokio::spawn(driver);
    let first = batcher.enqueue(entry(0)).await.expect("room");
    // The driver is another task: this one goes on when the driver has nothing left to do.
    tokio::task::yield_now().await;
    assert_eq!(log.reasons(), [(vec![0], FlushReason::Idle)]);

    let others = join_all((1..4).map(|id| batcher.enqueue(entry(id)))).await;
    tokio::task::yield_now().await;
    assert_eq!(log.seen().len(), 1);

    log.gate.add_permits(2);
    assert_eq!(first.await.expect("sent"), 0);
    for receipt in others {
        receipt.expect("room").await.expect("sent");
    }
    assert_eq!(log.reasons()[1..], [(vec![1, 2, 3], FlushReason::Idle)]);
    assert_eq!(log.now_ms(), 0);
    batcher.close();
    driver.await.expect("ended");
}

#[tokio::test(start_paused = true)]
async fn a_long_queue_is_not_taken_for_an_empty_one() {
    // More entries than tokio lets a task take in one go.
    let (batcher, driver, log) = gated(limits(1_000, 1_000, 0), bounds(1_000, 9));
    log.gate.add_permits(9);
    let mut receipts = Vec::new();
    for id in 0..500 {
        receipts.push(batcher.enqueue(entry(id)).await.expect("room"));
    }
    let driver = tokio::spawn(driver);
    for (id, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(receipt.await.expect("sent"), id);
    }
    assert_eq!(log.reasons(), [((0..500).collect(), FlushReason::Idle)]);
    batcher.close();
    driver.await.expect("ended");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_holds_all_there_is_room_for_does_not_linger() {
    // Otherwise each three entries would take an hour.
    let (batcher, driver, log) = gated(limits(10, 100, 3_600_000), bounds(3, 1));
    log.gate.add_permits(9);
    let work = async {
        for result in join_all((0..6).map(|id| batcher.submit(entry(id)))).await {
            result.expect("sent");
        }
        assert_eq!(log.now_ms(), 0);
        batcher.close();
    };
    join!(work, driver);
    assert_eq!(log.reasons(), [(vec![0, 1, 2], FlushReason::Idle), (vec![3, 4, 5], FlushReason::Idle)]);
}

#[tokio::test(start_paused = true)]
async fn bytes_complete_a_batch_and_an_entry_above_them_comes_back() {
    let (batcher, driver, log) = gated(limits(10, 100, 0), bounds(100, 9));
    log.gate.add_permits(9);
    let sizes = [60, 101, 50, 50, 1];
    let work = async {
        let submits = sizes.iter().enumerate().map(|(id, bytes)| batcher.submit(Entry { id, bytes: *bytes }));
        let results = join_all(submits).await;
        batcher.close();
        results
    };
    let (mut results, ()) = join!(work, driver);
    let refused = results.remove(1).expect_err("too large");
    let given_back = Entry { id: 1, bytes: 101 };
    assert!(matches!(&refused, BatcherError::TooLarge(EntryTooLarge { bytes: 101, bytes_max: 100, .. })));
    assert_eq!(refused.into_entry(), Some(given_back));
    assert!(results.iter().all(Result::is_ok));
    let expected = [(vec![0], FlushReason::Bytes), (vec![2, 3], FlushReason::Bytes), (vec![4], FlushReason::Idle)];
    assert_eq!(log.reasons(), expected);
}
