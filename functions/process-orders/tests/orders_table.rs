//! The orders table's rules, against an embedded `DynamoDB` over the real SDK.

use aws_sdk_dynamodb::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType},
};
use process_orders::{
    order::{Line, Order},
    orders::{DynamoDbOrders, OrderBook, PARTITION_KEY, Put},
};
use tokio::net::TcpListener;

const TABLE: &str = "orders";

async fn client() -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let database = dynoxide::Database::memory().expect("in memory");
    tokio::spawn(dynoxide::server::serve_on(listener, database));
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "test"))
        .endpoint_url(endpoint);
    Client::from_conf(config.build())
}

async fn create_table(client: &Client) {
    let key = KeySchemaElement::builder().attribute_name(PARTITION_KEY).key_type(KeyType::Hash);
    let attribute = AttributeDefinition::builder().attribute_name(PARTITION_KEY).attribute_type(ScalarAttributeType::S);
    client
        .create_table()
        .table_name(TABLE)
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(key.build().expect("complete"))
        .attribute_definitions(attribute.build().expect("complete"))
        .send()
        .await
        .expect("a table");
}

fn order() -> Order {
    Order {
        order_id: "o-1".to_owned(),
        customer_id: "c-1".to_owned(),
        currency: "EUR".to_owned(),
        lines: vec![
            Line { sku: "s-1".to_owned(), quantity: 100, unit_price_minor: 10_000_000_000_000_000 },
            Line { sku: "s-2".to_owned(), quantity: 1, unit_price_minor: 0 },
        ],
        total_minor: 1_000_000_000_000_000_000,
        amends: Some("o-0".to_owned()),
    }
}

#[tokio::test]
async fn an_order_is_kept_once_and_never_overwritten() {
    let client = client().await;
    create_table(&client).await;
    let orders = DynamoDbOrders::new(client.clone(), TABLE);

    assert_eq!(orders.contains("o-1").await, Ok(false));
    assert_eq!(orders.put(&order()).await, Ok(Put::Kept));
    assert_eq!(orders.contains("o-1").await, Ok(true));
    assert_eq!(orders.put(&order()).await, Ok(Put::Kept), "the same order again");

    let without = Order { amends: None, ..order() };
    assert_eq!(orders.put(&without).await, Ok(Put::Taken));
    let mut changed = order();
    changed.lines[1].quantity = 2;
    assert_eq!(orders.put(&changed).await, Ok(Put::Taken));
    assert_eq!(orders.put(&order()).await, Ok(Put::Kept), "the first one is untouched");
    let all = client.scan().table_name(TABLE).send().await.expect("a scan");
    assert_eq!(all.count, 1);
}

#[tokio::test]
async fn the_largest_order_fits_an_item() {
    use process_orders::order::{ID_BYTES_MAX, LINES_MAX};

    let client = client().await;
    create_table(&client).await;
    let unit_price_minor = u64::MAX / LINES_MAX as u64;
    let line = Line { sku: "s".repeat(ID_BYTES_MAX), quantity: 1, unit_price_minor };
    let largest = Order {
        order_id: "o".repeat(ID_BYTES_MAX),
        customer_id: "c".repeat(ID_BYTES_MAX),
        lines: vec![line; LINES_MAX],
        total_minor: unit_price_minor * LINES_MAX as u64,
        ..order()
    };
    assert_eq!(largest.validate(), Ok(()));
    let orders = DynamoDbOrders::new(client, TABLE);
    assert_eq!(orders.put(&largest).await, Ok(Put::Kept));
    assert_eq!(orders.put(&largest).await, Ok(Put::Kept), "large numbers come back as they were written");
}

#[tokio::test]
async fn a_missing_table_is_an_error_that_names_the_cause_and_no_order() {
    let orders = DynamoDbOrders::new(client().await, TABLE);
    let error = orders.put(&order()).await.expect_err("no table");
    assert_eq!(error.to_string(), "PutItem on the orders table failed: ResourceNotFoundException");
    assert_eq!(error.code(), "orders_table_missing");
    let error = orders.contains("o-1").await.expect_err("no table");
    assert_eq!(error.to_string(), "GetItem on the orders table failed: ResourceNotFoundException");
}
