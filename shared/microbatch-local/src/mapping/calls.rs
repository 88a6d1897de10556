//! The calls to the source queue: receive, delete, make visible again.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::error::{BuildError, DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageSystemAttributeName, QueueAttributeName,
};
use futures_util::{StreamExt, stream};
use tokio::time::sleep;

use crate::environment::LOCAL_REGION;

/// Most entries in a batch call: SQS's limit.
const ENTRIES_MAX: usize = 10;
/// Most batch calls at once for one batch of messages. Ours.
const CALLS_AT_ONCE: usize = 8;
/// How often an entry is tried. Ours.
const TRIES: u32 = 3;
/// The pause before the second try; before each further one it is twice as long. Ours.
const TRY_PAUSE: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a call may take beside the wait of a long poll.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A client of an SQS API on this machine, with dummy keys: whatever the user's profile says is not for the loopback.
pub fn loopback_client(endpoint_url: &str) -> Client {
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .endpoint_url(endpoint_url)
        .region(Region::new(LOCAL_REGION))
        .credentials_provider(Credentials::new("local", "local", None, None, "local"));
    Client::from_conf(config.build())
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    /// The operation.
    pub call: &'static str,
    /// The service's error code, or why no answer came. Never the service's own text, which may repeat what was sent.
    pub reason: String,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.call, self.reason)
    }
}

impl std::error::Error for CallError {}

impl CallError {
    fn new<E>(call: &'static str, error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let reason = match error {
            SdkError::ServiceError(_) => error.code().unwrap_or("an error without a code").to_owned(),
            SdkError::TimeoutError(_) => "no answer in time".to_owned(),
            // No answer, so nothing of a message in it.
            _ => DisplayErrorContext(error).to_string(),
        };
        Self { call, reason }
    }
}

/// What of the queue the mapping asks for at its start.
#[derive(Debug)]
pub(super) struct QueueFacts {
    pub(super) arn: String,
    pub(super) visibility_timeout_s: u64,
}

/// The source queue.
#[derive(Debug, Clone)]
pub(super) struct SourceQueue {
    client: Client,
    url: String,
    wait_s: i32,
}

impl SourceQueue {
    /// The queue at this URL. A receive waits for up to `wait_s` seconds. The client's own time-outs and retries are replaced.
    pub(super) fn new(client: &Client, url: String, wait_s: i32) -> Self {
        let wait = Duration::from_secs(u64::try_from(wait_s).unwrap_or_default());
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(wait + CALL_TIMEOUT).build();
        let config = client.config().to_builder().timeout_config(timeouts).retry_config(RetryConfig::disabled());
        Self { client: Client::from_conf(config.build()), url, wait_s }
    }

    pub(super) async fn facts(&self) -> Result<QueueFacts, CallError> {
        let call = "GetQueueAttributes";
        let answer = self
            .client
            .get_queue_attributes()
            .queue_url(&self.url)
            .attribute_names(QueueAttributeName::QueueArn)
            .attribute_names(QueueAttributeName::VisibilityTimeout)
            .send()
            .await
            .map_err(|error| CallError::new(call, &error))?;
        let attribute = |name| answer.attributes().and_then(|attributes| attributes.get(&name)).map(String::as_str);
        let missing = |name: QueueAttributeName| CallError { call, reason: format!("its answer has no {name}") };
        let arn = attribute(QueueAttributeName::QueueArn);
        let visibility_timeout_s = attribute(QueueAttributeName::VisibilityTimeout).and_then(|text| text.parse().ok());
        Ok(QueueFacts {
            arn: arn.ok_or_else(|| missing(QueueAttributeName::QueueArn))?.to_owned(),
            visibility_timeout_s: visibility_timeout_s.ok_or_else(|| missing(QueueAttributeName::VisibilityTimeout))?,
        })
    }

    pub(super) async fn receive(&self, max: usize) -> Result<Vec<Message>, CallError> {
        let answer = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(i32::try_from(max).unwrap_or(i32::MAX))
            .wait_time_seconds(self.wait_s)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .send()
            .await
            .map_err(|error| CallError::new("ReceiveMessage", &error))?;
        Ok(answer.messages.unwrap_or_default())
    }

    /// Deletes messages. Returns what could not be deleted.
    pub(super) async fn delete(&self, receipt_handles: Vec<String>) -> Unchanged {
        self.change(Change::Delete, receipt_handles).await
    }

    /// Makes messages visible again at once. Returns what could not be made so.
    pub(super) async fn make_visible(&self, receipt_handles: Vec<String>) -> Unchanged {
        self.change(Change::MakeVisible, receipt_handles).await
    }

