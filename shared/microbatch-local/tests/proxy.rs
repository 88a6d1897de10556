//! The proxy before a real endpoint, seen through the SDK and through what the tables hold afterwards.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use microbatch_local::dynamodb::EmbeddedDynamoDb;
use microbatch_local::proxy::{Call, Fault, Proxy, Script};

type SdkError<E> = aws_sdk_dynamodb::error::SdkError<E>;

const TABLE: &str = "things";
const CLIENT_TIMEOUT: Duration = Duration::from_millis(300);

struct Bench {
    _dynamodb: EmbeddedDynamoDb,
    proxy: Proxy,
    /// Reaches the endpoint without the proxy.
    direct: Client,
    proxied: Client,
}

impl Bench {
    async fn start(script: impl Script) -> Self {
        let dynamodb = EmbeddedDynamoDb::start(None).await.expect("an embedded DynamoDB");
        let proxy = Proxy::start(dynamodb.address(), script).await.expect("a proxy");
        let direct = client(&dynamodb.endpoint_url());
        let proxied = client(&proxy.endpoint_url());
        create_table(&direct).await;
        Self { _dynamodb: dynamodb, proxy, direct, proxied }
    }

    async fn put(&self, id: &str) -> Result<(), SdkError<PutItemError>> {
        let id = AttributeValue::S(id.to_owned());
        self.proxied.put_item().table_name(TABLE).item("id", id).send().await.map(|_| ())
    }

    async fn has(&self, id: &str) -> bool {
        let id = AttributeValue::S(id.to_owned());
        let answer = self.direct.get_item().table_name(TABLE).key("id", id).consistent_read(true).send().await;
        answer.expect("a read").item.is_some()
    }
}

fn client(endpoint_url: &str) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "test"))
        .endpoint_url(endpoint_url)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().operation_timeout(CLIENT_TIMEOUT).build())
        .build();
    Client::from_conf(config)
}

async fn create_table(client: &Client) {
    let id = AttributeDefinition::builder().attribute_name("id").attribute_type(ScalarAttributeType::S).build();
    let hash = KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash).build();
    client
        .create_table()
        .table_name(TABLE)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(id.expect("a definition"))
        .key_schema(hash.expect("a key"))
        .send()
        .await
        .expect("a table");
}

#[tokio::test]
async fn calls_pass_and_are_recorded() {
    let bench = Bench::start(|_: &Call<'_>| Fault::Pass).await;
    bench.put("a").await.expect("an answer");
    bench.put("b").await.expect("an answer");
    let refused = bench.proxied.get_item().table_name("absent").key("id", AttributeValue::S("a".into()));
    refused.send().await.expect_err("no such table");

    assert!(bench.has("a").await && bench.has("b").await);
    let calls = bench.proxy.calls();
    let seen: Vec<_> = calls.iter().map(|call| (call.operation.as_str(), call.tables.join(","), call.status)).collect();
    assert_eq!(
        seen,
        [
            ("PutItem", TABLE.to_owned(), Some(200)),
            ("PutItem", TABLE.to_owned(), Some(200)),
            ("GetItem", "absent".to_owned(), Some(400)),
        ]
    );
    assert_eq!(bench.proxy.count("PutItem"), 2);
}

#[tokio::test]
async fn a_fault_hits_the_call_it_is_meant_for() {
    let bench = Bench::start(|call: &Call<'_>| match (call.operation, call.nth_of_operation) {
        ("PutItem", 0) => Fault::Throttle,
        ("PutItem", 1) => Fault::Error500,
        ("PutItem", 2) => Fault::Delay(Duration::from_millis(1)),
        _ => Fault::Pass,
    })
    .await;
    let throttled = bench.put("a").await.expect_err("throttled");
    assert_eq!(throttled.code(), Some("ThrottlingException"));
    let failed = bench.put("b").await.expect_err("failed");
    assert_eq!(failed.code(), Some("InternalServerError"));
    bench.put("c").await.expect("late, but an answer");
    assert_eq!((bench.has("a").await, bench.has("b").await, bench.has("c").await), (false, false, true));
    let faults: Vec<_> = bench.proxy.calls().iter().map(|call| call.fault).collect();
    assert_eq!(faults, [Fault::Throttle, Fault::Error500, Fault::Delay(Duration::from_millis(1))]);
}

#[tokio::test]
async fn what_gets_no_answer_is_applied_or_not_as_the_fault_says() {
    for (fault, times_out, applied) in [
        (Fault::Refuse, false, false),
        (Fault::DropAnswer, false, true),
        (Fault::HangBefore, true, false),
        (Fault::HangAfter, true, true),
    ] {
        let bench = Bench::start(move |_: &Call<'_>| fault).await;
        let error = bench.put("a").await.expect_err("no answer");
        assert_eq!(matches!(error, SdkError::TimeoutError(_)), times_out, "{fault:?}: {error:?}");
        assert_eq!(bench.has("a").await, applied, "{fault:?}");
        bench.proxy.set_script(|_: &Call<'_>| Fault::Pass);
        bench.put("b").await.expect("the proxy still serves");
    }
}

#[tokio::test]
async fn another_script_counts_from_zero_and_the_record_goes_on() {
    let throttle_first = |call: &Call<'_>| {
        if call.index == 0 { Fault::Throttle } else { Fault::Pass }
    };
    let bench = Bench::start(throttle_first).await;
    assert!(bench.put("a").await.is_err() && bench.put("a").await.is_ok());
    bench.proxy.set_script(throttle_first);
    assert!(bench.put("a").await.is_err() && bench.put("a").await.is_ok());
    assert_eq!(bench.proxy.calls().len(), 4);
}

/// Notes what the table held when each hook ran, by the number of calls that the endpoint had answered.
struct Hooks {
    answered: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<(&'static str, usize)>>>,
}

impl Script for Hooks {
    fn fault(&self, _call: &Call<'_>) -> Fault {
        Fault::DropAnswer
    }

    fn before(&self, _call: &Call<'_>) {
        self.seen.lock().expect("no panic").push(("before", self.answered.load(Ordering::SeqCst)));
    }

    fn after(&self, _call: &Call<'_>) {
        self.answered.fetch_add(1, Ordering::SeqCst);
        self.seen.lock().expect("no panic").push(("after", self.answered.load(Ordering::SeqCst)));
    }
}

#[tokio::test]
async fn the_hooks_run_around_the_application() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let bench = Bench::start(Hooks { answered: Arc::default(), seen: Arc::clone(&seen) }).await;
    bench.put("a").await.expect_err("no answer");
    assert!(bench.has("a").await);
    assert_eq!(*seen.lock().expect("no panic"), [("before", 0), ("after", 1)]);
}
