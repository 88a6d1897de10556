//! The job `adapter`: the adapter alone, against the parsing and hashing that nobody can leave out.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;

use aws_lambda_events::sqs::SqsEvent;
use microbatch::pipeline::Host;
use microbatch::{Done, ItemContext, MemoryStore, NoWrites, Pipeline, ProcessError, Processor};
use microbatch_aws::clock::{SystemClock, SystemRandom};
use microbatch_aws::lambda::BoxError;
use process_orders::order::Order;
use sha2::{Digest, Sha256};

use crate::adapter::measured;
use crate::args::Runs;
use crate::orders::Batches;
use crate::report::{Compared, Comparison, Report, time_comparisons};
use crate::runs::{self, Contender, Sample};

/// As many records as DynamoDB takes in one call.
const CHUNK_SIZE: NonZeroUsize = NonZeroUsize::new(25).expect("not zero");
const PEER: &str = "floor";

/// Runs the job.
pub(crate) async fn run(runs: &Runs) -> Result<Report, BoxError> {
    let samples = runs::interleave(&Alone, &Floor, runs).await?;
    let mut comparisons: Vec<_> = runs
        .records
        .iter()
        .zip(&samples)
        .flat_map(|(&records, samples)| time_comparisons(PEER, records, "_alone", samples))
        .collect();
    comparisons.extend(growth(&runs.records, &samples));
    let title = format!("adapter: alone, with a store in memory, {} runs", runs.count());
    Ok(Report { title, ours: "adapter", versions: Vec::new(), comparisons })
}

/// What an item costs in a batch, against the smallest batch of at least a hundred records.
fn growth(sizes: &[NonZeroUsize], samples: &[[Vec<Sample>; 2]]) -> Option<Comparison> {
    let mut known: Vec<_> = sizes.iter().zip(samples).filter(|(records, _)| records.get() >= 100).collect();
    known.sort_by_key(|(records, _)| **records);
    let [(_, [small, _]), .., (records, [large, _])] = known.as_slice() else { return None };
    let costs = |samples: &[Sample]| samples.iter().map(|sample| sample.cpu_us_per_item).collect();
    Some(Comparison {
        peer: "small",
        records: Some(**records),
        measure: "cpu_growth".to_owned(),
        label: "CPU us/item",
        figures: [costs(large), costs(small)],
        compared: Compared::Medians,
    })
}

#[derive(Debug)]
struct Empty;

impl Processor for Empty {
    type Item = Order;
    type Output = ();
    type Write = NoWrites;

    async fn process(&self, _order: Order, _cx: &ItemContext) -> Result<Done<()>, ProcessError> {
        Ok(().into())
    }
}

/// The adapter, each time with an empty store.
struct Alone;

impl Contender for Alone {
    async fn measure(&self, batches: Batches) -> Result<Sample, BoxError> {
        let store = MemoryStore::with_chunk_size(CHUNK_SIZE);
        let host = Host {
            queue: None,
            store: store.clone(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            recorder: Arc::new(()),
        };
        let pipeline = Pipeline::builder(Empty)
            .key("order_id")
            .options(|options| "bench".clone_into(&mut options.namespace))
            .build(host)?;
        let items = batches.items;
        let sample = measured(batches, async |batches| {
            for event in &batches.events {
                pipeline.run(event, "bench", None).await?;
            }
            Ok(())
        });
        let sample = sample.await?;
        let found = store.records().len();
        if found != items {
            return Err(format!("expected {items} records, found {found}").into());
        }
        Ok(sample)
    }
}

/// What no adapter can leave out.
struct Floor;

impl Contender for Floor {
    async fn measure(&self, batches: Batches) -> Result<Sample, BoxError> {
        measured(batches, async |batches| {
            for event in &batches.events {
                let event: SqsEvent = serde_json::from_str(event)?;
                for record in &event.records {
                    let order: Order = serde_json::from_str(record.body.as_deref().unwrap_or_default())?;
                    black_box(Sha256::digest(&order.order_id));
                }
            }
            Ok(())
        })
        .await
    }
}
