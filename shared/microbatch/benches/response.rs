//! What the answer costs: a [`BatchResponse`] of all messages' ids, checked, and its JSON as a host sends it.
//!
//! Rows are named after the share of messages that failed. The floor collects the failed ids as a hand-written function
//! does, and writes the same JSON; it checks nothing.

use std::hint::black_box;

use aws_lambda_events::sqs::SqsBatchResponse;
use criterion::{BenchmarkId, Criterion, Throughput};
use microbatch::BatchResponse;

use self::support::{COUNTS, FLOOR, MICROBATCH};

mod support;

/// Which messages fail, each with the name of its row: every so many-th, from the first.
const FAILURES: [(&str, usize); 3] = [("none_failed", usize::MAX), ("1_percent_failed", 100), ("all_failed", 1)];

fn main() {
    support::run(|criterion| FAILURES.into_iter().for_each(|(name, every)| respond(criterion, name, every)));
}

fn respond(criterion: &mut Criterion, name: &str, every: usize) {
    let mut group = criterion.benchmark_group(format!("response_{name}"));
    for count in COUNTS {
        // As long as SQS's ids, and each different.
        let ids = (0..count).map(|index| format!("{index:08x}-1111-4222-8333-444444444444"));
        let fails = |index: usize| every != usize::MAX && index.is_multiple_of(every);
        let messages: Vec<(String, bool)> = ids.enumerate().map(|(index, id)| (id, !fails(index))).collect();
        let failed = messages.iter().filter(|(_, acknowledged)| !acknowledged).count();
        assert_eq!(ours(&messages), plain(&messages));
        assert_eq!(ours(&messages).matches("itemIdentifier").count(), failed);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new(MICROBATCH, count), |b| b.iter(|| ours(black_box(&messages))));
        group.bench_function(BenchmarkId::new(FLOOR, count), |b| b.iter(|| plain(black_box(&messages))));
    }
    group.finish();
}

fn ours(messages: &[(String, bool)]) -> String {
    let answers = messages.iter().map(|(id, acknowledged)| (id.as_str(), *acknowledged));
    let response = BatchResponse::new(answers).expect("the ids are right");
    json(response.into_failed_ids())
}

fn plain(messages: &[(String, bool)]) -> String {
    json(messages.iter().filter(|(_, acknowledged)| !acknowledged).map(|(id, _)| id.clone()).collect())
}

/// The answer's JSON, as both have it written.
fn json(failed_ids: Vec<String>) -> String {
    let mut response = SqsBatchResponse::default();
    response.set_failures(failed_ids);
    serde_json::to_string(&response).expect("ids are strings")
}
