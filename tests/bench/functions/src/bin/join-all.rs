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
            let task = spawn(async move { orders.handle(&message, deadline_ms).await });
            async move {
                let handled = task.await.map_err(Error::from).flatten();
                handled.inspect_err(|error| tracing::warn!(%error, "failed")).err()?;
                id
            }
        });
        Ok::<_, Error>(response(join_all(tasks).await.into_iter().flatten().collect()))
    };
    run(service_fn(handler)).await
}
