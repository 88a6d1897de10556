//! Tries a processor in memory: from messages to outcomes, without AWS, sockets or waiting.
//!
//! ```
//! use microbatch::{Done, ItemContext, NoWrites, Outcome, Pipeline, ProcessError, Processor};
//! use microbatch_testkit::TestPipeline;
//!
//! #[derive(serde::Deserialize)]
//! struct Order {
//!     order_id: String,
//! }
//!
//! struct ChargeOrder;
//!
//! impl Processor for ChargeOrder {
//!     type Item = Order;
//!     type Output = ();
//!     type Write = NoWrites;
//!
//!     async fn process(&self, order: Order, _cx: &ItemContext) -> Result<Done<()>, ProcessError> {
//!         println!("charging {}", order.order_id);
//!         Ok(().into())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // In a function with `#[tokio::test(start_paused = true)]`, so that what sleeps or hangs takes no time:
//! let bench = TestPipeline::new(Pipeline::builder(ChargeOrder).key("order_id"));
//! let batch = bench.send([r#"{"order_id":"1"}"#, "not json"]).await;
//! assert_eq!(batch.outcomes(), [Outcome::Processed, Outcome::Rejected]);
//! # }
//! ```

mod batch;
mod clock;
mod message;
mod queue;
mod writes;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use microbatch::{
    Clock, Commit, MemoryStore, Pipeline, PipelineBuilder, Processor,
    pipeline::{Host, RunError},
};
use serde_json::Value;

pub use self::{
    batch::TestBatch,
    message::{TestMessage, message},
    queue::Parked,
    writes::KeepingStore,
};
use self::{
    clock::{TestClock, TestRandom},
    queue::TestQueue,
};
use crate::{
    queue::{Delivery, lambda_event},
    recorder::KeepingRecorder,
};

/// The outputs of messages, by their ids.
type Outputs = Arc<Mutex<HashMap<String, Option<Value>>>>;

/// How a processor is to be tried. [`TestPipeline::setup`] makes one, [`TestSetup::start`] ends it.
pub struct TestSetup<P, S> {
    builder: PipelineBuilder<P>,
    store: S,
    fifo: bool,
    deadline_ms: u64,
    visibility_timeout_ms: u64,
    parks: bool,
    delays: bool,
    outputs: Option<Outputs>,
}

impl<P: Processor, S> TestSetup<P, S> {
    /// Keeps records in this store instead of a new [`MemoryStore`]. Two pipelines with one store are two workers.
    #[must_use]
    pub fn store<T: Commit<P::Write>>(self, store: T) -> TestSetup<P, T> {
        let Self { builder, store: _, fifo, deadline_ms, visibility_timeout_ms, parks, delays, outputs } = self;
        TestSetup { builder, store, fifo, deadline_ms, visibility_timeout_ms, parks, delays, outputs }
    }

    /// The queue is a FIFO one: every message needs a group, and a group is worked on in order.
    #[must_use]
    pub fn fifo(mut self) -> Self {
        self.fifo = true;
        self
    }

    /// How long an invocation may take, in milliseconds, before Lambda would kill it. Default 30,000.
    #[must_use]
    pub fn deadline_ms(mut self, deadline_ms: u64) -> Self {
        self.deadline_ms = deadline_ms;
        self
    }

    /// How long a message that was not acknowledged stays invisible, in milliseconds: [`TestPipeline::redeliver`] lets that
    /// pass. Default 180,000, six times the deadline.
    #[must_use]
    pub fn visibility_timeout_ms(mut self, visibility_timeout_ms: u64) -> Self {
        self.visibility_timeout_ms = visibility_timeout_ms;
        self
    }

    /// There is a dead-letter queue to park messages in: see [`TestPipeline::parked`].
    #[must_use]
    pub fn parking(mut self) -> Self {
        self.parks = true;
        self
    }

    /// Messages that failed are delayed: with backoff, as by `MICROBATCH_BACKOFF`.
    #[must_use]
    pub fn backoff(mut self) -> Self {
        self.delays = true;
        self
    }

    /// Keeps what the processor answers, for [`TestBatch::output`]. It takes the place of an `on_success` hook of the
    /// builder's.
    #[must_use]
    pub fn keep_outputs(mut self) -> Self {
        self.outputs = Some(Arc::default());
        self
    }

