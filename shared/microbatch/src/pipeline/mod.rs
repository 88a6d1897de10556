//! The pipeline: an event in, a response out.
//!
//! One [`Pipeline`] serves a process. Its limits hold over all invocations that run at once; what belongs to a batch
//! (equal keys, claims, tasks) ends with it.

mod builder;
mod cache;
mod calls;
mod control;
mod gate;
mod guarded;
mod run;
mod watch;
mod workers;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

pub use self::{
    builder::{Host, PipelineBuilder},
    watch::Blocking,
};
use self::{
    cache::CompletedCache,
    calls::{RetryPlaces, SourceQueue},
    control::Control,
    gate::Gates,
    run::Batch,
    watch::Watches,
};
use crate::{
    clock::{Clock, Random},
    config::Config,
    control::{Backoff, BreakerState, ControlReport},
    decode::Keying,
    hooks::Hooks,
    lease::{Schedule, resolve_deadline_ms},
    message::{EventError, split_event},
    panics::contain,
    processor::Processor,
    response::{BatchResponse, ResponseError},
    store::Commit,
    telemetry::{Recorder, RefusedBatch},
    trace::TraceParent,
};

/// A processor with all that runs it. Cheap to clone; clones are one pipeline.
pub struct Pipeline<P, S> {
    shared: Arc<Shared<P, S>>,
}

/// What all invocations of the process share.
struct Shared<P, S> {
    /// In an `Arc` of its own, since items outlive the borrow of a run: they may be polled by another thread.
    processor: Arc<P>,
    store: S,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    recorder: Arc<dyn Recorder>,
    config: Config,
    /// None: without idempotency.
    keying: Option<Keying>,
    hooks: Hooks,
    /// None: nothing is parked or delayed.
    queue: Option<SourceQueue>,
    /// How long a failed message is delayed; none: it is not.
    backoff: Option<Backoff>,
    /// None: only the concurrency limit bounds the starts, and it is fixed.
    control: Option<Arc<Control>>,
    completed: CompletedCache,
    gates: Gates,
    watches: Watches,
    /// Bytes of the events that invocations are working on.
    buffered_bytes: AtomicUsize,
    /// Room for tries after the first.
    retry_places: RetryPlaces,
    /// When the process started: an announced deadline before it was never a deadline.
    started_ms: u64,
}

impl<P, S> Shared<P, S> {
    /// Counts an event among those that the process holds, until it is dropped.
    fn hold(&self, bytes: usize) -> Held<'_> {
        let total_bytes = self.buffered_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        Held { buffered_bytes: &self.buffered_bytes, bytes, total_bytes }
    }

    fn record_refused(&self, invocation: &Invocation<'_>, received_ms: u64, error: &'static str) {
        let refused = RefusedBatch {
            batch_id: invocation.batch_id,
            trace: invocation.trace,
            error,
            received_ms,
            elapsed_ms: self.clock.now_ms().saturating_sub(received_ms),
            bytes: invocation.event.len(),
        };
        let _told = contain(|| self.recorder.record_refused(&refused));
    }

    fn control_report(&self) -> ControlReport {
        let fixed = ControlReport { limit: self.config.governor.concurrency.get(), breaker: BreakerState::Closed };
        self.control.as_ref().map_or(fixed, |control| control.report())
    }
}

/// An event that the process holds.
struct Held<'s> {
    buffered_bytes: &'s AtomicUsize,
    bytes: usize,
    /// Of all events, when this one came.
    total_bytes: usize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.buffered_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// One event, and what its host knows of the invocation.
#[derive(Clone, Copy)]
pub struct Invocation<'i> {
    /// The JSON text that the queue's event source sent.
    pub event: &'i str,
    /// The host's name of the invocation, unique among those that run.
    pub batch_id: &'i str,
    /// When the host kills it, in epoch milliseconds, as announced; an implausible one counts as unknown.
    pub deadline_ms: Option<u64>,
    /// The batch's own span, where it is traced.
    pub trace: Option<TraceParent>,
}

impl fmt::Debug for Invocation<'_> {
    // Not the event (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invocation")
            .field("batch_id", &self.batch_id)
            .field("deadline_ms", &self.deadline_ms)
            .finish_non_exhaustive()
    }
}

/// Why an invocation fails as a whole, so that every message of it is delivered again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunError {
    /// The event cannot be answered message by message.
    Event(EventError),
    /// Nothing was done: every item failed or was abandoned. The event source mapping slows down for an error, not for a
    /// response that names every message. The items were reported to the recorder.
    AllFailed {
        /// How many messages there were.
        records: usize,
    },
    /// The response would have been wrong. A defect of this crate.
    Response(ResponseError),
}

