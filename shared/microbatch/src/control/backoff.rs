//! When the queue should deliver a failed message again.

use std::fmt;

use crate::clock::Random;

/// Longest delay, in seconds: SQS hides a message for at most 12 hours from its receipt, of which an invocation may
/// have used 15 minutes, and some are left for clocks that differ.
pub const DELAY_MAX_S: u64 = 42_000;
/// The longest certain part of a delay, to which up to half of it is added.
const FLOOR_MAX_S: u64 = DELAY_MAX_S / 3 * 2;

/// How long a message that failed stays hidden, by how often it was received.
///
/// Every delivery burns a receive, and when they are used up the message goes to the dead-letter queue. So the delays
/// are not chosen by taste but from the outage that has to be sat out: the certain parts after receives 1 to
/// `max_receive_count - 1` add up to at least `outage_budget_s`. Receives that the queue spends by itself, as for a
/// batch that timed out, are not in that sum.
///
/// The certain part doubles with every receive, up to a ceiling. Its first is as short as the budget allows, as most
/// failures are short; given that, the ceiling is as low as the budget allows, for it is how long a message may still
/// wait when the outage is over. To it comes a random part of up to half of it, so that messages that failed together
/// do not come back together (Amazon Builders' Library, "Timeouts, retries, and backoff with jitter"). Not all of the
/// delay is random, as there: what is random spans no budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first_s: u64,
    ceiling_s: u64,
}

/// The outage budget does not fit into the receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffError {
    /// The budget that was asked for, in seconds.
    pub outage_budget_s: u64,
    /// The receives that there are.
    pub max_receive_count: u32,
}

impl Backoff {
    /// The delays that span `outage_budget_s` seconds within `max_receive_count` receives.
    ///
    /// # Errors
    /// They would have to be longer than [`DELAY_MAX_S`], or there is no second receive.
    pub fn spanning(outage_budget_s: u64, max_receive_count: u32) -> Result<Self, BackoffError> {
        let delays = max_receive_count.saturating_sub(1);
        let spans = |first_s, ceiling_s| Self { first_s, ceiling_s }.span_s(delays) >= outage_budget_s;
        let first_s =
            least(|first_s| spans(first_s, FLOOR_MAX_S)).ok_or(BackoffError { outage_budget_s, max_receive_count })?;
        let ceiling_s = least(|ceiling_s| spans(first_s, ceiling_s)).unwrap_or(FLOOR_MAX_S);
        Ok(Self { first_s, ceiling_s })
    }

    /// The certain part of the delay after a message's `receive_count`-th receive, in seconds. The first is 1; 0,
    /// which no queue sends, counts as it.
    pub fn floor_s(&self, receive_count: u32) -> u64 {
        let doubled = 1_u64.checked_shl(receive_count.saturating_sub(1)).unwrap_or(u64::MAX);
        self.first_s.saturating_mul(doubled).min(self.ceiling_s)
    }

    /// The delay after a message's `receive_count`-th receive, in seconds: at least [`Backoff::floor_s`], at most
    /// half as much again.
    pub fn delay_s(&self, receive_count: u32, random: &dyn Random) -> u64 {
        let floor_s = self.floor_s(receive_count);
        floor_s + random.below(floor_s / 2 + 1)
    }

    /// The sum of the certain parts of the first `delays` delays.
    fn span_s(self, delays: u32) -> u64 {
        let mut left = u64::from(delays);
        let mut sum_s = 0;
        let mut floor_s = self.first_s;
        while left > 0 && floor_s < self.ceiling_s {
            sum_s += floor_s;
            floor_s *= 2;
            left -= 1;
        }
        sum_s + left * self.ceiling_s
    }
}

/// The least number from 1 to [`FLOOR_MAX_S`] that is enough, where all above it are, too.
fn least(is_enough: impl Fn(u64) -> bool) -> Option<u64> {
    let (mut low, mut high) = (1, FLOOR_MAX_S);
    while low < high {
        let middle = low.midpoint(high);
        if is_enough(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    is_enough(low).then_some(low)
}

impl BackoffError {
    /// The longest outage that these receives span, in seconds.
    pub fn outage_budget_max_s(&self) -> u64 {
        u64::from(self.max_receive_count.saturating_sub(1)) * FLOOR_MAX_S
    }

    /// The fewest receives that span this outage.
    pub fn max_receive_count_min(&self) -> u64 {
        self.outage_budget_s.div_ceil(FLOOR_MAX_S) + 1
    }
}

impl fmt::Display for BackoffError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an outage_budget_s of {} s does not fit into a max_receive_count of {}, with delays of {FLOOR_MAX_S} s at \
             most and as much again at random as half of that: expected an outage_budget_s of at most {}, or a \
             max_receive_count of at least {}",
            self.outage_budget_s,
            self.max_receive_count,
            self.outage_budget_max_s(),
            self.max_receive_count_min()
        )
    }
}

impl std::error::Error for BackoffError {}
