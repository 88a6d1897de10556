//! How a batch is sent: in tries, of which each takes what can go, and on a FIFO queue one entry of a group at a time.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    num::NonZeroU32,
    sync::Arc,
};

use aws_sdk_sqs::{Client, types::SendMessageBatchRequestEntry};
use futures_util::future::{Either, select};
use microbatch::{Clock, Random, queue::QueueError};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    answer::{self, Sent},
    error::{TIMED_OUT, UNAVAILABLE},
    order::{Notice, Ticket},
    send_error::{SendError, Tries},
};

/// The pause after a first failure, in milliseconds. It doubles with every further one.
const BACKOFF_MS: u64 = 100;
/// The longest pause, in milliseconds.
const BACKOFF_MAX_MS: u64 = 5_000;
/// How finely pauses are spread, between their half and their whole.
const JITTER_STEPS: u64 = 1_000;

/// The one request that a producer makes. A trait so that tests can answer it: a real queue cannot be made to fail single
/// entries, or to lose its answers to them, and a schedule of such failures has to be played ten thousand times.
pub(super) trait SendBatch: Send + Sync + 'static {
    /// Sends entries in one request, and answers each in order.
    fn send(
        &self,
        entries: Vec<SendMessageBatchRequestEntry>,
    ) -> impl Future<Output = Vec<Result<Sent, QueueError>>> + Send;
}

/// A real queue.
pub(super) struct Queue {
    pub(super) client: Client,
    pub(super) url: String,
}

impl SendBatch for Queue {
    async fn send(&self, entries: Vec<SendMessageBatchRequestEntry>) -> Vec<Result<Sent, QueueError>> {
        answer::send(&self.client, &self.url, entries).await
    }
}

/// A message under way.
pub(super) struct Outgoing {
    pub(super) entry: SendMessageBatchRequestEntry,
    pub(super) bytes: usize,
    pub(super) reply: Reply,
    /// The bytes that it takes up.
    pub(super) _room: OwnedSemaphorePermit,
}

/// A message that was not sent, and the news of that.
pub(super) struct Failure {
    pub(super) error: SendError,
    pub(super) _notice: Option<Notice>,
}

/// Where the result of a message goes, and its place in its group. Dropped without a result it says so.
pub(super) struct Reply {
    sender: Option<oneshot::Sender<Result<Sent, Failure>>>,
    ticket: Option<Ticket>,
    stage: Stage,
}

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// For room, or a batch. Its sender may take it back.
    Waiting,
    InBatch,
    /// It may be in the queue.
    Tried,
}

impl Reply {
    pub(super) fn new(sender: oneshot::Sender<Result<Sent, Failure>>, ticket: Option<Ticket>) -> Self {
        Self { sender: Some(sender), ticket, stage: Stage::Waiting }
    }

    fn sent(mut self, sent: Sent) {
        if let Some(sender) = self.sender.take() {
            // Nobody may be waiting any more.
            let _ = sender.send(Ok(sent));
        }
    }

    /// The message was not sent, and those behind it in its group must not be.
    fn failed(&mut self, error: SendError) {
        let notice = self.ticket.as_ref().map(Ticket::fail);
        self.refuse(error, notice);
    }

    fn refuse(&mut self, error: SendError, notice: Option<Notice>) {
        let Some(sender) = self.sender.take() else { return };
        let unread = sender.send(Err(Failure { error, _notice: notice }));
        if let Err(Err(Failure { error, .. })) = unread
            && self.stage != Stage::Waiting
        {
            let code = error.code();
            tracing::warn!(target: "microbatch::producer", code, "a message was not sent, and nobody waits for its result");
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        match self.stage {
            _ if self.sender.is_none() => {}
            Stage::Waiting => self.refuse(SendError::Closed, None),
            Stage::InBatch => self.failed(SendError::Closed),
            Stage::Tried => self.failed(SendError::Abandoned),
        }
    }
}

/// How often and how long a message is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct TryLimits {
    pub(super) tries_max: NonZeroU32,
    /// Longest time for one try.
    pub(super) try_timeout_ms: u64,
    /// No try begins later than this after the message's first.
    pub(super) give_up_ms: u64,
}

/// Sends batches.
pub(super) struct Delivery<B> {
    pub(super) queue: B,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    pub(super) limits: TryLimits,
}

/// A message of the batch that has no result yet.
struct Pending {
    outgoing: Outgoing,
    tries: Tries,
    /// When it was tried first.
    first_ms: Option<u64>,
    /// When it may be tried again, and what was wrong the last time.
    due_ms: u64,
    last: Option<QueueError>,
}

impl Pending {
    fn new(mut outgoing: Outgoing) -> Self {
        outgoing.reply.stage = Stage::InBatch;
        Self { outgoing, tries: Tries::default(), first_ms: None, due_ms: 0, last: None }
    }

    fn group(&self) -> Option<&Arc<str>> {
        self.outgoing.reply.ticket.as_ref().map(Ticket::group)
    }

    fn is_order_broken(&self) -> bool {
        self.outgoing.reply.ticket.as_ref().is_some_and(Ticket::is_refused)
    }
}

