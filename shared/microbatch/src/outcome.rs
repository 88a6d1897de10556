//! What became of each message.

use std::fmt;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Its item was processed now. Acknowledged.
    Processed,
    /// Its work was done already, in an earlier delivery or by an equal message of this batch. Acknowledged.
    Duplicate,
    /// Another claim holds its key. Reported: that claim's holder may die.
    Busy,
    /// Its key was used for other content. It never runs.
    Conflict,
    /// Its item failed and may succeed when tried again. Reported.
    Failed,
    /// Its item cannot succeed. Reported, until the queue's redrive policy moves it.
    Rejected,
    /// It was not tried, or cut short before it had started: time ran out. Reported.
    Abandoned,
}

impl Outcome {
    /// All outcomes, in the order in which summaries list them.
    pub const ALL: [Outcome; 7] = [
        Outcome::Processed,
        Outcome::Duplicate,
        Outcome::Busy,
        Outcome::Conflict,
        Outcome::Failed,
        Outcome::Rejected,
        Outcome::Abandoned,
    ];

    /// The outcome's name, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Processed => "Processed",
            Outcome::Duplicate => "Duplicate",
            Outcome::Busy => "Busy",
            Outcome::Conflict => "Conflict",
            Outcome::Failed => "Failed",
            Outcome::Rejected => "Rejected",
            Outcome::Abandoned => "Abandoned",
        }
    }

    /// Whether the message is left out of `batchItemFailures`, so that the queue deletes it.
    pub fn is_acknowledged(self) -> bool {
        matches!(self, Outcome::Processed | Outcome::Duplicate)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
