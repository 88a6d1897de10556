//! The settings of an event source mapping, with the limits that AWS puts on them.
//!
//! Sources: "Lambda parameters for Amazon SQS event source mappings", "Configuring scaling behavior for SQS event source
//! mappings", "Creating and configuring an Amazon SQS event source mapping" in AWS's Lambda guide.

use std::fmt;
use std::time::Duration;

/// Most messages in a batch of a standard queue.
pub const BATCH_SIZE_MAX: usize = 10_000;
/// Most messages in a batch of a FIFO queue.
pub const FIFO_BATCH_SIZE_MAX: usize = 10;
/// The largest batch that needs no batching window.
pub const BATCH_SIZE_MAX_WITHOUT_WINDOW: usize = 10;
/// Longest batching window, in seconds.
pub const WINDOW_S_MAX: u64 = 300;
/// What `MaximumConcurrency` may be.
pub const CONCURRENCY_MAX_RANGE: std::ops::RangeInclusive<usize> = 2..=1_000;

/// The mapping's settings as somebody wrote them, not checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappingInput {
    /// `BatchSize`; AWS's default is 10.
    pub batch_size: i64,
    /// `MaximumBatchingWindowInSeconds`; AWS's default is 0.
    pub window_s: i64,
    /// `ScalingConfig.MaximumConcurrency`, if set.
    pub concurrency_max: Option<i64>,
    /// Whether `FunctionResponseTypes` holds `ReportBatchItemFailures`.
    pub reports_item_failures: bool,
}

/// AWS's defaults.
impl Default for MappingInput {
    fn default() -> Self {
        Self { batch_size: 10, window_s: 0, concurrency_max: None, reports_item_failures: false }
    }
}

/// What of the queue the limits depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Whether it keeps order.
    pub fifo: bool,
    /// Its visibility timeout, in seconds.
    pub visibility_timeout_s: u64,
}

/// Settings that AWS would accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappingSettings {
    batch_size: usize,
    window: Duration,
    concurrency_max: Option<usize>,
    reports_item_failures: bool,
    fifo: bool,
}

impl MappingSettings {
    /// Checks the settings against AWS's limits, for a queue and a function that may run for `function_timeout`.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn new(input: &MappingInput, queue: &Queue, function_timeout: Duration) -> Result<Self, SettingsError> {
        let problems = problems(input, queue, function_timeout);
        let number = |value: i64| usize::try_from(value).ok();
        let window_s = u64::try_from(input.window_s).ok();
        match (number(input.batch_size), window_s) {
            (Some(batch_size), Some(window_s)) if problems.is_empty() => Ok(Self {
                batch_size,
                window: Duration::from_secs(window_s),
                concurrency_max: input.concurrency_max.and_then(number),
                reports_item_failures: input.reports_item_failures,
                fifo: queue.fifo,
            }),
            _ => Err(SettingsError { problems }),
        }
    }

    /// Most messages in a batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// How long a batch waits for more, from its first message on. Zero: not at all.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// Most batches at once, if that is limited.
    pub fn concurrency_max(&self) -> Option<usize> {
        self.concurrency_max
    }

    /// Whether the function's response says which messages failed. If not, the response is ignored.
    pub fn reports_item_failures(&self) -> bool {
        self.reports_item_failures
    }

    /// Whether the queue keeps order.
    pub fn is_fifo(&self) -> bool {
        self.fifo
    }
}

