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

pub mod batch_processor;
pub mod batcher;
pub mod clock;
pub mod config;
pub mod control;
pub mod decode;
pub mod envelope;
pub mod error;
pub mod hooks;
pub mod key;
pub mod lease;
mod marks;
pub mod message;
pub mod outcome;
mod panics;
pub mod pipeline;
pub mod policy;
pub mod processor;
#[doc = include_str!("promises.md")]
pub mod promises {}
pub mod queue;
pub mod record;
pub mod resolve;
pub mod response;
pub mod store;
pub mod telemetry;
pub mod trace;
pub mod transition;

pub use self::{
    batch_processor::{BatchItem, BatchProcessor, BatchResult, InBatches, ItemResult},
    clock::{Clock, Random},
    config::{Config, ConfigError, Options},
    decode::MissingKey,
    envelope::Envelope,
    error::{ClassifiedError, FailureKind, ProcessError},
    hooks::{Failure, Success},
    key::{Key, KeyFormat, KeySource, Selector},
    message::EventError,
    outcome::Outcome,
    pipeline::{Invocation, Pipeline, PipelineBuilder},
    policy::{FifoFailure, TotalFailure},
    processor::{Done, ItemContext, NoWrites, Processor, WriteRefusal, WriteRefused},
    queue::Queue,
    response::BatchResponse,
    store::{Commit, MemoryStore, Store, StoreError},
    telemetry::{BatchReport, ItemReport, Recorder},
    trace::TraceParent,
};
