//! What the queue does for messages that are not done: takes them to the dead-letter queue, or delivers them later.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;

use super::{Phase, Run, Verdict};
use crate::{
    batcher::{Batch, Collector, Limits},
    control::backoff::DELAY_MAX_S,
    message::{Message, decode_str},
    outcome::Outcome,
    pipeline::calls::send_with_retries,
    policy::FifoFailure,
    processor::Processor,
    queue::{DelayRequest, ParkRequest, QUEUE_BYTES_MAX, QUEUE_ENTRIES_MAX, QueueError},
    store::Commit,
};

/// Calls to park that are out at once: they hold bodies (P11).
const PARKS_IN_FLIGHT_MAX: usize = 4;
/// Calls to delay that are out at once.
const DELAYS_IN_FLIGHT_MAX: usize = 8;
/// What a message counts in a call beside its body, its attributes and the reason: names and system attributes.
const ENTRY_BYTES: usize = 1_024;
/// Errors of the queue that a report holds.
const QUEUE_ERRORS_MAX: usize = 8;

/// What is to be asked of the queue.
pub(super) struct Requests {
    /// Rejected messages that wait to be parked. A body is copied when its turn comes.
    to_park: VecDeque<usize>,
    /// The verdicts of all that shall be parked, until it is known whether they were.
    parking: HashMap<usize, Verdict>,
    /// Entries of the next call to park.
    chunk: Collector<ParkRequest>,
    /// A complete call for which there is no place yet: one message can complete two.
    complete: Option<Batch<ParkRequest>>,
    parks_in_flight: usize,
    /// Messages, and when they are to be visible again, in epoch milliseconds.
    to_delay: VecDeque<(usize, u64)>,
    delays_in_flight: usize,
    /// Messages in those calls.
    delaying: usize,
}

/// What came of a call to the queue.
pub(super) enum QueueAnswers {
    Parked(Vec<(usize, Result<(), QueueError>)>),
    Delayed(Vec<(usize, u64, Result<(), QueueError>)>),
}

/// Why a message is in the dead-letter queue: the value of the one attribute that is added.
#[derive(Serialize)]
struct Reason<'r> {
    /// Version of this layout.
    v: u8,
    kind: &'static str,
    code: Option<&'static str>,
    error_type: Option<&'static str>,
    queue: Option<&'r str>,
    message_id: &'r str,
    receive_count: u32,
    first_seen_ms: Option<u64>,
    parked_ms: u64,
}

impl Default for Requests {
    fn default() -> Self {
        let at_most = |value| std::num::NonZeroUsize::new(value).unwrap_or(std::num::NonZeroUsize::MIN);
        let limits =
            Limits { count_max: at_most(QUEUE_ENTRIES_MAX), bytes_max: at_most(QUEUE_BYTES_MAX), linger_ms: 0 };
        Self {
            to_park: VecDeque::new(),
            parking: HashMap::new(),
            chunk: Collector::new(limits),
            complete: None,
            parks_in_flight: 0,
            to_delay: VecDeque::new(),
            delays_in_flight: 0,
            delaying: 0,
        }
    }
}

impl Requests {
    /// Whether nothing is left to ask, and all is answered.
    pub(super) fn is_done(&self) -> bool {
        self.parking.is_empty() && self.to_delay.is_empty() && self.delays_in_flight == 0
    }

    /// How many messages were to be delayed and are not known to be.
    pub(super) fn undelayed(&self) -> usize {
        self.to_delay.len() + self.delaying
    }

    /// The verdict of a message that was to be parked, as it stands without.
    pub(super) fn give_up_park(&mut self, index: usize) -> Option<Verdict> {
        self.parking.remove(&index)
    }
}

