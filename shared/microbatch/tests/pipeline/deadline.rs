//! The response leaves in time and no key stays locked: P10, rules 3 and 5.

use microbatch::{
    Clock, MemoryStore,
    Outcome::{Abandoned, Failed},
    record::LEASE_END_RELEASED_MS,
};
use microbatch_testkit::fault::{Fault, FaultStore, Operation};
use proptest::prelude::*;

use crate::support::{Bench, body, event, key_of, paused};

#[tokio::test(start_paused = true)]
async fn hung_items_are_cut_off_and_what_did_not_start_is_released() {
    let bench = Bench::on(MemoryStore::new(), |options| options.concurrency = 4);
    let started_ms = bench.clock.now_ms();
    let bodies: Vec<String> = (0..10).map(|index| body(&index.to_string(), "hang")).collect();
    let (reported, report) = bench.send_by(&bodies.iter().map(String::as_str).collect::<Vec<_>>(), 3_000).await;
    assert_eq!(reported.len(), 10);
    // 3,000 less 500 margin less 500 to settle, and nothing took long after that.
    assert_eq!(bench.clock.now_ms() - started_ms, 2_000);
    for index in 0..10 {
        let record = bench.pipeline.store().get(&key_of(&index.to_string()));
        let (outcome, _) = report.of(&format!("m{index}")).expect("reported");
        match index {
            0..4 => {
                assert_eq!(outcome, Failed);
                assert_eq!(record.expect("claimed").lease_end_ms, Some(bench.clock.now_ms() + 6_000), "item {index}");
            }
            4..6 => {
                assert_eq!(outcome, Abandoned);
                assert_eq!(record.expect("claimed").lease_end_ms, Some(LEASE_END_RELEASED_MS), "item {index}");
            }
            _ => {
                assert_eq!((outcome, record), (Abandoned, None), "item {index} was never claimed");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_time_left_nothing_is_claimed() {
    for deadline_ms in [0, 400, 500] {
        let bench = Bench::new();
        let started_ms = bench.clock.now_ms();
        let (reported, report) = bench.send_by(&[&body("a", "")], deadline_ms).await;
        assert_eq!((reported.len(), report.items[0].outcome), (1, Abandoned), "{deadline_ms} ms");
        assert_eq!(bench.pipeline.store().records().len(), 0);
        assert_eq!(bench.clock.now_ms(), started_ms);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_was_never_one_counts_as_unknown() {
    // Trap 2: cargo lambda watch announces the constant 600,000.
    let bench = Bench::new();
    let response = bench.pipeline.run(&event(&[&body("a", "")]), "batch", Some(600_000)).await.expect("an event");
    assert_eq!(response.failed_ids(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_applied_and_never_answered_is_given_back() {
    for fault in [Fault::HangAfter, Fault::HangBefore] {
        let store = FaultStore::new(MemoryStore::new(), move |point| match point.operation {
            Operation::Claim => fault,
            _ => Fault::None,
        });
        let bench = Bench::on(store, |_| {});
        let (reported, report) = bench.send_by(&[&body("a", "")], 3_000).await;
        assert_eq!(reported, ["m0"]);
        assert_eq!(report.of("m0"), Some((Abandoned, Some("claim_unanswered"))));
        assert_eq!(bench.seen.total(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_claim_leaves_no_locked_key() {
    let memory = MemoryStore::new();
    let store = FaultStore::new(memory.clone(), |point| match point.operation {
        Operation::Claim => Fault::HangAfter,
        _ => Fault::None,
    });
    Bench::on(store, |_| {}).send_by(&[&body("a", "")], 3_000).await;
    assert!(memory.get(&key_of("a")).expect("applied").is_released());
}

#[tokio::test(start_paused = true)]
async fn an_item_cut_off_at_the_last_moment_is_told_of() {
    // Too late to give its key back, or to hear from its shard: it ran, and its key is held until its lease ends.
    for (deadline_ms, shards) in [(501, 1), (501, 2), (503, 2)] {
        let bench = Bench::on(MemoryStore::new(), |options| options.shards = Some(shards));
        let (reported, report) = bench.send_by(&[&body("a", "hang")], deadline_ms).await;
        assert_eq!((reported.len(), report.of("m0")), (1, Some((Failed, Some("deadline")))), "{deadline_ms} ms");
        assert_eq!(report.counts.releases_lost, 1, "{deadline_ms} ms, {shards} shards");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// P10: whatever hangs, before or after it is applied, the response is there by the deadline less the margin, and
    /// afterwards no item is left and (rule 3) no key is held longer than effect time-out and skew, unless its release
    /// failed too: 10,000 batches.
    #[test]
    fn the_response_is_in_time_whatever_hangs(
        faults in prop::collection::vec((0_u8..6, 0_u8..3), 1..20),
        hang in prop::collection::vec(any::<bool>(), 1..20),
        deadline_ms in 0_u64..5_000,
        concurrency in 1_u64..8,
        shards in 1_u64..3,
        chunk_size in 1_usize..6,
    ) {
        paused(async {
            let memory = MemoryStore::with_chunk_size(chunk_size.try_into().expect("not zero"));
            let store = FaultStore::new(memory.clone(), move |point| {
                let (fault, on) = faults[usize::try_from(point.nth).expect("small") % faults.len()];
                let kind = microbatch::store::StoreErrorKind::TimedOut;
                if [Operation::Claim, Operation::Complete, Operation::Release][usize::from(on)] != point.operation {
                    return Fault::None;
                }
                match fault {
                    0 => Fault::HangBefore,
                    1 => Fault::HangAfter,
                    2 => Fault::Before(kind),
                    3 => Fault::After(kind),
                    4 => Fault::Delay(std::time::Duration::from_millis(700)),
                    _ => Fault::None,
                }
            });
            let bench = Bench::on(store, |options| {
                options.concurrency = concurrency;
                options.shards = Some(shards);
                options.item_timeout_ms = 60_000;
            });
            let started_ms = bench.clock.now_ms();
            let bodies: Vec<String> =
                hang.iter().enumerate().map(|(index, hang)| body(&index.to_string(), if *hang { "hang" } else { "" })).collect();
            let (reported, report) = bench.send_by(&bodies.iter().map(String::as_str).collect::<Vec<_>>(), deadline_ms).await;
            let took_ms = bench.clock.now_ms() - started_ms;
            prop_assert!(took_ms <= deadline_ms.saturating_sub(500), "{took_ms} of {deadline_ms}");
            prop_assert_eq!(bench.seen.at_once(), 0);
            // P1: what is acknowledged is completed.
            for (index, item) in report.items.iter().enumerate() {
                let record = memory.get(&key_of(&index.to_string()));
                let acknowledged = !reported.contains(&item.message_id);
                if acknowledged {
                    let status = record.as_ref().map(|record| record.status);
                    prop_assert_eq!(status, Some(microbatch::record::Status::Completed), "item {}", index);
                }
                if report.counts.releases_lost == 0 && report.counts.completions_lost == 0
                    && let Some(record) = record.filter(|record| record.status == microbatch::record::Status::InProgress)
                {
                    let in_flight_ms = bench.clock.now_ms() + 6_000;
                    prop_assert!(record.lease_end_ms.is_some_and(|end_ms| end_ms <= in_flight_ms), "item {} {:?}", index, record);
                }
            }
            Ok(())
        })?;
    }
}
