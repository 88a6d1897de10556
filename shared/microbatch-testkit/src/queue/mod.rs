//! A model of an SQS queue, its dead-letter queue and the event source mapping in front of it: for simulations.
//!
//! The rules are a pure state machine ([`QueueModel`]) that is told the time. [`SimulatedQueue`] runs it by a clock, makes
//! [events](lambda_event) of what it hands out, applies [answers](Answer), and is the [`Queue`] that a pipeline parks and
//! delays messages with, failing as planned. Everything that happens is kept, so that a test can ask whether a message was
//! lost.

mod event;
mod history;
mod mapping;
mod message;
mod model;
mod plan;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use microbatch::{
    Clock, Queue,
    clock::BoxFuture,
    queue::{DelayRequest, ParkRequest, QUEUE_BYTES_MAX, QUEUE_ENTRIES_MAX, QueueError, VISIBILITY_MAX_S},
};

use self::plan::{answer_lost, refused, throttled};
pub use self::{
    event::lambda_event,
    history::{Entry, Fault, History, What, Whereabouts},
    mapping::{Answer, apply},
    message::{DeadLetter, Delivery, NewMessage, Number},
    model::{QueueModel, QueueSettings, Refusal},
    plan::{CallFault, CallPlan, CallPlans, EntryFault, QueueCall, QueueOperation},
};

/// A queue that is simulated on a clock. Clones are one queue.
#[derive(Clone)]
pub struct SimulatedQueue {
    model: Arc<Mutex<QueueModel>>,
    clock: Arc<dyn Clock>,
    plans: Arc<CallPlans>,
    calls: Arc<AtomicU64>,
    can_park: bool,
    can_delay: bool,
}

/// What an invocation gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The messages, in the order of the event.
    pub deliveries: Vec<Delivery>,
    /// The event, as JSON.
    pub event: String,
}

impl SimulatedQueue {
    /// An empty queue, in which messages can be parked and delayed, and nothing fails.
    pub fn new(settings: QueueSettings, clock: Arc<dyn Clock>) -> Self {
        Self {
            model: Arc::new(Mutex::new(QueueModel::new(settings))),
            clock,
            plans: Arc::new(|_| CallPlan::default()),
            calls: Arc::default(),
            can_park: true,
            can_delay: true,
        }
    }

    /// Has the consumer's calls fail as planned.
    #[must_use]
    pub fn with_plans(mut self, plans: impl Fn(&QueueCall) -> CallPlan + Send + Sync + 'static) -> Self {
        self.plans = Arc::new(plans);
        self
    }

    /// Says what the consumer can do with it.
    #[must_use]
    pub fn that_can(mut self, park: bool, delay: bool) -> Self {
        (self.can_park, self.can_delay) = (park, delay);
        self
    }

    /// The state machine, to ask it or to change it. Must not be held over an `await`.
    pub fn model(&self) -> MutexGuard<'_, QueueModel> {
        // The model is changed by whole requests only: a panic elsewhere leaves no half of one behind.
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message from a producer now.
    ///
    /// # Errors
    /// [`Refusal::NoGroup`].
    pub fn send(&self, message: NewMessage) -> Result<Number, Refusal> {
        self.model().send(self.clock.now_ms(), message)
    }

    /// Receives up to `max` messages and makes an event of them; none when no message can be received now.
    pub fn poll(&self, max: usize) -> Option<Batch> {
        let mut model = self.model();
        let deliveries = model.receive(self.clock.now_ms(), max);
        let event = lambda_event(&deliveries, model.settings().fifo);
        (!deliveries.is_empty()).then_some(Batch { deliveries, event })
    }

    /// Does what the event source mapping does with an answer, and returns what was deleted.
    pub fn answer(&self, batch: &Batch, answer: Answer<'_>) -> Vec<Number> {
        apply(&mut self.model(), self.clock.now_ms(), &batch.deliveries, answer)
    }

    /// Waits until a message that is invisible now becomes visible. False, at once, when there is none.
    pub async fn next_visible(&self) -> bool {
        let next_ms = self.model().next_visible_ms(self.clock.now_ms());
        let Some(next_ms) = next_ms else { return false };
        self.clock.sleep_until(next_ms).await;
        true
    }

