//! The function's pipeline against an embedded DynamoDB over the real SDK, and what `BatchWriteItem` can answer.

mod support;

use aws_sdk_dynamodb::types::AttributeValue;
use ingest_telemetry::{
    reading::{DEVICE_ID_BYTES_MAX, METRIC_BYTES_MAX, Reading},
    row::{Row, WINDOW_MS, row_id_prefix},
    summary::{Summary, summary},
    table::BulkTable,
};
use microbatch::Outcome;
use microbatch_local::proxy::{Call, Fault};
use serde_json::{Value, json};
use support::{
    START_MS, assert_hold,
    bench::{Bench, RECORDS, TELEMETRY},
    body, event, reading,
};

const TIME_MS: u64 = 30_000;

/// So many devices with one reading each: a row an item.
fn devices(count: u64) -> Vec<Reading> {
    (0..count).map(|n| Reading { device_id: format!("d-{n:04}"), ..reading(n) }).collect()
}

fn event_of(readings: &[Reading]) -> String {
    event(readings.iter().enumerate().map(|(n, reading)| (format!("m-{n}"), body(reading))))
}

/// What became of each of these readings, sent as one batch.
async fn send(bench: &Bench, readings: &[Reading]) -> Vec<(Outcome, Option<&'static str>)> {
    bench.answer(&event_of(readings), TIME_MS).await;
    bench.report().items.iter().map(|item| (item.outcome, item.code)).collect()
}

const WRITTEN: (Outcome, Option<&str>) = (Outcome::Processed, None);

/// Answers that all of a request is left unprocessed, as DynamoDB does under load.
fn unprocessed(call: &Call<'_>) -> Fault {
    let request: Value = serde_json::from_slice(call.body).expect("JSON");
    let answer = json!({ "UnprocessedItems": request["RequestItems"] }).to_string();
    Fault::Answer { status: 200, body: answer.leak() }
}

#[tokio::test]
async fn readings_are_written_compacted_and_read_by_a_query() {
    let bench = Bench::start().await;
    let readings: Vec<_> = (0..240).map(|n| Reading { at_ms: START_MS + n * 1_000, ..reading(n) }).collect();
    assert_eq!(send(&bench, &readings).await, [WRITTEN; 240]);
    assert_hold(&bench.rows().await, &readings);

    let query = bench
        .client
        .query()
        .table_name(TELEMETRY)
        .key_condition_expression("device_id = :device AND begins_with(row_id, :window)")
        .expression_attribute_values(":device", AttributeValue::S("d-1".to_owned()))
        .expression_attribute_values(":window", AttributeValue::S(row_id_prefix("temperature", START_MS + WINDOW_MS)));
    let items = query.send().await.expect("a query").items.unwrap_or_default();
    let rows: Vec<Row> = items.iter().map(|item| Row::from_item(item).expect("a row")).collect();
    let found = summary(&rows).expect("readings");
    let Summary { count, min, max, last, disputed, .. } = found;
    assert_eq!((count, min, max, last.at_ms, disputed), (60, 26.0, 31.9, START_MS + 119_000, 0));
}

/// Sub-batches: a row is shared by what came together, whatever is between.
#[tokio::test]
async fn a_thousand_readings_of_a_minute_are_few_rows() {
    let bench = Bench::start().await;
    let readings: Vec<_> =
        (0..1_000).map(|n| Reading { device_id: format!("d-{}", n % 4), at_ms: START_MS + n, ..reading(n) }).collect();
    assert!(send(&bench, &readings).await.iter().all(|outcome| *outcome == WRITTEN));
    let rows = bench.rows().await;
    assert_hold(&rows, &readings);
    assert!(rows.len() <= 100, "{} rows", rows.len());
}

/// P5, P8, P9.
#[tokio::test]
async fn duplicates_are_acknowledged_and_other_values_are_conflicts() {
    let bench = Bench::start().await;
    let other = Reading { value: -1.0, ..reading(1) };
    let batch = [reading(1), reading(1), other, reading(2)];
    let (duplicate, conflict) = ((Outcome::Duplicate, None), (Outcome::Conflict, Some("fingerprint_differs")));
    assert_eq!(send(&bench, &batch).await, [WRITTEN, duplicate, conflict, WRITTEN]);
    let requests = bench.proxy.count("BatchWriteItem");
    assert_eq!(send(&bench, &batch).await, [duplicate, duplicate, conflict, duplicate]);
    assert_eq!(bench.proxy.count("BatchWriteItem"), requests);
    assert_hold(&bench.rows().await, &[reading(1), reading(2)]);
}

/// P7.
#[tokio::test]
async fn invalid_readings_are_rejected_alone() {
    let bench = Bench::start().await;
    let far = Reading { at_ms: u64::MAX, ..reading(2) };
    let huge = Reading { value: 1e200, ..reading(3) };
    let rejected = |code| (Outcome::Rejected, Some(code));
    assert_eq!(
        send(&bench, &[reading(1), far, huge, reading(4)]).await,
        [WRITTEN, rejected("time_in_future"), rejected("value_out_of_range"), WRITTEN]
    );
    assert_hold(&bench.rows().await, &[reading(1), reading(4)]);
}

