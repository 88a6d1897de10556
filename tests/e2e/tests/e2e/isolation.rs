//! A panicking or hanging item fails alone, and the answer leaves in time, in the binaries that are deployed.

use std::time::Duration;

use e2e::events::{body, event, message_id};
use e2e::stack::Stack;

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_item_fails_alone() {
    let stack = Stack::scripted(&[]).await;
    let bodies = [body("k-0", "ok"), body("k-1", "panic"), body("k-2", "ok")];
    let failures = stack.failures_of(event(&bodies), Duration::from_secs(10)).await;
    assert_eq!(failures, [message_id(1)]);
}
