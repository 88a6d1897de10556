//! Settings: plain numbers as a person gives them ([`Options`]), checked once into a [`Config`] that the rest relies on.

use std::{
    fmt,
    num::{NonZeroU64, NonZeroUsize},
};

use crate::{
    control::{Backoff, BreakerSettings, FailurePercent, GovernorSettings},
    envelope::Envelope,
    policy::{FifoFailure, TotalFailure},
    transition::OnLapsedLease,
};

/// The largest body that SQS delivers: a message is at most 1 MiB.
pub const SQS_BODY_BYTES_MAX: u64 = 1_048_576;

/// Longest wait that a setting may ask for, in milliseconds: Lambda ends an invocation after 15 minutes.
const DURATION_MAX_MS: u64 = 900_000;

/// The settings that the delays between deliveries follow from.
const BACKOFF_SETTINGS: [&str; 2] = ["outage_budget_s", "max_receive_count"];

/// Settings as given. [`Options::default`] holds the defaults; [`Options::validate`] makes them a [`Config`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What precedes `#` in every key: two functions that share a table need different ones.
    pub namespace: String,
    /// Most items that are processed at once, over all invocations of the process. 1 to 10,000; default 64.
    pub concurrency: u64,
    /// The least that the limit on items at once is lowered to when the dependency fails or slows down; it rises again up
    /// to `concurrency`. 1 to `concurrency`; by default the limit is fixed.
    pub concurrency_min: Option<u64>,
    /// Most items that start in a second, over all invocations of the process. 0 to 1,000,000; default 0, no limit.
    pub starts_per_s: u64,
    /// The share of failed items, in percent of the last `breaker_window`, at which nothing starts any more: the dependency
    /// is down. Transient errors and time-outs count. 0 to 100; default 0, never.
    pub breaker_failure_percent: u64,
    /// How many results the breaker looks at. 5 to 1,000; default 20.
    pub breaker_window: u64,
    /// How long nothing starts, before one item is let through to see. 100 to 900,000 ms; default 30,000.
    pub breaker_open_ms: u64,
    /// How long a dependency may be down without a healthy message reaching the dead-letter queue: the delays between
    /// deliveries are chosen so that their sum spans it. Only where the host delays messages. 1 to 345,600 s (4 days, a
    /// queue's retention); default 3,600. A breaker's open time and an item's time-out are added to it.
    pub outage_budget_s: u64,
    /// The `maxReceiveCount` of the queue's redrive policy: deliveries after which it moves a message. 2 to 1,000; default 10.
    pub max_receive_count: u64,
    /// What a rejected message does to the rest of its group, on a FIFO queue. Default: it blocks it.
    pub fifo_failure: FifoFailure,
    /// What an invocation answers of which nothing is done. Default: on a standard queue it errs.
    pub total_failure: TotalFailure,
    /// Tasks that items are spread over, for several vCPUs. 1 polls them within the invocation itself. 1 to 64; by
    /// default the host says, and 1 where it does not.
    pub shards: Option<u64>,
    /// Longest time for one item. 1 to 900,000 ms; default 10,000.
    pub item_timeout_ms: u64,
    /// How long before the deadline the response has left: it has to be written and sent, so
    /// 0 is for hosts that do not kill. 0 to 900,000 ms; default 500.
    pub deadline_margin_ms: u64,
    /// Time before the response in which nothing runs and claims are completed, released or deferred. 1 to 900,000 ms;
    /// default 500.
    pub settle_ms: u64,
    /// The time after which a request that a processor sent can no longer take effect: the time-out of its own clients.
    /// 0 to 900,000 ms; default 5,000.
    pub effect_timeout_ms: u64,
    /// How far clocks may disagree. 0 to 60,000 ms; default 1,000.
    pub clock_skew_ms: u64,
    /// How long after the deadline a killed invocation may still run. 0 to 60,000 ms; default 1,000.
    pub kill_grace_ms: u64,
    /// The invocation's time when the host announces no deadline. 1 to 900,000 ms; default 30,000.
    pub timeout_ms: u64,
    /// How long a record is kept. At least the source queue's retention twice and the dead-letter queue's once, since
    /// parking and redrive restart the clock. 60 to 31,536,000 s; default 1,900,800 (22 days: 4 + 14 + 4).
    pub retention_s: u64,
    /// What a message's body wraps its payload in. Default: nothing.
    pub envelope: Envelope,
    /// Largest body that is decoded, in bytes. 1 to 1,048,576, the queue's own limit and the default.
    pub body_bytes_max: u64,
    /// Largest result that is stored, in bytes of JSON. A write unit pays for 1 KB. 0 to 262,144; default 1,024.
    pub result_bytes_max: u64,
    /// What becomes of work whose holder vanished. Default: it is run again.
    pub on_lapsed_lease: OnLapsedLease,
    /// Whether keys are claimed at all. Off, every delivery runs. Default: on.
    pub idempotency: bool,
    /// How many completed keys a process remembers, so that a redelivery it has just completed costs no request. Keys in
    /// progress are never remembered. 0 to 1,000,000; default 0, off.
    pub completed_cache_entries: u64,
    /// How long it remembers them: so long may an operator's correction of a record stay unseen. 1 to 60,000 ms, the
    /// default.
    pub completed_cache_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespace: String::new(),
            concurrency: 64,
            concurrency_min: None,
            starts_per_s: 0,
            breaker_failure_percent: 0,
            breaker_window: 20,
            breaker_open_ms: 30_000,
            outage_budget_s: 3_600,
            max_receive_count: 10,
            fifo_failure: FifoFailure::Block,
            total_failure: TotalFailure::Auto,
            shards: None,
            item_timeout_ms: 10_000,
            deadline_margin_ms: 500,
            settle_ms: 500,
            effect_timeout_ms: 5_000,
            clock_skew_ms: 1_000,
            kill_grace_ms: 1_000,
            timeout_ms: 30_000,
            retention_s: 22 * 86_400,
            envelope: Envelope::None,
            body_bytes_max: SQS_BODY_BYTES_MAX,
            result_bytes_max: 1_024,
            on_lapsed_lease: OnLapsedLease::Retry,
            idempotency: true,
            completed_cache_entries: 0,
            completed_cache_ms: 60_000,
        }
    }
}

