//! Where orders are kept: the orders table, and a stand-in in memory for tests.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    fmt,
    future::Future,
    sync::Mutex,
};

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::put_item::PutItemError,
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure},
};

use crate::order::{Line, Order};

/// The orders table's partition key, a string; it has no sort key.
pub const PARTITION_KEY: &str = "order_id";

/// Keeps orders by their id.
pub trait OrderBook: Send + Sync + 'static {
    /// Whether the order is there, whoever wrote it and however short a time ago.
    fn contains(&self, order_id: &str) -> impl Future<Output = Result<bool, BookError>> + Send;

    /// Writes the order, unless there is one under its id. Writing the same order again changes nothing and is
    /// [`Put::Kept`]: delivery is at least once, and so is this call.
    fn put(&self, order: &Order) -> impl Future<Output = Result<Put, BookError>> + Send;
}

/// What became of an order that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The order is in the book; it may have been there already.
    Kept,
    /// Another order is there under the same id. Nothing was changed.
    Taken,
}

/// The orders table did not do what was asked, so whether the order was written is unknown. Trying again is safe.
///
/// It holds no message of the service, which may quote a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookError {
    action: &'static str,
    /// `DynamoDB`'s name for the error, or how the call failed.
    cause: String,
    code: &'static str,
}

impl BookError {
    fn of<E: ProvideErrorMetadata>(action: &'static str, error: &SdkError<E>) -> Self {
        let (cause, code) = match error {
            SdkError::ConstructionFailure(_) => ("the request could not be built", "orders_request_failed"),
            SdkError::TimeoutError(_) => ("no answer in time", "orders_timed_out"),
            SdkError::DispatchFailure(_) => ("the service could not be reached", "orders_unreachable"),
            SdkError::ResponseError(_) => ("the answer could not be read", "orders_request_failed"),
            _ => named(error.code().unwrap_or("an error without a name")),
        };
        Self { action, cause: cause.to_owned(), code }
    }

    /// A short stable name for logs and dashboards.
    pub const fn code(&self) -> &'static str {
        self.code
    }

    #[cfg(test)]
    pub(crate) fn unreachable(action: &'static str) -> Self {
        Self { action, cause: "the service could not be reached".to_owned(), code: "orders_unreachable" }
    }
}

/// Our code for an error of `DynamoDB`: what an operator has to tell apart at a glance.
fn named(name: &str) -> (&str, &'static str) {
    let code = match name {
        "ResourceNotFoundException" => "orders_table_missing",
        "AccessDeniedException" => "orders_access_denied",
        "ProvisionedThroughputExceededException" | "RequestLimitExceeded" | "ThrottlingException" => "orders_throttled",
        _ => "orders_request_failed",
    };
    (name, code)
}

impl fmt::Display for BookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on the orders table failed: {}", self.action, self.cause)
    }
}

impl Error for BookError {}

/// The orders table in `DynamoDB`.
#[derive(Clone, Debug)]
pub struct DynamoDbOrders {
    client: Client,
    table: String,
}

impl DynamoDbOrders {
    /// Orders in this table, whose partition key is [`PARTITION_KEY`].
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self { client, table: table.into() }
    }
}

impl OrderBook for DynamoDbOrders {
    async fn contains(&self, order_id: &str) -> Result<bool, BookError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .key(PARTITION_KEY, AttributeValue::S(order_id.to_owned()))
            .projection_expression(PARTITION_KEY)
            // The order amended may have been written a moment ago by the batch beside this one.
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| BookError::of("GetItem", &error))?;
        Ok(answer.item.is_some())
    }

    async fn put(&self, order: &Order) -> Result<Put, BookError> {
        let attributes = attributes(order);
        let answer = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(attributes.clone()))
            .condition_expression("attribute_not_exists(order_id)")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match answer {
            Ok(_) => Ok(Put::Kept),
            Err(error) => match error.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(refusal)) => {
                    // Not "our idempotency key wrote it": the key is made from the order's id, and an order whose
                    // record has passed its retention must not be overwritten by another one under its id.
                    let same = refusal.item().is_some_and(|kept| holds(kept, &attributes));
                    Ok(if same { Put::Kept } else { Put::Taken })
                }
                _ => Err(BookError::of("PutItem", &error)),
            },
        }
    }
}

