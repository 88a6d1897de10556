//! A real process under the Runtime API: it answers, errs, dies, hangs.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use microbatch_local::function::{Function, FunctionFailure, FunctionSpec, LogSink, LogStream, Phase, StartError};
use microbatch_local::runtime_api::{InvocationResult, InvokeError};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(30);

/// `cargo test` puts examples beside the folder of the test's own binary.
fn echo_program() -> PathBuf {
    let test = std::env::current_exe().expect("the test's path");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let program = profile.join("examples/echo");
    assert!(program.exists(), "{} is missing: run `cargo build --example echo -p microbatch-local`", program.display());
    program
}

fn silent() -> LogSink {
    Arc::new(|_, _| {})
}

async fn echo(mode: &str) -> Function {
    echo_with(mode, silent()).await
}

async fn echo_with(mode: &str, sink: LogSink) -> Function {
    let concurrency = if mode == "pair" { "2" } else { "1" };
    let env = [("ECHO_MODE", mode), ("AWS_LAMBDA_MAX_CONCURRENCY", concurrency)];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let spec = FunctionSpec { name: "echo".to_owned(), program: echo_program(), env };
    Function::start(spec, sink).await.expect("a function")
}

async fn answer(function: &Function, event: Value) -> Value {
    match function.invoke(event.to_string().into(), LONG).await.expect("an answer") {
        InvocationResult::Response(bytes) => serde_json::from_slice(&bytes).expect("JSON"),
        InvocationResult::FunctionError(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn events_go_in_and_responses_come_out_one_after_the_other() {
    let function = echo("echo").await;
    for n in 0..3 {
        assert_eq!(answer(&function, json!({"n": n})).await, json!({"n": n}));
    }
    assert_eq!(function.exit_status(), None);
    if cfg!(target_os = "linux") {
        assert!(function.peak_resident_kib().expect("a peak") > 500);
    }
    assert_eq!(function.stop().await.and_then(|status| status.signal()), Some(9));
    assert_eq!(function.peak_resident_kib(), None);
}

#[tokio::test]
async fn six_megabytes_go_in_and_out() {
    let function = echo("echo").await;
    let event = json!({"text": "x".repeat(6 * 1024 * 1024 - 100)});
    assert_eq!(answer(&function, event.clone()).await, event);
}

#[tokio::test]
async fn the_headers_and_the_environment_are_lambdas_and_nothing_else() {
    let function = echo("context").await;
    let before_ms =
        u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis()).expect("ms");
    let context = answer(&function, json!({})).await;
    let left_ms = context["deadline_ms"].as_u64().expect("a deadline") - before_ms;
    assert!((29_000..45_000).contains(&left_ms), "{left_ms}");
    assert_eq!(context["arn"], "arn:aws:lambda:eu-west-1:123456789012:function:echo");
    assert!(context["trace"].as_str().is_some_and(|trace| trace.starts_with("Root=1-")), "{context}");
    assert_eq!(context["request_id"].as_str().map(str::len), Some(36));
    let env = context["env"].as_object().expect("an environment");
    assert_eq!(env["AWS_LAMBDA_FUNCTION_VERSION"], "$LATEST");
    assert!(env.contains_key("PATH"));
    assert!(!env.keys().any(|name| name.starts_with("CARGO")), "the caller's environment leaked: {:?}", env.keys());
}

#[tokio::test]
async fn an_error_is_the_functions_and_the_process_lives_on() {
    let function = echo("error").await;
    for _ in 0..2 {
        let result = function.invoke("{}".into(), LONG).await.expect("an answer");
        let InvocationResult::FunctionError(error) = result else { panic!("{result:?}") };
        assert_eq!(error.message, "the processor is out of order");
        assert!(serde_json::from_slice::<Value>(&error.raw).expect("JSON")["errorType"].is_string());
    }
}

#[tokio::test]
async fn a_response_over_lambdas_limit_is_a_function_error() {
    let function = echo("big").await;
    let result = function.invoke("{}".into(), LONG).await.expect("an answer");
    let InvocationResult::FunctionError(error) = result else { panic!("a response") };
    assert_eq!(error.error_type, "Function.ResponseSizeTooLarge");
}

#[tokio::test]
async fn an_event_over_the_limit_never_reaches_the_function() {
    let function = echo("echo").await;
    let failure = function.invoke(Bytes::from(vec![b' '; 17 * 1024 * 1024]), LONG).await.expect_err("too large");
    assert!(matches!(failure, FunctionFailure::Invoke(InvokeError::EventTooLarge { .. })), "{failure}");
    assert_eq!(answer(&function, json!(1)).await, json!(1));
}

#[tokio::test]
async fn a_death_is_told_with_its_cause_and_last_words_and_a_restart_helps() {
    let mut function = echo("exit").await;
    let failure = function.invoke("{}".into(), LONG).await.expect_err("a death");
    let FunctionFailure::Died { status, phase } = failure else { panic!("{failure}") };
    assert_eq!((status.code(), phase), (Some(7), Phase::Invocation));
    assert_eq!(function.last_lines(LogStream::Stderr), ["last words"]);

    let again = function.invoke("{}".into(), LONG).await.expect_err("still dead");
    assert!(matches!(again, FunctionFailure::Died { .. }), "{again}");
    let old = function.process_id();
    function.restart().await.expect("a new process");
    assert_ne!(function.process_id(), old);
    assert_eq!(function.exit_status(), None);
}

#[tokio::test]
async fn a_signal_is_told_as_one() {
    let function = echo("abort").await;
    let failure = function.invoke("{}".into(), LONG).await.expect_err("a death");
    assert!(matches!(failure, FunctionFailure::Died { status, .. } if status.signal() == Some(6)), "{failure}");
    assert!(failure.to_string().contains("signal: 6"), "{failure}");
}

#[tokio::test]
async fn a_missed_deadline_kills_the_process() {
    let mut function = echo("hang").await;
    let start = Instant::now();
    let failure = function.invoke("{}".into(), Duration::from_millis(300)).await.expect_err("no answer");
    assert_eq!(failure, FunctionFailure::Invoke(InvokeError::TimedOut { timeout_ms: 300 }));
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(function.exit_status().and_then(|status| status.signal()), Some(9));
    function.restart().await.expect("a new process");
    assert_eq!(function.exit_status(), None);
}

#[tokio::test]
async fn init_errors_and_deaths_in_init_are_told_apart() {
    let failure = echo("init-error").await.invoke("{}".into(), LONG).await.expect_err("no init");
    let FunctionFailure::Init(error) = &failure else { panic!("{failure}") };
    assert_eq!((error.error_type.as_str(), error.message.as_str()), ("Settings", "MICROBATCH_TABLE is not set"));

    let function = echo("init-exit").await;
    let failure = function.invoke("{}".into(), LONG).await.expect_err("no init");
    assert!(matches!(failure, FunctionFailure::Died { phase: Phase::Init, .. }), "{failure}");
    assert_eq!(function.last_lines(LogStream::Stderr), ["init says: a setting is missing"]);
}

#[tokio::test]
async fn a_hanging_init_ends_after_lambdas_ten_seconds_and_the_time_out() {
    let function = echo("init-hang").await;
    let failure = function.invoke("{}".into(), Duration::from_millis(100)).await.expect_err("no init");
    assert_eq!(failure, FunctionFailure::Invoke(InvokeError::NeverAsked { waited_ms: 10_100 }));
    assert!(function.exit_status().is_some());
}

#[tokio::test]
async fn invocations_queue_and_are_answered_each_by_its_own() {
    let function = Arc::new(echo("echo").await);
    let calls: Vec<_> = (0..20)
        .map(|n| {
            let function = Arc::clone(&function);
            tokio::spawn(async move { (n, answer(&function, json!({"n": n})).await) })
        })
        .collect();
    for call in calls {
        let (n, answer) = call.await.expect("a call");
        assert_eq!(answer, json!({"n": n}));
    }
}

#[tokio::test]
async fn a_concurrent_runtime_has_several_in_flight() {
    let function = echo("pair").await;
    let (one, other) = tokio::join!(answer(&function, json!(1)), answer(&function, json!(2)));
    assert_eq!((one, other), (json!(1), json!(2)));
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_the_function_usable() {
    let function = echo("sleep").await;
    let given_up = function.invoke(json!({"sleep_ms": 300}).to_string().into(), LONG);
    assert!(tokio::time::timeout(Duration::from_millis(100), given_up).await.is_err());
    assert_eq!(answer(&function, json!({"sleep_ms": 0})).await, json!({}));
}

#[tokio::test]
async fn every_line_reaches_the_sink_before_stop_returns() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&lines);
    let sink: LogSink = Arc::new(move |stream, line| seen.lock().expect("a lock").push((stream, line.to_owned())));
    let function = echo_with("items", sink).await;
    let records: Vec<Value> = (0..1_000).map(|n| json!({"messageId": format!("m-{n}")})).collect();
    answer(&function, json!({"Records": records})).await;
    function.stop().await;
    assert_eq!(lines.lock().expect("a lock").len(), 1_001);
    assert_eq!(function.last_lines(LogStream::Stdout).len(), 1, "item lines are no last words");
}

#[tokio::test]
async fn the_process_does_not_outlive_its_function() {
    let function = echo("echo").await;
    answer(&function, json!({})).await;
    let id = function.process_id().expect("an id");
    drop(function);
    let gone = async {
        while std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, gone).await.expect("the process has ended");
}

#[tokio::test]
async fn a_missing_or_foreign_binary_is_named() {
    let spec = |program: &str| FunctionSpec { name: "f".to_owned(), program: program.into(), env: BTreeMap::new() };
    let error = Function::start(spec("./no/such/binary"), silent()).await.expect_err("no binary");
    assert!(matches!(error, StartError::Spawn { .. }) && error.to_string().contains("./no/such/binary"), "{error}");
    let error = Function::start(spec(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")), silent())
        .await
        .expect_err("no program");
    assert!(error.to_string().contains("cannot be started"), "{error}");
}
