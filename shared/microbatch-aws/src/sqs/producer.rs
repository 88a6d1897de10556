//! Sending many messages to a queue, in batches.

use std::{
    fmt,
    future::Future,
    num::{NonZeroU32, NonZeroUsize},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use aws_sdk_sqs::Client;
use microbatch::{
    Clock, Random,
    batcher::{Batch, Batcher, Bounds, Limits},
    clock::BoxFuture,
    queue::QUEUE_BYTES_MAX,
};
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

use super::{
    answer::Sent,
    delivery::{Delivery, Failure, Outgoing, Queue, Reply, SendBatch, TryLimits},
    message::OutgoingMessage,
    order::Order,
    queue::SEND_LIMITS,
    rules::is_fifo,
    send_error::SendError,
};
use crate::clock::SystemRandom;

/// Longest time that a message is tried for. SQS drops repetitions for five minutes: the last one must come within them.
const GIVE_UP_MAX_MS: u64 = 240_000;
/// Longest time for one try.
const TRY_TIMEOUT_MAX_MS: u64 = 30_000;
/// Least room in bytes: a batch, and the message that does not fit into it any more.
const BYTES_MIN: usize = 2 * QUEUE_BYTES_MAX;

/// How a [`SqsProducer`] works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerOptions {
    /// Longest time that a message waits for others to fill its batch, in milliseconds. 0: it waits only while a batch before
    /// it is on its way. Default 10.
    pub linger_ms: u64,
    /// Most messages waiting or on their way; whoever sends more waits. Default 1,000.
    pub entries_max: NonZeroUsize,
    /// Most bytes of messages waiting or on their way; whoever sends more waits. At least 2 MiB, and less counts as that.
    /// Default 16 MiB.
    pub bytes_max: usize,
    /// Most batches on their way at once. On a FIFO queue there is one, whatever is said here. Default 4.
    pub batches_in_flight_max: NonZeroUsize,
    /// How often a message is tried, the first time included. Default 5.
    pub tries_max: NonZeroU32,
    /// Longest time for one try, in milliseconds: at most 30,000, and more counts as that. Default 5,000.
    pub try_timeout_ms: u64,
    /// No try begins later than this after a message's first, in milliseconds: at most 240,000, and more counts as that, since
    /// SQS drops repetitions for five minutes. Default 30,000.
    pub give_up_ms: u64,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        const fn count(value: usize) -> NonZeroUsize {
            NonZeroUsize::new(value).expect("not zero")
        }
        Self {
            linger_ms: 10,
            entries_max: count(1_000),
            bytes_max: 16 * 1_048_576,
            batches_in_flight_max: count(4),
            tries_max: NonZeroU32::new(5).expect("not zero"),
            try_timeout_ms: 5_000,
            give_up_ms: 30_000,
        }
    }
}

/// Sends messages to a queue, ten to a request, and gives each its own result. Cheap to clone; clones are one producer.
///
/// What it holds is bounded in messages and bytes: when there is no room, senders wait (P11). A message that failed by the
/// service's fault, or whose request was throttled or not answered, is sent again, alone or with others like it, after a
/// pause that doubles and is spread; what is the message's own fault is final.
///
/// Delivery is at least once. A message whose answer was lost is sent again; a FIFO queue drops the repetition by its
/// deduplication id, a standard queue has it twice.
///
/// On a FIFO queue, whose URL ends in `.fifo`, the order of a group is that of the calls: one request is on its way at a time,
/// with one message of a group. Many groups make full requests, a single group makes requests of one message; while a message
/// is tried again, the batches behind its own wait, those of other groups too. When a message failed for good, those of its
/// group that were enqueued before the failure was known are not sent ([`SendError::OrderBroken`]): it is known once its
/// result was read, or its receipt dropped. A message that was given up without an answer ([`SendError::may_be_sent`]) can
/// still arrive late, and then behind later ones.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use microbatch_aws::{clock::SystemClock, sdk::{sdk_config, sqs_client}};
/// use microbatch_aws::sqs::{OutgoingMessage, ProducerOptions, SqsProducer};
///
/// let client = sqs_client(&sdk_config().await, 5_000);
/// let queue_url = "https://sqs.eu-west-1.amazonaws.com/123456789012/ledger.fifo";
/// let (producer, driver) = SqsProducer::new(client, queue_url, ProducerOptions::default(), Arc::new(SystemClock));
/// // With this block goes the last handle, which closes the producer and ends the driver, also after an error.
/// let work = async move {
///     let first = producer.enqueue(OutgoingMessage::new("debit").group("account-7")).await?;
///     let second = producer.enqueue(OutgoingMessage::new("credit").group("account-7")).await?;
///     println!("{} and {}", first.await?.message_id, second.await?.message_id);
///     Ok::<_, microbatch_aws::sqs::SendError>(())
/// };
/// let (sent, ()) = tokio::join!(work, driver);
/// sent?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqsProducer {
    batcher: Batcher<Outgoing, ()>,
    /// Room for bytes, waiting or on their way. The batcher bounds messages.
    bytes: Arc<Semaphore>,
    /// What must keep its order: on a FIFO queue only.
    pub(super) order: Option<Arc<Order>>,
    random: Arc<dyn Random>,
}

