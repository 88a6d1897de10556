//! A function's process with all that is around it: Runtime API, tables, and a proxy before DynamoDB.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use microbatch_local::dynamodb::EmbeddedDynamoDb;
use microbatch_local::environment;
use microbatch_local::function::{Function, FunctionFailure, FunctionSpec};
use microbatch_local::items::{ItemReport, LogLine, parse};
use microbatch_local::proxy::{Call, Fault, Proxy};
use microbatch_local::runtime_api::InvocationResult;
use microbatch_local::tables::{Endpoint, TableSpec, ensure};
use serde_json::Value;

use crate::functions::functions;

/// The table that `scripted` writes its effects to.
pub const EFFECTS_TABLE: &str = "effects";
/// The table that `process-orders` writes orders to.
pub const ORDERS_TABLE: &str = "orders";
/// The idempotency table.
pub const IDEMPOTENCY_TABLE: &str = environment::DEFAULT_TABLE;

/// A row of a table.
pub type Row = HashMap<String, AttributeValue>;

/// A result, or the end of the test with the error's own words, which `expect` does not show.
#[track_caller]
pub fn need<T, E: fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

/// The function's process and what is around it. All of it ends when this is dropped.
///
/// A stack that does not come up ends the test.
#[derive(Debug)]
pub struct Stack {
    /// The process.
    pub function: Function,
    /// Stands between the function and DynamoDB; lets every call pass unless a script is set.
    pub proxy: Proxy,
    /// Reaches DynamoDB without the proxy.
    pub client: Client,
    lines: Arc<Mutex<Vec<String>>>,
    _tables: Tables,
}

/// A DynamoDB in memory that holds every table which the functions here use.
#[derive(Debug)]
pub struct Tables {
    dynamodb: EmbeddedDynamoDb,
    client: Client,
}

impl Tables {
    /// Starts one. One that does not come up ends the test.
    pub async fn start() -> Self {
        let dynamodb = need(EmbeddedDynamoDb::start(None).await);
        let endpoint = need(Endpoint::parse(&dynamodb.endpoint_url()));
        need(ensure(&endpoint, &specs()).await);
        Self { client: endpoint.client().await, dynamodb }
    }

    /// The value of `AWS_ENDPOINT_URL_DYNAMODB`.
    pub fn endpoint_url(&self) -> String {
        self.dynamodb.endpoint_url()
    }
}

/// What the idempotency table holds of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// `INPROGRESS` or `COMPLETED`.
    pub status: String,
    /// Until when others are kept out, in epoch milliseconds.
    pub lease_end_ms: Option<u64>,
    /// The claim that holds the key.
    pub owner: Option<String>,
    /// The fencing token.
    pub attempt: Option<u64>,
}

/// A row of the effects table: one run of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Effect {
    /// The body's `id`.
    pub id: String,
    /// The key as it stands in the idempotency table.
    pub key: String,
    /// The message that it came in.
    pub message_id: String,
    /// The fencing token of the claim that it ran under.
    pub attempt: u64,
}

impl Stack {
    /// `scripted` with these variables beside those of every local run.
    pub async fn scripted(variables: &[(&str, &str)]) -> Self {
        Self::start("scripted", need(functions()).scripted(), variables).await
    }

    /// `process-orders` with these variables beside those of every local run.
    pub async fn process_orders(variables: &[(&str, &str)]) -> Self {
        Self::start("process-orders", need(functions()).process_orders(), variables).await
    }

