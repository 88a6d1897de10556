//! What batching costs: the [`Collector`], which is the policy alone, and the [`Batcher`] with its driver, from the
//! submitter's calls to each entry's result.
//!
//! Entries go out in batches of ten, as SQS takes them. The floor of the collector moves the same entries into vectors of
//! ten. The floor of the batcher awaits the same sink on those vectors, and gives nobody a result of its own.

use std::{
    future::{Ready, ready},
    hint::black_box,
    num::NonZeroUsize,
    sync::Arc,
};

use criterion::{BenchmarkId, Criterion, Throughput};
use microbatch::batcher::{Batch, Batcher, Bounds, Collector, Limits};
use microbatch_testkit::clock::TokioClock;
use tokio::{join, runtime::Builder};

use self::support::{COUNTS, FLOOR, MICROBATCH};

mod support;

const BATCH: NonZeroUsize = at_most(10);
const LIMITS: Limits = Limits { count_max: BATCH, bytes_max: at_most(1_048_576), linger_ms: 0 };
const ENTRY_BYTES: usize = 100;

type Entry = [u8; ENTRY_BYTES];

const fn at_most(value: usize) -> NonZeroUsize {
    NonZeroUsize::new(value).expect("not zero")
}

fn main() {
    support::run(|criterion| {
        collect(criterion);
        submit(criterion);
    });
}

fn collect(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("collector");
    for count in COUNTS {
        assert_eq!(collected(count), count);
        assert_eq!(collected_plainly(count), count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new(MICROBATCH, count), |b| b.iter(|| collected(black_box(count))));
        group.bench_function(BenchmarkId::new(FLOOR, count), |b| b.iter(|| collected_plainly(black_box(count))));
    }
    group.finish();
}

fn submit(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let clock = runtime.block_on(async { Arc::new(TokioClock::default()) });
    let mut group = criterion.benchmark_group("batcher");
    for count in COUNTS {
        assert_eq!(runtime.block_on(submitted(count, &clock)), count);
        assert_eq!(runtime.block_on(submitted_plainly(count)), count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new(MICROBATCH, count), |b| {
            b.iter(|| runtime.block_on(submitted(black_box(count), &clock)));
        });
        group.bench_function(BenchmarkId::new(FLOOR, count), |b| {
            b.iter(|| runtime.block_on(submitted_plainly(black_box(count))));
        });
    }
    group.finish();
}

fn entries(count: usize) -> impl Iterator<Item = Entry> {
    (0..count).map(|index| [index.to_le_bytes()[0]; ENTRY_BYTES])
}

/// Collects entries into batches. Says how many have come out.
fn collected(count: usize) -> usize {
    let mut collector = Collector::new(LIMITS);
    let mut out = 0;
    for entry in entries(count) {
        let pushed = collector.push(entry, ENTRY_BYTES, 0).expect("an entry is no larger than a batch");
        out += pushed.into_iter().map(|batch| black_box(batch).entries.len()).sum::<usize>();
    }
    out + collector.close().map_or(0, |batch| black_box(batch).entries.len())
}

fn collected_plainly(count: usize) -> usize {
    let mut out = 0;
    let mut batch = Vec::new();
    for entry in entries(count) {
        batch.push(entry);
        if batch.len() == BATCH.get() {
            out += black_box(std::mem::take(&mut batch)).len();
        }
    }
    out + black_box(batch).len()
}

/// Submits entries one after the other, and then awaits all results. Says how many there were.
///
/// A set of submitting futures in one task would be measured instead: tokio lets a task do 128 things a poll, and such a set
/// polls all of its futures in vain after that.
async fn submitted(count: usize, clock: &Arc<TokioClock>) -> usize {
    let bounds = Bounds { entries_max: at_most(1_000), batches_in_flight_max: at_most(2) };
    let sink = |batch: Batch<Entry>| sink(batch.entries);
    let (batcher, driver) = Batcher::new(LIMITS, bounds, Arc::clone(clock) as _, |_| ENTRY_BYTES, sink);
    let work = async {
        let mut receipts = Vec::new();
        for entry in entries(count) {
            receipts.push(batcher.enqueue(entry).await.expect("the batcher is open"));
        }
        batcher.close();
        let mut done = 0;
        for receipt in receipts {
            done += usize::from(receipt.await.is_ok());
        }
        done
    };
    let (done, ()) = join!(work, driver);
    done
}

async fn submitted_plainly(count: usize) -> usize {
    let mut out = 0;
    let mut batch = Vec::new();
    for entry in entries(count) {
        batch.push(entry);
        if batch.len() == BATCH.get() {
            out += sink(std::mem::take(&mut batch)).await.len();
        }
    }
    if batch.is_empty() { out } else { out + sink(batch).await.len() }
}

/// One request for all, one answer for each.
fn sink(entries: Vec<Entry>) -> Ready<Vec<u8>> {
    ready(black_box(entries).iter().map(|entry| entry[0]).collect())
}