impl SqsProducer {
    /// A producer, and the driver that must be polled for it to work: beside the senders by `join!`, or spawned.
    ///
    /// The client must have its retries off ([`crate::sdk::sqs_client`]), so that tries are bounded and counted here. The
    /// role needs `sqs:SendMessage` on the queue.
    pub fn new(
        client: Client,
        queue_url: impl Into<String>,
        options: ProducerOptions,
        clock: Arc<dyn Clock>,
    ) -> (Self, ProducerDriver) {
        let queue = Queue { client, url: queue_url.into() };
        let fifo = is_fifo(&queue.url);
        Self::with_queue(queue, fifo, options, clock, Arc::new(SystemRandom))
    }

    pub(super) fn with_queue(
        queue: impl SendBatch,
        fifo: bool,
        options: ProducerOptions,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> (Self, ProducerDriver) {
        let limits = TryLimits {
            tries_max: options.tries_max,
            try_timeout_ms: options.try_timeout_ms.min(TRY_TIMEOUT_MAX_MS),
            give_up_ms: options.give_up_ms.min(GIVE_UP_MAX_MS),
        };
        let delivery = Arc::new(Delivery { queue, clock: Arc::clone(&clock), random: Arc::clone(&random), limits });
        let sink = move |batch: Batch<Outgoing>| {
            let delivery = Arc::clone(&delivery);
            async move {
                let count = batch.entries.len();
                delivery.deliver(batch.entries).await;
                vec![(); count]
            }
        };
        let in_flight_max = if fifo { NonZeroUsize::MIN } else { options.batches_in_flight_max };
        let bounds = Bounds { entries_max: options.entries_max, batches_in_flight_max: in_flight_max };
        let limits = Limits { linger_ms: options.linger_ms, ..SEND_LIMITS };
        let size = |outgoing: &Outgoing| outgoing.bytes;
        let (batcher, driver) = Batcher::new(limits, bounds, clock, size, sink);
        let bytes = Arc::new(Semaphore::new(options.bytes_max.clamp(BYTES_MIN, Semaphore::MAX_PERMITS)));
        let order = fifo.then(Arc::default);
        (Self { batcher, bytes, order, random }, ProducerDriver(Box::pin(driver)))
    }

    /// Sends a message with others, and waits until SQS has it. Waits for room first, in the order of the calls.
    ///
    /// Dropped while it waits for room, it takes the message back; later, it only gives up the result.
    ///
    /// # Errors
    /// [`SendError`]: what SQS would refuse before anything is sent, and what became of it after that.
    pub async fn send(&self, message: OutgoingMessage) -> Result<Sent, SendError> {
        self.enqueue(message).await?.await
    }

    /// Waits until there is room for a message, not for its result: that is what the receipt is for.
    ///
    /// Messages that one task enqueues are sent in that order.
    ///
    /// # Errors
    /// What SQS would refuse, and [`SendError::Closed`].
    pub async fn enqueue(&self, message: OutgoingMessage) -> Result<SendReceipt, SendError> {
        let make_id = || Uuid::from_u128(self.random.next_u128()).to_string();
        let checked = message.into_entry(self.order.is_some(), make_id)?;
        // Taken before there is room: what waits for it when a failure becomes known was enqueued before.
        let ticket = match (&self.order, &checked.group) {
            (Some(order), Some(group)) => Some(order.enter(group)),
            _ => None,
        };
        let bytes = u32::try_from(checked.bytes).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.bytes).acquire_many_owned(bytes).await else { return Err(SendError::Closed) };
        let (sender, receiver) = oneshot::channel();
        let reply = Reply::new(sender, ticket);
        let outgoing = Outgoing { entry: checked.entry, bytes: checked.bytes, reply, _room: room };
        // The batcher's receipt comes with its whole batch; a message's own result comes as soon as it is there.
        match self.batcher.enqueue(outgoing).await {
            Ok(_with_the_batch) => Ok(SendReceipt(receiver)),
            Err(_) => Err(SendError::Closed),
        }
    }

    /// Accepts no more: who waits for room is refused. What was accepted is sent at once, and the driver ends when the last
    /// result is there. Dropping the last clone does the same.
    pub fn close(&self) {
        self.bytes.close();
        self.batcher.close();
    }
}

impl fmt::Debug for SqsProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqsProducer")
            .field("bytes_left", &self.bytes.available_permits())
            .field("fifo", &self.order.is_some())
            .field("batcher", &self.batcher)
            .finish_non_exhaustive()
    }
}

/// Does a producer's work while it is polled: a plain future, without a task of its own.
///
/// It ends when the producer is closed and every message has its result. Dropped before, it refuses the messages that were
/// not sent, and cancels the requests on their way.
#[must_use = "a producer does nothing unless its driver is polled"]
pub struct ProducerDriver(BoxFuture<'static, ()>);

impl Future for ProducerDriver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ProducerDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerDriver").finish_non_exhaustive()
    }
}

/// The result to come of a message that was accepted: a future. Dropping it gives up the result, not the message.
///
/// On a FIFO queue, keep it only as long as you look at it: a failure counts as known when this was polled to its end, or
/// dropped, and until then no message of the group is sent.
#[must_use = "the result of the message comes out of it"]
pub struct SendReceipt(oneshot::Receiver<Result<Sent, Failure>>);

impl Future for SendReceipt {
    type Output = Result<Sent, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|outcome| match outcome {
            Ok(Ok(sent)) => Ok(sent),
            Ok(Err(Failure { error, .. })) => Err(error),
            Err(_) => Err(SendError::Abandoned),
        })
    }
}

impl fmt::Debug for SendReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendReceipt").finish_non_exhaustive()
    }
}
