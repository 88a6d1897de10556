//! Equal keys in one batch and across batches: P1, P5, P8, P9.

use microbatch::{
    Outcome::{Conflict, Duplicate, Failed, Processed, Rejected},
    record::{Status, StoredResult},
};

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
