//! Which messages make a batch, and when it is complete.
//!
//! A batch closes at `BatchSize`, when the window that its first message opened is over, or when one more message would take
//! the event over 6 MB, envelope included ("Batching behavior" in AWS's Lambda guide). Without a window it is what one
//! receive brought.

use std::time::Duration;

use super::event::{Received, event_bytes};
use super::settings::MappingSettings;

/// The most bytes of an invocation's payload: 6 MB, metadata included ("Invocation payload" in Lambda's quotas).
pub const EVENT_BYTES_MAX: usize = 6 * 1024 * 1024;

/// Why a batch is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Closed {
    /// It has as many messages as a batch may have.
    Size,
    /// The next message would have taken the event over its limit.
    Payload,
    /// Its window is over.
    Window,
    /// There is no window: it is what a receive brought.
    Receive,
    /// On a FIFO queue: it is what waited behind an earlier batch of its groups.
    Group,
}

/// A complete batch: at least one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The messages, in the order in which they were received.
    pub messages: Vec<Received>,
    /// Why it is complete.
    pub closed: Closed,
    /// When its first message was received, in milliseconds of the driver's clock.
    pub opened_ms: u64,
}

/// The limits of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most messages.
    pub messages_max: usize,
    /// How long it stays open after its first message, in milliseconds; 0: for one receive.
    pub window_ms: u64,
    /// Most bytes of the event.
    pub bytes_max: usize,
}

impl BatchLimits {
    /// Those of a mapping.
    pub fn new(settings: &MappingSettings) -> Self {
        Self { messages_max: settings.batch_size(), window_ms: whole_ms(settings.window()), bytes_max: EVENT_BYTES_MAX }
    }
}

/// The batch that is open.
#[derive(Debug)]
pub struct Collector {
    limits: BatchLimits,
    messages: Vec<Received>,
    record_bytes: usize,
    opened_ms: u64,
}

impl Collector {
    /// None is open yet.
    pub fn new(limits: BatchLimits) -> Self {
        Self { limits, messages: Vec::new(), record_bytes: 0, opened_ms: 0 }
    }

    /// How many messages the open batch has.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether no batch is open.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Adds a message. What this completes comes out, and the message is the first of the next batch where it did not fit.
    ///
    /// A message that is over the limit of an event alone makes a batch alone: to refuse it is Lambda's part.
    #[must_use = "the batches that are complete"]
    pub fn add(&mut self, now_ms: u64, message: Received) -> Vec<Batch> {
        let mut complete = Vec::new();
        let bytes = event_bytes(self.messages.len() + 1, self.record_bytes + message.record_bytes());
        if !self.is_empty() && bytes > self.limits.bytes_max {
            complete.extend(self.close(Closed::Payload));
        }
        if self.is_empty() {
            self.opened_ms = now_ms;
        }
        self.record_bytes += message.record_bytes();
        self.messages.push(message);
        if self.messages.len() >= self.limits.messages_max {
            complete.extend(self.close(Closed::Size));
        }
        complete
    }

    /// When the open batch's window is over; none while no batch is open.
    pub fn closes_at_ms(&self) -> Option<u64> {
        (!self.is_empty()).then(|| self.opened_ms.saturating_add(self.limits.window_ms))
    }

    /// The open batch, if its window is over. Without a window it is over at once: to be asked after each receive.
    pub fn due(&mut self, now_ms: u64) -> Option<Batch> {
        let over = self.closes_at_ms().is_some_and(|closes_at_ms| closes_at_ms <= now_ms);
        let why = if self.limits.window_ms == 0 { Closed::Receive } else { Closed::Window };
        if over { self.close(why) } else { None }
    }

    /// Takes the messages of the open batch out: they are not to be invoked.
    pub fn give_up(&mut self) -> Vec<Received> {
        self.record_bytes = 0;
        std::mem::take(&mut self.messages)
    }

    fn close(&mut self, closed: Closed) -> Option<Batch> {
        let opened_ms = self.opened_ms;
        let messages = self.give_up();
        (!messages.is_empty()).then_some(Batch { messages, closed, opened_ms })
    }
}

