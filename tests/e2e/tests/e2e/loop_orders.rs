//! What the loops under both event source mappings share: a thousand orders in a queue, and what must have become of them.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{Message, MessageAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry};
use e2e::sqs::Sqs;
use e2e::stack::{ORDERS_TABLE, Row, rows};
use microbatch_local::items::{ItemReport, LogLine, parse};
use serde_json::{Value, json};
use uuid::Uuid;

/// How many messages are sent at first.
pub(crate) const MESSAGES: usize = 1_000;
/// How often a message is received before it goes to the dead-letter queue.
pub(crate) const MAX_RECEIVE_COUNT: usize = 3;
/// The attribute that every message is sent with, and its value.
pub(crate) const ATTRIBUTE: (&str, &str) = ("channel", "web");
/// The order that all transient failures wait for. It is sent once they have failed.
const AMENDED: usize = MESSAGES;

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is processed when it is delivered first.
    Good,
    /// 5 %: it amends an order that is not there when it is delivered first.
    Transient,
    /// 3 %: its total is wrong, and stays so.
    Poison,
}

/// The kind of the message with this number.
pub(crate) fn kind(number: usize) -> Kind {
    match number {
        AMENDED => Kind::Good,
        _ if [7, 37, 67].contains(&(number % 100)) => Kind::Poison,
        _ if number % 20 == 3 => Kind::Transient,
        _ => Kind::Good,
    }
}

/// A queue and its dead-letter queue, by their URLs.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) source: String,
    pub(crate) source_arn: String,
    pub(crate) dead: String,
}

impl Queues {
    /// Makes them; FIFO ones if the name says so.
    pub(crate) async fn make(sqs: &Sqs, name: &str, visibility_timeout_s: u64) -> Self {
        let dead = sqs.queue(&format!("dead-{name}"), &[]).await;
        let dead_arn = arn(sqs.direct(), &dead).await;
        let redrive = json!({"deadLetterTargetArn": dead_arn, "maxReceiveCount": MAX_RECEIVE_COUNT}).to_string();
        let visibility = visibility_timeout_s.to_string();
        let attributes = [
            (QueueAttributeName::VisibilityTimeout, visibility.as_str()),
            (QueueAttributeName::RedrivePolicy, redrive.as_str()),
        ];
        let source = sqs.queue(name, &attributes).await;
        let source_arn = arn(sqs.direct(), &source).await;
        Self { source, source_arn, dead }
    }
}

async fn arn(client: &Client, queue_url: &str) -> String {
    let name = QueueAttributeName::QueueArn;
    let answer = client.get_queue_attributes().queue_url(queue_url).attribute_names(name.clone()).send().await;
    answer.expect("the queue answers").attributes().expect("attributes")[&name].clone()
}

/// How many messages a queue has, visible or not.
pub(crate) async fn depth(client: &Client, queue_url: &str) -> usize {
    use QueueAttributeName::{ApproximateNumberOfMessages as Visible, ApproximateNumberOfMessagesNotVisible as Hidden};
    let request = client.get_queue_attributes().queue_url(queue_url).attribute_names(Visible).attribute_names(Hidden);
    let answer = request.send().await.expect("the queue answers");
    let attributes = answer.attributes().expect("attributes");
    [Visible, Hidden].iter().map(|name| attributes[name].parse::<usize>().expect("a number")).sum()
}

/// Sends bodies, each with the same attribute, and with a group where the queue is a FIFO one. Returns their message ids.
pub(crate) async fn send(client: &Client, queue_url: &str, bodies: &[(Value, Option<String>)]) -> Vec<String> {
    let mut ids = Vec::new();
    let (name, value) = ATTRIBUTE;
    let value = MessageAttributeValue::builder().data_type("String").string_value(value).build().expect("complete");
    for chunk in bodies.chunks(10) {
        let entries = chunk.iter().enumerate().map(|(place, (body, group))| {
            let entry = SendMessageBatchRequestEntry::builder().id(place.to_string()).message_body(body.to_string());
            let entry = entry.message_attributes(name, value.clone());
            let deduplication = group.as_ref().map(|_| Uuid::now_v7().to_string());
            let entry = entry.set_message_group_id(group.clone()).set_message_deduplication_id(deduplication);
            entry.build().expect("an id and a body")
        });
        let request = client.send_message_batch().queue_url(queue_url).set_entries(Some(entries.collect()));
        let sent = request.send().await.expect("the queue takes them");
        assert_eq!(sent.successful().len(), chunk.len(), "{:?}", sent.failed());
        let by_place: BTreeMap<usize, &str> = sent
            .successful()
            .iter()
            .map(|entry| (entry.id().parse().expect("the place"), entry.message_id()))
            .collect();
        ids.extend(by_place.into_values().map(str::to_owned));
    }
    ids
}

