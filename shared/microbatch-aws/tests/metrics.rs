//! What a batch writes of metrics: each outcome counted, the format's rules kept, nothing of the messages told.

use std::{
    io,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use microbatch::{
    Commit, MemoryStore, NoWrites, Pipeline, Recorder, pipeline::Host, store::StoreErrorKind, telemetry::RefusedBatch,
};
use microbatch_aws::metrics::{METRICS, MetricsRecorder, MetricsSettings};
use microbatch_testkit::{
    clock::{SeededRandom, TokioClock},
    emf::EmfLine,
    fault::{Fault, FaultPoint, FaultStore},
    scripted::Scripted,
};
use serde_json::json;

const ARN: &str = "arn:aws:sqs:eu-west-1:123456789012:orders";

/// Standard output, kept.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    fn lines(&self) -> Vec<EmfLine> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8(bytes).expect("JSON is UTF-8");
        assert!(text.is_empty() || text.ends_with('\n'), "each line ends");
        text.lines().map(|line| EmfLine::read(line).unwrap_or_else(|rule| panic!("{rule}: {line}"))).collect()
    }
}

fn settings() -> MetricsSettings {
    MetricsSettings {
        namespace: "microbatch".into(),
        function: "orders".into(),
        version: "7".into(),
        level: "WARN".into(),
    }
}

struct Bench<S> {
    pipeline: Pipeline<Scripted, S>,
    output: Output,
}

impl Bench<MemoryStore> {
    fn new() -> Self {
        Self::on(MemoryStore::new())
    }
}

impl<S: Commit<NoWrites>> Bench<S> {
    fn on(store: S) -> Self {
        let output = Output::default();
        let host = Host {
            store,
            clock: Arc::new(TokioClock::default()),
            random: Arc::new(SeededRandom::new(1)),
            recorder: Arc::new(MetricsRecorder::to(settings(), output.clone())),
            queue: None,
        };
        let builder = Pipeline::builder(Scripted::by("id").as_told()).key("id").fingerprint_body();
        let pipeline = builder.options(|options| options.namespace = "test".into()).build(host).expect("valid");
        Self { pipeline, output }
    }

