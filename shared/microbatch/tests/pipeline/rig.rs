//! A pipeline behind a simulated queue: what is sent is delivered, and the answer is applied.

use std::sync::Arc;

use microbatch::{
    Clock, Commit, MemoryStore, Outcome, Pipeline, PipelineBuilder, Processor, Queue,
    pipeline::{Host, RunError},
};
use microbatch_testkit::{
    clock::{SeededRandom, TokioClock},
    queue::{
        Answer, Batch, CallPlan, NewMessage, Number, QueueCall, QueueSettings, SimulatedQueue, What, lambda_event,
    },
    recorder::{KeepingRecorder, KeptReport},
};

/// How long an invocation may take.
pub(crate) const TIMEOUT_MS: u64 = 30_000;
/// How long a message that was not acknowledged is hidden, unless it is delayed.
pub(crate) const VISIBILITY_MS: u64 = 180_000;
/// When an invocation of [`TIMEOUT_MS`] cuts off what runs, by the default settings.
pub(crate) const CUT_OFF_MS: u64 = TIMEOUT_MS - 1_000;

/// A queue, a pipeline and a store to be put together.
pub(crate) struct RigBuilder<P, S> {
    builder: PipelineBuilder<P>,
    store: S,
    clock: TokioClock,
    fifo: bool,
    park: bool,
    delay: bool,
    plans: Box<dyn Fn(&QueueCall) -> CallPlan + Send + Sync>,
    queue: Option<Arc<dyn Queue>>,
    seed: u64,
}

/// Starts to put a pipeline behind a standard queue, which can neither park nor delay.
pub(crate) fn rig<P: Processor>(builder: PipelineBuilder<P>) -> RigBuilder<P, MemoryStore> {
    RigBuilder {
        builder: builder.options(|options| options.namespace = "test".into()),
        store: MemoryStore::new(),
        clock: TokioClock::default(),
        fifo: false,
        park: false,
        delay: false,
        plans: Box::new(|_| CallPlan::default()),
        queue: None,
        seed: 1,
    }
}

impl<P: Processor, S> RigBuilder<P, S> {
    pub(crate) fn fifo(mut self) -> Self {
        self.fifo = true;
        self
    }

    pub(crate) fn parking(mut self) -> Self {
        self.park = true;
        self
    }

    pub(crate) fn delaying(mut self) -> Self {
        self.delay = true;
        self
    }

    /// What becomes of calls to the queue.
    pub(crate) fn plans(mut self, plans: impl Fn(&QueueCall) -> CallPlan + Send + Sync + 'static) -> Self {
        self.plans = Box::new(plans);
        self
    }

    /// Another queue to park and to delay in.
    pub(crate) fn queue(mut self, queue: Arc<dyn Queue>) -> Self {
        self.queue = Some(queue);
        self
    }

    /// Two workers on one store must not draw the same tokens.
    pub(crate) fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    pub(crate) fn store<T: Commit<P::Write>>(self, store: T) -> RigBuilder<P, T> {
        let Self { builder, store: _, clock, fifo, park, delay, plans, queue, seed } = self;
        RigBuilder { builder, store, clock, fifo, park, delay, plans, queue, seed }
    }

    pub(crate) fn start(self) -> Rig<P, S>
    where
        S: Commit<P::Write>,
    {
        let settings = QueueSettings { fifo: self.fifo, visibility_timeout_ms: VISIBILITY_MS, max_receive_count: None };
        let queue =
            SimulatedQueue::new(settings, Arc::new(self.clock)).that_can(self.park, self.delay).with_plans(self.plans);
        let recorder = Arc::new(KeepingRecorder::default());
        let host = Host {
            store: self.store,
            clock: Arc::new(self.clock),
            random: Arc::new(SeededRandom::new(self.seed)),
            recorder: Arc::clone(&recorder) as _,
            queue: Some(self.queue.unwrap_or_else(|| Arc::new(queue.clone()))),
        };
        let pipeline = self.builder.build(host).expect("valid settings");
        Rig { pipeline, queue, recorder, clock: self.clock }
    }
}

/// A pipeline behind a queue.
pub(crate) struct Rig<P, S = MemoryStore> {
    pub(crate) pipeline: Pipeline<P, S>,
    pub(crate) queue: SimulatedQueue,
    pub(crate) recorder: Arc<KeepingRecorder>,
    pub(crate) clock: TokioClock,
}

/// What became of a batch.
pub(crate) struct Delivered {
    pub(crate) result: Result<Vec<String>, RunError>,
    pub(crate) report: KeptReport,
    pub(crate) took_ms: u64,
}

