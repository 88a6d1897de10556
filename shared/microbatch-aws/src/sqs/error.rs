//! From the SDK's errors to the core's: what kind, never the service's text, which may quote values.

use aws_sdk_sqs::{
    error::{ProvideErrorMetadata, SdkError},
    types::BatchResultErrorEntry,
};
use microbatch::queue::QueueError;

/// The service slowed us down: the request had no effect, and may succeed later.
pub(super) const THROTTLED: &str = "queue_throttled";
/// No answer in time: the request may have had its effect.
pub(super) const TIMED_OUT: &str = "queue_timed_out";
/// No answer, or one of a service in trouble: the request may have had its effect.
pub(super) const UNAVAILABLE: &str = "queue_unavailable";
/// The request is refused, and will be again: no permission, no such queue, something that is not allowed.
pub(super) const REFUSED: &str = "queue_refused";
/// The message cannot be parked as it is.
pub(super) const DOES_NOT_FIT: &str = "park_does_not_fit";

/// Longest error code that is repeated; those of SQS are shorter.
const CODE_CHARS_MAX: usize = 64;

/// What an SDK error means for every entry of the request that failed.
pub(super) fn request_error<E: ProvideErrorMetadata>(operation: &str, error: &SdkError<E>) -> QueueError {
    let passing = |code, what| QueueError::passing(code, format!("{operation}: {what}"));
    let lasting = |what| QueueError::lasting(REFUSED, format!("{operation}: {what}"));
    match error {
        SdkError::TimeoutError(_) => passing(TIMED_OUT, "no answer in time"),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => passing(TIMED_OUT, "no connection in time"),
        SdkError::DispatchFailure(failure) if failure.is_user() => lasting("the request could not be sent"),
        SdkError::DispatchFailure(_) => passing(UNAVAILABLE, "no connection, or no answer on it"),
        SdkError::ResponseError(_) => passing(UNAVAILABLE, "the answer was broken off, or could not be read"),
        SdkError::ServiceError(service) => match service.raw().status().as_u16() {
            429 => passing(THROTTLED, "too many requests"),
            // A success whose body cannot be read says nothing of what was done.
            status => by_code(operation, service.err().code(), !(400..500).contains(&status)),
        },
        _ => lasting("the request could not be made; check region and endpoint"),
    }
}

/// What the answer says of an entry that failed.
pub(super) fn entry_error(operation: &str, entry: &BatchResultErrorEntry) -> QueueError {
    by_code(operation, Some(&entry.code), !entry.sender_fault)
}

/// Throttling passes whosever fault it is said to be.
fn by_code(operation: &str, code: Option<&str>, services_fault: bool) -> QueueError {
    let code = code.map_or("", short_code);
    let shown = if is_code(code) { code } else { "an error without a code" };
    let detail = format!("{operation}: {shown}");
    match code {
        "RequestThrottled"
        | "RequestThrottledException"
        | "KmsThrottled"
        | "OverLimit"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "LimitExceededException"
        | "SlowDown" => QueueError::passing(THROTTLED, detail),
        "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "ServiceUnavailable"
        | "RequestTimeout"
        | "RequestTimeoutException" => QueueError::passing(UNAVAILABLE, detail),
        _ if services_fault => QueueError::passing(UNAVAILABLE, detail),
        _ => QueueError::lasting(REFUSED, detail),
    }
}

/// The code without the prefix that SQS keeps for compatibility.
pub(super) fn short_code(code: &str) -> &str {
    code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(code)
}

/// Whether it looks like a code. Whatever stands in its place is not repeated.
fn is_code(code: &str) -> bool {
    (1..=CODE_CHARS_MAX).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
}

/// Whether a request that failed like this may have had its effect.
pub(super) fn may_have_worked(error: &QueueError) -> bool {
    matches!(error.code(), TIMED_OUT | UNAVAILABLE)
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::{
        config::http::HttpResponse,
        error::{ConnectorError, ErrorMetadata},
        operation::send_message_batch::SendMessageBatchError,
    };
    use aws_smithy_types::body::SdkBody;

    use super::*;

    fn service_error(status: u16, code: Option<&str>) -> SdkError<SendMessageBatchError> {
        let mut metadata = ErrorMetadata::builder().message("canary");
        if let Some(code) = code {
            metadata = metadata.code(code);
        }
        let raw = HttpResponse::new(status.try_into().expect("a status"), SdkBody::empty());
        SdkError::service_error(SendMessageBatchError::generic(metadata.build()), raw)
    }

    #[test]
    fn every_failure_of_a_request_has_a_code_and_passes_or_lasts() {
        let cases = [
            (service_error(400, Some("RequestThrottled")), true, THROTTLED),
            (service_error(400, Some("ThrottlingException")), true, THROTTLED),
            (service_error(400, Some("KmsThrottled")), true, THROTTLED),
            (service_error(500, Some("InternalError")), true, UNAVAILABLE),
            (service_error(503, None), true, UNAVAILABLE),
            (service_error(200, None), true, UNAVAILABLE),
            (service_error(429, None), true, THROTTLED),
            (service_error(500, Some("Whatever")), true, UNAVAILABLE),
            (service_error(403, Some("AccessDeniedException")), false, REFUSED),
            (service_error(400, Some("AWS.SimpleQueueService.NonExistentQueue")), false, REFUSED),
            (service_error(400, Some("AWS.SimpleQueueService.BatchRequestTooLong")), false, REFUSED),
            (service_error(400, None), false, REFUSED),
            (SdkError::timeout_error("canary"), true, TIMED_OUT),
            (SdkError::construction_failure("canary"), false, REFUSED),
            (SdkError::dispatch_failure(ConnectorError::timeout("canary".into())), true, TIMED_OUT),
            (SdkError::dispatch_failure(ConnectorError::io("canary".into())), true, UNAVAILABLE),
            (SdkError::dispatch_failure(ConnectorError::user("canary".into())), false, REFUSED),
        ];
        for (error, passes, code) in cases {
            let judged = request_error("SendMessageBatch", &error);
            assert_eq!((judged.is_retryable(), judged.code()), (passes, code), "{error:?}");
            assert!(!format!("{judged} {judged:?}").contains("canary"), "P13: {judged}");
        }
    }

    #[test]
    fn p13_what_is_no_code_is_not_repeated() {
        for code in ["my secret", "", &"x".repeat(65), "é"] {
            let judged = request_error("SendMessageBatch", &service_error(400, Some(code)));
            assert!(judged.to_string().ends_with("SendMessageBatch: an error without a code"), "{judged}");
        }
    }

    #[test]
    fn an_entrys_failure_passes_unless_it_is_the_senders() {
        let entry = |code: &str, sender_fault: bool| {
            let entry = BatchResultErrorEntry::builder().id("0").code(code).sender_fault(sender_fault);
            entry_error("SendMessageBatch", &entry.build().expect("complete"))
        };
        for (code, sender_fault, passes, expected) in [
            ("InternalError", false, true, UNAVAILABLE),
            ("ServiceUnavailable", true, true, UNAVAILABLE),
            ("SomethingNew", false, true, UNAVAILABLE),
            ("SomethingNew", true, false, REFUSED),
            ("InvalidParameterValue", true, false, REFUSED),
            ("RequestThrottled", true, true, THROTTLED),
            ("KmsThrottled", true, true, THROTTLED),
        ] {
            let judged = entry(code, sender_fault);
            assert_eq!((judged.is_retryable(), judged.code()), (passes, expected), "{code} {sender_fault}");
        }
    }
}
