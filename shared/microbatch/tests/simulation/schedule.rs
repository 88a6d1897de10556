//! What is simulated: settings, messages, and what goes wrong. All of it is generated, and shrinks to the plain case.

use std::time::Duration;

use microbatch::{FifoFailure, Options, TotalFailure, store::StoreErrorKind, transition::OnLapsedLease};
use microbatch_testkit::{
    fault::Fault,
    queue::{CallFault, CallPlan, EntryFault},
};
use proptest::{collection::vec, prelude::*};

/// The time-out of the requests that processors send.
pub(crate) const EFFECT_TIMEOUT_MS: u64 = 3_000;
/// How long a killed invocation may run on.
pub(crate) const KILL_GRACE_MS: u64 = 200;
/// How far clocks may disagree. Here there is only one.
pub(crate) const CLOCK_SKEW_MS: u64 = 100;
/// How long before its deadline an invocation has answered.
pub(crate) const DEADLINE_MARGIN_MS: u64 = 300;
/// The time-out of an item.
pub(crate) const ITEM_TIMEOUT_MS: u64 = 2_000;

/// The settings of the queue and of the pipeline behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) fifo: bool,
    pub(crate) fifo_failure: FifoFailure,
    pub(crate) total_failure: TotalFailure,
    pub(crate) on_lapsed_lease: OnLapsedLease,
    /// Whether two messages of one key must be equal. In a schedule no two are.
    pub(crate) fingerprint: bool,
    /// Messages in an invocation, at most.
    pub(crate) batch_max: usize,
    /// Invocations that run at once in the process, at most.
    pub(crate) at_once: usize,
    /// The function's time-out.
    pub(crate) timeout_ms: u64,
    pub(crate) visibility_timeout_ms: u64,
    pub(crate) max_receive_count: u32,
    pub(crate) outage_budget_s: u64,
    pub(crate) can: Can,
    /// Requests in a call of the store.
    pub(crate) chunk_size: usize,
    pub(crate) limits: Limits,
}

/// What the pipeline can have the queue do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Can {
    pub(crate) park: bool,
    pub(crate) delay: bool,
}

/// What bounds the starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) concurrency: u64,
    pub(crate) concurrency_min: Option<u64>,
    pub(crate) shards: u64,
    /// None: items are processed one by one. Else in sub-batches of this size at most, that wait this long to fill.
    pub(crate) sub_batches: Option<(usize, u64)>,
    pub(crate) breaker: Option<Breaker>,
}

/// The breaker's settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Breaker {
    pub(crate) failure_percent: u64,
    pub(crate) window: u64,
    pub(crate) open_ms: u64,
}

/// A message of the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mail {
    /// How long after the one before it was sent.
    pub(crate) after_ms: u64,
    /// On a FIFO queue.
    pub(crate) group: usize,
    /// Two messages with one key are the same work.
    pub(crate) key: usize,
    pub(crate) body: Body,
    /// What the processor does with it, the first time and so on.
    pub(crate) acts: Vec<Act>,
}

/// What a message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// After its acts it succeeds.
    Good,
    /// After its acts its processor answers that trying again cannot help.
    Hopeless,
    /// It never decodes.
    Undecodable,
}

/// What a processor does with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Waits, has its effect and succeeds.
    Succeed { after_ms: u64 },
    /// Waits, and fails in a way that may pass.
    Fail { after_ms: u64 },
    /// Fails, with a hint when to try again.
    FailWithHint { retry_after_s: u64 },
    /// Waits, and fails in a way that cannot pass.
    Reject { after_ms: u64 },
    /// Sends a request that has its effect later, and fails without an answer to it.
    FailUnknown { effect_after_ms: u64 },
    /// May send such a request, and panics.
    Panic { effect_after_ms: Option<u64> },
    /// May send such a request, and never returns.
    Hang { effect_after_ms: Option<u64> },
}

/// How an invocation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Its answer reaches the queue.
    Answered,
    /// Its answer is lost.
    AnswerLost,
    /// It is killed, this long after it began.
    KilledAfter { ms: u64 },
    /// It is killed when it has waited this often.
    KilledAtWait { nth: usize },
}

