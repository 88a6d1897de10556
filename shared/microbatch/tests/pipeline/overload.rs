//! Overload: the circuit breaker, the rate limit and the adaptive limit on items at once, over the invocations of a process.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use microbatch::{
    Clock, Done, ItemContext, MemoryStore, NoWrites, Options,
    Outcome::{Abandoned, Failed, Processed, Rejected},
    Pipeline, PipelineBuilder, ProcessError, Processor, TotalFailure,
    control::{BreakerState, ControlReport},
    pipeline::RunError,
};
use microbatch_testkit::{
    clock::TokioClock,
    fault::{Fault, FaultStore, Operation},
};
use proptest::{collection::vec, prelude::*};
use serde::Deserialize;

use crate::rig::{CUT_OFF_MS, Delivered, Rig, TIMEOUT_MS, item, rig};

/// What a call to the dependency comes to, by its number and the time.
type Behaviour = dyn Fn(&Call) -> Act + Send + Sync;

/// A call to the dependency.
struct Call {
    nth: usize,
    at_ms: u64,
    at_once: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Succeed(u64),
    Fail(u64),
    Permanent,
    Panic,
    Hang,
}

/// A dependency that remembers when it was called.
#[derive(Default)]
struct Dependency {
    /// When each call came, in order.
    starts_ms: Mutex<Vec<u64>>,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    /// How many had come when the last success was told.
    before_last_success: AtomicUsize,
}

impl Dependency {
    fn calls(&self) -> usize {
        self.starts_ms.lock().expect("lock").len()
    }

    fn starts_ms(&self) -> Vec<u64> {
        self.starts_ms.lock().expect("lock").clone()
    }

    /// The most that were under way at once since the last time.
    fn take_at_once_max(&self) -> usize {
        self.at_once_max.swap(0, Ordering::SeqCst)
    }
}

struct AtOnce<'a>(&'a Dependency);

impl Drop for AtOnce<'_> {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Deserialize)]
struct Order {}

/// Calls the dependency for each item.
struct Calls {
    dependency: Arc<Dependency>,
    clock: TokioClock,
    behaviour: Box<Behaviour>,
}

impl Processor for Calls {
    type Item = Order;
    type Output = ();
    type Write = NoWrites;

    async fn process(&self, _order: Order, _cx: &ItemContext) -> Result<Done<()>, ProcessError> {
        let dependency = &*self.dependency;
        let at_once = dependency.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        let _at_once = AtOnce(dependency);
        dependency.at_once_max.fetch_max(at_once, Ordering::SeqCst);
        let at_ms = self.clock.now_ms();
        let nth = {
            let mut starts_ms = dependency.starts_ms.lock().expect("lock");
            starts_ms.push(at_ms);
            starts_ms.len() - 1
        };
        match (self.behaviour)(&Call { nth, at_ms, at_once }) {
            Act::Succeed(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                dependency.before_last_success.store(dependency.calls(), Ordering::SeqCst);
                Ok(().into())
            }
            Act::Fail(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Err(std::fmt::Error.into())
            }
            Act::Permanent => Err(ProcessError::permanent(std::fmt::Error)),
            Act::Panic => std::panic::resume_unwind(Box::new("on purpose")),
            Act::Hang => std::future::pending().await,
        }
    }
}

fn calls(
    options: impl FnOnce(&mut Options),
    behaviour: impl Fn(&Call) -> Act + Send + Sync + 'static,
) -> (PipelineBuilder<Calls>, Arc<Dependency>) {
    let dependency = Arc::new(Dependency::default());
    let (clock, behaviour) = (TokioClock::default(), Box::new(behaviour));
    let processor = Calls { dependency: Arc::clone(&dependency), clock, behaviour };
    let builder = Pipeline::builder(processor)
        .key("id")
        .options(|options| options.total_failure = TotalFailure::Report)
        .options(options);
    (builder, dependency)
}

fn breaker(options: &mut Options, percent: u64, window: u64, open_ms: u64) {
    (options.breaker_failure_percent, options.breaker_window, options.breaker_open_ms) = (percent, window, open_ms);
}

/// New messages: none is a redelivery.
fn fresh(count: usize) -> Vec<String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    (0..count).map(|_| item(&NEXT.fetch_add(1, Ordering::Relaxed).to_string())).collect()
}

