//! When a batch is complete: the policy, without a clock or a future.

use std::{array, error::Error as StdError, fmt, iter::Flatten};

use super::limits::Limits;

/// Most entries that room is made for beforehand: a batch of no limit must not take all memory.
const RESERVED_MAX: usize = 64;

/// Why a batch was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlushReason {
    /// It has as many entries as a batch may have.
    Count,
    /// It has as many bytes as a batch may have, or the next entry would have brought it over.
    Bytes,
    /// Its first entry has waited for as long as an entry may.
    Age,
    /// Nothing was there that could have joined it.
    Idle,
    /// No more entries will come.
    Close,
}

/// Entries that go out as one, in the order in which they came. Never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch<T> {
    /// The entries.
    pub entries: Vec<T>,
    /// The sum of their sizes, in bytes.
    pub bytes: usize,
    /// Why it was sent.
    pub reason: FlushReason,
}

impl<T> fmt::Debug for Batch<T> {
    // Entries are payload, and debug output ends in logs (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("entries", &self.entries.len())
            .field("bytes", &self.bytes)
            .field("reason", &self.reason)
            .finish()
    }
}

/// What a push led to. As an iterator it gives the batches, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the batches hold entries"]
pub enum Pushed<T> {
    /// The entry was collected and its batch is not complete.
    Collected,
    /// A batch is complete.
    One(Batch<T>),
    /// The entry did not fit into the batch before it, and fills one of its own.
    Two(Batch<T>, Batch<T>),
}

impl<T> IntoIterator for Pushed<T> {
    type Item = Batch<T>;
    type IntoIter = Flatten<array::IntoIter<Option<Batch<T>>, 2>>;

    fn into_iter(self) -> Self::IntoIter {
        let batches = match self {
            Pushed::Collected => [None, None],
            Pushed::One(batch) => [Some(batch), None],
            Pushed::Two(first, second) => [Some(first), Some(second)],
        };
        batches.into_iter().flatten()
    }
}

/// An entry that is larger than a whole batch may be. It was not collected.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryTooLarge<T> {
    /// The entry, given back.
    pub entry: T,
    /// Its size in bytes.
    pub bytes: usize,
    /// The most that a batch may have.
    pub bytes_max: usize,
}

impl<T> fmt::Debug for EntryTooLarge<T> {
    // Not the entry, as above.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryTooLarge")
            .field("bytes", &self.bytes)
            .field("bytes_max", &self.bytes_max)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for EntryTooLarge<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected an entry of at most {} bytes, found {}: it was not sent; make it smaller",
            self.bytes_max, self.bytes
        )
    }
}

impl<T> StdError for EntryTooLarge<T> {}

/// Collects entries into batches that stay within [`Limits`], and neither loses nor reorders one.
///
/// It decides and keeps no time: the caller says when an entry came, asks what is due, and knows when nothing more can come.
///
/// ```
/// use std::num::NonZeroUsize;
/// use microbatch::batcher::{Collector, FlushReason, Limits};
///
/// let some = |value| NonZeroUsize::new(value).expect("not 0");
/// let mut collector = Collector::new(Limits { count_max: some(2), bytes_max: some(100), linger_ms: 50 });
/// let mut sent = Vec::new();
/// for entry in ["a", "b", "c"] {
///     sent.extend(collector.push(entry, 10, 1_000).expect("10 bytes fit"));
/// }
/// assert_eq!((sent[0].entries.as_slice(), sent[0].reason), (["a", "b"].as_slice(), FlushReason::Count));
///
/// assert_eq!(collector.due_at_ms(), Some(1_050));
/// assert_eq!(collector.flush_if_due(1_049), None);
/// let rest = collector.flush_if_due(1_050).expect("due");
/// assert_eq!((rest.entries.as_slice(), rest.reason), (["c"].as_slice(), FlushReason::Age));
/// ```
pub struct Collector<T> {
    limits: Limits,
    /// The batch that is not complete: fewer entries than the limit.
    entries: Vec<T>,
    /// Their size: below the limit.
    bytes: usize,
    /// When the first of them came. Without meaning while there is none.
    first_ms: u64,
}

