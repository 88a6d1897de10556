//! Hand-written with care: at most 64 messages at once.

use std::sync::Arc;

use bench_functions::{Orders, messages, response};
use futures_util::{StreamExt, stream};
use lambda_runtime::{Error, run, service_fn, tracing};

/// As many requests to the table as pay on one connection pool.
const AT_ONCE: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let orders = &Arc::new(Orders::from_env().await?);
    let handler = |event| async move {
        let (messages, deadline_ms) = messages(event);
        let failed = stream::iter(messages)
            .map(|message| orders.failed_id(message, deadline_ms))
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        Ok::<_, Error>(response(failed))
    };
    run(service_fn(handler)).await
}
