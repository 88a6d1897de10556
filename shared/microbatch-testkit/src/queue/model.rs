//! The queue as a pure state machine: what each request does at a given time. No clock, no chance, no waiting.
//!
//! The rules are those of AWS's documentation, named by the titles of its pages. What is left out: retention, the limit
//! on messages in flight, and what a standard queue may do besides (deliver twice, deliver what was deleted).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use super::{
    history::{Fault, History, What, Whereabouts},
    message::{DeadLetter, Delivery, Handle, NewMessage, Number},
};

/// Longest time that a message stays invisible, from its receipt: 12 hours (`ChangeMessageVisibility`).
const VISIBILITY_MAX_MS: u64 = 43_200_000;
/// How long a FIFO queue drops messages with a deduplication id that it has seen, also when the message was deleted
/// ("Amazon SQS FIFO queue key terms").
const DEDUPLICATION_MS: u64 = 300_000;
/// Most messages of a FIFO queue in one invocation ("Lambda parameters for Amazon SQS event source mappings").
const FIFO_BATCH_MAX: usize = 10;

/// The settings of a queue and of its redrive policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSettings {
    /// Whether it, and its dead-letter queue, keep order.
    pub fifo: bool,
    /// How long a received message is invisible, in milliseconds.
    pub visibility_timeout_ms: u64,
    /// How often a message is received before the redrive policy moves it. None: there is no such policy.
    pub max_receive_count: Option<u32>,
}

/// Why the queue did not do as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A message without a group, on a FIFO queue.
    NoGroup,
    /// No receipt handle of this queue.
    NoHandle,
    /// The message is not in the queue any more.
    Gone,
    /// The message was received again since.
    Stale,
    /// The message's visibility timeout is over.
    Expired,
    /// It would be invisible for more than 12 hours from its receipt.
    TooLong,
    /// No message of this queue has such an id.
    NoSuchMessage,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NoGroup => "a message without a group, on a FIFO queue",
            Refusal::NoHandle => "no receipt handle of this queue",
            Refusal::Gone => "the message is not in the queue any more",
            Refusal::Stale => "the message was received again since",
            Refusal::Expired => "the message's visibility timeout is over",
            Refusal::TooLong => "more than 12 hours from the receipt",
            Refusal::NoSuchMessage => "no message of this queue has this id",
        })
    }
}

impl std::error::Error for Refusal {}

/// A message in the source queue.
#[derive(Debug, Clone)]
struct Stored {
    number: Number,
    message_id: String,
    message: Arc<NewMessage>,
    sent_ms: u64,
    first_received_ms: Option<u64>,
    /// When it was received last; meaningless before the first time.
    received_ms: u64,
    receive_count: u32,
    visible_ms: u64,
}

/// A queue and its dead-letter queue.
#[derive(Debug, Clone)]
pub struct QueueModel {
    settings: QueueSettings,
    /// By sequence number.
    source: BTreeMap<u64, Stored>,
    dead: Vec<DeadLetter>,
    /// Until when which deduplication ids of the source queue are known, and of which message.
    known: HashMap<String, (u64, Number)>,
    /// The same of the dead-letter queue, by the ids of the messages parked there.
    known_dead: HashMap<String, u64>,
    /// Which message each id was ever given to.
    ids: HashMap<String, Number>,
    sent: usize,
    sequence: u64,
    history: History,
    misuses: Vec<String>,
}

impl QueueModel {
    /// An empty queue.
    pub fn new(settings: QueueSettings) -> Self {
        Self {
            settings,
            source: BTreeMap::new(),
            dead: Vec::new(),
            known: HashMap::new(),
            known_dead: HashMap::new(),
            ids: HashMap::new(),
            sent: 0,
            sequence: 0,
            history: History::default(),
            misuses: Vec::new(),
        }
    }

    /// Its settings.
    pub fn settings(&self) -> &QueueSettings {
        &self.settings
    }

    // --- producers ------------------------------------------------------------------------------------------------

