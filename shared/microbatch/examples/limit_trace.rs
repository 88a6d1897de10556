//! How the process bounds its calls to a dependency that turns slow, then fails, then recovers: the limit on items at once,
//! the circuit breaker, and the calls, over 80 simulated seconds.
//!
//! `cargo run -p microbatch --example limit_trace`
#![allow(clippy::print_stdout)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use microbatch::{
    Clock, Done, ItemContext, MemoryStore, NoWrites, Pipeline, ProcessError, Processor, control::BreakerState,
    pipeline::Host,
};
use microbatch_testkit::clock::{SeededRandom, TokioClock};
use serde::Deserialize;

/// Most items at once, and the least that the limit falls to.
pub(crate) const CONCURRENCY: u64 = 16;
pub(crate) const CONCURRENCY_MIN: u64 = 2;
/// The results that the breaker looks at, and how long it stays open.
pub(crate) const WINDOW: u64 = 20;
pub(crate) const OPEN_MS: u64 = 5_000;
/// A line of the trace stands for so long.
pub(crate) const STEP_MS: u64 = 2_000;
/// How long a call takes when the dependency is not overloaded.
const LATENCY_MS: u64 = 50;
/// Messages in an invocation.
const BATCH: usize = 60;
/// What the event source mapping lets pass between two invocations, longer after an error.
const PAUSE_MS: u64 = 20;
const PAUSE_AFTER_ERROR_MS: u64 = 500;

/// How the dependency is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Healthy,
    /// It takes an eighth of the calls at once, and more only as they queue.
    Slow,
    Down,
}

/// From when on it is how, in milliseconds from the start; the last line is the end.
pub(crate) const PHASES: [(u64, Health); 5] = [
    (0, Health::Healthy),
    (10_000, Health::Slow),
    (34_000, Health::Down),
    (62_000, Health::Healthy),
    (80_000, Health::Healthy),
];

/// What happened in a step of the trace.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) at_ms: u64,
    pub(crate) health: Health,
    /// The limit and the breaker at its end.
    pub(crate) limit: usize,
    pub(crate) breaker: BreakerState,
    /// Calls that started, and the most that were under way at once.
    pub(crate) calls: usize,
    pub(crate) at_once_max: usize,
    /// Their mean time, in milliseconds.
    pub(crate) latency_ms: u64,
    pub(crate) failed: usize,
}

/// A dependency with bounded capacity: calls beyond it queue.
struct Dependency {
    clock: TokioClock,
    started_ms: u64,
    at_once: AtomicUsize,
    noted: Mutex<Noted>,
}

/// What it has seen since the last line.
#[derive(Debug, Default)]
struct Noted {
    calls: usize,
    at_once_max: usize,
    ended: u64,
    latency_sum_ms: u64,
    failed: usize,
}

impl Dependency {
    fn health(&self) -> Health {
        let elapsed_ms = self.clock.now_ms() - self.started_ms;
        PHASES.iter().rev().find(|(from_ms, _)| *from_ms <= elapsed_ms).map_or(Health::Healthy, |(_, health)| *health)
    }

    async fn call(&self) -> Result<(), Refused> {
        let health = self.health();
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        {
            let mut noted = self.noted.lock().expect("no panic under it");
            noted.calls += 1;
            noted.at_once_max = noted.at_once_max.max(at_once);
        }
        let capacity = if health == Health::Slow { CONCURRENCY / 8 } else { CONCURRENCY };
        let latency_ms = LATENCY_MS * (at_once as u64).div_ceil(capacity);
        tokio::time::sleep(Duration::from_millis(latency_ms)).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        let mut noted = self.noted.lock().expect("no panic under it");
        noted.ended += 1;
        noted.latency_sum_ms += latency_ms;
        if health == Health::Down {
            noted.failed += 1;
            return Err(Refused);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the dependency is down")
    }
}

impl std::error::Error for Refused {}

/// Calls the dependency for each item.
struct Calls(Arc<Dependency>);

#[derive(Deserialize)]
struct Order {}

impl Processor for Calls {
    type Item = Order;
    type Output = ();
    type Write = NoWrites;

