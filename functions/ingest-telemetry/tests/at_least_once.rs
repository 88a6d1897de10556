//! What is delivered at least once is read once: for random readings, deliveries, duplicates, faults and deaths, a reader of the
//! rows computes what is true of the acknowledged readings.

mod support;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use ingest_telemetry::{
    process::{IngestTelemetry, pipeline},
    reading::Reading,
    row::{Row, WINDOW_MS},
    table::PutError,
};
use microbatch::{
    BatchItem, BatchProcessor, Clock, ItemContext, MemoryStore,
    pipeline::{Host, RunError},
};
use microbatch_testkit::{
    clock::{SeededRandom, TokioClock},
    recorder::KeepingRecorder,
};
use proptest::{collection::vec, prelude::*};
use support::{
    START_MS, assert_hold, body, event,
    fake::{FakeTable, Fate},
};

/// Redeliveries of what is left until all must be done: once faults stop, the first does it.
const REDELIVERIES_MAX: usize = 3;

/// One delivery: some of the readings, and what happens meanwhile.
#[derive(Debug, Clone)]
struct Delivery {
    /// Which, as numbers that are taken modulo the count of readings. Some may come twice.
    picks: Vec<usize>,
    /// Decides the fates of its requests.
    seed: u64,
    /// The process dies after this time in milliseconds; there is time enough for all where it is none.
    dies_after_ms: Option<u64>,
    /// Of the readings that are written, the process completes those in these places only before it dies.
    completes: Vec<bool>,
}

fn readings() -> impl Strategy<Value = Vec<Reading>> {
    let value =
        prop_oneof![Just(0.0), Just(-0.0), -1e3..1e3, -1e100..1e100, (-40..40).prop_map(|n| f64::from(n) / 10.0)];
    let reading = (0..3_u8, 0..2_u8, 0..3 * WINDOW_MS, value);
    vec(reading, 1..80).prop_map(|readings| {
        let all = readings.into_iter().zip(0..).map(|((device, metric, offset_ms, value), sequence)| Reading {
            device_id: format!("d-{device}"),
            metric: format!("m{metric}"),
            at_ms: START_MS - 3 * WINDOW_MS + offset_ms,
            // A double below the limit is none of these.
            value: if value.abs() < 1e-9 { 0.0 } else { value },
            sequence,
        });
        all.collect()
    })
}

fn deliveries() -> impl Strategy<Value = Vec<Delivery>> {
    let delivery = (
        vec(any::<usize>(), 1..60),
        any::<u64>(),
        prop_oneof![Just(None), (0..400_u64).prop_map(Some)],
        vec(any::<bool>(), 1..8),
    );
    let delivery =
        delivery.prop_map(|(picks, seed, dies_after_ms, completes)| Delivery { picks, seed, dies_after_ms, completes });
    vec(delivery, 0..8)
}

/// Fates of all kinds, more good ones than bad.
fn fates(seed: u64) -> impl FnMut(&[&Row]) -> Fate + Send + 'static {
    use microbatch::Random;
    let random = SeededRandom::new(seed);
    move |rows| match random.below(12) {
        0..5 => Fate::written(),
        5..7 => Fate::Written { but: (0..rows.len()).filter(|_| random.below(2) == 0).collect() },
        7 => Fate::Fails(PutError::Throttled),
        8 => Fate::Fails(PutError::Unanswered),
        9 => Fate::AnswerLost,
        10 => Fate::AppliedLate(random.below(20_000)),
        _ => Fate::Hangs,
    }
}

/// Runs a case on a paused clock of its own.
fn paused(case: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(case);
}

fn chosen(delivery: &Delivery, count: usize) -> Vec<usize> {
    delivery.picks.iter().map(|pick| pick % count).collect()
}

