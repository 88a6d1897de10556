//! The mapping at work: does what the [planner](super::planner) says, with a real queue and real processes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::function::{FunctionSpec, LogSink};
use crate::runtime_api::whole_ms;

use super::batching::Batch;
use super::calls::{CallError, SourceQueue, Unchanged};
use super::environments::{Answer, Environments};
use super::event::{EventSource, Received, event, event_bytes};
use super::planner::{Planner, Step};
use super::progress::{BatchReport, Counts, MappingEvent, Observer, Outcome};
use super::scaling::Invocation;
use super::settings::{MappingInput, MappingSettings, Queue, SettingsError};
use super::verdict::{Verdict, judge};

/// Longest wait of a receive: SQS's limit.
const RECEIVE_WAIT_S_MAX: u32 = 20;

/// What a mapping connects, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingSpec {
    /// The source queue's URL.
    pub queue_url: String,
    /// The mapping's settings.
    pub settings: MappingInput,
    /// The function.
    pub function: FunctionSpec,
    /// The function's time-out.
    pub function_timeout: Duration,
    /// Most processes of the function at once, which limits concurrency beside the settings. At least one.
    pub environments_max: Option<usize>,
    /// How long a receive waits for a message, in seconds, at most 20. A stop takes as long.
    pub receive_wait_s: u32,
}