impl<T> Collector<T> {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self { limits, entries: Vec::new(), bytes: 0, first_ms: 0 }
    }

    /// Adds an entry of `bytes` bytes that came at `now_ms`, and hands out what it completes.
    ///
    /// Age does not count here: entries that are there already join a batch that is due, as long as it has room.
    ///
    /// # Errors
    /// The entry, if no batch can hold it. What was collected before stays.
    pub fn push(&mut self, entry: T, bytes: usize, now_ms: u64) -> Result<Pushed<T>, EntryTooLarge<T>> {
        let bytes_max = self.limits.bytes_max.get();
        if bytes > bytes_max {
            return Err(EntryTooLarge { entry, bytes, bytes_max });
        }
        // A difference, since the sum might overflow.
        let before = if bytes > bytes_max - self.bytes { self.flush(FlushReason::Bytes) } else { None };
        if self.entries.is_empty() {
            self.first_ms = now_ms;
            self.entries.reserve(self.limits.count_max.get().min(RESERVED_MAX));
        }
        self.entries.push(entry);
        self.bytes += bytes;
        let complete = if self.entries.len() >= self.limits.count_max.get() {
            self.flush(FlushReason::Count)
        } else if self.bytes == bytes_max {
            self.flush(FlushReason::Bytes)
        } else {
            None
        };
        Ok(match (before, complete) {
            (None, None) => Pushed::Collected,
            (Some(batch), None) | (None, Some(batch)) => Pushed::One(batch),
            (Some(first), Some(second)) => Pushed::Two(first, second),
        })
    }

    /// When the first entry will have waited long enough, in the caller's milliseconds. None while there is none, and always
    /// when [`Limits::linger_ms`] is 0.
    pub fn due_at_ms(&self) -> Option<u64> {
        let waits = !self.entries.is_empty() && self.limits.linger_ms > 0;
        waits.then(|| self.first_ms.saturating_add(self.limits.linger_ms))
    }

    /// Hands out what is there if it is due.
    #[must_use = "the batch holds entries"]
    pub fn flush_if_due(&mut self, now_ms: u64) -> Option<Batch<T>> {
        let due_at_ms = self.due_at_ms()?;
        if now_ms >= due_at_ms { self.flush(FlushReason::Age) } else { None }
    }

    /// Hands out what is there. The caller found that nothing can join it.
    #[must_use = "the batch holds entries"]
    pub fn flush_idle(&mut self) -> Option<Batch<T>> {
        self.flush(FlushReason::Idle)
    }

    /// Hands out what is there. The caller knows that nothing will come; if something does, it is collected as before.
    #[must_use = "the batch holds entries"]
    pub fn close(&mut self) -> Option<Batch<T>> {
        self.flush(FlushReason::Close)
    }

    /// How many entries it holds: always fewer than a batch may have.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many bytes it holds: always fewer than a batch may have.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn flush(&mut self, reason: FlushReason) -> Option<Batch<T>> {
        if self.entries.is_empty() {
            return None;
        }
        let entries = std::mem::take(&mut self.entries);
        let bytes = std::mem::take(&mut self.bytes);
        Some(Batch { entries, bytes, reason })
    }
}

