//! The processor: what is done with one order.

use std::{error::Error, fmt, time::Duration};

use microbatch::{Done, ItemContext, Pipeline, PipelineBuilder, ProcessError, Processor, WriteRefusal, WriteRefused};
use microbatch_aws::dynamodb::DynamoDbWrite;
use serde::{Deserialize, Serialize};

use crate::{
    order::{Order, OrderError},
    orders::{require_order, write_order},
};

/// When to look again for an order that is to be amended. Messages of a standard queue overtake each other by seconds,
/// not by minutes.
pub const AMENDED_RETRY_AFTER: Duration = Duration::from_secs(15);

/// Where the order itself stands among the writes. The one other write is the check of the order that it amends.
const ORDER_WRITE: usize = 0;

/// The function: which part of a message names the work, which must not differ, and what is done.
///
/// The whole order is compared, so that a second order under a used id is a conflict rather than lost as a duplicate.
pub fn pipeline(orders_table: impl Into<String>) -> PipelineBuilder<ProcessOrders> {
    Pipeline::builder(ProcessOrders::new(orders_table)).key("order_id").fingerprint_body()
}

/// Turns each valid order into its writes.
#[derive(Debug)]
pub struct ProcessOrders {
    orders_table: String,
}

/// The result that is kept with a completed order, and replayed for a duplicate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The order's id.
    pub order_id: String,
    /// The order's total in the currency's minor unit.
    pub total_minor: u64,
    /// ISO 4217 code of the total.
    pub currency: String,
}

impl ProcessOrders {
    /// Orders go to this table, whose partition key is [`PARTITION_KEY`](crate::orders::PARTITION_KEY).
    pub fn new(orders_table: impl Into<String>) -> Self {
        Self { orders_table: orders_table.into() }
    }
}

impl Processor for ProcessOrders {
    type Item = Order;
    type Output = Receipt;
    type Write = DynamoDbWrite;

    async fn process(&self, order: Order, _cx: &ItemContext) -> Result<Done<Receipt, DynamoDbWrite>, ProcessError> {
        order.validate().map_err(|error| Failure::Invalid(error).classify())?;
        let table = &self.orders_table;
        let mut writes = vec![write_order(table, &order).into()];
        writes.extend(order.amends.as_ref().map(|amended| require_order(table, amended).into()));
        let Order { order_id, total_minor, currency, .. } = order;
        Ok(Done::with_writes(Receipt { order_id, total_minor, currency }, writes))
    }

    fn write_refused(&self, refused: WriteRefused) -> ProcessError {
        let failure = match refused.reason {
            WriteRefusal::Invalid => Failure::NotWritable,
            WriteRefusal::Condition if refused.index == ORDER_WRITE => Failure::OrderIdTaken,
            WriteRefusal::Condition => Failure::AmendedOrderMissing,
        };
        failure.classify()
    }
}

/// Why an order was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The order is invalid, and stays so.
    Invalid(OrderError),
    /// The order that this one replaces is not in the table yet: a standard queue does not keep order.
    AmendedOrderMissing,
    /// Another order has this order's id.
    OrderIdTaken,
    /// The table cannot take the order.
    NotWritable,
}

impl Failure {
    /// A short stable name for logs and dashboards.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Invalid(error) => error.code(),
            Self::AmendedOrderMissing => "amended_order_missing",
            Self::OrderIdTaken => "order_id_taken",
            Self::NotWritable => "order_not_writable",
        }
    }

    /// Says whether trying again can help, and when.
    fn classify(self) -> ProcessError {
        let error = match self {
            Self::Invalid(_) | Self::OrderIdTaken | Self::NotWritable => ProcessError::permanent(self),
            Self::AmendedOrderMissing => ProcessError::transient(self).retry_after(AMENDED_RETRY_AFTER),
        };
        error.code(self.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(error) => write!(f, "the order is invalid: {error}"),
            Self::AmendedOrderMissing => f.write_str("the order to be amended is not in the orders table yet"),
            Self::OrderIdTaken => f.write_str("another order is in the orders table under this order's id"),
            Self::NotWritable => {
                f.write_str("the orders table cannot take the order: is its key order_id, a string, alone?")
            }
        }
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use microbatch_aws::clock::SystemClock;

    use super::*;
    use crate::order::Line;

    fn order(order_id: &str) -> Order {
        Order {
            order_id: order_id.to_owned(),
            customer_id: "c-1".to_owned(),
            currency: "EUR".to_owned(),
            lines: vec![Line { sku: "s-1".to_owned(), quantity: 2, unit_price_minor: 1_250 }],
            total_minor: 2_500,
            amends: None,
        }
    }

    async fn process(order: Order) -> Result<Done<Receipt, DynamoDbWrite>, ProcessError> {
        let cx = ItemContext::for_tests(Arc::new(SystemClock));
        ProcessOrders::new("orders").process(order, &cx).await
    }

    fn refused(index: usize, reason: WriteRefusal) -> ProcessError {
        ProcessOrders::new("orders").write_refused(WriteRefused { index, reason })
    }

    #[tokio::test]
    async fn a_good_order_gets_a_receipt_and_one_write() {
        let done = process(order("o-1")).await.expect("valid");
        let receipt = Receipt { order_id: "o-1".to_owned(), total_minor: 2_500, currency: "EUR".to_owned() };
        assert_eq!(*done.output(), receipt);
        assert_eq!(done.writes(), [write_order("orders", &order("o-1")).into()]);
    }

    #[tokio::test]
    async fn an_amendment_also_requires_what_it_amends() {
        let amending = Order { amends: Some("o-1".to_owned()), ..order("o-2") };
        let done = process(amending.clone()).await.expect("valid");
        let expected = [write_order("orders", &amending).into(), require_order("orders", "o-1").into()];
        assert_eq!(done.writes(), expected);
    }

    #[tokio::test]
    async fn an_invalid_order_is_permanent_and_not_written() {
        let error = process(Order { total_minor: 1, ..order("o-1") }).await.expect_err("invalid");
        assert!(error.is_permanent());
        assert_eq!(error.failure_code(), Some("total_mismatch"));
    }

    #[test]
    fn a_refused_order_is_one_whose_id_is_taken() {
        let error = refused(0, WriteRefusal::Condition);
        assert!(error.is_permanent());
        assert_eq!(error.failure_code(), Some("order_id_taken"));
    }

    #[test]
    fn an_amended_order_that_is_missing_is_waited_for() {
        let error = refused(1, WriteRefusal::Condition);
        assert!(!error.is_permanent() && !error.is_effect_unknown());
        assert_eq!(error.failure_code(), Some("amended_order_missing"));
        assert_eq!(error.retry_after_hint(), Some(AMENDED_RETRY_AFTER));
    }

    #[test]
    fn what_the_table_cannot_take_is_permanent() {
        for index in [0, 1] {
            let error = refused(index, WriteRefusal::Invalid);
            assert!(error.is_permanent());
            assert_eq!(error.failure_code(), Some("order_not_writable"));
        }
    }
}
