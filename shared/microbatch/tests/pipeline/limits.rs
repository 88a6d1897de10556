//! P11: what is in flight stays within its limits, also when several invocations run at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use microbatch::{
    Clock, MemoryStore,
    Outcome::{Failed, Processed, Rejected},
    Pipeline,
};
use microbatch_testkit::fault::{Fault, FaultStore, Operation};
use proptest::prelude::*;

use crate::{
    support::{Bench, body, paused},
    watched::{Watched, Worker, gauge, load, reset_gauge},
};

#[tokio::test(start_paused = true)]
async fn the_limit_is_the_processs_not_the_invocations() {
    let bench = Arc::new(Bench::on(MemoryStore::new(), |options| options.concurrency = 4));
    let batch = |name: &str| {
        (0..30).map(|index| format!(r#"{{"id":"{name}{index}","act":"slow","ms":10}}"#)).collect::<Vec<_>>()
    };
    let (one, two, three) = (batch("a"), batch("b"), batch("c"));
    let send = |bodies: Vec<String>| {
        let bench = Arc::clone(&bench);
        async move { bench.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await.0 }
    };
    let (one, two, three) = tokio::join!(send(one), send(two), send(three));
    assert_eq!((one.len(), two.len(), three.len()), (0, 0, 0));
    assert_eq!(bench.seen.total(), 90);
    assert_eq!(bench.seen.at_once_max(), 4);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_claimed_than_the_limit_and_two_chunks() {
    // Rule 14. Every item hangs: what is claimed in the end is what was ever claimed.
    let claimed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&claimed);
    let store = FaultStore::new(MemoryStore::new(), move |point| {
        if point.operation == Operation::Claim {
            count.fetch_add(1, Ordering::SeqCst);
        }
        Fault::None
    });
    let bench = Bench::on(store, |options| {
        options.concurrency = 5;
        options.item_timeout_ms = 60_000;
    });
    let bodies: Vec<String> = (0..100).map(|index| body(&index.to_string(), "hang")).collect();
    let (reported, report) = bench.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(reported.len(), 100);
    assert_eq!(report.items.iter().filter(|item| item.attempt.is_some()).count(), 5 + 2);
    assert_eq!(claimed.load(Ordering::SeqCst), 5 + 2);
    assert_eq!(bench.seen.total(), 5);
}

/// What the process may hold, of a store that takes `chunk_size` requests a call: rule 14.
fn claims_max(concurrency: u64, chunk_size: usize) -> usize {
    usize::try_from(concurrency).expect("small") + 2 * chunk_size
}

#[tokio::test(start_paused = true)]
async fn p7_p11_of_ten_thousand_items_the_bad_ones_harm_no_other() {
    // Of a hundred one hangs, one panics and one fails for good: that costs time, but no more memory than others.
    const CHUNK_SIZE: usize = 25;
    reset_gauge();
    let store = Watched::new(MemoryStore::with_chunk_size(CHUNK_SIZE.try_into().expect("not zero")));
    let bench = Bench::of(Pipeline::builder(Worker).key("id"), store.clone());
    let act_of = |index: usize| match index % 100 {
        13 => ("hang", Failed),
        42 => ("panic", Failed),
        77 => ("permanent", Rejected),
        _ => ("", Processed),
    };
    let bodies: Vec<String> =
        (0..10_000).map(|index| load(&index.to_string(), act_of(index).0, 5, index % 200)).collect();
    let started_ms = bench.clock.now_ms();
    let (reported, report) = bench.send_by(&bodies.iter().map(String::as_str).collect::<Vec<_>>(), 60_000).await;
    assert!(bench.clock.now_ms() - started_ms <= 59_500);
    assert_eq!(reported.len(), 300);
    for (index, item) in report.items.iter().enumerate() {
        assert_eq!(item.outcome, act_of(index).1, "item {index}: {item:?}");
    }
    let (gauge, requests) = (gauge(), store.requests());
    assert_eq!((gauge.running_max, gauge.runs.len(), gauge.decoded), (64, 10_000, 0));
    assert!(gauge.decoded_max <= claims_max(64, CHUNK_SIZE), "{} items", gauge.decoded_max);
    assert!(requests.unfinished_max <= claims_max(64, CHUNK_SIZE), "{} claims", requests.unfinished_max);
    assert_eq!(requests.largest_call, CHUNK_SIZE);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// P11: whatever the load, the settings and the invocations at once: what runs, what is claimed and what is decoded stays
    /// within the process's limits, and calls within the store's: 10,000 loads.
    #[test]
    fn p11_nothing_is_held_beyond_its_limit(
        invocations in prop::collection::vec(prop::collection::vec((0_usize..8, 0_u64..30, 0_usize..50), 0..12), 1..4),
        concurrency in 1_u64..8,
        adapts in any::<bool>(),
        shards in 1_u64..4,
        chunk_size in 1_usize..6,
        delay_ms in prop::collection::vec(0_u64..20, 1..6),
    ) {
        const ACTS: [&str; 8] = ["", "", "", "hang", "fail", "permanent", "panic", "again"];
        reset_gauge();
        paused(async {
            let memory = MemoryStore::with_chunk_size(chunk_size.try_into().expect("not zero"));
            let slow = FaultStore::new(memory, move |point| {
                let nth = usize::try_from(point.nth).expect("small");
                Fault::Delay(std::time::Duration::from_millis(delay_ms[nth % delay_ms.len()]))
            });
            let store = Watched::new(slow);
            let builder = Pipeline::builder(Worker).key("id").options(|options| {
                options.concurrency = concurrency;
                options.concurrency_min = adapts.then_some(1);
                options.shards = Some(shards);
                options.item_timeout_ms = 100;
            });
            let bench = Bench::of(builder, store.clone());
            let bodies: Vec<Vec<String>> = invocations.iter().enumerate().map(|(number, items)| {
                items.iter().enumerate().map(|(index, (act, ms, padding))| {
                    // One of eight is a copy of the first.
                    let id = if ACTS[*act] == "again" { "again".to_owned() } else { format!("{number}-{index}") };
                    load(&id, ACTS[*act], *ms, *padding)
                }).collect()
            }).collect();
            let send = async |bodies: &Vec<String>| {
                bench.send_by(&bodies.iter().map(String::as_str).collect::<Vec<_>>(), 600_000).await
            };
            futures_util::future::join_all(bodies.iter().map(send)).await;
            let (gauge, requests) = (gauge(), store.requests());
            prop_assert!(gauge.running_max <= usize::try_from(concurrency).expect("small"));
            let held_max = claims_max(concurrency, chunk_size);
            prop_assert!(requests.unfinished_max <= held_max, "{} claims of {}", requests.unfinished_max, held_max);
            prop_assert!(gauge.decoded_max <= held_max, "{} items of {}", gauge.decoded_max, held_max);
            prop_assert!(gauge.decoded_bytes_max <= held_max * 50);
            prop_assert!(requests.largest_call <= chunk_size);
            prop_assert_eq!(gauge.decoded, 0);
            Ok(())
        })?;
    }
}