#[tokio::test]
async fn the_largest_and_the_smallest_of_all_fit_and_are_read_exactly() {
    let bench = Bench::start().await;
    let values = [1e100, -1e100, 1e-100, 0.1 + 0.2, 1.0 / 3.0, 9_007_199_254_740_991.0, 123_456_789.012_345_67];
    let largest = (0..).zip(values).map(|(n, value)| Reading {
        device_id: "d".repeat(DEVICE_ID_BYTES_MAX),
        metric: "m".repeat(METRIC_BYTES_MAX),
        at_ms: START_MS + WINDOW_MS - 1,
        value,
        sequence: u64::MAX - n,
    });
    let largest: Vec<_> = largest.collect();
    assert_eq!(send(&bench, &largest).await, [WRITTEN; 7]);
    assert_hold(&bench.rows().await, &largest);
}

#[tokio::test]
async fn what_is_left_unprocessed_or_throttled_is_sent_again() {
    for fault in
        [unprocessed, |_: &Call<'_>| Fault::Throttle, |_: &Call<'_>| Fault::Error500, |_: &Call<'_>| Fault::DropAnswer]
    {
        let bench = Bench::start().await;
        bench.proxy.set_script(move |call: &Call<'_>| match call.operation {
            "BatchWriteItem" if call.nth_of_operation < 3 => fault(call),
            _ => Fault::Pass,
        });
        let readings = devices(60);
        assert_eq!(send(&bench, &readings).await, [WRITTEN; 60]);
        assert_hold(&bench.rows().await, &readings);
    }
}

/// P7, P12.
#[tokio::test]
async fn rows_that_stay_unprocessed_fail_their_readings_and_no_others() {
    let bench = Bench::start().await;
    let (readings, stuck) = (devices(26), 25);
    // The last device's row is alone in a request: the 25 before it fill one.
    bench.proxy.set_script(|call: &Call<'_>| {
        let is_stuck = call.operation == "BatchWriteItem" && String::from_utf8_lossy(call.body).contains("d-0025");
        if is_stuck { unprocessed(call) } else { Fault::Pass }
    });
    bench.answer(&event_of(&readings), 5_000).await;
    for (n, item) in bench.report().items.iter().enumerate() {
        let expected = if n == stuck { (Outcome::Failed, Some("not_processed")) } else { WRITTEN };
        assert_eq!((item.outcome, item.code), expected, "{n}");
    }
    assert_hold(&bench.rows().await, &readings[..stuck]);

    bench.proxy.set_script(|_: &Call<'_>| Fault::Pass);
    assert_eq!(send(&bench, &readings[stuck..]).await, [WRITTEN], "its key was given back at once");
    assert_hold(&bench.rows().await, &readings);
}

/// An answer that is lost leaves it open whether the readings are written: they stay claimed, and no other value gets in.
#[tokio::test]
async fn readings_in_doubt_keep_their_fingerprint() {
    let bench = Bench::start().await;
    bench.proxy.set_script(|call: &Call<'_>| match call.operation {
        "BatchWriteItem" => Fault::HangAfter,
        _ => Fault::Pass,
    });
    bench.answer(&event_of(&[reading(1)]), 4_000).await;
    assert_eq!(bench.report().of("m-0"), Some((Outcome::Failed, Some("not_answered"))));
    assert_hold(&bench.rows().await, &[reading(1)]);
    let records = bench.items(RECORDS).await;
    assert!(records.len() == 1 && records[0].contains_key("validation"), "{records:?}");
    let lease_end_ms: u64 = records[0]["in_progress_expiration"].as_n().expect("a number").parse().expect("a time");
    assert!(lease_end_ms > START_MS, "deferred, not released");
}

#[tokio::test]
async fn a_row_that_is_refused_is_found_among_others() {
    let bench = Bench::start().await;
    // As where an index of the table cannot take it. DynamoDB then refuses the whole request.
    bench.proxy.set_script(|call: &Call<'_>| {
        let is_bad = call.operation == "BatchWriteItem" && String::from_utf8_lossy(call.body).contains("d-0013");
        let body =
            r#"{"__type":"com.amazon.coral.validate#ValidationException","message":"one or more parameter values"}"#;
        if is_bad { Fault::Answer { status: 400, body } } else { Fault::Pass }
    });
    let readings = devices(40);
    for (n, outcome) in send(&bench, &readings).await.into_iter().enumerate() {
        let expected = if n == 13 { (Outcome::Rejected, Some("row_refused")) } else { WRITTEN };
        assert_eq!(outcome, expected, "{n}");
    }
    assert_hold(&bench.rows().await, readings.iter().filter(|reading| reading.device_id != "d-0013"));
}

#[tokio::test]
async fn a_table_that_cannot_be_used_is_no_fault_of_the_readings() {
    let bench = Bench::start().await;
    bench.client.delete_table().table_name(TELEMETRY).send().await.expect("a deletion");
    assert_eq!(send(&bench, &devices(3)).await, [(Outcome::Failed, Some("table_unusable")); 3]);
    assert!(bench.items(RECORDS).await.iter().all(|record| !record.contains_key("owner")), "given back");
}

#[tokio::test]
async fn a_row_that_is_put_again_changes_nothing() {
    let bench = Bench::start().await;
    let readings = [reading(1), reading(2)];
    let rows = ingest_telemetry::row::compact(readings.iter().enumerate()).rows;
    let table = bench.table();
    for _ in 0..2 {
        assert_eq!(table.put(&rows.iter().collect::<Vec<_>>()).await, Ok(Vec::new()));
        assert_eq!(bench.rows().await, rows);
    }
}
