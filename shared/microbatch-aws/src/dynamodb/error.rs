//! From the SDK's errors to ours: what kind, never the service's text, which may quote values.

use std::fmt;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::get_item::GetItemError;
use microbatch::{StoreError, store::StoreErrorKind};

/// What an SDK error means for the request that failed.
pub(super) fn store_error<E: ProvideErrorMetadata>(operation: &str, error: &SdkError<E>) -> StoreError {
    let (kind, what) = match error {
        SdkError::TimeoutError(_) => (StoreErrorKind::TimedOut, "no answer in time"),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            (StoreErrorKind::TimedOut, "no connection in time")
        }
        SdkError::DispatchFailure(failure) if failure.is_user() => {
            (StoreErrorKind::Refused, "the request could not be sent")
        }
        SdkError::DispatchFailure(_) => (StoreErrorKind::Unavailable, "no connection"),
        SdkError::ResponseError(_) => (StoreErrorKind::Unavailable, "the answer was broken off"),
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or("an error without a code");
            (kind_of_code(code, service.raw().status().as_u16()), code)
        }
        _ => (StoreErrorKind::Refused, "the request could not be made"),
    };
    StoreError::new(kind, format!("{operation}: {what}"))
}

/// The kind of an error that DynamoDB names, after its developer guide's page on error handling.
pub(super) fn kind_of_code(code: &str, http_status: u16) -> StoreErrorKind {
    match code {
        "ProvisionedThroughputExceededException"
        | "ProvisionedThroughputExceeded"
        | "ThrottlingException"
        | "ThrottlingError"
        | "RequestLimitExceeded"
        | "LimitExceededException"
        | "TransactionConflictException"
        | "TransactionConflict" => StoreErrorKind::Throttled,
        "InternalServerError" | "ServiceUnavailable" => StoreErrorKind::Unavailable,
        _ if http_status >= 500 => StoreErrorKind::Unavailable,
        _ => StoreErrorKind::Refused,
    }
}

/// Why the idempotency table cannot be used, and what would make it right.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitError {
    /// There is no such table.
    NoTable {
        /// Its name.
        table: String,
    },
    /// The table's key is another.
    WrongKey {
        /// Its name.
        table: String,
    },
    /// Reading is not allowed, or the credentials are no good.
    Denied {
        /// Its name.
        table: String,
        /// The service's error code.
        code: String,
    },
}

impl InitError {
    /// The definite error behind a failed read; none for one that may pass.
    pub(super) fn definite(table: &str, error: &SdkError<GetItemError>) -> Option<Self> {
        let SdkError::ServiceError(service) = error else { return None };
        let table = table.to_owned();
        match service.err().code()? {
            "ResourceNotFoundException" => Some(InitError::NoTable { table }),
            "ValidationException" => Some(InitError::WrongKey { table }),
            code @ ("AccessDeniedException" | "UnrecognizedClientException" | "InvalidSignatureException") => {
                Some(InitError::Denied { table, code: code.to_owned() })
            }
            _ => None,
        }
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let create = |table: &str| {
            format!(
                "aws dynamodb create-table --table-name {table} --attribute-definitions AttributeName=id,AttributeType=S \
                 --key-schema AttributeName=id,KeyType=HASH --billing-mode PAY_PER_REQUEST"
            )
        };
        match self {
            InitError::NoTable { table } => write!(
                f,
                "MICROBATCH_TABLE names the table {table:?}, which does not exist in this account and region; create it: {}",
                create(table)
            ),
            InitError::WrongKey { table } => write!(
                f,
                "the table {table:?} of MICROBATCH_TABLE has another key than the partition key id, a string, alone; \
                 name another table, or create one: {}",
                create("NAME")
            ),
            InitError::Denied { table, code } => write!(
                f,
                "reading the table {table:?} of MICROBATCH_TABLE was refused ({code}); allow the function's role \
                 dynamodb:GetItem, dynamodb:PutItem and dynamodb:UpdateItem on it"
            ),
        }
    }
}

impl std::error::Error for InitError {}
