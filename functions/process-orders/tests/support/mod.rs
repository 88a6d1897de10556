//! The function's pipeline on the embedded DynamoDB, over the real SDK and behind a proxy.

use std::{collections::HashMap, sync::Arc};

use aws_sdk_dynamodb::{Client, config::retry::RetryConfig, types::AttributeValue};
use microbatch::{
    Pipeline, PipelineBuilder, Processor, TotalFailure,
    clock::Clock,
    pipeline::{Host, RunError},
};
use microbatch_aws::{
    DynamoDbStore,
    clock::{SystemClock, SystemRandom},
    dynamodb::DynamoDbWrite,
};
use microbatch_local::{
    dynamodb::EmbeddedDynamoDb,
    proxy::{Call, Fault, Proxy},
    tables::{Endpoint, TableSpec, ensure},
};
use microbatch_testkit::recorder::{KeepingRecorder, KeptReport};
use process_orders::orders::PARTITION_KEY;
use serde_json::{Value, json};

/// The orders table.
pub(crate) const ORDERS: &str = "orders";
/// The idempotency table.
pub(crate) const RECORDS: &str = "idempotency";

/// An item of a table.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// A DynamoDB with the function's tables.
pub(crate) struct Bench {
    _server: EmbeddedDynamoDb,
    /// Between the pipeline and the DynamoDB.
    pub(crate) proxy: Proxy,
    /// For looking, past the pipeline.
    pub(crate) client: Client,
    /// What the pipeline keeps its records in.
    pub(crate) store: DynamoDbStore,
    recorder: Arc<KeepingRecorder>,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let server = EmbeddedDynamoDb::start(None).await.expect("a server");
        let tables = [TableSpec::idempotency(RECORDS), TableSpec::from_keys(ORDERS, PARTITION_KEY).expect("a table")];
        ensure(&Endpoint::parse(&server.endpoint_url()).expect("a URL"), &tables).await.expect("the tables");
        let proxy = Proxy::start(server.address(), |_: &Call<'_>| Fault::Pass).await.expect("a port");
        let client = Endpoint::parse(&proxy.endpoint_url()).expect("a URL").client().await;
        // As in production, a store's client makes one try.
        let config = client.config().to_builder().retry_config(RetryConfig::disabled()).build();
        let store = DynamoDbStore::new(Client::from_conf(config), RECORDS);
        Self { _server: server, proxy, client, store, recorder: Arc::default() }
    }

    pub(crate) fn build<P: Processor<Write = DynamoDbWrite>>(
        &self,
        builder: PipelineBuilder<P>,
    ) -> Pipeline<P, DynamoDbStore> {
        let host = Host {
            queue: None,
            store: self.store.clone(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            recorder: Arc::clone(&self.recorder) as _,
        };
        // Which message failed is asked for, also where it is the only one.
        let builder = builder.options(|options| options.total_failure = TotalFailure::Report);
        builder.build(host).expect("the settings are right")
    }

    /// What the function answers to an event within this time.
    pub(crate) async fn answer<P: Processor<Write = DynamoDbWrite>>(
        &self,
        builder: PipelineBuilder<P>,
        event: &str,
        time_ms: u64,
    ) -> Value {
        let pipeline = self.build(builder);
        match pipeline.run(event, "batch", Some(SystemClock.now_ms() + time_ms)).await {
            Ok(response) => {
                let failures: Vec<_> = response.failed_ids().iter().map(|id| json!({ "itemIdentifier": id })).collect();
                json!({ "batchItemFailures": failures })
            }
            Err(RunError::Event(error)) => {
                json!({ "errorType": error.name(), "errorMessage": error.to_string() })
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// What became of the newest batch.
    pub(crate) fn report(&self) -> KeptReport {
        self.recorder.last()
    }

    /// All items of a table, by their partition key.
    pub(crate) async fn items(&self, table: &str, partition_key: &str) -> HashMap<String, Item> {
        let scan = self.client.scan().table_name(table).consistent_read(true);
        let items = scan.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await.expect("a scan");
        items.into_iter().map(|item| (item[partition_key].as_s().expect("a string").clone(), item)).collect()
    }

    /// All orders, by their ids.
    pub(crate) async fn orders(&self) -> HashMap<String, Item> {
        self.items(ORDERS, PARTITION_KEY).await
    }
}