/// The orders that were sent, by their messages' ids.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    numbers: BTreeMap<String, usize>,
}

impl Orders {
    /// Sends the thousand.
    pub(crate) async fn send(&mut self, client: &Client, queue_url: &str) {
        self.send_numbers(client, queue_url, 0..MESSAGES).await;
    }

    /// Sends the order that the transient ones wait for.
    pub(crate) async fn send_amended(&mut self, client: &Client, queue_url: &str) {
        self.send_numbers(client, queue_url, AMENDED..=AMENDED).await;
    }

    async fn send_numbers(&mut self, client: &Client, queue_url: &str, numbers: impl Iterator<Item = usize> + Clone) {
        let bodies: Vec<_> = numbers.clone().map(|number| (body(number), None)).collect();
        let ids = send(client, queue_url, &bodies).await;
        self.numbers.extend(ids.into_iter().zip(numbers));
    }

    /// How many of a kind were sent.
    pub(crate) fn count(&self, of: Kind) -> usize {
        self.numbers.values().filter(|&&number| kind(number) == of).count()
    }

    /// What the log lines of the function must say, message by message: a good one is delivered and processed once; a transient
    /// one fails once and is then processed; a poisoned one is rejected as often as it may be received.
    pub(crate) fn check_reports(&self, lines: &[String]) {
        let mut reports = deliveries(lines);
        let processed = || ("Processed".to_owned(), true);
        for (message_id, &number) in &self.numbers {
            let expected = match kind(number) {
                Kind::Good => vec![processed()],
                Kind::Transient => vec![("Failed".to_owned(), false), processed()],
                Kind::Poison => vec![("Rejected".to_owned(), false); MAX_RECEIVE_COUNT],
            };
            let found = reports.remove(message_id.as_str()).unwrap_or_default();
            assert_eq!(found, expected, "message {number}, {:?}", kind(number));
        }
        assert!(reports.is_empty(), "nobody sent these: {reports:?}");
    }

    /// Every order but the poisoned ones is in the table.
    pub(crate) fn check_orders(&self, table: &[String]) {
        let expected = self.numbers.values().filter(|&&number| kind(number) != Kind::Poison);
        let expected: BTreeSet<String> = expected.map(|number| order_id(*number)).collect();
        assert_eq!(table.iter().cloned().collect::<BTreeSet<_>>(), expected);
        assert_eq!(table.len(), expected.len());
    }

    /// The dead letters are the poisoned messages, unchanged.
    pub(crate) fn check_dead(&self, dead: &[Message]) {
        let found: BTreeMap<&str, &str> = dead
            .iter()
            .map(|message| (message.message_id().expect("an id"), message.body().expect("a body")))
            .collect();
        let poisoned = self.numbers.iter().filter(|(_, number)| kind(**number) == Kind::Poison);
        let expected: BTreeMap<&str, String> =
            poisoned.map(|(id, number)| (id.as_str(), body(*number).to_string())).collect();
        let expected: BTreeMap<&str, &str> = expected.iter().map(|(id, body)| (*id, body.as_str())).collect();
        assert_eq!(found, expected);
        assert_eq!(dead.len(), expected.len());
    }
}

/// What became of each message at each of its deliveries, by the log lines of the function: the outcome, and whether it was
/// acknowledged.
pub(crate) fn deliveries(lines: &[String]) -> BTreeMap<String, Vec<(String, bool)>> {
    let mut deliveries: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for report in lines.iter().filter_map(|line| item(line)) {
        deliveries.entry(report.message_id).or_default().push((report.outcome, report.acknowledged));
    }
    deliveries
}

/// The ids in the orders table.
pub(crate) async fn order_ids(client: &aws_sdk_dynamodb::Client) -> Vec<String> {
    let text = |row: &Row| row["order_id"].as_s().expect("a string").clone();
    rows(client, ORDERS_TABLE).await.iter().map(text).collect()
}

fn item(line: &str) -> Option<ItemReport> {
    match parse(line) {
        LogLine::Item(report) => Some(report),
        _ => None,
    }
}

fn order_id(number: usize) -> String {
    format!("o-{number}")
}

/// A valid order.
pub(crate) fn order(order_id: &str) -> Value {
    json!({
        "order_id": order_id,
        "customer_id": "c-1",
        "currency": "EUR",
        "lines": [{"sku": "s-1", "quantity": 2, "unit_price_minor": 1_250}],
        "total_minor": 2_500,
    })
}

fn body(number: usize) -> Value {
    let mut order = order(&order_id(number));
    match kind(number) {
        Kind::Good => {}
        Kind::Transient => order["amends"] = order_id(AMENDED).into(),
        Kind::Poison => order["total_minor"] = 1.into(),
    }
    order
}