    async fn start(name: &str, program: PathBuf, variables: &[(&str, &str)]) -> Self {
        let tables = Tables::start().await;
        let proxy = need(Proxy::start(tables.dynamodb.address(), |_: &Call<'_>| Fault::Pass).await);

        let mut env = environment::local(&proxy.endpoint_url(), true);
        let table_names = [("EFFECTS_TABLE", EFFECTS_TABLE), ("ORDERS_TABLE", ORDERS_TABLE)];
        let all = table_names.iter().chain(variables);
        env.extend(all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = {
            let lines = Arc::clone(&lines);
            Arc::new(move |_, line: &str| lock(&lines).push(line.to_owned()))
        };
        let spec = FunctionSpec { name: name.to_owned(), program, env };
        let function = need(Function::start(spec, sink).await);
        Self { function, proxy, client: tables.client.clone(), lines, _tables: tables }
    }

    /// Lets the function take an empty batch, so that its init is over when the next invocation is timed.
    pub async fn warm_up(&self) {
        let failures = self.failures_of(r#"{"Records":[]}"#.to_owned(), Duration::from_secs(10)).await;
        assert!(failures.is_empty(), "an empty batch reported {failures:?}");
    }

    /// Sends an event and gives what came of it.
    pub async fn invoke(&self, event: String, timeout: Duration) -> Result<InvocationResult, FunctionFailure> {
        self.function.invoke(event.into(), timeout).await
    }

    /// Sends an event that the function must answer, and gives the message ids that come back: those that the answer
    /// reports, or all of them where the function erred because none was done.
    pub async fn failures_of(&self, event: String, timeout: Duration) -> Vec<String> {
        match self.invoke(event.clone(), timeout).await {
            Ok(InvocationResult::Response(response)) => need(reported(&response)),
            Ok(InvocationResult::FunctionError(error)) if error.error_type == "AllFailed" => need(message_ids(&event)),
            other => panic!("expected a response, found {other:?}; it said:\n{}", self.lines().join("\n")),
        }
    }

    /// Every line that the function printed so far, on both streams. Complete only when the function has been stopped.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }

    /// Stops the function, so that every line has arrived, and gives the reports of its items by message id.
    pub async fn item_reports(&self) -> BTreeMap<String, ItemReport> {
        self.function.stop().await;
        let reports = self.lines().into_iter().filter_map(|line| match parse(&line) {
            LogLine::Item(report) => Some((report.message_id.clone(), report)),
            _ => None,
        });
        reports.collect()
    }

    /// The idempotency table, by key.
    pub async fn records(&self) -> BTreeMap<String, StoredRecord> {
        let rows = rows(&self.client, IDEMPOTENCY_TABLE).await;
        rows.iter().map(|row| (text(row, "id").unwrap_or_default(), record(row))).collect()
    }

    /// The effects table, in order of id and run.
    pub async fn effects(&self) -> Vec<Effect> {
        let mut effects: Vec<Effect> = rows(&self.client, EFFECTS_TABLE).await.iter().map(effect).collect();
        effects.sort();
        effects
    }

    /// How often each id was run.
    pub async fn runs(&self) -> BTreeMap<String, usize> {
        let mut runs = BTreeMap::new();
        for effect in self.effects().await {
            *runs.entry(effect.id).or_default() += 1;
        }
        runs
    }

    /// The orders table's ids.
    pub async fn orders(&self) -> Vec<String> {
        let rows = rows(&self.client, ORDERS_TABLE).await;
        let mut ids: Vec<String> = rows.iter().filter_map(|row| text(row, "order_id")).collect();
        ids.sort();
        ids
    }
}

/// Every row of a table.
pub async fn rows(client: &Client, table: &str) -> Vec<Row> {
    let pages = client.scan().table_name(table).consistent_read(true).into_paginator().items().send();
    pages.collect::<Result<_, _>>().await.unwrap_or_else(|error| panic!("{table} cannot be read: {error:?}"))
}

fn specs() -> Vec<TableSpec> {
    let of_keys = |name, keys| need(TableSpec::from_keys(name, keys));
    vec![TableSpec::idempotency(IDEMPOTENCY_TABLE), of_keys(EFFECTS_TABLE, "id,run"), of_keys(ORDERS_TABLE, "order_id")]
}

/// The message ids in a batch response.
pub fn reported(response: &[u8]) -> Result<Vec<String>, String> {
    let unexpected = || format!("expected a batch response, found {}", String::from_utf8_lossy(response));
    let value: Value = serde_json::from_slice(response).map_err(|_| unexpected())?;
    let failures = value["batchItemFailures"].as_array().ok_or_else(unexpected)?;
    let id = |failure: &Value| failure["itemIdentifier"].as_str().map(str::to_owned).ok_or_else(unexpected);
    failures.iter().map(id).collect()
}

/// The ids of an event's messages.
fn message_ids(event: &str) -> Result<Vec<String>, serde_json::Error> {
    let event: Value = serde_json::from_str(event)?;
    let records = event["Records"].as_array().into_iter().flatten();
    Ok(records.filter_map(|record| record["messageId"].as_str().map(str::to_owned)).collect())
}

/// The wall clock in epoch milliseconds.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn record(row: &Row) -> StoredRecord {
    StoredRecord {
        status: text(row, "status").unwrap_or_default(),
        lease_end_ms: number(row, "in_progress_expiration"),
        owner: text(row, "owner"),
        attempt: number(row, "attempt"),
    }
}

fn effect(row: &Row) -> Effect {
    Effect {
        id: text(row, "id").unwrap_or_default(),
        key: text(row, "key").unwrap_or_default(),
        message_id: text(row, "message_id").unwrap_or_default(),
        attempt: number(row, "attempt").unwrap_or_default(),
    }
}

fn text(row: &Row, name: &str) -> Option<String> {
    row.get(name)?.as_s().ok().cloned()
}

fn number(row: &Row, name: &str) -> Option<u64> {
    row.get(name)?.as_n().ok()?.parse().ok()
}

fn lock(lines: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}
