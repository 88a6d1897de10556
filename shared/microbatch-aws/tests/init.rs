//! What is wrong with the table is said at init, with what would make it right.

use aws_sdk_dynamodb::{Client, config::retry::RetryConfig};
use microbatch_aws::{
    DynamoDbStore,
    dynamodb::{InitError, Layout},
};
use microbatch_local::{
    dynamodb::EmbeddedDynamoDb,
    proxy::{Call, Fault, Proxy},
    tables::{Endpoint, TableSpec, ensure},
};

const DENIED: Fault = Fault::Answer {
    status: 400,
    body: r#"{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"User: arn:aws:iam::1:role/r is not authorized"}"#,
};

async fn client(url: &str) -> Client {
    let config = Endpoint::parse(url).expect("set up").client().await.config().to_builder();
    Client::from_conf(config.retry_config(RetryConfig::disabled()).build())
}

async fn server_with(tables: &[TableSpec]) -> (EmbeddedDynamoDb, Client) {
    let server = EmbeddedDynamoDb::start(None).await.expect("set up");
    ensure(&Endpoint::parse(&server.endpoint_url()).expect("set up"), tables).await.expect("set up");
    let client = client(&server.endpoint_url()).await;
    (server, client)
}

#[tokio::test]
async fn a_good_table_is_accepted_in_either_layout() {
    let plain = TableSpec::idempotency("plain");
    let composite = TableSpec::from_keys("composite", "pk,sk").expect("set up");
    let (_server, client) = server_with(&[plain, composite]).await;
    assert_eq!(DynamoDbStore::new(client.clone(), "plain").warm_up().await, Ok(()));
    let layout =
        Layout::renamed([("id", "pk")]).and_then(|layout| layout.composite_key("sk", "idempotency")).expect("set up");
    assert_eq!(DynamoDbStore::new(client, "composite").layout(layout).warm_up().await, Ok(()));
}

#[tokio::test]
async fn a_missing_table_comes_with_the_command_that_makes_it() {
    let (_server, client) = server_with(&[]).await;
    let error = DynamoDbStore::new(client, "absent").warm_up().await.expect_err("refused");
    assert!(matches!(error, InitError::NoTable(_)), "{error}");
    let command = "aws dynamodb create-table --table-name absent --attribute-definitions AttributeName=id,AttributeType=S \
                   --key-schema AttributeName=id,KeyType=HASH --billing-mode PAY_PER_REQUEST";
    assert!(error.to_string().ends_with(command), "{error}");
}

#[tokio::test]
async fn a_table_with_another_key_is_named() {
    let (_server, client) = server_with(&[TableSpec::from_keys("orders", "order_id").expect("set up")]).await;
    let error = DynamoDbStore::new(client, "orders").warm_up().await.expect_err("refused");
    assert!(matches!(error, InitError::WrongKey(_)), "{error}");
    assert!(error.to_string().contains("\"orders\"") && error.to_string().contains("partition key \"id\""), "{error}");
}

#[tokio::test]
async fn a_denied_read_says_what_to_allow() {
    let (server, _) = server_with(&[TableSpec::idempotency("records")]).await;
    let proxy = Proxy::start(server.address(), |_: &Call<'_>| DENIED).await.expect("set up");
    let error =
        DynamoDbStore::new(client(&proxy.endpoint_url()).await, "records").warm_up().await.expect_err("refused");
    assert!(matches!(error, InitError::Denied { .. }), "{error}");
    let text = error.to_string();
    let policy = text.split_once('\'').and_then(|(_, rest)| rest.strip_suffix('\'')).expect("a policy in quotes");
    let policy: serde_json::Value = serde_json::from_str(policy).expect("the policy is JSON");
    assert_eq!(policy["Statement"][0]["Resource"], "arn:aws:dynamodb:*:*:table/records");
    assert_eq!(policy["Statement"][0]["Action"][0], "dynamodb:GetItem");
}

#[tokio::test]
async fn what_may_pass_stops_nothing() {
    let (server, _) = server_with(&[TableSpec::idempotency("records")]).await;
    for fault in [Fault::Throttle, Fault::Error500, Fault::Refuse] {
        let proxy = Proxy::start(server.address(), move |_: &Call<'_>| fault).await.expect("set up");
        assert_eq!(
            DynamoDbStore::new(client(&proxy.endpoint_url()).await, "records").warm_up().await,
            Ok(()),
            "{fault:?}"
        );
    }
}
