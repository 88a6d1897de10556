//! Spans of batches: which are made, whose children they are, and that an export is bounded in time.

use std::{
    collections::BTreeSet,
    future::pending,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use microbatch::{Clock, Invocation, MemoryStore, Pipeline, pipeline::Host};
use microbatch_aws::traces::{BatchTrace, TraceRecorder, TraceSettings, TracedBatches, Tracer};
use microbatch_testkit::{
    clock::{SeededRandom, TokioClock},
    scripted::Scripted,
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};
use proptest::prelude::*;
use serde_json::json;

/// Keeps what is exported, or never answers.
#[derive(Debug, Clone, Default)]
struct Exporter {
    spans: Arc<Mutex<Vec<SpanData>>>,
    requests: Arc<AtomicUsize>,
    hangs: bool,
    panics: bool,
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.requests.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panics, "the exporter panics");
        if self.hangs {
            pending::<()>().await;
        }
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).extend(batch);
        Ok(())
    }
}

impl Exporter {
    fn spans(&self) -> Vec<SpanData> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

const SETTINGS: TraceSettings = TraceSettings { which: TracedBatches::Sampled, items_max: 100, flush_ms: 300 };

struct Bench {
    pipeline: Pipeline<Scripted, MemoryStore>,
    tracer: Arc<Tracer<Exporter>>,
    exporter: Exporter,
    clock: TokioClock,
    /// By when an export is over.
    deadline_ms: u64,
}

impl Bench {
    fn new(settings: TraceSettings, exporter: Exporter) -> Self {
        let tracer = Arc::new(Tracer::new(settings, exporter.clone(), "orders".into()));
        let clock = TokioClock::default();
        let host = Host {
            store: MemoryStore::new(),
            clock: Arc::new(clock),
            random: Arc::new(SeededRandom::new(1)),
            recorder: Arc::new(TraceRecorder(Arc::clone(&tracer))),
            queue: None,
        };
        let builder = Pipeline::builder(Scripted::by("id").as_told()).key("id");
        let pipeline = builder.options(|options| options.namespace = "test".into()).build(host).expect("valid");
        Self { pipeline, tracer, exporter, clock, deadline_ms: u64::MAX }
    }

