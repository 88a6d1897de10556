//! The AWS SDK's settings: time-outs, which its defaults leave out, and where tries are counted.

use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};

/// Longest time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time for one try of a processor's own request.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Longest time for a processor's own request, tries included. Below `MICROBATCH_EFFECT_TIMEOUT_MS`, after which a
/// request must have no more effect.
const OPERATION_TIMEOUT: Duration = Duration::from_millis(4_500);

/// The SDK's configuration from the environment, with time-outs set, for the clients of a processor.
pub async fn sdk_config() -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    // Boxed: its state is large, and would otherwise stand in every user's `main`.
    Box::pin(aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts).load()).await
}

/// The client of the idempotency table: no retries, since the pipeline bounds and counts them itself (P14).
pub fn store_client(config: &SdkConfig, timeout_ms: u64) -> aws_sdk_dynamodb::Client {
    let timeout = Duration::from_millis(timeout_ms);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .operation_attempt_timeout(timeout)
        .operation_timeout(timeout)
        .build();
    let config = aws_sdk_dynamodb::config::Builder::from(config)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .build();
    aws_sdk_dynamodb::Client::from_conf(config)
}
