//! Messages on their way: as a producer sends them, as the queue hands them out, as they end among the dead letters.

use std::{fmt, sync::Arc};

/// What a producer sends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewMessage {
    /// The body.
    pub body: String,
    /// The message group: required on a FIFO queue, a tenant on a standard one.
    pub group: Option<String>,
    /// On a FIFO queue, a second message with this id is dropped for five minutes. None: no two messages are equal.
    pub deduplication_id: Option<String>,
    /// The sender's trace, as in `AWSTraceHeader`.
    pub trace_header: Option<String>,
    /// The record's `messageAttributes`, as JSON text. None: an empty object.
    pub attributes: Option<String>,
}

/// Names a message for good: its place in the order in which producers sent, from 0.
///
/// Message ids change when a message is redriven, and receipt handles each time it is received. Every copy of a message,
/// in the source queue or among the dead letters, keeps its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(pub usize);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {}", self.0)
    }
}

/// A message that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Which message.
    pub number: Number,
    /// The queue's id of this copy of it.
    pub message_id: String,
    /// Names this receive of it; void once it is received again.
    pub receipt_handle: String,
    /// How often this copy was received, this time included.
    pub receive_count: u32,
    /// When this copy came into the queue, in epoch milliseconds.
    pub sent_ms: u64,
    /// When this copy was received for the first time, in epoch milliseconds.
    pub first_received_ms: u64,
    /// Its place in the queue: of two messages the later has the higher one.
    pub sequence: u64,
    /// What was sent.
    pub message: Arc<NewMessage>,
}

/// A message in the dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which message.
    pub number: Number,
    /// The id of the copy that came here.
    pub message_id: String,
    /// What lies in the dead-letter queue. Of a parked message, what the consumer sent there.
    pub message: Arc<NewMessage>,
    /// Why it was parked. None: the redrive policy moved it.
    pub reason: Option<Box<str>>,
    /// Since when, in epoch milliseconds.
    pub at_ms: u64,
}

/// Names one receive of one message, as text: `receive-<sequence>-<count>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) sequence: u64,
    pub(super) receive_count: u32,
}

impl Handle {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (sequence, receive_count) = text.strip_prefix("receive-")?.split_once('-')?;
        Some(Self { sequence: sequence.parse().ok()?, receive_count: receive_count.parse().ok()? })
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "receive-{}-{}", self.sequence, self.receive_count)
    }
}
