//! The same loop under ministack's own event source mapping, as a second opinion: batches of up to ten, and no window.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::functions::functions;
use e2e::paths::target_dir;
use e2e::sqs::Sqs;
use e2e::stack::{ORDERS_TABLE, Tables, need};
use e2e::tools::ministack;
use microbatch_local::environment::{self, LOCAL_REGION};
use microbatch_local::items::{LogLine, parse};
use microbatch_local::tables::Endpoint;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::loop_orders::{Kind, Orders, Queues, depth, order_ids};

/// Longer than an invocation of ten orders takes on a busy machine.
const TIMEOUT_S: u64 = 5;
/// Transient messages come back when the order that they wait for is there.
const VISIBILITY_TIMEOUT_S: u64 = 10;
const PATIENCE: Duration = Duration::from_mins(3);
/// How often a file is looked at, or a queue is asked, since neither announces anything.
const LOOK: Duration = Duration::from_millis(100);

/// A folder with a function whose output goes to a file, whatever the service does with it.
struct Logged {
    folder: PathBuf,
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Logged {
    fn new(program: &Path) -> Self {
        let folder = target_dir().join("e2e").join(format!("loop-ministack.{}", std::process::id()));
        need(fs::create_dir_all(&folder));
        let it = Self { folder };
        let script = format!("#!/bin/sh\nexec '{}' >>'{}'\n", program.display(), it.log().display());
        need(fs::write(it.bootstrap(), script));
        need(fs::set_permissions(it.bootstrap(), fs::Permissions::from_mode(0o755)));
        it
    }

    fn bootstrap(&self) -> PathBuf {
        self.folder.join("bootstrap")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn count(&self, outcome: &str) -> usize {
        let lines = self.lines();
        lines.iter().filter(|line| matches!(parse(line), LogLine::Item(report) if report.outcome == outcome)).count()
    }
}

/// Makes the function and the mapping.
fn connect(endpoint_url: &str, function: &Logged, queue_arn: &str, dynamodb_url: &str) {
    let mut variables = environment::local(dynamodb_url, true);
    variables.insert("ORDERS_TABLE".to_owned(), ORDERS_TABLE.to_owned());
    variables.insert("AWS_LAMBDA_LOG_FORMAT".to_owned(), "JSON".to_owned());
    let python = need(ministack()).with_file_name("python");
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/loop_ministack.py"));
    command.arg("process-orders").arg(function.bootstrap());
    command.args([queue_arn, &TIMEOUT_S.to_string(), &json!(variables).to_string()]);
    command.env("AWS_ENDPOINT_URL", endpoint_url).env("AWS_DEFAULT_REGION", LOCAL_REGION);
    command.env("AWS_ACCESS_KEY_ID", "local").env("AWS_SECRET_ACCESS_KEY", "local");
    let output = command.output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn until(what: &str, function: &Logged, mut reached: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !reached().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    let in_time = timeout(PATIENCE, wait).await;
    assert!(in_time.is_ok(), "{what} takes too long; the function said:\n{}", function.lines().join("\n"));
}

/// P1, P12.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_orders_in_batches_of_ten_are_processed_once_each_or_are_dead_letters() {
    let sqs = Sqs::start("loop-ministack").await;
    let tables = Tables::start().await;
    let client = need(Endpoint::parse(&tables.endpoint_url())).client().await;
    let queues = Queues::make(&sqs, "orders", VISIBILITY_TIMEOUT_S).await;
    let mut orders = Orders::default();
    orders.send(sqs.direct(), &queues.source).await;
    let function = Logged::new(&need(functions()).process_orders());
    connect(&sqs.endpoint_url(), &function, &queues.source_arn, &tables.endpoint_url());

    let transient = orders.count(Kind::Transient);
    until("the first delivery", &function, async || function.count("Failed") == transient).await;
    orders.send_amended(sqs.direct(), &queues.source).await;
    until("the queue", &function, async || depth(sqs.direct(), &queues.source).await == 0).await;

    let lines = function.lines();
    orders.check_reports(&lines);
    orders.check_orders(&order_ids(&client).await);
    orders.check_dead(&sqs.drain(&queues.dead).await);
    let batches: Vec<u64> = lines.iter().filter_map(|line| records(line)).collect();
    assert!(batches.iter().all(|records| (1..=10).contains(records)) && batches.contains(&10), "{batches:?}");
}

/// How many messages a batch had, from the line that reports it.
fn records(line: &str) -> Option<u64> {
    matches!(parse(line), LogLine::Batch)
        .then(|| serde_json::from_str::<Value>(line).ok()?["records"].as_u64())
        .flatten()
}
