//! The processor: what is done with one order.

use std::{error::Error, fmt, time::Duration};

use microbatch::{Done, ItemContext, NoWrites, Pipeline, PipelineBuilder, ProcessError, Processor};
use serde::{Deserialize, Serialize};

use crate::{
    order::{Order, OrderError},
    orders::{BookError, OrderBook, Put},
};

/// When to look again for an order that is to be amended. Messages of a standard queue overtake each other by seconds,
/// not by minutes.
pub const AMENDED_RETRY_AFTER: Duration = Duration::from_secs(15);

/// The function: which part of a message names the work, which must not differ, and what is done.
///
/// The whole order is compared, so that a second order under a used id is a conflict rather than lost as a duplicate.
pub fn pipeline<B: OrderBook>(book: B) -> PipelineBuilder<ProcessOrders<B>> {
    Pipeline::builder(ProcessOrders::new(book)).key("order_id").fingerprint_body()
}

/// Writes each valid order to the order book.
#[derive(Debug)]
pub struct ProcessOrders<B> {
    book: B,
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

impl<B: OrderBook> ProcessOrders<B> {
    /// Writes orders to this book.
    pub fn new(book: B) -> Self {
        Self { book }
    }

    /// Where the orders go.
    pub fn book(&self) -> &B {
        &self.book
    }

    async fn accept(&self, order: Order) -> Result<Receipt, Failure> {
        order.validate()?;
        if let Some(amended) = &order.amends
            && !self.book.contains(amended).await?
        {
            return Err(Failure::AmendedOrderMissing);
        }
        match self.book.put(&order).await? {
            Put::Kept => {
                let Order { order_id, total_minor, currency, .. } = order;
                Ok(Receipt { order_id, total_minor, currency })
            }
            Put::Taken => Err(Failure::OrderIdTaken),
        }
    }
}

impl<B: OrderBook> Processor for ProcessOrders<B> {
    type Item = Order;
    type Output = Receipt;
    type Write = NoWrites;

    async fn process(&self, order: Order, _cx: &ItemContext) -> Result<Done<Receipt>, ProcessError> {
        let receipt = self.accept(order).await.map_err(Failure::classify)?;
        Ok(receipt.into())
    }
}

/// Why an order was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The order is invalid, and stays so.
    Invalid(OrderError),
    /// The order that this one replaces is not in the book yet: a standard queue does not keep order.
    AmendedOrderMissing,
    /// Another order has this order's id.
    OrderIdTaken,
    /// The order book could not be read or written.
    Book(BookError),
}

impl Failure {
    /// A short stable name for logs and dashboards.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Invalid(error) => error.code(),
            Self::AmendedOrderMissing => "amended_order_missing",
            Self::OrderIdTaken => "order_id_taken",
            Self::Book(error) => error.code(),
        }
    }

    /// Says whether trying again can help, and when.
    fn classify(self) -> ProcessError {
        let code = self.code();
        let error = match self {
            Self::Invalid(_) | Self::OrderIdTaken => ProcessError::permanent(self),
            Self::AmendedOrderMissing => ProcessError::transient(self).retry_after(AMENDED_RETRY_AFTER),
            // A write may have arrived unseen. To run again is safe, as the book takes the same order twice, so this
            // is no unknown effect that has to keep the key held.
            Self::Book(_) => ProcessError::transient(self),
        };
        error.code(code)
    }
}

impl From<OrderError> for Failure {
    fn from(error: OrderError) -> Self {
        Self::Invalid(error)
    }
}

