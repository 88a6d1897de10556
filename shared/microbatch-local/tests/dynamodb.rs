//! The embedded `DynamoDB` and its tables, through the SDK.

use std::path::PathBuf;

use aws_sdk_dynamodb::types::AttributeValue;
use microbatch_local::dynamodb::{DynamoDbError, EmbeddedDynamoDb};
use microbatch_local::tables::{Endpoint, TableError, TableSpec, ensure};

fn fresh_folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("an old folder is removed");
    }
    folder
}

fn tables() -> Vec<TableSpec> {
    vec![TableSpec::idempotency("idempotency"), "ledger=account_id,entry_id".parse().expect("a table")]
}

#[tokio::test]
async fn missing_tables_are_made_once_and_kept_with_their_items() {
    let folder = fresh_folder("state-kept");
    for run in 0..2 {
        let db = EmbeddedDynamoDb::start(Some(&folder)).await.expect("a database");
        let endpoint = Endpoint::parse(&db.endpoint_url()).expect("an endpoint");
        ensure(&endpoint, &tables()).await.expect("tables");
        let client = endpoint.client().await;
        let id = AttributeValue::S("k".to_owned());
        let found = client.get_item().table_name("idempotency").key("id", id.clone()).send().await.expect("an answer");
        assert_eq!(found.item.is_some(), run == 1);
        client.put_item().table_name("idempotency").item("id", id).send().await.expect("a write");
        drop(client);
        db.stop().await;
    }
}

#[tokio::test]
async fn a_state_folder_has_one_user() {
    let folder = fresh_folder("state-locked");
    let first = EmbeddedDynamoDb::start(Some(&folder)).await.expect("a database");
    let error = EmbeddedDynamoDb::start(Some(&folder)).await.expect_err("locked");
    assert!(
        matches!(error, DynamoDbError::Locked { holder: Some(holder), .. } if holder == std::process::id()),
        "{error}"
    );
    first.stop().await;
    EmbeddedDynamoDb::start(Some(&folder)).await.expect("free again");
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_named() {
    let error = EmbeddedDynamoDb::start(Some(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))).await;
    assert!(error.expect_err("a file").to_string().contains("Cargo.toml is no folder"));
    let folder = fresh_folder("state-broken");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("order.json"), "{}").expect("a file");
    let error = EmbeddedDynamoDb::start(Some(&folder)).await.expect_err("other files");
    assert!(matches!(error, DynamoDbError::NotState { .. }), "{error}");
    assert_eq!(std::fs::read_dir(&folder).expect("the folder").count(), 1, "it leaves nothing behind");
    std::fs::write(folder.join("dynamodb.sqlite"), "no database ".repeat(100)).expect("a file");
    let error = EmbeddedDynamoDb::start(Some(&folder)).await.expect_err("no database").to_string();
    assert!(error.contains("dynamodb.sqlite") && error.contains("remove the file"), "{error}");
}

#[tokio::test]
async fn a_table_with_other_keys_is_refused() {
    let db = EmbeddedDynamoDb::start(None).await.expect("a database");
    let endpoint = Endpoint::parse(&db.endpoint_url()).expect("an endpoint");
    ensure(&endpoint, &["things=a".parse().expect("a table")]).await.expect("a table");
    let error = ensure(&endpoint, &["things=a,b".parse().expect("a table")]).await.expect_err("other keys");
    assert!(matches!(error, TableError::OtherKeys { .. }), "{error}");
    assert_eq!(error.to_string(), "the table things has the key a; expected a,b (strings)");
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_said_so() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let endpoint = Endpoint::parse(&format!("http://{free}")).expect("an endpoint");
    let error = ensure(&endpoint, &tables()).await.expect_err("nobody");
    assert!(matches!(error, TableError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&free.to_string()), "{error}");
}

#[tokio::test]
async fn a_cleared_database_has_no_tables_and_goes_on() {
    let db = EmbeddedDynamoDb::start(None).await.expect("a database");
    let endpoint = Endpoint::parse(&db.endpoint_url()).expect("an endpoint");
    let client = endpoint.client().await;
    let id = AttributeValue::S("k".to_owned());
    for _ in 0..2 {
        ensure(&endpoint, &tables()).await.expect("tables");
        let found = client.get_item().table_name("idempotency").key("id", id.clone()).send().await.expect("an answer");
        assert_eq!(found.item, None);
        client.put_item().table_name("idempotency").item("id", id.clone()).send().await.expect("a write");
        db.clear().expect("a folder for temporary files");
        assert_eq!(client.list_tables().send().await.expect("an answer").table_names(), [""; 0]);
    }
}
