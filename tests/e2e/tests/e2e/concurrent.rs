//! Managed Instances: one process works on several batches at once (`run_concurrent`).

use std::time::Duration;

use e2e::events::{body, event, message_id};
use e2e::stack::Stack;

const TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_batch_does_not_wait_for_another_in_the_same_process() {
    let variables = [("AWS_LAMBDA_MAX_CONCURRENCY", "3"), ("MICROBATCH_ITEM_TIMEOUT_MS", "6000")];
    let stack = Stack::scripted(&variables).await;
    stack.warm_up().await;
    let hanging = stack.failures_of(event(&[body("k-hangs", "hang")]), TIMEOUT);
    let quick = async {
        // The other one has begun: its key is claimed.
        while stack.records().await.is_empty() {
            tokio::task::yield_now().await;
        }
        stack.failures_of(event(&[body("k-0", "ok"), body("k-1", "ok")]), TIMEOUT).await
    };
    tokio::pin!(hanging);
    tokio::select! {
        failed = &mut hanging => panic!("the hanging batch came first: {failed:?}"),
        failed = quick => assert_eq!(failed, [""; 0]),
    }
    assert_eq!(hanging.await, [message_id(0)]);
    assert_eq!(stack.runs().await.len(), 3);
}
