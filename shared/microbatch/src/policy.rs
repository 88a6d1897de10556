//! Choices that a setting makes: what a failure does to those behind it, and to the invocation.

use crate::outcome::Outcome;

/// What a rejected message does to the rest of its group, on a FIFO queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FifoFailure {
    /// The rest of the group waits: nothing is parked, and order is kept until the queue's redrive policy moves the
    /// rejected message.
    #[default]
    Block,
    /// It is parked, and the group goes on behind it: its order is given up there. Where it cannot be parked the group
    /// waits. A message that may succeed later always blocks its group.
    ParkAndContinue,
}

/// What an invocation answers of which nothing is done.
///
/// The event source mapping slows down when a function errs, never for a response that names every message: one that
/// reports a broken dependency that way goes on hammering it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TotalFailure {
    /// It errs for a standard queue; for a FIFO queue, whose groups hold each other back anyway, it reports.
    #[default]
    Auto,
    /// It errs.
    Error,
    /// It reports the messages like any others.
    Report,
}

impl TotalFailure {
    /// Whether an invocation errs: nothing was acknowledged or parked, and every outcome is Failed or Abandoned. Busy,
    /// Conflict and Rejected do not count: a slower mapping would not help them.
    pub(crate) fn errs(self, is_fifo: bool, mut items: impl ExactSizeIterator<Item = (Outcome, bool)>) -> bool {
        let wanted = match self {
            TotalFailure::Auto => !is_fifo,
            TotalFailure::Error => true,
            TotalFailure::Report => false,
        };
        wanted
            && items.len() > 0
            && items.all(|(outcome, parked)| matches!(outcome, Outcome::Failed | Outcome::Abandoned) && !parked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_batch_without_any_success_errs() {
        let errs = |policy: TotalFailure, is_fifo, outcomes: &[Outcome]| {
            policy.errs(is_fifo, outcomes.iter().map(|outcome| (*outcome, false)))
        };
        let failed = [Outcome::Failed, Outcome::Abandoned];
        assert!(errs(TotalFailure::Auto, false, &failed));
        assert!(!errs(TotalFailure::Auto, true, &failed));
        assert!(errs(TotalFailure::Error, true, &failed));
        assert!(!errs(TotalFailure::Report, false, &failed));
        assert!(!errs(TotalFailure::Error, false, &[]), "an empty batch is a success");
        for spared in [Outcome::Processed, Outcome::Duplicate, Outcome::Busy, Outcome::Conflict, Outcome::Rejected] {
            assert!(!errs(TotalFailure::Error, false, &[Outcome::Failed, spared]), "{spared}");
        }
        assert!(!TotalFailure::Error.errs(false, [(Outcome::Failed, true)].into_iter()), "parked");
    }
}
