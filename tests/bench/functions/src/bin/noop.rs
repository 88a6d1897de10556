//! Takes an event and does nothing: what `lambda_runtime` itself costs.

use aws_lambda_events::sqs::SqsBatchResponse;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::value::RawValue;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let handler = |_: LambdaEvent<Box<RawValue>>| async { Ok::<_, Error>(SqsBatchResponse::default()) };
    run(service_fn(handler)).await
}
