//! The store fails, in every way a store can: items fail closed, and nothing is lost or run unclaimed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use e2e::events::{body, event, message_id};
use e2e::stack::{IDEMPOTENCY_TABLE, Stack};
use microbatch_local::proxy::{Call, Fault};
use serde_json::Value;
use tokio::net::TcpSocket;

const TIMEOUT: Duration = Duration::from_secs(10);
/// A store that hangs is given up early, so that the tests are short.
const QUICK: (&str, &str) = ("MICROBATCH_STORE_TIMEOUT_MS", "250");
/// Both ways to send claims and completions.
const CALLS: [(&str, &str); 2] = [("MICROBATCH_STORE_CALLS", "batched"), ("MICROBATCH_STORE_CALLS", "single")];

const ITEMS: usize = 5;

fn batch() -> String {
    let bodies: Vec<Value> = (0..ITEMS).map(|n| body(&format!("k-{n}"), "ok")).collect();
    event(&bodies)
}

fn all_ids() -> Vec<String> {
    (0..ITEMS).map(message_id).collect()
}

fn is_of_store(call: &Call<'_>) -> bool {
    call.tables.iter().any(|table| table == IDEMPOTENCY_TABLE)
}

/// Whether a batch of statements holds one of this verb.
fn has_statement(call: &Call<'_>, verb: &str) -> bool {
    call.operation == "BatchExecuteStatement" && call.body.windows(verb.len()).any(|part| part == verb.as_bytes())
}

fn is_claim(call: &Call<'_>) -> bool {
    is_of_store(call) && (call.operation == "PutItem" || has_statement(call, "INSERT INTO"))
}

/// A completion, or a release: both change a record that is there.
fn is_update(call: &Call<'_>) -> bool {
    is_of_store(call) && (call.operation == "UpdateItem" || has_statement(call, "UPDATE "))
}

/// Hits the first `count` of the calls that are meant, and lets the rest pass.
fn first(
    count: usize,
    meant: fn(&Call<'_>) -> bool,
    fault: Fault,
) -> impl Fn(&Call<'_>) -> Fault + Send + Sync + 'static {
    let seen = AtomicUsize::new(0);
    move |call| if meant(call) && seen.fetch_add(1, Ordering::SeqCst) < count { fault } else { Fault::Pass }
}

/// With a store that works again, the same event completes, and each item has run once by then.
async fn recovers(stack: &Stack) {
    stack.proxy.set_script(|_: &Call<'_>| Fault::Pass);
    assert_eq!(stack.failures_of(batch(), TIMEOUT).await, [""; 0]);
    assert!(stack.records().await.values().all(|record| record.status == "COMPLETED"));
    let runs = stack.runs().await;
    assert_eq!(runs.len(), ITEMS);
    assert!(runs.values().all(|runs| *runs == 1), "{runs:?}");
}

async fn stack(calls: (&str, &str), variables: &[(&str, &str)]) -> Stack {
    let stack = Stack::scripted(&[&[QUICK, calls], variables].concat()).await;
    stack.warm_up().await;
    stack
}

/// P1, P12: whether the claims were applied or not, nothing runs without the answer to its claim. It is given back at once.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_to_its_claim_no_item_runs_and_all_are_reported() {
    let faults =
        [Fault::Throttle, Fault::Error500, Fault::Refuse, Fault::DropAnswer, Fault::HangBefore, Fault::HangAfter];
    for (calls, fault) in CALLS.iter().flat_map(|calls| faults.map(|fault| (*calls, fault))) {
        let stack = stack(calls, &[]).await;
        stack.proxy.set_script(first(usize::MAX, is_of_store, fault));
        assert_eq!(stack.failures_of(batch(), TIMEOUT).await, all_ids(), "{calls:?} {fault:?}");
        assert!(stack.effects().await.is_empty(), "{calls:?} {fault:?}");
        recovers(&stack).await;
    }
}

/// P12: a function whose store cannot be reached at all starts, answers, and reports.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_fails_all_items_and_not_the_function() {
    // Bound and not listening: whoever connects is refused, and nobody else gets the port.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let nobody = format!("http://{}", socket.local_addr().expect("bound"));
    let stack = Stack::scripted(&[QUICK, ("AWS_ENDPOINT_URL_DYNAMODB", &nobody)]).await;
    assert_eq!(stack.failures_of(batch(), TIMEOUT).await, all_ids());
    assert!(stack.proxy.calls().is_empty() && stack.effects().await.is_empty());
}

/// A store that fails now and then costs nothing but a try.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_fails_once_is_tried_again() {
    let faults = [Fault::Throttle, Fault::Refuse, Fault::DropAnswer, Fault::HangAfter];
    for (calls, fault) in CALLS.iter().flat_map(|calls| faults.map(|fault| (*calls, fault))) {
        let stack = stack(calls, &[]).await;
        stack.proxy.set_script(first(1, is_claim, fault));
        assert_eq!(stack.failures_of(batch(), TIMEOUT).await, [""; 0], "{calls:?} {fault:?}");
        recovers(&stack).await;
    }
}

/// P1: the effect has happened, and is acknowledged only once that is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_cannot_be_written_is_never_acknowledged() {
    for calls in CALLS {
        let stack = stack(calls, &[]).await;
        stack.proxy.set_script(first(usize::MAX, is_update, Fault::Throttle));
        assert_eq!(stack.failures_of(batch(), Duration::from_secs(3)).await, all_ids(), "{calls:?}");
        assert!(stack.records().await.values().all(|record| record.status == "INPROGRESS"), "{calls:?}");
        assert_eq!(stack.runs().await.into_values().collect::<Vec<_>>(), [1; ITEMS], "{calls:?}");

        // The keys are held by leases that end: until then the items are busy, and neither run nor are acknowledged.
        stack.proxy.set_script(|_: &Call<'_>| Fault::Pass);
        assert_eq!(stack.failures_of(batch(), TIMEOUT).await, all_ids(), "{calls:?}");
        assert_eq!(stack.runs().await.into_values().collect::<Vec<_>>(), [1; ITEMS], "{calls:?}");
    }
}

/// A completion that fails for a while, or whose answer is lost, is written in the end, without another run.
#[tokio::test(flavor = "multi_thread")]
async fn a_completion_is_tried_until_it_is_written() {
    for (calls, fault) in CALLS.iter().flat_map(|calls| [(*calls, Fault::Throttle), (*calls, Fault::DropAnswer)]) {
        let stack = stack(calls, &[]).await;
        stack.proxy.set_script(first(5, is_update, fault));
        assert_eq!(stack.failures_of(batch(), TIMEOUT).await, [""; 0], "{calls:?} {fault:?}");
        recovers(&stack).await;
    }
}
