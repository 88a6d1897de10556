//! The real binary with real queues: rejected messages are parked, failed ones delayed, and what is wrong with the queues is
//! said at the init.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_sqs::types::{Message, MessageAttributeValue};
use e2e::events::body;
use e2e::sqs::Sqs;
use e2e::stack::Stack;
use microbatch_aws::sqs::REASON_ATTRIBUTE;
use microbatch_local::mapping::event::{EventSource, Received, event};
use microbatch_local::proxy::{Call, Fault};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(20);
const VISIBILITY_S: i32 = 120;

/// A function between a queue and its dead-letter queue.
struct Rig {
    sqs: Sqs,
    stack: Stack,
    source_url: String,
    park_url: String,
    source: EventSource,
}

impl Rig {
    async fn start(name: &str, suffix: &str, variables: &[(&str, &str)]) -> Self {
        let sqs = Sqs::start(name).await;
        let source_url = sqs.queue(&format!("orders{suffix}"), &[]).await;
        let park_url = sqs.queue(&format!("orders-dlq{suffix}"), &[]).await;
        let endpoint_url = sqs.proxy.endpoint_url();
        let queues = [
            ("AWS_ENDPOINT_URL_SQS", endpoint_url.as_str()),
            ("MICROBATCH_QUEUE_URL", source_url.as_str()),
            ("MICROBATCH_PARK_QUEUE_URL", park_url.as_str()),
            ("MICROBATCH_BACKOFF", "on"),
        ];
        let stack = Stack::scripted(&[&queues, variables].concat()).await;
        stack.warm_up().await;
        let source = EventSource::new(format!("arn:aws:sqs:eu-west-1:123456789012:orders{suffix}"));
        Self { sqs, stack, source_url, park_url, source }
    }

    async fn send(&self, body: &Value, group: Option<&str>) {
        let request = self.sqs.direct().send_message().queue_url(&self.source_url).message_body(body.to_string());
        let kind = MessageAttributeValue::builder().data_type("String").string_value("refund");
        let mut request = request.message_attributes("kind", kind.build().expect("complete"));
        if let Some(group) = group {
            request = request.message_group_id(group).message_deduplication_id(body["id"].as_str().expect("an id"));
        }
        request.send().await.unwrap_or_else(|error| panic!("nothing can be sent: {error:?}"));
    }

    /// Receives up to ten messages, sends them to the function, and gives them with the ids that came back.
    async fn deliver(&self) -> (Vec<Message>, BTreeSet<String>) {
        let messages = self.sqs.receive(&self.source_url, VISIBILITY_S, 2).await;
        let received: Vec<Received> =
            messages.iter().map(|message| Received::new(message, &self.source).expect("complete")).collect();
        let text = String::from_utf8(event(&received).to_vec()).expect("JSON is UTF-8");
        let failed = self.stack.failures_of(text, TIMEOUT).await;
        (messages, failed.into_iter().collect())
    }
}

/// The id in a message's body.
fn id_of(message: &Message) -> String {
    let body: Value = serde_json::from_str(message.body().unwrap_or_default()).unwrap_or_default();
    body["id"].as_str().unwrap_or_default().to_owned()
}

fn ids(messages: &[Message]) -> BTreeMap<String, String> {
    messages.iter().map(|message| (id_of(message), message.message_id().unwrap_or_default().to_owned())).collect()
}

/// P1, P15: the park succeeds for one call and is throttled for another; what was not sent is reported. The calls are those that
/// the policies allow.
#[tokio::test(flavor = "multi_thread")]
async fn p1_p15_what_is_rejected_is_parked_and_what_failed_comes_back_later() {
    let rig = Rig::start("queues-park", "", &[]).await;
    for (id, act) in [("k-0", "ok"), ("k-1", "permanent"), ("k-2", "fail"), ("k-3", "permanent")] {
        rig.send(&body(id, act), None).await;
    }
    let (messages, failed) = rig.deliver().await;
    let ids = ids(&messages);
    assert_eq!(messages.len(), 4, "one receive gives all");
    assert_eq!(
        failed,
        BTreeSet::from([ids["k-2"].clone()]),
        "the rejected ones are acknowledged, since they were parked"
    );

    let parked = rig.sqs.drain(&rig.park_url).await;
    assert_eq!(parked.iter().map(id_of).collect::<BTreeSet<_>>(), BTreeSet::from(["k-1".into(), "k-3".into()]));
    for message in &parked {
        let attributes = message.message_attributes().expect("they travel along");
        assert_eq!(attributes["kind"].string_value(), Some("refund"));
        let reason: Value =
            serde_json::from_str(attributes[REASON_ATTRIBUTE].string_value().expect("a text")).expect("JSON");
        assert_eq!((&reason["kind"], &reason["code"]), (&"permanent".into(), &"told_to_fail".into()));
        assert_eq!(reason["queue"], rig.source.arn());
        assert_eq!(reason["message_id"], ids[&id_of(message)]);
        assert_eq!(reason["receive_count"], 1);
    }
    assert_eq!(rig.sqs.hidden(&rig.source_url).await, 4, "the mapping deletes; here nobody did");
    let operations: BTreeSet<String> = rig.sqs.proxy.calls().into_iter().map(|call| call.operation).collect();
    // In IAM: sqs:GetQueueAttributes, sqs:SendMessage, sqs:ChangeMessageVisibility (infra/policies).
    let expected = ["ChangeMessageVisibilityBatch", "GetQueueAttributes", "SendMessageBatch"];
    assert_eq!(operations, expected.map(str::to_owned).into());
}

