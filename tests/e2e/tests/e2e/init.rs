//! What is wrong with the surroundings is said: at the init all at once, or, where only the first use can show it, in the log.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use e2e::events::{body, event, message_id};
use e2e::functions::functions;
use e2e::sqs::Sqs;
use e2e::stack::{IDEMPOTENCY_TABLE, ORDERS_TABLE, Stack, Tables, need};
use microbatch_local::environment::{self, TABLE_VARIABLE};
use microbatch_local::function::{Function, FunctionFailure, FunctionSpec};
use microbatch_local::proxy::{Call, Fault, Proxy};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(10);

/// How IAM's refusal of a request looks.
const DENIED: Fault = Fault::Answer {
    status: 400,
    body: r#"{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"User: arn:aws:iam::1:role/r is not authorized"}"#,
};

/// Starts `scripted` with a changed environment, where it must fail in its init. Gives the message that was posted, which is
/// also the one ERROR line.
async fn init_error(endpoint_url: &str, variables: &[(&str, Option<&str>)]) -> String {
    let (message, lines) = failed_init(endpoint_url, variables).await;
    let errors = errors(&lines);
    assert!(errors.len() == 1 && errors[0]["message"] == message, "{lines:#?}");
    message
}

/// The message that was posted, and all lines.
async fn failed_init(endpoint_url: &str, variables: &[(&str, Option<&str>)]) -> (String, Vec<String>) {
    let mut env = environment::local(endpoint_url, true);
    for (name, value) in variables {
        env.remove(*name);
        env.extend(value.map(|value| ((*name).to_owned(), value.to_owned())));
    }
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = {
        let lines = Arc::clone(&lines);
        Arc::new(move |_, line: &str| lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned()))
    };
    let spec = FunctionSpec { name: "scripted".to_owned(), program: need(functions()).scripted(), env };
    let function = need(Function::start(spec, sink).await);
    let result = function.invoke(event(&[body("k-0", "ok")]).into(), TIMEOUT).await;
    let Err(FunctionFailure::Init(error)) = result else { panic!("expected an init error, found {result:?}") };
    assert_eq!(error.error_type, "InitFailed");
    assert_eq!(function.exit_status().and_then(|status| status.code()), Some(1));
    let lines = lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
    (error.message, lines)
}

fn errors(lines: &[String]) -> Vec<Value> {
    let logged = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    logged.filter(|line| line["level"] == "ERROR").collect()
}

#[track_caller]
fn assert_names(message: &str, all: &[&str]) {
    let missing: Vec<&&str> = all.iter().filter(|part| !message.contains(**part)).collect();
    assert!(missing.is_empty(), "{missing:?} not in {message:?}");
}

