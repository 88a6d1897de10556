//! What a batch reports of its times, its requests and its size.

use std::{num::NonZeroUsize, sync::Arc};

use microbatch::{
    BatchItem, BatchProcessor, BatchReport, BatchResult, InBatches, MemoryStore, NoWrites, Pipeline, Recorder,
    batcher::Limits,
    pipeline::{Host, RunError},
    telemetry::{CallKind, RefusedBatch},
};
use microbatch_testkit::clock::{SeededRandom, TokioClock};

use super::support::{Bench, Item, body, event, scripted};

fn slow(id: &str, ms: u64) -> String {
    format!(r#"{{"id":"{id}","act":"slow","ms":{ms}}}"#)
}

#[tokio::test(start_paused = true)]
async fn an_item_tells_when_it_was_claimed_called_and_done() {
    let bench = Bench::new();
    let (_, report) = bench.send(&[&slow("a", 40), &slow("a", 40), "no JSON", &body("b", "fail")]).await;
    let [slow, follower, undecodable, failed] = &report.items[..] else { panic!("four, found {report:?}") };
    let (started_ms, ended_ms) = (slow.started_ms.expect("it ran"), slow.ended_ms.expect("it ran"));
    assert_eq!((ended_ms - started_ms, slow.elapsed_ms), (40, Some(40)));
    assert_eq!(slow.claimed_ms, Some(started_ms), "the memory store takes no time");
    assert_eq!((follower.started_ms, follower.ended_ms), (None, None), "the processor ran for its leader");
    assert_eq!((undecodable.claimed_ms, undecodable.started_ms), (None, None));
    assert_eq!(failed.started_ms, failed.ended_ms);
    assert_eq!((report.elapsed_ms, report.concurrency_max, report.failed), (40, 2, None));
    let entries = |kind: CallKind| report.calls.iter().filter(|call| call.kind == kind).map(|call| call.entries).sum();
    let counted: [usize; 4] = [CallKind::Claim, CallKind::Complete, CallKind::Release, CallKind::Park].map(entries);
    assert_eq!(counted, [2, 1, 1, 0]);
    assert!(report.calls.iter().all(|call| call.errors == 0 && call.started_ms <= call.ended_ms));
}

#[tokio::test(start_paused = true)]
async fn p11_no_more_items_are_under_way_than_allowed() {
    let bench = Bench::on(MemoryStore::new(), |options| options.concurrency = 3);
    let bodies: Vec<String> = (0..20).map(|n| slow(&format!("k{n}"), 10)).collect();
    let (_, report) = bench.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(report.concurrency_max, 3);
}

#[tokio::test(start_paused = true)]
async fn p11_the_bytes_of_all_events_at_once_are_told_and_forgotten() {
    let bench = Bench::new();
    let (first, second) = (slow("a", 40), slow("b", 10));
    let bytes = event(&[&*first]).len();
    // The second comes while the first is held.
    let (first, second) = ([&*first], [&*second]);
    tokio::join!(bench.send(&first), bench.send(&second));
    let (_, third) = bench.send(&[&body("c", "succeed")]).await;
    let reports = bench.recorder.reports();
    assert_eq!((reports[0].bytes, reports[0].buffered_bytes), (bytes, 2 * bytes), "the second, which ended first");
    assert_eq!((reports[1].bytes, reports[1].buffered_bytes), (bytes, bytes));
    assert_eq!(third.buffered_bytes, third.bytes, "both are forgotten");
}

/// Panics when it is told.
struct Panicking;

impl Recorder for Panicking {
    fn record(&self, _report: &BatchReport<'_>) {
        panic!("the recorder panics");
    }

    fn record_refused(&self, _refused: &RefusedBatch<'_>) {
        panic!("the recorder panics");
    }
}

/// P7: what is told of a batch cannot change what becomes of it.
#[tokio::test(start_paused = true)]
async fn p7_a_recorder_that_panics_changes_no_response() {
    let host = Host {
        store: MemoryStore::new(),
        clock: Arc::new(TokioClock::default()),
        random: Arc::new(SeededRandom::new(1)),
        recorder: Arc::new(Panicking),
        queue: None,
    };
    let builder = Pipeline::builder(scripted()).key("id").options(|options| options.namespace = "test".into());
    let pipeline = builder.build(host).expect("valid");
    let response = pipeline.run(&event(&[&body("a", "succeed"), &body("b", "fail")]), "batch", None).await;
    assert_eq!(response.expect("it is decided").into_failed_ids(), ["m1"]);
    assert!(matches!(pipeline.run("no event", "batch", None).await, Err(RunError::Event(_))));
}

struct Slow;

impl BatchProcessor for Slow {
    type Item = Item;
    type Output = ();
    type Write = NoWrites;

    async fn process_batch(&self, batch: &[BatchItem<Item>]) -> BatchResult<(), NoWrites> {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        Ok(batch.iter().map(|_| Ok(().into())).collect())
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_of_a_sub_batch_starts_when_that_does() {
    let two = NonZeroUsize::new(2).expect("not 0");
    let limits = Limits { count_max: two, bytes_max: NonZeroUsize::MAX, linger_ms: 20 };
    let bench = Bench::of(Pipeline::builder(InBatches::new(Slow, limits)).key("id"), MemoryStore::new());
    let (_, report) = bench.send(&[&body("a", ""), &body("b", ""), &body("c", "")]).await;
    for item in &report.items {
        let (started_ms, ended_ms) = (item.started_ms.expect("it ran"), item.ended_ms.expect("it ran"));
        assert_eq!(ended_ms - started_ms, 10, "{item:?}");
    }
    assert_eq!(report.concurrency_max, 3, "items are counted, not sub-batches");
}
