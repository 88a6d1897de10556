//! The larger tools that other tests install: each starts.

use std::process::Command;

use e2e::http::post;
use e2e::process::{Foreign, free_address, guarded};
use e2e::stack::need;
use e2e::tools::{dynamodb_local, ministack, powertools_python};

#[tokio::test]
#[ignore = "needs Java and Node: downloads some 200 MB"]
async fn dynamodb_local_starts() {
    let address = need(free_address());
    let mut command = need(dynamodb_local());
    command.args(["-port", &address.port().to_string()]);
    let mut server = need(Foreign::start(command, "dynamodb-local"));
    need(server.until_listening(address).await);
}

#[tokio::test]
#[ignore = "downloads ministack with boto3: 130 MB on disk"]
async fn ministack_starts() {
    let address = need(free_address());
    let mut command = guarded(need(ministack()));
    command.env("MINISTACK_HOST", address.ip().to_string()).env("GATEWAY_PORT", address.port().to_string());
    let mut server = need(Foreign::start(command, "ministack"));
    need(server.until_listening(address).await);
    let (status, _) = need(post(address, "/?Action=ListQueues&Version=2012-11-05", "").await);
    assert_eq!(status, 200, "{}", server.last_said());
}

#[test]
#[ignore = "downloads powertools with boto3: 70 MB on disk"]
fn powertools_can_be_imported() {
    let import = "import aws_lambda_powertools.utilities.idempotency, boto3";
    let status = Command::new(need(powertools_python())).args(["-c", import]).status();
    assert!(status.expect("it can be started").success());
}
