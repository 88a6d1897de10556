//! microbatch with a job that has no I/O of its own: it validates the order and computes a receipt.

use microbatch::{Done, ItemContext, NoWrites, Pipeline, ProcessError, Processor};
use microbatch_aws::lambda::{self, BoxError};
use process_orders::{order::Order, process::Receipt};

#[derive(Debug)]
struct Receipts;

impl Processor for Receipts {
    type Item = Order;
    type Output = Receipt;
    type Write = NoWrites;

    async fn process(&self, order: Order, _cx: &ItemContext) -> Result<Done<Receipt>, ProcessError> {
        order.validate().map_err(ProcessError::permanent)?;
        let Order { order_id, total_minor, currency, .. } = order;
        Ok(Receipt { order_id, total_minor, currency }.into())
    }
}

fn main() -> Result<(), BoxError> {
    lambda::main(async { Ok(Pipeline::builder(Receipts).key("order_id").fingerprint_body()) })
}