impl<T> fmt::Debug for Collector<T> {
    // Not the entries, as above.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector")
            .field("limits", &self.limits)
            .field("entries", &self.entries.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn collector(count_max: usize, bytes_max: usize, linger_ms: u64) -> Collector<char> {
        let at_most = |value| NonZeroUsize::new(value).expect("not 0");
        Collector::new(Limits { count_max: at_most(count_max), bytes_max: at_most(bytes_max), linger_ms })
    }

    fn batch(entries: &str, bytes: usize, reason: FlushReason) -> Batch<char> {
        Batch { entries: entries.chars().collect(), bytes, reason }
    }

    #[test]
    fn the_count_completes_a_batch() {
        let mut collector = collector(3, 100, 0);
        assert_eq!(collector.push('a', 1, 0), Ok(Pushed::Collected));
        assert_eq!(collector.push('b', 0, 0), Ok(Pushed::Collected));
        assert_eq!((collector.len(), collector.bytes()), (2, 1));
        assert_eq!(collector.push('c', 2, 0), Ok(Pushed::One(batch("abc", 3, FlushReason::Count))));
        assert!(collector.is_empty());
        assert_eq!(collector.bytes(), 0);
    }

    #[test]
    fn an_entry_that_does_not_fit_completes_the_batch_before_it() {
        let mut collector = collector(9, 10, 0);
        assert_eq!(collector.push('a', 6, 0), Ok(Pushed::Collected));
        assert_eq!(collector.push('b', 5, 0), Ok(Pushed::One(batch("a", 6, FlushReason::Bytes))));
        assert_eq!((collector.len(), collector.bytes()), (1, 5));
    }

    #[test]
    fn a_batch_that_is_full_to_the_byte_does_not_wait() {
        let mut collector = collector(9, 10, 0);
        assert_eq!(collector.push('a', 6, 0), Ok(Pushed::Collected));
        assert_eq!(collector.push('b', 4, 0), Ok(Pushed::One(batch("ab", 10, FlushReason::Bytes))));
    }

    #[test]
    fn one_entry_can_complete_two_batches() {
        let mut collector = collector(9, 10, 0);
        assert_eq!(collector.push('a', 1, 0), Ok(Pushed::Collected));
        let pushed = collector.push('b', 10, 0).expect("fits");
        let expected = [batch("a", 1, FlushReason::Bytes), batch("b", 10, FlushReason::Bytes)];
        assert_eq!(pushed.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_count_is_the_reason_where_both_limits_are_reached() {
        let mut collector = collector(1, 10, 0);
        assert_eq!(collector.push('a', 10, 0), Ok(Pushed::One(batch("a", 10, FlushReason::Count))));
    }

    #[test]
    fn an_entry_over_the_limit_is_given_back_and_disturbs_nothing() {
        let mut collector = collector(9, 10, 5);
        assert_eq!(collector.push('a', 1, 7), Ok(Pushed::Collected));
        let refused = collector.push('b', 11, 8).expect_err("too large");
        assert_eq!(refused, EntryTooLarge { entry: 'b', bytes: 11, bytes_max: 10 });
        assert_eq!(
            refused.to_string(),
            "expected an entry of at most 10 bytes, found 11: it was not sent; make it smaller"
        );
        assert_eq!((collector.len(), collector.bytes(), collector.due_at_ms()), (1, 1, Some(12)));
    }

    #[test]
    fn sizes_near_the_end_of_the_range_do_not_overflow() {
        let mut collector = collector(9, usize::MAX, u64::MAX);
        assert_eq!(collector.push('a', usize::MAX - 1, 7), Ok(Pushed::Collected));
        assert_eq!(collector.due_at_ms(), Some(u64::MAX));
        assert_eq!(
            collector.push('b', usize::MAX - 1, 7),
            Ok(Pushed::One(batch("a", usize::MAX - 1, FlushReason::Bytes)))
        );
    }

    #[test]
    fn the_age_is_the_first_entrys() {
        let mut collector = collector(9, 10, 5);
        assert_eq!(collector.due_at_ms(), None);
        assert_eq!(collector.push('a', 1, 100), Ok(Pushed::Collected));
        assert_eq!(collector.push('b', 1, 104), Ok(Pushed::Collected));
        assert_eq!(collector.due_at_ms(), Some(105));
        assert_eq!(collector.flush_if_due(104), None);
        assert_eq!(collector.flush_if_due(105), Some(batch("ab", 2, FlushReason::Age)));
        assert_eq!(collector.push('c', 1, 200), Ok(Pushed::Collected));
        assert_eq!(collector.due_at_ms(), Some(205));
    }

    #[test]
    fn the_age_of_an_entry_that_did_not_fit_is_its_own() {
        let mut collector = collector(9, 10, 5);
        assert_eq!(collector.push('a', 9, 100), Ok(Pushed::Collected));
        assert_eq!(collector.push('b', 9, 104), Ok(Pushed::One(batch("a", 9, FlushReason::Bytes))));
        assert_eq!(collector.due_at_ms(), Some(109));
    }

    #[test]
    fn without_a_linger_nothing_is_ever_due() {
        let mut collector = collector(9, 10, 0);
        assert_eq!(collector.push('a', 1, 100), Ok(Pushed::Collected));
        assert_eq!((collector.due_at_ms(), collector.flush_if_due(u64::MAX)), (None, None));
        assert_eq!(collector.flush_idle(), Some(batch("a", 1, FlushReason::Idle)));
    }

    #[test]
    fn there_are_no_empty_batches() {
        let mut collector = collector(9, 10, 5);
        assert_eq!((collector.flush_if_due(u64::MAX), collector.flush_idle(), collector.close()), (None, None, None));
        assert_eq!(collector.push('a', 1, 0), Ok(Pushed::Collected));
        assert_eq!(collector.close(), Some(batch("a", 1, FlushReason::Close)));
        assert_eq!(collector.close(), None);
    }

    #[test]
    fn p13_debug_output_shows_no_entry() {
        let mut collector = Collector::new(collector(9, 10, 5).limits);
        let refused = collector.push("canary", 11, 0).expect_err("too large");
        assert_eq!(collector.push("canary", 6, 0), Ok(Pushed::Collected));
        let held = format!("{collector:?}");
        let shown = format!("{held} {refused:?} {refused} {:?}", collector.push("canary", 6, 0));
        assert!(!shown.contains("canary"), "{shown}");
    }
}