    /// Takes a message from a producer. One that a FIFO queue has seen the deduplication id of is accepted and dropped:
    /// the number is then that of the first.
    ///
    /// # Errors
    /// [`Refusal::NoGroup`].
    pub fn send(&mut self, now_ms: u64, message: NewMessage) -> Result<Number, Refusal> {
        if self.settings.fifo {
            if message.group.is_none() {
                return Err(Refusal::NoGroup);
            }
            self.known.retain(|_, (until_ms, _)| now_ms < *until_ms);
            let first = message.deduplication_id.as_ref().and_then(|id| self.known.get(id));
            if let Some((_, first)) = first {
                return Ok(*first);
            }
        }
        let number = Number(self.sent);
        self.sent += 1;
        if let Some(id) = message.deduplication_id.as_ref().filter(|_| self.settings.fifo) {
            self.known.insert(id.clone(), (now_ms + DEDUPLICATION_MS, number));
        }
        self.history.add(now_ms, number, What::Sent);
        self.store(now_ms, number, Arc::new(message));
        Ok(number)
    }

    fn store(&mut self, now_ms: u64, number: Number, message: Arc<NewMessage>) {
        self.sequence += 1;
        let message_id = format!("{:08x}-0000-4000-8000-{:012x}", number.0, self.sequence);
        self.ids.insert(message_id.clone(), number);
        let stored = Stored {
            number,
            message_id,
            message,
            sent_ms: now_ms,
            first_received_ms: None,
            received_ms: 0,
            receive_count: 0,
            visible_ms: now_ms,
        };
        self.source.insert(self.sequence, stored);
    }

    // --- the consumer ---------------------------------------------------------------------------------------------

    /// Hands out up to `max` visible messages, and makes them invisible.
    ///
    /// Oldest first; on a FIFO queue as many as possible of one group, then of the next, each in order, and none of a
    /// group that has a message which was received and is still invisible ("FIFO queue delivery logic in Amazon SQS").
    /// A message that was received `max_receive_count` times is moved instead ("Using dead-letter queues in Amazon
    /// SQS"); on a FIFO queue the next of its group may then come.
    pub fn receive(&mut self, now_ms: u64, max: usize) -> Vec<Delivery> {
        let max = if self.settings.fifo { max.min(FIFO_BATCH_MAX) } else { max };
        let mut deliveries = Vec::new();
        for sequence in self.receivable(now_ms) {
            if deliveries.len() == max {
                break;
            }
            let used_up =
                |stored: &Stored| self.settings.max_receive_count.is_some_and(|max| stored.receive_count >= max);
            if self.source.get(&sequence).is_some_and(used_up) {
                self.move_to_dead(now_ms, sequence);
            } else {
                deliveries.extend(self.hand_out(now_ms, sequence));
            }
        }
        deliveries
    }

    /// What may be received now, in the order in which it is.
    fn receivable(&self, now_ms: u64) -> Vec<u64> {
        let visible = self.source.iter().filter(|(_, stored)| stored.visible_ms <= now_ms);
        if !self.settings.fifo {
            return visible.map(|(sequence, _)| *sequence).collect();
        }
        let in_flight = self.source.values().filter(|stored| stored.visible_ms > now_ms);
        let blocked: HashSet<Option<&str>> = in_flight.map(|stored| stored.message.group.as_deref()).collect();
        let mut groups: Vec<(Option<&str>, Vec<u64>)> = Vec::new();
        for (sequence, stored) in visible {
            let name = stored.message.group.as_deref();
            if blocked.contains(&name) {
                continue;
            }
            match groups.iter_mut().find(|(group, _)| *group == name) {
                Some((_, members)) => members.push(*sequence),
                None => groups.push((name, vec![*sequence])),
            }
        }
        groups.into_iter().flat_map(|(_, members)| members).collect()
    }

    fn hand_out(&mut self, now_ms: u64, sequence: u64) -> Option<Delivery> {
        let stored = self.source.get_mut(&sequence)?;
        stored.receive_count += 1;
        stored.received_ms = now_ms;
        stored.visible_ms = now_ms + self.settings.visibility_timeout_ms;
        let first_received_ms = *stored.first_received_ms.get_or_insert(now_ms);
        let receive_count = stored.receive_count;
        self.history.add(now_ms, stored.number, What::Delivered { receive_count });
        Some(Delivery {
            number: stored.number,
            message_id: stored.message_id.clone(),
            receipt_handle: Handle { sequence, receive_count }.to_string(),
            receive_count,
            sent_ms: stored.sent_ms,
            first_received_ms,
            sequence,
            message: Arc::clone(&stored.message),
        })
    }

