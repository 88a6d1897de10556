//! One queue, one pipeline, one store, and the schedule that befalls them.

use std::{
    future::{Future, poll_fn},
    num::NonZeroUsize,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use microbatch::{
    BatchResponse, Clock, InBatches, MemoryStore, NoWrites, Pipeline, Processor, batcher,
    clock::BoxFuture,
    pipeline::{Host, RunError},
    record::Status,
};
use microbatch_testkit::{
    clock::{SeededRandom, TokioClock},
    fault::{Fault, FaultStore},
    queue::{Answer, Batch, CallPlan, NewMessage, Number, QueueSettings, SimulatedQueue, lambda_event},
};

use crate::{
    schedule::{CLOCK_SKEW_MS, DEADLINE_MARGIN_MS, EFFECT_TIMEOUT_MS, End, Faults, KILL_GRACE_MS, Mail, Setup},
    stage::{Behaviour, Scripted, ScriptedBatch, Stage, new_message},
};

/// More invocations than any schedule needs: one that takes more does not end.
const INVOCATIONS_MAX: u64 = 3_000;

/// A pipeline, whatever its processor: an event, its batch id, its deadline.
type Run = dyn Fn(String, String, u64) -> BoxFuture<'static, Result<BatchResponse, RunError>>;

pub(crate) struct World {
    pub(crate) queue: SimulatedQueue,
    pub(crate) stage: Arc<Stage>,
    /// The events say that they are of a standard queue.
    pub(crate) hide_order: bool,
    clock: TokioClock,
    run: Box<Run>,
    setup: Setup,
    ends: Vec<End>,
    /// Messages that were not sent yet, and when they are.
    unsent: Mutex<Vec<(u64, NewMessage)>>,
    invocations: AtomicU64,
    /// Whether store and queue fail now.
    is_faulty: Arc<AtomicBool>,
    /// No lease may last longer.
    lease_end_max_ms: AtomicU64,
}

impl World {
    pub(crate) fn new(setup: Setup, mails: &[Mail], faults: Faults, behaviour: Option<Box<Behaviour>>) -> Self {
        let clock = TokioClock::default();
        let is_faulty = Arc::new(AtomicBool::new(false));
        let queue = queue(&setup, clock, faults.queue, &is_faulty);
        let store = MemoryStore::with_chunk_size(NonZeroUsize::new(setup.chunk_size).expect("not 0"));
        let stage = Arc::new(Stage::new(setup, mails, behaviour, queue.clone(), store.clone(), clock));
        let (store_faults, store_fails) = (faults.store, Arc::clone(&is_faulty));
        let host = Host {
            store: FaultStore::new(store, move |point| match nth_of(&store_faults, point.nth) {
                Some(fault) if store_fails.load(Ordering::Relaxed) => *fault,
                _ => Fault::None,
            }),
            clock: Arc::new(clock),
            random: Arc::new(SeededRandom::new(1)),
            recorder: Arc::new(()),
            queue: Some(Arc::new(queue.clone())),
        };
        let mut at_ms = clock.now_ms();
        let unsent = mails.iter().enumerate().map(|(number, mail)| {
            at_ms += mail.after_ms;
            (at_ms, new_message(Number(number), mail, setup.fifo))
        });
        Self {
            run: pipeline(&setup, &stage, host),
            queue,
            stage,
            hide_order: false,
            clock,
            setup,
            ends: faults.ends,
            unsent: Mutex::new(unsent.collect()),
            invocations: AtomicU64::new(0),
            is_faulty,
            lease_end_max_ms: AtomicU64::new(0),
        }
    }

    /// Delivers until the queue is empty and no message is to come.
    pub(crate) async fn drain(&self) {
        let mut running = FuturesUnordered::new();
        loop {
            self.send_due();
            while running.len() < self.setup.at_once
                && let Some(batch) = self.poll()
            {
                running.push(self.invoke(batch));
            }
            let next_ms = self.next_ms();
            if running.is_empty() && next_ms.is_none() {
                return;
            }
            if self.invocations.load(Ordering::Relaxed) > INVOCATIONS_MAX {
                self.stage.violated(format!("P12: not done after {INVOCATIONS_MAX} invocations"));
                return;
            }
            let woken = async {
                match next_ms {
                    Some(at_ms) => self.clock.sleep_until(at_ms).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(()) = running.next() => {}
                () = woken => {}
            }
        }
    }

    /// Takes the dead letters back to the source queue and delivers them, until the work of all messages is done that can
    /// be. False if some is not. Order is given up.
    ///
    /// Whoever fails takes those behind it in its batch to the dead letters with it, if none of them has a receive left.
    /// So it takes as many turns as there are failures to come: of processors, of invocations, and after a kill a lease.
    pub(crate) async fn complete_by_redrives(&self) -> bool {
        self.stage.ordered.store(false, Ordering::Relaxed);
        let failures: usize = self.stage.mails.iter().map(|mail| mail.acts.len()).sum();
        for _ in 0..=failures + 2 * self.ends.len() {
            if self.stage.all_done() {
                break;
            }
            self.queue.model().redrive(self.clock.now_ms());
            self.drain().await;
        }
        self.stage.all_done()
    }

    // --- deliveries -----------------------------------------------------------------------------------------------

    fn send_due(&self) {
        let now_ms = self.clock.now_ms();
        let mut unsent = self.unsent.lock().expect("no panic under the lock");
        let due = unsent.iter().take_while(|(at_ms, _)| *at_ms <= now_ms).count();
        for (_, message) in unsent.drain(..due) {
            self.queue.send(message).expect("it has its group");
        }
    }

    /// When the next message is sent or becomes visible.
    fn next_ms(&self) -> Option<u64> {
        let sent_ms = self.unsent.lock().expect("no panic under the lock").first().map(|(at_ms, _)| *at_ms);
        let visible_ms = self.queue.model().next_visible_ms(self.clock.now_ms());
        sent_ms.into_iter().chain(visible_ms).min()
    }

    /// The next batch; every other one with its groups interleaved.
    fn poll(&self) -> Option<Batch> {
        let mut batch = self.queue.poll(self.setup.batch_max)?;
        if self.setup.fifo && self.invocations.load(Ordering::Relaxed).is_multiple_of(2) {
            // In the order in which all were sent: also each group's own.
            batch.deliveries.sort_by_key(|delivery| delivery.sequence);
            batch.event = lambda_event(&batch.deliveries, !self.hide_order);
        }
        Some(batch)
    }

    async fn invoke(&self, batch: Batch) {
        let nth = self.invocations.fetch_add(1, Ordering::Relaxed);
        let end = usize::try_from(nth).ok().and_then(|nth| self.ends.get(nth)).copied();
        // A call that is under way keeps the fault that it has met.
        self.is_faulty.store(end.is_some(), Ordering::Relaxed);
        let deadline_ms = self.clock.now_ms() + self.setup.timeout_ms;
        let lease_end_ms = deadline_ms + KILL_GRACE_MS + EFFECT_TIMEOUT_MS + CLOCK_SKEW_MS;
        self.lease_end_max_ms.fetch_max(lease_end_ms, Ordering::Relaxed);
        let run = (self.run)(batch.event.clone(), format!("batch-{nth}"), deadline_ms);
        let answered = match end.unwrap_or(End::Answered) {
            End::Answered | End::AnswerLost => Some(run.await),
            End::KilledAfter { ms } => tokio::time::timeout(Duration::from_millis(ms), run).await.ok(),
            End::KilledAtWait { nth } => wait_at_most(run, nth).await,
        };
        if answered.is_none() && self.setup.limits.shards > 1 {
            // Shards are tasks: they were aborted, and end when their turn comes. Time passes when none has anything to do.
            self.clock.sleep_until(self.clock.now_ms() + 1).await;
        }
        self.check_quiet(&batch);
        let now_ms = self.clock.now_ms();
        if answered.is_some() && now_ms > deadline_ms - DEADLINE_MARGIN_MS {
            self.stage.violated(format!("P10: batch {nth} answered at {now_ms}, to be killed at {deadline_ms}"));
        }
        self.apply(&batch, answered.filter(|_| end != Some(End::AnswerLost)));
        self.check_kept();
    }

    fn apply(&self, batch: &Batch, answered: Option<Result<BatchResponse, RunError>>) {
        match answered {
            Some(Ok(response)) => drop(self.queue.answer(batch, Answer::Failed(response.failed_ids()))),
            None | Some(Err(RunError::AllFailed { .. })) => drop(self.queue.answer(batch, Answer::Error)),
            Some(Err(error)) => self.stage.violated(format!("P6: {error}")),
        }
    }

    // --- what must always hold ------------------------------------------------------------------------------------

    /// P10: nothing of an invocation that is over runs on.
    fn check_quiet(&self, batch: &Batch) {
        for delivery in &batch.deliveries {
            if self.stage.is_at_work_on(&delivery.message_id, delivery.receive_count) {
                self.stage.violated(format!("P10: {} is processed after its invocation", delivery.number));
            }
        }
    }

    /// P1: nothing is lost, and nothing was acknowledged too soon.
    fn check_kept(&self) {
        if let Err(fault) = self.queue.model().check(|number| self.stage.is_done(number)) {
            self.stage.violated(format!("P1: {fault}"));
        }
    }

    /// Checks all that must hold once the queue was drained, and returns what does not.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.check_kept();
        if !self.queue.model().is_drained() {
            self.stage.violated("P12: messages are left in the queue".to_owned());
        }
        let last_ms = self.lease_end_max_ms.load(Ordering::Relaxed);
        for (key, record) in self.stage.store.records() {
            if record.status == Status::InProgress && record.lease_end_ms.is_none_or(|end_ms| end_ms > last_ms) {
                self.stage.violated(format!("P12: {key:?} is locked beyond any lease: {:?}", record.lease_end_ms));
            }
        }
        self.stage.violations()
    }
}

fn queue(setup: &Setup, clock: TokioClock, plans: Vec<CallPlan>, is_faulty: &Arc<AtomicBool>) -> SimulatedQueue {
    let settings = QueueSettings {
        fifo: setup.fifo,
        visibility_timeout_ms: setup.visibility_timeout_ms,
        max_receive_count: Some(setup.max_receive_count),
    };
    let is_faulty = Arc::clone(is_faulty);
    let queue = SimulatedQueue::new(settings, Arc::new(clock)).that_can(setup.can.park, setup.can.delay);
    queue.with_plans(move |call| match nth_of(&plans, call.nth) {
        Some(plan) if is_faulty.load(Ordering::Relaxed) => plan.clone(),
        _ => CallPlan::default(),
    })
}

fn pipeline(setup: &Setup, stage: &Arc<Stage>, host: Host<FaultStore<MemoryStore>>) -> Box<Run> {
    let stage = Arc::clone(stage);
    let Some((count, linger_ms)) = setup.limits.sub_batches else { return runner(setup, Scripted(stage), host) };
    let count_max = NonZeroUsize::new(count).expect("not 0");
    let limits = batcher::Limits { count_max, bytes_max: NonZeroUsize::MAX, linger_ms };
    runner(setup, InBatches::new(ScriptedBatch(stage), limits), host)
}

fn runner<P: Processor<Write = NoWrites>>(
    setup: &Setup,
    processor: P,
    host: Host<FaultStore<MemoryStore>>,
) -> Box<Run> {
    let mut builder = Pipeline::builder(processor).key("key").options(|options| setup.apply(options));
    if setup.fingerprint {
        builder = builder.fingerprint_body();
    }
    let pipeline = builder.build(host).expect("valid settings");
    Box::new(move |event, batch_id, deadline_ms| {
        let pipeline = pipeline.clone();
        Box::pin(async move { pipeline.run(&event, &batch_id, Some(deadline_ms)).await })
    })
}

/// The nth of a plan that repeats.
fn nth_of<T>(plan: &[T], nth: u64) -> Option<&T> {
    usize::try_from(nth).ok().and_then(|nth| plan.get(nth % plan.len().max(1)))
}

/// Drops a future that has waited `nth` times.
async fn wait_at_most<F: Future>(future: F, nth: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut waits = 0;
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if waits == nth => Poll::Ready(None),
        Poll::Pending => {
            waits += 1;
            Poll::Pending
        }
    })
    .await
}