/// Why a mapping does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MappingError {
    /// The queue cannot be asked for its attributes.
    Queue {
        /// The queue's URL.
        queue_url: String,
        /// What went wrong.
        error: CallError,
    },
    /// Lambda would refuse the settings.
    Settings(SettingsError),
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue { queue_url, error } => {
                write!(f, "the queue {queue_url} cannot be used: {error}; does it exist, and does the endpoint answer?")
            }
            Self::Settings(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for MappingError {}

/// A running mapping. Dropping it ends it at once: messages in flight become visible when their timeout ends.
pub struct Mapping {
    settings: MappingSettings,
    source: EventSource,
    environments: Arc<Environments>,
    counts: watch::Receiver<Counts>,
    stop: watch::Sender<bool>,
    driver: JoinHandle<()>,
}

impl Mapping {
    /// Asks the queue for its ARN and its visibility timeout, checks the settings, and starts to poll. Processes of the
    /// function are started as batches need them; what they print goes to `sink`.
    pub async fn start(
        client: &Client,
        spec: MappingSpec,
        sink: LogSink,
        observer: Observer,
    ) -> Result<Self, MappingError> {
        let MappingSpec { queue_url, settings, function, function_timeout, environments_max, receive_wait_s } = spec;
        let wait_s = i32::try_from(receive_wait_s.min(RECEIVE_WAIT_S_MAX)).unwrap_or_default();
        let queue = SourceQueue::new(client, queue_url.clone(), wait_s);
        let facts = queue.facts().await.map_err(|error| MappingError::Queue { queue_url, error })?;
        let source = EventSource::new(facts.arn);
        let of_queue = Queue { fifo: source.is_fifo(), visibility_timeout_s: facts.visibility_timeout_s };
        let settings = MappingSettings::new(&settings, &of_queue, function_timeout).map_err(MappingError::Settings)?;

        let environments = Arc::new(Environments::new(function, function_timeout, sink));
        let worker = Worker {
            queue,
            source: source.clone(),
            environments: Arc::clone(&environments),
            reports_item_failures: settings.reports_item_failures(),
        };
        let (counts_sender, counts) = watch::channel(Counts::default());
        let (stop, stopped) = watch::channel(false);
        let driver = Driver {
            planner: Planner::new(&settings, environments_max),
            worker: Arc::new(worker),
            tasks: JoinSet::new(),
            observer,
            counts: counts_sender,
            start: Instant::now(),
            scaled: None,
        };
        let driver = tokio::spawn(driver.run(stopped));
        Ok(Self { settings, source, environments, counts, stop, driver })
    }

    /// The settings, as checked.
    pub fn settings(&self) -> &MappingSettings {
        &self.settings
    }

    /// The source queue's ARN.
    pub fn queue_arn(&self) -> &str {
        self.source.arn()
    }

    /// The sums of what has happened; updated with each event, before the observer gets it.
    pub fn counts(&self) -> watch::Receiver<Counts> {
        self.counts.clone()
    }

    /// Runs another function, or another build of it, from the next batch on. Batches that run are finished as they began.
    pub fn deploy(&self, function: FunctionSpec) {
        self.environments.deploy(function);
    }

    /// The ids of the function's processes, those that wait for a batch included.
    pub fn process_ids(&self) -> Vec<u32> {
        self.environments.process_ids()
    }

    /// Stops polling, gives back what no function has seen, waits for the batches that run, and ends the processes.
    pub async fn stop(mut self) -> Counts {
        self.stop.send_replace(true);
        // It ends with an error only if it panicked: what happened until then is counted.
        let _ = (&mut self.driver).await;
        *self.counts.borrow()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("source", &self.source)
            .field("settings", &self.settings)
            .field("counts", &*self.counts.borrow())
            .finish_non_exhaustive()
    }
}

/// What came of a step.
enum Told {
    Received { max: usize, result: Result<Vec<Received>, CallError>, unusable: Vec<MappingEvent> },
    Ended { report: BatchReport, left: BTreeSet<String> },
    Returned { messages: usize, failed: usize, error: Option<CallError> },
}

struct Driver {
    planner: Planner,
    worker: Arc<Worker>,
    tasks: JoinSet<Told>,
    observer: Observer,
    counts: watch::Sender<Counts>,
    start: Instant,
    /// The limit and the pause that were told last.
    scaled: Option<(usize, u64)>,
}

impl Driver {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut stopping = false;
        loop {
            let now_ms = self.now_ms();
            while let Some(step) = self.planner.step(now_ms) {
                self.begin(now_ms, step);
            }
            self.tell_scaling();
            if self.planner.is_done() && self.tasks.is_empty() {
                break;
            }
            let wakes = self.planner.wakes_ms(now_ms).map(|wakes_ms| self.start + Duration::from_millis(wakes_ms));
            tokio::select! {
                Some(told) = self.tasks.join_next() => match told {
                    Ok(told) => self.hear(told),
                    // No step is ever aborted: it panicked, and so does this.
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                () = sleep_until(wakes.unwrap_or(self.start)), if wakes.is_some() => {}
                // An error means that the handle is gone, and this task is about to be aborted.
                _ = stopped.wait_for(|&stopped| stopped), if !stopping => {
                    stopping = true;
                    self.planner.stop();
                }
            }
        }
        self.worker.environments.stop().await;
    }

    fn begin(&mut self, now_ms: u64, step: Step) {
        let worker = Arc::clone(&self.worker);
        match step {
            Step::Receive { max } => {
                self.tasks.spawn(async move { worker.receive(max).await });
            }
            Step::Invoke { id, batch } => {
                let record_bytes = batch.messages.iter().map(Received::record_bytes).sum();
                self.tell(&MappingEvent::BatchStarted {
                    batch: id,
                    messages: batch.messages.len(),
                    event_bytes: event_bytes(batch.messages.len(), record_bytes),
                    closed: batch.closed,
                    waited_ms: now_ms.saturating_sub(batch.opened_ms),
                });
                self.tasks.spawn(async move { worker.invoke(id, batch).await });
            }
            Step::Return(messages) => {
                self.tasks.spawn(async move { worker.give_back(messages).await });
            }
        }
    }

    fn hear(&mut self, told: Told) {
        let now_ms = self.now_ms();
        match told {
            Told::Received { max, result: Ok(messages), unusable } => {
                for event in unusable {
                    self.tell(&event);
                }
                if !messages.is_empty() {
                    self.tell(&MappingEvent::Received { messages: messages.len() });
                }
                self.planner.received(now_ms, max, messages);
            }
            Told::Received { max, result: Err(error), .. } => {
                self.tell(&MappingEvent::ReceiveFailed(error));
                self.planner.receive_failed(now_ms, max);
            }
            Told::Ended { report, left } => {
                let invocation = if report.outcome.is_error() { Invocation::Erred } else { Invocation::Answered };
                self.planner.ended(now_ms, report.batch, invocation, &left);
                self.tell(&MappingEvent::BatchEnded(report));
            }
            Told::Returned { messages, failed, error } => {
                self.tell(&MappingEvent::Returned { messages, failed, error });
            }
        }
    }

    fn tell_scaling(&mut self) {
        let scaling = self.planner.scaling();
        let now = (scaling.limit(), scaling.pause_ms());
        if self.scaled.replace(now) != Some(now) {
            self.tell(&MappingEvent::Scaled { limit: now.0, pause_ms: now.1 });
        }
    }

    fn tell(&self, event: &MappingEvent) {
        self.counts.send_modify(|counts| counts.add(event));
        (self.observer)(event);
    }

    fn now_ms(&self) -> u64 {
        whole_ms(self.start.elapsed())
    }
}

/// Does the steps.
struct Worker {
    queue: SourceQueue,
    source: EventSource,
    environments: Arc<Environments>,
    reports_item_failures: bool,
}

impl Worker {
    async fn receive(&self, max: usize) -> Told {
        let mut unusable = Vec::new();
        let usable = |message: &_| match Received::new(message, &self.source) {
            Ok(received) => Some(received),
            Err(incomplete) => {
                unusable.push(MappingEvent::Unusable(incomplete));
                None
            }
        };
        let result = self.queue.receive(max).await.map(|messages| messages.iter().filter_map(usable).collect());
        Told::Received { max, result, unusable }
    }

    async fn invoke(&self, id: u64, batch: Batch) -> Told {
        let start = Instant::now();
        let messages = batch.messages;
        let answer = self.environments.invoke(event(&messages)).await;
        let (outcome, failed) = self.judge(&messages, answer);
        let failed: BTreeSet<usize> = failed.into_iter().collect();
        let done: Vec<usize> = (0..messages.len()).filter(|place| !failed.contains(place)).collect();
        let handles = done.iter().map(|&place| messages[place].receipt_handle.clone()).collect();
        let Unchanged { places, error } = self.queue.delete(handles).await;
        let undeleted: BTreeSet<usize> = places.into_iter().map(|at| done[at]).collect();
        let left = failed.union(&undeleted).filter_map(|&place| messages[place].group.clone()).collect();
        let report = BatchReport {
            batch: id,
            messages: messages.len(),
            deleted: done.len() - undeleted.len(),
            left: failed.len(),
            undeleted: undeleted.len(),
            delete_error: error,
            elapsed_ms: whole_ms(start.elapsed()),
            outcome,
        };
        Told::Ended { report, left }
    }

    /// How the invocation ended, and the places that stay in the queue.
    fn judge(&self, messages: &[Received], answer: Answer) -> (Outcome, Vec<usize>) {
        let all = || (0..messages.len()).collect();
        let response = match answer {
            Answer::Response(response) => response,
            Answer::Error(error) => return (Outcome::FunctionError(error), all()),
            Answer::Failure(failure) => return (Outcome::Failure(failure), all()),
            Answer::NotStarted(error) => return (Outcome::NotStarted { reason: error.to_string() }, all()),
        };
        let ids: Vec<&str> = messages.iter().map(|message| message.message_id.as_str()).collect();
        match judge(&response, &ids, self.reports_item_failures) {
            Verdict::Success { note } => (Outcome::Success { note }, Vec::new()),
            Verdict::Partial { failed } => (Outcome::Partial, failed),
            Verdict::Failure(fault) => (Outcome::BadResponse(fault), all()),
        }
    }

    async fn give_back(&self, messages: Vec<Received>) -> Told {
        let count = messages.len();
        let handles = messages.into_iter().map(|message| message.receipt_handle).collect();
        let Unchanged { places, error } = self.queue.make_visible(handles).await;
        Told::Returned { messages: count - places.len(), failed: places.len(), error }
    }
}