impl From<BookError> for Failure {
    fn from(error: BookError) -> Self {
        Self::Book(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(error) => write!(f, "the order is invalid: {error}"),
            Self::AmendedOrderMissing => f.write_str("the order to be amended is not in the orders table yet"),
            Self::OrderIdTaken => f.write_str("another order is in the orders table under this order's id"),
            Self::Book(error) => error.fmt(f),
        }
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use microbatch::clock::{BoxFuture, Clock};

    use super::*;
    use crate::{order::Line, orders::MemoryOrders};

    /// No time passes; nothing here waits.
    struct Stopped;

    impl Clock for Stopped {
        fn now_ms(&self) -> u64 {
            1_763_900_000_000
        }

        fn sleep_until(&self, _at_ms: u64) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    /// A book whose table does not answer.
    struct Down;

    impl OrderBook for Down {
        async fn contains(&self, _order_id: &str) -> Result<bool, BookError> {
            Err(BookError::unreachable("GetItem"))
        }

        async fn put(&self, _order: &Order) -> Result<Put, BookError> {
            Err(BookError::unreachable("PutItem"))
        }
    }

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

    fn amending(order_id: &str, amended: &str) -> Order {
        Order { amends: Some(amended.to_owned()), ..order(order_id) }
    }

    async fn process<B: OrderBook>(processor: &ProcessOrders<B>, order: Order) -> Result<Receipt, ProcessError> {
        let cx = ItemContext::for_tests(Arc::new(Stopped));
        processor.process(order, &cx).await.map(|done| done.into_parts().0)
    }

    fn in_memory() -> ProcessOrders<MemoryOrders> {
        ProcessOrders::new(MemoryOrders::default())
    }

    #[tokio::test]
    async fn a_good_order_is_written_and_gets_a_receipt() {
        let processor = in_memory();
        let receipt = process(&processor, order("o-1")).await.expect("valid");
        assert_eq!(receipt, Receipt { order_id: "o-1".to_owned(), total_minor: 2_500, currency: "EUR".to_owned() });
        assert_eq!(processor.book().snapshot()["o-1"], order("o-1"));
    }

    #[tokio::test]
    async fn a_redelivered_order_is_written_once_and_gets_the_same_receipt() {
        let processor = in_memory();
        let first = process(&processor, order("o-1")).await.expect("valid");
        let second = process(&processor, order("o-1")).await.expect("the same order again");
        assert_eq!(first, second);
        assert_eq!(processor.book().snapshot().len(), 1);
    }

    #[tokio::test]
    async fn another_order_under_a_taken_id_is_permanent_and_changes_nothing() {
        let processor = in_memory();
        process(&processor, order("o-1")).await.expect("valid");
        let other = Order { customer_id: "c-2".to_owned(), ..order("o-1") };
        let error = process(&processor, other).await.expect_err("taken");
        assert!(error.is_permanent());
        assert_eq!(error.failure_code(), Some("order_id_taken"));
        assert_eq!(processor.book().snapshot()["o-1"], order("o-1"));
    }

    #[tokio::test]
    async fn an_invalid_order_is_permanent_and_not_written() {
        let processor = in_memory();
        let invalid = Order { total_minor: 1, ..order("o-1") };
        let error = process(&processor, invalid).await.expect_err("invalid");
        assert!(error.is_permanent());
        assert_eq!(error.failure_code(), Some("total_mismatch"));
        assert!(processor.book().snapshot().is_empty());
    }

    #[tokio::test]
    async fn an_amended_order_that_is_missing_is_waited_for() {
        let processor = in_memory();
        let error = process(&processor, amending("o-2", "o-1")).await.expect_err("o-1 is missing");
        assert!(!error.is_permanent());
        assert_eq!(error.failure_code(), Some("amended_order_missing"));
        assert_eq!(error.retry_after_hint(), Some(AMENDED_RETRY_AFTER));
        assert!(processor.book().snapshot().is_empty());

        process(&processor, order("o-1")).await.expect("valid");
        process(&processor, amending("o-2", "o-1")).await.expect("o-1 is there now");
        assert_eq!(processor.book().snapshot().len(), 2);
    }

    #[tokio::test]
    async fn a_book_that_is_down_is_transient_and_safe_to_try_again() {
        for order in [order("o-1"), amending("o-2", "o-1")] {
            let error = process(&ProcessOrders::new(Down), order).await.expect_err("down");
            assert!(!error.is_permanent());
            assert!(!error.is_effect_unknown());
            assert_eq!(error.failure_code(), Some("orders_unreachable"));
        }
    }
}
