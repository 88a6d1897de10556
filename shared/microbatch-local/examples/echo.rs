//! A function for tests, whose behaviour is set by `ECHO_MODE`. It uses no crate of this workspace: what runs here is what
//! AWS's own runtime does under the Runtime API.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};
use tokio::sync::Barrier;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mode = std::env::var("ECHO_MODE").unwrap_or_default();
    match mode.as_str() {
        "init-exit" => {
            print_error("init says: a setting is missing");
            std::process::exit(9);
        }
        "init-error" => init_error()?,
        "init-hang" => std::future::pending().await,
        _ => {}
    }
    let mode: &'static str = mode.leak();
    let pair = Arc::new(Barrier::new(2));
    let handler = move |event: LambdaEvent<Value>| answer(mode, Arc::clone(&pair), event);
    lambda_runtime::run_concurrent(service_fn(handler)).await
}

async fn answer(mode: &str, pair: Arc<Barrier>, event: LambdaEvent<Value>) -> Result<Value, Error> {
    let (event, context) = event.into_parts();
    match mode {
        "echo" => Ok(event),
        // Answers only when two invocations are in flight.
        "pair" => {
            pair.wait().await;
            Ok(event)
        }
        "context" => Ok(json!({
            "deadline_ms": context.deadline, "request_id": context.request_id, "arn": context.invoked_function_arn,
            "trace": context.xray_trace_id, "env": std::env::vars().collect::<std::collections::BTreeMap<_, _>>(),
        })),
        "error" => Err("the processor is out of order".into()),
        "exit" => {
            print_error("last words");
            std::process::exit(7)
        }
        "abort" => std::process::abort(),
        "hang" => std::future::pending().await,
        "pid-hang" => {
            print_line(&format!("pid {}", std::process::id()));
            std::future::pending().await
        }
        "sleep" => {
            tokio::time::sleep(Duration::from_millis(event["sleep_ms"].as_u64().unwrap_or(0))).await;
            Ok(json!({}))
        }
        "big" => Ok(Value::from("x".repeat(7 * 1024 * 1024))),
        "string" => Ok(Value::from("done")),
        "unknown-id" => Ok(json!({"batchItemFailures": [{"itemIdentifier": "nobody"}]})),
        "fail-first" => Ok(json!({"batchItemFailures": [{"itemIdentifier": event["Records"][0]["messageId"]}]})),
        "items" => Ok(items(&event)),
        _ => Ok(json!({"batchItemFailures": []})),
    }
}

/// Every third item is rejected, the others are processed, and each has its log line.
fn items(event: &Value) -> Value {
    let mut failures = Vec::new();
    for (index, record) in event["Records"].as_array().into_iter().flatten().enumerate() {
        let mut line = json!({
            "timestamp": "2026-01-01T00:00:00Z", "level": "INFO", "target": "microbatch::item", "message": "item", "batch_id": "b",
            "index": index, "message_id": record["messageId"], "outcome": "Processed", "acknowledged": true,
            "attempt": 1_763_900_000_000_u64, "tries": 1, "elapsed_ms": 2,
        });
        if index % 3 == 2 {
            line["outcome"] = "Rejected".into();
            line["acknowledged"] = false.into();
            line["code"] = "unknown_currency".into();
            failures.push(json!({"itemIdentifier": record["messageId"]}));
        }
        print_line(&line.to_string());
    }
    print_line(r#"{"level":"WARN","target":"echo","message":"an own line"}"#);
    json!({"batchItemFailures": failures})
}

/// Posts an init error as a runtime does, then exits.
fn init_error() -> Result<(), Error> {
    let address = std::env::var("AWS_LAMBDA_RUNTIME_API")?;
    let body = r#"{"errorType":"Settings","errorMessage":"MICROBATCH_TABLE is not set"}"#;
    let mut stream = TcpStream::connect(&address)?;
    write!(
        stream,
        "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.read_to_end(&mut Vec::new())?;
    std::process::exit(1)
}

fn print_line(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn print_error(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