    async fn send(&self, header: Option<&str>, acts: &[&str]) -> Option<BatchTrace> {
        let records = acts.iter().enumerate().map(|(n, act)| {
            json!({"messageId": format!("m{n}"), "body": json!({"id": format!("k{n}"), "act": act}).to_string()})
        });
        let event = json!({"Records": records.collect::<Vec<_>>()}).to_string();
        let trace = self.tracer.begin(header, &SeededRandom::new(7));
        let invocation =
            Invocation { event: &event, batch_id: "batch-1", deadline_ms: None, trace: trace.map(|trace| trace.own) };
        // Whether it errs as a whole is not asked here.
        let _finished = self.pipeline.invoke(invocation).await;
        if let Some(trace) = &trace {
            self.tracer.flush(trace, self.deadline_ms, self.clock.now_ms()).await;
        }
        trace
    }
}

const SAMPLED: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";

#[tokio::test(start_paused = true)]
async fn a_batch_is_the_child_of_its_invocation_and_the_parent_of_the_rest() {
    let bench = Bench::new(SETTINGS, Exporter::default());
    let trace = bench.send(Some(SAMPLED), &["succeed", "fail"]).await.expect("it is sampled");
    let spans = bench.exporter.spans();
    let (batch, children) = spans.split_first().expect("there are spans");
    assert_eq!(batch.parent_span_id.to_string(), "53995c3f42cd8ad8");
    assert_eq!(batch.span_context.trace_id().to_string(), "5759e988bd862e3fe1be46a994272793");
    assert_eq!(batch.span_context.span_id().to_string(), format!("{:016x}", trace.own.span_id));
    assert!(children.iter().all(|span| span.parent_span_id == batch.span_context.span_id()));
}

#[tokio::test(start_paused = true)]
async fn what_is_traced_follows_the_invocation_or_the_setting() {
    let unsampled = SAMPLED.replace("Sampled=1", "Sampled=0");
    let all = TraceSettings { which: TracedBatches::All, ..SETTINGS };
    for (settings, header, traced) in [
        (SETTINGS, Some(SAMPLED), true),
        (SETTINGS, Some(&*unsampled), false),
        (SETTINGS, None, true),
        (SETTINGS, Some("no header"), true),
        (SETTINGS, Some("Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0"), false),
        (all, Some(&*unsampled), true),
    ] {
        let bench = Bench::new(settings, Exporter::default());
        let trace = bench.send(header, &["succeed"]).await;
        assert_eq!((trace.is_some(), !bench.exporter.spans().is_empty()), (traced, traced), "{settings:?} {header:?}");
    }
}

/// P10: the export takes its time and no more, once: then batches go without for a while. Their spans do not pile up.
#[tokio::test(start_paused = true)]
async fn p10_an_export_that_hangs_ends_when_its_time_is_over() {
    let bench = Bench::new(SETTINGS, Exporter { hangs: true, ..Exporter::default() });
    let mut took_ms = Vec::new();
    for _ in 0..3 {
        let started_ms = bench.clock.now_ms();
        bench.send(Some(SAMPLED), &["succeed"]).await;
        took_ms.push(bench.clock.now_ms() - started_ms);
    }
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    let started_ms = bench.clock.now_ms();
    bench.send(Some(SAMPLED), &["succeed"]).await;
    took_ms.push(bench.clock.now_ms() - started_ms);
    assert_eq!(took_ms, [300, 0, 0, 300]);
    assert_eq!(bench.exporter.requests.load(Ordering::Relaxed), 2);
}

/// P10: a batch that was late leaves no time for its spans.
#[tokio::test(start_paused = true)]
async fn p10_an_export_ends_before_the_deadline() {
    let hanging = Exporter { hangs: true, ..Exporter::default() };
    let mut bench = Bench::new(SETTINGS, hanging);
    bench.deadline_ms = bench.clock.now_ms() + 120;
    let started_ms = bench.clock.now_ms();
    bench.send(Some(SAMPLED), &["succeed"]).await;
    assert_eq!(bench.clock.now_ms() - started_ms, 120);
    bench.send(Some(SAMPLED), &["succeed"]).await;
    assert_eq!(bench.clock.now_ms() - started_ms, 120, "nothing is left of it");
}

/// P7: what tells of a batch cannot change what becomes of it.
#[tokio::test(start_paused = true)]
async fn p7_an_exporter_that_panics_is_an_export_that_failed() {
    let bench = Bench::new(SETTINGS, Exporter { panics: true, ..Exporter::default() });
    assert!(bench.send(Some(SAMPLED), &["succeed"]).await.is_some());
    assert_eq!(bench.exporter.requests.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_event_has_a_span_that_failed() {
    let bench = Bench::new(SETTINGS, Exporter::default());
    let trace = bench.tracer.begin(None, &SeededRandom::new(3)).expect("traced");
    let invocation = Invocation { event: "no event", batch_id: "b", deadline_ms: None, trace: Some(trace.own) };
    assert!(bench.pipeline.invoke(invocation).await.is_err());
    bench.tracer.flush(&trace, bench.deadline_ms, bench.clock.now_ms()).await;
    let spans = bench.exporter.spans();
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].status, opentelemetry::trace::Status::error("NotAnSqsEvent"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn failures_are_kept_and_others_are_as_many_as_allowed(
        fails in prop::collection::vec(prop::bool::weighted(0.1), 1..300),
        items_max in 0..40_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("runtime");
        runtime.block_on(async {
            let bench = Bench::new(TraceSettings { items_max, ..SETTINGS }, Exporter::default());
            let acts: Vec<&str> = fails.iter().map(|&fails| if fails { "permanent" } else { "succeed" }).collect();
            bench.send(Some(SAMPLED), &acts).await;
            let spans = bench.exporter.spans();
            let items: Vec<_> = spans.iter().filter(|span| span.name.ends_with(" item")).collect();
            let failed = fails.iter().filter(|&&fails| fails).count();
            let kept = items.iter().filter(|span| span.status != opentelemetry::trace::Status::Unset).count();
            prop_assert_eq!(kept, failed);
            prop_assert_eq!(items.len() - kept, items_max.min(fails.len() - failed));
            let ids: BTreeSet<_> = spans.iter().map(|span| span.span_context.span_id().to_string()).collect();
            prop_assert_eq!(ids.len(), spans.len(), "no two spans share an id");
            Ok(())
        })?;
    }
}
