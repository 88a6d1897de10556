//! What the idempotency protocol costs: [`decide`] alone, without a store.
//!
//! The group `transition_life` has what an item does to its record when all goes well: a claim of a new key, and its
//! completion. The group `transition` has single requests. The floor is to write the records that these decisions write: a
//! copy of each, whose texts are shared; in the first group two of them an item.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use microbatch::{
    Key,
    record::{Fingerprint, Owner, Record, StoredResult},
    transition::{
        Answer, ClaimAnswer, ClaimRequest, CompleteAnswer, Decision, OnLapsedLease, ReleaseAnswer, ReleaseKind,
        Request, decide,
    },
};

use self::support::{COUNTS, FLOOR, MICROBATCH};

mod support;

const NOW_MS: u64 = 1_767_225_600_000;
const LEASE_MS: u64 = 30_000;
const RETENTION_END_S: u64 = NOW_MS / 1_000 + 1_900_800;

/// How many requests of one kind an iteration decides.
const REQUESTS: usize = 1_000;

fn main() {
    support::run(|criterion| {
        life(criterion);
        single(criterion);
    });
}

fn life(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("transition_life");
    for count in COUNTS {
        let claims = claims(count);
        let records: Vec<Record> = claims.iter().map(claimed).collect();
        assert_eq!(claims.iter().map(live).filter(is_completed).count(), count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new(MICROBATCH, count), |b| {
            b.iter(|| claims.iter().for_each(|claim| drop(black_box(live(black_box(claim))))));
        });
        group.bench_function(BenchmarkId::new(FLOOR, count), |b| {
            b.iter(|| records.iter().for_each(|record| drop(black_box((record.clone(), record.clone())))));
        });
    }
    group.finish();
}

fn single(criterion: &mut Criterion) {
    let claims = claims(REQUESTS);
    let held: Vec<Record> = claims.iter().map(claimed).collect();
    let done: Vec<Record> = claims.iter().filter_map(|claim| live(claim).write).collect();
    let others = |claim: &ClaimRequest| ClaimRequest { owner: Owner::new("other"), ..claim.clone() };
    let others: Vec<ClaimRequest> = claims.iter().map(others).collect();
    let release =
        |claim: &ClaimRequest, record: &Record| decide(Some(record), released_by(&claim.owner), NOW_MS).answer;
    let mut group = criterion.benchmark_group("transition");
    group.throughput(Throughput::Elements(REQUESTS as u64));

    assert!(claims.iter().all(|claim| decide(None, claim.into(), NOW_MS).write.is_some()));
    group.bench_function("claim_new", |b| {
        b.iter(|| claims.iter().for_each(|claim| drop(black_box(decide(None, black_box(claim).into(), NOW_MS)))));
    });

    assert!(held.iter().zip(&claims).all(|(record, claim)| is_completed(&complete(record, &claim.owner))));
    group.bench_function("complete", |b| {
        b.iter(|| {
            let pairs = held.iter().zip(&claims);
            pairs.for_each(|(record, claim)| drop(black_box(complete(black_box(record), &claim.owner))));
        });
    });

    let is_released = |answer: &Answer| *answer == Answer::Release(ReleaseAnswer::Released);
    assert!(claims.iter().zip(&held).all(|(claim, record)| is_released(&release(claim, record))));
    group.bench_function("release", |b| {
        b.iter(|| {
            let pairs = claims.iter().zip(&held);
            pairs.for_each(|(claim, record)| drop(black_box(release(claim, black_box(record)))));
        });
    });

    for (name, records, expected) in [
        ("duplicate", &done, ClaimAnswer::Duplicate { result: StoredResult::None, compared: true }),
        ("busy", &held, ClaimAnswer::Busy { until_ms: NOW_MS + LEASE_MS }),
    ] {
        let pairs = || records.iter().zip(&others);
        let expected = Answer::Claim(expected);
        assert!(pairs().all(|(record, claim)| decide(Some(record), claim.into(), NOW_MS).answer == expected));
        group.bench_function(name, |b| {
            b.iter(|| {
                pairs().for_each(|(record, claim)| {
                    drop(black_box(decide(Some(black_box(record)), claim.into(), NOW_MS)));
                });
            });
        });
    }

    group.bench_function(FLOOR, |b| {
        b.iter(|| held.iter().for_each(|record| drop(black_box(black_box(record).clone()))));
    });
    group.finish();
}

/// Claims of keys that are all new, with texts of their real lengths.
fn claims(count: usize) -> Vec<ClaimRequest> {
    let claim = |index: usize| ClaimRequest {
        key: Key::digest("bench", &index.to_string()),
        owner: Owner::new(format!("{:032x}-{index}", u128::MAX / 3)),
        fingerprint: Some(Fingerprint::new(format!("01234567:{index:064x}"))),
        lease_end_ms: NOW_MS + LEASE_MS,
        retention_end_s: RETENTION_END_S,
        on_lapsed_lease: OnLapsedLease::Retry,
    };
    (0..count).map(claim).collect()
}

/// The record of a claim that was won.
fn claimed(claim: &ClaimRequest) -> Record {
    decide(None, claim.into(), NOW_MS).write.expect("a claim of a new key is won")
}

fn complete(record: &Record, owner: &Owner) -> Decision {
    let request = Request::Complete { owner, result: &StoredResult::None, retention_end_s: RETENTION_END_S };
    decide(Some(record), request, NOW_MS)
}

fn released_by(owner: &Owner) -> Request<'_> {
    Request::Release { owner, kind: ReleaseKind::Now }
}

/// A claim and its completion.
fn live(claim: &ClaimRequest) -> Decision {
    complete(&claimed(claim), &claim.owner)
}

fn is_completed(decision: &Decision) -> bool {
    decision.answer == Answer::Complete(CompleteAnswer::Completed)
}
