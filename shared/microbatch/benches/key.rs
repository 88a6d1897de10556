//! What keys cost.
//!
//! The group `identify` goes from an event to items with their keys, by themselves and with a fingerprint of the whole body.
//! Its floor is plain serde of the event and of each body, and one SHA-256 of the body an item.
//!
//! The group `key` makes keys of payloads that are there already, by each kind of selector. Its floor is one SHA-256 of the
//! payload.

use std::hint::black_box;

use aws_lambda_events::sqs::SqsEvent;
use criterion::{BenchmarkId, Criterion, Throughput};
use microbatch::{
    Envelope, MissingKey, Selector,
    config::SQS_BODY_BYTES_MAX,
    decode::{Decoded, Keying, decode},
    key::KeyMaker,
    message::split_event,
};
use sha2::{Digest, Sha256};

use self::{
    events::{Order, Sample, parse, plainly, samples},
    support::{FLOOR, MICROBATCH},
};

#[path = "support/events.rs"]
mod events;
mod support;

/// The payloads that one iteration of the group `key` makes keys of.
const PAYLOADS: usize = 100;

/// The selectors of the group `key`, each with the name of its row: a path, several parts by JMESPath, everything.
const SELECTORS: [(&str, &str); 3] =
    [("path", "order_id"), ("jmespath", "[customer_id, order_id]"), ("whole_body", "@")];

fn main() {
    support::run(|criterion| {
        let samples = samples();
        identify(criterion, &samples);
        make(criterion, &samples);
    });
}

fn identify(criterion: &mut Criterion, samples: &[Sample]) {
    let key_only = keying(None);
    let with_fingerprint = keying(Some(Selector::whole_body()));
    let mut group = criterion.benchmark_group("identify");
    for sample in samples {
        let event = sample.event.as_str();
        assert_eq!(identify_all(event, &key_only), sample.records);
        assert_eq!(identify_all(event, &with_fingerprint), sample.records);
        assert_eq!(digest_plainly(&parse(event)), sample.records);
        group.throughput(sample.throughput());
        group.bench_function(BenchmarkId::new(MICROBATCH, &sample.name), |b| {
            b.iter(|| identify_all(black_box(event), &key_only));
        });
        group.bench_function(BenchmarkId::new("with_fingerprint", &sample.name), |b| {
            b.iter(|| identify_all(black_box(event), &with_fingerprint));
        });
        group.bench_function(BenchmarkId::new(FLOOR, &sample.name), |b| {
            b.iter(|| digest_plainly(&parse(black_box(event))));
        });
    }
    group.finish();
}

fn make(criterion: &mut Criterion, samples: &[Sample]) {
    let mut group = criterion.benchmark_group("key");
    for sample in samples.iter().filter(|sample| sample.name.starts_with("body")) {
        let event = parse(&sample.event);
        let payloads = event.records.iter().filter_map(|record| record.body.as_deref());
        let payloads: Vec<&str> = payloads.take(PAYLOADS).collect();
        group.throughput(Throughput::Elements(payloads.len() as u64));
        for (name, expression) in SELECTORS {
            let maker = KeyMaker::new("bench", selector(expression), None);
            let make = |payload: &&str| maker.make(payload).expect("every payload has a key");
            assert!(!payloads.is_empty());
            assert!(payloads.iter().map(make).all(|(key, _)| key.as_str().starts_with("bench#")));
            group.bench_function(BenchmarkId::new(name, &sample.name), |b| {
                b.iter(|| payloads.iter().for_each(|payload| drop(black_box(make(black_box(payload))))));
            });
        }
        group.bench_function(BenchmarkId::new(FLOOR, &sample.name), |b| {
            b.iter(|| digest_all(&payloads));
        });
    }
    group.finish();
}

fn selector(expression: &str) -> Selector {
    Selector::parse(expression).expect("the bench's own selectors are right")
}

fn keying(fingerprint: Option<Selector>) -> Keying {
    let current = KeyMaker::new("bench", selector("order_id"), fingerprint);
    Keying { current, previous: None, missing: MissingKey::Reject }
}

fn identify_all(event: &str, keying: &Keying) -> usize {
    let body_bytes_max = usize::try_from(SQS_BODY_BYTES_MAX).expect("a MiB");
    let messages = split_event(event).expect("the event is one of SQS");
    let mut identified = 0;
    for message in &messages {
        let decoded: Decoded<Order> =
            decode(message, Envelope::None, Some(keying), body_bytes_max).expect("every body is an order");
        identified += usize::from(black_box(decoded).identity.is_some());
    }
    identified
}

fn digest_all(payloads: &[&str]) {
    for payload in payloads {
        black_box(Sha256::digest(black_box(payload)));
    }
}

fn digest_plainly(event: &SqsEvent) -> usize {
    plainly(event, |body, order: Order| {
        black_box((Sha256::digest(body), order));
    })
}