/// Settings that were checked. Made by [`Options::validate`] only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) namespace: String,
    pub(crate) governor: GovernorSettings,
    pub(crate) backoff: Backoff,
    pub(crate) fifo_failure: FifoFailure,
    pub(crate) total_failure: TotalFailure,
    pub(crate) envelope: Envelope,
    pub(crate) shards: NonZeroUsize,
    pub(crate) item_timeout_ms: u64,
    pub(crate) deadline_margin_ms: u64,
    pub(crate) settle_ms: u64,
    pub(crate) effect_timeout_ms: u64,
    pub(crate) clock_skew_ms: u64,
    pub(crate) kill_grace_ms: u64,
    pub(crate) timeout_ms: u64,
    pub(crate) retention_s: u64,
    pub(crate) body_bytes_max: usize,
    pub(crate) result_bytes_max: usize,
    pub(crate) on_lapsed_lease: OnLapsedLease,
    pub(crate) idempotency: bool,
    pub(crate) completed_cache_entries: usize,
    pub(crate) completed_cache_ms: u64,
}

/// One thing that is wrong with the settings: which, what was expected, what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting's name, as a field of [`Options`] or a method of the builder.
    pub setting: &'static str,
    /// What was expected and what was found.
    pub what: String,
}

/// Everything that is wrong with the settings, at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The problems, at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wrong", if self.problems.len() == 1 { "a setting is" } else { "settings are" })?;
        for (index, problem) in self.problems.iter().enumerate() {
            write!(f, "{} {}: {}", if index == 0 { ":" } else { ";" }, problem.setting, problem.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Options {
    /// Checks every setting.
    ///
    /// # Errors
    /// All problems at once.
    pub fn validate(&self) -> Result<Config, ConfigError> {
        let mut problems = Vec::new();
        let mut range = |setting, value: u64, min: u64, max: u64| {
            if !(min..=max).contains(&value) {
                problems.push(Problem { setting, what: format!("expected {min} to {max}, found {value}") });
            }
        };
        range("concurrency", self.concurrency, 1, 10_000);
        range("concurrency_min", self.concurrency_min.unwrap_or(1), 1, 10_000);
        range("starts_per_s", self.starts_per_s, 0, 1_000_000);
        range("breaker_failure_percent", self.breaker_failure_percent, 0, 100);
        range("breaker_window", self.breaker_window, 5, 1_000);
        range("breaker_open_ms", self.breaker_open_ms, 100, DURATION_MAX_MS);
        range("outage_budget_s", self.outage_budget_s, 1, 345_600);
        range("max_receive_count", self.max_receive_count, 2, 1_000);
        range("shards", self.shards.unwrap_or(1), 1, 64);
        range("item_timeout_ms", self.item_timeout_ms, 1, DURATION_MAX_MS);
        range("deadline_margin_ms", self.deadline_margin_ms, 0, DURATION_MAX_MS);
        range("settle_ms", self.settle_ms, 1, DURATION_MAX_MS);
        range("effect_timeout_ms", self.effect_timeout_ms, 0, DURATION_MAX_MS);
        range("clock_skew_ms", self.clock_skew_ms, 0, 60_000);
        range("kill_grace_ms", self.kill_grace_ms, 0, 60_000);
        range("timeout_ms", self.timeout_ms, 1, DURATION_MAX_MS);
        range("retention_s", self.retention_s, 60, 31_536_000);
        range("body_bytes_max", self.body_bytes_max, 1, SQS_BODY_BYTES_MAX);
        range("result_bytes_max", self.result_bytes_max, 0, 262_144);
        range("completed_cache_entries", self.completed_cache_entries, 0, 1_000_000);
        range("completed_cache_ms", self.completed_cache_ms, 1, 60_000);
        problems.extend(self.concurrency_problem());
        problems.extend(self.namespace_problem());
        let max_receive_count = u32::try_from(self.max_receive_count).unwrap_or(u32::MAX);
        match Backoff::spanning(self.outage_with_breaker_s(), max_receive_count) {
            Ok(backoff) if problems.is_empty() => return Ok(self.checked(backoff)),
            // A value out of its range is said so above, and no more of it.
            Err(error) if !problems.iter().any(|problem| BACKOFF_SETTINGS.contains(&problem.setting)) => {
                let breaker_s = self.outage_with_breaker_s() - self.outage_budget_s;
                let with_breaker = match breaker_s {
                    0 => String::new(),
                    _ => format!("; {breaker_s} s of it are the breaker's open time and an item's time-out"),
                };
                problems.push(Problem { setting: "outage_budget_s", what: format!("{error}{with_breaker}") });
            }
            _ => {}
        }
        Err(ConfigError { problems })
    }

    /// How long nothing may succeed in an outage of the budget's length: a breaker stays open beyond it, after a probe that
    /// began just before its end.
    fn outage_with_breaker_s(&self) -> u64 {
        let breaker_ms = match self.breaker_failure_percent {
            0 => 0,
            _ => self.breaker_open_ms.saturating_add(self.item_timeout_ms),
        };
        self.outage_budget_s.saturating_add(breaker_ms.div_ceil(1_000))
    }

    fn concurrency_problem(&self) -> Option<Problem> {
        let (min, max) = (self.concurrency_min?, self.concurrency);
        (min > max).then(|| Problem {
            setting: "concurrency_min",
            what: format!("expected at most concurrency, {max}; found {min}"),
        })
    }

    fn namespace_problem(&self) -> Option<Problem> {
        let what = if self.namespace.contains('#') {
            "expected no '#', which separates it from the digest"
        } else if self.namespace.len() > 255 {
            "expected at most 255 bytes"
        } else {
            return None;
        };
        Some(Problem { setting: "namespace", what: what.to_owned() })
    }

    fn checked(&self, backoff: Backoff) -> Config {
        let count = |value: u64| usize::try_from(value).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);
        Config {
            namespace: self.namespace.clone(),
            governor: GovernorSettings {
                concurrency_min: self.concurrency_min.map(count),
                concurrency: count(self.concurrency),
                breaker: FailurePercent::new(self.breaker_failure_percent).map(|failure_percent| BreakerSettings {
                    failure_percent,
                    window: count(self.breaker_window),
                    open_ms: self.breaker_open_ms,
                }),
                starts_per_s: NonZeroU64::new(self.starts_per_s),
            },
            backoff,
            fifo_failure: self.fifo_failure,
            total_failure: self.total_failure,
            envelope: self.envelope,
            shards: count(self.shards.unwrap_or(1)),
            item_timeout_ms: self.item_timeout_ms,
            deadline_margin_ms: self.deadline_margin_ms,
            settle_ms: self.settle_ms,
            effect_timeout_ms: self.effect_timeout_ms,
            clock_skew_ms: self.clock_skew_ms,
            kill_grace_ms: self.kill_grace_ms,
            timeout_ms: self.timeout_ms,
            retention_s: self.retention_s,
            body_bytes_max: count(self.body_bytes_max).get(),
            result_bytes_max: usize::try_from(self.result_bytes_max).unwrap_or(usize::MAX),
            on_lapsed_lease: self.on_lapsed_lease,
            idempotency: self.idempotency,
            completed_cache_entries: usize::try_from(self.completed_cache_entries).unwrap_or(usize::MAX),
            completed_cache_ms: self.completed_cache_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p12_a_breakers_open_time_counts_towards_the_outage() {
        let options = Options { outage_budget_s: 28_000, max_receive_count: 2, ..Options::default() };
        assert!(options.validate().is_ok());
        let with_breaker = Options { breaker_failure_percent: 50, ..options };
        let error = with_breaker.validate().expect_err("40 s too much").to_string();
        assert!(error.contains("40 s of it are the breaker's open time and an item's time-out"), "{error}");
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let options = Options { concurrency: 0, item_timeout_ms: 0, namespace: "a#b".into(), ..Options::default() };
        let error = options.validate().expect_err("three are wrong");
        let settings: Vec<_> = error.problems.iter().map(|problem| problem.setting).collect();
        assert_eq!(settings, ["concurrency", "item_timeout_ms", "namespace"]);
        assert_eq!(
            error.to_string(),
            "settings are wrong: concurrency: expected 1 to 10000, found 0; \
             item_timeout_ms: expected 1 to 900000, found 0; \
             namespace: expected no '#', which separates it from the digest"
        );
    }
}
