//! microbatch on AWS: the DynamoDB store, the SQS queue and producer, the Lambda host and its settings.

pub mod clock;
pub mod dynamodb;
pub mod lambda;
pub mod logging;
pub mod metrics;
pub mod sdk;
pub mod settings;
pub mod sqs;
pub mod traces;
mod watchdog;

pub use self::dynamodb::DynamoDbStore;

/// The README's code, compiled with the other doctests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod readme {}
