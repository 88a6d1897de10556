//! `ingest-telemetry`, as it is deployed: the sums of ten thousand readings are right over a table that leaves rows
//! unprocessed, throttles and loses answers, and after the process was killed.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use e2e::functions::functions;
use e2e::samples::Sample;
use e2e::stack::{Row, need, reported, rows};
use microbatch_local::function::FunctionFailure;
use microbatch_local::proxy::{Call, Fault, Script};
use microbatch_local::runtime_api::InvocationResult;
use microbatch_testkit::clock::SeededRandom;
use serde_json::{Value, json};

use crate::ledger::{KillAt, Rig, below};

/// Generous: the DynamoDB here is a debug build that shares two cores with the function.
const TIMEOUT: Duration = Duration::from_mins(5);
/// How long readings may stay unacknowledged once nothing more goes wrong: keys are held for as long as their leases.
const PATIENCE: Duration = Duration::from_mins(4);
const REDELIVERY: Duration = Duration::from_millis(500);

const START_MS: u64 = 1_763_900_040_000;
const WINDOW_MS: u64 = 60_000;
const DEVICES: usize = 10;
const METRICS: [&str; 2] = ["pressure", "oil/temperature"];

/// What the function may take beside the payload, and for each KiB of it, in KiB: as in `big.rs`.
const FIXED_KIB: u64 = 48 * 1024;
const KIB_PER_PAYLOAD_KIB: u64 = 4;
/// And for each request under way: a store that is slow, as on a busy machine, meets as many as its 4,000 items at once make.
const REQUESTS_MAX: u64 = 4_000 / 25;
const KIB_PER_REQUEST: u64 = 128;

/// A reading; the message's id is its place in the list.
#[derive(Debug, Clone, PartialEq)]
struct Reading {
    device: String,
    metric: &'static str,
    at_ms: u64,
    value: f64,
    sequence: u64,
}

/// Readings of ten devices over four minutes, as they come from a busy field: in no order.
fn readings(count: usize, seed: u64) -> Vec<Reading> {
    let random = SeededRandom::new(seed);
    let reading = |n: usize| Reading {
        device: format!("pump-{}", below(&random, DEVICES)),
        metric: METRICS[below(&random, METRICS.len())],
        at_ms: START_MS + below(&random, 240_000) as u64,
        // In quarters, so that a sum is exact in whatever order it is added up.
        value: f64::from(u32::try_from(below(&random, 4_000)).expect("small")) / 4.0 - 300.0,
        sequence: n as u64,
    };
    (0..count).map(reading).collect()
}

/// A batch of a standard queue, in short envelopes: real ones of ten thousand records would exceed 6 MB.
fn event(readings: &[(usize, Reading)]) -> String {
    let records = readings.iter().map(|(n, Reading { device, metric, at_ms, value, sequence })| {
        let body = json!({"device_id": device, "metric": metric, "at_ms": at_ms, "value": value, "sequence": sequence});
        json!({
            "messageId": n.to_string(),
            "receiptHandle": format!("r-{n}"),
            "body": body.to_string(),
            "attributes": {"ApproximateReceiveCount": "1"},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:telemetry",
            "awsRegion": "eu-west-1",
        })
    });
    json!({"Records": records.collect::<Vec<_>>()}).to_string()
}

/// Device, metric and start of the minute.
type Window = (String, String, u64);

/// How many readings, and what they sum up to.
type Sums = BTreeMap<Window, (usize, f64)>;

fn truth(readings: &[Reading]) -> Sums {
    let mut sums = Sums::new();
    for reading in readings {
        let start_ms = reading.at_ms - reading.at_ms % WINDOW_MS;
        let sum = sums.entry((reading.device.clone(), reading.metric.to_owned(), start_ms)).or_default();
        *sum = (sum.0 + 1, sum.1 + reading.value);
    }
    sums
}