/// The name of [`RunError::AllFailed`].
const ALL_FAILED: &str = "AllFailed";

impl RunError {
    /// The error's name, for the Runtime API.
    pub fn name(&self) -> &'static str {
        match self {
            RunError::Event(error) => error.name(),
            RunError::AllFailed { .. } => ALL_FAILED,
            RunError::Response(_) => "WrongResponse",
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Event(error) => error.fmt(f),
            RunError::AllFailed { records } => write!(
                f,
                "none of {records} messages was done, and each failed in a way that may pass: the invocation fails so that the \
                 event source mapping slows down; the items' log lines say why"
            ),
            RunError::Response(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RunError {}

impl<P, S> Clone for Pipeline<P, S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<P, S> fmt::Debug for Pipeline<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl<P: Processor> Pipeline<P, ()> {
    /// Starts to build a pipeline around a processor. A host adds the store and the clock.
    pub fn builder(processor: P) -> PipelineBuilder<P> {
        PipelineBuilder::new(processor)
    }
}

impl<P: Processor, S: Commit<P::Write>> Pipeline<P, S> {
    /// [`Pipeline::invoke`], untraced.
    ///
    /// # Errors
    /// As [`Pipeline::invoke`].
    pub async fn run(&self, event: &str, batch_id: &str, deadline_ms: Option<u64>) -> Result<BatchResponse, RunError> {
        self.invoke(Invocation { event, batch_id, deadline_ms, trace: None }).await
    }

    /// Works on one event.
    ///
    /// The response is there before the deadline less the margin, and nothing of this invocation runs on after it (P10).
    ///
    /// # Errors
    /// [`RunError`], when there is no way to answer for each message: no item was started then. Or, by
    /// [`TotalFailure`](crate::TotalFailure), when nothing was done.
    pub async fn invoke(&self, invocation: Invocation<'_>) -> Result<BatchResponse, RunError> {
        let shared = &*self.shared;
        let received_ms = shared.clock.now_ms();
        let held = shared.hold(invocation.event.len());
        let messages = split_event(invocation.event).map_err(|error| {
            shared.record_refused(&invocation, received_ms, error.name());
            RunError::Event(error)
        })?;
        let deadline_ms = self.resolve_deadline_ms(invocation.deadline_ms, received_ms);
        let schedule = Schedule::new(received_ms, deadline_ms, &shared.config);
        let finished = run::run(shared, &messages, &invocation, schedule, received_ms).await;
        let elapsed_ms = shared.clock.now_ms().saturating_sub(received_ms);
        let batch = Batch { invocation, received_ms, buffered_bytes: held.total_bytes, elapsed_ms };
        let report = finished.report(&messages, &batch, shared.config.total_failure);
        // The response is decided: nothing that is told of it may change it.
        let _told = contain(|| shared.recorder.record(&report));
        if report.failed.is_some() {
            return Err(RunError::AllFailed { records: messages.len() });
        }
        let answers = report.items.iter().map(|item| (item.message_id, item.is_acknowledged()));
        BatchResponse::new(answers).map_err(RunError::Response)
    }

    /// When an invocation that came at `received_ms` ends, by what was announced; an implausible time counts as unknown.
    /// All in epoch milliseconds.
    pub fn resolve_deadline_ms(&self, announced_ms: Option<u64>, received_ms: u64) -> u64 {
        let shared = &*self.shared;
        resolve_deadline_ms(announced_ms, shared.started_ms, received_ms, shared.config.timeout_ms)
    }

    /// Tells the recorder of an invocation that its host could not bring to an end, `received_ms` being when it came, and
    /// `error` the name of what happened.
    pub fn record_refused(&self, invocation: &Invocation<'_>, received_ms: u64, error: &'static str) {
        self.shared.record_refused(invocation, received_ms, error);
    }

    /// Items that have kept their thread for longer than this: their code blocks. For a watchdog, which must not run on
    /// the threads it watches.
    pub fn blocking(&self, longer_than_ms: u64) -> Vec<Blocking> {
        self.shared.watches.blocking(self.shared.clock.now_ms(), longer_than_ms)
    }

    /// What bounds the starts of items, as it is now: over all invocations.
    pub fn control(&self) -> ControlReport {
        self.shared.control_report()
    }

    /// The settings it runs with.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The store it keeps records in.
    pub fn store(&self) -> &S {
        &self.shared.store
    }
}
