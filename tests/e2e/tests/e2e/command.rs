//! The `microbatch` command on every sample event, with the function that cargo-lambda built.

use std::path::Path;
use std::process::{Output, Stdio};

use e2e::functions::{functions, microbatch_command};
use e2e::samples::{Sample, samples};
use e2e::stack::need;
use serde_json::Value;
use tokio::process::Command;

/// Runs `microbatch` on an event, with the tables that process-orders needs and these arguments.
pub(crate) async fn microbatch(event: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(need(microbatch_command()))
        .arg(event)
        .arg("--function")
        .arg(need(functions()).process_orders())
        .args(["--env", "ORDERS_TABLE=orders", "--table", "orders=order_id"])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    output.await.expect("the command that was just built can be started")
}

/// The answer on standard output, which holds nothing else.
pub(crate) fn answer(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!("standard output is not one JSON value: {error}; standard error:\n{said}")
    })
}

fn exit_code(sample: &Sample) -> i32 {
    let reports_items = sample.expected["batchItemFailures"].as_array().is_some_and(|failures| !failures.is_empty());
    match (sample.fails(), reports_items) {
        (true, _) => 3,
        (false, true) => 1,
        (false, false) => 0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_event_gives_its_expected_answer() {
    for sample in samples() {
        let output = microbatch(&sample.file, &[]).await;
        assert_eq!(answer(&output), sample.expected, "{}", sample.name);
        assert_eq!(output.status.code(), Some(exit_code(&sample)), "{}", sample.name);
    }
}
