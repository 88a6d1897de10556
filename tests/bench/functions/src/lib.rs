//! What a careful team would write for itself, without microbatch: each order once, by a record in DynamoDB.
//!
//! One record an order, claimed by a conditional `PutItem`, completed by an `UpdateItem` that only its owner can make, and deleted
//! after a failure. The record's attributes are those of Powertools, with an owner and a fingerprint of the body.

use std::{
    collections::HashMap,
    env,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_config::{BehaviorVersion, timeout::TimeoutConfig};
use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::put_item::PutItemError,
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure},
};
use lambda_runtime::{Error, LambdaEvent, tracing};
use process_orders::{
    order::{Line, Order},
    process::Receipt,
};
use sha2::{Digest, Sha256};

/// How long a record is kept.
const RETENTION: Duration = Duration::from_hours(1);

/// Claims a key that nobody holds: it is new, has expired, or was left by a run whose time is over. Powertools' condition.
const CLAIM: &str = "attribute_not_exists(#id) OR #expiration < :now_s OR (#status = :in_progress AND \
                     attribute_exists(#lease_end) AND #lease_end < :now_ms)";

/// Only the run that claimed it completes or releases it.
const HELD: &str = "#owner = :owner AND #status = :in_progress";

/// Works on orders, each once.
#[derive(Debug)]
pub struct Orders {
    client: Client,
    idempotency_table: String,
    /// Where orders are written to; none when they are only checked.
    written_to: Option<String>,
    /// What tells this process's claims from others'.
    process_id: String,
    claims: AtomicU64,
}

/// A claimed key.
#[derive(Debug)]
struct Claim {
    key: String,
    owner: String,
}

impl Orders {
    /// By the variables `JOB` (`pure` or `transaction`), `IDEMPOTENCY_TABLE` and `ORDERS_TABLE`.
    ///
    /// # Errors
    /// When one is missing or wrong.
    pub async fn from_env() -> Result<Self, Error> {
        let variable = |name: &str| env::var(name).map_err(|_| format!("{name} is not set"));
        let written_to = match variable("JOB")?.as_str() {
            "pure" => None,
            "transaction" => Some(variable("ORDERS_TABLE")?),
            other => return Err(format!("JOB: expected pure or transaction, found {other:?}").into()),
        };
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(1))
            .operation_attempt_timeout(Duration::from_secs(10))
            .build();
        let config = aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts).load().await;
        Ok(Self {
            client: Client::new(&config),
            idempotency_table: variable("IDEMPOTENCY_TABLE")?,
            written_to,
            process_id: format!("{:x}-{:x}", std::process::id(), now().as_nanos()),
            claims: AtomicU64::new(0),
        })
    }

    /// Works on one message, and gives its id if it is to come again: when the order is invalid, held by another run, of other
    /// content than its record, or not written.
    pub async fn failed_id(&self, message: SqsMessage, deadline_ms: u64) -> Option<String> {
        let handled = self.handle(&message, deadline_ms).await;
        handled.inspect_err(|error| tracing::warn!(%error, "failed")).err()?;
        message.message_id
    }

    async fn handle(&self, message: &SqsMessage, deadline_ms: u64) -> Result<(), Error> {
        let body = message.body.as_deref().ok_or("the message has no body")?;
        let order: Order = serde_json::from_str(body)?;
        let Some(claim) = self.claim(&order.order_id, body, deadline_ms).await? else { return Ok(()) };
        match self.process(order).await {
            Ok(receipt) => self.complete(&claim, &receipt).await,
            Err(error) => {
                self.release(&claim).await?;
                Err(error)
            }
        }
    }

    /// Claims an order's key; none when it is completed already.
    async fn claim(&self, order_id: &str, body: &str, deadline_ms: u64) -> Result<Option<Claim>, Error> {
        let key = format!("orders#{}", hex_digest(order_id));
        let owner = format!("{}-{}", self.process_id, self.claims.fetch_add(1, Ordering::Relaxed));
        let fingerprint = hex_digest(body);
        let now = now();
        let put = self
            .client
            .put_item()
            .table_name(&self.idempotency_table)
            .item("id", text(&key))
            .item("status", text("INPROGRESS"))
            .item("expiration", number((now + RETENTION).as_secs()))
            .item("in_progress_expiration", number(deadline_ms))
            .item("owner", text(&owner))
            .item("validation", text(&fingerprint))
            .condition_expression(CLAIM)
            .expression_attribute_names("#id", "id")
            .expression_attribute_names("#expiration", "expiration")
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#lease_end", "in_progress_expiration")
            .expression_attribute_values(":now_s", number(now.as_secs()))
            .expression_attribute_values(":now_ms", number(now.as_millis()))
            .expression_attribute_values(":in_progress", text("INPROGRESS"))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match put.send().await {
            Ok(_) => Ok(Some(Claim { key, owner })),
            Err(SdkError::ServiceError(error)) => match error.into_err() {
                PutItemError::ConditionalCheckFailedException(refused) => {
                    judge(&refused.item.unwrap_or_default(), &fingerprint)?;
                    Ok(None)
                }
                error => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    async fn process(&self, order: Order) -> Result<Receipt, Error> {
        order.validate()?;
        if let Some(table) = &self.written_to {
            let put = self.client.put_item().table_name(table).set_item(Some(order_item(&order)));
            put.condition_expression("attribute_not_exists(order_id)").send().await?;
        }
        let Order { order_id, total_minor, currency, .. } = order;
        Ok(Receipt { order_id, total_minor, currency })
    }

    async fn complete(&self, claim: &Claim, receipt: &Receipt) -> Result<(), Error> {
        let update = self
            .client
            .update_item()
            .table_name(&self.idempotency_table)
            .key("id", text(&claim.key))
            .update_expression("SET #status = :completed, #expiration = :expiration, #data = :data")
            .condition_expression(HELD)
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#expiration", "expiration")
            .expression_attribute_names("#data", "data")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":completed", text("COMPLETED"))
            .expression_attribute_values(":in_progress", text("INPROGRESS"))
            .expression_attribute_values(":expiration", number((now() + RETENTION).as_secs()))
            .expression_attribute_values(":data", AttributeValue::S(serde_json::to_string(receipt)?))
            .expression_attribute_values(":owner", text(&claim.owner));
        update.send().await?;
        Ok(())
    }

    async fn release(&self, claim: &Claim) -> Result<(), Error> {
        let delete = self
            .client
            .delete_item()
            .table_name(&self.idempotency_table)
            .key("id", text(&claim.key))
            .condition_expression(HELD)
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":in_progress", text("INPROGRESS"))
            .expression_attribute_values(":owner", text(&claim.owner));
        delete.send().await?;
        Ok(())
    }
}

