//! The DynamoDB store obeys the protocol: on the embedded DynamoDB, and on AWS's own where there is a table for it.

mod dynamodb;

use std::io::Write;

use microbatch_aws::sdk::{sdk_config, store_client};
use microbatch_local::dynamodb::EmbeddedDynamoDb;
use microbatch_testkit::conformance::Histories;

/// Names a table on AWS, its partition key `id` a string, that the tests may write to. Records stay there until their
/// `expiration`, at most a day, and beyond unless that is the table's TTL attribute.
const TABLE_VARIABLE: &str = "MICROBATCH_TEST_TABLE";
/// A second and more for a request from far away.
const LIVE_TIMEOUT_MS: u64 = 5_000;

#[tokio::test(flavor = "multi_thread")]
async fn embedded_dynamodb() {
    let server = EmbeddedDynamoDb::start(None).await.expect("a server");
    dynamodb::check_endpoint(&server.endpoint_url(), Histories::random(60, 30)).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dynamodb_on_aws() {
    let Ok(table) = std::env::var(TABLE_VARIABLE) else {
        // Past the capture of a test's output: a test that is left out says so.
        let _ = writeln!(std::io::stderr(), "dynamodb_on_aws is left out: {TABLE_VARIABLE} names no table");
        return;
    };
    let client = store_client(&sdk_config().await, LIVE_TIMEOUT_MS);
    dynamodb::check_table(&client, &table, Histories::random(10, 20)).await;
}