impl<P: Processor, S: Commit<P::Write>> Run<'_, P, S> {
    /// Whether a message goes to the dead-letter queue at once: trying again cannot help it.
    pub(super) fn shall_park(&self, index: usize, verdict: &Verdict) -> bool {
        matches!(verdict.outcome, Outcome::Rejected | Outcome::Conflict)
            && (self.shared.config.fifo_failure == FifoFailure::ParkAndContinue
                || !self.messages[index].is_from_fifo_queue())
            && self.phase < Phase::Over
            && self.shared.queue.as_ref().is_some_and(|queue| queue.0.can_park())
    }

    pub(super) fn park(&mut self, index: usize, verdict: Verdict) {
        self.requests.parking.insert(index, verdict);
        self.requests.to_park.push_back(index);
    }

    /// Sends what is to be parked, as far as there may be calls.
    pub(super) fn send_parks(&mut self) {
        while self.requests.parks_in_flight < PARKS_IN_FLIGHT_MAX {
            if let Some(batch) = self.requests.complete.take() {
                self.send_park(batch);
                continue;
            }
            let Some(index) = self.requests.to_park.pop_front() else { break };
            match self.park_request(index) {
                Some((request, bytes)) => match self.requests.chunk.push(request, bytes, 0) {
                    Ok(batches) => batches.into_iter().for_each(|batch| self.send_park_or_keep(batch)),
                    Err(_) => self.park_answered(index, Err(does_not_fit())),
                },
                None => self.park_answered(index, Err(does_not_fit())),
            }
        }
        if self.requests.parks_in_flight < PARKS_IN_FLIGHT_MAX
            && let Some(batch) = self.requests.chunk.flush_idle()
        {
            self.send_park(batch);
        }
    }

    /// None where the message has no body that could be sent.
    fn park_request(&self, index: usize) -> Option<(ParkRequest, usize)> {
        let message = &self.messages[index];
        let verdict = self.requests.parking.get(&index)?;
        let body = decode_str(message.body?.get())?;
        let reason = reason(message, verdict, self.shared.clock.now_ms());
        let attributes = message.message_attributes.map(ToOwned::to_owned);
        let attribute_bytes = attributes.as_ref().map_or(0, |attributes| attributes.get().len());
        let bytes = body.len() + attribute_bytes + reason.len() + ENTRY_BYTES;
        let request = ParkRequest {
            index,
            message_id: (&*message.id).into(),
            body: body.into(),
            attributes,
            group: message.group.as_deref().map(Box::from),
            deduplication_id: message.deduplication_id.as_deref().map(Box::from),
            trace_header: message.trace_header.as_deref().map(Box::from),
            reason: reason.into(),
        };
        Some((request, bytes))
    }

    fn send_park_or_keep(&mut self, batch: Batch<ParkRequest>) {
        if self.requests.parks_in_flight < PARKS_IN_FLIGHT_MAX {
            self.send_park(batch);
        } else {
            self.requests.complete = Some(batch);
        }
    }

    fn send_park(&mut self, batch: Batch<ParkRequest>) {
        let Some(queue) = self.shared.queue.as_ref() else { return };
        let (caller, give_up_ms) = (self.caller(), self.schedule.over_ms);
        self.requests.parks_in_flight += 1;
        self.queue_calls.push(Box::pin(async move {
            let indexes: Vec<usize> = batch.entries.iter().map(|request| request.index).collect();
            let answers = send_with_retries(queue, caller, batch.entries, give_up_ms).await;
            QueueAnswers::Parked(indexes.into_iter().zip(answers).collect())
        }));
    }

    pub(super) fn queue_answered(&mut self, answers: QueueAnswers) {
        match answers {
            QueueAnswers::Parked(answers) => {
                self.requests.parks_in_flight -= 1;
                for (index, answer) in answers {
                    self.park_answered(index, answer);
                }
            }
            QueueAnswers::Delayed(answers) => {
                self.requests.delays_in_flight -= 1;
                self.requests.delaying -= answers.len();
                for (index, until_ms, answer) in answers {
                    self.delay_answered(index, until_ms, answer);
                }
            }
        }
    }

    /// Acknowledged only where the send of this very message succeeded (P1).
    fn park_answered(&mut self, index: usize, answer: Result<(), QueueError>) {
        let Some(mut verdict) = self.requests.parking.remove(&index) else { return };
        match answer {
            Ok(()) => verdict.parked = true,
            Err(error) => {
                self.counts.parks_failed += 1;
                self.note_queue_error(error);
            }
        }
        self.close(index, verdict);
    }

    // --- delays ---------------------------------------------------------------------------------------------------

    /// When a message that is not done shall be visible again; none: after the queue's own visibility timeout.
    pub(super) fn visible_at_ms(&self, index: usize, verdict: &Verdict) -> Option<u64> {
        let backoff = self.shared.backoff.as_ref()?;
        let now_ms = self.shared.clock.now_ms();
        // A lease holds to the end of its last millisecond: at that time the message would be busy once more.
        let free_ms = verdict.busy_until_ms.map(|until_ms| until_ms.saturating_add(1));
        match verdict.outcome {
            // Acknowledged, or left to the redrive policy, the sooner the better.
            Outcome::Processed | Outcome::Duplicate | Outcome::Rejected | Outcome::Conflict => return None,
            // Every delivery burns a receive: also one in which the message never started, or was busy. A copy of a message
            // that failed is busy only until its holder has given up, and an outage lasts longer (P12).
            Outcome::Failed | Outcome::Abandoned | Outcome::Busy => {}
        }
        let delay_s = backoff.delay_s(self.messages[index].receive_count, &*self.shared.random);
        let backed_off_ms = now_ms.saturating_add(delay_s.saturating_mul(1_000));
        let asked_ms = now_ms.saturating_add(verdict.retry_after_ms.unwrap_or(0));
        let open_until_ms = self.shared.control.as_ref().and_then(|control| control.open_until_ms(now_ms));
        let at_ms = [free_ms, open_until_ms].into_iter().flatten().fold(backed_off_ms.max(asked_ms), u64::max);
        Some(at_ms.min(now_ms.saturating_add(DELAY_MAX_S * 1_000)))
    }

    pub(super) fn delay(&mut self, index: usize, until_ms: u64) {
        if self.messages[index].receipt_handle.is_none() {
            return;
        }
        if self.phase < Phase::Over {
            self.requests.to_delay.push_back((index, until_ms));
        } else {
            self.counts.delays_failed += 1;
        }
    }

    /// Sends full calls at once, and a smaller one when nothing can join it.
    pub(super) fn send_delays(&mut self) {
        let last = self.undecided == 0 || self.phase > Phase::Running;
        while self.requests.delays_in_flight < DELAYS_IN_FLIGHT_MAX {
            let waiting = self.requests.to_delay.len();
            if waiting == 0 || (waiting < QUEUE_ENTRIES_MAX && !last) {
                return;
            }
            let chunk: Vec<_> = self.requests.to_delay.drain(..waiting.min(QUEUE_ENTRIES_MAX)).collect();
            self.send_delay(chunk);
        }
    }

    fn send_delay(&mut self, chunk: Vec<(usize, u64)>) {
        let Some(queue) = self.shared.queue.as_ref() else { return };
        let now_ms = self.shared.clock.now_ms();
        let request = |&(index, until_ms): &(usize, u64)| DelayRequest {
            index,
            receipt_handle: self.messages[index].receipt_handle.as_deref().unwrap_or_default().into(),
            delay_s: until_ms.saturating_sub(now_ms).div_ceil(1_000),
        };
        let requests: Vec<DelayRequest> = chunk.iter().map(request).collect();
        let (caller, give_up_ms) = (self.caller(), self.schedule.over_ms);
        self.requests.delays_in_flight += 1;
        self.requests.delaying += chunk.len();
        self.queue_calls.push(Box::pin(async move {
            let answers = send_with_retries(queue, caller, requests, give_up_ms).await;
            let answers = chunk.into_iter().zip(answers).map(|((index, until_ms), answer)| (index, until_ms, answer));
            QueueAnswers::Delayed(answers.collect())
        }));
    }

    /// That a delay could not be set changes nothing: the message comes back after the queue's own visibility timeout.
    fn delay_answered(&mut self, index: usize, until_ms: u64, answer: Result<(), QueueError>) {
        match (answer, &mut self.verdicts[index]) {
            (Ok(()), Some(verdict)) => verdict.delayed_until_ms = Some(until_ms),
            (Ok(()), None) => {}
            (Err(error), _) => {
                self.counts.delays_failed += 1;
                self.note_queue_error(error);
            }
        }
    }

    /// Keeps an error for the report.
    fn note_queue_error(&mut self, error: QueueError) {
        if self.queue_errors.len() < QUEUE_ERRORS_MAX && !self.queue_errors.contains(&error) {
            self.queue_errors.push(error);
        }
    }
}

fn does_not_fit() -> QueueError {
    QueueError::lasting(
        "park_does_not_fit",
        "expected a message that fits with its reason, found one without a body or too large; it is left to the redrive policy",
    )
}

fn reason(message: &Message<'_>, verdict: &Verdict, now_ms: u64) -> String {
    let reason = Reason {
        v: 1,
        kind: verdict.kind.map_or("permanent", crate::error::FailureKind::as_str),
        code: verdict.code,
        error_type: verdict.error_type,
        queue: message.source_arn.as_deref(),
        message_id: &message.id,
        receive_count: message.receive_count,
        first_seen_ms: message.first_received_ms,
        parked_ms: now_ms,
    };
    serde_json::to_string(&reason).unwrap_or_default()
}
