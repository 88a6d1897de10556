//! Deadlines and leases: pure arithmetic over wall-clock milliseconds.

use crate::config::Config;

/// The instants that bound one invocation, in epoch milliseconds.
///
/// ```text
/// now ........ cut_off ........ respond_by ..... deadline ............................. lease_end
///     items run        settle              margin         kill grace + effect + skew
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Nothing starts after this, and what still runs is cancelled.
    pub cut_off_ms: u64,
    /// Claims whose answer has not come by now are released without waiting for it.
    pub last_release_ms: u64,
    /// What is still out is given up, so that the response can be written.
    pub over_ms: u64,
    /// The response leaves no later than this.
    pub respond_by_ms: u64,
    /// The host kills the invocation here.
    pub deadline_ms: u64,
    /// Until when a claim made in this invocation excludes others (rule 5).
    pub lease_end_ms: u64,
}

impl Schedule {
    /// The schedule of an invocation that the host kills at `deadline_ms`.
    ///
    /// Settling takes at most a quarter of the time there is: a function with a time-out of a second still works.
    pub fn new(now_ms: u64, deadline_ms: u64, config: &Config) -> Self {
        let respond_by_ms = deadline_ms.saturating_sub(config.deadline_margin_ms);
        let settle_ms = config.settle_ms.min(respond_by_ms.saturating_sub(now_ms) / 4);
        let after_kill_ms = config.kill_grace_ms + config.effect_timeout_ms + config.clock_skew_ms;
        Self {
            cut_off_ms: respond_by_ms.saturating_sub(settle_ms),
            last_release_ms: respond_by_ms.saturating_sub(settle_ms / 2),
            over_ms: respond_by_ms.saturating_sub(settle_ms / 10),
            respond_by_ms,
            deadline_ms,
            lease_end_ms: deadline_ms.saturating_add(after_kill_ms),
        }
    }
}

/// The farthest deadline that is believed: four times the longest time that Lambda gives.
const DEADLINE_MAX_MS: u64 = 3_600_000;

/// The deadline to work by, in epoch milliseconds.
///
/// A deadline before the process started is not one that passed but one that was never known: `cargo lambda watch`
/// sends the constant 600,000. It counts as unknown, as one hours away does, and becomes
/// `now + timeout_ms`. One that passed since then
/// stands: 0 ms left is 0, not "no deadline" (Powertools' python#4759).
pub fn resolve_deadline_ms(announced_ms: Option<u64>, process_started_ms: u64, now_ms: u64, timeout_ms: u64) -> u64 {
    match announced_ms {
        Some(deadline_ms) if deadline_ms >= process_started_ms && deadline_ms <= now_ms + DEADLINE_MAX_MS => {
            deadline_ms
        }
        _ => now_ms.saturating_add(timeout_ms),
    }
}

/// The lease end of a claim whose processor may have a request in flight (rule 3): it lasts until that request can no
/// longer take effect, never longer than the lease already granted.
pub fn deferred_lease_end_ms(current_ms: u64, now_ms: u64, config: &Config) -> u64 {
    current_ms.min(now_ms.saturating_add(config.effect_timeout_ms).saturating_add(config.clock_skew_ms))
}

/// The retention end of a record written now, in epoch seconds: never before its lease ends, or a live claim would
/// count as absent.
pub fn retention_end_s(now_ms: u64, lease_end_ms: u64, config: &Config) -> u64 {
    (now_ms / 1_000 + config.retention_s).max(lease_end_ms / 1_000 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    fn config() -> Config {
        Options::default().validate().expect("defaults are valid")
    }

    #[test]
    fn a_deadline_before_the_process_started_is_unknown() {
        assert_eq!(resolve_deadline_ms(Some(600_000), 1_000_000, 1_500_000, 30_000), 1_530_000);
        assert_eq!(resolve_deadline_ms(Some(u64::MAX), 1_000_000, 1_500_000, 30_000), 1_530_000);
        assert_eq!(resolve_deadline_ms(None, 1_000_000, 1_500_000, 30_000), 1_530_000);
    }

    #[test]
    fn a_deadline_that_passed_leaves_nothing() {
        assert_eq!(resolve_deadline_ms(Some(1_400_000), 1_000_000, 1_500_000, 30_000), 1_400_000);
    }

    #[test]
    fn the_schedule_is_in_order() {
        let schedule = Schedule::new(970_000, 1_000_000, &config());
        assert_eq!(schedule.respond_by_ms - schedule.cut_off_ms, 500);
        assert!(schedule.cut_off_ms < schedule.last_release_ms);
        assert!(schedule.last_release_ms < schedule.over_ms);
        assert!(schedule.over_ms < schedule.respond_by_ms);
        assert!(schedule.respond_by_ms < schedule.deadline_ms);
        assert!(schedule.deadline_ms < schedule.lease_end_ms);
    }

    #[test]
    fn a_short_invocation_still_has_time_to_work() {
        let schedule = Schedule::new(0, 1_000, &config());
        assert_eq!((schedule.cut_off_ms, schedule.respond_by_ms), (375, 500));
    }

    #[test]
    fn a_deferred_lease_never_grows() {
        let config = config();
        let in_flight_ms = config.effect_timeout_ms + config.clock_skew_ms;
        assert_eq!(deferred_lease_end_ms(u64::MAX, 5_000, &config), 5_000 + in_flight_ms);
        assert_eq!(deferred_lease_end_ms(5_001, 5_000, &config), 5_001);
    }

    #[test]
    fn a_record_is_kept_at_least_as_long_as_its_lease() {
        let mut config = config();
        config.retention_s = 1;
        assert_eq!(retention_end_s(10_000, 60_500, &config), 61);
    }
}