    /// Makes a call as it is planned: `apply` does one entry.
    async fn call<E: Sync>(
        &self,
        operation: QueueOperation,
        entries: &[E],
        apply: impl Fn(&mut QueueModel, u64, &E) -> Result<(), QueueError>,
    ) -> Vec<Result<(), QueueError>> {
        let nth = self.calls.fetch_add(1, Ordering::Relaxed);
        let plan = (self.plans)(&QueueCall { operation, nth, entries: entries.len() });
        match plan.call {
            CallFault::Throttled => return entries.iter().map(|_| Err(throttled())).collect(),
            CallFault::Refused => return entries.iter().map(|_| Err(refused())).collect(),
            CallFault::HangBefore => std::future::pending().await,
            CallFault::Slow(time) => {
                let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                self.clock.sleep_until(self.clock.now_ms().saturating_add(time_ms)).await;
            }
            CallFault::None | CallFault::AnswerLost | CallFault::HangAfter => {}
        }
        let answers = self.apply_entries(&plan, entries, apply);
        match plan.call {
            CallFault::HangAfter => std::future::pending().await,
            CallFault::AnswerLost => answers.into_iter().map(|_| Err(answer_lost())).collect(),
            _ => answers,
        }
    }

    fn apply_entries<E>(
        &self,
        plan: &CallPlan,
        entries: &[E],
        apply: impl Fn(&mut QueueModel, u64, &E) -> Result<(), QueueError>,
    ) -> Vec<Result<(), QueueError>> {
        let mut model = self.model();
        let now_ms = self.clock.now_ms();
        if !(1..=QUEUE_ENTRIES_MAX).contains(&entries.len()) {
            model.note_misuse(format!("expected 1 to {QUEUE_ENTRIES_MAX} entries in a call, found {}", entries.len()));
        }
        let mut answer = |(position, entry)| match plan.of_entry(position) {
            EntryFault::None => apply(&mut model, now_ms, entry),
            EntryFault::Throttled => Err(throttled()),
            EntryFault::Refused => Err(refused()),
            EntryFault::AnswerLost => apply(&mut model, now_ms, entry).and(Err(answer_lost())),
            EntryFault::Pretended => Ok(()),
        };
        entries.iter().enumerate().map(&mut answer).collect()
    }
}

impl Queue for SimulatedQueue {
    fn can_park(&self) -> bool {
        self.can_park
    }

    fn can_delay(&self) -> bool {
        self.can_delay
    }

    fn park<'a>(&'a self, entries: &'a [ParkRequest]) -> BoxFuture<'a, Vec<Result<(), QueueError>>> {
        let bytes: usize = entries.iter().map(park_bytes).sum();
        if bytes > QUEUE_BYTES_MAX {
            self.model().note_misuse(format!("expected at most {QUEUE_BYTES_MAX} bytes in a call, found {bytes}"));
        }
        Box::pin(self.call(QueueOperation::Park, entries, park_one))
    }

    fn delay<'a>(&'a self, entries: &'a [DelayRequest]) -> BoxFuture<'a, Vec<Result<(), QueueError>>> {
        Box::pin(self.call(QueueOperation::Delay, entries, delay_one))
    }
}

impl fmt::Debug for SimulatedQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedQueue").field("model", &self.model()).finish_non_exhaustive()
    }
}

/// What counts towards the size of a call: the body and the attributes ("Amazon SQS message quotas").
fn park_bytes(request: &ParkRequest) -> usize {
    let attributes = request.attributes.as_ref().map_or(0, |attributes| attributes.get().len());
    request.body.len() + attributes + request.reason.len()
}

fn park_one(model: &mut QueueModel, now_ms: u64, request: &ParkRequest) -> Result<(), QueueError> {
    let copy = NewMessage {
        body: request.body.to_string(),
        group: request.group.as_deref().map(str::to_owned),
        deduplication_id: request.deduplication_id.as_deref().map(str::to_owned),
        trace_header: request.trace_header.as_deref().map(str::to_owned),
        attributes: request.attributes.as_ref().map(|attributes| attributes.get().to_owned()),
    };
    model.park(now_ms, &request.message_id, copy, &request.reason).map_err(|refusal| {
        model.note_misuse(format!("a message was to be parked: {refusal}"));
        QueueError::lasting("not_parked", refusal.to_string())
    })
}