    /// Deletes a message, in flight or not.
    ///
    /// # Errors
    /// When the handle is not that of the last receive (`DeleteMessage`: the request then succeeds, "but the message might
    /// not be deleted"); on a FIFO queue also when the visibility timeout is over ("The receipt handle has expired").
    pub fn delete(&mut self, now_ms: u64, receipt_handle: &str) -> Result<Number, Refusal> {
        let sequence = self.received(receipt_handle)?;
        let fifo = self.settings.fifo;
        let number = match self.source.get(&sequence) {
            Some(stored) if fifo && stored.visible_ms <= now_ms => return Err(Refusal::Expired),
            Some(stored) => stored.number,
            None => return Err(Refusal::Gone),
        };
        self.source.remove(&sequence);
        self.history.add(now_ms, number, What::Acknowledged);
        Ok(number)
    }

    /// Sets the time until a message in flight becomes visible again. 0: at once.
    ///
    /// # Errors
    /// When the handle is not that of the last receive, the message is not in flight any more, or the time would end more
    /// than 12 hours after the receipt (`ChangeMessageVisibility`; the time is not shortened to what is left).
    pub fn change_visibility(&mut self, now_ms: u64, receipt_handle: &str, timeout_s: u64) -> Result<(), Refusal> {
        let sequence = self.received(receipt_handle)?;
        let stored = self.source.get_mut(&sequence).ok_or(Refusal::Gone)?;
        if stored.visible_ms <= now_ms {
            return Err(Refusal::Expired);
        }
        let until_ms = now_ms.saturating_add(timeout_s.saturating_mul(1_000));
        if until_ms - stored.received_ms > VISIBILITY_MAX_MS {
            return Err(Refusal::TooLong);
        }
        stored.visible_ms = until_ms;
        self.history.add(now_ms, stored.number, What::Delayed { until_ms });
        Ok(())
    }

    /// The sequence number of the message that this handle is the last one of.
    fn received(&self, receipt_handle: &str) -> Result<u64, Refusal> {
        let handle = Handle::parse(receipt_handle).ok_or(Refusal::NoHandle)?;
        let stored = self.source.get(&handle.sequence).ok_or(Refusal::Gone)?;
        if stored.receive_count != handle.receive_count {
            return Err(Refusal::Stale);
        }
        Ok(handle.sequence)
    }

    // --- dead letters ---------------------------------------------------------------------------------------------

    fn move_to_dead(&mut self, now_ms: u64, sequence: u64) {
        let Some(stored) = self.source.remove(&sequence) else { return };
        let Stored { number, message_id, message, .. } = stored;
        self.history.add(now_ms, number, What::Moved);
        self.dead.push(DeadLetter { number, message_id, message, reason: None, at_ms: now_ms });
    }

    /// Takes a message that the consumer sends to the dead-letter queue, as a copy of the message with this id.
    ///
    /// A FIFO dead-letter queue knows it by that id, which is what SQS itself makes the deduplication id of a message that
    /// it moves ("Learn how to configure a dead-letter queue redrive in Amazon SQS"): a second send within five minutes is
    /// accepted and makes no copy.
    ///
    /// # Errors
    /// [`Refusal::NoSuchMessage`], [`Refusal::NoGroup`].
    pub fn park(&mut self, now_ms: u64, message_id: &str, copy: NewMessage, reason: &str) -> Result<(), Refusal> {
        let number = *self.ids.get(message_id).ok_or(Refusal::NoSuchMessage)?;
        if self.settings.fifo {
            if copy.group.is_none() {
                return Err(Refusal::NoGroup);
            }
            self.known_dead.retain(|_, until_ms| now_ms < *until_ms);
            if self.known_dead.contains_key(message_id) {
                self.history.add(now_ms, number, What::ParkedAgain);
                return Ok(());
            }
            self.known_dead.insert(message_id.to_owned(), now_ms + DEDUPLICATION_MS);
        }
        self.history.add(now_ms, number, What::Parked);
        let (message_id, reason) = (message_id.to_owned(), Some(reason.into()));
        self.dead.push(DeadLetter { number, message_id, message: Arc::new(copy), reason, at_ms: now_ms });
        Ok(())
    }