/// Whether the item in the table says all that the order says; it may have attributes of others beside.
fn holds(kept: &HashMap<String, AttributeValue>, order: &HashMap<String, AttributeValue>) -> bool {
    order.iter().all(|(name, value)| kept.get(name) == Some(value))
        && kept.contains_key("amends") == order.contains_key("amends")
}

/// The order as an item of the table, attributes named as the message's fields.
fn attributes(order: &Order) -> HashMap<String, AttributeValue> {
    let lines = order.lines.iter().map(line_attributes).collect();
    let mut attributes = HashMap::from([
        (PARTITION_KEY.to_owned(), AttributeValue::S(order.order_id.clone())),
        ("customer_id".to_owned(), AttributeValue::S(order.customer_id.clone())),
        ("currency".to_owned(), AttributeValue::S(order.currency.clone())),
        ("lines".to_owned(), AttributeValue::L(lines)),
        ("total_minor".to_owned(), AttributeValue::N(order.total_minor.to_string())),
    ]);
    if let Some(amended) = &order.amends {
        attributes.insert("amends".to_owned(), AttributeValue::S(amended.clone()));
    }
    attributes
}

fn line_attributes(line: &Line) -> AttributeValue {
    AttributeValue::M(HashMap::from([
        ("sku".to_owned(), AttributeValue::S(line.sku.clone())),
        ("quantity".to_owned(), AttributeValue::N(line.quantity.to_string())),
        ("unit_price_minor".to_owned(), AttributeValue::N(line.unit_price_minor.to_string())),
    ]))
}

/// Orders in memory, for tests; it keeps to the same rules as the table.
#[derive(Debug, Default)]
pub struct MemoryOrders {
    orders: Mutex<BTreeMap<String, Order>>,
}

impl MemoryOrders {
    /// All orders, by id.
    pub fn snapshot(&self) -> BTreeMap<String, Order> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Order>> {
        // Every change is a single insertion, so a panic elsewhere leaves nothing half done.
        self.orders.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl OrderBook for MemoryOrders {
    async fn contains(&self, order_id: &str) -> Result<bool, BookError> {
        Ok(self.lock().contains_key(order_id))
    }

    async fn put(&self, order: &Order) -> Result<Put, BookError> {
        let mut orders = self.lock();
        let kept = orders.entry(order.order_id.clone()).or_insert_with(|| order.clone());
        Ok(if kept == order { Put::Kept } else { Put::Taken })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order {
            order_id: "o-1".to_owned(),
            customer_id: "c-1".to_owned(),
            currency: "EUR".to_owned(),
            lines: vec![Line { sku: "s-1".to_owned(), quantity: 1, unit_price_minor: u64::MAX }],
            total_minor: u64::MAX,
            amends: None,
        }
    }

    #[test]
    fn an_item_with_attributes_of_others_holds_the_order() {
        let mut kept = attributes(&order());
        kept.insert("shipped".to_owned(), AttributeValue::Bool(true));
        assert!(holds(&kept, &attributes(&order())));
    }

    #[test]
    fn an_item_that_differs_anywhere_holds_another_order() {
        let changes: [fn(&mut Order); 5] = [
            |o| o.customer_id.push('2'),
            |o| "SEK".clone_into(&mut o.currency),
            |o| o.total_minor -= 1,
            |o| o.lines[0].quantity = 2,
            |o| o.amends = Some("o-0".to_owned()),
        ];
        for change in changes {
            let mut other = order();
            change(&mut other);
            assert!(!holds(&attributes(&other), &attributes(&order())));
            assert!(!holds(&attributes(&order()), &attributes(&other)));
        }
    }
}
