//! What the store remembers of a key.

use std::{fmt, sync::Arc};

/// The unique token of one claim. Completion and release name it, so that a stale owner changes nothing (P4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner(Arc<str>);

impl Owner {
    /// The token with this text, as a store holds it.
    pub fn new(token: impl Into<Arc<str>>) -> Self {
        Self(token.into())
    }

    /// The token's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Digest of the part of an item that must not differ between two messages of one key.
///
/// The text is `scheme:digest`, where the scheme changes with the selector of that part; Powertools' have no scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(Arc<str>);

impl Fingerprint {
    /// The fingerprint with this text, as a store holds it.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The fingerprint's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What was digested and how; two fingerprints of different schemes say nothing about each other.
    pub fn scheme(&self) -> &str {
        self.0.rsplit_once(':').map_or("", |(scheme, _)| scheme)
    }
}

/// How two fingerprints relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Both are there, of one scheme, and equal.
    Same,
    /// Both are there, of one scheme, and differ.
    Different,
    /// One is missing or their schemes differ. Treated as the same, and counted.
    NotComparable,
}

/// Compares a record's fingerprint with an item's.
pub fn compare(stored: Option<&Fingerprint>, incoming: Option<&Fingerprint>) -> Comparison {
    match (stored, incoming) {
        (Some(stored), Some(incoming)) if stored.scheme() == incoming.scheme() => {
            if stored == incoming {
                Comparison::Same
            } else {
                Comparison::Different
            }
        }
        // Neither side was asked to compare: there is nothing to count.
        (None, None) => Comparison::Same,
        _ => Comparison::NotComparable,
    }
}

/// Whether the work of a key is under way or done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Claimed, released or lapsed: the lease end says which.
    InProgress,
    /// Done.
    Completed,
}

impl Status {
    /// The text a store holds, Powertools' own.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::InProgress => "INPROGRESS",
            Status::Completed => "COMPLETED",
        }
    }

    /// Reads a store's text; none for a status this version does not know.
    pub fn parse(text: &str) -> Option<Self> {
        [Status::InProgress, Status::Completed].into_iter().find(|status| status.as_str() == text)
    }
}

/// The result that is kept with a completion.
#[derive(Clone, PartialEq, Eq)]
pub enum StoredResult {
    /// The processor's output is `()`, or nothing was stored.
    None,
    /// The output as JSON text, replayed byte for byte.
    Kept(Arc<str>),
    /// The output was over the cap or could not be serialized: "done, result not kept".
    NotKept,
}

impl fmt::Debug for StoredResult {
    // A result is the user's data (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredResult::None => f.write_str("None"),
            StoredResult::Kept(json) => write!(f, "Kept({} bytes)", json.len()),
            StoredResult::NotKept => f.write_str("NotKept"),
        }
    }
}

/// What the store remembers of a key. The layout in a table is Powertools', plus `owner`, `attempt` and `tries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Under way or done.
    pub status: Status,
    /// The claim that holds or completed it; none when released, or written by Powertools.
    pub owner: Option<Owner>,
    /// The fencing token; none in records that Powertools wrote.
    pub attempt: Option<u64>,
    /// How many claims there were.
    pub tries: u64,
    /// When the lease ends, in epoch milliseconds; 1 when released; none in some records that Powertools wrote.
    pub lease_end_ms: Option<u64>,
    /// When the record may be forgotten, in epoch seconds.
    pub retention_end_s: u64,
    /// Digest of what must not differ.
    pub fingerprint: Option<Fingerprint>,
    /// The stored result.
    pub result: StoredResult,
}

/// The lease end of a released record. Not 0, which a peer reads as absent.
pub const LEASE_END_RELEASED_MS: u64 = 1;

impl Record {
    /// Whether the holder gave the key back itself.
    pub fn is_released(&self) -> bool {
        self.status == Status::InProgress && self.lease_end_ms == Some(LEASE_END_RELEASED_MS)
    }

    /// Whether the retention is over, so that the record counts as absent. A store's own expiry may be days late.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.retention_end_s < now_ms / 1_000
    }

    /// Whether a lease still excludes others. One without an end lasts as long as the record.
    pub fn is_leased(&self, now_ms: u64) -> bool {
        self.status == Status::InProgress && self.lease_end_ms.is_none_or(|end_ms| end_ms >= now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_of_different_schemes_are_not_comparable() {
        let of = |text: &str| Fingerprint::new(text);
        assert_eq!(compare(Some(&of("a:1")), Some(&of("a:1"))), Comparison::Same);
        assert_eq!(compare(Some(&of("a:1")), Some(&of("a:2"))), Comparison::Different);
        assert_eq!(compare(Some(&of("a:1")), Some(&of("b:1"))), Comparison::NotComparable);
        assert_eq!(compare(Some(&of("a:1")), None), Comparison::NotComparable);
        assert_eq!(compare(Some(&of("0cc1")), Some(&of("0cc2"))), Comparison::Different);
        assert_eq!(compare(None, None), Comparison::Same);
    }

    #[test]
    fn an_unknown_status_is_not_guessed() {
        assert_eq!(Status::parse("COMPLETED"), Some(Status::Completed));
        assert_eq!(Status::parse("EXPIRED"), None);
        assert_eq!(Status::parse("completed"), None);
    }

    #[test]
    fn debug_output_does_not_show_a_result() {
        assert_eq!(format!("{:?}", StoredResult::Kept("4111".into())), "Kept(4 bytes)");
    }
}
