//! `microbatch up` and `send` as real processes: a whole stack on this machine, from its start to its end by a signal.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use e2e::functions::{functions, microbatch_command};
use e2e::paths::{events_dir, target_dir, workspace_root};
use e2e::stack::need;
use microbatch_aws::sqs::REASON_ATTRIBUTE;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

/// For what takes a second or so: a start, an installation, a build on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// A folder of its own, removed in the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let folder = target_dir().join("e2e").join(format!("{name}.{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("it can be written");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The command, without what cargo has told this test of its package.
pub(crate) fn microbatch(folder: &Path) -> Command {
    let mut command = Command::new(need(microbatch_command()));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A running stack.
pub(crate) struct Up {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    said: Vec<String>,
    state: PathBuf,
}

impl Up {
    /// Starts one and waits until it takes messages.
    pub(crate) async fn start(mut command: Command, arguments: &[&str], state: PathBuf) -> Self {
        command.arg("up").args(arguments).arg("--state").arg(&state).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, as a terminal gives each command.
        command.process_group(0);
        let mut child = command.spawn().expect("the command that was just built can be started");
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let mut up = Self { child, lines, said: Vec::new(), state };
        up.until("Send messages by: ").await;
        up
    }

    /// Reads on until a line has this in it, and gives the line.
    pub(crate) async fn until(&mut self, part: &str) -> String {
        let reading = async {
            while let Ok(Some(line)) = self.lines.next_line().await {
                self.said.push(line);
                if let Some(line) = self.said.last().filter(|line| line.contains(part)) {
                    return Some(line.clone());
                }
            }
            None
        };
        let found = timeout(PATIENCE, reading).await.ok().flatten();
        found.unwrap_or_else(|| panic!("no line with {part:?}; it said:\n{}", self.said.join("\n")))
    }

    /// What its file says of where everything is.
    fn whereabouts(&self) -> Value {
        let text = fs::read_to_string(self.state.join("up.json")).expect("the stack's file");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Interrupts it alone and waits for its end.
    pub(crate) async fn interrupt(&mut self) -> ExitStatus {
        let id = self.id();
        self.signal(&id.to_string()).await
    }

    /// Interrupts it with all of its group, as Ctrl-C on a terminal does, and waits for its end.
    async fn interrupt_group(&mut self) -> ExitStatus {
        let group = self.id();
        self.signal(&format!("-{group}")).await
    }

    async fn signal(&mut self, whom: &str) -> ExitStatus {
        let sent = std::process::Command::new("kill").args(["-INT", "--", whom]).status();
        assert!(sent.expect("kill can be started").success());
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("its status")
    }

    fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }
}

pub(crate) async fn send(folder: &Path, function: &str, file: &Path, state: &Path) -> Output {
    let mut command = microbatch(folder);
    command.arg("send").arg(function).arg(file).arg("--state").arg(state);
    command.output().await.expect("the command can be started")
}

pub(crate) async fn send_text(folder: &Path, function: &str, text: &str, state: &Path) -> Output {
    let mut command = microbatch(folder);
    command.args(["send", function, "-", "--state"]).arg(state);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command can be started");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(text.as_bytes()).await.expect("it reads");
    drop(stdin);
    child.wait_with_output().await.expect("it ends")
}

/// The processes that have this one above them, with their names.
fn descendants(of: u32) -> BTreeMap<u32, String> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let processes: Vec<(u32, u32, String)> = entries
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let (name, _, parent) = stat(id)?;
            Some((id, parent, name))
        })
        .collect();
    let mut found = BTreeMap::new();
    let mut parents = vec![of];
    while let Some(above) = parents.pop() {
        for (id, _, name) in processes.iter().filter(|(_, parent, _)| *parent == above) {
            found.insert(*id, name.clone());
            parents.push(*id);
        }
    }
    found
}