    /// Makes a batch call for each ten messages. What failed and is not the sender's fault is tried again.
    async fn change(&self, change: Change, receipt_handles: Vec<String>) -> Unchanged {
        let mut unchanged = Unchanged::default();
        let handles = receipt_handles.into_iter().enumerate();
        let mut open: Vec<Entry> = handles.map(|(place, receipt_handle)| Entry { place, receipt_handle }).collect();
        let mut pause = TRY_PAUSE;
        for attempt in 1..=TRIES {
            if attempt > 1 {
                sleep(pause).await;
                pause *= 2;
            }
            let chunks: Vec<Vec<Entry>> = open.chunks(ENTRIES_MAX).map(<[Entry]>::to_vec).collect();
            let calls = chunks.into_iter().map(|chunk| change_chunk(self.clone(), change, chunk));
            let answers: Vec<Chunk> = stream::iter(calls).buffer_unordered(CALLS_AT_ONCE).collect().await;
            open.clear();
            for Chunk { again, lost, error } in answers {
                open.extend(again);
                unchanged.places.extend(lost);
                unchanged.error = error.or(unchanged.error);
            }
            if open.is_empty() {
                break;
            }
        }
        unchanged.places.extend(open.into_iter().map(|entry| entry.place));
        if unchanged.places.is_empty() {
            // What a further try mended is over.
            unchanged.error = None;
        }
        unchanged
    }
}

/// What a change did not reach.
#[derive(Debug, Default)]
pub(super) struct Unchanged {
    /// The places among the receipt handles that were given.
    pub(super) places: BTreeSet<usize>,
    /// Why, if there are any: one reason of maybe several.
    pub(super) error: Option<CallError>,
}

/// What is done to messages in flight.
#[derive(Debug, Clone, Copy)]
enum Change {
    Delete,
    MakeVisible,
}

impl Change {
    fn operation(self) -> &'static str {
        match self {
            Self::Delete => "DeleteMessageBatch",
            Self::MakeVisible => "ChangeMessageVisibilityBatch",
        }
    }
}

/// A message, by its place among those of a request.
#[derive(Debug, Clone)]
struct Entry {
    place: usize,
    receipt_handle: String,
}

/// What of a chunk was not done, and one reason.
struct Chunk {
    again: Vec<Entry>,
    lost: Vec<usize>,
    error: Option<CallError>,
}

/// One batch call. It owns what it uses, so that several can be polled side by side.
async fn change_chunk(queue: SourceQueue, change: Change, chunk: Vec<Entry>) -> Chunk {
    let failed = match queue.send(change, &chunk).await {
        Ok(failed) => failed,
        Err(error) => return Chunk { again: chunk, lost: Vec::new(), error: Some(error) },
    };
    let (mut again, mut lost, mut error) = (Vec::new(), Vec::new(), None);
    for entry in chunk {
        let Some(failed) = failed.iter().find(|failed| failed.id() == entry.place.to_string()) else { continue };
        error = Some(CallError { call: change.operation(), reason: failed.code().to_owned() });
        if failed.sender_fault() {
            lost.push(entry.place);
        } else {
            again.push(entry);
        }
    }
    Chunk { again, lost, error }
}

impl SourceQueue {
    /// Makes the call and returns the entries that failed.
    async fn send(&self, change: Change, chunk: &[Entry]) -> Result<Vec<BatchResultErrorEntry>, CallError> {
        let unbuilt = |error: BuildError| CallError { call: change.operation(), reason: error.to_string() };
        match change {
            Change::Delete => {
                let entries = chunk.iter().map(|entry| {
                    let builder = DeleteMessageBatchRequestEntry::builder().id(entry.place.to_string());
                    builder.receipt_handle(&entry.receipt_handle).build()
                });
                let entries = entries.collect::<Result<Vec<_>, _>>().map_err(unbuilt)?;
                let request = self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries));
                let answer = request.send().await.map_err(|error| CallError::new(change.operation(), &error))?;
                Ok(answer.failed)
            }
            Change::MakeVisible => {
                let entries = chunk.iter().map(|entry| {
                    let builder = ChangeMessageVisibilityBatchRequestEntry::builder().id(entry.place.to_string());
                    builder.receipt_handle(&entry.receipt_handle).visibility_timeout(0).build()
                });
                let entries = entries.collect::<Result<Vec<_>, _>>().map_err(unbuilt)?;
                let call = self.client.change_message_visibility_batch().queue_url(&self.url);
                let request = call.set_entries(Some(entries));
                let answer = request.send().await.map_err(|error| CallError::new(change.operation(), &error))?;
                Ok(answer.failed)
            }
        }
    }
}
