//! Remembers keys that this process has seen completed, so that a redelivery costs no request (rule 16). Off by default.
//!
//! Keys in progress are never held: they would hide a release. An entry lives at most a minute, in which an operator's
//! correction of the record is not seen, and never beyond the record's retention.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use crate::{
    key::Key,
    record::{Comparison, Fingerprint, StoredResult, compare},
    transition::ClaimAnswer,
};

/// Completed keys, the oldest forgotten first.
#[derive(Debug)]
pub(super) struct CompletedCache {
    entries_max: usize,
    lifetime_ms: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// In the order in which they were put in, with their ends: an entry put in again stands here twice.
    order: VecDeque<(Key, u64)>,
}

#[derive(Debug)]
struct Entry {
    fingerprint: Option<Fingerprint>,
    result: StoredResult,
    ends_at_ms: u64,
}

impl CompletedCache {
    pub(super) fn new(entries_max: usize, lifetime_ms: u64) -> Self {
        Self { entries_max, lifetime_ms, state: Mutex::default() }
    }

    pub(super) fn is_off(&self) -> bool {
        self.entries_max == 0
    }

    pub(super) fn put(
        &self,
        key: Key,
        fingerprint: Option<Fingerprint>,
        result: StoredResult,
        retention_end_s: u64,
        now_ms: u64,
    ) {
        if self.is_off() {
            return;
        }
        let ends_at_ms = now_ms.saturating_add(self.lifetime_ms).min(retention_end_s.saturating_mul(1_000));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.order.len() >= self.entries_max {
            let Some((oldest, ends_at_ms)) = state.order.pop_front() else { break };
            if state.entries.get(&oldest).is_some_and(|entry| entry.ends_at_ms == ends_at_ms) {
                state.entries.remove(&oldest);
            }
        }
        state.order.push_back((key.clone(), ends_at_ms));
        state.entries.insert(key, Entry { fingerprint, result, ends_at_ms });
    }

    /// What a claim of this key would be told, if the key is remembered.
    pub(super) fn answer(&self, key: &Key, fingerprint: Option<&Fingerprint>, now_ms: u64) -> Option<ClaimAnswer> {
        if self.is_off() {
            return None;
        }
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = state.entries.get(key).filter(|entry| now_ms < entry.ends_at_ms)?;
        Some(match compare(entry.fingerprint.as_ref(), fingerprint) {
            Comparison::Different => ClaimAnswer::Conflict,
            comparison => {
                ClaimAnswer::Duplicate { result: entry.result.clone(), compared: comparison == Comparison::Same }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::from_stored(name)
    }

    #[test]
    fn an_entry_lives_a_while_and_never_beyond_the_retention() {
        let cache = CompletedCache::new(10, 60_000);
        cache.put(key("a"), None, StoredResult::None, 1_000, 0);
        cache.put(key("b"), None, StoredResult::None, 30, 0);
        assert!(cache.answer(&key("a"), None, 59_999).is_some());
        assert!(cache.answer(&key("a"), None, 60_000).is_none());
        assert!(cache.answer(&key("b"), None, 29_999).is_some());
        assert!(cache.answer(&key("b"), None, 30_000).is_none());
    }

    #[test]
    fn it_is_bounded_and_forgets_the_oldest() {
        let cache = CompletedCache::new(2, 60_000);
        for name in ["a", "b", "a", "c", "d"] {
            cache.put(key(name), None, StoredResult::None, 1_000, 0);
        }
        let held: Vec<_> =
            ["a", "b", "c", "d"].into_iter().filter(|name| cache.answer(&key(name), None, 1).is_some()).collect();
        assert_eq!(held, ["c", "d"]);
        assert!(cache.state.lock().expect("lock").entries.len() <= 2);
    }

    #[test]
    fn another_fingerprint_is_a_conflict() {
        let cache = CompletedCache::new(2, 60_000);
        let fingerprint = |text: &str| Some(Fingerprint::new(text));
        cache.put(key("a"), fingerprint("s:1"), StoredResult::Kept("1".into()), 1_000, 0);
        let result = StoredResult::Kept("1".into());
        let duplicate = |compared| Some(ClaimAnswer::Duplicate { result: result.clone(), compared });
        assert_eq!(cache.answer(&key("a"), fingerprint("s:2").as_ref(), 1), Some(ClaimAnswer::Conflict));
        assert_eq!(cache.answer(&key("a"), fingerprint("s:1").as_ref(), 1), duplicate(true));
        assert_eq!(cache.answer(&key("a"), fingerprint("t:1").as_ref(), 1), duplicate(false));
    }

    #[test]
    fn without_entries_it_is_off() {
        let cache = CompletedCache::new(0, 60_000);
        cache.put(key("a"), None, StoredResult::None, 1_000, 0);
        assert!(cache.answer(&key("a"), None, 1).is_none());
    }
}
