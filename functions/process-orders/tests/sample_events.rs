//! Every sample event gives its expected response, without AWS and without a process of its own: the pipeline on a
//! memory store, the orders in memory.

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use microbatch::{
    MemoryStore, Pipeline,
    clock::{BoxFuture, Clock, Random},
    pipeline::{Host, RunError},
};
use microbatch_testkit::events::{Envelope, EventSpec, generate};
use process_orders::{
    order::Order,
    orders::{BookError, MemoryOrders, OrderBook, Put},
    process::{ProcessOrders, pipeline},
};
use serde_json::{Value, json};

struct WallClock;

impl Clock for WallClock {
    fn now_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        u64::try_from(since_epoch.as_millis()).expect("before the year 500 million")
    }

    fn sleep_until(&self, at_ms: u64) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(Duration::from_millis(at_ms.saturating_sub(self.now_ms()))))
    }
}

/// Not random at all, but never the same twice.
#[derive(Default)]
struct Counter(AtomicU64);

impl Random for Counter {
    fn next_u128(&self) -> u128 {
        u128::from(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Orders in memory that outlive the pipeline.
#[derive(Clone, Default)]
struct Orders(Arc<MemoryOrders>);

impl OrderBook for Orders {
    async fn contains(&self, order_id: &str) -> Result<bool, BookError> {
        self.0.contains(order_id).await
    }

    async fn put(&self, order: &Order) -> Result<Put, BookError> {
        self.0.put(order).await
    }
}

fn pipeline_on(orders: &Orders) -> Pipeline<ProcessOrders<Orders>, MemoryStore> {
    let host = Host {
        store: MemoryStore::new(),
        clock: Arc::new(WallClock),
        random: Arc::new(Counter::default()),
        recorder: Arc::new(()),
    };
    pipeline(orders.clone()).build(host).expect("the settings are right")
}

/// All `events/NAME.json` and their `NAME.response.json`.
fn samples() -> Vec<(PathBuf, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events");
    let mut samples: Vec<_> = fs::read_dir(folder)
        .expect("the events folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter(|path| !path.to_string_lossy().ends_with(".response.json"))
        .map(|path| (path.clone(), path.with_extension("response.json")))
        .collect();
    samples.sort();
    samples
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

async fn answer(pipeline: &Pipeline<ProcessOrders<Orders>, MemoryStore>, event: &str) -> Value {
    match pipeline.run(event, "batch", None).await {
        Ok(response) => {
            let failures: Vec<_> = response.failed_ids().iter().map(|id| json!({ "itemIdentifier": id })).collect();
            json!({ "batchItemFailures": failures })
        }
        Err(RunError::Event(error)) => {
            json!({ "errorType": error.name(), "errorMessage": error.to_string() })
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn every_sample_gives_its_response_and_again_when_it_is_sent_twice() {
    let orders = Orders::default();
    let pipeline = pipeline_on(&orders);
    let samples = samples();
    assert!(samples.len() >= 12, "found {}", samples.len());
    let mut written = Vec::new();
    for round in 1..=2 {
        for (event, response) in &samples {
            let expected: Value = serde_json::from_str(&read(response)).expect("a response is JSON");
            assert_eq!(answer(&pipeline, &read(event)).await, expected, "{} in round {round}", event.display());
        }
        written.push(orders.0.snapshot());
    }
    // Each file's orders less the failing ones: orders 5, duplicates 3, redelivery 4, undecodable 3, failures 3,
    // unknown-attributes 7, fair-queue 5, fifo 6, hostile-bodies 2.
    assert_eq!(written[0].len(), 38, "written: {:?}", written[0].keys());
    assert_eq!(written[0], written[1], "the second round has no effect");
}

#[tokio::test]
async fn a_message_without_an_id_fails_the_invocation_before_any_order_is_written() {
    let orders = Orders::default();
    let event = samples().into_iter().find(|(event, _)| event.ends_with("missing-message-id.json"));
    let (event, _) = event.expect("the sample is there");
    let answer = answer(&pipeline_on(&orders), &read(&event)).await;
    assert_eq!(answer["errorType"], "MissingMessageId");
    assert!(orders.0.snapshot().is_empty());
}

#[tokio::test]
async fn generated_events_of_full_size_are_all_processed() {
    for (records, envelope, fifo_groups) in
        [(5_000, Envelope::Real, None), (10_000, Envelope::Short, None), (10, Envelope::Real, NonZeroUsize::new(3))]
    {
        let spec = EventSpec {
            records: NonZeroUsize::new(records).expect("not zero"),
            envelope,
            body_bytes: 0,
            seed: 1,
            fifo_groups,
            first_order: 1,
        };
        let orders = Orders::default();
        let event = generate(&spec).expect("fits 6 MB");
        // An announced deadline far away: a debug build on a busy machine is slow, and this is no test of speed.
        let deadline_ms = Some(WallClock.now_ms() + 600_000);
        let response = pipeline_on(&orders).run(&event, "batch", deadline_ms).await.expect("an SQS event");
        assert!(response.failed_ids().is_empty(), "{} of {records} failed", response.failed_ids().len());
        assert_eq!(orders.0.snapshot().len(), records);
    }
}
