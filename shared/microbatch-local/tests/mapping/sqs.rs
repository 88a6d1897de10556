//! A small SQS API over HTTP: the model of the testkit behind the protocol that the SDK speaks, with faults on demand.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_sdk_sqs::Client;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use microbatch_local::mapping::loopback_client;
use microbatch_testkit::queue::{Delivery, NewMessage, Number, QueueModel, QueueSettings, Refusal, Whereabouts};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is refused as a whole, with this error code.
    Refused(&'static str),
    /// Every entry of a batch fails, by the sender's fault or not.
    Entries { sender: bool },
    /// It is done, and the answer is lost.
    AnswerLost,
}

type Faults = Box<dyn FnMut(&str) -> Option<Fault> + Send>;

/// A queue and its server, which ends when this is dropped.
pub(crate) struct Sqs {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    start: Instant,
    arn: String,
    visibility_timeout_s: String,
    state: Mutex<Inner>,
    changed: Notify,
}

struct Inner {
    model: QueueModel,
    faults: Faults,
    calls: BTreeMap<String, usize>,
}

impl Sqs {
    /// A queue of these settings. What it tells of its visibility timeout is a round number of seconds, at least one.
    pub(crate) async fn start(settings: QueueSettings) -> Self {
        let suffix = if settings.fifo { ".fifo" } else { "" };
        let shared = Arc::new(Shared {
            start: Instant::now(),
            arn: format!("arn:aws:sqs:eu-west-1:123456789012:orders{suffix}"),
            visibility_timeout_s: settings.visibility_timeout_ms.div_ceil(1_000).to_string(),
            state: Mutex::new(Inner {
                model: QueueModel::new(settings),
                faults: Box::new(|_| None),
                calls: BTreeMap::new(),
            }),
            changed: Notify::new(),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().route("/", post(call)).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { address, shared, server }
    }

    pub(crate) fn client(&self) -> Client {
        loopback_client(&format!("http://{}", self.address))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/123456789012/orders", self.address)
    }

    /// Sends a message with this body.
    pub(crate) fn send(&self, body: &Value, group: Option<&str>) -> Number {
        let message = NewMessage { body: body.to_string(), group: group.map(str::to_owned), ..NewMessage::default() };
        let number = self.state().model.send(self.shared.now_ms(), message).expect("accepted");
        self.shared.changed.notify_waiters();
        number
    }

    /// Asked for each call, by its operation, what goes wrong with it.
    pub(crate) fn set_faults(&self, faults: impl FnMut(&str) -> Option<Fault> + Send + 'static) {
        self.state().faults = Box::new(faults);
    }

    /// How often an operation was called.
    pub(crate) fn calls(&self, operation: &str) -> usize {
        self.state().calls.get(operation).copied().unwrap_or_default()
    }

    /// Where the copies of a message are.
    pub(crate) fn whereabouts(&self, number: Number) -> Whereabouts {
        self.state().model.whereabouts(number)
    }

    /// Whether the queue holds no message, visible or not.
    pub(crate) fn is_drained(&self) -> bool {
        self.state().model.is_drained()
    }

    /// How many messages could be received now.
    pub(crate) fn visible(&self) -> usize {
        let mut copy = self.state().model.clone();
        copy.receive(self.shared.now_ms(), usize::MAX).len()
    }

    fn state(&self) -> MutexGuard<'_, Inner> {
        self.shared.state.lock().expect("not poisoned")
    }
}

impl Drop for Sqs {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).expect("not that long")
    }

    fn with<T>(&self, act: impl FnOnce(&mut QueueModel, u64) -> T) -> T {
        let done = act(&mut self.state.lock().expect("not poisoned").model, self.now_ms());
        self.changed.notify_waiters();
        done
    }

    /// A long poll.
    async fn receive(&self, request: &Value) -> Value {
        let max = usize::try_from(request["MaxNumberOfMessages"].as_u64().expect("a number")).expect("small");
        let wait = Duration::from_secs(request["WaitTimeSeconds"].as_u64().expect("a wait"));
        let all = ["MessageSystemAttributeNames", "MessageAttributeNames"];
        assert!(all.iter().all(|names| request[names] == json!(["All"])), "all attributes are asked for: {request}");
        let until = Instant::now() + wait;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let (deliveries, next_ms) = {
                let model = &mut self.state.lock().expect("not poisoned").model;
                let now_ms = self.now_ms();
                (model.receive(now_ms, max), model.next_visible_ms(now_ms))
            };
            if !deliveries.is_empty() || Instant::now() >= until {
                let messages: Vec<Value> = deliveries.iter().map(message).collect();
                return json!({"Messages": messages});
            }
            let next = next_ms.map_or(until, |next_ms| self.start + Duration::from_millis(next_ms));
            tokio::select! {
                () = changed => {}
                () = sleep_until(next.min(until)) => {}
            }
        }
    }

    fn each(&self, request: &Value, fault: Option<Fault>, act: impl Fn(&mut QueueModel, u64, &Value) -> bool) -> Value {
        let entries = request["Entries"].as_array().expect("entries");
        assert!((1..=10).contains(&entries.len()), "a batch has 1 to 10 entries");
        let (mut successful, mut failed) = (Vec::new(), Vec::new());
        for entry in entries {
            let id = &entry["Id"];
            if let Some(Fault::Entries { sender }) = fault {
                failed.push(json!({"Id": id, "SenderFault": sender, "Code": "InternalError"}));
            } else if self.with(|model, now_ms| act(model, now_ms, entry)) {
                successful.push(json!({"Id": id}));
            } else {
                failed.push(json!({"Id": id, "SenderFault": true, "Code": "ReceiptHandleIsInvalid"}));
            }
        }
        json!({"Successful": successful, "Failed": failed})
    }
}

