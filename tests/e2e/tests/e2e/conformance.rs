//! The store conformance suite on other servers than the embedded DynamoDB: AWS's own DynamoDB Local, and ministack.

// One file for all servers: a configuration of the store that is added there is checked on each of them.
#[path = "../../../../shared/microbatch-aws/tests/conformance/dynamodb.rs"]
mod dynamodb;

use std::process::Command;

use e2e::process::{Foreign, free_address};
use e2e::stack::need;
use e2e::tools::{dynamodb_local, ministack};
use microbatch_testkit::conformance::Histories;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Java and Node: downloads some 200 MB"]
async fn dynamodb_local_obeys_the_protocol() {
    let address = need(free_address());
    let mut command = need(dynamodb_local());
    command.args(["-port", &address.port().to_string()]);
    let mut server = need(Foreign::start(command, "conformance-dynamodb-local"));
    need(server.until_listening(address).await);
    dynamodb::check_endpoint(&format!("http://{address}"), Histories::random(30, 30)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "downloads ministack with boto3: 130 MB on disk"]
async fn ministack_obeys_the_protocol() {
    let address = need(free_address());
    let mut command = Command::new(need(ministack()));
    command.env("MINISTACK_HOST", address.ip().to_string()).env("GATEWAY_PORT", address.port().to_string());
    let mut server = need(Foreign::start(command, "conformance-ministack"));
    need(server.until_listening(address).await);
    dynamodb::check_endpoint(&format!("http://{address}"), Histories::random(30, 30)).await;
}