/// Splits messages into batches within the limits, keeping their order.
pub fn split(limits: BatchLimits, now_ms: u64, messages: Vec<Received>, closed: Closed) -> Vec<Batch> {
    let mut collector = Collector::new(limits);
    let mut batches: Vec<Batch> = messages.into_iter().flat_map(|message| collector.add(now_ms, message)).collect();
    batches.extend(collector.close(closed));
    batches
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::types::Message;
    use proptest::prelude::*;

    use super::*;
    use crate::mapping::event::{EventSource, event};

    fn message(number: usize, body_bytes: usize) -> Received {
        let message =
            Message::builder().message_id(number.to_string()).receipt_handle("r").body("x".repeat(body_bytes));
        Received::new(&message.build(), &EventSource::new("arn:aws:sqs:eu-west-1:1:q")).expect("whole")
    }

    fn sizes(batches: &[Batch]) -> Vec<(usize, Closed)> {
        batches.iter().map(|batch| (batch.messages.len(), batch.closed)).collect()
    }

    fn limits(messages_max: usize, window_ms: u64) -> BatchLimits {
        BatchLimits { messages_max, window_ms, bytes_max: EVENT_BYTES_MAX }
    }

    #[test]
    fn a_batch_closes_at_its_size() {
        let mut collector = Collector::new(limits(3, 2_000));
        let complete: Vec<Batch> = (0..7).flat_map(|n| collector.add(n, message(0, 0))).collect();
        assert_eq!(sizes(&complete), [(3, Closed::Size), (3, Closed::Size)]);
        assert_eq!((complete[0].opened_ms, complete[1].opened_ms), (0, 3));
        assert_eq!(collector.len(), 1);
    }

    #[test]
    fn a_window_is_counted_from_the_first_message() {
        let mut collector = Collector::new(limits(1_000, 2_000));
        assert_eq!((collector.closes_at_ms(), collector.due(u64::MAX)), (None, None));
        for now_ms in [100, 900, 2_099] {
            assert_eq!(collector.due(now_ms), None);
            assert_eq!(collector.add(now_ms, message(0, 0)), []);
            assert_eq!(collector.closes_at_ms(), Some(2_100));
        }
        assert_eq!(sizes(&collector.due(2_100).into_iter().collect::<Vec<_>>()), [(3, Closed::Window)]);
        assert!(collector.is_empty());
    }

    #[test]
    fn without_a_window_a_receive_is_a_batch() {
        let mut collector = Collector::new(limits(10, 0));
        assert_eq!(collector.add(5, message(0, 0)), []);
        assert_eq!(collector.due(5).map(|batch| batch.closed), Some(Closed::Receive));
    }

    #[test]
    fn an_event_is_never_over_six_megabytes() {
        // SQS's largest message, and what is left beside five of them.
        let mut collector = Collector::new(limits(10, 0));
        let complete: Vec<Batch> = (0..6).flat_map(|n| collector.add(0, message(n, 1024 * 1024))).collect();
        assert_eq!(sizes(&complete), [(5, Closed::Payload)]);
        assert!(event(&complete[0].messages).len() <= EVENT_BYTES_MAX);
        assert_eq!(collector.len(), 1);
    }

    #[test]
    fn the_limit_is_met_to_the_byte() {
        let two: Vec<Received> = (0..2).map(|n| message(n, 100)).collect();
        let exactly = event(&two).len();
        for (bytes_max, expected) in [(exactly, 2), (exactly - 1, 1)] {
            let limits = BatchLimits { bytes_max, ..limits(10, 0) };
            let batches = split(limits, 0, two.clone(), Closed::Receive);
            assert_eq!(batches[0].messages.len(), expected, "{bytes_max}");
        }
    }

    #[test]
    fn what_is_too_large_alone_goes_alone() {
        let limits = BatchLimits { bytes_max: 1_000, ..limits(10, 0) };
        let messages = vec![message(0, 10), message(1, 5_000), message(2, 10)];
        assert_eq!(split(limits, 0, messages, Closed::Receive).len(), 3);
    }

    proptest! {
        /// Nothing is lost, repeated or reordered, and every batch is within the limits and as large as they let it be.
        #[test]
        fn batches_are_the_messages_within_the_limits(
            bodies in proptest::collection::vec(0_usize..3_000, 0..60), messages_max in 1_usize..12, bytes_max in 1_000_usize..12_000,
        ) {
            let limits = BatchLimits { messages_max, window_ms: 0, bytes_max };
            let messages: Vec<Received> = bodies.iter().enumerate().map(|(n, &bytes)| message(n, bytes)).collect();
            let batches = split(limits, 0, messages.clone(), Closed::Receive);
            for (index, batch) in batches.iter().enumerate() {
                let bytes = event(&batch.messages).len();
                prop_assert!((1..=messages_max).contains(&batch.messages.len()));
                prop_assert!(bytes <= bytes_max || batch.messages.len() == 1);
                let next = batches.get(index + 1).map(|next| next.messages[0].record_bytes());
                match batch.closed {
                    Closed::Size => prop_assert_eq!(batch.messages.len(), messages_max),
                    Closed::Payload => prop_assert!(next.is_some_and(|next| bytes + 1 + next > bytes_max)),
                    _ => prop_assert_eq!(next, None),
                }
            }
            let all: Vec<Received> = batches.into_iter().flat_map(|batch| batch.messages).collect();
            prop_assert_eq!(all, messages);
        }
    }
}