/// What a record says that was in the way.
fn judge(record: &HashMap<String, AttributeValue>, fingerprint: &str) -> Result<(), &'static str> {
    let field = |name: &str| record.get(name).and_then(|value| value.as_s().ok()).map(String::as_str);
    match (field("status"), field("validation")) {
        (Some("COMPLETED"), Some(found)) if found == fingerprint => Ok(()),
        (Some("COMPLETED"), _) => Err("another order was processed under this id"),
        _ => Err("another run holds this order"),
    }
}

/// The order as process-orders writes it.
fn order_item(order: &Order) -> HashMap<String, AttributeValue> {
    let mut item = HashMap::from([
        ("order_id".to_owned(), text(&order.order_id)),
        ("customer_id".to_owned(), text(&order.customer_id)),
        ("currency".to_owned(), text(&order.currency)),
        ("lines".to_owned(), AttributeValue::L(order.lines.iter().map(line).collect())),
        ("total_minor".to_owned(), number(order.total_minor)),
    ]);
    item.extend(order.amends.as_ref().map(|amended| ("amends".to_owned(), text(amended))));
    item
}

fn line(line: &Line) -> AttributeValue {
    AttributeValue::M(HashMap::from([
        ("sku".to_owned(), text(&line.sku)),
        ("quantity".to_owned(), number(line.quantity)),
        ("unit_price_minor".to_owned(), number(line.unit_price_minor)),
    ]))
}

/// The messages of an event and the deadline in epoch milliseconds.
pub fn messages(event: LambdaEvent<SqsEvent>) -> (Vec<SqsMessage>, u64) {
    (event.payload.records, event.context.deadline)
}

/// The answer that has these messages come again.
pub fn response(failed_ids: Vec<String>) -> SqsBatchResponse {
    let mut response = SqsBatchResponse::default();
    response.set_failures(failed_ids);
    response
}

fn hex_digest(text: &str) -> String {
    use std::fmt::Write;
    Sha256::digest(text).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number(number: impl Into<u128>) -> AttributeValue {
    AttributeValue::N(number.into().to_string())
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