    async fn process(&self, _order: Order, _cx: &ItemContext) -> Result<Done<()>, ProcessError> {
        self.0.call().await?;
        Ok(().into())
    }
}

/// Runs the scenario on a paused clock: invocation after invocation of one warm environment.
pub(crate) async fn trace() -> Vec<Line> {
    let clock = TokioClock::default();
    let started_ms = clock.now_ms();
    let dependency = Arc::new(Dependency { clock, started_ms, at_once: AtomicUsize::new(0), noted: Mutex::default() });
    let host = Host {
        store: MemoryStore::with_chunk_size(25.try_into().expect("not 0")),
        clock: Arc::new(clock),
        random: Arc::new(SeededRandom::new(1)),
        recorder: Arc::new(()),
        queue: None,
    };
    let pipeline = Pipeline::builder(Calls(Arc::clone(&dependency)))
        .key("id")
        .options(|options| {
            options.concurrency = CONCURRENCY;
            options.concurrency_min = Some(CONCURRENCY_MIN);
            options.breaker_failure_percent = 50;
            options.breaker_window = WINDOW;
            options.breaker_open_ms = OPEN_MS;
        })
        .build(host)
        .expect("valid settings");
    let invocations = async {
        for batch in 0.. {
            let failed = pipeline.run(&event(batch), &format!("batch-{batch}"), None).await.is_err();
            let pause_ms = if failed { PAUSE_AFTER_ERROR_MS } else { PAUSE_MS };
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    };
    let lines = async {
        let mut lines = Vec::new();
        let (end_ms, _) = PHASES[PHASES.len() - 1];
        for at_ms in (0..end_ms).step_by(usize::try_from(STEP_MS).expect("small")) {
            let health = dependency.health();
            clock.sleep_until(started_ms + at_ms + STEP_MS - 1).await;
            let noted = std::mem::take(&mut *dependency.noted.lock().expect("no panic under it"));
            let control = pipeline.control();
            lines.push(Line {
                at_ms,
                health,
                limit: control.limit,
                breaker: control.breaker,
                calls: noted.calls,
                at_once_max: noted.at_once_max,
                latency_ms: noted.latency_sum_ms / noted.ended.max(1),
                failed: noted.failed,
            });
            clock.sleep_until(started_ms + at_ms + STEP_MS).await;
        }
        lines
    };
    tokio::select! {
        lines = lines => lines,
        () = invocations => unreachable!("they do not end"),
    }
}

/// New messages: none is a redelivery.
fn event(batch: usize) -> String {
    let record = |nth: usize| {
        format!(
            r#"{{"messageId":"m{nth}","body":"{{\"id\":\"{batch}-{nth}\"}}","attributes":{{"ApproximateReceiveCount":"1"}}}}"#
        )
    };
    let records: Vec<String> = (0..BATCH).map(record).collect();
    format!(r#"{{"Records":[{}]}}"#, records.join(","))
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    println!(
        "Limit {CONCURRENCY_MIN} to {CONCURRENCY}; the breaker opens at half of {WINDOW} results, for {OPEN_MS} ms."
    );
    println!();
    println!("   time  dependency  breaker     calls  failed  at once  mean ms  limit");
    for line in trace().await {
        println!(
            "{:>5} s  {:<10}  {:<9}  {:>6}  {:>6}  {:>7}  {:>7}  {:>5} {}",
            line.at_ms / 1_000,
            format!("{:?}", line.health).to_lowercase(),
            line.breaker.as_str(),
            line.calls,
            line.failed,
            line.at_once_max,
            line.latency_ms,
            line.limit,
            "#".repeat(line.limit)
        );
    }
}