async fn send<S: microbatch::Commit<NoWrites>>(rig: &Rig<Calls, S>, count: usize) -> Delivered {
    rig.put(fresh(count));
    rig.deliver().await
}

fn limit(delivered: &Delivered) -> usize {
    delivered.report.control.expect("reported").limit
}

fn state(delivered: &Delivered) -> BreakerState {
    delivered.report.control.expect("reported").breaker
}

// --- the breaker --------------------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// P14: a dependency dies at a random call. After its last success at most a window of calls and those in flight are
    /// started, in one invocation or in several at once; then one an open period. When it is back, all goes on.
    #[test]
    fn p14_calls_to_a_dead_dependency_stop_within_the_bound(
        dies_at in 0_usize..60,
        percent in 1_u64..=100,
        window in 5_u64..30,
        open_ms in 100_u64..5_000,
        concurrency in 1_u64..12,
        at_once in 1_usize..4,
        times_ms in vec(0_u64..40, 1..10),
        hangs in prop::option::of(2_usize..7),
        count in 1_usize..30,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let dead_until_ms = Arc::new(AtomicU64::new(u64::MAX));
            let until_ms = Arc::clone(&dead_until_ms);
            let options = |options: &mut Options| {
                (options.concurrency, options.item_timeout_ms) = (concurrency, 50);
                breaker(options, percent, window, open_ms);
            };
            let (builder, dependency) = calls(options, move |call| {
                let ms = times_ms[call.nth % times_ms.len()];
                if call.nth < dies_at || call.at_ms >= until_ms.load(Ordering::SeqCst) {
                    Act::Succeed(ms)
                } else if hangs.is_some_and(|every| call.nth % every == 0) {
                    Act::Hang
                } else {
                    Act::Fail(ms)
                }
            });
            let rig = rig(builder).start();
            let started_ms = rig.clock.now_ms();
            let dead_for_ms = 4 * open_ms;
            while rig.clock.now_ms() < started_ms + dead_for_ms {
                let batches: Vec<_> = (0..at_once).map(|_| { rig.put(fresh(count)); rig.poll() }).collect();
                let runs = batches.iter().map(|batch| rig.run(batch, TIMEOUT_MS));
                futures_util::future::join_all(runs).await;
                tokio::time::sleep(Duration::from_millis(open_ms / 3)).await;
            }
            let starts_ms = dependency.starts_ms();
            let after = &starts_ms[dependency.before_last_success.load(Ordering::SeqCst).min(starts_ms.len())..];
            let bound = usize::try_from(window + concurrency - 1).expect("small");
            if after.len() > bound {
                let gaps: Vec<u64> = after[bound - 1..].windows(2).map(|pair| pair[1] - pair[0]).collect();
                prop_assert!(gaps.iter().all(|gap| *gap >= open_ms), "{:?} between calls beyond {}", gaps, bound);
            }
            // It comes back: a probe, and then everything.
            dead_until_ms.store(rig.clock.now_ms(), Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(open_ms)).await;
            let mut undone = 1;
            for _ in 0..3 {
                undone = send(&rig, 20).await.reported().len();
            }
            prop_assert_eq!(undone, 0);
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_breaker_is_open_nothing_is_claimed_or_called() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&requests);
    let store = FaultStore::new(MemoryStore::new(), move |_| {
        counting.fetch_add(1, Ordering::SeqCst);
        Fault::None
    });
    let (builder, dependency) = calls(
        |options| {
            breaker(options, 100, 5, 10_000);
            (options.concurrency, options.total_failure) = (5, TotalFailure::Auto);
        },
        |_| Act::Fail(0),
    );
    let rig = rig(builder).store(store).start();
    let delivered = send(&rig, 50).await;
    assert!(matches!(state(&delivered), BreakerState::Open { .. }));
    let (called, asked) = (dependency.calls(), requests.load(Ordering::SeqCst));
    assert!((5..=9).contains(&called), "{called}");
    let delivered = send(&rig, 1_000).await;
    assert_eq!((dependency.calls(), requests.load(Ordering::SeqCst), delivered.took_ms), (called, asked, 0));
    assert_eq!(delivered.outcomes(), vec![Abandoned; 1_000]);
    assert!(delivered.codes().iter().all(|code| *code == "breaker_open"));
    assert_eq!(delivered.result, Err(RunError::AllFailed { records: 1_000 }), "so that the mapping slows down");
}

