//! Why a store did not answer.

use std::{borrow::Cow, fmt};

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store refused because of load. The request was not applied.
    Throttled,
    /// The store could not be reached, or broke off. The request may have been applied.
    Unavailable,
    /// No answer came in time. The request may have been applied.
    TimedOut,
    /// The store refused for good: permission, a missing table, a wrong key schema.
    Refused,
    /// The record is not one that this version can read. It is never taken for a duplicate.
    Malformed,
}

/// A failed request to a store. Its text names keys by digest and never contains a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    kind: StoreErrorKind,
    detail: Cow<'static, str>,
}

impl StoreError {
    /// A failure of this kind. `detail` must hold no payload.
    pub fn new(kind: StoreErrorKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Whether the same request may succeed when it is sent again.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Throttled | StoreErrorKind::Unavailable | StoreErrorKind::TimedOut)
    }

    /// The error's code, for logs and metrics.
    pub fn code(&self) -> &'static str {
        match self.kind {
            StoreErrorKind::Throttled => "store_throttled",
            StoreErrorKind::Unavailable => "store_unavailable",
            StoreErrorKind::TimedOut => "store_timed_out",
            StoreErrorKind::Refused => "store_refused",
            StoreErrorKind::Malformed => "record_malformed",
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            StoreErrorKind::Throttled => "the store is throttling",
            StoreErrorKind::Unavailable => "the store could not be reached",
            StoreErrorKind::TimedOut => "the store did not answer in time",
            StoreErrorKind::Refused => "the store refused",
            StoreErrorKind::Malformed => "the record cannot be read",
        };
        write!(f, "{kind}: {}", self.detail)
    }
}

impl std::error::Error for StoreError {}