fn message(delivery: &Delivery) -> Value {
    let mut attributes = json!({
        "ApproximateReceiveCount": delivery.receive_count.to_string(),
        "SentTimestamp": delivery.sent_ms.to_string(),
    });
    if let Some(group) = &delivery.message.group {
        attributes["MessageGroupId"] = group.as_str().into();
    }
    json!({
        "MessageId": delivery.message_id, "ReceiptHandle": delivery.receipt_handle, "Body": delivery.message.body,
        "Attributes": attributes,
    })
}

async fn call(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    let target = headers["x-amz-target"].to_str().expect("text");
    let operation = target.strip_prefix("AmazonSQS.").expect("an SQS call");
    let fault = {
        let mut state = shared.state.lock().expect("not poisoned");
        *state.calls.entry(operation.to_owned()).or_default() += 1;
        (state.faults)(operation)
    };
    if let Some(Fault::Refused(code)) = fault {
        return (StatusCode::BAD_REQUEST, json!({"__type": format!("com.amazonaws.sqs#{code}")}).to_string());
    }
    let request: Value = serde_json::from_slice(&body).expect("JSON");
    let handle = |entry: &Value| entry["ReceiptHandle"].as_str().expect("a handle").to_owned();
    let answer = match operation {
        "GetQueueAttributes" => {
            json!({"Attributes": {"QueueArn": shared.arn, "VisibilityTimeout": shared.visibility_timeout_s}})
        }
        "ReceiveMessage" => shared.receive(&request).await,
        "DeleteMessageBatch" => {
            // What is gone, or on a standard queue was received again, is no error ("DeleteMessage").
            shared.each(&request, fault, |model, now_ms, entry| match model.delete(now_ms, &handle(entry)) {
                Ok(_) | Err(Refusal::Gone) => true,
                Err(Refusal::Stale) => !model.settings().fifo,
                Err(_) => false,
            })
        }
        "ChangeMessageVisibilityBatch" => shared.each(&request, fault, |model, now_ms, entry| {
            let timeout_s = entry["VisibilityTimeout"].as_u64().expect("a time-out");
            model.change_visibility(now_ms, &handle(entry), timeout_s).is_ok()
        }),
        other => panic!("{other} is not called by a mapping"),
    };
    if fault == Some(Fault::AnswerLost) {
        return (StatusCode::INTERNAL_SERVER_ERROR, json!({"__type": "com.amazonaws.sqs#InternalFailure"}).to_string());
    }
    (StatusCode::OK, answer.to_string())
}