    async fn send(&self, arn: &str, bodies: &[&str]) {
        let records = bodies.iter().enumerate().map(|(n, body)| {
            let attributes = json!({"ApproximateReceiveCount": "1", "SentTimestamp": "1767225599000"});
            json!({"messageId": format!("m{n}"), "body": body, "attributes": attributes, "eventSourceARN": arn})
        });
        let event = json!({"Records": records.collect::<Vec<_>>()}).to_string();
        // Whether it errs as a whole is the metrics' to tell.
        let _finished = self.pipeline.run(&event, "batch-1", None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_one_line_with_each_outcome_counted() {
    let bench = Bench::new();
    let slow = r#"{"id":"a","act":"slow","ms":40}"#;
    let bodies = [
        slow,
        slow,
        r#"{"id":"a","act":"succeed"}"#,
        r#"{"id":"b","act":"fail"}"#,
        r#"{"id":"c","act":"permanent"}"#,
        "no JSON",
    ];
    bench.send(ARN, &bodies).await;
    let lines = bench.output.lines();
    let [line] = &lines[..] else { panic!("one line, found {}", lines.len()) };
    assert_eq!(line.namespace, "microbatch");
    let dimensions: Vec<_> = line.dimensions.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(dimensions, [("function", "orders"), ("queue", "orders")]);
    for (metric, sum) in [
        ("BatchSize", 6.0),
        ("Items", 6.0),
        ("ItemsProcessed", 1.0),
        ("Duplicates", 1.0),
        ("ItemsConflict", 1.0),
        ("ItemsFailed", 1.0),
        ("ItemsRejected", 2.0),
        ("ItemsBusy", 0.0),
        ("PartialFailures", 1.0),
        ("BatchFailures", 0.0),
        ("ColdStart", 1.0),
        ("Concurrency", 3.0),
        ("ConcurrencyLimit", 64.0),
        ("BatchLatency", 40.0),
        ("BreakerOpen", 0.0),
    ] {
        assert!((line.sum(metric) - sum).abs() < 1e-9, "{metric}: expected {sum}, found {}", line.sum(metric));
    }
    assert_eq!(line.count("ItemAge"), 6);
    // One that cannot be decoded is never claimed, and one that equals one before it is not either.
    assert_eq!(line.count("ItemLatency"), 3);
    assert!(line.count("ClaimLatency") >= 1 && line.count("CompletionLatency") >= 1);
    assert_eq!(line.metrics["BatchBytes"], line.metrics["BufferedBytes"], "one event at a time");
    assert_eq!((&line.root["level"], &line.root["batch_id"]), (&json!("WARN"), &json!("batch-1")));
    assert_eq!(line.root["timestamp"], "2026-01-01T00:00:00Z", "when it was received");
}

#[tokio::test(start_paused = true)]
async fn every_metric_is_in_the_catalogue_and_the_other_way_round() {
    let bench = Bench::new();
    bench.send(ARN, &[r#"{"id":"a","act":"succeed"}"#]).await;
    let line = bench.output.lines().pop().expect("a line");
    let emitted: Vec<(&str, &str)> =
        line.metrics.iter().map(|(name, (unit, _))| (name.as_str(), unit.as_str())).collect();
    let mut listed: Vec<(&str, &str)> = METRICS.iter().map(|metric| (metric.name, metric.unit.name())).collect();
    listed.sort_unstable();
    assert_eq!(emitted, listed);
}

#[tokio::test(start_paused = true)]
async fn only_the_first_batch_is_a_cold_start_and_one_that_did_nothing_has_failed() {
    let bench = Bench::new();
    bench.send(ARN, &[r#"{"id":"a","act":"succeed"}"#]).await;
    bench.send(ARN, &[r#"{"id":"b","act":"fail"}"#]).await;
    let lines = bench.output.lines();
    let of = |metric: &str| lines.iter().map(|line| line.sum(metric)).collect::<Vec<_>>();
    assert_eq!(of("ColdStart"), [1.0, 0.0]);
    assert_eq!(of("BatchFailures"), [0.0, 1.0]);
    assert_eq!(of("PartialFailures"), [0.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_event_is_a_batch_that_failed() {
    let bench = Bench::new();
    assert!(bench.pipeline.run("no event", "batch-1", None).await.is_err());
    let line = bench.output.lines().pop().expect("a line");
    assert_eq!((line.sum("BatchFailures"), line.count("Items"), line.sum("BatchBytes")), (1.0, 0, 8.0));
    assert_eq!(line.dimensions["queue"], "unknown");
}

/// A share of requests: what is counted above is what is counted below.
#[tokio::test(start_paused = true)]
async fn errors_of_the_store_are_counted_by_request_as_its_latencies_are() {
    let chunk_size = NonZeroUsize::new(25).expect("not 0");
    let store = FaultStore::new(MemoryStore::with_chunk_size(chunk_size), |point: &FaultPoint<'_>| {
        if point.nth < 30 { Fault::Before(StoreErrorKind::Throttled) } else { Fault::None }
    });
    let bench = Bench::on(store);
    let bodies: Vec<String> = (0..30).map(|n| format!(r#"{{"id":"k{n}"}}"#)).collect();
    bench.send(ARN, &bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let line = bench.output.lines().pop().expect("a line");
    assert_eq!(
        (line.sum("ItemsProcessed"), line.sum("StoreErrors")),
        (30.0, 2.0),
        "25 keys in one request, 5 in the other"
    );
    assert_eq!(line.count("ClaimLatency"), 2 + 30, "each key is tried again by itself");
}

/// P13, and a bill that does not grow: a name is a queue's, and there are few.
#[tokio::test(start_paused = true)]
async fn p13_queues_are_bounded_in_number_and_form() {
    let bench = Bench::new();
    for n in 0..12 {
        bench.send(&format!("arn:aws:sqs:eu-west-1:123456789012:q{n}"), &[r#"{"id":"a"}"#]).await;
    }
    bench.send("arn:aws:sqs:eu-west-1:123456789012:not a queue", &[r#"{"id":"a"}"#]).await;
    bench.send("orders.fifo", &[r#"{"id":"a"}"#]).await;
    assert!(bench.pipeline.run("no event", "batch", None).await.is_err());
    let queues: Vec<String> = bench.output.lines().iter().map(|line| line.dimensions["queue"].clone()).collect();
    assert_eq!(queues[..2], ["q0", "q1"]);
    assert_eq!(queues[8..], ["other", "other", "other", "other", "unknown", "unknown", "unknown"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_does_not_say_its_queue_counts_as_the_others() {
    let bench = Bench::new();
    bench.send(ARN, &[r#"{"id":"a"}"#]).await;
    assert!(bench.pipeline.run("no event", "batch", None).await.is_err());
    let queues: Vec<String> = bench.output.lines().iter().map(|line| line.dimensions["queue"].clone()).collect();
    assert_eq!(queues, ["orders", "orders"]);
}

#[test]
fn a_batch_that_panicked_is_counted_too() {
    let output = Output::default();
    let recorder = MetricsRecorder::to(settings(), output.clone());
    let refused =
        RefusedBatch { batch_id: "b", trace: None, error: "Panicked", received_ms: 1_000, elapsed_ms: 5, bytes: 2 };
    recorder.record_refused(&refused);
    let line = output.lines().pop().expect("a line");
    assert_eq!((line.sum("BatchFailures"), line.timestamp_ms), (1.0, 1_000));
}