fn problems(input: &MappingInput, queue: &Queue, function_timeout: Duration) -> Vec<SettingsProblem> {
    let mut problems = Vec::new();
    let most = if queue.fifo { FIFO_BATCH_SIZE_MAX } else { BATCH_SIZE_MAX };
    let fits =
        |value: i64, least: usize, most: usize| usize::try_from(value).is_ok_and(|n| (least..=most).contains(&n));
    if !fits(input.batch_size, 1, most) {
        problems.push(SettingsProblem::BatchSize { found: input.batch_size, max: most, fifo: queue.fifo });
    }
    if queue.fifo && input.window_s != 0 {
        problems.push(SettingsProblem::WindowOnFifo { found_s: input.window_s });
    } else if !u64::try_from(input.window_s).is_ok_and(|window_s| window_s <= WINDOW_S_MAX) {
        problems.push(SettingsProblem::Window { found_s: input.window_s });
    } else if !queue.fifo && input.window_s == 0 && fits(input.batch_size, BATCH_SIZE_MAX_WITHOUT_WINDOW + 1, most) {
        problems.push(SettingsProblem::WindowMissing { batch_size: input.batch_size });
    }
    let range = CONCURRENCY_MAX_RANGE;
    if let Some(found) = input.concurrency_max.filter(|&found| !fits(found, *range.start(), *range.end())) {
        problems.push(SettingsProblem::Concurrency { found });
    }
    if Duration::from_secs(queue.visibility_timeout_s) < function_timeout {
        let visibility_timeout_s = queue.visibility_timeout_s;
        problems.push(SettingsProblem::Visibility { visibility_timeout_s, function_timeout });
    }
    problems
}

/// Something that AWS would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingsProblem {
    /// `BatchSize` is out of its range.
    BatchSize {
        /// What was set.
        found: i64,
        /// The most it can be.
        max: usize,
        /// Whether that is so because the queue is a FIFO one.
        fifo: bool,
    },
    /// `MaximumBatchingWindowInSeconds` is out of its range.
    Window {
        /// What was set, in seconds.
        found_s: i64,
    },
    /// A batching window for a FIFO queue.
    WindowOnFifo {
        /// What was set, in seconds.
        found_s: i64,
    },
    /// A batch of more than 10 messages without a batching window.
    WindowMissing {
        /// The batch's size.
        batch_size: i64,
    },
    /// `MaximumConcurrency` is out of its range.
    Concurrency {
        /// What was set.
        found: i64,
    },
    /// A message would become visible again while the function may still run.
    Visibility {
        /// The queue's visibility timeout, in seconds.
        visibility_timeout_s: u64,
        /// The function's time-out.
        function_timeout: Duration,
    },
}

