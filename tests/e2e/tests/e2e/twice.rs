//! The same event twice on the same tables: no effect the second time, and what completed is acknowledged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use e2e::events::{body, event, message_id};
use e2e::samples::samples;
use e2e::stack::{IDEMPOTENCY_TABLE, ORDERS_TABLE, Stack, need, rows};
use microbatch_local::dynamodb::EmbeddedDynamoDb;
use microbatch_local::tables::Endpoint;

use crate::command::{answer, microbatch};

type Table = BTreeMap<String, BTreeMap<String, AttributeValue>>;

/// A new empty folder for a test's tables, in the target folder.
fn state_folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("state-{name}.{}", std::process::id()));
    // It is there only if a killed run had this process id.
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

/// The kept tables as the next run finds them: the orders, and the records of completed keys.
async fn kept(state: &Path) -> (Table, Table) {
    let dynamodb = need(EmbeddedDynamoDb::start(Some(state)).await);
    let client = need(Endpoint::parse(&dynamodb.endpoint_url())).client().await;
    let table = async |name: &str, key: &str| {
        let rows = rows(&client, name).await.into_iter();
        rows.map(|row| (format!("{:?}", row[key]), row.into_iter().collect())).collect::<Table>()
    };
    let orders = table(ORDERS_TABLE, "order_id").await;
    let mut records = table(IDEMPOTENCY_TABLE, "id").await;
    records.retain(|_, record| record["status"] == AttributeValue::S("COMPLETED".to_owned()));
    dynamodb.stop().await;
    (orders, records)
}

/// P1, P3, P5: through the command line, on every sample event.
#[tokio::test(flavor = "multi_thread")]
async fn with_kept_tables_a_second_run_changes_nothing_and_answers_the_same() {
    for sample in samples() {
        let state = state_folder(&sample.name);
        let folder = state.to_str().expect("cargo's folders are UTF-8");
        let first = microbatch(&sample.file, &["--state", folder]).await;
        assert_eq!(answer(&first), sample.expected, "{}", sample.name);
        let after_first = kept(&state).await;
        let second = microbatch(&sample.file, &["--state", folder]).await;
        assert_eq!(answer(&second), sample.expected, "{}, the second time", sample.name);
        assert_eq!(kept(&state).await, after_first, "{}", sample.name);
        std::fs::remove_dir_all(&state).expect("the state folder can be removed");
    }
}

/// P5, P8: counted by the rows that each run of a key leaves behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_delivery_runs_only_what_did_not_complete() {
    let stack = Stack::scripted(&[]).await;
    let bodies =
        [body("k-0", "ok"), body("k-1", "fail"), body("k-2", "permanent"), body("k-0", "ok"), body("k-3", "ok")];
    let batch = event(&bodies);
    let reported = [message_id(1), message_id(2)];
    for _ in 0..2 {
        assert_eq!(stack.failures_of(batch.clone(), Duration::from_secs(10)).await, reported);
    }
    let runs = stack.runs().await;
    let expected = [("k-0", 1), ("k-1", 2), ("k-2", 2), ("k-3", 1)];
    assert_eq!(runs, expected.map(|(id, runs)| (id.to_owned(), runs)).into());
    let reports = stack.item_reports().await;
    let outcome = |n: usize| reports[&message_id(n)].outcome.as_str();
    assert_eq!([0, 1, 2, 3, 4].map(outcome), ["Duplicate", "Failed", "Rejected", "Duplicate", "Duplicate"]);
}
