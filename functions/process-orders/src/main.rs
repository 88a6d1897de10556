//! Wiring only: the environment, the orders table, the Lambda host. What is done with an order is in `process.rs`.

use aws_sdk_dynamodb::Client;
use microbatch_aws::{
    lambda::{self, BoxError},
    sdk::sdk_config,
};
use process_orders::{config::Config, orders::DynamoDbOrders, process::pipeline};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    lambda::run_with(async {
        let config = Config::from_lookup(|name| std::env::var(name).ok())?;
        let client = Client::new(&Box::pin(sdk_config()).await);
        Ok(pipeline(DynamoDbOrders::new(client, config.orders_table)))
    })
    .await
}
