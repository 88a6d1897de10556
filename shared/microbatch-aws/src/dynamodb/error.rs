//! From the SDK's errors to ours: what kind, never the service's text, which may quote values.

use std::fmt;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::get_item::GetItemError;
use microbatch::{StoreError, store::StoreErrorKind};

use super::layout::Layout;

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
        | "ReplicatedWriteConflictException"
        | "TransactionConflictException"
        | "TransactionConflict"
        | "TransactionInProgressException" => StoreErrorKind::Throttled,
        "InternalServerError" | "ServiceUnavailable" => StoreErrorKind::Unavailable,
        // A success whose body cannot be read says nothing of what was done.
        _ if !(400..500).contains(&http_status) => StoreErrorKind::Unavailable,
        _ => StoreErrorKind::Refused,
    }
}

/// What the store calls, as IAM actions in JSON. A transaction needs no permission of its own.
const ACTIONS: &str = "\"dynamodb:GetItem\",\"dynamodb:BatchGetItem\",\"dynamodb:PutItem\",\"dynamodb:UpdateItem\",\
                       \"dynamodb:PartiQLInsert\",\"dynamodb:PartiQLUpdate\"";

/// Why the idempotency table cannot be used, and what would make it right.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitError {
    /// There is no such table.
    NoTable(Table),
    /// The table's key is another.
    WrongKey(Table),
    /// A request could not even be made.
    NotConfigured,
    /// Reading is not allowed, or the credentials are no good.
    Denied {
        /// The table.
        table: Table,
        /// The service's error code.
        code: String,
    },
}

/// The table that was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    name: String,
    key: String,
    create: String,
}

fn describe_key(layout: &Layout) -> String {
    match layout.key_schema()[..] {
        [(id, _)] => format!("the partition key {id:?}, a string, alone"),
        ref schema => {
            let parts: Vec<_> = schema.iter().map(|(name, kind)| format!("{name} ({kind}, a string)")).collect();
            parts.join(" and ")
        }
    }
}

/// The rest of the command that makes the table, behind its name.
fn create_command(layout: &Layout) -> String {
    let (mut attributes, mut keys) = (String::new(), String::new());
    for (name, kind) in layout.key_schema() {
        attributes.push_str(&format!(" AttributeName={name},AttributeType=S"));
        keys.push_str(&format!(" AttributeName={name},KeyType={kind}"));
    }
    format!("--attribute-definitions{attributes} --key-schema{keys} --billing-mode PAY_PER_REQUEST")
}

impl InitError {
    /// The definite error behind a failed read; none for one that may pass.
    pub(super) fn definite(table: &str, layout: &Layout, error: &SdkError<GetItemError>) -> Option<Self> {
        let service = match error {
            SdkError::ServiceError(service) => service,
            SdkError::ConstructionFailure(_) => return Some(InitError::NotConfigured),
            _ => return None,
        };
        let table = Table { name: table.to_owned(), key: describe_key(layout), create: create_command(layout) };
        match service.err().code()? {
            "ResourceNotFoundException" => Some(InitError::NoTable(table)),
            "ValidationException" => Some(InitError::WrongKey(table)),
            code @ ("AccessDeniedException" | "UnrecognizedClientException" | "InvalidSignatureException") => {
                Some(InitError::Denied { table, code: code.to_owned() })
            }
            _ => None,
        }
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InitError::NoTable(Table { name, create, .. }) => write!(
                f,
                "MICROBATCH_TABLE names the table {name:?}, which does not exist in this account and region; create it: \
                 aws dynamodb create-table --table-name {name} {create}"
            ),
            InitError::WrongKey(Table { name, key, create }) => write!(
                f,
                "the table {name:?} of MICROBATCH_TABLE has another key than {key}; name another table, or create one: \
                 aws dynamodb create-table --table-name NAME {create}"
            ),
            InitError::NotConfigured => f.write_str(
                "no request to the table of MICROBATCH_TABLE could be made: set AWS_REGION, and check AWS_ENDPOINT_URL_DYNAMODB",
            ),
            InitError::Denied { table: Table { name, .. }, code } => write!(
                f,
                "reading the table {name:?} of MICROBATCH_TABLE was refused ({code}); allow it to the role of the function: \
                 aws iam put-role-policy --role-name ROLE --policy-name microbatch --policy-document \
                 '{{\"Version\":\"2012-10-17\",\"Statement\":[{{\"Effect\":\"Allow\",\"Action\":[{ACTIONS}],\
                 \"Resource\":\"arn:aws:dynamodb:*:*:table/{name}\"}}]}}'"
            ),
        }
    }
}

impl std::error::Error for InitError {}