    /// Builds the pipeline.
    ///
    /// # Panics
    /// When its settings are wrong, with all that is wrong.
    pub fn start(self) -> TestPipeline<P, S>
    where
        S: Commit<P::Write>,
    {
        let Self { mut builder, store, fifo, deadline_ms, visibility_timeout_ms, parks, delays, outputs } = self;
        if let Some(outputs) = &outputs {
            let outputs = Arc::clone(outputs);
            builder = builder.on_success(move |success| {
                lock(&outputs).insert(success.message_id.to_owned(), success.output());
            });
        }
        let (clock, recorder) = (Arc::new(TestClock::default()), Arc::new(KeepingRecorder::default()));
        let queue = Arc::new(TestQueue::new(parks, delays));
        let host = Host {
            store,
            clock: Arc::clone(&clock) as _,
            random: Arc::new(TestRandom::new()),
            recorder: Arc::clone(&recorder) as _,
            queue: (parks || delays).then(|| Arc::clone(&queue) as _),
        };
        let pipeline = builder.build(host).unwrap_or_else(|error| panic!("the pipeline cannot be built: {error}"));
        TestPipeline {
            pipeline,
            clock,
            recorder,
            queue,
            fifo,
            deadline_ms,
            visibility_timeout_ms,
            outputs,
            messages: AtomicUsize::new(0),
            batches: AtomicUsize::new(0),
            undone: Mutex::default(),
        }
    }
}

/// A pipeline in memory: messages go in, outcomes come out. See the [module](self).
///
/// Records are in a [`MemoryStore`], unless another store was given. Time is tokio's: with a paused clock
/// (`#[tokio::test(start_paused = true)]`, tokio's feature `test-util`) an item that sleeps or hangs takes none. What looks
/// random is the same in every run.
pub struct TestPipeline<P, S = MemoryStore> {
    pipeline: Pipeline<P, S>,
    clock: Arc<TestClock>,
    recorder: Arc<KeepingRecorder>,
    queue: Arc<TestQueue>,
    fifo: bool,
    deadline_ms: u64,
    visibility_timeout_ms: u64,
    outputs: Option<Outputs>,
    messages: AtomicUsize,
    batches: AtomicUsize,
    /// What was reported and not delivered again, in the order in which it was sent.
    undone: Mutex<Vec<Delivery>>,
}

impl<P: Processor> TestPipeline<P>
where
    MemoryStore: Commit<P::Write>,
{
    /// A pipeline of a standard queue.
    ///
    /// # Panics
    /// When its settings are wrong, with all that is wrong.
    pub fn new(builder: PipelineBuilder<P>) -> Self {
        Self::setup(builder).start()
    }
}

impl<P: Processor> TestPipeline<P> {
    /// A pipeline with more to choose.
    ///
    /// ```
    /// use microbatch::{Outcome::{Abandoned, Failed, Processed}, Pipeline};
    /// use microbatch_testkit::{TestPipeline, message, scripted::{Act, Scripted}};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let processor = Scripted::by("id").on("a", [Act::Hang, Act::Succeed]);
    /// let bench = TestPipeline::setup(Pipeline::builder(processor).key("id")).fifo().deadline_ms(3_000).start();
    /// let of = |id: &str, group: &str| message(format!(r#"{{"id":"{id}"}}"#)).id(id).group(group);
    /// let batch = bench.send([of("a", "g"), of("b", "g"), of("c", "h")]).await;
    /// assert_eq!(batch.outcomes(), [Failed, Abandoned, Processed]);
    /// assert_eq!((batch.of("b").code, batch.reported()), (Some("group_blocked"), &["a".into(), "b".into()][..]));
    /// assert_eq!(bench.redeliver().await.outcomes(), [Processed, Processed]);
    /// # }
    /// ```
    pub fn setup(builder: PipelineBuilder<P>) -> TestSetup<P, MemoryStore> {
        TestSetup {
            builder,
            store: MemoryStore::new(),
            fifo: false,
            deadline_ms: 30_000,
            visibility_timeout_ms: 180_000,
            parks: false,
            delays: false,
            outputs: None,
        }
    }
}

impl<P: Processor, S: Commit<P::Write>> TestPipeline<P, S> {
    /// Sends messages in one batch.
    ///
    /// # Panics
    /// On messages that no queue would hand out in one batch: two of one id, an empty id, none of a group on a FIFO queue.
    pub async fn send(&self, messages: impl IntoIterator<Item: Into<TestMessage>>) -> TestBatch {
        let now_ms = self.clock.now_ms();
        let number = || self.messages.fetch_add(1, Ordering::Relaxed);
        let deliveries: Vec<Delivery> =
            messages.into_iter().map(|message| message.into().delivered(number(), now_ms, self.fifo)).collect();
        let mut ids = HashSet::new();
        for Delivery { message_id, .. } in &deliveries {
            assert!(ids.insert(message_id), "expected ids that differ within a batch, found {message_id:?} twice");
        }
        self.deliver(deliveries).await
    }