impl Delivered {
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        self.report.items.iter().map(|item| item.outcome).collect()
    }

    pub(crate) fn codes(&self) -> Vec<&'static str> {
        self.report.items.iter().map(|item| item.code.unwrap_or_default()).collect()
    }

    pub(crate) fn parked(&self) -> Vec<bool> {
        self.report.items.iter().map(|item| item.parked).collect()
    }

    /// The positions of the messages that the queue delivers again.
    pub(crate) fn reported(&self) -> Vec<usize> {
        let ids = self.report.items.iter().map(|item| item.message_id.as_str());
        match &self.result {
            Ok(reported) => {
                ids.enumerate().filter(|(_, id)| reported.iter().any(|of| of == id)).map(|(at, _)| at).collect()
            }
            Err(_) => (0..self.report.items.len()).collect(),
        }
    }
}

impl<P: Processor, S: Commit<P::Write>> Rig<P, S> {
    /// Puts messages without a group into the queue.
    pub(crate) fn put<B: Into<String>>(&self, bodies: impl IntoIterator<Item = B>) {
        for body in bodies {
            self.put_message(NewMessage { body: body.into(), ..NewMessage::default() });
        }
    }

    /// Puts messages with a group into the queue.
    pub(crate) fn put_in<B: Into<String>>(&self, messages: impl IntoIterator<Item = (&'static str, B)>) {
        for (group, body) in messages {
            self.put_message(NewMessage { body: body.into(), group: Some(group.into()), ..NewMessage::default() });
        }
    }

    pub(crate) fn put_message(&self, message: NewMessage) {
        self.queue.send(message).expect("it has its group");
    }

    /// Delivers all that is visible, ten at most of a FIFO queue, in the order in which it was sent.
    pub(crate) async fn deliver(&self) -> Delivered {
        self.deliver_within(TIMEOUT_MS).await
    }

    pub(crate) async fn deliver_within(&self, timeout_ms: u64) -> Delivered {
        let batch = self.poll();
        self.run(&batch, timeout_ms).await
    }

    /// Receives what can be received.
    pub(crate) fn poll(&self) -> Batch {
        self.try_poll().expect("a message is visible")
    }

    /// Receives what can be received, if anything can.
    pub(crate) fn try_poll(&self) -> Option<Batch> {
        let mut batch = self.queue.poll(10_000)?;
        batch.deliveries.sort_by_key(|delivery| delivery.sequence);
        batch.event = lambda_event(&batch.deliveries, self.queue.model().settings().fifo);
        Some(batch)
    }

    /// An invocation with a batch, and what the queue does with its answer.
    pub(crate) async fn run(&self, batch: &Batch, timeout_ms: u64) -> Delivered {
        let started_ms = self.clock.now_ms();
        let batch_id = batch.deliveries[0].receipt_handle.clone();
        let result = self.pipeline.run(&batch.event, &batch_id, Some(started_ms + timeout_ms)).await;
        let took_ms = self.clock.now_ms() - started_ms;
        assert!(took_ms <= timeout_ms.saturating_sub(500), "P10: answered after {took_ms} of {timeout_ms} ms");
        let result = result.map(microbatch::BatchResponse::into_failed_ids);
        self.queue.answer(batch, result.as_ref().map_or(Answer::Error, |failed| Answer::Failed(failed)));
        let report = self.recorder.of_batch(&batch_id).expect("told before the answer");
        Delivered { result, report, took_ms }
    }

    /// What the messages wait for when they are not visible: all of them become so.
    pub(crate) async fn until_visible(&self) {
        while self.queue.next_visible().await {}
    }

    /// When a message was made to become visible again, in milliseconds from now, each time that it was.
    pub(crate) fn delays_ms(&self, number: usize) -> Vec<u64> {
        let now_ms = self.clock.now_ms();
        let model = self.queue.model();
        let of_message = model.history().entries().iter().filter(|entry| entry.number == Number(number));
        let until = of_message.filter_map(|entry| match entry.what {
            What::Delayed { until_ms } => Some(until_ms.saturating_sub(now_ms)),
            _ => None,
        });
        until.collect()
    }

    /// The bodies in the dead-letter queue.
    pub(crate) fn dead(&self) -> Vec<String> {
        self.queue.model().dead_letters().iter().map(|letter| letter.message.body.clone()).collect()
    }
}

/// A body with this id.
pub(crate) fn item(id: &str) -> String {
    told(id, "")
}

/// A body of an item that says what happens to it.
pub(crate) fn told(id: &str, act: &str) -> String {
    format!(r#"{{"id":"{id}","act":"{act}"}}"#)
}

/// The same, with a time.
pub(crate) fn timed(id: &str, act: &str, ms: u64) -> String {
    format!(r#"{{"id":"{id}","act":"{act}","ms":{ms}}}"#)
}