impl fmt::Display for SettingsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BatchSize { found, max, fifo } => {
                let queue = if *fifo { "a FIFO queue" } else { "a standard queue" };
                write!(f, "BatchSize: expected 1 to {max} for {queue}, found {found}")
            }
            Self::Window { found_s } => {
                write!(f, "MaximumBatchingWindowInSeconds: expected 0 to {WINDOW_S_MAX}, found {found_s}")
            }
            Self::WindowOnFifo { found_s } => {
                write!(f, "MaximumBatchingWindowInSeconds: expected none for a FIFO queue, found {found_s}")
            }
            Self::WindowMissing { batch_size } => write!(
                f,
                "MaximumBatchingWindowInSeconds: expected at least 1 for a BatchSize over {BATCH_SIZE_MAX_WITHOUT_WINDOW}, \
                 found 0 with {batch_size}"
            ),
            Self::Concurrency { found } => {
                let range = CONCURRENCY_MAX_RANGE;
                write!(f, "MaximumConcurrency: expected {} to {}, found {found}", range.start(), range.end())
            }
            Self::Visibility { visibility_timeout_s, function_timeout } => write!(
                f,
                "VisibilityTimeout: expected at least the function's time-out of {function_timeout:?}, found \
                 {visibility_timeout_s}s; six times as long, plus the batching window, is what AWS recommends"
            ),
        }
    }
}

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// The problems, at least one.
    pub problems: Vec<SettingsProblem>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lambda would refuse this event source mapping")?;
        for (index, problem) in self.problems.iter().enumerate() {
            write!(f, "{} {problem}", if index == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STANDARD: Queue = Queue { fifo: false, visibility_timeout_s: 180 };
    const FIFO: Queue = Queue { fifo: true, visibility_timeout_s: 180 };
    const TIMEOUT: Duration = Duration::from_secs(30);

    fn input(batch_size: i64, window_s: i64) -> MappingInput {
        MappingInput { batch_size, window_s, ..MappingInput::default() }
    }

    fn found(input: &MappingInput, queue: &Queue) -> Vec<SettingsProblem> {
        MappingSettings::new(input, queue, TIMEOUT).err().map(|error| error.problems).unwrap_or_default()
    }

    #[test]
    fn awss_defaults_are_accepted() {
        for queue in [STANDARD, FIFO] {
            let settings = MappingSettings::new(&MappingInput::default(), &queue, TIMEOUT).expect("AWS's defaults");
            assert_eq!((settings.batch_size(), settings.window()), (10, Duration::ZERO));
            assert_eq!((settings.concurrency_max(), settings.reports_item_failures()), (None, false));
            assert_eq!(settings.is_fifo(), queue.fifo);
        }
    }

    #[test]
    fn the_edges_are_awss() {
        use SettingsProblem::{BatchSize, Window, WindowMissing, WindowOnFifo};
        let standard_size = |found| vec![BatchSize { found, max: 10_000, fifo: false }];
        for (batch_size, window_s, problems) in [
            (1, 0, vec![]),
            (10, 0, vec![]),
            (11, 0, vec![WindowMissing { batch_size: 11 }]),
            (11, 1, vec![]),
            (10_000, 300, vec![]),
            (0, 0, standard_size(0)),
            (-1, 0, standard_size(-1)),
            (10_001, 1, standard_size(10_001)),
            (10, 301, vec![Window { found_s: 301 }]),
            (10, -1, vec![Window { found_s: -1 }]),
        ] {
            assert_eq!(found(&input(batch_size, window_s), &STANDARD), problems, "{batch_size}, {window_s}");
        }
        let fifo_size = BatchSize { found: 11, max: 10, fifo: true };
        assert_eq!(found(&input(11, 1), &FIFO), [fifo_size, WindowOnFifo { found_s: 1 }]);
        for (concurrency, accepted) in [(1, false), (2, true), (1_000, true), (1_001, false), (i64::MIN, false)] {
            let input = MappingInput { concurrency_max: Some(concurrency), ..MappingInput::default() };
            assert_eq!(found(&input, &STANDARD).is_empty(), accepted, "{concurrency}");
        }
    }

    #[test]
    fn the_visibility_timeout_is_not_shorter_than_the_functions_time_out() {
        for (visibility_timeout_s, accepted) in [(29, false), (30, true)] {
            let queue = Queue { visibility_timeout_s, ..STANDARD };
            assert_eq!(found(&MappingInput::default(), &queue).is_empty(), accepted);
        }
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let input = MappingInput { concurrency_max: Some(1), ..input(0, 500) };
        let queue = Queue { visibility_timeout_s: 1, ..STANDARD };
        let error = MappingSettings::new(&input, &queue, TIMEOUT).expect_err("all wrong").to_string();
        for name in ["BatchSize", "MaximumBatchingWindowInSeconds", "MaximumConcurrency", "VisibilityTimeout"] {
            assert!(error.contains(name), "{error}");
        }
    }

    proptest! {
        /// Either there is a problem, or the settings say what was asked for.
        #[test]
        fn nothing_is_changed_silently(
            batch_size in -10_i64..20_000, window_s in -10_i64..400, concurrency_max in proptest::option::of(-5_i64..1_100),
            reports_item_failures: bool, fifo: bool,
        ) {
            let input = MappingInput { batch_size, window_s, concurrency_max, reports_item_failures };
            let queue = Queue { fifo, visibility_timeout_s: 180 };
            match MappingSettings::new(&input, &queue, TIMEOUT) {
                Ok(settings) => {
                    prop_assert_eq!(i64::try_from(settings.batch_size()), Ok(batch_size));
                    prop_assert_eq!(i64::try_from(settings.window().as_secs()), Ok(window_s));
                    prop_assert_eq!(settings.concurrency_max().map(|n| i64::try_from(n).ok()), concurrency_max.map(Some));
                    prop_assert!(!fifo || (batch_size <= 10 && window_s == 0));
                    prop_assert!(batch_size <= 10 || window_s >= 1);
                }
                Err(error) => prop_assert!(!error.problems.is_empty()),
            }
        }
    }
}
