//! The model of cost against the wire: what it makes of a run's own metrics is what the table was asked for.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::types::{AttributeValue, Put};
use microbatch::pipeline::Host;
use microbatch::{Done, ItemContext, Pipeline, ProcessError, Processor};
use microbatch_aws::DynamoDbStore;
use microbatch_aws::clock::{SystemClock, SystemRandom};
use microbatch_aws::dynamodb::DynamoDbWrite;
use microbatch_aws::metrics::{MetricsRecorder, MetricsSettings};
use microbatch_local::dynamodb::EmbeddedDynamoDb;
use microbatch_local::proxy::{Call, Fault, Proxy};
use microbatch_local::tables::{Endpoint, TableSpec, ensure};
use serde_json::{Value, json};

const RECORDS: &str = "idempotency";
const ORDERS: &str = "orders";
/// Far more than the run takes, on a machine with other work to do.
const TIMEOUT_MS: u64 = 300_000;

/// Takes orders; every tenth fails at its first delivery.
struct TakeOrders {
    is_transactional: bool,
}

#[derive(serde::Deserialize)]
struct Order {
    order_id: u64,
}

impl Processor for TakeOrders {
    type Item = Order;
    type Output = ();
    type Write = DynamoDbWrite;

    async fn process(&self, order: Order, cx: &ItemContext) -> Result<Done<(), DynamoDbWrite>, ProcessError> {
        if order.order_id.is_multiple_of(10) && cx.receive_count == 1 {
            return Err(ProcessError::transient(std::fmt::Error));
        }
        if !self.is_transactional {
            return Ok(().into());
        }
        let id = AttributeValue::S(order.order_id.to_string());
        Ok(Done::with_writes((), vec![Put::builder().table_name(ORDERS).item("order_id", id).build()?.into()]))
    }
}

/// Units that a table was asked for, by `DynamoDB`'s rules for records of up to a kilobyte.
#[derive(Default)]
struct Units {
    written: AtomicUsize,
    read: AtomicUsize,
}

impl Units {
    fn count(&self, call: &Call<'_>) {
        let body: Value = serde_json::from_slice(call.body).expect("a JSON request");
        let count = |member: &str| body[member].as_array().map_or(0, Vec::len);
        let (written, read) = match call.operation {
            "BatchExecuteStatement" => (count("Statements"), 0),
            "TransactWriteItems" => (2 * count("TransactItems"), 0),
            "PutItem" | "UpdateItem" => (1, 0),
            "BatchGetItem" => (0, body["RequestItems"][RECORDS]["Keys"].as_array().map_or(0, Vec::len)),
            "GetItem" => (0, 1),
            other => panic!("{other} has no price here"),
        };
        self.written.fetch_add(written, Ordering::Relaxed);
        self.read.fetch_add(read, Ordering::Relaxed);
    }
}

/// Keeps the metrics lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("nobody panics with it").clone()).expect("JSON")
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panics with it").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn recorder(lines: &Lines) -> MetricsRecorder<Lines> {
    let settings = MetricsSettings {
        namespace: "microbatch".to_owned(),
        function: "take-orders".to_owned(),
        version: "$LATEST".to_owned(),
        level: "INFO".to_owned(),
    };
    MetricsRecorder::to(settings, lines.clone())
}

fn event(orders: impl Iterator<Item = u64>, receive_count: u32) -> String {
    let record = |order: u64| {
        json!({
            "messageId": format!("m-{order}"), "receiptHandle": "r", "body": json!({"order_id": order}).to_string(),
            "attributes": {"ApproximateReceiveCount": receive_count.to_string()}, "messageAttributes": {},
            "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:orders",
        })
    };
    json!({"Records": orders.map(record).collect::<Vec<_>>()}).to_string()
}

/// Units that the model computes for all items of the log, of each part.
fn modelled(log: &str, name: &str, options: &[&str]) -> Vec<(String, f64)> {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, log).expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_microbatch"))
        .args(["cost", "--format", "json", path.to_str().expect("a path in UTF-8")])
        .args(options)
        .output()
        .expect("it starts");
    let cost: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let items: f64 = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .map(|line| line["Items"].as_f64().expect("a number"))
        .sum();
    let parts = cost["workloads"][0]["parts"].as_array().expect("parts");
    let units = |part: &Value| part["units_per_item"].as_f64().expect("a number") * items;
    parts.iter().map(|part| (part["unit"].as_str().expect("a unit").to_owned(), units(part))).collect()
}

/// A hundred orders of which ten fail and come again, then nine that were done already.
async fn runs_and_is_counted(is_transactional: bool) {
    let server = EmbeddedDynamoDb::start(None).await.expect("a server");
    let tables = [TableSpec::idempotency(RECORDS), TableSpec::from_keys(ORDERS, "order_id").expect("a table")];
    ensure(&Endpoint::parse(&server.endpoint_url()).expect("a URL"), &tables).await.expect("the tables");
    let units = Arc::<Units>::default();
    let counted = Arc::clone(&units);
    let script = move |call: &Call<'_>| {
        counted.count(call);
        Fault::Pass
    };
    let proxy = Proxy::start(server.address(), script).await.expect("a port");
    let client = Endpoint::parse(&proxy.endpoint_url()).expect("a URL").client().await;
    let lines = Lines::default();
    let host = Host {
        store: DynamoDbStore::new(client, RECORDS),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        recorder: Arc::new(recorder(&lines)),
        queue: None,
    };
    let builder = Pipeline::builder(TakeOrders { is_transactional }).key("order_id").options(|options| {
        "take-orders".clone_into(&mut options.namespace);
        options.timeout_ms = TIMEOUT_MS;
    });
    let pipeline = builder.build(host).expect("settings");
    // As a function's init does: a read for each cold start.
    pipeline.store().warm_up().await.expect("the table is there");
    let batches = [
        event(0..100, 1),
        event((0..100).step_by(10), 2),
        // Done already.
        event(21..30, 2),
    ];
    for (number, batch) in batches.iter().enumerate() {
        pipeline.run(batch, &format!("b-{number}"), None).await.expect("a response");
    }

    let log = lines.text();
    let options: &[&str] = if is_transactional { &["--transactional"] } else { &[] };
    let modelled = modelled(&log, &format!("wire-{is_transactional}.log"), options);
    let of = |unit: &str| modelled.iter().filter(|part| part.0 == unit).map(|part| part.1).sum::<f64>();
    // 119 claims, 10 takeovers, 10 releases, 100 completions; in transactions twice those, and twice the orders.
    let completions = if is_transactional { 400 } else { 100 };
    let (written, read) = (units.written.load(Ordering::Relaxed), units.read.load(Ordering::Relaxed));
    assert_eq!(written, 139 + completions, "written on the wire");
    let is = |modelled: f64, found: usize| (modelled - f64::from(u32::try_from(found).expect("few"))).abs() < 1e-6;
    assert!(is(of("write units"), written), "modelled {}, on the wire {written}", of("write units"));
    assert!(is(of("read units"), read), "modelled {}, on the wire {read}", of("read units"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_units_of_a_run_are_those_on_the_wire() {
    runs_and_is_counted(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_are_those_of_transactions() {
    runs_and_is_counted(true).await;
}
