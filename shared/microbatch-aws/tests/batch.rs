//! Batched claims and completions: statements fail one by one inside an HTTP 200, and each is handled by itself (rule 14).

use aws_sdk_dynamodb::{Client, config::retry::RetryConfig};
use microbatch::{
    Commit, Key, NoWrites, Store,
    record::{Owner, StoredResult},
    store::StoreErrorKind,
    transition::{ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, OnLapsedLease},
};
use microbatch_aws::DynamoDbStore;
use microbatch_local::{
    dynamodb::EmbeddedDynamoDb,
    proxy::{Call, Fault, Proxy},
    tables::{Endpoint, TableSpec, ensure},
};

const NOW_MS: u64 = 1_767_225_600_000;

/// A server's answer to three statements, none of which was applied.
const THREE_FAILURES: Fault = Fault::Answer {
    status: 200,
    body: r#"{"Responses":[{"Error":{"Code":"ThrottlingError","Message":"x"}},
        {"Error":{"Code":"AccessDenied","Message":"x"}},{"Error":{"Code":"InternalServerError","Message":"x"}}]}"#,
};

async fn start() -> (EmbeddedDynamoDb, Proxy, DynamoDbStore) {
    let server = EmbeddedDynamoDb::start(None).await.expect("set up");
    ensure(&Endpoint::parse(&server.endpoint_url()).expect("set up"), &[TableSpec::idempotency("records")])
        .await
        .expect("set up");
    let proxy = Proxy::start(server.address(), |_: &Call<'_>| Fault::Pass).await.expect("set up");
    let config = Endpoint::parse(&proxy.endpoint_url()).expect("set up").client().await.config().to_builder();
    let store = DynamoDbStore::new(Client::from_conf(config.retry_config(RetryConfig::disabled()).build()), "records");
    (server, proxy, store)
}

fn claims(keys: &[&str], owner: &str, now_ms: u64) -> Vec<ClaimRequest> {
    let claim = |key: &&str| ClaimRequest {
        key: Key::from_stored(*key),
        owner: Owner::new(format!("{owner}-{key}")),
        fingerprint: None,
        lease_end_ms: now_ms + 10_000,
        retention_end_s: now_ms / 1_000 + 86_400,
        on_lapsed_lease: OnLapsedLease::Retry,
    };
    keys.iter().map(claim).collect()
}

fn completions(keys: &[&str], owner: &str) -> Vec<CompleteRequest<NoWrites>> {
    let complete = |key: &&str| CompleteRequest {
        key: Key::from_stored(*key),
        owner: Owner::new(format!("{owner}-{key}")),
        result: StoredResult::Kept("1".into()),
        retention_end_s: NOW_MS / 1_000 + 86_400,
        writes: Vec::new(),
    };
    keys.iter().map(complete).collect()
}

/// Faults only for the batched calls.
fn on_batches(fault: Fault) -> impl Fn(&Call<'_>) -> Fault + Send + Sync + 'static {
    move |call: &Call<'_>| if call.operation == "BatchExecuteStatement" { fault } else { Fault::Pass }
}

fn is_claimed<E>(answer: &Result<ClaimAnswer, E>) -> bool {
    matches!(answer, Ok(ClaimAnswer::Claimed(_)))
}

#[tokio::test]
async fn a_full_batch_is_one_request() {
    let (_server, proxy, store) = start().await;
    let keys: Vec<String> = (0..25).map(|index| format!("k{index}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    assert!(store.claim(NOW_MS, &claims(&keys, "o", NOW_MS)).await.iter().all(is_claimed));
    let answers = store.complete(NOW_MS, &completions(&keys, "o")).await;
    assert!(answers.iter().all(|answer| *answer == Ok(CompleteAnswer::Completed)), "{answers:?}");
    assert_eq!(proxy.calls().len(), 2, "{:?}", proxy.calls());
}

#[tokio::test]
async fn refused_claims_are_classified_together_and_lapsed_ones_taken_over() {
    let (_server, proxy, store) = start().await;
    store.claim(NOW_MS, &claims(&["done", "held", "lapsed"], "o", NOW_MS)).await;
    store.complete(NOW_MS, &completions(&["done"], "o")).await;
    store.claim(NOW_MS + 8_000, &claims(&["held2"], "o", NOW_MS + 8_000)).await;
    let before = proxy.calls().len();
    let later_ms = NOW_MS + 15_000;
    let answers = store.claim(later_ms, &claims(&["new", "done", "held2", "lapsed"], "p", later_ms)).await;
    assert!(is_claimed(&answers[0]) && is_claimed(&answers[3]), "{answers:?}");
    assert!(matches!(answers[1], Ok(ClaimAnswer::Duplicate { .. })), "{answers:?}");
    assert_eq!(answers[2], Ok(ClaimAnswer::Busy { until_ms: NOW_MS + 18_000 }));
    let made: Vec<_> = proxy.calls()[before..].iter().map(|call| call.operation.clone()).collect();
    assert_eq!(made, ["BatchExecuteStatement", "BatchGetItem", "PutItem"]);
}

#[tokio::test]
async fn each_failed_statement_is_handled_by_itself() {
    let (_server, proxy, store) = start().await;
    proxy.set_script(on_batches(THREE_FAILURES));
    let answers = store.claim(NOW_MS, &claims(&["a", "b", "c"], "o", NOW_MS)).await;
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().expect_err("failed").kind()).collect();
    assert_eq!(kinds, [StoreErrorKind::Throttled, StoreErrorKind::Refused, StoreErrorKind::Unavailable]);
    // Sent again by itself, as the pipeline does, it is a single conditional write.
    assert!(is_claimed(&store.claim(NOW_MS, &claims(&["a"], "o", NOW_MS)).await[0]));
    assert_eq!((proxy.count("PutItem"), proxy.calls().len()), (1, 2));

    let answers = store.complete(NOW_MS, &completions(&["a", "b", "c"], "o")).await;
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().expect_err("failed").kind()).collect();
    assert_eq!(kinds, [StoreErrorKind::Throttled, StoreErrorKind::Refused, StoreErrorKind::Unavailable]);
    assert_eq!(store.complete(NOW_MS, &completions(&["a"], "o")).await, [Ok(CompleteAnswer::Completed)]);
}

#[tokio::test]
async fn a_wrong_number_of_answers_is_an_error_for_each() {
    let (_server, proxy, store) = start().await;
    proxy.set_script(on_batches(Fault::Answer { status: 200, body: r#"{"Responses":[{}]}"# }));
    let answers = store.claim(NOW_MS, &claims(&["a", "b"], "o", NOW_MS)).await;
    assert!(
        answers.iter().all(|answer| answer.as_ref().is_err_and(microbatch::StoreError::is_retryable)),
        "{answers:?}"
    );
}

#[tokio::test]
async fn a_claim_whose_batch_was_applied_and_not_answered_is_recognised() {
    let (_server, proxy, store) = start().await;
    proxy.set_script(on_batches(Fault::DropAnswer));
    let requests = claims(&["a", "b"], "o", NOW_MS);
    let answers = store.claim(NOW_MS, &requests).await;
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
    proxy.set_script(|_: &Call<'_>| Fault::Pass);
    assert!(store.claim(NOW_MS + 1, &requests).await.iter().all(is_claimed));
}

#[tokio::test]
async fn a_read_that_fails_leaves_each_refused_claim_to_a_write_of_its_own() {
    let (_server, proxy, store) = start().await;
    store.claim(NOW_MS, &claims(&["a", "b"], "o", NOW_MS)).await;
    proxy.set_script(|call: &Call<'_>| if call.operation == "BatchGetItem" { Fault::Throttle } else { Fault::Pass });
    let answers = store.claim(NOW_MS + 1, &claims(&["a", "b"], "p", NOW_MS)).await;
    let held = Ok(ClaimAnswer::Busy { until_ms: NOW_MS + 10_000 });
    assert_eq!(answers, [held.clone(), held]);
}

#[tokio::test]
async fn a_completion_of_a_key_that_was_taken_over_is_lost() {
    // P4.
    let (_server, _proxy, store) = start().await;
    store.claim(NOW_MS, &claims(&["a", "b", "c"], "o", NOW_MS)).await;
    let later_ms = NOW_MS + 20_000;
    store.claim(later_ms, &claims(&["a", "b"], "p", later_ms)).await;
    store.complete(later_ms, &completions(&["b"], "p")).await;
    let answers = store.complete(later_ms, &completions(&["a", "b", "c", "absent"], "o")).await;
    let expected =
        [CompleteAnswer::Lost, CompleteAnswer::CompletedByOther, CompleteAnswer::Completed, CompleteAnswer::Lost];
    assert_eq!(answers, expected.map(Ok));
}