    /// Takes all dead letters back to the source queue, oldest first. They are new messages there, with new ids ("Learn
    /// how to configure a dead-letter queue redrive in Amazon SQS"). Returns how many.
    pub fn redrive(&mut self, now_ms: u64) -> usize {
        let letters = std::mem::take(&mut self.dead);
        for letter in &letters {
            self.history.add(now_ms, letter.number, What::Redriven);
            self.store(now_ms, letter.number, Arc::clone(&letter.message));
        }
        letters.len()
    }

    // --- looking at it --------------------------------------------------------------------------------------------

    /// When the next message that is invisible now becomes visible; none when there is no such message.
    pub fn next_visible_ms(&self, now_ms: u64) -> Option<u64> {
        self.source.values().map(|stored| stored.visible_ms).filter(|visible_ms| *visible_ms > now_ms).min()
    }

    /// Whether the source queue holds no message, visible or not.
    pub fn is_drained(&self) -> bool {
        self.source.is_empty()
    }

    /// The dead letters, oldest first.
    pub fn dead_letters(&self) -> &[DeadLetter] {
        &self.dead
    }

    /// Where the copies of a message are.
    pub fn whereabouts(&self, number: Number) -> Whereabouts {
        Whereabouts {
            source: self.source.values().filter(|stored| stored.number == number).count(),
            dead: self.dead.iter().filter(|letter| letter.number == number).count(),
        }
    }

    /// The message that was ever given this id.
    pub fn number_of(&self, message_id: &str) -> Option<Number> {
        self.ids.get(message_id).copied()
    }

    /// All that happened.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Notes what the queue cannot see: that a message was started, or had its effect.
    pub fn note(&mut self, at_ms: u64, number: Number, what: What) {
        self.history.add(at_ms, number, what);
    }

    pub(super) fn note_misuse(&mut self, what: String) {
        self.misuses.push(what);
    }

