//! A bad item is nobody else's matter: P7, rule 3.

use microbatch::{
    Clock, MemoryStore,
    Outcome::{Failed, Processed, Rejected},
};
use proptest::prelude::*;

use crate::support::{Bench, body, key_of, paused};

#[tokio::test(start_paused = true)]
async fn a_panicking_item_fails_alone_and_is_deferred() {
    let bench = Bench::new();
    let (reported, report) = bench.send(&[&body("a", ""), &body("b", "panic"), &body("c", "")]).await;
    assert_eq!(reported, ["m1"]);
    assert_eq!(report.of("m1"), Some((Failed, Some("panicked"))));
    let record = bench.pipeline.store().get(&key_of("b")).expect("a record");
    // Effect time-out and skew of the defaults: what it sent may still arrive.
    assert_eq!(record.lease_end_ms, Some(bench.clock.now_ms() + 6_000));
    assert!(record.owner.is_some(), "deferred, not released");
}

#[tokio::test(start_paused = true)]
async fn a_hung_item_times_out_alone() {
    let bench = Bench::new();
    let started_ms = bench.clock.now_ms();
    let (reported, report) = bench.send(&[&body("a", "hang"), &body("b", "")]).await;
    assert_eq!(reported, ["m0"]);
    assert_eq!(report.of("m0"), Some((Failed, Some("timed_out"))));
    assert_eq!(bench.clock.now_ms() - started_ms, 10_000, "the default time-out of an item");
}

#[tokio::test(start_paused = true)]
async fn an_item_that_panics_while_it_is_cancelled_fails_alone() {
    let bench = Bench::new();
    let (reported, report) = bench.send(&[&body("a", "panic_in_drop"), &body("b", "")]).await;
    assert_eq!(reported, ["m0"]);
    assert_eq!(report.counts.panics_in_drop, 1);
}

#[tokio::test(start_paused = true)]
async fn an_effect_of_unknown_outcome_keeps_its_key_for_a_while() {
    let bench = Bench::new();
    bench.send(&[&body("a", "effect_unknown")]).await;
    let record = bench.pipeline.store().get(&key_of("a")).expect("a record");
    assert_eq!(record.lease_end_ms, Some(bench.clock.now_ms() + 6_000));
}

#[tokio::test(start_paused = true)]
async fn shards_isolate_as_well() {
    let bench = Bench::on(MemoryStore::new(), |options| options.shards = Some(3));
    let bodies: Vec<String> = (0..90)
        .map(|index| body(&index.to_string(), ["", "panic", "hang", "fail", "slow", "permanent"][index % 6]))
        .collect();
    let (reported, report) = bench.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(reported.len(), 60);
    for (index, item) in report.items.iter().enumerate() {
        let expected = [Processed, Failed, Failed, Failed, Processed, Rejected][index % 6];
        assert_eq!(item.outcome, expected, "item {index}");
    }
    assert_eq!(bench.seen.total(), 90);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// P7: the outcome of an item with a key of its own does not depend on what its neighbours do, on how many run at
    /// once, or on where they are polled: 10,000 batches.
    #[test]
    fn neighbours_do_not_matter(
        acts in prop::collection::vec(0_usize..7, 1..16),
        concurrency in 1_u64..12,
        shards in 1_u64..4,
        chunk_size in 1_usize..9,
    ) {
        const ACTS: [&str; 7] = ["", "slow", "fail", "permanent", "panic", "panic_late", "panic_in_drop"];
        paused(async {
            let store = MemoryStore::with_chunk_size(chunk_size.try_into().expect("not zero"));
            let bench = Bench::on(store, |options| {
                options.concurrency = concurrency;
                options.shards = Some(shards);
                options.item_timeout_ms = 100;
            });
            let bodies: Vec<String> = acts.iter().enumerate().map(|(index, act)| body(&index.to_string(), ACTS[*act])).collect();
            let (reported, report) = bench.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
            let mut expected_ids = Vec::new();
            for (index, act) in acts.iter().enumerate() {
                let expected = [Processed, Processed, Failed, Rejected, Failed, Failed, Failed][*act];
                prop_assert_eq!(report.items[index].outcome, expected, "item {} of {:?}", index, ACTS[*act]);
                if expected != Processed {
                    expected_ids.push(format!("m{index}"));
                }
            }
            prop_assert_eq!(reported, expected_ids);
            prop_assert!(bench.seen.at_once_max() <= usize::try_from(concurrency).expect("small"));
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn an_item_that_blocks_its_thread_is_seen_from_another() {
    // Real time: the item blocks until the test has seen it.
    let bench = std::sync::Arc::new(Bench::new());
    let watcher = std::thread::spawn({
        let bench = std::sync::Arc::clone(&bench);
        move || {
            let blocking = loop {
                match bench.pipeline.blocking(5).pop() {
                    Some(blocking) => break blocking,
                    None => std::thread::yield_now(),
                }
            };
            bench.seen.unblock();
            blocking
        }
    });
    let (reported, _) = bench.send(&[&body("a", ""), &body("b", "block")]).await;
    let blocking = watcher.join().expect("the watcher");
    assert_eq!((&*blocking.batch_id, blocking.index), ("batch", 1));
    assert_eq!(reported, [""; 0]);
    assert_eq!(bench.pipeline.blocking(0), []);
}
