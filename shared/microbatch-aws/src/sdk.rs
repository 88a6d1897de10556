//! The AWS SDK's settings: time-outs, which its defaults leave out, and where tries are counted.

use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_dynamodb::error::SdkError;
use microbatch::ProcessError;

/// Longest time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time for one try of a processor's own request.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Shortest and longest time for a processor's own request, tries included.
const OPERATION_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 500..=4_500;

/// The SDK's configuration from the environment, with time-outs set, for the clients of a processor.
///
/// A request ends by nine tenths of `MICROBATCH_EFFECT_TIMEOUT_MS`, after which it must have no more effect, and by 4.5 s.
/// Nothing sensible is done in under 0.5 s: with a setting below that a processor must not send requests.
pub async fn sdk_config() -> SdkConfig {
    let operation_timeout = operation_timeout(std::env::var("MICROBATCH_EFFECT_TIMEOUT_MS").ok().as_deref());
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT.min(operation_timeout))
        .operation_attempt_timeout(ATTEMPT_TIMEOUT.min(operation_timeout))
        .operation_timeout(operation_timeout)
        .build();
    // Boxed: its state is large, and would otherwise stand in every user's `main`.
    Box::pin(aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts).load()).await
}

/// The time-out of a request, by the setting's text. What is wrong with that is said at the init.
fn operation_timeout(effect_timeout_ms: Option<&str>) -> Duration {
    let (min_ms, max_ms) = (*OPERATION_TIMEOUT_MS.start(), *OPERATION_TIMEOUT_MS.end());
    let asked_ms = effect_timeout_ms.and_then(|text| text.trim().parse::<u64>().ok());
    Duration::from_millis(asked_ms.map_or(max_ms, |asked_ms| (asked_ms / 10 * 9).clamp(min_ms, max_ms)))
}

/// The error of a processor's own request: transient, and where no answer came, of unknown effect. A key whose effect is
/// unknown is held until the request can no longer arrive, instead of being free at once.
pub fn request_error<E>(error: SdkError<E>) -> ProcessError
where
    E: std::error::Error + Send + Sync + 'static,
{
    let unknown =
        matches!(error, SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_));
    let error = ProcessError::transient(error);
    if unknown { error.effect_unknown() } else { error }
}

/// The client of the idempotency table: no retries, since the pipeline bounds and counts them itself (P14).
pub fn store_client(config: &SdkConfig, timeout_ms: u64) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::config::Builder::from(config)
        .retry_config(RetryConfig::disabled())
        .timeout_config(one_try(timeout_ms))
        .build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

/// The client of [`SqsQueue`](crate::sqs::SqsQueue) and [`SqsProducer`](crate::sqs::SqsProducer): no retries, since both
/// have their tries bounded and counted elsewhere (P14), and a request that ends after `timeout_ms`.
pub fn sqs_client(config: &SdkConfig, timeout_ms: u64) -> aws_sdk_sqs::Client {
    let config = aws_sdk_sqs::config::Builder::from(config)
        .retry_config(RetryConfig::disabled())
        .timeout_config(one_try(timeout_ms))
        .build();
    aws_sdk_sqs::Client::from_conf(config)
}

/// The time-outs of a request that makes one try.
fn one_try(timeout_ms: u64) -> TimeoutConfig {
    let timeout = Duration::from_millis(timeout_ms);
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .operation_attempt_timeout(timeout)
        .operation_timeout(timeout)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_before_it_may_have_no_more_effect() {
        for (setting, expected_ms) in
            [(None, 4_500), (Some("5000"), 4_500), (Some("2000"), 1_800), (Some("0"), 500), (Some("soon"), 4_500)]
        {
            assert_eq!(operation_timeout(setting), Duration::from_millis(expected_ms), "{setting:?}");
        }
    }

    #[test]
    fn what_was_not_answered_may_have_had_its_effect() {
        let unanswered: SdkError<std::fmt::Error> = SdkError::timeout_error("late");
        assert!(request_error(unanswered).is_effect_unknown());
        let unsent: SdkError<std::fmt::Error> = SdkError::construction_failure("no region");
        assert!(!request_error(unsent).is_effect_unknown());
    }
}
