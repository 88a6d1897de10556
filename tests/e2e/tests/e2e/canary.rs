//! P13: nothing of a message is in a log line, a metric, a span or an error object, at any log level.

use std::time::Duration;

use e2e::events::{body, message_id};
use e2e::otlp::OtlpReceiver;
use e2e::stack::{Stack, reported};
use microbatch_local::proxy::{Call, Fault};
use microbatch_local::runtime_api::InvocationResult;
use serde_json::{Value, json};
use uuid::Uuid;

const TIMEOUT: Duration = Duration::from_secs(10);
/// How Debug shows the start of a canary where it is bytes.
const AS_BYTES: &str = "99, 97, 110, 97, 114, 121";

/// A text that is in no program, and that each secret of an event holds.
struct Canary(String);

impl Canary {
    fn new() -> Self {
        Self(format!("canary{}", Uuid::now_v7().simple()))
    }

    /// The canary, with a word on where it was.
    fn at(&self, place: &str) -> String {
        format!("{}-{place}", self.0)
    }

    /// An event with one message for each body, which holds the canary wherever a sender or SQS puts text. Message ids do not.
    fn event(&self, bodies: &[String]) -> Value {
        let records = bodies.iter().enumerate().map(|(n, body)| self.record(n, body));
        json!({"Records": records.collect::<Vec<_>>()})
    }

    fn record(&self, n: usize, body: &str) -> Value {
        json!({
            "messageId": message_id(n),
            "receiptHandle": self.at("receipt-handle"),
            "body": body,
            "attributes": {
                "ApproximateReceiveCount": "1",
                "SentTimestamp": "1763900600550",
                "SenderId": self.at("sender-id"),
                "AWSTraceHeader": self.at("trace-header"),
                "MessageGroupId": self.at("group-id"),
                "MessageDeduplicationId": self.at("deduplication-id"),
            },
            "messageAttributes": {
                (self.at("attribute-name")): {
                    "stringValue": self.at("attribute-string"),
                    "binaryValue": self.at("attribute-binary"),
                    "stringListValues": [],
                    "binaryListValues": [],
                    "dataType": "String",
                },
            },
            "md5OfBody": self.at("md5"),
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:scripted",
            "awsRegion": "eu-west-1",
        })
    }

    /// Events of all sorts that are no SQS events, or not quite.
    fn no_events(&self) -> Vec<Value> {
        let with = |pointer: &str, value: Value| {
            let mut event = self.event(&[body(&self.at("id-odd"), "ok").to_string()]);
            *event.pointer_mut(pointer).expect("it is there") = value;
            event
        };
        vec![
            json!(self.at("text")),
            json!([self.at("list")]),
            json!({(self.at("field")): self.at("value")}),
            json!({"Records": self.at("records")}),
            json!({"Records": [self.at("record")]}),
            json!({"Records": [{"eventSource": "aws:s3", "s3": {"object": {"key": self.at("s3-key")}}}]}),
            with("/Records/0/messageId", json!({(self.at("id-field")): 1})),
            with("/Records/0/body", json!({(self.at("body-field")): self.at("body-object")})),
            with("/Records/0/attributes", json!(self.at("attributes"))),
            with("/Records/0/attributes/ApproximateReceiveCount", json!(self.at("receive-count"))),
            with("/Records/0/messageAttributes", json!([self.at("message-attributes")])),
            with("/Records/0/eventSource", json!(self.at("event-source"))),
            with("/Records/0/eventSourceARN", json!(self.at("arn"))),
        ]
    }

    /// Bodies that cannot be decoded, or have no key.
    fn undecodable(&self) -> Vec<String> {
        vec![
            self.at("no-json"),
            format!("{{\"id\": \"{}", self.at("cut-off")),
            json!({"id": {(self.at("key-field")): self.at("key-object")}, "act": "ok"}).to_string(),
            json!({(self.at("only-field")): self.at("only-value")}).to_string(),
            format!("{{\"{0}\": 1, \"{0}\": 2, \"id\": \"{0}\", \"act\": \"ok\"}}", self.at("twice")),
        ]
    }

    /// Sends the event and keeps what was posted for it.
    async fn send(&self, stack: &Stack, event: &Value, said: &mut Vec<String>) -> InvocationResult {
        let result = stack.invoke(event.to_string(), TIMEOUT).await.expect("an answer");
        let posted = match &result {
            InvocationResult::Response(response) => response,
            InvocationResult::FunctionError(error) => &error.raw,
        };
        said.push(String::from_utf8_lossy(posted).into_owned());
        result
    }

