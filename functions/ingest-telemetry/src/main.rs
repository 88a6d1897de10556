//! Wiring only: the environment and the Lambda host. What is done with readings is in `process.rs`.

use std::sync::Arc;

use aws_sdk_dynamodb::{
    Client,
    config::{Builder, retry::RetryConfig},
};
use ingest_telemetry::{config::Config, process::pipeline, table::DynamoDbTable};
use microbatch_aws::{
    clock::{SystemClock, SystemRandom},
    lambda::{self, BoxError},
    sdk::sdk_config,
};

fn main() -> Result<(), BoxError> {
    lambda::main(async {
        let config = Config::from_lookup(|name| std::env::var(name).ok())?;
        // Tries are counted in one place, where the unprocessed rows are.
        let client = Builder::from(&sdk_config().await).retry_config(RetryConfig::disabled()).build();
        let table = DynamoDbTable::new(Client::from_conf(client), config.telemetry_table);
        Ok(pipeline(table, Arc::new(SystemClock), Arc::new(SystemRandom)))
    })
}
