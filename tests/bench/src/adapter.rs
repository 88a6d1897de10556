//! The adapter in this process, as a function has it, with a processor that does nothing; and what its work costs.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_dynamodb::config::Credentials;
use microbatch::pipeline::{Host, RunError};
use microbatch::{Clock, Done, Invocation, ItemContext, NoWrites, Pipeline, ProcessError, Processor};
use microbatch_aws::DynamoDbStore;
use microbatch_aws::clock::{SystemClock, SystemRandom};
use microbatch_aws::dynamodb::StoreCalls;
use microbatch_aws::lambda::BoxError;
use microbatch_aws::metrics::{MetricsRecorder, MetricsSettings, NAMESPACE};
use microbatch_aws::sdk::store_client;
use microbatch_aws::traces::{TraceRecorder, TraceSettings, TracedBatches, Tracer};
use microbatch_local::environment::{DEFAULT_TABLE, LOCAL_REGION};
use microbatch_testkit::recorder::ProcessedCount;
use serde::de::IgnoredAny;
use tokio::spawn;

use crate::cpu;
use crate::orders::Batches;
use crate::runs::{Contender, Sample};

/// A machine with other work to do shall slow a run down, not end it.
const STORE_TIMEOUT_MS: u64 = 10_000;
const BATCH_TIMEOUT_MS: u64 = 300_000;

/// What an adapter is measured with.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Setup {
    /// How claims and completions are sent.
    pub(crate) calls: StoreCalls,
    /// Whether each batch writes its line of metrics.
    pub(crate) metrics: bool,
    /// Where each batch's spans are exported to, if they are.
    pub(crate) collector: Option<SocketAddr>,
}

/// A pipeline on the store in the other process.
pub(crate) struct Adapter {
    pipeline: Pipeline<Empty, DynamoDbStore>,
    tracer: Option<Arc<Tracer>>,
    processed: ProcessedCount,
}

#[derive(Debug)]
struct Empty;

impl Adapter {
    /// Makes the pipeline, with the client and the settings of a function.
    pub(crate) async fn new(store: SocketAddr, setup: Setup) -> Result<Self, BoxError> {
        let Setup { calls, metrics, collector } = setup;
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(LOCAL_REGION))
            .credentials_provider(Credentials::new("local", "local", None, None, "local"))
            .endpoint_url(format!("http://{store}"));
        let client = store_client(&config.load().await, STORE_TIMEOUT_MS);
        let processed = ProcessedCount::default();
        let tracer = collector.map(tracer).transpose()?.map(Arc::new);
        // Written like a function's, and read by nobody.
        let metrics =
            if metrics { Some(MetricsRecorder::to(metrics_settings(), File::create("/dev/null")?)) } else { None };
        let span_recorder = tracer.as_ref().map(|tracer| TraceRecorder(Arc::clone(tracer)));
        let host = Host {
            queue: None,
            store: DynamoDbStore::new(client, DEFAULT_TABLE).calls(calls),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            recorder: Arc::new((processed.clone(), (metrics, span_recorder))),
        };
        let builder = Pipeline::builder(Empty).key("order_id").fingerprint_body().options(|options| {
            "bench".clone_into(&mut options.namespace);
            options.timeout_ms = BATCH_TIMEOUT_MS;
        });
        Ok(Self { pipeline: builder.build(host)?, tracer, processed })
    }

    /// Works on the batches, one after the other, on the runtime's workers. All items must come out processed: a failure or a
    /// duplicate has other costs.
    pub(crate) async fn run(&self, batches: Batches) -> Result<(), BoxError> {
        let before = self.processed.get();
        let (pipeline, tracer, items) = (self.pipeline.clone(), self.tracer.clone(), batches.items);
        let work = spawn(async move {
            for event in &batches.events {
                let trace = tracer.as_ref().and_then(|tracer| tracer.begin(None, &SystemRandom));
                let trace_parent = trace.map(|trace| trace.own);
                pipeline
                    .invoke(Invocation { event, batch_id: "bench", deadline_ms: None, trace: trace_parent })
                    .await?;
                if let (Some(tracer), Some(trace)) = (&tracer, &trace) {
                    tracer.flush(trace, u64::MAX, SystemClock.now_ms()).await;
                }
            }
            Ok::<_, RunError>(())
        });
        work.await??;
        let processed = self.processed.get() - before;
        if processed != items {
            let hint = "is the machine overloaded?";
            return Err(format!("expected {items} items to be processed, found {processed}: {hint}").into());
        }
        Ok(())
    }
}

impl Contender for Adapter {
    async fn measure(&self, batches: Batches) -> Result<Sample, BoxError> {
        measured(batches, async |batches| self.run(batches).await).await
    }
}

/// What it costs this process to work on the batches.
pub(crate) async fn measured(
    batches: Batches,
    work: impl AsyncFnOnce(Batches) -> Result<(), BoxError>,
) -> Result<Sample, BoxError> {
    let (count, items) = (batches.events.len(), batches.items);
    let cpu_before = cpu::own_time().await?;
    let started = Instant::now();
    work(batches).await?;
    let wall = started.elapsed();
    let cpu = cpu::own_time().await?.saturating_sub(cpu_before);
    Ok(Sample::new(cpu, items, wall, count))
}

impl Processor for Empty {
    type Item = IgnoredAny;
    type Output = ();
    type Write = NoWrites;

    async fn process(&self, _item: IgnoredAny, _cx: &ItemContext) -> Result<Done<()>, ProcessError> {
        Ok(().into())
    }
}

/// A tracer with a function's settings.
fn tracer(collector: SocketAddr) -> Result<Tracer, String> {
    let settings = TraceSettings { which: TracedBatches::All, items_max: 100, flush_ms: BATCH_TIMEOUT_MS };
    Tracer::to(settings, "bench".to_owned(), Some(format!("http://{collector}/v1/traces")))
}

fn metrics_settings() -> MetricsSettings {
    MetricsSettings::from_env(NAMESPACE.to_owned())
}