/// What goes wrong outside the processor.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// How the first invocations end; later ones are answered, and nothing else fails any more.
    pub(crate) ends: Vec<End>,
    /// What becomes of requests to the store, over and over.
    pub(crate) store: Vec<Fault>,
    /// What becomes of calls to the queue, over and over.
    pub(crate) queue: Vec<CallPlan>,
}

impl Setup {
    pub(crate) fn apply(&self, options: &mut Options) {
        options.namespace = "test".into();
        options.timeout_ms = self.timeout_ms;
        options.item_timeout_ms = ITEM_TIMEOUT_MS;
        options.deadline_margin_ms = DEADLINE_MARGIN_MS;
        options.settle_ms = 400;
        options.effect_timeout_ms = EFFECT_TIMEOUT_MS;
        options.clock_skew_ms = CLOCK_SKEW_MS;
        options.kill_grace_ms = KILL_GRACE_MS;
        options.fifo_failure = self.fifo_failure;
        options.total_failure = self.total_failure;
        options.on_lapsed_lease = self.on_lapsed_lease;
        options.max_receive_count = u64::from(self.max_receive_count);
        options.outage_budget_s = self.outage_budget_s;
        options.concurrency = self.limits.concurrency;
        options.concurrency_min = self.limits.concurrency_min;
        options.shards = Some(self.limits.shards);
        if let Some(breaker) = self.limits.breaker {
            options.breaker_failure_percent = breaker.failure_percent;
            options.breaker_window = breaker.window;
            options.breaker_open_ms = breaker.open_ms;
        }
    }
}

// --- strategies ---------------------------------------------------------------------------------------------------

