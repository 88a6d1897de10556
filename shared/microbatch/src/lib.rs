//! Turns a batch of queue messages into idempotent, concurrent, individually acknowledged work.
//!
//! ```text
//! SQS event ─ message ─ decode ─ key ─ coalesce ─ claim ─ process ─ complete | release ─ outcome ─ response
//! ```
//!
//! This crate is the core: no AWS, no network, no clock and no randomness of its own. `microbatch-aws` brings the
//! DynamoDB store and the Lambda host. What a user writes is a [`Processor`]; a [`Pipeline`] runs it.
//!
//! Delivery is at least once. If a worker dies after its effect and before recording it, the effect is attempted again,
//! unless it was committed in the completion's transaction, or the sink dedupes on the key.

pub mod batcher;
pub mod clock;
pub mod config;
pub mod decode;
pub mod error;
pub mod key;
pub mod lease;
pub mod message;
pub mod outcome;
mod panics;
pub mod pipeline;
pub mod processor;
pub mod record;
pub mod response;
pub mod store;
pub mod telemetry;
pub mod transition;

pub use self::{
    clock::{Clock, Random},
    config::{Config, ConfigError, Options},
    decode::MissingKey,
    error::{ClassifiedError, FailureKind, ProcessError},
    key::{Key, KeyFormat, Selector},
    message::EventError,
    outcome::Outcome,
    pipeline::{Pipeline, PipelineBuilder},
    processor::{Done, ItemContext, NoWrites, Processor, WriteRefusal, WriteRefused},
    response::BatchResponse,
    store::{Commit, MemoryStore, Store, StoreError},
    telemetry::{BatchReport, ItemReport, Recorder},
};