/// The processor alone: everything is delivered again at any time, whether it is done or not.
async fn without_the_idempotency_table(readings: &[Reading], deliveries: &[Delivery]) {
    let clock = Arc::new(TokioClock::starting_at(START_MS));
    let table = FakeTable::new(|_| Fate::written());
    let processor = IngestTelemetry::new(table.clone(), Arc::clone(&clock) as _, Arc::new(SeededRandom::new(1)));
    let deliver = async |picks: &[usize]| {
        let item = |pick: &usize| BatchItem {
            item: readings[*pick].clone(),
            cx: ItemContext::for_tests(Arc::clone(&clock) as _),
        };
        let batch: Vec<_> = picks.iter().map(item).collect();
        let results = processor.process_batch(&batch).await.expect("an answer for each");
        assert_eq!(results.len(), batch.len());
        results.into_iter().map(|result| result.is_ok()).collect::<Vec<_>>()
    };

    let mut acknowledged: BTreeSet<usize> = BTreeSet::new();
    for delivery in deliveries {
        let picks = chosen(delivery, readings.len());
        table.set_script(fates(delivery.seed));
        let life = delivery.dies_after_ms.map_or(Duration::from_mins(10), Duration::from_millis);
        let Ok(written) = tokio::time::timeout(life, deliver(&picks)).await else { continue };
        for (place, pick) in picks.iter().enumerate() {
            let completed = delivery.completes[place % delivery.completes.len()];
            if written[place] && (completed || delivery.dies_after_ms.is_none()) {
                acknowledged.insert(*pick);
            }
        }
        // Nothing that is acknowledged is missing, at any time.
        let held: BTreeSet<_> =
            table.rows().iter().flat_map(|row| row.points().keys().copied().collect::<Vec<_>>()).collect();
        assert!(acknowledged.iter().all(|pick| held.contains(&readings[*pick].sequence)));
    }

    table.set_script(|_| Fate::written());
    let left: Vec<usize> = (0..readings.len()).filter(|pick| !acknowledged.contains(pick)).collect();
    if !left.is_empty() {
        assert!(deliver(&left).await.into_iter().all(|written| written));
    }
    // What is still on its way arrives.
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_hold(&table.rows(), readings);
}

/// The function's whole pipeline, over claims that outlive the process that made them.
async fn with_the_idempotency_table(readings: &[Reading], deliveries: &[Delivery]) {
    let clock = Arc::new(TokioClock::starting_at(START_MS));
    let (table, store) = (FakeTable::new(|_| Fate::written()), MemoryStore::new());
    let recorder = Arc::new(KeepingRecorder::default());
    let seeds = Mutex::new(0..);
    let deliver = async |picks: &[usize], time_ms: u64| {
        let seed = seeds.lock().expect("not poisoned").next().expect("without end");
        let random = Arc::new(SeededRandom::new(seed));
        let host = Host {
            queue: None,
            store: store.clone(),
            clock: Arc::clone(&clock) as _,
            random: Arc::clone(&random) as _,
            recorder: Arc::clone(&recorder) as _,
        };
        // A process of its own for each delivery.
        let builder = pipeline(table.clone(), Arc::clone(&clock) as _, random);
        let pipeline = builder.options(|options| "test".clone_into(&mut options.namespace)).build(host).expect("valid");
        let messages = picks.iter().enumerate().map(|(place, pick)| (place.to_string(), body(&readings[*pick])));
        let answer = pipeline.run(&event(messages), "batch", Some(clock.now_ms() + time_ms)).await;
        let failed: BTreeSet<usize> = match answer {
            Ok(response) => response.failed_ids().iter().map(|id| id.parse().expect("a place")).collect(),
            Err(RunError::AllFailed { .. }) => (0..picks.len()).collect(),
            Err(error) => panic!("{error}"),
        };
        (0..picks.len()).filter(|place| !failed.contains(place)).map(|place| picks[place]).collect::<Vec<_>>()
    };

    let mut acknowledged: BTreeSet<usize> = BTreeSet::new();
    for delivery in deliveries {
        let picks = chosen(delivery, readings.len());
        table.set_script(fates(delivery.seed));
        let life = delivery.dies_after_ms.map_or(Duration::from_mins(10), Duration::from_millis);
        acknowledged.extend(tokio::time::timeout(life, deliver(&picks, 8_000)).await.unwrap_or_default());
        // Some leases are over by the next delivery, and some are not.
        tokio::time::sleep(Duration::from_millis(delivery.seed % 30_000)).await;
    }

    table.set_script(|_| Fate::written());
    for _ in 0..REDELIVERIES_MAX {
        tokio::time::sleep(Duration::from_mins(1)).await;
        let left: Vec<usize> = (0..readings.len()).filter(|pick| !acknowledged.contains(pick)).collect();
        acknowledged.extend(deliver(&left, 60_000).await);
    }
    assert_eq!(acknowledged.len(), readings.len(), "P12: all complete");
    assert_hold(&table.rows(), readings);

    // P5: a redelivery of all of it puts nothing.
    let requests = table.requests();
    let all: Vec<usize> = (0..readings.len()).collect();
    assert_eq!(deliver(&all, 60_000).await, all);
    assert_eq!(table.requests(), requests);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_reader_sees_each_reading_once_without_the_idempotency_table(
        readings in readings(), deliveries in deliveries()
    ) {
        paused(without_the_idempotency_table(&readings, &deliveries));
    }

    /// P1, P5, P12.
    #[test]
    fn a_reader_sees_each_acknowledged_reading_once(readings in readings(), deliveries in deliveries()) {
        paused(with_the_idempotency_table(&readings, &deliveries));
    }
}
