//! The queue's side of failures, on SQS: parking and delaying.

use std::{fmt, num::NonZeroUsize};

use aws_sdk_sqs::{
    Client,
    types::{ChangeMessageVisibilityBatchRequestEntry, SendMessageBatchRequestEntry},
};
use microbatch::{
    Queue,
    batcher::{Collector, Limits},
    clock::BoxFuture,
    queue::{DelayRequest, ParkRequest, QUEUE_BYTES_MAX, QUEUE_ENTRIES_MAX, QueueError, VISIBILITY_MAX_S},
};

use super::{
    answer::{Answer, by_entry, send},
    error::{REFUSED, UNAVAILABLE, request_error},
    park::{ParkEntry, park_entry},
    rules::{is_fifo, queue_name},
};

const DELAY: &str = "ChangeMessageVisibilityBatch";

/// What SQS takes in one `SendMessageBatch`.
pub(super) const SEND_LIMITS: Limits = Limits {
    count_max: NonZeroUsize::new(QUEUE_ENTRIES_MAX).expect("not zero"),
    bytes_max: NonZeroUsize::new(QUEUE_BYTES_MAX).expect("not zero"),
    linger_ms: 0,
};

/// An SQS queue whose messages are parked in another one, or delayed.
///
/// ```no_run
/// # async fn example() {
/// use microbatch_aws::{sdk::{sdk_config, sqs_client}, sqs::SqsQueue};
///
/// let client = sqs_client(&sdk_config().await, 2_000);
/// let queue = SqsQueue::new(client, "https://sqs.eu-west-1.amazonaws.com/123456789012/orders")
///     .park_in("https://sqs.eu-west-1.amazonaws.com/123456789012/orders-dlq")
///     .delays(true);
/// if let Err(problems) = queue.check().await {
///     eprintln!("{} are wrong", problems.len());
/// }
/// # }
/// ```
///
/// It makes one try a request: the client must have its retries off ([`crate::sdk::sqs_client`]). The role needs
/// `sqs:SendMessage` on the park queue, and for delays `sqs:ChangeMessageVisibility` on the source queue;
/// `sqs:GetQueueAttributes` on both for [`SqsQueue::check`], which does without.
#[derive(Clone)]
pub struct SqsQueue {
    pub(super) client: Client,
    pub(super) source_url: String,
    pub(super) park_url: Option<String>,
    pub(super) delays: bool,
}

impl SqsQueue {
    /// The queue that the messages come from. It neither parks nor delays yet.
    pub fn new(client: Client, source_queue_url: impl Into<String>) -> Self {
        Self { client, source_url: source_queue_url.into(), park_url: None, delays: false }
    }

    /// Parks messages in the queue of this URL: FIFO exactly if the source queue is, in the client's region.
    #[must_use]
    pub fn park_in(mut self, park_queue_url: impl Into<String>) -> Self {
        self.park_url = Some(park_queue_url.into());
        self
    }

    /// Whether messages are delayed. Default: no.
    #[must_use]
    pub fn delays(mut self, on: bool) -> Self {
        self.delays = on;
        self
    }

    async fn park_all(&self, requests: &[ParkRequest]) -> Vec<Result<(), QueueError>> {
        let Some(park_url) = &self.park_url else {
            return refuse_all(requests.len(), "there is no queue to park in");
        };
        let mut answers = unanswered(requests.len());
        let mut collector = Collector::new(SEND_LIMITS);
        let mut batches = Vec::new();
        for (position, request) in requests.iter().enumerate() {
            match park_entry(position, request, is_fifo(park_url)) {
                // An entry fits a batch, since one that does not was refused.
                Ok(ParkEntry { entry, bytes }) => {
                    batches.extend(collector.push((position, entry), bytes, 0).into_iter().flatten());
                }
                Err(error) => answers[position] = Err(error),
            }
        }
        batches.extend(collector.close());
        // One, unless the caller counts sizes in another way. In order, which counts in a FIFO queue.
        for batch in batches {
            let (positions, entries): (Vec<usize>, Vec<SendMessageBatchRequestEntry>) =
                batch.entries.into_iter().unzip();
            let results = send(&self.client, park_url, entries).await;
            for (position, result) in positions.into_iter().zip(results) {
                answers[position] = result.map(|_| ());
            }
        }
        answers
    }

    async fn delay_all(&self, requests: &[DelayRequest]) -> Vec<Result<(), QueueError>> {
        if !self.delays {
            return refuse_all(requests.len(), "messages are not delayed");
        }
        let mut answers = Vec::with_capacity(requests.len());
        for requests in requests.chunks(QUEUE_ENTRIES_MAX) {
            answers.extend(self.delay_batch(requests).await);
        }
        answers
    }

    async fn delay_batch(&self, requests: &[DelayRequest]) -> Vec<Result<(), QueueError>> {
        let ids: Vec<String> = (0..requests.len()).map(|position| position.to_string()).collect();
        let entries = requests.iter().zip(&ids).map(|(request, id)| {
            let delay_s = i32::try_from(request.delay_s.min(VISIBILITY_MAX_S)).unwrap_or(i32::MAX);
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(id)
                .receipt_handle(&*request.receipt_handle)
                .visibility_timeout(delay_s)
                .build()
        });
        let Ok(entries) = entries.collect::<Result<Vec<_>, _>>() else {
            return refuse_all(requests.len(), "the request could not be made");
        };
        let request = self.client.change_message_visibility_batch().queue_url(&self.source_url);
        let answer = request.set_entries(Some(entries)).send().await;
        let answer = answer.map_err(|error| request_error(DELAY, &error)).map(|output| Answer {
            successful: output.successful.into_iter().map(|entry| (entry.id, ())).collect(),
            failed: output.failed,
        });
        by_entry(DELAY, &ids, answer)
    }
}

fn refuse_all(count: usize, why: &'static str) -> Vec<Result<(), QueueError>> {
    vec![Err(QueueError::lasting(REFUSED, why)); count]
}

/// What an entry is answered that nothing else is known of.
fn unanswered(count: usize) -> Vec<Result<(), QueueError>> {
    vec![Err(QueueError::passing(UNAVAILABLE, "the message was not sent")); count]
}

impl Queue for SqsQueue {
    fn can_park(&self) -> bool {
        self.park_url.is_some()
    }

    fn can_delay(&self) -> bool {
        self.delays
    }

    fn park<'a>(&'a self, entries: &'a [ParkRequest]) -> BoxFuture<'a, Vec<Result<(), QueueError>>> {
        Box::pin(self.park_all(entries))
    }

    fn delay<'a>(&'a self, entries: &'a [DelayRequest]) -> BoxFuture<'a, Vec<Result<(), QueueError>>> {
        Box::pin(self.delay_all(entries))
    }
}

impl fmt::Debug for SqsQueue {
    // Names, not URLs, which may hold credentials (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqsQueue")
            .field("source", &queue_name(&self.source_url))
            .field("park", &self.park_url.as_deref().map(queue_name))
            .field("delays", &self.delays)
            .finish_non_exhaustive()
    }
}
