//! SQS on this machine: ministack, with a proxy before it that makes requests fail.

use std::collections::HashMap;
use std::net::SocketAddr;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName, MessageSystemAttributeNameForSends,
    MessageSystemAttributeValue, QueueAttributeName,
};
use microbatch_aws::sdk::sqs_client;
use microbatch_aws::sqs::is_fifo;
use microbatch_local::environment::LOCAL_REGION;
use microbatch_local::proxy::{Call, Fault, Proxy};

use crate::process::{Foreign, free_address, guarded};
use crate::stack::need;
use crate::tools::ministack;

/// Time for a request that is to be answered, on a machine that is busy.
const PATIENCE_MS: u64 = 20_000;
/// How long a message that is taken out of a queue is hidden: longer than that takes.
const TAKEN_S: i32 = 600;

/// An SQS server with queues in memory. It ends when this is dropped; one that does not come up ends the test.
#[derive(Debug)]
pub struct Sqs {
    /// Stands between the client under test and the server; lets every request pass unless a script is set.
    pub proxy: Proxy,
    address: SocketAddr,
    client: Client,
    _server: Foreign,
}

impl Sqs {
    /// Starts one. `name` is that of its log.
    pub async fn start(name: &str) -> Self {
        let address = need(free_address());
        let mut command = guarded(need(ministack()));
        command.env("MINISTACK_HOST", address.ip().to_string()).env("GATEWAY_PORT", address.port().to_string());
        let mut server = need(Foreign::start(command, name));
        need(server.until_listening(address).await);
        let proxy = need(Proxy::start(address, |_: &Call<'_>| Fault::Pass).await);
        Self { proxy, address, client: client_at(address, PATIENCE_MS), _server: server }
    }

    /// The value of `AWS_ENDPOINT_URL_SQS`, without the proxy.
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client that reaches the server without the proxy.
    pub fn direct(&self) -> &Client {
        &self.client
    }

    /// A client as the Lambda host makes it, through the proxy.
    pub fn proxied(&self, timeout_ms: u64) -> Client {
        client_at(self.proxy.address(), timeout_ms)
    }

    /// Makes a queue, FIFO if its name says so, and gives its URL.
    pub async fn queue(&self, name: &str, attributes: &[(QueueAttributeName, &str)]) -> String {
        let mut request = self.client.create_queue().queue_name(name);
        if is_fifo(name) {
            request = request.attributes(QueueAttributeName::FifoQueue, "true");
        }
        for (name, value) in attributes {
            request = request.attributes(name.clone(), *value);
        }
        let created = request.send().await.unwrap_or_else(|error| panic!("{name} cannot be made: {error:?}"));
        created.queue_url.unwrap_or_else(|| panic!("{name} has no URL"))
    }

    /// Receives up to ten messages with all that is known of them, waiting up to `wait_s` for the first.
    pub async fn receive(&self, queue_url: &str, visibility_s: i32, wait_s: i32) -> Vec<Message> {
        let request = self.client.receive_message().queue_url(queue_url).max_number_of_messages(10);
        let request = request.visibility_timeout(visibility_s).wait_time_seconds(wait_s);
        let request = request.message_attribute_names("All");
        let request = request.message_system_attribute_names(MessageSystemAttributeName::All);
        let received = request.send().await.unwrap_or_else(|error| panic!("nothing can be received: {error:?}"));
        received.messages.unwrap_or_default()
    }

    /// Takes all messages that are visible out of a queue, in the order in which it gives them.
    pub async fn drain(&self, queue_url: &str) -> Vec<Message> {
        let mut all = Vec::new();
        loop {
            let messages = self.receive(queue_url, TAKEN_S, 0).await;
            if messages.is_empty() {
                return all;
            }
            self.delete(&messages, queue_url).await;
            all.extend(messages);
        }
    }

    /// Moves all messages that are visible from a queue to another, in the order in which it gives them, and gives each with its
    /// id in the other queue.
    ///
    /// ministack has no `StartMessageMoveTask`. A message is deleted after it was sent: a move that is cut off between the two
    /// leaves it in both queues, and in none does it get lost.
    pub async fn redrive(&self, from_url: &str, to_url: &str) -> Vec<(Message, String)> {
        let mut moved = Vec::new();
        loop {
            let messages = self.receive(from_url, TAKEN_S, 0).await;
            if messages.is_empty() {
                return moved;
            }
            for message in &messages {
                let new_id = self.send_again(message, to_url).await;
                moved.push((message.clone(), new_id));
            }
            self.delete(&messages, from_url).await;
        }
    }

    /// Sends a message that was received as it is, and gives its new id. By itself: ministack drops the trace headers of a
    /// batch.
    pub async fn send_again(&self, message: &Message, queue_url: &str) -> String {
        let system = |name| message.attributes().and_then(|attributes| attributes.get(&name)).cloned();
        let trace = system(MessageSystemAttributeName::AwsTraceHeader).map(|header| {
            let value = MessageSystemAttributeValue::builder().data_type("String").string_value(header).build();
            HashMap::from([(MessageSystemAttributeNameForSends::AwsTraceHeader, need(value))])
        });
        // Under the deduplication id that it has, the queue would take it for a repetition for five minutes, and drop it. Its
        // message id is its own, and the same when a move that was cut off is done again.
        let deduplication_id = message.message_id().filter(|_| is_fifo(queue_url));
        let request = self.client.send_message().queue_url(queue_url).set_message_body(message.body.clone());
        let request = request
            .set_message_attributes(message.message_attributes.clone())
            .set_message_system_attributes(trace)
            .set_message_group_id(system(MessageSystemAttributeName::MessageGroupId))
            .set_message_deduplication_id(deduplication_id.map(str::to_owned));
        let sent = request.send().await.unwrap_or_else(|error| panic!("nothing can be sent: {error:?}"));
        sent.message_id.unwrap_or_else(|| panic!("a message was sent and has no id"))
    }

    async fn delete(&self, messages: &[Message], queue_url: &str) {
        let entries = messages.iter().enumerate().map(|(place, message)| {
            let entry = DeleteMessageBatchRequestEntry::builder().id(place.to_string());
            entry.receipt_handle(message.receipt_handle().unwrap_or_default()).build()
        });
        let entries = entries.collect::<Result<Vec<_>, _>>().unwrap_or_else(|error| panic!("{error}"));
        let request = self.client.delete_message_batch().queue_url(queue_url).set_entries(Some(entries));
        let deleted = request.send().await.unwrap_or_else(|error| panic!("nothing can be deleted: {error:?}"));
        assert_eq!(deleted.successful().len(), messages.len(), "{:?}", deleted.failed());
    }

    /// How many messages are hidden by their visibility timeout.
    pub async fn hidden(&self, queue_url: &str) -> usize {
        let name = QueueAttributeName::ApproximateNumberOfMessagesNotVisible;
        let request = self.client.get_queue_attributes().queue_url(queue_url).attribute_names(name.clone());
        let answer = request.send().await.unwrap_or_else(|error| panic!("no attributes: {error:?}"));
        let count = answer.attributes().and_then(|attributes| attributes.get(&name)?.parse().ok());
        count.unwrap_or_else(|| panic!("expected a number of hidden messages, found {:?}", answer.attributes()))
    }
}

fn client_at(address: SocketAddr, timeout_ms: u64) -> Client {
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(format!("http://{address}"))
        .region(Region::new(LOCAL_REGION))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new("local", "local", None, None, "local")))
        .build();
    sqs_client(&config, timeout_ms)
}