#[tokio::test(start_paused = true)]
async fn invocations_at_once_share_the_breaker() {
    // One sees the failures, the other one stops starting: Managed Instances.
    let (builder, dependency) = calls(
        |options| {
            breaker(options, 50, 10, 60_000);
            options.concurrency = 4;
        },
        |call| if call.nth < 20 { Act::Succeed(50) } else { Act::Fail(50) },
    );
    let rig = rig(builder).start();
    let batches = [100, 100].map(|count| {
        rig.put(fresh(count));
        rig.poll()
    });
    let (one, two) = tokio::join!(rig.run(&batches[0], TIMEOUT_MS), rig.run(&batches[1], TIMEOUT_MS));
    let calls = dependency.calls();
    assert!(calls <= 20 + 10 + 3, "{calls}");
    for delivered in [one, two] {
        assert!(matches!(state(&delivered), BreakerState::Open { .. }));
        assert!(delivered.codes().contains(&"breaker_open"));
        assert!(delivered.took_ms < 1_000);
    }
}

#[tokio::test(start_paused = true)]
async fn p14_one_probe_at_a_time_finds_out_over_all_invocations() {
    // The probe takes 2 s, and meanwhile neither invocation starts anything.
    let (builder, dependency) = calls(
        |options| {
            breaker(options, 100, 5, 1_000);
            options.concurrency = 5;
        },
        |call| if call.nth < 5 { Act::Fail(0) } else { Act::Succeed(2_000) },
    );
    let rig = rig(builder).start();
    send(&rig, 5).await;
    assert_eq!(dependency.calls(), 5);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let batches = [3, 3].map(|count| {
        rig.put(fresh(count));
        rig.poll()
    });
    let started_ms = rig.clock.now_ms();
    let (one, two) = tokio::join!(rig.run(&batches[0], TIMEOUT_MS), rig.run(&batches[1], TIMEOUT_MS));
    assert_eq!((one.outcomes(), two.outcomes()), (vec![Processed; 3], vec![Processed; 3]));
    let starts: Vec<u64> = dependency.starts_ms()[5..].iter().map(|at_ms| at_ms - started_ms).collect();
    assert_eq!(starts[0], 0);
    assert!(starts[1..].iter().all(|at_ms| (2_000..=2_020).contains(at_ms)), "{starts:?}");
}