pub(crate) fn setup() -> impl Strategy<Value = Setup> {
    let total_failure = prop_oneof![Just(TotalFailure::Auto), Just(TotalFailure::Error), Just(TotalFailure::Report)];
    let fifo_failure = prop_oneof![Just(FifoFailure::Block), Just(FifoFailure::ParkAndContinue)];
    let on_lapsed_lease = prop_oneof![7 => Just(OnLapsedLease::Retry), 1 => Just(OnLapsedLease::Park)];
    let policies = (any::<bool>(), fifo_failure, total_failure, on_lapsed_lease, prop::bool::weighted(0.1));
    // Lambda takes no visibility timeout less than the function's time-out, and asks for six times that.
    let visibility = prop_oneof![Just(8_000), Just(16_000), Just(48_000)];
    let sizes = (1_usize..=12, 1_usize..=3, visibility, 2_u32..=8, 1_usize..=3);
    let can = (any::<bool>(), any::<bool>()).prop_map(|(park, delay)| Can { park, delay });
    (policies, sizes, can, limits()).prop_map(|(policies, sizes, can, limits)| {
        let (fifo, fifo_failure, total_failure, on_lapsed_lease, fingerprint) = policies;
        let (batch_max, at_once, visibility_timeout_ms, max_receive_count, chunk_size) = sizes;
        Setup {
            fifo,
            fifo_failure,
            total_failure,
            on_lapsed_lease,
            fingerprint,
            batch_max,
            at_once,
            timeout_ms: 8_000,
            visibility_timeout_ms,
            max_receive_count,
            outage_budget_s: 60,
            can,
            chunk_size,
            limits,
        }
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    let shards = prop_oneof![4 => Just(1), 1 => Just(2)];
    let sub_batches = prop::option::weighted(0.25, (1_usize..4, 0_u64..50));
    let least = prop::option::weighted(0.25, Just(1));
    (1_u64..6, least, shards, sub_batches, prop::option::weighted(0.25, breaker(5_u64..9, 100_u64..20_000))).prop_map(
        |(concurrency, concurrency_min, shards, sub_batches, breaker)| Limits {
            concurrency,
            concurrency_min,
            shards,
            // A sub-batch that is larger than what may be processed at once would never fill.
            sub_batches: sub_batches.filter(|(count, _)| *count as u64 <= concurrency),
            breaker,
        },
    )
}

pub(crate) fn breaker(
    window: impl Strategy<Value = u64>,
    open_ms: impl Strategy<Value = u64>,
) -> impl Strategy<Value = Breaker> {
    let of = |(failure_percent, window, open_ms)| Breaker { failure_percent, window, open_ms };
    (1_u64..=100, window, open_ms).prop_map(of)
}

/// Up to `count_max` messages in up to three groups. One in eight may be the same work as another.
pub(crate) fn mails(count_max: usize, body: impl Strategy<Value = Body>) -> impl Strategy<Value = Vec<Mail>> {
    let after_ms = prop_oneof![6 => Just(0), 1 => 1_u64..60_000];
    let shared_key = prop::option::weighted(0.125, 0..count_max);
    vec((after_ms, 0_usize..3, shared_key, body, vec(act(), 0..3)), 1..=count_max).prop_map(|mails| {
        let mails = mails.into_iter().enumerate();
        let of = |(number, (after_ms, group, shared_key, body, acts)): (usize, (_, _, Option<usize>, _, _))| Mail {
            after_ms,
            group,
            key: shared_key.unwrap_or(number),
            body,
            acts,
        };
        mails.map(of).collect()
    })
}

fn act() -> impl Strategy<Value = Act> {
    let after_ms = || prop_oneof![3 => Just(0), 2 => 1_u64..300, 1 => 1_500_u64..2_500];
    // Within the time-out of requests, as promised to the pipeline.
    let in_flight = || prop::option::of(0..EFFECT_TIMEOUT_MS);
    prop_oneof![
        4 => after_ms().prop_map(|after_ms| Act::Succeed { after_ms }),
        2 => after_ms().prop_map(|after_ms| Act::Fail { after_ms }),
        1 => (0_u64..100).prop_map(|retry_after_s| Act::FailWithHint { retry_after_s }),
        1 => after_ms().prop_map(|after_ms| Act::Reject { after_ms }),
        1 => (0..EFFECT_TIMEOUT_MS).prop_map(|effect_after_ms| Act::FailUnknown { effect_after_ms }),
        1 => in_flight().prop_map(|effect_after_ms| Act::Panic { effect_after_ms }),
        1 => in_flight().prop_map(|effect_after_ms| Act::Hang { effect_after_ms }),
    ]
}

/// Faults in the first `ends_max - 1` invocations at most.
pub(crate) fn faults(ends_max: usize) -> impl Strategy<Value = Faults> {
    (vec(end(), 0..ends_max), vec(store_fault(), 0..12), vec(queue_fault(), 0..8))
        .prop_map(|(ends, store, queue)| Faults { ends, store, queue })
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        4 => Just(End::Answered),
        1 => Just(End::AnswerLost),
        1 => (0_u64..8_000).prop_map(|ms| End::KilledAfter { ms }),
        1 => (0_u64..400).prop_map(|ms| End::KilledAfter { ms }),
        1 => (0_usize..30).prop_map(|nth| End::KilledAtWait { nth }),
    ]
}

fn store_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        10 => Just(Fault::None),
        2 => (0_u64..1_000).prop_map(|ms| Fault::Delay(Duration::from_millis(ms))),
        2 => Just(Fault::Before(StoreErrorKind::Throttled)),
        1 => Just(Fault::Before(StoreErrorKind::Refused)),
        2 => Just(Fault::After(StoreErrorKind::Unavailable)),
        1 => Just(Fault::HangBefore),
        1 => Just(Fault::HangAfter),
    ]
}

fn queue_fault() -> impl Strategy<Value = CallPlan> {
    let call = prop_oneof![
        6 => Just(CallFault::None),
        1 => (0_u64..3_000).prop_map(|ms| CallFault::Slow(Duration::from_millis(ms))),
        1 => Just(CallFault::Throttled),
        1 => Just(CallFault::Refused),
        1 => Just(CallFault::AnswerLost),
        1 => Just(CallFault::HangBefore),
        1 => Just(CallFault::HangAfter),
    ];
    let entry = prop_oneof![
        3 => Just(EntryFault::None),
        1 => Just(EntryFault::Throttled),
        1 => Just(EntryFault::Refused),
        1 => Just(EntryFault::AnswerLost),
    ];
    (call, vec(entry, 0..4)).prop_map(|(call, entries)| CallPlan { call, entries })
}