    /// Sends two items, together and alone, to a store that refuses with a text which quotes a value, as DynamoDB's do.
    async fn send_to_a_quoting_store(&self, stack: &Stack, bodies: &[String; 2], said: &mut Vec<String>) {
        let quote = self.at("of-the-store");
        let answer =
            json!({"__type": "com.amazon.coral.validate#ValidationException", "message": quote, "Message": quote});
        let fault = Fault::Answer { status: 400, body: answer.to_string().leak() };
        stack.proxy.set_script(move |_: &Call<'_>| fault);
        self.send(stack, &self.event(bodies), said).await;
        self.send(stack, &self.event(&bodies[..1]), said).await;
        stack.proxy.set_script(|_: &Call<'_>| Fault::Pass);
    }

    /// Stops the function, and searches all that it said, to the collector too.
    async fn search(&self, stack: &Stack, collector: &OtlpReceiver, mut said: Vec<String>) {
        let keys = stack.records().await.into_keys().collect::<Vec<_>>();
        assert!(!keys.is_empty(), "something was claimed");
        stack.function.stop().await;
        let lines = stack.lines();
        assert!(
            lines.iter().any(|line| line.contains("microbatch::item") && line.contains(&message_id(0))),
            "{lines:?}"
        );
        assert!(lines.iter().any(|line| line.contains("microbatch::store")), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("\"_aws\"")), "there are metrics: {lines:?}");
        let exported = collector.bodies();
        assert!(!exported.is_empty(), "there are spans");
        said.extend(exported.iter().map(|body| String::from_utf8_lossy(body).into_owned()));
        said.extend(lines);
        let tells = |line: &&String| {
            line.to_lowercase().contains(&self.0)
                || line.contains(AS_BYTES)
                || keys.iter().any(|key| line.contains(key.as_str()))
        };
        let told: Vec<&String> = said.iter().filter(tells).collect();
        assert!(told.is_empty(), "{} of {} lines hold it: {told:#?}", told.len(), said.len());
    }
}

/// A log format and level that let a function say the most: all targets alike, or by name those that log what they send.
const TALKATIVE: [(&str, &str); 2] =
    [("JSON", "TRACE"), ("Text", "trace,lambda_runtime=trace,aws_smithy_runtime=trace,hyper_util=trace")];

fn variables<'a>(
    (format, level): (&'static str, &'static str),
    collector_url: &'a str,
) -> [(&'static str, &'a str); 7] {
    [
        ("MICROBATCH_TRACES", "all"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector_url),
        ("AWS_LAMBDA_LOG_FORMAT", format),
        ("AWS_LAMBDA_LOG_LEVEL", level),
        ("RUST_LOG", "trace"),
        ("RUST_BACKTRACE", "1"),
        ("MICROBATCH_ITEM_TIMEOUT_MS", "2000"),
    ]
}

async fn scripted_tells_nothing(talkative: (&'static str, &'static str)) {
    let collector = OtlpReceiver::start(true).await;
    let stack = Stack::scripted(&variables(talkative, &collector.endpoint_url())).await;
    let (canary, mut said) = (Canary::new(), Vec::new());
    let mut good = body(&canary.at("id-good"), "ok");
    good[canary.at("field-good")] = json!(canary.at("value-good"));
    let acts = ["fail", "permanent", "panic", "panic_on_drop", "hang", &canary.at("invalid-act")]
        .map(|act| body(&canary.at(&format!("id-{act}")), act).to_string());
    let bodies = [vec![good.to_string()], acts.to_vec(), canary.undecodable()].concat();
    for _ in 0..2 {
        let result = canary.send(&stack, &canary.event(&bodies), &mut said).await;
        let InvocationResult::Response(response) = result else { panic!("{result:?}") };
        let failed = reported(&response).expect("a batch response");
        assert!(!failed.contains(&message_id(0)) && failed.len() >= acts.len(), "{failed:?}");
    }
    for event in canary.no_events() {
        canary.send(&stack, &event, &mut said).await;
    }
    let refused = ["refused-0", "refused-1"].map(|id| body(&canary.at(id), "ok").to_string());
    canary.send_to_a_quoting_store(&stack, &refused, &mut said).await;
    canary.search(&stack, &collector, said).await;
}

async fn process_orders_tells_nothing(talkative: (&'static str, &'static str)) {
    let collector = OtlpReceiver::start(true).await;
    let stack = Stack::process_orders(&variables(talkative, &collector.endpoint_url())).await;
    let (canary, mut said) = (Canary::new(), Vec::new());
    let order = |id: &str, currency: &str, amends: Option<&str>| {
        let lines = json!([{"sku": canary.at("sku"), "quantity": 1, "unit_price_minor": 100}]);
        let order = json!({"order_id": canary.at(id), "customer_id": canary.at("customer"), "currency": currency,
            "lines": lines, "total_minor": 100, "amends": amends.map(|id| canary.at(id))});
        order.to_string()
    };
    let bodies = [
        order("order-good", "EUR", None),
        order("order-invalid", &canary.at("currency"), None),
        order("order-amending", "EUR", Some("order-missing")),
        order(&"order-long".repeat(40), "EUR", None),
        order("order-good", "USD", None),
    ];
    let bodies = [bodies.to_vec(), canary.undecodable()].concat();
    for _ in 0..2 {
        let result = canary.send(&stack, &canary.event(&bodies), &mut said).await;
        assert!(matches!(result, InvocationResult::Response(_)), "{result:?}");
    }
    assert!(stack.orders().await.iter().all(|id| id.contains(&canary.0)));
    let refused = ["refused-0", "refused-1"].map(|id| order(id, "EUR", None));
    canary.send_to_a_quoting_store(&stack, &refused, &mut said).await;
    canary.search(&stack, &collector, said).await;
}

/// P13: good, failing, invalid, undecodable, panicking and hanging items, and events that are none.
#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_a_message_is_in_logs_or_errors() {
    tokio::join!(scripted_tells_nothing(TALKATIVE[0]), scripted_tells_nothing(TALKATIVE[1]));
}

/// P13, of the function that is deployed: also where DynamoDB refuses what it writes.
#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_an_order_is_in_logs_or_errors() {
    tokio::join!(process_orders_tells_nothing(TALKATIVE[0]), process_orders_tells_nothing(TALKATIVE[1]));
}
