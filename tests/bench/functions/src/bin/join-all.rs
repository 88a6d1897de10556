//! The shape of AWS's example for partial batch failures: a task for each message, all at once.

use std::sync::Arc;

use bench_functions::{Orders, messages, response};
use futures_util::future::join_all;
use lambda_runtime::{Error, run, service_fn, tracing};
use tokio::spawn;

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let orders = &Arc::new(Orders::from_env().await?);
    let handler = |event| async move {
        let (messages, deadline_ms) = messages(event);
        let tasks = messages.into_iter().map(|message| {
            let orders = Arc::clone(orders);
            let id = message.message_id.clone();
            let task = spawn(async move { orders.failed_id(message, deadline_ms).await });
            // A task that panicked has failed, too.
            async move { task.await.unwrap_or(id) }
        });
        Ok::<_, Error>(response(join_all(tasks).await.into_iter().flatten().collect()))
    };
    run(service_fn(handler)).await
}
