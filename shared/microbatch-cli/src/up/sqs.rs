//! The stack's queues on an SQS server of this machine.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use microbatch_local::environment::LOCAL_REGION;

use crate::check::local::LocalQueue;
use crate::exit::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What servers answer when a queue of that name has other attributes.
const EXISTS: [&str; 3] = ["QueueNameExists", "QueueAlreadyExists", "AWS.SimpleQueueService.QueueNameExists"];

/// A queue that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) url: String,
    pub(crate) arn: String,
}

/// How many messages there are, as SQS estimates it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    /// To be received, now or after a delay.
    pub(crate) waiting: u64,
    /// Received, and hidden by their visibility timeout.
    pub(crate) in_flight: u64,
}

/// A client without retries, with dummy keys: whatever the user's profile says is not for this machine.
pub(crate) fn client(endpoint_url: &str) -> Client {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(CALL_TIMEOUT).build();
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .endpoint_url(endpoint_url)
        .region(Region::new(LOCAL_REGION))
        .credentials_provider(Credentials::new("local", "local", None, None, "local"))
        .timeout_config(timeouts)
        .retry_config(RetryConfig::disabled());
    Client::from_conf(config.build())
}

/// Makes the queues, then joins them to their dead-letter queues. Gives them by logical id.
pub(crate) async fn make(
    client: &Client,
    queues: &BTreeMap<String, LocalQueue>,
) -> Result<BTreeMap<String, Queue>, Failure> {
    let mut made = BTreeMap::new();
    for (id, queue) in queues {
        made.insert(id.clone(), make_one(client, queue).await.map_err(|why| failed(queue, &why))?);
    }
    for (id, queue) in queues {
        let Some((dead_letters, max_receive_count)) = &queue.dead_letters else { continue };
        let (Some(source), Some(target)) = (made.get(id), made.get(dead_letters)) else { continue };
        let policy = redrive_policy(&target.arn, *max_receive_count);
        let request = client.set_queue_attributes().queue_url(&source.url).attributes(Attribute::RedrivePolicy, policy);
        request.send().await.map_err(|error| failed(queue, &reason(&error)))?;
    }
    Ok(made)
}

async fn make_one(client: &Client, queue: &LocalQueue) -> Result<Queue, String> {
    let attributes: HashMap<Attribute, String> =
        queue.attributes.iter().map(|(name, value)| (Attribute::from(name.as_str()), value.clone())).collect();
    let created = client.create_queue().queue_name(&queue.name).set_attributes(Some(attributes.clone())).send().await;
    let url = match created {
        Ok(created) => created.queue_url,
        // Left from a run before: it is given the attributes of now.
        Err(error) if error.code().is_some_and(|code| EXISTS.contains(&code)) => {
            let found = client.get_queue_url().queue_name(&queue.name).send().await.map_err(|error| reason(&error))?;
            let url = found.queue_url.unwrap_or_default();
            let mut request = client.set_queue_attributes().queue_url(&url);
            for (name, value) in attributes.into_iter().filter(|(name, _)| *name != Attribute::FifoQueue) {
                request = request.attributes(name, value);
            }
            request.send().await.map_err(|error| reason(&error))?;
            Some(url)
        }
        Err(error) => return Err(reason(&error)),
    };
    let url = url.ok_or("the answer has no URL")?;
    let arn = arn(client, &url).await?;
    Ok(Queue { url, arn })
}

/// The ARN of the queue at a URL.
pub(crate) async fn arn(client: &Client, url: &str) -> Result<String, String> {
    let request = client.get_queue_attributes().queue_url(url).attribute_names(Attribute::QueueArn);
    let answer = request.send().await.map_err(|error| reason(&error))?;
    let arn = answer.attributes().and_then(|attributes| attributes.get(&Attribute::QueueArn)).cloned();
    arn.ok_or_else(|| "the answer has no ARN".to_owned())
}

fn redrive_policy(dead_letters_arn: &str, max_receive_count: u64) -> String {
    serde_json::json!({"deadLetterTargetArn": dead_letters_arn, "maxReceiveCount": max_receive_count}).to_string()
}

fn failed(queue: &LocalQueue, why: &str) -> Failure {
    Failure::environment(format!("the queue {} cannot be made: {why}", queue.name))
}

/// The service's code and message, or why no answer came.
pub(crate) fn reason<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => format!("no SQS answers: {}; is the URL right, and is it running?", last_cause(error)),
    }
}

/// The innermost of an error's causes, which says what happened.
fn last_cause(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

/// How many messages a queue holds; none where it does not answer.
pub(crate) async fn depth(client: &Client, url: &str) -> Option<Depth> {
    let names = [
        Attribute::ApproximateNumberOfMessages,
        Attribute::ApproximateNumberOfMessagesDelayed,
        Attribute::ApproximateNumberOfMessagesNotVisible,
    ];
    let request = client.get_queue_attributes().queue_url(url).set_attribute_names(Some(names.to_vec()));
    let answer = request.send().await.ok()?;
    let attributes = answer.attributes()?;
    let [visible, delayed, hidden] = names.map(|name| attributes.get(&name).and_then(|text| text.parse::<u64>().ok()));
    Some(Depth { waiting: visible? + delayed.unwrap_or_default(), in_flight: hidden? })
}
