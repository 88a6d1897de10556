//! The configurations that are checked: small enough to be explored whole, large enough that the interesting states are in.
//!
//! A step of the clock is a second. An effect lands within one step, clocks differ by at most one, the host kills at the
//! deadline, one and a half steps after the delivery: a claim of step 0 holds until step 3 and a half.

use microbatch::{Options, transition::OnLapsedLease};

use crate::{
    model::{Host, Message, Setup},
    properties::Seen,
};

/// Two messages of one key with different content.
const ONE_KEY: &[Message] = &[Message { key: 0, fingerprint: 'a' }, Message { key: 0, fingerprint: 'b' }];
/// Two messages of two keys.
const TWO_KEYS: &[Message] = &[Message { key: 0, fingerprint: 'a' }, Message { key: 1, fingerprint: 'b' }];

/// What is seen wherever two workers meet on a key.
const USUAL: &[Seen] = &[
    Seen::Busy,
    Seen::Duplicate,
    Seen::OwnWriteMet,
    Seen::LapsedTaken,
    Seen::ReleasedTaken,
    Seen::LeaseDeferred,
    Seen::DiedAfterEffect,
    Seen::CompletedAfterDeath,
    Seen::CompletedTwice,
    Seen::LateClaimTook,
    Seen::Conflict,
];

fn truth() -> Options {
    Options {
        deadline_margin_ms: 0,
        settle_ms: 1,
        effect_timeout_ms: 1_000,
        clock_skew_ms: 1_000,
        kill_grace_ms: 0,
        ..Options::default()
    }
}

/// Three workers, one key, one of them with a clock ahead.
pub(crate) fn three_workers() -> Setup {
    Setup {
        workers: 3,
        deliveries: 3,
        messages: ONE_KEY,
        skews: &[&[0, 1, 0]],
        steps: 7,
        invocation_ms: 1_500,
        late_max: 2,
        leaps: false,
        host: Host::Kills,
        within_skew: true,
        truth: truth(),
        reached: USUAL,
    }
}

/// Two workers, one key, every pair of clocks within the skew, any number of late requests.
pub(crate) fn two_workers() -> Setup {
    Setup {
        workers: 2,
        deliveries: 2,
        skews: &[&[0, 0], &[0, 1], &[1, 0], &[1, 1], &[0, -1], &[-1, 0], &[-1, -1]],
        steps: 8,
        late_max: usize::MAX,
        ..three_workers()
    }
}

/// Two workers, two keys, each worker delivered to again and again.
pub(crate) fn two_keys() -> Setup {
    Setup {
        workers: 2,
        deliveries: 3,
        messages: TWO_KEYS,
        skews: &[&[0, 1]],
        steps: 5,
        late_max: 1,
        reached: &USUAL[..10],
        ..three_workers()
    }
}

/// The kill comes a step late.
pub(crate) fn late_kill() -> Setup {
    Setup { truth: Options { kill_grace_ms: 1_000, ..truth() }, skews: &[&[0, 0], &[0, 1]], ..two_workers() }
}

/// Clocks differ by two steps where one is stated.
pub(crate) fn beyond_the_skew() -> Setup {
    Setup { skews: &[&[-1, 1, 0]], within_skew: false, ..three_workers() }
}

/// Nobody kills: an effect starts by rule 5's condition alone, with a margin of its time-out and the skew.
pub(crate) fn no_kill() -> Setup {
    Setup {
        skews: &[&[0, 0], &[0, 1]],
        steps: 9,
        invocation_ms: 3_500,
        host: Host::LetsRun,
        truth: Options { deadline_margin_ms: 2_000, ..truth() },
        reached: &[Seen::EffectAfterLostLease, Seen::LeaseLost, Seen::StaleOwnerRefused, Seen::LapsedTaken],
        ..two_workers()
    }
}

/// The clock leaps past the retention of a minute.
pub(crate) fn retention_ends() -> Setup {
    Setup {
        skews: &[&[0, 1]],
        steps: 2,
        leaps: true,
        truth: Options { retention_s: 60, ..truth() },
        reached: &[Seen::ExpiredTaken, Seen::Duplicate, Seen::Conflict],
        ..two_workers()
    }
}

/// Work whose holder vanished is not run again.
pub(crate) fn parking() -> Setup {
    Setup {
        skews: &[&[0, 1]],
        truth: Options { on_lapsed_lease: OnLapsedLease::Park, ..truth() },
        reached: &[Seen::Vanished, Seen::ReleasedTaken, Seen::LeaseDeferred],
        ..two_workers()
    }
}
