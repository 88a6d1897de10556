//! What the whole way through costs, from an event to its response: a pipeline with the memory store, whose growth is part
//! of the work, and a processor that does nothing. Each run has a new store, so that all keys are new.
//!
//! The row `microbatch` has keys of `order_id`, `with_fingerprint` a fingerprint of the whole body as well, and `unkeyed`
//! no idempotency at all. The floor is a bare loop: plain serde of the event and of each body, and the same processor
//! called on each. The row `floor_sha256` adds the one digest an item that no key can do without.
//!
//! The group `pipeline_unread` is the same with items of a type that keeps nothing of its body.

use std::{
    hint::black_box,
    marker::PhantomData,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, SystemTime},
};

use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, measurement::WallTime};
use futures_util::FutureExt;
use microbatch::{
    Clock, Done, ItemContext, MemoryStore, NoWrites, Pipeline, ProcessError, Processor, clock::BoxFuture,
    pipeline::Host,
};
use microbatch_testkit::{clock::SeededRandom, recorder::ProcessedCount};
use serde::de::{DeserializeOwned, IgnoredAny};
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};

use self::{
    events::{Order, Sample, parse, plainly, samples, short},
    support::{FLOOR, MICROBATCH},
};

#[path = "support/events.rs"]
mod events;
mod support;

/// As many records as DynamoDB takes in one call.
const CHUNK_SIZE: NonZeroUsize = NonZeroUsize::new(25).expect("not zero");

/// How many short records the batches of the group `pipeline_unread` have.
const UNREAD: [usize; 2] = [100, 10_000];

fn main() {
    support::run(|criterion| {
        measure::<Order>(criterion, "pipeline", &samples());
        measure::<IgnoredAny>(criterion, "pipeline_unread", &UNREAD.map(short));
    });
}

fn measure<T: DeserializeOwned + Send + Sync + 'static>(criterion: &mut Criterion, name: &str, samples: &[Sample]) {
    let bench = Bench::<T>::new();
    let mut group = criterion.benchmark_group(name);
    for sample in samples {
        group.throughput(sample.throughput());
        for (row, keys) in
            [(MICROBATCH, Keys::Only), ("with_fingerprint", Keys::WithFingerprint), ("unkeyed", Keys::None)]
        {
            bench.pipelines(&mut group, row, sample, keys);
        }
        floors::<T>(&mut group, sample);
    }
    group.finish();
}

/// How items are identified.
#[derive(Debug, Clone, Copy)]
enum Keys {
    None,
    Only,
    WithFingerprint,
}

struct Bench<T> {
    runtime: Runtime,
    processed: ProcessedCount,
    item: PhantomData<T>,
}

impl<T: DeserializeOwned + Send + Sync + 'static> Bench<T> {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { runtime, processed: ProcessedCount::default(), item: PhantomData }
    }

    fn pipelines(&self, group: &mut BenchmarkGroup<'_, WallTime>, row: &str, sample: &Sample, keys: Keys) {
        let run = |pipeline: Pipeline<Empty<T>, MemoryStore>| {
            let response = self.runtime.block_on(pipeline.run(black_box(&sample.event), "bench", None));
            // Dropped outside the clock: a store outlives the batch.
            (response.expect("all is done"), pipeline)
        };
        let before = self.processed.get();
        let (response, _) = run(self.pipeline(keys));
        assert!(response.failed_ids().is_empty());
        assert_eq!(self.processed.get() - before, sample.records);
        group.bench_function(BenchmarkId::new(row, &sample.name), |b| {
            b.iter_batched(|| self.pipeline(keys), run, BatchSize::PerIteration);
        });
    }

    fn pipeline(&self, keys: Keys) -> Pipeline<Empty<T>, MemoryStore> {
        let builder =
            Pipeline::builder(Empty(PhantomData)).options(|options| "bench".clone_into(&mut options.namespace));
        let builder = match keys {
            Keys::None => builder.without_idempotency(),
            Keys::Only => builder.key("order_id"),
            Keys::WithFingerprint => builder.key("order_id").fingerprint_body(),
        };
        let host = Host {
            store: MemoryStore::with_chunk_size(CHUNK_SIZE),
            clock: Arc::new(SystemClock),
            random: Arc::new(SeededRandom::new(1)),
            recorder: Arc::new(self.processed.clone()),
            queue: None,
        };
        builder.build(host).expect("the settings are right")
    }
}

fn floors<T: DeserializeOwned + Send + Sync + 'static>(group: &mut BenchmarkGroup<'_, WallTime>, sample: &Sample) {
    let context = ItemContext::for_tests(Arc::new(SystemClock));
    let digest = |body: &str| {
        black_box(Sha256::digest(body));
    };
    let bare = || process_plainly::<T>(black_box(&sample.event), &context, |_| ());
    let digested = || process_plainly::<T>(black_box(&sample.event), &context, digest);
    assert_eq!((bare(), digested()), (sample.records, sample.records));
    group.bench_function(BenchmarkId::new(FLOOR, &sample.name), |b| b.iter(bare));
    group.bench_function(BenchmarkId::new("floor_sha256", &sample.name), |b| b.iter(digested));
}

fn process_plainly<T: DeserializeOwned + Send + Sync + 'static>(
    event: &str,
    context: &ItemContext,
    digest: impl Fn(&str),
) -> usize {
    let processor = Empty(PhantomData);
    let mut done = 0;
    plainly(&parse(event), |body, item: T| {
        digest(body);
        let answer = processor.process(item, context).now_or_never();
        done += usize::from(answer.is_some_and(|answer| answer.is_ok()));
    });
    done
}

/// A processor that does nothing.
struct Empty<T>(PhantomData<T>);

impl<T: DeserializeOwned + Send + Sync + 'static> Processor for Empty<T> {
    type Item = T;
    type Output = ();
    type Write = NoWrites;

    async fn process(&self, item: T, _cx: &ItemContext) -> Result<Done<()>, ProcessError> {
        black_box(item);
        Ok(().into())
    }
}

/// The machine's time: to read it is a part of the cost.
struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep_until(&self, at_ms: u64) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(Duration::from_millis(at_ms.saturating_sub(self.now_ms()))))
    }
}