/// A process's name, state and parent.
fn stat(id: u32) -> Option<(String, String, u32)> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (front, back) = text.rsplit_once(") ")?;
    let mut fields = back.split(' ');
    Some((front.split_once('(')?.1.to_owned(), fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// Waits until none of the processes runs any more: what is killed ends a little later.
async fn assert_ended(processes: &BTreeMap<u32, String>) {
    let end = Instant::now() + Duration::from_secs(10);
    let runs = |(id, name): &(&u32, &String)| stat(**id).is_some_and(|(now, state, _)| now == **name && state != "Z");
    while processes.iter().any(|process| runs(&process)) {
        let left: Vec<_> = processes.iter().filter(runs).collect();
        assert!(Instant::now() < end, "still running: {left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_takes_orders_parks_poison_and_leaves_nothing_running() {
    let (scratch, root) = (Scratch::new("up"), workspace_root());
    let state = scratch.path("state");
    let binary = format!("process-orders={}", need(functions()).process_orders().display());
    let arguments = ["--function", "process-orders", "--binary", &binary];
    let mut up = Up::start(microbatch(&root), &arguments, state.clone()).await;

    let sent = send(&root, "process-orders", &events_dir().join("orders.json"), &state).await;
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    up.until("queue 0 · in flight 0 · dead letters 0 · batches 1 · errors 0 · Processed 5").await;

    // An order without anything in it: it can never be processed, and is parked at once.
    let poison = r#"{"order_id": "o-poison"}"#;
    let sent = send_text(&root, "process-orders", &format!("{poison}\n"), &state).await;
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    up.until("queue 0 · in flight 0 · dead letters 1 · batches 2 · errors 0 · Processed 5 · Rejected 1").await;
    let whereabouts = up.whereabouts();
    let (body, has_reason) = dead_letter(&whereabouts).await;
    assert!(body == poison && has_reason, "{body}");

    let unknown = send(&root, "post-ledger", &events_dir().join("ledger.json"), &state).await;
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("it runs process-orders"), "{unknown:?}");
    let processes = descendants(up.id());
    let names: Vec<&str> = processes.values().map(String::as_str).collect();
    assert!(names.contains(&"ministack") && names.contains(&"bootstrap"), "{names:?}");

    assert_eq!(up.interrupt().await.code(), Some(0));
    assert_ended(&processes).await;
    let late = send(&root, "process-orders", &events_dir().join("orders.json"), &state).await;
    assert_eq!(late.status.code(), Some(6), "{late:?}");
    assert!(String::from_utf8_lossy(&late.stderr).contains("no stack runs"), "{late:?}");
}

/// The body of the only dead letter, and whether it says why it is there.
async fn dead_letter(whereabouts: &Value) -> (String, bool) {
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(whereabouts["sqs"].as_str().expect("a URL"))
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "local"));
    let queue_url = whereabouts["functions"]["process-orders"]["dead_letters"].as_str().expect("a URL");
    let client = aws_sdk_sqs::Client::from_conf(config.build());
    let request = client.receive_message().queue_url(queue_url).message_attribute_names("All");
    let received = request.max_number_of_messages(10).send().await.expect("the queue answers");
    let [message] = received.messages() else { panic!("expected one dead letter: {received:?}") };
    let attributes = message.message_attributes();
    let has_reason = attributes.is_some_and(|attributes| attributes.contains_key(REASON_ATTRIBUTE));
    (message.body().expect("a body").to_owned(), has_reason)
}

const SLOW_TEMPLATE: &str = "
Resources:
  Queue: { Type: AWS::SQS::Queue, Properties: { VisibilityTimeout: 180 } }
  IdempotencyTable:
    Type: AWS::DynamoDB::Table
    Properties:
      AttributeDefinitions: [{ AttributeName: id, AttributeType: S }]
      KeySchema: [{ AttributeName: id, KeyType: HASH }]
  EffectsTable:
    Type: AWS::DynamoDB::Table
    Properties:
      AttributeDefinitions: [{ AttributeName: id, AttributeType: S }, { AttributeName: run, AttributeType: S }]
      KeySchema: [{ AttributeName: id, KeyType: HASH }, { AttributeName: run, KeyType: RANGE }]
  Function:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: ./scripted
      Timeout: 30
      Environment: { Variables: { MICROBATCH_TABLE: !Ref IdempotencyTable, EFFECTS_TABLE: !Ref EffectsTable } }
      Events:
        Messages:
          Type: SQS
          Properties: { Queue: !GetAtt Queue.Arn, BatchSize: 1, FunctionResponseTypes: [ReportBatchItemFailures] }
";

/// A stack whose function is in the middle of a batch.
async fn busy(scratch: &Scratch) -> Up {
    scratch.write("template.yaml", SLOW_TEMPLATE);
    let state = scratch.path("state");
    let binary = format!("scripted={}", need(functions()).scripted().display());
    let arguments = ["--template", "template.yaml", "--binary", &binary];
    let mut up = Up::start(microbatch(&scratch.0), &arguments, state.clone()).await;
    let sent = send_text(&scratch.0, "scripted", r#"{"id": "k-1", "act": "slow", "ms": 4000}"#, &state).await;
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    up.until("in flight 1").await;
    up
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_runs_is_finished_before_the_end() {
    let scratch = Scratch::new("up-busy");
    let mut up = busy(&scratch).await;
    assert_eq!(up.interrupt().await.code(), Some(0));
    up.until("Stopping").await;
    up.until("1 messages in 4").await;
    up.until("queue 0 · in flight 0 · batches 1 · errors 0 · Processed 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminals_interrupt_reaches_no_function() {
    let scratch = Scratch::new("up-terminal");
    let mut up = busy(&scratch).await;
    assert_eq!(up.interrupt_group().await.code(), Some(0));
    up.until("queue 0 · in flight 0 · batches 1 · errors 0 · Processed 1").await;
}

const TEMPLATE: &str = "
Resources:
  Queue:
    Type: AWS::SQS::Queue
    Properties: { VisibilityTimeout: 1 }
  Function:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: ./teller
      Timeout: 1
      Events: { Messages: { Type: SQS, Properties: { Queue: !GetAtt Queue.Arn, BatchSize: 1 } } }
";

/// A function that only says which build of it runs: the message comes again and again.
fn teller(version: u32) -> String {
    format!("fn main() {{ eprintln!(\"this is build {version}\"); std::process::exit(3); }}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_built_and_swapped_and_a_failed_build_keeps_the_old_one() {
    let scratch = Scratch::new("up-rebuild");
    scratch.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"teller\"]\n");
    scratch.write("teller/Cargo.toml", "[package]\nname = \"teller\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    scratch.write("teller/src/main.rs", &teller(1));
    scratch.write("infra/template.yaml", TEMPLATE);
    let state = scratch.path("state");
    let mut command = microbatch(&scratch.0);
    command.env("CARGO_TARGET_DIR", scratch.path("target"));
    let mut up = Up::start(command, &[], state.clone()).await;

    let sent = send_text(&scratch.0, "teller", "{}", &state).await;
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    up.until("teller │ this is build 1").await;
    scratch.write("teller/src/main.rs", "fn main() { this is no Rust }\n");
    up.until("the build before stays at work").await;
    up.until("teller │ this is build 1").await;
    scratch.write("teller/src/main.rs", &teller(2));
    up.until("the new build runs from the next batch on").await;
    up.until("teller │ this is build 2").await;
    assert_eq!(up.interrupt().await.code(), Some(0));
}
