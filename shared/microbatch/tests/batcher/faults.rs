//! Sinks that answer wrongly or panic: the harm ends with their batch (P7).

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::future::join_all;
use microbatch::batcher::{Batch, Batcher, BatcherError};
use microbatch_testkit::clock::TokioClock;
use tokio::join;

use crate::support::{BoxFuture, Entry, bounds, entry, ids, limits, poll_once};

/// Sends four batches of two through the sink, the second of which it is asked to spoil.
async fn second_of_four<R, F>(sink: impl Fn(Batch<Entry>, bool) -> F) -> Vec<Result<R, BatcherError<Entry>>>
where
    F: Future<Output = Vec<R>> + Send,
{
    let sink = |batch: Batch<Entry>| {
        let spoil = batch.entries[0].id == 2;
        sink(batch, spoil)
    };
    let clock = Arc::new(TokioClock::default());
    let (batcher, driver) = Batcher::new(limits(2, 100, 0), bounds(100, 2), clock, Entry::size, sink);
    let work = async {
        let results = join_all((0..8).map(|id| batcher.submit(entry(id)))).await;
        batcher.close();
        results
    };
    join!(work, driver).0
}

fn assert_only_second<R: std::fmt::Debug>(
    results: Vec<Result<R, BatcherError<Entry>>>,
    is_expected: impl Fn(&BatcherError<Entry>) -> bool,
) {
    for (id, result) in results.into_iter().enumerate() {
        match result {
            Ok(_) => assert!(id / 2 != 1, "entry {id} has a result"),
            Err(error) => assert!(id / 2 == 1 && is_expected(&error), "entry {id}: {error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p7_a_wrong_number_of_results_fails_its_batch_only() {
    for found in [0, 1, 3] {
        let results =
            second_of_four(|batch, spoil| async move { if spoil { vec![9; found] } else { ids(&batch) } }).await;
        assert_only_second(
            results,
            |error| matches!(error, BatcherError::WrongCount { expected: 2, found: seen } if *seen == found),
        );
    }
}

#[tokio::test(start_paused = true)]
async fn p7_a_sink_that_panics_fails_its_batch_only() {
    let in_poll = |batch: Batch<Entry>, spoil: bool| async move {
        tokio::task::yield_now().await;
        assert!(!spoil, "in poll");
        ids(&batch)
    };
    assert_only_second(second_of_four(in_poll).await, |error| matches!(error, BatcherError::SinkPanicked));

    let in_call = |batch: Batch<Entry>, spoil: bool| {
        assert!(!spoil, "in call");
        std::future::ready(ids(&batch))
    };
    assert_only_second(second_of_four(in_call).await, |error| matches!(error, BatcherError::SinkPanicked));
}

/// A sink's future whose destructor panics.
struct PanicsInDrop {
    future: BoxFuture<Vec<usize>>,
    panics: bool,
}

impl Future for PanicsInDrop {
    type Output = Vec<usize>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Vec<usize>> {
        self.future.as_mut().poll(cx)
    }
}

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        assert!(!self.panics, "in drop");
    }
}

#[tokio::test(start_paused = true)]
async fn p7_a_panic_of_the_futures_destructor_changes_no_result() {
    let sink = |batch: Batch<Entry>, panics| PanicsInDrop { future: Box::pin(std::future::ready(ids(&batch))), panics };
    let results = second_of_four(sink).await;
    assert_eq!(results.into_iter().map(|result| result.expect("sent")).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test(start_paused = true)]
async fn p7_a_driver_dropped_over_panicking_batches_drops_them_all() {
    let sink = |_| PanicsInDrop { future: Box::pin(std::future::pending()), panics: true };
    let clock = Arc::new(TokioClock::default());
    let (batcher, mut driver) = Batcher::new(limits(1, 100, 0), bounds(100, 3), clock, Entry::size, sink);
    let receipts = join_all((0..3).map(|id| batcher.enqueue(entry(id)))).await;
    assert!(poll_once(&mut driver).is_pending());
    drop(driver);
    for receipt in receipts {
        assert!(matches!(receipt.expect("room").await, Err(BatcherError::Abandoned)));
    }
}

/// A result that nobody wants, and whose destructor panics.
struct Thorn(Arc<AtomicUsize>);

impl Drop for Thorn {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("in drop");
    }
}

#[tokio::test(start_paused = true)]
async fn p7_unwanted_results_that_panic_in_drop_disturb_nobody() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let sink = |batch: Batch<Entry>| {
        // For ids from 10 on one result too many, so that all are dropped in the batcher.
        let extra = usize::from(batch.entries[0].id >= 10);
        let results: Vec<Thorn> = (0..batch.entries.len() + extra).map(|_| Thorn(Arc::clone(&dropped))).collect();
        std::future::ready(results)
    };
    let clock = Arc::new(TokioClock::default());
    let (batcher, driver) = Batcher::new(limits(2, 100, 0), bounds(100, 1), clock, Entry::size, sink);
    drop(join_all([0, 1].map(|id| batcher.enqueue(entry(id)))).await);
    let receipts = join_all([10, 11].map(|id| batcher.enqueue(entry(id)))).await;
    batcher.close();
    driver.await;
    assert_eq!(dropped.load(Ordering::SeqCst), 2 + 3);
    for receipt in receipts {
        let result = receipt.expect("room").await.map(std::mem::forget);
        assert!(matches!(result, Err(BatcherError::WrongCount { expected: 2, found: 3 })));
    }
}

#[test]
fn p13_errors_show_no_entry() {
    let errors = [
        BatcherError::Closed("canary"),
        BatcherError::WrongCount { expected: 2, found: 3 },
        BatcherError::SinkPanicked,
        BatcherError::Abandoned,
    ];
    for error in errors {
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("canary"), "{shown}");
    }
    let error = BatcherError::<()>::WrongCount { expected: 2, found: 3 }.to_string();
    assert!(error.starts_with("expected 2 results from the sink, found 3: "), "{error}");
}
