//! A store that fails: items fail closed, nothing runs unclaimed, tries are bounded (P14).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use microbatch::{
    MemoryStore,
    Outcome::{Busy, Failed, Processed},
    record::Status,
    store::StoreErrorKind::{Refused, Throttled, TimedOut, Unavailable},
};
use microbatch_testkit::fault::{Fault, FaultStore, Operation};

use crate::support::{Bench, body, key_of};

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_fails_items_closed() {
    for (kind, code, claims) in [
        (Throttled, "store_throttled", 3),
        (Unavailable, "store_unavailable", 3),
        (TimedOut, "store_timed_out", 3),
        (Refused, "store_refused", 1),
    ] {
        let tried = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&tried);
        let store = FaultStore::new(MemoryStore::new(), move |point| {
            if point.operation == Operation::Claim {
                count.fetch_add(1, Ordering::SeqCst);
            }
            Fault::Before(kind)
        });
        let bench = Bench::on(store, |_| {});
        let (reported, report) = bench.send(&[&body("a", "")]).await;
        assert_eq!(reported, ["m0"]);
        assert_eq!(report.of("m0"), Some((Failed, Some(code))));
        assert_eq!(bench.seen.total(), 0, "nothing runs unclaimed");
        assert_eq!(tried.load(Ordering::SeqCst), claims, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_is_recognised_as_its_own() {
    // Trap 8: the retry meets the record that the first try wrote.
    let store = FaultStore::new(MemoryStore::new(), |point| match (point.operation, point.nth) {
        (Operation::Claim, 0) => Fault::After(TimedOut),
        _ => Fault::None,
    });
    let bench = Bench::on(store, |_| {});
    let (reported, report) = bench.send(&[&body("a", "")]).await;
    assert_eq!((reported.len(), report.items[0].outcome, report.items[0].tries), (0, Processed, Some(1)));
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_timed_out_for_good_is_given_back() {
    let memory = MemoryStore::new();
    let store = FaultStore::new(memory.clone(), |point| match (point.operation, point.nth) {
        (Operation::Claim, 0) => Fault::After(TimedOut),
        (Operation::Claim, _) => Fault::Before(Throttled),
        _ => Fault::None,
    });
    let (reported, _) = Bench::on(store, |_| {}).send(&[&body("a", "")]).await;
    assert_eq!(reported, ["m0"]);
    assert!(memory.get(&key_of("a")).expect("applied by the first try").is_released());
}

#[tokio::test(start_paused = true)]
async fn a_completion_is_tried_until_it_succeeds() {
    let store = FaultStore::new(MemoryStore::new(), |point| match point.operation {
        Operation::Complete if point.nth < 12 => Fault::Before(Throttled),
        _ => Fault::None,
    });
    let bench = Bench::on(store, |_| {});
    let (reported, _) = bench.send(&[&body("a", "")]).await;
    assert_eq!((reported.len(), bench.seen.runs("a")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_completion_that_never_succeeds_is_reported_and_counted() {
    let memory = MemoryStore::new();
    let store = FaultStore::new(memory.clone(), |point| match point.operation {
        Operation::Complete => Fault::Before(Unavailable),
        _ => Fault::None,
    });
    let bench = Bench::on(store, |_| {});
    let (reported, report) = bench.send_by(&[&body("a", "")], 3_000).await;
    assert_eq!(reported, ["m0"]);
    assert_eq!(report.of("m0"), Some((Failed, Some("completion_lost"))));
    assert_eq!(report.counts.completions_lost, 1);
    // Its effect has happened: the key stays held, it is not given back at once.
    let record = memory.get(&key_of("a")).expect("a record");
    assert_eq!(record.status, Status::InProgress);
    assert!(!record.is_released());
}

#[tokio::test(start_paused = true)]
async fn an_answer_lost_after_the_completion_was_applied_changes_nothing() {
    let store = FaultStore::new(MemoryStore::new(), |point| match (point.operation, point.nth) {
        (Operation::Complete, 1) => Fault::After(TimedOut),
        _ => Fault::None,
    });
    let bench = Bench::on(store, |_| {});
    let (reported, report) = bench.send(&[&body("a", "")]).await;
    assert_eq!((reported.len(), report.items[0].outcome), (0, Processed));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_another_holds_is_busy_and_reported() {
    let memory = MemoryStore::new();
    let holder = Bench::on(memory.clone(), |_| {});
    let other = Bench::on(memory, |_| {});
    let held = body("a", "slow").replace('}', ",\"ms\":5000}");
    let bodies = [held.as_str()];
    let (first, second) = tokio::join!(holder.send(&bodies), async {
        tokio::task::yield_now().await;
        other.send(&bodies).await
    });
    assert_eq!(first.0.len(), 0);
    assert_eq!((second.0.len(), second.1.items[0].outcome), (1, Busy));
    assert_eq!((holder.seen.runs("a"), other.seen.runs("a")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn tries_after_the_first_are_a_trickle() {
    // P14: 64 completions are refused; of their further tries at most 8 are under way at once.
    let (retries, at_once_max) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (now, most) = (Arc::clone(&retries), Arc::clone(&at_once_max));
    let tried = std::sync::Mutex::new(std::collections::HashMap::<String, u64>::new());
    let store = FaultStore::new(MemoryStore::new(), move |point| {
        if point.operation != Operation::Complete {
            return Fault::None;
        }
        let mut tried = tried.lock().expect("lock");
        let times = tried.entry(point.key.as_str().to_owned()).or_default();
        *times += 1;
        if *times == 1 {
            return Fault::Before(Throttled);
        }
        // Counted for a little less than the request takes, so that one in eight more would be seen as the ninth.
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let now = Arc::clone(&now);
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(9)).await;
            now.fetch_sub(1, Ordering::SeqCst);
        });
        Fault::Delay(std::time::Duration::from_millis(10))
    });
    let bench = Bench::on(store, |_| {});
    let bodies: Vec<String> = (0..64).map(|index| body(&index.to_string(), "")).collect();
    let (reported, _) = bench.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(reported, [""; 0]);
    assert_eq!(at_once_max.load(Ordering::SeqCst), 8);
}

/// A store that takes 25 requests a call.
fn chunked() -> MemoryStore {
    MemoryStore::with_chunk_size(25.try_into().expect("not zero"))
}

#[tokio::test(start_paused = true)]
async fn one_completion_that_never_succeeds_holds_up_no_other() {
    // P7, also where completions share their calls: the others are acknowledged at once, not at the deadline.
    for kind in [Throttled, TimedOut] {
        let bad = key_of("0");
        let store = FaultStore::new(chunked(), move |point| {
            let fails = point.operation == Operation::Complete && *point.key == bad;
            if fails { Fault::Before(kind) } else { Fault::None }
        });
        let bench = Bench::on(store, |_| {});
        let mut bodies = vec![body("0", "")];
        bodies.extend((1..10).map(|index| format!(r#"{{"id":"{index}","act":"slow","ms":100}}"#)));
        let (reported, report) = bench.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert_eq!(reported, ["m0"], "{kind:?}");
        let slowest_ms = report.items[1..].iter().filter_map(|item| item.elapsed_ms).max();
        assert!(slowest_ms.is_some_and(|slowest_ms| slowest_ms < 200), "{kind:?}: {slowest_ms:?} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_completion_call_that_hangs_holds_up_only_its_own() {
    let bad = key_of("0");
    let store = FaultStore::new(chunked(), move |point| {
        let hangs = point.operation == Operation::Complete && *point.key == bad;
        if hangs { Fault::HangBefore } else { Fault::None }
    });
    let bench = Bench::on(store, |_| {});
    let mut bodies = vec![body("0", "")];
    bodies.extend((1..10).map(|index| format!(r#"{{"id":"{index}","act":"slow","ms":100}}"#)));
    let (reported, _) = bench.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(reported, ["m0"]);
}

#[tokio::test(start_paused = true)]
async fn one_claim_that_is_always_throttled_holds_up_no_other() {
    let bad = key_of("0");
    let store = FaultStore::new(chunked(), move |point| {
        let fails = point.operation == Operation::Claim && *point.key == bad;
        if fails { Fault::Before(Throttled) } else { Fault::None }
    });
    let bench = Bench::on(store, |_| {});
    let bodies: Vec<String> = (0..10).map(|index| body(&index.to_string(), "")).collect();
    let (reported, report) = bench.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(reported, ["m0"]);
    assert!(report.items[1..].iter().all(|item| item.elapsed_ms == Some(0)), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn no_claim_is_sent_after_the_cut_off() {
    // Tries after the first wait for a place: the time they waited counts.
    let (latest, clock) = (Arc::new(AtomicU64::new(0)), microbatch_testkit::clock::TokioClock::default());
    let seen = Arc::clone(&latest);
    let store = FaultStore::new(MemoryStore::new(), move |point| {
        if point.operation == Operation::Claim {
            seen.fetch_max(microbatch::Clock::now_ms(&clock), Ordering::SeqCst);
            return Fault::After(TimedOut);
        }
        Fault::Delay(std::time::Duration::from_millis(100))
    });
    let bench = Bench::on(store.clone(), |options| options.concurrency = 64);
    let started_ms = microbatch::Clock::now_ms(&clock);
    let bodies: Vec<String> = (0..64).map(|index| body(&index.to_string(), "")).collect();
    bench.send_by(&bodies.iter().map(String::as_str).collect::<Vec<_>>(), 1_080).await;
    // 1,080 less the margin of 500 leaves 580; a quarter of that is for settling.
    assert!(latest.load(Ordering::SeqCst) - started_ms <= 435, "{}", latest.load(Ordering::SeqCst) - started_ms);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_lost_is_told_by_who_completed() {
    // Rule 4: another claim took the key over; with its completion there the message is acknowledged, without it not.
    for (completed, acknowledged) in [(true, true), (false, false)] {
        let memory = MemoryStore::new();
        let bench = Bench::on(memory.clone(), |_| {});
        let slow = r#"{"id":"a","act":"slow","ms":100}"#;
        let bodies = [slow];
        let ((reported, report), ()) = tokio::join!(bench.send(&bodies), async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let mut record = memory.get(&key_of("a")).expect("claimed");
            record.owner = Some(microbatch::record::Owner::new("another"));
            record.status = if completed { Status::Completed } else { Status::InProgress };
            memory.insert(key_of("a"), record);
        });
        assert_eq!(reported.is_empty(), acknowledged);
        let counts = (report.counts.effect_after_lost_lease, report.counts.lost_leases);
        assert_eq!(counts, if completed { (1, 0) } else { (0, 1) });
        assert_eq!(
            memory.get(&key_of("a")).and_then(|record| record.owner),
            Some(microbatch::record::Owner::new("another"))
        );
    }
}