/// What a reader makes of the table, by the words of the function's documentation and not by its code: the union of the
/// rows of a window, by sequence number. And how many rows there are.
async fn sums(rig: &Rig) -> (Sums, usize) {
    let rows = rows(&rig.client, "telemetry").await;
    let mut windows: BTreeMap<Window, BTreeMap<String, (u64, f64)>> = BTreeMap::new();
    for row in &rows {
        let text = |name: &str| row[name].as_s().expect("a string");
        let metric = text("row_id").split('#').next().expect("a metric").to_owned();
        let start_ms: u64 = row["window_start_ms"].as_n().expect("a number").parse().expect("a time");
        let window = windows.entry((text("device_id").clone(), metric, start_ms)).or_default();
        for (sequence, point) in points(row) {
            assert_eq!(*window.entry(sequence).or_insert(point), point, "one number is one reading");
        }
    }
    let sum = |points: BTreeMap<String, (u64, f64)>| (points.len(), points.values().map(|point| point.1).sum());
    (windows.into_iter().map(|(window, points)| (window, sum(points))).collect(), rows.len())
}

fn points(row: &Row) -> impl Iterator<Item = (String, (u64, f64))> {
    let points = row["readings"].as_m().expect("a map");
    points.iter().map(|(sequence, point)| {
        let [offset_ms, value] = point.as_l().expect("a list").as_slice() else { panic!("two numbers: {point:?}") };
        let text = |value: &AttributeValue| value.as_n().expect("a number").clone();
        let point = (text(offset_ms).parse().expect("an offset"), text(value).parse().expect("a value"));
        (sequence.clone(), point)
    })
}

pub(crate) async fn telemetry() -> Rig {
    let variables =
        [("TELEMETRY_TABLE", "telemetry"), ("MICROBATCH_ITEM_LOG", "none"), ("MICROBATCH_ITEM_TIMEOUT_MS", "60000")];
    let tables = [("telemetry", "device_id,row_id")];
    let rig = Rig::start("ingest-telemetry", &need(functions()).ingest_telemetry(), &variables, &tables).await;
    rig.warm_up().await;
    rig
}

fn numbered(readings: &[Reading]) -> Vec<(usize, Reading)> {
    readings.iter().cloned().enumerate().collect()
}

/// Delivers what is not acknowledged until all is.
async fn deliver_until_acknowledged(rig: &Rig, mut left: Vec<(usize, Reading)>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let failed: HashSet<String> = rig.failures_of(&event(&left), TIMEOUT).await.into_iter().collect();
        left.retain(|(n, _)| failed.contains(&n.to_string()));
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{} readings are not acknowledged", left.len());
        tokio::time::sleep(REDELIVERY).await;
    }
}

/// A table under load: of the bulk writes only a half get through at once.
struct UnderLoad(SeededRandom);

impl Script for UnderLoad {
    fn fault(&self, call: &Call<'_>) -> Fault {
        if call.operation != "BatchWriteItem" {
            return Fault::Pass;
        }
        match below(&self.0, 12) {
            0..2 => {
                let request: Value = serde_json::from_slice(call.body).expect("JSON");
                let answer = json!({"UnprocessedItems": request["RequestItems"]}).to_string();
                Fault::Answer { status: 200, body: answer.leak() }
            }
            2..4 => Fault::Throttle,
            4 => Fault::DropAnswer,
            5 => Fault::Error500,
            _ => Fault::Pass,
        }
    }
}

