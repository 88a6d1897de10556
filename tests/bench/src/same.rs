//! Whether all sides do the same: the same failures reported, the same records and orders in the tables.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use microbatch_aws::lambda::BoxError;
use microbatch_local::tables::Endpoint;
use microbatch_testkit::events::Envelope;
use serde_json::{Map, Value, json};

use crate::args::Job;
use crate::orders::Orders;
use crate::process::{Process, Tables};
use crate::sides::Side;

const RECORDS: NonZeroUsize = NonZeroUsize::new(50).expect("not zero");

/// The places in the event of the orders that are wrong, of the body that is no JSON, and how many fail.
const WRONG: [usize; 3] = [3, 17, 31];
const MALFORMED: usize = 44;
const FAILURES: usize = WRONG.len() + 1;

/// What a side left behind.
#[derive(Debug, Clone, PartialEq)]
struct Left {
    /// The ids that each response reported, delivery by delivery.
    reported: Vec<BTreeSet<String>>,
    /// The result kept with each completed order. What failed is not compared: the peers delete its record, microbatch keeps it
    /// to count the tries.
    receipts: BTreeSet<String>,
    /// The rows of the orders table, by id.
    orders: BTreeMap<String, Value>,
}

/// Sends each side the same two deliveries of orders, some of them bad, and compares what comes of them.
pub(crate) async fn check(sides: &[Side], job: Job, endpoint: &Endpoint, store: SocketAddr) -> Result<(), BoxError> {
    let client = endpoint.client().await;
    let event = event()?;
    let mut first: Option<(&str, Left)> = None;
    for side in sides {
        let process = Process::start(side, job, store).await?;
        let mut reported = Vec::new();
        // The second delivery finds the good ones done.
        for _ in 0..2 {
            reported.push(process.send(event.clone()).await?);
        }
        process.stop().await;
        let left = left(&client, &Tables::of(side, job), job, reported).await?;
        let completed = left.receipts.len();
        let found = left.reported[0].len();
        if found != FAILURES || completed != RECORDS.get() - FAILURES {
            let what = format!("expected {FAILURES} failures and all others completed, found {found} and {completed}");
            return Err(format!("{}, job {}: {what}", side.name, job.name()).into());
        }
        let (name, expected) = first.get_or_insert_with(|| (side.name, left.clone()));
        if *expected != left {
            let what = format!("{name} left {expected:?}\n{} left {left:?}", side.name);
            return Err(format!("job {}: the sides do not do the same:\n{what}", job.name()).into());
        }
    }
    Ok(())
}

/// An event of real records, some of which fail.
fn event() -> Result<String, BoxError> {
    let event = Orders::apart().event(RECORDS, Envelope::Real)?;
    let mut event: Value = serde_json::from_str(&event)?;
    let wrong = [("total_minor", json!(1)), ("currency", json!("EUX")), ("lines", json!([]))];
    for (place, (field, value)) in WRONG.into_iter().zip(wrong) {
        let body = &mut event["Records"][place]["body"];
        let mut order: Value = serde_json::from_str(body.as_str().unwrap_or_default())?;
        order[field] = value;
        *body = order.to_string().into();
    }
    event["Records"][MALFORMED]["body"] = json!("{\"order_id\":");
    Ok(event.to_string())
}

async fn left(client: &Client, tables: &Tables, job: Job, reported: Vec<BTreeSet<String>>) -> Result<Left, BoxError> {
    let records = rows(client, &tables.idempotency).await?;
    let is_completed = |record: &&Map<String, Value>| record.get("status") == Some(&json!("COMPLETED"));
    let receipts =
        records.iter().filter(is_completed).map(|record| receipt(&record["data"])).collect::<Result<_, _>>()?;
    let mut orders = BTreeMap::new();
    if job == Job::Transaction {
        for row in rows(client, &tables.orders).await? {
            orders.insert(row["order_id"].to_string(), Value::from(row));
        }
    }
    Ok(Left { reported, receipts, orders })
}

/// A kept result in one spelling: as JSON text, or as the native value that Powertools for TypeScript keeps.
fn receipt(data: &Value) -> Result<String, BoxError> {
    let mut receipt: Value = match data {
        Value::String(json) => serde_json::from_str(json)?,
        native => native.clone(),
    };
    // A native number is DynamoDB's, which is a text here.
    if let Some(total) = receipt["total_minor"].as_u64() {
        receipt["total_minor"] = json!(total.to_string());
    }
    Ok(receipt.to_string())
}

async fn rows(client: &Client, table: &str) -> Result<Vec<Map<String, Value>>, BoxError> {
    let items = client.scan().table_name(table).consistent_read(true).into_paginator().items().send();
    let items: Vec<_> = items.collect::<Result<_, _>>().await?;
    let row = |item: HashMap<String, AttributeValue>| {
        item.iter().map(|(name, value)| (name.clone(), json_of(value))).collect()
    };
    Ok(items.into_iter().map(row).collect())
}

fn json_of(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => json!(text),
        AttributeValue::L(values) => values.iter().map(json_of).collect(),
        AttributeValue::M(values) => values.iter().map(|(name, value)| (name.clone(), json_of(value))).collect(),
        other => json!(format!("{other:?}")),
    }
}
