//! The collector against a model: never over a limit, never loses or reorders an entry, reasons right.

use std::collections::VecDeque;

use microbatch::batcher::{Batch, Collector, FlushReason, Limits};
use proptest::prelude::*;

use crate::support::limits;

/// What a caller may do next, after some time.
#[derive(Debug, Clone, Copy)]
enum Step {
    Push { bytes: usize },
    FlushIfDue,
    FlushIdle,
    Close,
}

/// The entries that were accepted and not yet handed out, and what must hold for each batch that is.
struct Model {
    limits: Limits,
    /// Number, size and time of each.
    held: VecDeque<(usize, usize, u64)>,
}

impl Model {
    fn bytes(&self) -> usize {
        self.held.iter().map(|(_, bytes, _)| bytes).sum()
    }

    fn due_at_ms(&self) -> Option<u64> {
        let first = self.held.front().filter(|_| self.limits.linger_ms > 0)?;
        Some(first.2 + self.limits.linger_ms)
    }

    /// Takes a batch's entries off the front: they must be the oldest, in order. Gives back when the first had come.
    fn take(&mut self, batch: &Batch<usize>) -> Result<u64, TestCaseError> {
        prop_assert!(!batch.entries.is_empty());
        prop_assert!(batch.entries.len() <= self.limits.count_max.get());
        prop_assert!(batch.bytes <= self.limits.bytes_max.get());
        prop_assert!(batch.entries.len() <= self.held.len());
        let taken: Vec<_> = self.held.drain(..batch.entries.len()).collect();
        prop_assert_eq!(&batch.entries, &taken.iter().map(|(number, ..)| *number).collect::<Vec<_>>());
        prop_assert_eq!(batch.bytes, taken.iter().map(|(_, bytes, _)| bytes).sum::<usize>());
        Ok(taken[0].2)
    }

    /// A batch that a push completed: for its count, or because it was full or the next entry did not fit.
    fn pushed(&mut self, batch: &Batch<usize>) -> Result<(), TestCaseError> {
        self.take(batch)?;
        if batch.entries.len() == self.limits.count_max.get() {
            prop_assert_eq!(batch.reason, FlushReason::Count);
            return Ok(());
        }
        prop_assert_eq!(batch.reason, FlushReason::Bytes);
        let next = self.held.front().map_or(0, |(_, bytes, _)| *bytes);
        let full = batch.bytes == self.limits.bytes_max.get();
        prop_assert!(full || batch.bytes + next > self.limits.bytes_max.get());
        Ok(())
    }

    /// A batch that was asked for: it is everything.
    fn flushed(&mut self, batch: Option<&Batch<usize>>, reason: FlushReason) -> Result<(), TestCaseError> {
        prop_assert_eq!(batch.map(|batch| batch.reason), (!self.held.is_empty()).then_some(reason));
        if let Some(batch) = batch {
            self.take(batch)?;
        }
        prop_assert!(self.held.is_empty());
        Ok(())
    }
}

fn step() -> impl Strategy<Value = (Step, u64)> {
    // One draw a step, since a hundred thousand schedules are drawn. Half of them are pushes, a few of them too large.
    any::<u32>().prop_map(|bits| {
        let bytes = (bits >> 8) as usize % 34;
        let step = match bits % 8 {
            0..=4 => Step::Push { bytes },
            5 => Step::FlushIfDue,
            6 => Step::FlushIdle,
            _ => Step::Close,
        };
        (step, u64::from(bits >> 16) % 4)
    })
}

fn check(limits: Limits, steps: &[(Step, u64)]) -> Result<(), TestCaseError> {
    let mut collector = Collector::new(limits);
    let mut model = Model { limits, held: VecDeque::new() };
    let mut now_ms = 1_000;
    for (number, (step, passed_ms)) in steps.iter().enumerate() {
        now_ms += passed_ms;
        match *step {
            Step::Push { bytes } => match collector.push(number, bytes, now_ms) {
                Err(refused) => {
                    prop_assert!(bytes > limits.bytes_max.get());
                    prop_assert_eq!(
                        (refused.entry, refused.bytes, refused.bytes_max),
                        (number, bytes, limits.bytes_max.get())
                    );
                }
                Ok(pushed) => {
                    model.held.push_back((number, bytes, now_ms));
                    for batch in pushed {
                        model.pushed(&batch)?;
                    }
                }
            },
            Step::FlushIfDue => {
                let batch = collector.flush_if_due(now_ms);
                if model.due_at_ms().is_some_and(|due_at_ms| due_at_ms <= now_ms) {
                    model.flushed(batch.as_ref(), FlushReason::Age)?;
                } else {
                    prop_assert_eq!(batch, None);
                }
            }
            Step::FlushIdle => model.flushed(collector.flush_idle().as_ref(), FlushReason::Idle)?,
            Step::Close => model.flushed(collector.close().as_ref(), FlushReason::Close)?,
        }
        prop_assert_eq!((collector.len(), collector.bytes()), (model.held.len(), model.bytes()));
        prop_assert_eq!(collector.is_empty(), model.held.is_empty());
        prop_assert_eq!(collector.due_at_ms(), model.due_at_ms());
        // What reached a limit does not wait.
        prop_assert!(collector.len() < limits.count_max.get() && collector.bytes() < limits.bytes_max.get());
    }
    model.flushed(collector.close().as_ref(), FlushReason::Close)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    /// P11, and that nothing is lost or reordered, with the right reason each time: 100,000 schedules.
    #[test]
    fn p11_the_collector_obeys_the_model(
        shape in any::<u32>(),
        steps in prop::collection::vec(step(), 0..24),
    ) {
        let part = |shift: u32, options: u32| (shape >> shift) % options;
        let count_max = 1 + part(0, 6) as usize;
        let bytes_max = 1 + part(8, 32) as usize;
        check(limits(count_max, bytes_max, u64::from(part(16, 5))), &steps)?;
    }
}