#[tokio::test(start_paused = true)]
async fn p10_a_probe_that_hangs_keeps_nobody_beyond_the_deadline() {
    let (builder, dependency) = calls(
        |options| {
            breaker(options, 100, 5, 1_000);
            (options.concurrency, options.item_timeout_ms) = (5, 600_000);
        },
        |call| if call.nth < 5 { Act::Fail(0) } else { Act::Hang },
    );
    let rig = rig(builder).start();
    send(&rig, 5).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let delivered = send(&rig, 4).await;
    assert_eq!((delivered.codes(), delivered.took_ms), (vec!["deadline"; 4], CUT_OFF_MS));
    assert_eq!(delivered.outcomes(), [Failed, Abandoned, Abandoned, Abandoned]);
    // Cut off by the deadline it says nothing: the next one is the probe.
    assert_eq!(dependency.calls(), 6);
    let delivered = send(&rig, 2).await;
    assert_eq!((dependency.calls(), delivered.codes()), (7, vec!["deadline"; 2]));
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_of_the_dependency_opens_no_breaker() {
    for act in [Act::Permanent, Act::Panic] {
        let (builder, dependency) = calls(|options| breaker(options, 1, 5, 60_000), move |_| act);
        let rig = rig(builder).start();
        let delivered = send(&rig, 40).await;
        let outcome = if act == Act::Permanent { Rejected } else { Failed };
        assert_eq!((delivered.outcomes(), dependency.calls()), (vec![outcome; 40], 40));
        assert_eq!(state(&delivered), BreakerState::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_of_failures_below_the_setting_opens_no_breaker() {
    let (builder, dependency) = calls(
        |options| {
            breaker(options, 50, 10, 60_000);
            options.concurrency = 1;
        },
        |call| if call.nth % 5 < 2 { Act::Fail(0) } else { Act::Succeed(0) },
    );
    let rig = rig(builder).start();
    let delivered = send(&rig, 100).await;
    assert_eq!((dependency.calls(), state(&delivered)), (100, BreakerState::Closed));
}

#[tokio::test(start_paused = true)]
async fn p16_an_open_breaker_starts_nothing_behind_a_message_that_is_done() {
    // Group b fails while a0 runs; when a0 is done, a1 may come and must not.
    let (builder, dependency) = calls(
        |options| breaker(options, 100, 5, 60_000),
        |call| if call.nth == 0 { Act::Succeed(1_000) } else { Act::Fail(10) },
    );
    let rig = rig(builder).fifo().start();
    rig.put_in([("a", item("a0")), ("a", item("a1")), ("a", item("a2"))]);
    rig.put_in(["b", "c", "d", "e", "f"].map(|group| (group, item(group))));
    let delivered = rig.deliver().await;
    assert_eq!(delivered.outcomes()[..3], [Processed, Abandoned, Abandoned]);
    assert_eq!(delivered.codes()[1..3], ["breaker_open", "group_blocked"]);
    assert_eq!(dependency.calls(), 6);
}

#[tokio::test(start_paused = true)]
async fn claims_that_are_answered_while_the_breaker_is_open_are_given_back() {
    // The claims of the last five take a second; meanwhile the first five fail.
    let store = FaultStore::new(MemoryStore::new(), |point| {
        let slow = point.operation == Operation::Claim && point.nth >= 5;
        if slow { Fault::Delay(Duration::from_secs(1)) } else { Fault::None }
    });
    let (builder, dependency) = calls(|options| breaker(options, 100, 5, 60_000), |_| Act::Fail(10));
    let rig = rig(builder).store(store).start();
    rig.put(fresh(10));
    let delivered = rig.deliver().await;
    assert_eq!((dependency.calls(), delivered.codes()[5..].to_vec()), (5, vec!["breaker_open"; 5]));
    assert_eq!(delivered.report.counts.releases_lost, 0);
}

// --- the rate -----------------------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// P11: no second sees more starts than the rate and its burst, however many invocations there are, and all are done.
    #[test]
    fn p11_no_second_sees_more_starts_than_the_rate(
        starts_per_s in 1_u64..400,
        concurrency in 1_u64..20,
        counts in vec(1_usize..40, 1..4),
        shards in 1_u64..3,
        time_ms in 0_u64..30,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let options = |options: &mut Options| {
                (options.concurrency, options.starts_per_s, options.shards) = (concurrency, starts_per_s, Some(shards));
            };
            let (builder, dependency) = calls(options, move |_| Act::Succeed(time_ms));
            let rig = rig(builder).start();
            let batches: Vec<_> = counts.iter().map(|count| { rig.put(fresh(*count)); rig.poll() }).collect();
            let started_ms = rig.clock.now_ms();
            let delivered = futures_util::future::join_all(batches.iter().map(|batch| rig.run(batch, TIMEOUT_MS))).await;
            let starts_ms = dependency.starts_ms();
            let burst = usize::try_from((starts_per_s / 10).max(1)).expect("small");
            let per_s = usize::try_from(starts_per_s).expect("small");
            for (nth, at_ms) in starts_ms.iter().enumerate() {
                let within = starts_ms[nth..].iter().take_while(|other_ms| **other_ms < at_ms + 1_000).count();
                prop_assert!(within <= per_s + burst, "{within} starts in a second");
            }
            // As fast as the rate allows, if it is the rate that holds them up.
            let total: usize = counts.iter().sum();
            let undone: usize = delivered.iter().map(|delivered| delivered.reported().len()).sum();
            let possible = per_s * usize::try_from(CUT_OFF_MS / 1_000).expect("small");
            prop_assert!(undone == 0 || total > possible, "{undone} of {total}");
            if time_ms == 0 && undone == 0 {
                let took_ms = starts_ms[starts_ms.len() - 1] - started_ms;
                let least_ms = (total.saturating_sub(burst) as u64) * 1_000 / starts_per_s;
                prop_assert!(took_ms <= least_ms + 20 + total as u64, "{took_ms} ms, expected {least_ms}");
            }
            prop_assert_eq!(starts_ms.len(), total - undone, "P14");
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn p10_what_the_rate_held_back_is_given_back_at_the_deadline() {
    // A release that is slow keeps the run awake when nothing may start any more.
    let store = FaultStore::new(MemoryStore::new(), |point| match point.operation {
        Operation::Release => Fault::Delay(Duration::from_millis(100)),
        _ => Fault::None,
    });
    let (builder, dependency) = calls(|options| options.starts_per_s = 1, |_| Act::Succeed(0));
    let rig = rig(builder).store(store).start();
    let delivered = send(&rig, 50).await;
    assert_eq!(dependency.calls(), 29, "one at once, and one a second up to the cut-off at 29 s, which starts nothing");
    assert_eq!((delivered.reported().len(), delivered.codes()[49]), (21, "deadline"));
    assert!(delivered.took_ms > CUT_OFF_MS);
}

// --- the limit ----------------------------------------------------------------------------------------------------

fn adaptive(options: &mut Options, min: u64, max: u64) {
    (options.concurrency_min, options.concurrency) = (Some(min), max);
}

#[tokio::test(start_paused = true)]
async fn p11_the_limit_falls_under_failures_and_recovers_over_invocations() {
    let broken = Arc::new(AtomicUsize::new(0));
    let is_broken = Arc::clone(&broken);
    let (builder, dependency) = calls(
        |options| adaptive(options, 2, 32),
        move |call| {
            let fails = is_broken.load(Ordering::SeqCst) == 1 && call.nth % 3 == 0;
            if fails { Act::Fail(20) } else { Act::Succeed(20) }
        },
    );
    let rig = rig(builder).start();
    let delivered = send(&rig, 200).await;
    assert_eq!((limit(&delivered), dependency.take_at_once_max()), (32, 32));
    broken.store(1, Ordering::SeqCst);
    let delivered = send(&rig, 400).await;
    let fallen = limit(&delivered);
    assert!(fallen <= 8, "{fallen}");
    // What it has learnt stays: the next invocation starts with it.
    broken.store(0, Ordering::SeqCst);
    dependency.take_at_once_max();
    let delivered = send(&rig, 3).await;
    assert!(dependency.take_at_once_max() <= fallen, "P11");
    let mut limits = vec![limit(&delivered)];
    for _ in 0..10 {
        let delivered = send(&rig, 100).await;
        assert!(dependency.take_at_once_max() <= limit(&delivered), "P11");
        limits.push(limit(&delivered));
    }
    assert!(limits.is_sorted() && limits[10] == 32, "{limits:?}");
    assert_eq!(rig.pipeline.control(), ControlReport { limit: 32, breaker: BreakerState::Closed });
}

#[tokio::test(start_paused = true)]
async fn the_limit_falls_when_the_dependency_slows_down_under_load_and_recovers() {
    let capacity = Arc::new(AtomicU64::new(32));
    let of_dependency = Arc::clone(&capacity);
    let (builder, dependency) = calls(
        |options| adaptive(options, 2, 32),
        move |call| Act::Succeed(20 * (call.at_once as u64).div_ceil(of_dependency.load(Ordering::SeqCst))),
    );
    let rig = rig(builder).start();
    for _ in 0..5 {
        assert_eq!(limit(&send(&rig, 200).await), 32);
    }
    capacity.store(4, Ordering::SeqCst);
    let limits = futures_of(&rig, 10).await;
    assert!(limits.iter().skip(2).all(|limit| *limit <= 20), "{limits:?}");
    assert_eq!(dependency.take_at_once_max(), 32, "P11");
    capacity.store(32, Ordering::SeqCst);
    let limits = futures_of(&rig, 10).await;
    assert_eq!(limits[9], 32, "{limits:?}");
}

/// The limit after each of some invocations.
async fn futures_of(rig: &Rig<Calls>, invocations: usize) -> Vec<usize> {
    let mut limits = Vec::new();
    for _ in 0..invocations {
        limits.push(limit(&send(rig, 200).await));
    }
    limits
}

#[tokio::test(start_paused = true)]
async fn p11_claims_stay_within_the_lowered_limit_and_two_chunks() {
    let claims = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&claims);
    let store = FaultStore::new(MemoryStore::with_chunk_size(3.try_into().expect("not 0")), move |point| {
        counting.fetch_add(usize::from(point.operation == Operation::Claim), Ordering::SeqCst);
        Fault::None
    });
    let hang_from = Arc::new(AtomicUsize::new(usize::MAX));
    let from = Arc::clone(&hang_from);
    let (builder, dependency) = calls(
        |options| {
            adaptive(options, 2, 40);
            options.item_timeout_ms = 600_000;
        },
        move |call| if call.nth >= from.load(Ordering::SeqCst) { Act::Hang } else { Act::Fail(5) },
    );
    let rig = rig(builder).store(store).start();
    let delivered = send(&rig, 200).await;
    assert_eq!(limit(&delivered), 2);
    // Two that hang, and two chunks at most that wait behind them.
    hang_from.store(dependency.calls(), Ordering::SeqCst);
    claims.store(0, Ordering::SeqCst);
    dependency.take_at_once_max();
    let delivered = send(&rig, 200).await;
    assert_eq!(delivered.reported().len(), 200);
    let claimed = claims.load(Ordering::SeqCst);
    assert!((2..=2 + 2 * 3).contains(&claimed), "{claimed}");
    assert_eq!(dependency.take_at_once_max(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    /// P11: whatever happens, no more than the maximum is under way, at rest nothing is, and all of the limit can be used.
    #[test]
    fn p11_the_limit_holds_and_no_place_is_lost(
        acts in vec((0_usize..6, 0_u64..60), 1..20),
        min in 1_u64..8,
        more in 0_u64..12,
        counts in vec((1_usize..60, any::<bool>()), 1..8),
        drops_ms in vec(prop::option::of(0_u64..200), 1..4),
        shards in 1_u64..3,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let max = min + more;
            let calm = Arc::new(AtomicUsize::new(0));
            let is_calm = Arc::clone(&calm);
            let options = |options: &mut Options| {
                adaptive(options, min, max);
                breaker(options, 90, 8, 300);
                (options.item_timeout_ms, options.shards) = (100, Some(shards));
            };
            let (builder, dependency) = calls(options, move |call| {
                if is_calm.load(Ordering::SeqCst) > 0 {
                    return Act::Succeed(10);
                }
                let (act, ms) = acts[call.nth % acts.len()];
                [Act::Succeed(ms), Act::Succeed(ms), Act::Fail(ms), Act::Permanent, Act::Panic, Act::Hang][act]
            });
            let rig = rig(builder).start();
            for (nth, (count, together)) in counts.iter().enumerate() {
                let count = if *together { 2 } else { 1 } * count;
                let batches: Vec<_> = (0..if *together { 2 } else { 1 }).map(|_| { rig.put(fresh(count)); rig.poll() }).collect();
                let runs = futures_util::future::join_all(batches.iter().map(|batch| rig.run(batch, 2_000)));
                // Some are dropped in the middle.
                match drops_ms[nth % drops_ms.len()] {
                    Some(ms) => drop(tokio::time::timeout(Duration::from_millis(ms), runs).await),
                    None => drop(runs.await),
                }
                // Shards are aborted, and their items dropped, when they have their turn.
                tokio::time::sleep(Duration::from_millis(350)).await;
                prop_assert_eq!(dependency.at_once.load(Ordering::SeqCst), 0);
                prop_assert!(dependency.take_at_once_max() <= usize::try_from(max).expect("small"));
            }
            calm.store(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(350)).await;
            for _ in 0..8 {
                prop_assert_eq!(send(&rig, 60).await.reported().len(), 0);
            }
            prop_assert_eq!(limit(&send(&rig, 100).await), usize::try_from(max).expect("small"));
            dependency.take_at_once_max();
            send(&rig, 100).await;
            prop_assert_eq!(dependency.take_at_once_max(), usize::try_from(max).expect("small"), "every place is used");
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_dropped_in_the_middle_gives_its_places_and_its_probe_back() {
    for shards in [1, 2] {
        let (builder, dependency) = calls(
            |options| {
                breaker(options, 100, 5, 1_000);
                (options.concurrency, options.item_timeout_ms, options.shards) = (3, 600_000, Some(shards));
            },
            |call| match call.nth {
                0..5 => Act::Fail(0),
                5..8 => Act::Hang,
                _ => Act::Succeed(10),
            },
        );
        let rig = rig(builder).start();
        send(&rig, 5).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.put(fresh(10));
        let batch = rig.poll();
        // The probe hangs; the others wait for it.
        let dropped = tokio::time::timeout(Duration::from_secs(5), rig.run(&batch, TIMEOUT_MS)).await;
        assert!(dropped.is_err());
        assert_eq!((dependency.calls(), rig.pipeline.control().breaker), (6, BreakerState::HalfOpen));
        // Another probe may start at once; it hangs, too, and so does the third.
        for _ in 0..2 {
            rig.put(fresh(3));
            let batch = rig.poll();
            assert!(tokio::time::timeout(Duration::from_secs(5), rig.run(&batch, TIMEOUT_MS)).await.is_err());
        }
        dependency.take_at_once_max();
        let delivered = send(&rig, 31).await;
        assert_eq!(delivered.outcomes(), vec![Processed; 31]);
        assert_eq!(dependency.take_at_once_max(), 3, "all places are back");
        assert!(delivered.took_ms <= 10 + 20 + 100, "{}", delivered.took_ms);
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_dropped_gives_back_the_room_for_claims() {
    let store = FaultStore::new(MemoryStore::new(), |point| {
        if point.operation == Operation::Claim && point.nth < 8 { Fault::HangBefore } else { Fault::None }
    });
    let (builder, _dependency) = calls(|options| options.concurrency = 6, |_| Act::Succeed(0));
    let rig = rig(builder).store(store).start();
    rig.put(fresh(20));
    let batch = rig.poll();
    assert!(tokio::time::timeout(Duration::from_secs(5), rig.run(&batch, TIMEOUT_MS)).await.is_err());
    let delivered = send(&rig, 20).await;
    assert_eq!((delivered.outcomes(), delivered.took_ms), (vec![Processed; 20], 0));
}

#[tokio::test(start_paused = true)]
async fn without_settings_nothing_is_governed() {
    let (builder, dependency) = calls(|options| options.concurrency = 7, |_| Act::Fail(0));
    let rig = rig(builder).start();
    let delivered = send(&rig, 500).await;
    assert_eq!(dependency.calls(), 500);
    let fixed = ControlReport { limit: 7, breaker: BreakerState::Closed };
    assert_eq!((delivered.report.control, rig.pipeline.control()), (Some(fixed), fixed));
}

// --- the trace ----------------------------------------------------------------------------------------------------

#[allow(dead_code)]
#[path = "../../examples/limit_trace.rs"]
mod limit_trace;

#[tokio::test(start_paused = true)]
async fn a_dependency_that_turns_slow_then_fails_then_recovers_is_spared_and_used_again() {
    use limit_trace::{CONCURRENCY, CONCURRENCY_MIN, Health, OPEN_MS, STEP_MS, WINDOW};
    let lines = limit_trace::trace().await;
    let max = usize::try_from(CONCURRENCY).expect("small");
    let from = lines.iter().position(|line| line.health == Health::Down).expect("a phase");
    let back = from + lines[from..].iter().position(|line| line.health == Health::Healthy).expect("a phase");
    let (before, down, after) = (&lines[..from], &lines[from..back], &lines[back..]);
    assert!(lines.iter().all(|line| line.at_once_max <= max), "P11");
    for line in before {
        match line.health {
            Health::Healthy => assert!((line.limit, line.breaker) == (max, BreakerState::Closed), "{line:?}"),
            _ => assert!(line.limit < max && line.breaker == BreakerState::Closed && line.failed == 0, "{line:?}"),
        }
    }
    let slow: Vec<usize> = before.iter().filter(|line| line.health == Health::Slow).map(|line| line.limit).collect();
    assert!(slow.iter().sum::<usize>() <= slow.len() * max / 2, "at half the limit on the whole: {slow:?}");
    // P14: a window and those in flight, and then one an open period.
    assert!(down[0].calls <= usize::try_from(WINDOW + CONCURRENCY - 1).expect("small"), "{:?}", down[0]);
    let probes: usize = down[1..].iter().map(|line| line.calls).sum();
    let periods = (down.len() as u64 * STEP_MS).div_ceil(OPEN_MS);
    assert!((2..=usize::try_from(periods).expect("small")).contains(&probes), "{probes} probes");
    assert!(down.iter().all(|line| line.breaker != BreakerState::Closed));
    assert_eq!(down[down.len() - 1].limit, usize::try_from(CONCURRENCY_MIN).expect("small"));
    // Within an open period it is found out, and soon all of the limit is used again.
    let steps = usize::try_from(OPEN_MS.div_ceil(STEP_MS)).expect("small") + 1;
    assert!(after[steps..].iter().all(|line| (line.limit, line.breaker) == (max, BreakerState::Closed)));
    let calls: HashSet<bool> = after[steps..].iter().map(|line| line.calls >= before[0].calls / 2).collect();
    assert_eq!(calls, HashSet::from([true]));
}
