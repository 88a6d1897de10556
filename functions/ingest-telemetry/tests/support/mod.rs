//! What the tests here share. Each uses a part of it.
#![allow(dead_code)]

pub(crate) mod bench;
pub(crate) mod fake;

use std::collections::BTreeMap;

use ingest_telemetry::{
    reading::Reading,
    row::{Row, WINDOW_MS},
    summary::{Summary, summary},
};
use serde_json::{Value, json};

/// The start of a minute, as a test's clock shows it: the start of 2026.
pub(crate) const START_MS: u64 = 1_767_225_600_000;

/// A minute of a device's metric.
pub(crate) type Window = (String, String, u64);

/// What a reader makes of all rows, by window.
pub(crate) fn summaries(rows: &[Row]) -> BTreeMap<Window, Summary> {
    let mut windows: BTreeMap<Window, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        let (metric, rest) = row.row_id().split_once('#').expect("a row id");
        let (start_ms, _) = rest.split_once('#').expect("a row id");
        let window = (row.device_id().to_owned(), metric.to_owned(), start_ms.parse().expect("a number"));
        windows.entry(window).or_default().push(row);
    }
    windows.into_iter().map(|(window, rows)| (window, summary(rows).expect("no row is empty"))).collect()
}

/// What is true of readings that are all different, by window: said by other means than the function's.
pub(crate) fn truth<'r>(readings: impl IntoIterator<Item = &'r Reading>) -> BTreeMap<Window, Truth> {
    let mut windows: BTreeMap<Window, Vec<&Reading>> = BTreeMap::new();
    for reading in readings {
        let start_ms = reading.at_ms / WINDOW_MS * WINDOW_MS;
        windows.entry((reading.device_id.clone(), reading.metric.clone(), start_ms)).or_default().push(reading);
    }
    let truth = |mut readings: Vec<&Reading>| {
        readings.sort_by_key(|reading| reading.sequence);
        let values = || readings.iter().map(|reading| reading.value);
        Truth {
            count: readings.len() as u64,
            min: values().fold(f64::INFINITY, f64::min),
            max: values().fold(f64::NEG_INFINITY, f64::max),
            sum: values().fold(0.0, |sum, value| sum + value),
        }
    };
    windows.into_iter().map(|(window, readings)| (window, truth(readings))).collect()
}

/// Count, smallest, largest and sum of a window's values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Truth {
    pub(crate) count: u64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) sum: f64,
}

impl From<Summary> for Truth {
    fn from(summary: Summary) -> Self {
        assert_eq!(summary.disputed, 0);
        Self { count: summary.count, min: summary.min, max: summary.max, sum: summary.sum }
    }
}

/// The rows hold these readings, each once, and nothing else.
#[track_caller]
pub(crate) fn assert_hold<'r>(rows: &[Row], readings: impl IntoIterator<Item = &'r Reading>) {
    let read: BTreeMap<Window, Truth> =
        summaries(rows).into_iter().map(|(window, summary)| (window, summary.into())).collect();
    assert_eq!(read, truth(readings));
}

/// A reading of one device and metric.
pub(crate) fn reading(sequence: u64) -> Reading {
    Reading {
        device_id: "d-1".to_owned(),
        metric: "temperature".to_owned(),
        at_ms: START_MS + sequence,
        value: 20.0 + f64::from(u32::try_from(sequence).expect("small")) / 10.0,
        sequence,
    }
}

/// A reading as a message's body.
pub(crate) fn body(reading: &Reading) -> Value {
    let Reading { device_id, metric, at_ms, value, sequence } = reading;
    json!({"device_id": device_id, "metric": metric, "at_ms": at_ms, "value": value, "sequence": sequence})
}

/// A batch of a standard queue: message ids with their bodies.
pub(crate) fn event(messages: impl IntoIterator<Item = (String, Value)>) -> String {
    let record = |(message_id, body): (String, Value)| {
        json!({
            "messageId": message_id,
            "body": body.to_string(),
            "attributes": {"ApproximateReceiveCount": "1"},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:telemetry",
        })
    };
    json!({ "Records": messages.into_iter().map(record).collect::<Vec<_>>() }).to_string()
}
