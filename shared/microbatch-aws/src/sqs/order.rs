//! Which entries of a message group may still be sent without inverting its order.
//!
//! Once a message of a group has failed for good, what was enqueued behind it would overtake it, should it be sent again.
//! So that is refused, up to the moment when the failure is known to the sender: who then sends, sends on purpose.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The groups that have entries under way. One for all of a producer; bounded by its entries.
#[derive(Debug, Default)]
pub(super) struct Order(Mutex<State>);

#[derive(Default)]
struct State {
    /// The number of the next entry.
    next: u64,
    groups: HashMap<Arc<str>, Group>,
}

#[derive(Default)]
struct Group {
    /// Tickets and notices. The group is forgotten with the last.
    holders: usize,
    /// Failures that no sender knows of yet.
    unknown: usize,
    /// Entries with a number below it were enqueued before a failure was known.
    refused_below: u64,
}

impl Order {
    /// The place of an entry that is being enqueued.
    pub(super) fn enter(self: &Arc<Self>, group: &str) -> Ticket {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let group: Arc<str> =
            state.groups.get_key_value(group).map_or_else(|| group.into(), |(known, _)| Arc::clone(known));
        state.groups.entry(Arc::clone(&group)).or_default().holders += 1;
        drop(state);
        Ticket { order: Arc::clone(self), group, number }
    }

    /// How many groups are remembered.
    #[cfg(test)]
    pub(super) fn groups(&self) -> usize {
        self.state().groups.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No critical section can leave the state half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, group: &Arc<str>, change: impl FnOnce(&mut Group, u64)) {
        let mut state = self.state();
        let next = state.next;
        let Some(found) = state.groups.get_mut(group) else { return };
        change(found, next);
        found.holders -= 1;
        if found.holders == 0 {
            state.groups.remove(group);
        }
    }
}

impl fmt::Debug for State {
    // Groups are the sender's text (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("groups", &self.groups.len()).finish_non_exhaustive()
    }
}

/// An entry's place in its group, from when it is enqueued until it is settled.
pub(super) struct Ticket {
    order: Arc<Order>,
    group: Arc<str>,
    number: u64,
}

impl Ticket {
    /// The group.
    pub(super) fn group(&self) -> &Arc<str> {
        &self.group
    }

    /// Whether an entry before it failed, and it was enqueued before that was known.
    pub(super) fn is_refused(&self) -> bool {
        let state = self.order.state();
        state.groups.get(&self.group).is_some_and(|group| group.unknown > 0 || self.number < group.refused_below)
    }

    /// Says that the entry failed for good. That is known once the notice is dropped.
    pub(super) fn fail(&self) -> Notice {
        let mut state = self.order.state();
        let group = state.groups.entry(Arc::clone(&self.group)).or_default();
        group.holders += 1;
        group.unknown += 1;
        drop(state);
        Notice { order: Arc::clone(&self.order), group: Arc::clone(&self.group) }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.order.leave(&self.group, |_, _| {});
    }
}

/// A failure on its way to the sender. Dropped, whether it was read or given up, it is known.
pub(super) struct Notice {
    order: Arc<Order>,
    group: Arc<str>,
}

impl Drop for Notice {
    fn drop(&mut self) {
        self.order.leave(&self.group, |group, next| {
            group.unknown -= 1;
            group.refused_below = next;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_enqueued_before_a_failure_was_known_is_refused_and_what_came_later_is_not() {
        let order = Arc::new(Order::default());
        let (first, second, other) = (order.enter("a"), order.enter("a"), order.enter("b"));
        assert!(!second.is_refused());
        let notice = first.fail();
        let third = order.enter("a");
        assert!(second.is_refused() && third.is_refused() && !other.is_refused());
        drop(notice);
        let fourth = order.enter("a");
        assert!(second.is_refused() && third.is_refused(), "they were enqueued before");
        assert!(!fourth.is_refused() && !other.is_refused());
    }

    #[test]
    fn a_group_is_remembered_for_as_long_as_it_matters() {
        let order = Arc::new(Order::default());
        let (first, second) = (order.enter("a"), order.enter("a"));
        let notice = first.fail();
        drop(first);
        drop(second);
        assert_eq!(order.groups(), 1);
        let third = order.enter("a");
        drop(notice);
        assert!(third.is_refused());
        drop(third);
        assert_eq!(order.groups(), 0);
        assert!(!order.enter("a").is_refused());
    }

    #[test]
    fn several_failures_are_known_one_by_one() {
        let order = Arc::new(Order::default());
        let (first, second) = (order.enter("a"), order.enter("a"));
        let (one, two) = (first.fail(), second.fail());
        drop(one);
        assert!(order.enter("a").is_refused());
        drop(two);
        assert!(!order.enter("a").is_refused());
    }
}