/// P1, P5, P11, P12.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_readings_are_summed_up_right_over_a_table_under_load() {
    let (rig, readings) = (telemetry().await, readings(10_000, 1));
    let batch = event(&numbered(&readings));
    let payload_kib = batch.len() as u64 / 1024;
    rig.proxy.set_script(UnderLoad(SeededRandom::new(2)));
    let start = Instant::now();
    deliver_until_acknowledged(&rig, numbered(&readings)).await;
    let elapsed = start.elapsed();
    let peak_kib = rig.function.peak_resident_kib().expect("Linux tells the peak of a live process");
    let (found, rows) = sums(&rig).await;
    let requests = rig.proxy.count("BatchWriteItem");
    // Written past the capture of test output: the figures are of interest when the test passes.
    writeln!(
        std::io::stderr(),
        "10000 readings, payload {payload_kib} KiB: {rows} rows in {requests} requests, peak resident size {peak_kib} KiB, \
         {elapsed:.1?}"
    )
    .expect("standard error is open");

    assert_eq!(found, truth(&readings));
    assert!(rows < readings.len() / 2, "{rows} rows: readings share them");
    assert!(rig.all_completed().await);
    let peak_kib_max = FIXED_KIB + KIB_PER_PAYLOAD_KIB * payload_kib + KIB_PER_REQUEST * REQUESTS_MAX;
    assert!(peak_kib < peak_kib_max, "{peak_kib} KiB for {payload_kib} KiB, expected less than {peak_kib_max}");

    // All of it again: nothing is put.
    rig.proxy.set_script(|_: &Call<'_>| Fault::Pass);
    assert_eq!(rig.failures_of(&batch, TIMEOUT).await, [""; 0]);
    assert_eq!(rig.proxy.count("BatchWriteItem"), requests);
}

/// P1, P12: SIGKILL at a bulk write of a batch that is partly done, before it is applied and after.
#[tokio::test(flavor = "multi_thread")]
async fn readings_are_summed_up_right_after_the_process_was_killed() {
    for (nth, applied) in [(0, true), (3, false), (7, true)] {
        let (mut rig, readings) = (telemetry().await, readings(2_000, nth as u64));
        let process_id = rig.function.process_id().expect("it runs");
        let (script, killed) = KillAt::new(process_id, applied, move |call| {
            call.operation == "BatchWriteItem" && call.nth_of_operation == nth
        });
        rig.proxy.set_script(script);
        // Short, since the leases of a killed process end with it.
        let deadline = Duration::from_secs(4);
        let result = rig.function.invoke(event(&numbered(&readings)).into(), deadline).await;
        assert!(matches!(result, Err(FunctionFailure::Died { .. })), "{nth}: {result:?}");
        assert!(killed.load(Ordering::SeqCst), "{nth}");

        rig.proxy.set_script(|_: &Call<'_>| Fault::Pass);
        rig.function.restart().await.expect("a new process");
        // Delivered in another order, so that readings are grouped otherwise than before.
        let mut left = numbered(&readings);
        left.reverse();
        deliver_until_acknowledged(&rig, left).await;
        assert_eq!(sums(&rig).await.0, truth(&readings), "{nth}, {applied}");
    }
}

/// P7: bad readings among good ones.
#[tokio::test(flavor = "multi_thread")]
async fn bad_readings_fail_alone() {
    let (rig, readings) = (telemetry().await, readings(1_000, 9));
    let mut batch = numbered(&readings);
    let bad = |n: usize| n % 100 == 17;
    for (n, reading) in &mut batch {
        if bad(*n) {
            reading.at_ms = START_MS * 1_000;
        }
    }
    let expected: Vec<String> = (0..1_000).filter(|n| bad(*n)).map(|n| n.to_string()).collect();
    for _ in 0..2 {
        match rig.function.invoke(event(&batch).into(), TIMEOUT).await {
            Ok(InvocationResult::Response(response)) => assert_eq!(need(reported(&response)), expected),
            other => panic!("expected a response, found {other:?}"),
        }
    }
    let good: Vec<Reading> = batch.into_iter().filter(|(n, _)| !bad(*n)).map(|(_, reading)| reading).collect();
    assert_eq!(sums(&rig).await.0, truth(&good));
}

/// Each twice on the same tables.
#[tokio::test(flavor = "multi_thread")]
async fn every_sample_event_of_readings_gives_its_expected_answer() {
    let rig = telemetry().await;
    for name in ["telemetry", "telemetry-failing", "telemetry", "telemetry-failing"] {
        rig.answers(&Sample::named(name), TIMEOUT).await;
    }
}
