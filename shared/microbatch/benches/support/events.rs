//! Events to measure with, and the plain way through one.

use std::{hint::black_box, num::NonZeroUsize};

use aws_lambda_events::sqs::SqsEvent;
use criterion::Throughput;
use microbatch_testkit::events::{EVENT_BYTES_MAX, Envelope, EventSpec, generate};
use serde::Deserialize;

use crate::support::COUNTS;

/// The first order's number: all orders' numbers have as many digits.
const FIRST_ORDER: u64 = 100_000;

/// The bodies' sizes, in bytes, each with the name of its row. The events are as full of them as they may be.
const BODIES: [(&str, usize); 3] = [("body_200b", 200), ("body_2kb", 2_048), ("body_64kb", 65_536)];

/// An event to measure with.
pub(crate) struct Sample {
    /// Names the event among the rows.
    pub(crate) name: String,
    /// The event's JSON text.
    pub(crate) event: String,
    /// How many records it has.
    pub(crate) records: usize,
}

impl Sample {
    /// What makes criterion say the cost of an item.
    pub(crate) fn throughput(&self) -> Throughput {
        Throughput::Elements(self.records as u64)
    }
}

/// What the records' bodies are decoded into: an owned type with a list in it, as functions have.
#[derive(Debug, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the JSON")]
#[expect(dead_code, reason = "decoding is measured, not what is done with it")]
pub(crate) struct Order {
    order_id: String,
    customer_id: String,
    currency: String,
    lines: Vec<Line>,
    total_minor: u64,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoding is measured, not what is done with it")]
struct Line {
    sku: String,
    quantity: u64,
    unit_price_minor: u64,
}

/// All events: short records in batches of each count, then 6 MB of realistic records with their bodies as they are, and
/// with padded ones.
pub(crate) fn samples() -> Vec<Sample> {
    let short = COUNTS.into_iter().map(short);
    let real = [("real_6mb", 0)].into_iter().chain(BODIES).map(|(name, body_bytes)| full(name, body_bytes));
    short.chain(real).collect()
}

/// A batch of so many short records.
pub(crate) fn short(records: usize) -> Sample {
    let event = event(records, Envelope::Short, 0).expect("10,000 short records fit an event");
    Sample { name: format!("short_{records}"), event, records }
}

/// As many realistic records as fit an event, with bodies of at least so many bytes.
fn full(name: &str, body_bytes: usize) -> Sample {
    let few = 8;
    let few_bytes = event(few, Envelope::Real, body_bytes).expect("a few records fit").len();
    let mut records = few * EVENT_BYTES_MAX / few_bytes;
    loop {
        // Bodies that are not padded differ in length: the estimate may be a little high.
        if let Some(event) = event(records, Envelope::Real, body_bytes) {
            return Sample { name: name.to_owned(), event, records };
        }
        records -= records.div_ceil(100);
    }
}

fn event(records: usize, envelope: Envelope, body_bytes: usize) -> Option<String> {
    let records = NonZeroUsize::new(records).expect("no batch is empty");
    let spec = EventSpec { records, envelope, body_bytes, seed: 1, fifo_groups: None, first_order: FIRST_ORDER };
    generate(&spec).ok()
}

/// The plain way through an event, as a hand-written function goes: the whole of it decoded by `aws_lambda_events`, then
/// each body, which is given with its item to `work`. Says how many there were.
pub(crate) fn plainly<'d, T: Deserialize<'d>>(event: &'d SqsEvent, mut work: impl FnMut(&'d str, T)) -> usize {
    for record in &event.records {
        let body = record.body.as_deref().expect("every record has a body");
        work(body, serde_json::from_str(body).expect("every body is an order"));
    }
    black_box(event.records.len())
}

/// Decodes a whole event by `aws_lambda_events`.
pub(crate) fn parse(event: &str) -> SqsEvent {
    serde_json::from_str(event).expect("the event is one of SQS")
}