fn delay_one(model: &mut QueueModel, now_ms: u64, request: &DelayRequest) -> Result<(), QueueError> {
    if request.delay_s > VISIBILITY_MAX_S {
        model.note_misuse(format!("expected a delay of at most {VISIBILITY_MAX_S} s, found {}", request.delay_s));
    }
    model.change_visibility(now_ms, &request.receipt_handle, request.delay_s).map_err(|refusal| {
        if matches!(refusal, Refusal::NoHandle | Refusal::TooLong) {
            model.note_misuse(format!("a message was to be delayed by {} s: {refusal}", request.delay_s));
        }
        QueueError::lasting("not_delayed", refusal.to_string())
    })
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// A clock that stands still.
    struct At(u64);

    impl Clock for At {
        fn now_ms(&self) -> u64 {
            self.0
        }

        fn sleep_until(&self, at_ms: u64) -> BoxFuture<'static, ()> {
            if at_ms <= self.0 { Box::pin(std::future::ready(())) } else { Box::pin(std::future::pending()) }
        }
    }

    type Answers = Vec<Result<(), QueueError>>;

    fn poll_once(mut call: BoxFuture<'_, Answers>) -> Option<Answers> {
        match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answers) => Some(answers),
            Poll::Pending => None,
        }
    }

    fn queue_of_two(plan: CallPlan) -> (SimulatedQueue, Vec<ParkRequest>) {
        let settings = QueueSettings { fifo: false, visibility_timeout_ms: 30_000, max_receive_count: None };
        let queue = SimulatedQueue::new(settings, Arc::new(At(1_000))).with_plans(move |_| plan.clone());
        for _ in 0..2 {
            queue.send(NewMessage { body: "b".into(), ..NewMessage::default() }).expect("accepted");
        }
        let batch = queue.poll(10).expect("two messages");
        let request = |(index, delivery): (usize, &Delivery)| ParkRequest {
            index,
            message_id: delivery.message_id.as_str().into(),
            body: delivery.message.body.as_str().into(),
            attributes: None,
            group: None,
            deduplication_id: None,
            trace_header: None,
            reason: "{}".into(),
        };
        let requests = batch.deliveries.iter().enumerate().map(request).collect();
        (queue, requests)
    }

    fn parked(queue: &SimulatedQueue) -> Vec<usize> {
        queue.model().dead_letters().iter().map(|letter| letter.number.0).collect()
    }

    #[test]
    fn a_call_fails_as_a_whole_as_planned() {
        let (both, none) = (vec![0, 1], Vec::new());
        for (fault, answer, done) in [
            (CallFault::None, Some(Ok(())), &both),
            (CallFault::Throttled, Some(Err(throttled())), &none),
            (CallFault::Refused, Some(Err(refused())), &none),
            (CallFault::AnswerLost, Some(Err(answer_lost())), &both),
            (CallFault::HangBefore, None, &none),
            (CallFault::HangAfter, None, &both),
            (CallFault::Slow(std::time::Duration::from_millis(1)), None, &none),
        ] {
            let (queue, requests) = queue_of_two(CallPlan::of(fault));
            assert_eq!(
                poll_once(queue.park(&requests)),
                answer.map(|answer| vec![answer.clone(), answer]),
                "{fault:?}"
            );
            assert_eq!(parked(&queue), *done, "{fault:?}");
            assert_eq!(queue.model().check(|_| false), Ok(()));
        }
        assert!(throttled().is_retryable() && answer_lost().is_retryable() && !refused().is_retryable());
    }

    #[test]
    fn entries_fail_one_by_one_as_planned() {
        let entries = vec![EntryFault::Throttled, EntryFault::AnswerLost];
        let (queue, requests) = queue_of_two(CallPlan { call: CallFault::None, entries });
        assert_eq!(poll_once(queue.park(&requests)), Some(vec![Err(throttled()), Err(answer_lost())]));
        assert_eq!(parked(&queue), [1]);
    }

    #[test]
    fn who_breaks_a_rule_of_the_queue_is_found() {
        let (queue, _) = queue_of_two(CallPlan::default());
        poll_once(queue.delay(&[])).expect("answered");
        assert!(matches!(queue.model().check(|_| false), Err(Fault::Misused(_))), "a call without entries");
        let (queue, _) = queue_of_two(CallPlan::default());
        let request = DelayRequest { index: 0, receipt_handle: "receive-1-1".into(), delay_s: 43_201 };
        poll_once(queue.delay(&[request])).expect("answered");
        assert!(matches!(queue.model().check(|_| false), Err(Fault::Misused(_))), "more than 12 hours");
        let (queue, mut requests) = queue_of_two(CallPlan::default());
        requests[0].message_id = "another".into();
        poll_once(queue.park(&requests)).expect("answered");
        assert!(matches!(queue.model().check(|_| false), Err(Fault::Misused(_))), "a message that it does not know");
    }

    #[test]
    fn a_delay_holds_from_now_and_for_the_last_receive() {
        let (queue, _) = queue_of_two(CallPlan::default());
        let request = |handle: &str| DelayRequest { index: 0, receipt_handle: handle.into(), delay_s: 60 };
        let answers = poll_once(queue.delay(&[request("receive-1-1"), request("receive-2-7")])).expect("answered");
        assert_eq!(answers[0], Ok(()));
        assert!(answers[1].as_ref().is_err_and(|error| !error.is_retryable()));
        assert_eq!(queue.model().next_visible_ms(31_000), Some(61_000));
    }
}