    /// Checks that no message is lost: each is in a queue or has its work done; that none was acknowledged before its work
    /// was done and before it was parked (P1); that copies are conserved; and that the consumer kept to the queue's rules.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub fn check(&self, is_done: impl Fn(Number) -> bool) -> Result<(), Fault> {
        if let Some(misuse) = self.misuses.first() {
            return Err(Fault::Misused(misuse.clone()));
        }
        let mut parked = HashSet::new();
        for entry in self.history.entries() {
            match entry.what {
                What::Parked | What::ParkedAgain => drop(parked.insert(entry.number)),
                What::Acknowledged if !is_done(entry.number) && !parked.contains(&entry.number) => {
                    return Err(Fault::AcknowledgedTooSoon(entry.number));
                }
                _ => {}
            }
        }
        for (number, expected) in self.history.whereabouts() {
            let found = self.whereabouts(number);
            if found != expected {
                return Err(Fault::NotConserved { number, expected, found });
            }
            if found == Whereabouts::default() && !is_done(number) {
                return Err(Fault::Lost(number));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VISIBILITY_MS: u64 = 30_000;

    fn queue(fifo: bool, max_receive_count: Option<u32>) -> QueueModel {
        QueueModel::new(QueueSettings { fifo, visibility_timeout_ms: VISIBILITY_MS, max_receive_count })
    }

    fn in_group(group: &str) -> NewMessage {
        NewMessage { group: Some(group.into()), ..NewMessage::default() }
    }

    fn fifo_of(groups: &[&str]) -> QueueModel {
        let mut queue = queue(true, Some(3));
        for group in groups {
            queue.send(0, in_group(group)).expect("accepted");
        }
        queue
    }

    fn numbers(deliveries: &[Delivery]) -> Vec<usize> {
        deliveries.iter().map(|delivery| delivery.number.0).collect()
    }

    fn receive(queue: &mut QueueModel, now_ms: u64, max: usize) -> Vec<usize> {
        numbers(&queue.receive(now_ms, max))
    }

    #[test]
    fn a_message_is_hidden_from_its_receipt_until_its_timeout() {
        let mut queue = queue(false, None);
        queue.send(0, NewMessage::default()).expect("accepted");
        let first = queue.receive(5, 10);
        assert_eq!((first[0].receive_count, first[0].sent_ms, first[0].first_received_ms), (1, 0, 5));
        assert_eq!(queue.next_visible_ms(5), Some(30_005));
        assert!(receive(&mut queue, 30_004, 10).is_empty());
        let second = queue.receive(30_005, 10);
        assert_eq!((second[0].receive_count, second[0].first_received_ms), (2, 5));
        assert_ne!(first[0].receipt_handle, second[0].receipt_handle);
        assert_eq!(first[0].message_id, second[0].message_id);
    }

    #[test]
    fn only_the_last_receipt_handle_counts() {
        let mut queue = queue(false, None);
        queue.send(0, NewMessage::default()).expect("accepted");
        let first = queue.receive(0, 1).remove(0).receipt_handle;
        let second = queue.receive(VISIBILITY_MS, 1).remove(0).receipt_handle;
        assert_eq!(queue.change_visibility(30_001, &first, 60), Err(Refusal::Stale));
        assert_eq!(queue.delete(30_001, &first), Err(Refusal::Stale));
        assert_eq!(queue.delete(30_001, "receive-x"), Err(Refusal::NoHandle));
        // On a standard queue also after the timeout, as long as nobody has received it again.
        assert_eq!(queue.delete(99_000, &second), Ok(Number(0)));
        assert_eq!(queue.delete(99_000, &second), Err(Refusal::Gone));
        assert!(queue.is_drained());
    }

    #[test]
    fn a_fifo_queue_does_not_delete_by_an_expired_handle() {
        let mut queue = fifo_of(&["a"]);
        let handle = queue.receive(0, 1).remove(0).receipt_handle;
        assert_eq!(queue.delete(VISIBILITY_MS, &handle), Err(Refusal::Expired));
        assert!(!queue.is_drained());
    }

    #[test]
    fn visibility_is_set_from_now_and_ends_12_hours_after_the_receipt() {
        let mut queue = queue(false, None);
        queue.send(0, NewMessage::default()).expect("accepted");
        let handle = queue.receive(0, 1).remove(0).receipt_handle;
        assert_eq!(queue.change_visibility(10_000, &handle, 60), Ok(()));
        assert_eq!(queue.next_visible_ms(10_000), Some(70_000));
        assert_eq!(queue.change_visibility(10_000, &handle, 43_190), Ok(()));
        assert_eq!(queue.change_visibility(10_000, &handle, 43_191), Err(Refusal::TooLong));
        assert_eq!(queue.change_visibility(20_000, &handle, 0), Ok(()));
        assert_eq!(queue.change_visibility(20_000, &handle, 60), Err(Refusal::Expired), "it is not in flight any more");
        assert_eq!(receive(&mut queue, 20_000, 1), [0]);
    }

    #[test]
    fn a_fifo_queue_hands_out_groups_in_order_and_as_many_of_one_as_it_can() {
        let mut queue = fifo_of(&["a", "b", "a", "c", "a"]);
        assert_eq!(receive(&mut queue, 0, 4), [0, 2, 4, 1]);
        assert_eq!(receive(&mut queue, 0, 4), [3]);
    }

    #[test]
    fn a_group_waits_while_one_of_its_messages_is_invisible() {
        let mut queue = fifo_of(&["a", "a", "b"]);
        let first = queue.receive(0, 1);
        assert_eq!(numbers(&first), [0]);
        assert_eq!(receive(&mut queue, 0, 10), [2], "the rest of the group waits");
        queue.change_visibility(1, &first[0].receipt_handle, 600).expect("in flight");
        queue.send(2, in_group("a")).expect("accepted");
        assert_eq!(receive(&mut queue, VISIBILITY_MS, 10), [2], "it is delayed, and they wait on");
        queue.delete(VISIBILITY_MS, &first[0].receipt_handle).expect("in flight");
        assert_eq!(receive(&mut queue, VISIBILITY_MS, 10), [1, 3]);
    }

    #[test]
    fn a_message_that_comes_back_first_waits_for_those_behind_it() {
        let mut queue = fifo_of(&["a", "a"]);
        let both = queue.receive(0, 10);
        queue.change_visibility(0, &both[0].receipt_handle, 1).expect("in flight");
        assert!(receive(&mut queue, 1_000, 10).is_empty());
        assert_eq!(receive(&mut queue, VISIBILITY_MS, 10), [0, 1]);
    }

    #[test]
    fn receives_that_are_used_up_move_a_message_and_let_the_next_come() {
        let mut queue = fifo_of(&["a", "a"]);
        for nth in 0..3 {
            assert_eq!(receive(&mut queue, nth * VISIBILITY_MS, 1), [0]);
        }
        assert_eq!(receive(&mut queue, 3 * VISIBILITY_MS, 1), [1]);
        assert_eq!(queue.dead_letters().len(), 1);
        assert_eq!((queue.dead_letters()[0].number, &queue.dead_letters()[0].reason), (Number(0), &None));
        assert_eq!(queue.whereabouts(Number(0)), Whereabouts { source: 0, dead: 1 });
    }

    #[test]
    fn a_redriven_message_is_a_new_one_at_the_end() {
        let mut queue = fifo_of(&["a", "a"]);
        let id = queue.receive(0, 1).remove(0).message_id;
        let copy = in_group("a");
        queue.park(1, &id, copy.clone(), "{}").expect("known");
        queue.park(2, &id, copy.clone(), "{}").expect("known");
        assert_eq!(queue.dead_letters().len(), 1, "a FIFO queue knows the second send");
        queue.park(2 + DEDUPLICATION_MS, &id, copy, "{}").expect("known");
        assert_eq!(queue.redrive(DEDUPLICATION_MS + 3), 2);
        let all = queue.receive(DEDUPLICATION_MS + 3, 10);
        assert_eq!(numbers(&all), [0, 1, 0, 0]);
        assert_eq!((all[2].receive_count, all[2].sent_ms), (1, DEDUPLICATION_MS + 3));
        assert_ne!(all[2].message_id, id);
        assert_eq!(queue.number_of(&all[3].message_id), Some(Number(0)));
    }

    #[test]
    fn a_fifo_queue_drops_what_it_has_seen_for_five_minutes() {
        let mut queue = queue(true, None);
        let again = || NewMessage { deduplication_id: Some("d".into()), ..in_group("a") };
        assert_eq!(queue.send(0, again()), Ok(Number(0)));
        assert_eq!(queue.send(DEDUPLICATION_MS - 1, again()), Ok(Number(0)));
        assert_eq!(queue.send(DEDUPLICATION_MS, again()), Ok(Number(1)));
        assert_eq!(queue.send(0, NewMessage::default()), Err(Refusal::NoGroup));
    }

    #[test]
    fn p1_what_is_lost_or_acknowledged_too_soon_is_found() {
        let mut queue = queue(false, Some(3));
        for _ in 0..2 {
            queue.send(0, NewMessage::default()).expect("accepted");
        }
        let both = queue.receive(0, 2);
        assert_eq!(queue.check(|_| false), Ok(()), "both are in flight");
        queue.delete(1, &both[0].receipt_handle).expect("in flight");
        assert_eq!(queue.check(|_| false), Err(Fault::AcknowledgedTooSoon(Number(0))));
        assert_eq!(queue.check(|number| number == Number(0)), Ok(()), "its work is done");
        queue.park(2, &both[1].message_id, NewMessage::default(), "{}").expect("known");
        queue.delete(3, &both[1].receipt_handle).expect("in flight");
        assert_eq!(queue.check(|number| number == Number(0)), Ok(()), "it is a dead letter");
        queue.dead.clear();
        let gone = Whereabouts::default();
        let expected = Whereabouts { source: 0, dead: 1 };
        assert_eq!(
            queue.check(|number| number == Number(0)),
            Err(Fault::NotConserved { number: Number(1), expected, found: gone })
        );
    }
}
