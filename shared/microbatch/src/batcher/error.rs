//! What can become of an entry beside its result.

use std::{error::Error as StdError, fmt};

use super::collector::EntryTooLarge;

/// Why an entry has no result.
///
/// Where it holds the entry, the entry was not sent. Otherwise it was handed to the sink, and may have taken effect.
#[non_exhaustive]
pub enum BatcherError<T> {
    /// The batcher was closed, or its driver dropped, before the entry was sent. Here it is again.
    Closed(T),
    /// No batch can hold the entry. Here it is again.
    TooLarge(EntryTooLarge<T>),
    /// The sink did not answer with a result for each entry of the batch, so that none can be assigned.
    WrongCount {
        /// Entries in the batch.
        expected: usize,
        /// Results that came.
        found: usize,
    },
    /// The sink panicked over the entry's batch.
    SinkPanicked,
    /// The driver was dropped while the entry's batch was in the sink.
    Abandoned,
}

impl<T> BatcherError<T> {
    /// The entry, if it was not sent.
    pub fn into_entry(self) -> Option<T> {
        match self {
            BatcherError::Closed(entry) | BatcherError::TooLarge(EntryTooLarge { entry, .. }) => Some(entry),
            BatcherError::WrongCount { .. } | BatcherError::SinkPanicked | BatcherError::Abandoned => None,
        }
    }
}

impl<T> fmt::Debug for BatcherError<T> {
    // Not the entry: it is payload, and debug output ends in logs (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatcherError::Closed(_) => f.write_str("Closed(..)"),
            BatcherError::TooLarge(error) => f.debug_tuple("TooLarge").field(error).finish(),
            BatcherError::WrongCount { expected, found } => {
                f.debug_struct("WrongCount").field("expected", expected).field("found", found).finish()
            }
            BatcherError::SinkPanicked => f.write_str("SinkPanicked"),
            BatcherError::Abandoned => f.write_str("Abandoned"),
        }
    }
}

impl<T> fmt::Display for BatcherError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatcherError::Closed(_) => {
                f.write_str("expected an open batcher, found it closed: the entry was not sent; give it to another one")
            }
            BatcherError::TooLarge(error) => error.fmt(f),
            BatcherError::WrongCount { expected, found } => write!(
                f,
                "expected {expected} results from the sink, found {found}: the entry may have been sent; \
                 the sink must answer each entry in order"
            ),
            BatcherError::SinkPanicked => {
                f.write_str("expected a result from the sink, found that it panicked: the entry may have been sent")
            }
            BatcherError::Abandoned => f.write_str(
                "expected a result from the sink, found the driver dropped: the entry may have been sent; \
                 close the batcher and await its driver",
            ),
        }
    }
}

impl<T> StdError for BatcherError<T> {}
