//! The function's pipeline on the embedded DynamoDB, over the real SDK and behind a proxy.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    config::{retry::RetryConfig, timeout::TimeoutConfig},
    types::AttributeValue,
};
use ingest_telemetry::{
    process::pipeline,
    row::{Row, TABLE_KEYS},
    table::DynamoDbTable,
};
use microbatch::{
    Clock,
    pipeline::{Host, RunError},
};
use microbatch_aws::{
    DynamoDbStore,
    clock::{SystemClock, SystemRandom},
};
use microbatch_local::{
    dynamodb::EmbeddedDynamoDb,
    proxy::{Call, Fault, Proxy},
    tables::{Endpoint, TableSpec, ensure},
};
use microbatch_testkit::recorder::{KeepingRecorder, KeptReport};
use serde_json::{Value, json};

/// The telemetry table.
pub(crate) const TELEMETRY: &str = "telemetry";
/// The idempotency table.
pub(crate) const RECORDS: &str = "idempotency";

/// An item of a table.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// How long the table's client waits for an answer here: a test in which none comes is to be short.
const ATTEMPT: Duration = Duration::from_millis(500);

/// A DynamoDB with the function's tables.
pub(crate) struct Bench {
    _server: EmbeddedDynamoDb,
    /// Between the pipeline and the DynamoDB.
    pub(crate) proxy: Proxy,
    /// For looking, past the pipeline.
    pub(crate) client: Client,
    /// As the function's own, without retries.
    one_try: Client,
    recorder: Arc<KeepingRecorder>,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let server = EmbeddedDynamoDb::start(None).await.expect("a server");
        let tables = [TableSpec::idempotency(RECORDS), TableSpec::from_keys(TELEMETRY, TABLE_KEYS).expect("a table")];
        ensure(&Endpoint::parse(&server.endpoint_url()).expect("a URL"), &tables).await.expect("the tables");
        let proxy = Proxy::start(server.address(), |_: &Call<'_>| Fault::Pass).await.expect("a port");
        let client = Endpoint::parse(&proxy.endpoint_url()).expect("a URL").client().await;
        let config = client.config().to_builder().retry_config(RetryConfig::disabled());
        Self { _server: server, proxy, client, one_try: Client::from_conf(config.build()), recorder: Arc::default() }
    }

    /// The telemetry table as the function uses it.
    pub(crate) fn table(&self) -> DynamoDbTable {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT).build();
        let config = self.one_try.config().to_builder().timeout_config(timeouts);
        DynamoDbTable::new(Client::from_conf(config.build()), TELEMETRY)
    }

    /// What the function answers to an event within this time.
    pub(crate) async fn answer(&self, event: &str, time_ms: u64) -> Value {
        let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        let host = Host {
            queue: None,
            store: DynamoDbStore::new(self.one_try.clone(), RECORDS),
            clock: Arc::clone(&clock) as _,
            random: Arc::clone(&random) as _,
            recorder: Arc::clone(&self.recorder) as _,
        };
        let pipeline = pipeline(self.table(), clock, random).build(host).expect("the settings are right");
        match pipeline.run(event, "batch", Some(SystemClock.now_ms() + time_ms)).await {
            Ok(response) => {
                let failures: Vec<_> = response.failed_ids().iter().map(|id| json!({ "itemIdentifier": id })).collect();
                json!({ "batchItemFailures": failures })
            }
            Err(error @ RunError::Response(_)) => panic!("{error}"),
            Err(error) => json!({ "errorType": error.name(), "errorMessage": error.to_string() }),
        }
    }

    /// What became of the newest batch.
    pub(crate) fn report(&self) -> KeptReport {
        self.recorder.last()
    }

    /// All items of a table.
    pub(crate) async fn items(&self, table: &str) -> Vec<Item> {
        let scan = self.client.scan().table_name(table).consistent_read(true);
        scan.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await.expect("a scan")
    }

    /// The telemetry table's rows.
    pub(crate) async fn rows(&self) -> Vec<Row> {
        self.items(TELEMETRY).await.iter().map(|item| Row::from_item(item).expect("a row")).collect()
    }
}
