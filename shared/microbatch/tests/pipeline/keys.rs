//! Equal keys in one batch and across batches: P1, P5, P8, P9.

use microbatch::{
    Outcome::{Conflict, Duplicate, Failed, Processed, Rejected},
    record::{Status, StoredResult},
};

use proptest::prelude::*;

use crate::support::{Bench, body, key_of, outcomes};

#[tokio::test(start_paused = true)]
async fn copies_in_a_batch_run_once_and_share_the_outcome() {
    // P8.
    let bench = Bench::new();
    let (good, failing) = (body("a", ""), body("b", "fail"));
    let (reported, report) = bench.send(&[&good, &failing, &good, &failing, &good]).await;
    assert_eq!(outcomes(&report), [Processed, Failed, Duplicate, Failed, Duplicate]);
    assert_eq!(reported, ["m1", "m3"]);
    assert_eq!((bench.seen.runs("a"), bench.seen.runs("b")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_comes_when_its_leader_is_done_shares_the_outcome_too() {
    // One claim at a time: the copies are decoded long after their leader was completed.
    let bench = Bench::on(microbatch::MemoryStore::new(), |options| options.concurrency = 1);
    let first = body("a", "");
    let others: Vec<String> = (0..20).map(|index| body(&format!("x{index}"), "slow")).collect();
    let mut bodies = vec![first.as_str()];
    bodies.extend(others.iter().map(String::as_str));
    bodies.push(&first);
    let (reported, report) = bench.send(&bodies).await;
    assert_eq!(reported, [""; 0]);
    assert_eq!(report.of("m21"), Some((Duplicate, None)));
    assert_eq!(bench.seen.runs("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_redelivered_batch_has_no_effect_and_replays_the_record() {
    // P1, P5.
    let bench = Bench::new();
    let bodies = [body("a", ""), body("b", "")];
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    bench.send(&bodies).await;
    let before = bench.pipeline.store().get(&key_of("a")).expect("a record");
    assert_eq!((before.status, before.result.clone()), (Status::Completed, StoredResult::Kept("\"a\"".into())));
    let (reported, report) = bench.send(&bodies).await;
    assert_eq!((reported.len(), outcomes(&report)), (0, vec![Duplicate, Duplicate]));
    assert_eq!(bench.seen.total(), 2);
    assert_eq!(bench.pipeline.store().get(&key_of("a")), Some(before));
}

#[tokio::test(start_paused = true)]
async fn other_content_under_a_used_key_never_runs() {
    // P9, within a batch and after it.
    let bench = Bench::new();
    let (one, other) = (r#"{"id":"a","ms":1}"#, r#"{"id":"a","ms":2}"#);
    let (reported, report) = bench.send(&[one, other]).await;
    assert_eq!((reported, outcomes(&report)), (vec!["m1".to_owned()], vec![Processed, Conflict]));
    let (reported, report) = bench.send(&[other]).await;
    assert_eq!((reported, outcomes(&report)), (vec!["m0".to_owned()], vec![Conflict]));
    assert_eq!(bench.seen.runs("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn other_content_is_no_conflict_before_anything_completed() {
    let bench = Bench::new();
    let (reported, report) = bench.send(&[&body("a", "fail"), &body("a", "")]).await;
    assert_eq!(reported, ["m0", "m1"]);
    assert_eq!(report.of("m1"), Some((microbatch::Outcome::Busy, Some("held_by_another"))));
    let (_, report) = bench.send(&[&body("a", "")]).await;
    assert_eq!(outcomes(&report), [Processed]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_item_runs_again_and_its_record_counts_the_tries() {
    let bench = Bench::new();
    for tries in 1..=3 {
        let (_, report) = bench.send(&[&body("a", "fail")]).await;
        assert_eq!((report.items[0].outcome, report.items[0].code), (Failed, Some("on_purpose")));
        assert_eq!(report.items[0].tries, Some(tries));
    }
    let record = bench.pipeline.store().get(&key_of("a")).expect("a record");
    assert!(record.is_released());
    assert_eq!((record.owner, record.fingerprint), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_result_over_the_cap_is_done_and_not_kept() {
    let bench = Bench::on(microbatch::MemoryStore::new(), |options| options.result_bytes_max = 2);
    let (_, report) = bench.send(&[&body("long", "")]).await;
    assert_eq!((outcomes(&report), report.counts.results_not_kept), (vec![Processed], 1));
    let record = bench.pipeline.store().get(&key_of("long")).expect("a record");
    assert_eq!(record.result, StoredResult::NotKept);
}

#[tokio::test(start_paused = true)]
async fn an_item_without_a_key_is_rejected_alone() {
    let bench = Bench::new();
    let (reported, report) = bench.send(&[r#"{"id":""}"#, &body("a", ""), "no json", r#"{"id":7}"#]).await;
    assert_eq!(reported, ["m0", "m2", "m3"]);
    assert_eq!(report.of("m0"), Some((Rejected, Some("missing_key"))));
    assert_eq!(report.of("m2"), Some((Rejected, Some("undecodable"))));
    assert_eq!(report.of("m3"), Some((Rejected, Some("undecodable"))));
    assert_eq!(bench.pipeline.store().records().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// P8: however many copies of a key a batch holds and wherever they stand, its work runs once, and each copy shares the
    /// outcome: whatever the limits, the calls' size, and whether the copy comes before or after its leader has ended.
    #[test]
    fn copies_of_a_key_run_once(
        ids in prop::collection::vec(0_usize..6, 1..60),
        concurrency in 1_u64..8,
        chunk_size in 1_usize..26,
    ) {
        const ACTS: [&str; 6] = ["", "slow", "fail", "permanent", "panic", ""];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let store = microbatch::MemoryStore::with_chunk_size(chunk_size.try_into().expect("not zero"));
            let bench = Bench::on(store, |options| options.concurrency = concurrency);
            let bodies: Vec<String> = ids.iter().map(|id| body(&id.to_string(), ACTS[*id])).collect();
            let (reported, report) = bench.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
            let mut seen = std::collections::HashSet::new();
            for (index, id) in ids.iter().enumerate() {
                let first = seen.insert(*id);
                let of_leader = [Processed, Processed, Failed, Rejected, Failed, Processed][*id];
                let expected = if first || of_leader != Processed { of_leader } else { Duplicate };
                prop_assert_eq!(report.items[index].outcome, expected, "message {} of key {}", index, id);
                prop_assert_eq!(reported.contains(&format!("m{index}")), of_leader != Processed);
                prop_assert_eq!(bench.seen.runs(&id.to_string()), 1);
            }
            Ok(())
        })?;
    }
}
