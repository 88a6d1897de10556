//! Why a message was not sent, or may not have been.

use std::{error::Error as StdError, fmt};

use microbatch::queue::QueueError;

use super::error::may_have_worked;

/// Why a message was not sent, or is not known to have been.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The message is larger than SQS takes. It was not sent.
    TooLarge {
        /// Its size: body, and names, types and values of its attributes, in bytes.
        bytes: usize,
        /// The most that SQS takes.
        bytes_max: usize,
    },
    /// SQS would refuse the message. It was not sent.
    Invalid(InvalidMessage),
    /// SQS refused the message, or all of its request, in a way that does not pass. It is not in the queue.
    Refused(QueueError),
    /// The message was tried as often or as long as it may be, or refused after a try that was not answered.
    GaveUp {
        /// How often it was tried.
        tries: u32,
        /// What was wrong the last time.
        last: QueueError,
        /// Whether an answer was lost on the way, so that the message may be in the queue, or still arrive there.
        may_be_sent: bool,
    },
    /// A message of the same group before it failed for good, and this one was enqueued before that was known. It was not
    /// sent: it would have come first.
    OrderBroken,
    /// The producer was closed, or its driver dropped, before the message was sent.
    Closed,
    /// The driver was dropped while the message was being sent. It may be in the queue.
    Abandoned,
}

/// What SQS would refuse a message for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidMessage {
    /// The body is empty, or has characters that XML 1.0 cannot hold.
    Body,
    /// There are more than ten attributes.
    TooManyAttributes,
    /// The name, type or value of the attribute at this place, from 0, is not one that SQS takes.
    Attribute(usize),
    /// A FIFO queue wants every message to have a group.
    NoGroup,
    /// The group is not 1 to 128 ASCII letters, digits and punctuation marks.
    Group,
    /// The deduplication id is not 1 to 128 ASCII letters, digits and punctuation marks.
    DeduplicationId,
    /// A standard queue takes no deduplication id.
    DeduplicationIdOnStandardQueue,
    /// A FIFO queue takes no delay for a single message.
    DelayOnFifoQueue,
    /// The delay is over 900 s.
    Delay,
}

impl InvalidMessage {
    /// What was found, and what to do.
    fn what(self) -> &'static str {
        match self {
            Self::Body => "expected a body of characters that XML 1.0 can hold, at least one: encode it, as in base64",
            Self::TooManyAttributes => "expected at most 10 attributes: put several into one",
            Self::Attribute(_) => {
                "expected an attribute's name of up to 256 letters, digits, '_', '-' and single '.', without AWS. or Amazon. \
                 before it, and a value that is not empty, its text of characters that XML 1.0 can hold"
            }
            Self::NoGroup => "a FIFO queue wants a group: set one",
            Self::Group => {
                "expected a group of 1 to 128 ASCII letters, digits and punctuation marks: hash what is longer"
            }
            Self::DeduplicationId => {
                "expected a deduplication id of 1 to 128 ASCII letters, digits and punctuation marks: hash what is longer"
            }
            Self::DeduplicationIdOnStandardQueue => "a standard queue takes no deduplication id: leave it out",
            Self::DelayOnFifoQueue => "a FIFO queue takes no delay for a single message: set it on the queue",
            Self::Delay => "expected a delay of at most 900 s",
        }
    }
}

impl SendError {
    /// Whether the message may be in the queue all the same, or still arrive there. To send it again, under the same
    /// deduplication id where there is one, is then to send it at least once.
    pub fn may_be_sent(&self) -> bool {
        matches!(self, SendError::Abandoned | SendError::GaveUp { may_be_sent: true, .. })
    }

    /// The error's code, for logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            SendError::TooLarge { .. } => "message_too_large",
            SendError::Invalid(_) => "message_invalid",
            SendError::Refused(error) | SendError::GaveUp { last: error, .. } => error.code(),
            SendError::OrderBroken => "order_broken",
            SendError::Closed => "producer_closed",
            SendError::Abandoned => "send_abandoned",
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::TooLarge { bytes, bytes_max } => write!(
                f,
                "expected a message of at most {bytes_max} bytes, attributes included, found {bytes}: it was not sent; \
                 store it elsewhere and send where"
            ),
            SendError::Invalid(InvalidMessage::Attribute(index)) => {
                write!(f, "the message was not sent: attribute {index}: {}", InvalidMessage::Attribute(*index).what())
            }
            SendError::Invalid(problem) => write!(f, "the message was not sent: {}", problem.what()),
            SendError::Refused(error) => write!(f, "the message was not sent: {error}"),
            SendError::GaveUp { tries, last, may_be_sent } => {
                let fate = if *may_be_sent { "may have been sent" } else { "was not sent" };
                let times = if *tries == 1 { "one try".to_owned() } else { format!("{tries} tries") };
                write!(f, "the message {fate}; given up after {times}: {last}")
            }
            SendError::OrderBroken => f.write_str(
                "the message was not sent: one of its group before it failed for good; send again from that one on",
            ),
            SendError::Closed => f.write_str("the message was not sent: the producer was closed; give it to another one"),
            SendError::Abandoned => f.write_str(
                "the message may have been sent: the producer's driver was dropped meanwhile; close the producer and await it",
            ),
        }
    }
}

impl StdError for SendError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            SendError::Refused(error) | SendError::GaveUp { last: error, .. } => Some(error),
            _ => None,
        }
    }
}

/// How the tries of one message went.
#[derive(Debug, Default)]
pub(super) struct Tries {
    pub(super) count: u32,
    may_be_sent: bool,
}

impl Tries {
    /// Notes a try that failed.
    pub(super) fn failed(&mut self, error: &QueueError) {
        self.count += 1;
        self.may_be_sent |= may_have_worked(error);
    }

    /// The error of a message that is not tried again.
    pub(super) fn into_error(self, last: QueueError) -> SendError {
        // An earlier try that was not answered may have worked, and the refusal be that of a repetition.
        if !last.is_retryable() && !self.may_be_sent {
            return SendError::Refused(last);
        }
        SendError::GaveUp { tries: self.count, last, may_be_sent: self.may_be_sent }
    }
}