impl<B: SendBatch> Delivery<B> {
    /// Sends the messages of a batch, and gives each its result as soon as there is one.
    pub(super) async fn deliver(&self, batch: Vec<Outgoing>) {
        let mut pending: Vec<Pending> = batch.into_iter().map(Pending::new).collect();
        loop {
            let now_ms = self.clock.now_ms();
            pending = refuse_broken(self.give_up_late(pending, now_ms));
            let heads = heads(&pending);
            let Some(due_ms) = heads.iter().map(|index| pending[*index].due_ms).min() else { return };
            if due_ms > now_ms {
                self.clock.sleep_until(due_ms).await;
                continue;
            }
            let wave: Vec<usize> = heads.into_iter().filter(|index| pending[*index].due_ms <= now_ms).collect();
            for index in &wave {
                pending[*index].first_ms.get_or_insert(now_ms);
                pending[*index].outgoing.reply.stage = Stage::Tried;
            }
            let results = self.attempt(&pending, &wave, now_ms).await;
            pending = self.settle(pending, &wave, results);
        }
    }

    /// One request for these messages.
    async fn attempt(&self, pending: &[Pending], wave: &[usize], now_ms: u64) -> Vec<Result<Sent, QueueError>> {
        let entries = wave.iter().enumerate().map(|(position, index)| {
            let mut entry = pending[*index].outgoing.entry.clone();
            entry.id = position.to_string();
            entry
        });
        let request = std::pin::pin!(self.queue.send(entries.collect()));
        let timeout = self.clock.sleep_until(now_ms.saturating_add(self.limits.try_timeout_ms));
        let mut results = match select(request, timeout).await {
            Either::Left((results, _)) => results,
            Either::Right(((), _)) => {
                vec![Err(QueueError::passing(TIMED_OUT, "SendMessageBatch: no answer in time")); wave.len()]
            }
        };
        results.resize_with(wave.len(), || Err(QueueError::passing(UNAVAILABLE, "SendMessageBatch: no answer")));
        results
    }

    /// Hands out what is final, and keeps what is to be tried again.
    fn settle(&self, pending: Vec<Pending>, wave: &[usize], results: Vec<Result<Sent, QueueError>>) -> Vec<Pending> {
        let now_ms = self.clock.now_ms();
        // One draw for all, so that what failed together is tried together.
        let jitter = self.random.below(JITTER_STEPS);
        let mut results: HashMap<usize, _> = wave.iter().copied().zip(results).collect();
        let settle_one = |(index, message): (usize, Pending)| match results.remove(&index) {
            None => Some(message),
            Some(Ok(sent)) => {
                message.outgoing.reply.sent(sent);
                None
            }
            Some(Err(error)) => self.judge(message, error, now_ms, jitter),
        };
        pending.into_iter().enumerate().filter_map(settle_one).collect()
    }

    /// Gives up what was held up by others for so long that it must not be tried again.
    fn give_up_late(&self, pending: Vec<Pending>, now_ms: u64) -> Vec<Pending> {
        let keep = |mut message: Pending| match message.last.take_if(|_| now_ms > self.last_try_ms(message.first_ms)) {
            None => Some(message),
            Some(error) => give_up(message, error),
        };
        pending.into_iter().filter_map(keep).collect()
    }

    /// When a message that was tried first at `first_ms` may be tried for the last time.
    fn last_try_ms(&self, first_ms: Option<u64>) -> u64 {
        first_ms.map_or(u64::MAX, |first_ms| first_ms.saturating_add(self.limits.give_up_ms))
    }

    fn judge(&self, mut message: Pending, error: QueueError, now_ms: u64, jitter: u64) -> Option<Pending> {
        message.tries.failed(&error);
        let due_ms = now_ms.saturating_add(backoff_ms(message.tries.count, jitter));
        let has_time = due_ms <= self.last_try_ms(message.first_ms);
        if error.is_retryable() && message.tries.count < self.limits.tries_max.get() && has_time {
            (message.due_ms, message.last) = (due_ms, Some(error));
            return Some(message);
        }
        give_up(message, error)
    }
}

/// The message is not tried again. Nothing is left of it.
fn give_up(mut message: Pending, error: QueueError) -> Option<Pending> {
    message.outgoing.reply.failed(message.tries.into_error(error));
    None
}

/// Refuses those that would overtake a message of their group.
fn refuse_broken(pending: Vec<Pending>) -> Vec<Pending> {
    let keep = |mut message: Pending| {
        if !message.is_order_broken() {
            return Some(message);
        }
        message.outgoing.reply.refuse(SendError::OrderBroken, None);
        None
    };
    pending.into_iter().filter_map(keep).collect()
}

/// Those that may go next: the first of each group, and what has no order.
fn heads(pending: &[Pending]) -> Vec<usize> {
    let mut groups = HashSet::new();
    let is_head = |index: &usize| pending[*index].group().is_none_or(|group| groups.insert(group));
    (0..pending.len()).filter(is_head).collect()
}

/// The pause after this many failures: between the half and the whole of one that doubles each time.
fn backoff_ms(failures: u32, jitter: u64) -> u64 {
    let doublings = failures.saturating_sub(1).min(16);
    let whole = (BACKOFF_MS << doublings).min(BACKOFF_MAX_MS);
    whole / 2 + whole / 2 * jitter / JITTER_STEPS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_are_spread_over_their_second_half() {
        let spread = |failures| (backoff_ms(failures, 0), backoff_ms(failures, JITTER_STEPS - 1));
        assert_eq!([spread(1), spread(2), spread(3)], [(50, 99), (100, 199), (200, 399)]);
        assert_eq!([spread(7), spread(u32::MAX)], [(2_500, 4_997); 2]);
    }
}
