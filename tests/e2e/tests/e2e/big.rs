//! Batches as large as they come: they pass, in bounded memory.

use std::io::Write;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use e2e::stack::Stack;
use microbatch_testkit::events::{Envelope, EventSpec, generate};

/// Generous: the DynamoDB here is a debug build that shares two cores with the function.
const TIMEOUT: Duration = Duration::from_mins(5);

/// What a function may take beside the payload, in KiB: the program, its connections, and the answer.
const FIXED_KIB: u64 = 48 * 1024;
/// What it may take for each KiB of payload: the text as received, the items, their keys and records.
const KIB_PER_PAYLOAD_KIB: u64 = 4;

/// P11: memory follows the payload, not the number of records.
async fn a_batch_passes(records: usize, envelope: Envelope, body_bytes: usize) {
    let spec = EventSpec {
        records: NonZeroUsize::new(records).expect("more than none"),
        envelope,
        body_bytes,
        seed: 7,
        fifo_groups: None,
        first_order: 100_000,
    };
    let event = generate(&spec).expect("a batch within the limit");
    let payload_kib = event.len() as u64 / 1024;
    assert!(payload_kib > 6_000, "{payload_kib} KiB: close to the 6 MB that an invocation may have");
    let stack =
        Stack::process_orders(&[("MICROBATCH_ITEM_LOG", "failures"), ("MICROBATCH_ITEM_TIMEOUT_MS", "60000")]).await;
    stack.warm_up().await;
    let start = Instant::now();
    let failures = stack.failures_of(event, TIMEOUT).await;
    let elapsed = start.elapsed();
    let peak_kib = stack.function.peak_resident_kib().expect("Linux tells the peak of a live process");
    // Written past the capture of test output: the figure is of interest when the test passes.
    writeln!(
        std::io::stderr(),
        "{records} records, payload {payload_kib} KiB: peak resident size {peak_kib} KiB, {elapsed:.1?}"
    )
    .expect("standard error is open");

    assert!(failures.is_empty(), "{} reported, the first is {}", failures.len(), failures[0]);
    assert_eq!(stack.orders().await.len(), records);
    let records_kept = stack.records().await;
    assert_eq!(records_kept.len(), records);
    assert!(records_kept.values().all(|record| record.status == "COMPLETED"));
    assert!(peak_kib < FIXED_KIB + KIB_PER_PAYLOAD_KIB * payload_kib, "{peak_kib} KiB for {payload_kib} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_real_records_pass() {
    a_batch_passes(5_000, Envelope::Real, 260).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_short_records_pass() {
    a_batch_passes(10_000, Envelope::Short, 360).await;
}