/// P1: a dead-letter queue that refuses, hangs or loses its answer never costs a message, nor the answer's time.
#[tokio::test(flavor = "multi_thread")]
async fn p1_a_park_without_success_is_reported() {
    for fault in [Fault::Throttle, Fault::Error500, Fault::DropAnswer, Fault::HangBefore] {
        let rig = Rig::start("queues-fault", "", &[]).await;
        rig.send(&body("k-0", "permanent"), None).await;
        rig.sqs.proxy.set_script(
            move |call: &Call<'_>| {
                if call.operation == "SendMessageBatch" { fault } else { Fault::Pass }
            },
        );
        let (messages, failed) = rig.deliver().await;
        assert_eq!(failed, ids(&messages).into_values().collect(), "{fault:?}");
        rig.stack.function.stop().await;
        let told = rig.stack.lines().iter().any(|line| line.contains("microbatch::queue"));
        assert!(told, "{fault:?}: {:#?}", rig.stack.lines());
    }
}

/// P16: with the group's head the rest comes back, unstarted, and other groups go on.
#[tokio::test(flavor = "multi_thread")]
async fn p16_a_failed_group_waits_and_the_others_go_on() {
    let rig = Rig::start("queues-fifo", ".fifo", &[]).await;
    let sent =
        [("a-0", "fail", "a"), ("a-1", "ok", "a"), ("b-0", "ok", "b"), ("b-1", "permanent", "b"), ("b-2", "ok", "b")];
    for (id, act, group) in sent {
        rig.send(&body(id, act), Some(group)).await;
    }
    let (messages, failed) = rig.deliver().await;
    let ids = ids(&messages);
    let expected = ["a-0", "a-1", "b-1", "b-2"].iter().filter_map(|id| ids.get(*id)).cloned().collect();
    assert_eq!(failed, expected, "of {:?}", ids.keys());
    assert!(rig.sqs.drain(&rig.park_url).await.is_empty(), "Block parks nothing");
    let ran: BTreeSet<String> = rig.stack.runs().await.into_keys().collect();
    assert!(!ran.contains("a-1") && !ran.contains("b-2"), "{ran:?}");
    assert!(ran.contains("b-0"), "{ran:?}");
}

/// P13: with everything logged, nothing of a message that is parked or delayed is.
#[tokio::test(flavor = "multi_thread")]
async fn p13_at_trace_level_nothing_of_a_parked_message_is_said() {
    let rig = Rig::start("queues-canary", "", &[("AWS_LAMBDA_LOG_LEVEL", "TRACE"), ("RUST_LOG", "trace")]).await;
    let canary = "canary7f3a";
    for act in ["permanent", "fail"] {
        let mut body = body(&format!("{canary}-{act}"), act);
        body["note"] = format!("{canary}-note").into();
        rig.send(&body, None).await;
    }
    let (messages, failed) = rig.deliver().await;
    assert_eq!((messages.len(), failed.len()), (2, 1));
    let handles: Vec<&str> = messages.iter().filter_map(Message::receipt_handle).collect();
    rig.stack.function.stop().await;
    let lines = rig.stack.lines();
    assert_eq!(lines.iter().filter(|line| line.contains("microbatch::item")).count(), 2, "{lines:?}");
    let tells = |line: &&String| {
        line.contains(canary) || line.contains("refund") || handles.iter().any(|handle| line.contains(handle))
    };
    let told: Vec<&String> = lines.iter().filter(tells).collect();
    assert!(told.is_empty(), "{told:#?}");
}
