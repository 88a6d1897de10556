//! The adapter as a function has it, in this process, with a processor that does nothing.

use std::iter::repeat_with;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
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
use microbatch_testkit::events::{Envelope, EventSpec, generate};
use serde::de::IgnoredAny;
use tokio::spawn;

use crate::cpu;

/// Batches are repeated until they have so many records.
const SAMPLE_RECORDS_MIN: usize = 1_000;
/// A machine with other work to do shall slow a run down, not end it.
const STORE_TIMEOUT_MS: u64 = 10_000;
const BATCH_TIMEOUT_MS: u64 = 300_000;

/// A pipeline on the store.
#[derive(Debug)]
pub(crate) struct Adapter {
    pipeline: Pipeline<Empty, DynamoDbStore>,
    processed: Arc<Processed>,
}

/// Events of one size. No order is in two of them.
#[derive(Debug)]
pub(crate) struct Batches {
    events: Vec<String>,
    pub(crate) items: usize,
}

/// Makes events of orders that no earlier event had.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    made: u64,
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
    /// processed: a retry or a duplicate has other costs.
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

impl Orders {
    /// Events of this many records each, at least one, and [`SAMPLE_RECORDS_MIN`] records in all.
    pub(crate) fn batches(&mut self, records: NonZeroUsize) -> Result<Batches, BoxError> {
        let count = SAMPLE_RECORDS_MIN.div_ceil(records.get());
        let events = repeat_with(|| self.event(records)).take(count).collect::<Result<_, BoxError>>()?;
        Ok(Batches { events, items: count * records.get() })
    }

    fn event(&mut self, records: NonZeroUsize) -> Result<String, BoxError> {
        // Short, so that 10,000 records fit an event, and all sizes compare.
        let (envelope, seed, first_order) = (Envelope::Short, self.made, self.made);
        self.made += records.get() as u64;
        let spec = EventSpec { records, envelope, body_bytes: 0, seed, fifo_groups: None, first_order };
        Ok(generate(&spec)?)
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

/// A count as a number to divide by.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub(crate) fn float(count: usize) -> f64 {
    count as f64
}
