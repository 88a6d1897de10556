//! What the queue can do for a message beside deleting it or delivering it again: take it to the dead-letter queue at
//! once, or deliver it later.
//!
//! The host brings a [`Queue`]; this crate knows no SDK. Neither call ever changes an outcome: a message whose send failed
//! is reported as if there were no such queue, one whose delay failed comes back after the queue's own visibility timeout.

use std::{borrow::Cow, fmt};

use serde_json::value::RawValue;

use crate::clock::BoxFuture;

/// Most entries in one call, by `SendMessageBatch` and `ChangeMessageVisibilityBatch` of SQS.
pub const QUEUE_ENTRIES_MAX: usize = 10;
/// Most bytes in one call, bodies and attributes together, by `SendMessageBatch`; also the most of one message.
pub const QUEUE_BYTES_MAX: usize = 1_048_576;
/// Longest visibility timeout, in seconds from the receipt: 12 hours, by SQS.
pub const VISIBILITY_MAX_S: u64 = 43_200;

/// The queue's side of failures.
///
/// Calls take at most [`QUEUE_ENTRIES_MAX`] entries of at most [`QUEUE_BYTES_MAX`] together, make one try, and answer each
/// entry in order, exactly one answer an entry. The pipeline tries again what failed in a way that may pass. A call has to
/// end by itself, in a second or two: the response waits for it, until it is due. A call that is dropped before it answers
/// may or may not have taken effect.
pub trait Queue: Send + Sync + 'static {
    /// Whether there is a queue to park in.
    fn can_park(&self) -> bool;

    /// Whether messages can be delayed.
    fn can_delay(&self) -> bool;

    /// Sends messages to the dead-letter queue, each with its reason. `Ok` only where the send of that very entry
    /// succeeded: the message is then acknowledged.
    fn park<'a>(&'a self, entries: &'a [ParkRequest]) -> BoxFuture<'a, Vec<Result<(), QueueError>>>;

    /// Sets when messages become visible again.
    fn delay<'a>(&'a self, entries: &'a [DelayRequest]) -> BoxFuture<'a, Vec<Result<(), QueueError>>>;
}

/// A message to send to the dead-letter queue.
pub struct ParkRequest {
    /// Position of the message in its batch, from 0.
    pub index: usize,
    /// The queue's id of the message.
    pub message_id: Box<str>,
    /// The body as it was sent.
    pub body: Box<str>,
    /// The record's `messageAttributes`, as JSON text, as they came.
    pub attributes: Option<Box<RawValue>>,
    /// The message group, where it has one.
    pub group: Option<Box<str>>,
    /// The deduplication id that the sender gave, on a FIFO queue.
    pub deduplication_id: Option<Box<str>>,
    /// The sender's trace, as in `AWSTraceHeader`.
    pub trace_header: Option<Box<str>>,
    /// Why, as JSON text: the value of the one attribute that is added.
    pub reason: Box<str>,
}

/// A message to deliver later.
pub struct DelayRequest {
    /// Position of the message in its batch, from 0.
    pub index: usize,
    /// Names this delivery of the message to the queue.
    pub receipt_handle: Box<str>,
    /// Seconds from now until it becomes visible, at most [`VISIBILITY_MAX_S`].
    pub delay_s: u64,
}

/// Why the queue did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueError {
    retryable: bool,
    code: &'static str,
    detail: Cow<'static, str>,
}

impl QueueError {
    /// A failure that may pass: throttled, unreachable, not answered in time. `detail` must hold no payload.
    pub fn passing(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { retryable: true, code, detail: detail.into() }
    }

    /// A failure that will not pass: no permission, no such queue, a message that does not fit. `detail` must hold no
    /// payload.
    pub fn lasting(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { retryable: false, code, detail: detail.into() }
    }

    /// Whether the same request may succeed when it is sent again.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// The error's code, for logs and metrics.
    pub fn code(&self) -> &'static str {
        self.code
    }
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the queue did not do as asked ({}): {}", self.code, self.detail)
    }
}

impl std::error::Error for QueueError {}

impl fmt::Debug for ParkRequest {
    // Body, attributes and group are the sender's text, and debug output ends in logs (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParkRequest")
            .field("index", &self.index)
            .field("message_id", &self.message_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DelayRequest {
    // Who has the receipt handle can delete the message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DelayRequest")
            .field("index", &self.index)
            .field("delay_s", &self.delay_s)
            .finish_non_exhaustive()
    }
}
