//! A pipeline around a processor that does what its item says.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use microbatch::{
    BatchResponse, Commit, Key, MemoryStore, NoWrites, Options, Outcome, Pipeline, PipelineBuilder, Processor,
    key::canonical::canonicalize,
    pipeline::{Host, RunError},
};
pub(crate) use microbatch_testkit::scripted::Scripted;
use microbatch_testkit::{
    clock::{SeededRandom, TokioClock},
    recorder::{KeepingRecorder, KeptReport},
    scripted::Seen,
};

/// A type as users have: fields that it does not know are passed over.
#[derive(serde::Deserialize)]
pub(crate) struct Item {
    #[serde(rename = "id")]
    _id: String,
}

/// A processor that does what its items say.
pub(crate) fn scripted() -> Scripted {
    Scripted::by("id").as_told()
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
        let processor = scripted();
        let seen = processor.seen();
        let builder = Pipeline::builder(processor).key("id").fingerprint_body().options(options);
        Self { seen, ..Self::of(builder, store) }
    }
}

impl<P: Processor, S: Commit<P::Write>> Bench<S, P> {
    pub(crate) fn of(builder: PipelineBuilder<P>, store: S) -> Self {
        let (recorder, clock) = (Arc::new(KeepingRecorder::default()), TokioClock::default());
        let host = Host {
            queue: None,
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
        let failed_ids = match self.pipeline.run(&event(bodies), "batch", Some(deadline_ms)).await {
            Ok(response) => response.into_failed_ids(),
            // The queue then delivers all of them again.
            Err(RunError::AllFailed { records }) => (0..records).map(|index| format!("m{index}")).collect(),
            Err(error) => panic!("expected an event: {error}"),
        };
        (failed_ids, self.recorder.last())
    }
}

/// Runs a case of a property, on a paused clock of its own.
pub(crate) fn paused<T>(case: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("runtime")
        .block_on(case)
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
) -> Result<BatchResponse, RunError> {
    pipeline.run(event, "batch", None).await
}