/// An unknown setting, a limit of 0, a minimum over its maximum, a park queue that is missing and of the wrong kind.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_queues_are_named_with_all_that_is_wrong() {
    let (tables, sqs) = (Tables::start().await, Sqs::start("init-queues").await);
    let source_url = sqs.queue("orders.fifo", &[]).await;
    let park_url = source_url.replace("orders.fifo", "nobody-made-this");
    let endpoint_url = sqs.endpoint_url();
    let wrong = [
        ("AWS_ENDPOINT_URL_SQS", Some(endpoint_url.as_str())),
        ("MICROBATCH_QUEUE_URL", Some(source_url.as_str())),
        ("MICROBATCH_PARK_QUEUE_URL", Some(park_url.as_str())),
        ("MICROBATCH_CONCURENCY", Some("8")),
        ("MICROBATCH_ITEM_TIMEOUT_MS", Some("0")),
        ("MICROBATCH_CONCURRENCY", Some("4")),
        ("MICROBATCH_CONCURRENCY_MIN", Some("5")),
    ];
    let message = init_error(&tables.endpoint_url(), &wrong).await;
    assert_names(
        &message,
        &[
            "MICROBATCH_CONCURENCY",
            "MICROBATCH_ITEM_TIMEOUT_MS: expected 1 to 900000, found 0",
            "MICROBATCH_CONCURRENCY_MIN: expected at most concurrency, 4; found 5",
            "\"nobody-made-this\", which does not exist",
            "is a standard queue",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_wrong_with_the_environment_is_in_one_message() {
    let tables = Tables::start().await;
    let wrong = [(TABLE_VARIABLE, None), ("MICROBATCH_CONCURENCY", Some("8"))];
    let message = init_error(&tables.endpoint_url(), &wrong).await;
    assert_names(&message, &["MICROBATCH_TABLE: not set", "MICROBATCH_CONCURENCY"]);
}

/// P13: what a panic says may hold a secret or a payload.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_init_is_told_with_its_place_and_without_its_text() {
    let tables = Tables::start().await;
    let (message, lines) = failed_init(&tables.endpoint_url(), &[("PANIC_IN_INIT", Some("hunter2"))]).await;
    assert_names(&message, &["panicked", "init"]);
    let errors = errors(&lines);
    assert!(errors.len() == 2 && errors[1]["message"] == message, "{lines:#?}");
    assert!(errors[0]["place"].as_str().is_some_and(|place| place.contains("scripted.rs:")), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("hunter2")), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_not_there_comes_with_the_command_that_makes_it() {
    let tables = Tables::start().await;
    let message = init_error(&tables.endpoint_url(), &[(TABLE_VARIABLE, Some("nowhere"))]).await;
    let command = "aws dynamodb create-table --table-name nowhere --attribute-definitions AttributeName=id,AttributeType=S \
                   --key-schema AttributeName=id,KeyType=HASH --billing-mode PAY_PER_REQUEST";
    assert_names(&message, &["MICROBATCH_TABLE", command]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_another_key_is_refused() {
    let tables = Tables::start().await;
    let message = init_error(&tables.endpoint_url(), &[(TABLE_VARIABLE, Some(ORDERS_TABLE))]).await;
    assert_names(&message, &["MICROBATCH_TABLE", "\"orders\"", "another key", "\"id\"", "create-table"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_may_not_be_read_is_named() {
    let tables = Tables::start().await;
    let target: SocketAddr = tables.endpoint_url().trim_start_matches("http://").parse().expect("host and port");
    let proxy = need(Proxy::start(target, |_: &Call<'_>| DENIED).await);
    let message = init_error(&proxy.endpoint_url(), &[]).await;
    assert_names(&message, &["MICROBATCH_TABLE", "\"idempotency\"", "AccessDeniedException", "dynamodb:GetItem"]);
}

/// Lets the function start, and then refuses what writes to the idempotency table. P12: items fail closed.
async fn writing_denied(items: usize, operation: &'static str, denied: Fault, code: &str) {
    let stack = Stack::scripted(&[]).await;
    stack.warm_up().await;
    stack.proxy.set_script(move |call: &Call<'_>| {
        let is_write = call.operation == operation && call.tables.iter().any(|table| table == IDEMPOTENCY_TABLE);
        if is_write { denied } else { Fault::Pass }
    });
    let bodies: Vec<Value> = (0..items).map(|n| body(&format!("k-{n}"), "ok")).collect();
    let failures = stack.failures_of(event(&bodies), TIMEOUT).await;
    assert_eq!(failures, (0..items).map(message_id).collect::<Vec<_>>());
    assert!(stack.effects().await.is_empty() && stack.records().await.is_empty(), "nothing ran, nothing is claimed");
    assert!(stack.proxy.count(operation) > 0, "{:?}", stack.proxy.calls());

    let reports = stack.item_reports().await;
    assert_eq!(reports.len(), items);
    for report in reports.values() {
        assert_eq!((report.code.as_deref(), report.acknowledged), (Some("store_refused"), false), "{report:?}");
    }
    let lines = stack.lines();
    let told = |line: &&String| [operation, code].iter().all(|part| line.contains(part));
    assert!(lines.iter().any(|line| told(&line)), "no line tells {operation} and {code}: {lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_that_is_denied_at_first_use_fails_items_closed_and_is_named() {
    writing_denied(1, "PutItem", DENIED, "AccessDeniedException").await;
    writing_denied(3, "BatchExecuteStatement", DENIED, "AccessDeniedException").await;
}

/// A batch of statements is also refused statement by statement, with another code.
#[tokio::test(flavor = "multi_thread")]
async fn statements_that_are_denied_fail_items_closed_and_are_named() {
    let answer = r#"{"Responses":[{"Error":{"Code":"AccessDenied","Message":"x"}},{"Error":{"Code":"AccessDenied","Message":"x"}},{"Error":{"Code":"AccessDenied","Message":"x"}}]}"#;
    writing_denied(3, "BatchExecuteStatement", Fault::Answer { status: 200, body: answer }, "AccessDenied").await;
}
