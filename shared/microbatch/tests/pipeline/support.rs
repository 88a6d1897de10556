//! A pipeline around a processor that does what its item says.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use microbatch::{
    BatchResponse, Commit, Done, ItemContext, Key, MemoryStore, NoWrites, Options, Outcome, Pipeline, PipelineBuilder,
    ProcessError, Processor, key::canonical::canonicalize, pipeline::Host,
};
use microbatch_testkit::{
    clock::{SeededRandom, TokioClock},
    recorder::{KeepingRecorder, KeptReport},
};
use serde::Deserialize;

/// An item that says what its processor shall do.
#[derive(Deserialize)]
pub(crate) struct Item {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) act: String,
    #[serde(default)]
    pub(crate) ms: u64,
}

/// What the processor did.
#[derive(Default)]
pub(crate) struct Seen {
    runs: Mutex<HashMap<String, usize>>,
    /// Lets items that block go on.
    pub(crate) unblock: AtomicBool,
    at_once: AtomicUsize,
    pub(crate) at_once_max: AtomicUsize,
}

impl Seen {
    pub(crate) fn runs(&self, id: &str) -> usize {
        self.runs.lock().expect("lock").get(id).copied().unwrap_or(0)
    }

    pub(crate) fn total(&self) -> usize {
        self.runs.lock().expect("lock").values().sum()
    }
}

struct InFlight<'a>(&'a Seen);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::SeqCst);
    }
}

struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

pub(crate) struct Scripted(pub(crate) Arc<Seen>);

impl Processor for Scripted {
    type Item = Item;
    type Output = String;
    type Write = NoWrites;

    async fn process(&self, item: Item, _cx: &ItemContext) -> Result<Done<String>, ProcessError> {
        *self.0.runs.lock().expect("lock").entry(item.id.clone()).or_default() += 1;
        let at_once = self.0.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.at_once_max.fetch_max(at_once, Ordering::SeqCst);
        let _in_flight = InFlight(&self.0);
        match item.act.as_str() {
            "hang" => std::future::pending::<()>().await,
            "slow" => tokio::time::sleep(Duration::from_millis(item.ms)).await,
            "block" => {
                while !self.0.unblock.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            }
            "panic" => panic!("on purpose"),
            "panic_late" => {
                tokio::time::sleep(Duration::from_millis(item.ms)).await;
                panic!("on purpose");
            }
            "panic_in_drop" => {
                let _bomb = PanicOnDrop;
                std::future::pending::<()>().await;
            }
            "fail" => return Err(ProcessError::transient(std::fmt::Error).code("on_purpose")),
            "unknown" => return Err(ProcessError::transient(std::fmt::Error).effect_unknown()),
            "permanent" => return Err(ProcessError::permanent(std::fmt::Error)),
            _ => tokio::task::yield_now().await,
        }
        Ok(Done::new(item.id))
    }
}

/// A pipeline under test and all that can be asked about it.
pub(crate) struct Bench<S, P = Scripted> {
    pub(crate) pipeline: Pipeline<P, S>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) recorder: Arc<KeepingRecorder>,
    pub(crate) clock: TokioClock,
}

/// Workers on one store must not draw the same owner tokens.
static SEEDS: AtomicU64 = AtomicU64::new(1);

/// The deadline that tests work against, from now.
pub(crate) const DEADLINE_MS: u64 = 30_000;

impl Bench<MemoryStore> {
    pub(crate) fn new() -> Self {
        Self::on(MemoryStore::new(), |_| {})
    }
}

impl<S: Commit<NoWrites>> Bench<S> {
    pub(crate) fn on(store: S, options: impl FnOnce(&mut Options)) -> Self {
        let seen = Arc::new(Seen::default());
        let builder = Pipeline::builder(Scripted(Arc::clone(&seen))).key("id").fingerprint_body().options(options);
        Self { seen, ..Self::of(builder, store) }
    }
}

impl<P: Processor, S: Commit<P::Write>> Bench<S, P> {
    pub(crate) fn of(builder: PipelineBuilder<P>, store: S) -> Self {
        let (recorder, clock) = (Arc::new(KeepingRecorder::default()), TokioClock::default());
        let host = Host {
            store,
            clock: Arc::new(clock),
            random: Arc::new(SeededRandom::new(SEEDS.fetch_add(1, Ordering::Relaxed))),
            recorder: Arc::clone(&recorder) as _,
        };
        let pipeline =
            builder.options(|options| options.namespace = "test".into()).build(host).expect("valid settings");
        Self { pipeline, seen: Arc::default(), recorder, clock }
    }

    /// Sends bodies as messages `m0`, `m1` ..., and returns the ids reported and the report.
    pub(crate) async fn send(&self, bodies: &[&str]) -> (Vec<String>, KeptReport) {
        self.send_by(bodies, DEADLINE_MS).await
    }

    pub(crate) async fn send_by(&self, bodies: &[&str], deadline_ms: u64) -> (Vec<String>, KeptReport) {
        use microbatch::Clock;
        let deadline_ms = self.clock.now_ms() + deadline_ms;
        let response = self.pipeline.run(&event(bodies), "batch", Some(deadline_ms)).await.expect("an event");
        (response.into_failed_ids(), self.recorder.last())
    }
}

pub(crate) fn event(bodies: &[&str]) -> String {
    let records = bodies.iter().enumerate().map(|(index, body)| {
        serde_json::json!({"messageId": format!("m{index}"), "body": body, "attributes": {"ApproximateReceiveCount": "1"}})
    });
    serde_json::json!({"Records": records.collect::<Vec<_>>()}).to_string()
}

/// A body of the scripted item.
pub(crate) fn body(id: &str, act: &str) -> String {
    format!(r#"{{"id":"{id}","act":"{act}"}}"#)
}

pub(crate) fn key_of(id: &str) -> Key {
    Key::digest("test", &canonicalize(&format!("{id:?}")).expect("a string"))
}

pub(crate) fn outcomes(report: &KeptReport) -> Vec<Outcome> {
    report.items.iter().map(|item| item.outcome).collect()
}

pub(crate) async fn run_raw<S: Commit<NoWrites>>(
    pipeline: &Pipeline<Scripted, S>,
    event: &str,
) -> Result<BatchResponse, microbatch::pipeline::RunError> {
    pipeline.run(event, "batch", None).await
}
