//! The adapter in this process, as a function has it, with a processor that does nothing; and what its work costs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_dynamodb::config::Credentials;
use microbatch::pipeline::{Host, RunError};
use microbatch::{BatchReport, Done, ItemContext, NoWrites, Outcome, Pipeline, ProcessError, Processor, Recorder};
use microbatch_aws::DynamoDbStore;
use microbatch_aws::clock::{SystemClock, SystemRandom};
use microbatch_aws::dynamodb::StoreCalls;
use microbatch_aws::lambda::BoxError;
use microbatch_aws::sdk::store_client;
use microbatch_local::environment::{DEFAULT_TABLE, LOCAL_REGION};
use serde::de::IgnoredAny;
use tokio::spawn;

use crate::cpu;
use crate::orders::Batches;
use crate::stats::float;

/// A machine with other work to do shall slow a run down, not end it.
const STORE_TIMEOUT_MS: u64 = 10_000;
const BATCH_TIMEOUT_MS: u64 = 300_000;

/// A pipeline on the store.
#[derive(Debug)]
pub(crate) struct Adapter {
    pipeline: Pipeline<Empty, DynamoDbStore>,
    processed: Arc<Processed>,
}

/// What some batches cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) cpu_us_per_item: f64,
    pub(crate) wall_ms_per_batch: f64,
}

#[derive(Debug)]
struct Empty;

/// Counts the items that were processed, which the response does not tell from duplicates.
#[derive(Debug, Default)]
struct Processed(AtomicUsize);

impl Adapter {
    /// Makes the pipeline, with the client and the settings of a function.
    pub(crate) async fn new(store: SocketAddr, calls: StoreCalls) -> Result<Self, BoxError> {
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(LOCAL_REGION))
            .credentials_provider(Credentials::new("local", "local", None, None, "local"))
            .endpoint_url(format!("http://{store}"));
        let client = store_client(&config.load().await, STORE_TIMEOUT_MS);
        let processed = Arc::<Processed>::default();
        let host = Host {
            queue: None,
            store: DynamoDbStore::new(client, DEFAULT_TABLE).calls(calls),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            recorder: Arc::clone(&processed) as Arc<dyn Recorder>,
        };
        let builder = Pipeline::builder(Empty).key("order_id").fingerprint_body().options(|options| {
            "bench".clone_into(&mut options.namespace);
            options.timeout_ms = BATCH_TIMEOUT_MS;
        });
        Ok(Self { pipeline: builder.build(host)?, processed })
    }

    /// Works on the batches, one after the other, and measures what they cost.
    pub(crate) async fn measure(&self, batches: Batches) -> Result<Sample, BoxError> {
        let (count, items) = (batches.events.len(), batches.items);
        let cpu_before = cpu::time().await?;
        let started = Instant::now();
        self.run(batches).await?;
        let wall = started.elapsed();
        let cpu = cpu::time().await?.saturating_sub(cpu_before);
        Ok(Sample {
            cpu_us_per_item: cpu.as_secs_f64() * 1e6 / float(items),
            wall_ms_per_batch: wall.as_secs_f64() * 1e3 / float(count),
        })
    }

    /// Works on the batches, one after the other, on the runtime's workers, as a function does. All items must come out
    /// processed: a failure or a duplicate has other costs.
    pub(crate) async fn run(&self, batches: Batches) -> Result<(), BoxError> {
        let before = self.processed.0.load(Ordering::Relaxed);
        let (pipeline, items) = (self.pipeline.clone(), batches.items);
        let work = spawn(async move {
            for event in &batches.events {
                pipeline.run(event, "bench", None).await?;
            }
            Ok::<_, RunError>(())
        });
        work.await??;
        let processed = self.processed.0.load(Ordering::Relaxed) - before;
        if processed != items {
            let hint = "is the machine overloaded?";
            return Err(format!("expected {items} items to be processed, found {processed}: {hint}").into());
        }
        Ok(())
    }
}

impl Processor for Empty {
    type Item = IgnoredAny;
    type Output = ();
    type Write = NoWrites;

    async fn process(&self, _item: IgnoredAny, _cx: &ItemContext) -> Result<Done<()>, ProcessError> {
        Ok(().into())
    }
}

impl Recorder for Processed {
    fn record(&self, report: &BatchReport<'_>) {
        self.0.fetch_add(report.count(Outcome::Processed), Ordering::Relaxed);
    }
}
