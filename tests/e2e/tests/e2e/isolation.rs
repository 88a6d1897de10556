//! A panicking or hanging item fails alone, and the answer leaves in time, in the binaries that are deployed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use e2e::events::{body, event, message_id};
use e2e::stack::{Stack, now_ms};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(10);

/// P7, P13: the panic's text holds the item's id, and no line of the function does.
#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_item_fails_alone() {
    let stack = Stack::scripted(&[]).await;
    let bodies = [body("good-0", "ok"), body("very-private", "panic"), body("good-2", "ok")];
    assert_eq!(stack.failures_of(event(&bodies), TIMEOUT).await, [message_id(1)]);
    // The process lives on, and so does its pipeline.
    assert_eq!(stack.failures_of(event(&[body("good-3", "ok")]), TIMEOUT).await, [""; 0]);
    let ran: Vec<String> = stack.runs().await.into_keys().collect();
    assert_eq!(ran, ["good-0", "good-2", "good-3", "very-private"]);
    stack.function.stop().await;
    let told: Vec<String> = stack.lines().into_iter().filter(|line| line.contains("very-private")).collect();
    assert!(told.is_empty(), "{told:?}");
}

/// P7: whether it panics at once or when it is cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_panics_when_it_is_cancelled_fails_alone() {
    let stack = Stack::scripted(&[("MICROBATCH_ITEM_TIMEOUT_MS", "300")]).await;
    let bodies = [body("k-0", "ok"), body("k-1", "panic_on_drop"), body("k-2", "ok")];
    assert_eq!(stack.failures_of(event(&bodies), TIMEOUT).await, [message_id(1)]);
    assert_eq!(stack.failures_of(event(&[body("k-3", "ok")]), TIMEOUT).await, [""; 0]);
}

/// P7: at its own time-out, long before the invocation's deadline.
#[tokio::test(flavor = "multi_thread")]
async fn a_hung_item_times_out_alone() {
    let stack = Stack::scripted(&[("MICROBATCH_ITEM_TIMEOUT_MS", "300"), ("MICROBATCH_CONCURRENCY", "1")]).await;
    stack.warm_up().await;
    let bodies = [body("k-0", "ok"), body("k-1", "hang"), body("k-2", "ok")];
    let start = Instant::now();
    assert_eq!(stack.failures_of(event(&bodies), TIMEOUT).await, [message_id(1)]);
    assert!(start.elapsed() < TIMEOUT / 2, "{:?}", start.elapsed());
    let reports = stack.item_reports().await;
    assert_eq!(reports[&message_id(1)].code.as_deref(), Some("timed_out"));
    assert_eq!(reports[&message_id(2)].outcome, "Processed");
}

const DEADLINE: Duration = Duration::from_secs(3);
const MARGIN_MS: u64 = 600;
const EFFECT_TIMEOUT_MS: u64 = 1_500;
const CLOCK_SKEW_MS: u64 = 700;

/// P10, P12, rule 3: the answer leaves before the deadline less the margin; afterwards no key that was not started is locked,
/// and none that was is locked for longer than a request in flight can live.
async fn ten_hung_items(concurrency: &str) {
    let stack = Stack::scripted(&[
        ("MICROBATCH_CONCURRENCY", concurrency),
        ("MICROBATCH_DEADLINE_MARGIN_MS", &MARGIN_MS.to_string()),
        ("MICROBATCH_EFFECT_TIMEOUT_MS", &EFFECT_TIMEOUT_MS.to_string()),
        ("MICROBATCH_CLOCK_SKEW_MS", &CLOCK_SKEW_MS.to_string()),
    ])
    .await;
    stack.warm_up().await;
    let ids: Vec<String> = (0..10).map(|n| format!("k-{n}")).collect();
    let bodies: Vec<Value> = ids.iter().map(|id| body(id, "hang")).collect();
    let start = Instant::now();
    let failures = stack.failures_of(event(&bodies), DEADLINE).await;
    let (elapsed, answered_ms) = (start.elapsed(), now_ms());
    assert_eq!(failures, (0..10).map(message_id).collect::<Vec<_>>());
    assert!(elapsed < DEADLINE.saturating_sub(Duration::from_millis(MARGIN_MS)), "{elapsed:?}");

    let started: BTreeSet<String> = stack.effects().await.into_iter().map(|effect| effect.key).collect();
    let limit: usize = concurrency.parse().expect("a number");
    assert_eq!(started.len(), limit.min(10), "as many as may run at once have started");
    for (key, record) in stack.records().await {
        assert_eq!(record.status, "INPROGRESS", "{record:?}");
        let lease_end_ms = record.lease_end_ms.expect("a lease end");
        if started.contains(&key) {
            assert!(lease_end_ms <= answered_ms + EFFECT_TIMEOUT_MS + CLOCK_SKEW_MS, "{record:?} at {answered_ms}");
        } else {
            assert_eq!(lease_end_ms, 1, "released: {record:?}");
        }
    }

    // What was not started runs at once when it is delivered again.
    let ran: BTreeSet<String> = stack.runs().await.into_keys().collect();
    let unstarted: Vec<Value> = ids.iter().filter(|id| !ran.contains(*id)).map(|id| body(id, "ok")).collect();
    assert_eq!(unstarted.len(), 10 - ran.len());
    assert_eq!(stack.failures_of(event(&unstarted), TIMEOUT).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_hung_items_all_started_leave_in_time() {
    ten_hung_items("64").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_hung_items_some_not_started_leave_in_time() {
    ten_hung_items("4").await;
}

/// What the function may take for 10,000 items, in KiB: what a batch of 6 MB may take (see `big.rs`).
const PEAK_KIB_MAX: u64 = 72 * 1024;

/// P7, P10, P11: 10,000 items of which one in a hundred hangs, one in a hundred panics and one in a hundred fails for good:
/// every other completes, in bounded memory, before the deadline.
#[tokio::test(flavor = "multi_thread")]
async fn of_ten_thousand_items_only_the_bad_ones_fail() {
    // Generous, since the DynamoDB here is a debug build on two cores that other tests use too.
    let deadline = Duration::from_mins(3);
    let variables =
        [("MICROBATCH_ITEM_TIMEOUT_MS", "5000"), ("MICROBATCH_ITEM_LOG", "none"), ("MICROBATCH_CONCURRENCY", "128")];
    let stack = Stack::scripted(&variables).await;
    stack.warm_up().await;
    let act = |n: usize| match n % 100 {
        13 => "hang",
        42 => "panic",
        77 => "permanent",
        _ => "ok",
    };
    let bodies: Vec<Value> = (0..10_000).map(|n| body(&format!("k-{n}"), act(n))).collect();
    let start = Instant::now();
    let failures = stack.failures_of(event(&bodies), deadline).await;
    assert!(start.elapsed() < deadline, "{:?}", start.elapsed());
    let expected: Vec<String> = (0..10_000).filter(|n| act(*n) != "ok").map(message_id).collect();
    assert_eq!(failures, expected);
    let runs = stack.runs().await;
    assert_eq!(runs.len(), 10_000);
    assert!(runs.values().all(|runs| *runs == 1));
    let peak_kib = stack.function.peak_resident_kib().expect("Linux tells the peak of a live process");
    assert!(peak_kib < PEAK_KIB_MAX, "{peak_kib} KiB");
}