    /// Delivers once more, in one batch and in the order in which they were sent, all messages that were reported, as a
    /// queue does when they become visible again: its visibility timeout has passed, or the delay that was asked for.
    ///
    /// # Panics
    /// When all messages were acknowledged.
    pub async fn redeliver(&self) -> TestBatch {
        let mut deliveries = std::mem::take(&mut *lock(&self.undone));
        assert!(!deliveries.is_empty(), "expected messages to deliver again, found that all were acknowledged");
        deliveries.sort_by_key(|delivery| delivery.sequence);
        let invisible_ms = |delivery: &Delivery| {
            let asked_s = self.queue.delay_s(&delivery.receipt_handle);
            asked_s.map_or(self.visibility_timeout_ms, |asked_s| asked_s.saturating_mul(1_000))
        };
        self.advance_ms(deliveries.iter().map(invisible_ms).max().unwrap_or_default());
        for delivery in &mut deliveries {
            delivery.receive_count += 1;
            delivery.receipt_handle = format!("{}-{}", delivery.message_id, delivery.receive_count);
        }
        self.deliver(deliveries).await
    }

    /// Sends an event as Lambda would: a sample file, or one that no queue makes. Its messages are not kept for
    /// [`redeliver`](Self::redeliver).
    ///
    /// # Errors
    /// What fails the invocation before any item starts.
    pub async fn send_event(&self, event: &str) -> Result<TestBatch, RunError> {
        let batch_id = format!("batch-{}", self.batches.fetch_add(1, Ordering::Relaxed));
        let deadline_ms = self.clock.now_ms().saturating_add(self.deadline_ms);
        let result = self.pipeline.run(event, &batch_id, Some(deadline_ms)).await;
        let report = self.recorder.of_batch(&batch_id);
        let (reported, error, report) = match (result, report) {
            (Ok(response), Some(report)) => (response.into_failed_ids(), None, report),
            (Err(error), Some(report)) => {
                let ids = report.items.iter().map(|item| item.message_id.clone());
                (ids.collect(), Some(error), report)
            }
            (Err(error), None) => return Err(error),
            (Ok(_), None) => unreachable!("a batch that was answered was reported"),
        };
        let outputs = self.outputs.as_ref().map(|outputs| {
            let mut outputs = lock(outputs);
            report.items.iter().map(|item| outputs.remove(&item.message_id).flatten()).collect()
        });
        Ok(TestBatch { report, reported, error, outputs })
    }

    async fn deliver(&self, mut deliveries: Vec<Delivery>) -> TestBatch {
        let event = lambda_event(&deliveries, self.fifo);
        let batch = self.send_event(&event).await;
        let batch = batch.unwrap_or_else(|error| panic!("the pipeline did not take the batch: {error}"));
        let reported: HashSet<&String> = batch.reported.iter().collect();
        deliveries.retain(|delivery| reported.contains(&delivery.message_id));
        lock(&self.undone).extend(deliveries);
        batch
    }

    /// Lets time pass at once, paused or not: leases lapse, a breaker opens again. Not while a batch is under way.
    pub fn advance_ms(&self, ms: u64) {
        self.clock.advance_ms(ms);
    }

    /// How many messages wait to be delivered again.
    pub fn undone(&self) -> usize {
        lock(&self.undone).len()
    }

    /// What was sent to the dead-letter queue, of a [`TestSetup::parking`].
    pub fn parked(&self) -> Vec<Parked> {
        self.queue.parked()
    }

    /// The pipeline itself, with its store.
    pub fn pipeline(&self) -> &Pipeline<P, S> {
        &self.pipeline
    }

    /// The time by the pipeline's clock, in epoch milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is whole: a panic elsewhere leaves no half of one behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P, S> fmt::Debug for TestSetup<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestSetup")
            .field("fifo", &self.fifo)
            .field("deadline_ms", &self.deadline_ms)
            .finish_non_exhaustive()
    }
}

impl<P, S> fmt::Debug for TestPipeline<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestPipeline")
            .field("fifo", &self.fifo)
            .field("deadline_ms", &self.deadline_ms)
            .finish_non_exhaustive()
    }
}
