//! All that happened to the messages, and what must hold of it.

use std::{collections::BTreeMap, fmt};

use super::message::Number;

/// What happened to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A producer sent it.
    Sent,
    /// It was received.
    Delivered {
        /// How often that copy of it was by then.
        receive_count: u32,
    },
    /// A processor began with it. Noted by the test.
    Started,
    /// Its effect took place. Noted by the test.
    Effect,
    /// It was made to become visible again at another time.
    Delayed {
        /// When, in epoch milliseconds.
        until_ms: u64,
    },
    /// The consumer sent it to the dead-letter queue.
    Parked,
    /// The same, while the FIFO dead-letter queue still knew the first send: no second copy was made.
    ParkedAgain,
    /// It was deleted from the source queue.
    Acknowledged,
    /// The redrive policy moved it to the dead-letter queue.
    Moved,
    /// It was taken from the dead-letter queue back to the source queue.
    Redriven,
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// When, in epoch milliseconds.
    pub at_ms: u64,
    /// To which message.
    pub number: Number,
    /// What.
    pub what: What,
}

/// All that happened, in order. Of effects the time counts: a request that is in flight has its effect later.
#[derive(Debug, Clone, Default)]
pub struct History(Vec<Entry>);

/// Where the copies of a message are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Whereabouts {
    /// In the source queue, visible or in flight.
    pub source: usize,
    /// In the dead-letter queue.
    pub dead: usize,
}

/// Something that must never happen to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is in no queue, and its work is not done.
    Lost(Number),
    /// It was deleted from the source queue before its work was done and before it was parked.
    AcknowledgedTooSoon(Number),
    /// Its copies are not where its history says. A defect of the model.
    NotConserved {
        /// Which message.
        number: Number,
        /// Where they are by its history.
        expected: Whereabouts,
        /// Where they are.
        found: Whereabouts,
    },
    /// The consumer broke a rule of the queue's interface.
    Misused(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Lost(number) => write!(f, "{number} is lost: in no queue, and its work is not done"),
            Fault::AcknowledgedTooSoon(number) => {
                write!(f, "{number} was acknowledged before its work was done and before it was parked")
            }
            Fault::NotConserved { number, expected, found } => {
                write!(f, "{number}: expected by its history {expected:?}, found {found:?}")
            }
            Fault::Misused(what) => write!(f, "the queue was misused: {what}"),
        }
    }
}

impl std::error::Error for Fault {}

impl History {
    pub(super) fn add(&mut self, at_ms: u64, number: Number, what: What) {
        self.0.push(Entry { at_ms, number, what });
    }

    /// All entries, in the order in which they were made.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// How often this happened to any message.
    pub fn count(&self, what: impl Fn(What) -> bool) -> usize {
        self.0.iter().filter(|entry| what(entry.what)).count()
    }

    /// Where each message's copies must be.
    pub(super) fn whereabouts(&self) -> BTreeMap<Number, Whereabouts> {
        let mut all: BTreeMap<Number, Whereabouts> = BTreeMap::new();
        for entry in &self.0 {
            let of = all.entry(entry.number).or_default();
            match entry.what {
                What::Sent => of.source += 1,
                What::Acknowledged => of.source -= 1,
                What::Parked => of.dead += 1,
                What::Moved => (of.source, of.dead) = (of.source - 1, of.dead + 1),
                What::Redriven => (of.source, of.dead) = (of.source + 1, of.dead - 1),
                What::Delivered { .. } | What::Started | What::Effect | What::Delayed { .. } | What::ParkedAgain => {}
            }
        }
        all
    }
}
