//! What it costs to get from an event to its items: splitting the event, and decoding each body into the user's type.
//!
//! The floor is the same by plain serde: the event into `aws_lambda_events`' `SqsEvent`, each body into the type. The group
//! `split` has the event alone, without any body, against `SqsEvent` alone.

use std::hint::black_box;

use aws_lambda_events::sqs::SqsEvent;
use criterion::{BenchmarkId, Criterion};
use microbatch::{
    Envelope,
    config::SQS_BODY_BYTES_MAX,
    decode::{Decoded, decode},
    message::{Message, split_event},
};

use self::{
    events::{Order, parse, plainly, samples},
    support::{FLOOR, MICROBATCH},
};

#[path = "support/events.rs"]
mod events;
mod support;

fn main() {
    support::run(|criterion| {
        split(criterion);
        items(criterion);
    });
}

fn split(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split");
    for sample in samples() {
        let event = sample.event.as_str();
        assert_eq!(messages(event).len(), sample.records);
        assert_eq!(parse(event).records.len(), sample.records);
        group.throughput(sample.throughput());
        group.bench_function(BenchmarkId::new(MICROBATCH, &sample.name), |b| b.iter(|| messages(black_box(event))));
        group.bench_function(BenchmarkId::new(FLOOR, &sample.name), |b| b.iter(|| parse(black_box(event))));
    }
    group.finish();
}

fn items(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for sample in samples() {
        let event = sample.event.as_str();
        assert_eq!(decode_all(event), sample.records);
        assert_eq!(decode_plainly(&parse(event)), sample.records);
        group.throughput(sample.throughput());
        group.bench_function(BenchmarkId::new(MICROBATCH, &sample.name), |b| b.iter(|| decode_all(black_box(event))));
        group.bench_function(BenchmarkId::new(FLOOR, &sample.name), |b| {
            b.iter(|| decode_plainly(&parse(black_box(event))));
        });
    }
    group.finish();
}

fn messages(event: &str) -> Vec<Message<'_>> {
    split_event(event).expect("the event is one of SQS")
}

fn decode_all(event: &str) -> usize {
    let body_bytes_max = usize::try_from(SQS_BODY_BYTES_MAX).expect("a MiB");
    let messages = messages(event);
    for message in &messages {
        let decoded: Decoded<Order> =
            decode(message, Envelope::None, None, body_bytes_max).expect("every body is an order");
        black_box(decoded);
    }
    messages.len()
}

fn decode_plainly(event: &SqsEvent) -> usize {
    plainly(event, |_body, order: Order| {
        black_box(order);
    })
}
