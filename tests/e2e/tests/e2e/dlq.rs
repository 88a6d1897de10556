//! `microbatch dlq`, `explain` and `resolve` as real processes, on real queues and tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName};
use e2e::functions::functions;
use e2e::paths::{events_dir, workspace_root};
use e2e::sqs::Sqs;
use e2e::stack::{IDEMPOTENCY_TABLE, Tables, need};
use microbatch::key::Key;
use microbatch::pipeline::Host;
use microbatch::record::Owner;
use microbatch::transition::{ClaimAnswer, ClaimRequest, OnLapsedLease};
use microbatch::{Pipeline, Store};
use microbatch_aws::DynamoDbStore;
use microbatch_aws::clock::{SystemClock, SystemRandom};
use microbatch_aws::sqs::{REASON_ATTRIBUTE, SqsQueue};
use microbatch_local::proxy::{Call, Fault};
use microbatch_local::tables::Endpoint;
use microbatch_testkit::scripted::{Act, Scripted};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::up::{PATIENCE, Scratch, Up, microbatch, send, send_text};

/// For requests that are to be answered, on a machine that is busy.
const PATIENCE_MS: u64 = 20_000;
/// How often a queue is looked at, which announces nothing.
const LOOK: Duration = Duration::from_millis(50);
const NAMESPACE: &str = "scripted";

/// Two queues, an idempotency table, and the environment of an operator.
struct Scene {
    sqs: Sqs,
    tables: Tables,
    source: String,
    dead: String,
    scratch: Scratch,
}

impl Scene {
    async fn start(name: &str, fifo: bool) -> Self {
        let (sqs, tables) = (Sqs::start(name).await, Tables::start().await);
        let suffix = if fifo { ".fifo" } else { "" };
        let dead = sqs.queue(&format!("orders-dlq{suffix}"), &[]).await;
        let policy = json!({"deadLetterTargetArn": arn(&sqs, &dead).await, "maxReceiveCount": 1}).to_string();
        let source =
            sqs.queue(&format!("orders{suffix}"), &[(QueueAttributeName::RedrivePolicy, policy.as_str())]).await;
        Self { sqs, tables, source, dead, scratch: Scratch::new(name) }
    }

    /// A command against these queues and tables.
    fn command(&self, sqs_url: &str, arguments: &[&str]) -> Command {
        let mut command = microbatch(&self.scratch.path(""));
        command.args(arguments).env("AWS_ENDPOINT_URL_SQS", sqs_url);
        command.env("AWS_ENDPOINT_URL_DYNAMODB", self.tables.endpoint_url());
        command.env("MICROBATCH_TABLE", IDEMPOTENCY_TABLE).env("XDG_STATE_HOME", self.scratch.path("state"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let running = self.command(&self.sqs.endpoint_url(), arguments).output();
        timeout(2 * PATIENCE, running).await.expect("it ends").expect("the command can be started")
    }

    /// Standard output of a command that must succeed, as JSON.
    async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Messages that a real pipeline parks, each with its reason; some of them in groups.
    async fn park(&self, ids: impl Iterator<Item = String>) {
        let arn = arn(&self.sqs, &self.source).await;
        let record = |id: String| {
            json!({"messageId": format!("first-{id}"), "receiptHandle": "r", "body": json!({"id": id}).to_string(),
                "attributes": {"ApproximateReceiveCount": "1"}, "eventSource": "aws:sqs", "eventSourceARN": arn,
                "messageAttributes": {"of": {"stringValue": id, "dataType": "String"}}})
        };
        let records: Vec<Value> = ids.map(record).collect();
        let queue = SqsQueue::new(self.sqs.proxied(PATIENCE_MS), &self.source).park_in(&self.dead);
        let host = Host {
            store: self.store().await,
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            recorder: Arc::new(()),
            queue: Some(Arc::new(queue)),
        };
        let processor = Scripted::by("id").otherwise(Act::Permanent);
        let builder = Pipeline::builder(processor).key("id").options(|options| {
            NAMESPACE.clone_into(&mut options.namespace);
            options.timeout_ms = 120_000;
        });
        let pipeline = need(builder.build(host));
        let response = pipeline.run(&json!({"Records": records}).to_string(), "batch", None).await;
        let reported = need(response).into_failed_ids();
        assert_eq!(reported, [""; 0], "all are parked");
    }

    /// Messages that the redrive policy of the source queue moves.
    async fn move_out(&self, ids: impl Iterator<Item = String>) {
        let expected = self.depth(&self.dead).await + {
            let mut count = 0;
            for id in ids {
                let body = json!({"id": id}).to_string();
                let value = MessageAttributeValue::builder().data_type("String").string_value(&id);
                let value = need(value.build());
                let request = self.sqs.direct().send_message().queue_url(&self.source).message_body(body);
                request.message_attributes("of", value).send().await.expect("sent");
                count += 1;
            }
            count
        };
        let end = Instant::now() + PATIENCE;
        while self.depth(&self.dead).await < expected {
            assert!(Instant::now() < end, "{} of {expected} were moved", self.depth(&self.dead).await);
            // Delivered once, and not deleted: the next delivery is one too many.
            self.sqs.receive(&self.source, 0, 0).await;
        }
    }

    async fn store(&self) -> DynamoDbStore {
        let client = need(Endpoint::parse(&self.tables.endpoint_url())).client().await;
        DynamoDbStore::new(client, IDEMPOTENCY_TABLE)
    }

    /// Messages that can be received.
    async fn depth(&self, url: &str) -> usize {
        let name = QueueAttributeName::ApproximateNumberOfMessages;
        let request = self.sqs.direct().get_queue_attributes().queue_url(url).attribute_names(name.clone());
        let answer = request.send().await.expect("attributes");
        answer.attributes().and_then(|all| all.get(&name)?.parse().ok()).expect("a number")
    }

    /// Waits until that many messages have arrived in the source queue.
    async fn until_sent(&self, count: usize, child: &mut Child) {
        let end = Instant::now() + PATIENCE;
        while self.depth(&self.source).await < count {
            assert!(Instant::now() < end, "{} of {count} were sent", self.depth(&self.source).await);
            let ended = child.try_wait().expect("a status");
            assert!(ended.is_none(), "it ended before {count} were sent");
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn arn(sqs: &Sqs, url: &str) -> String {
    let request = sqs.direct().get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::QueueArn);
    let answer = request.send().await.expect("attributes");
    answer.attributes().and_then(|all| all.get(&QueueAttributeName::QueueArn)).expect("an ARN").clone()
}

async fn signal(child: &Child, name: &str) {
    let id = child.id().expect("it runs").to_string();
    let sent = Command::new("kill").args([name, &id]).status().await;
    assert!(sent.expect("kill can be started").success());
}

async fn end(child: Child) -> Output {
    timeout(2 * PATIENCE, child.wait_with_output()).await.expect("it ends").expect("its output")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// How often each id is among the messages, by their bodies.
fn counts(messages: &[Message]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for message in messages {
        let body: Value = serde_json::from_str(message.body().expect("a body")).expect("JSON");
        *counts.entry(body["id"].as_str().expect("an id").to_owned()).or_default() += 1;
    }
    counts
}

/// The ids that a summary names as perhaps doubled.
fn named_as_doubled(output: &Output) -> Vec<String> {
    let text = stderr(output);
    let line = text.lines().find(|line| line.contains("may be there twice"));
    let ids = line.and_then(|line| line.rsplit_once(": ")).map_or("", |(_, ids)| ids);
    ids.split_whitespace().map(str::to_owned).collect()
}

fn parked_ids(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("parked-{n}"))
}

fn moved_ids(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("moved-{n}"))
}

/// P13, and that a look leaves everything where it was.
#[tokio::test(flavor = "multi_thread")]
async fn p13_500_parked_and_500_moved_messages_are_listed_and_a_malformed_one_is_shown() {
    let scene = Scene::start("dlq-list", false).await;
    scene.park(parked_ids(500)).await;
    scene.move_out(moved_ids(500)).await;
    let malformed = MessageAttributeValue::builder().data_type("String").string_value("{\"kind\": canary").build();
    let request = scene.sqs.direct().send_message().queue_url(&scene.dead).message_body("canary, no JSON");
    request.message_attributes(REASON_ATTRIBUTE, need(malformed)).send().await.expect("sent");

    let list = scene.json(&["dlq", "list", "orders-dlq", "--max", "2000", "--format", "json"]).await;
    let groups = list["groups"].as_array().expect("groups").iter();
    let groups: BTreeMap<&str, u64> = groups
        .map(|group| (group["code"].as_str().expect("a code"), group["count"].as_u64().expect("a count")))
        .collect();
    assert_eq!(groups, BTreeMap::from([("on_purpose", 500), ("@moved", 500), ("@unreadable", 1)]));
    assert_eq!(list["seen"], 1_001);
    assert_eq!((scene.depth(&scene.dead).await, scene.sqs.hidden(&scene.dead).await), (1_001, 0), "all are visible");

    let arguments =
        ["dlq", "show", "orders-dlq", "--max", "2000", "--limit", "2000", "--key", "id", "--format", "json"];
    let show = scene.json(&[&arguments[..], &["--namespace", NAMESPACE]].concat()).await;
    let messages = show["messages"].as_array().expect("messages");
    assert_eq!(messages.len(), 1_001);
    let mut states: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for message in messages {
        let state = message["record"]["status"].as_str().unwrap_or("no key");
        *states.entry((message["code"].as_str().expect("a code"), state)).or_default() += 1;
    }
    // The pipeline gave back what it parked; what was never claimed has no record.
    let expected =
        [(("on_purpose", "released"), 500), (("@moved", "never_claimed"), 500), (("@unreadable", "no key"), 1)];
    assert_eq!(states, expected.into());

    let malformed = scene.run(&["dlq", "show", "orders-dlq", "--max", "2000", "--code", "@unreadable"]).await;
    let text = String::from_utf8_lossy(&malformed.stdout);
    assert_eq!(malformed.status.code(), Some(0), "{malformed:?}");
    assert!(text.contains("unreadable reason") && !text.contains("canary"), "{text}");
    assert!(!stderr(&malformed).contains("canary") && !show.to_string().contains("canary"));
}

/// An interrupted redrive is resumed, by Ctrl-C and by a kill: nothing is lost, and doubled is only what is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_is_interrupted_and_killed_loses_nothing_and_doubles_nothing() {
    let scene = Scene::start("dlq-redrive", false).await;
    scene.park(parked_ids(500)).await;
    scene.move_out(moved_ids(500)).await;
    let redrive = ["dlq", "redrive", "orders-dlq", "--yes", "--rate", "300"];
    let url = scene.sqs.endpoint_url();

    let mut child = scene.command(&url, &redrive).spawn().expect("it starts");
    scene.until_sent(150, &mut child).await;
    signal(&child, "-INT").await;
    let interrupted = end(child).await;
    assert_eq!(interrupted.status.code(), Some(130), "{interrupted:?}");
    assert!(stderr(&interrupted).contains("no message move tasks here"), "{interrupted:?}");
    assert!(stderr(&interrupted).contains("interrupted: the same command goes on"), "{interrupted:?}");
    let (sent, left) = (scene.depth(&scene.source).await, scene.depth(&scene.dead).await);
    assert_eq!((sent + left, scene.sqs.hidden(&scene.dead).await), (1_000, 0), "every message is in one place");

    let mut child = scene.command(&url, &redrive).spawn().expect("it starts");
    scene.until_sent(sent + 200, &mut child).await;
    signal(&child, "-KILL").await;
    end(child).await;

    let resumed = scene.run(&redrive).await;
    assert_eq!(resumed.status.code(), Some(0), "{resumed:?}");
    assert!(stderr(&resumed).contains("goes on with the journal"), "{resumed:?}");
    assert_eq!((scene.depth(&scene.dead).await, scene.sqs.hidden(&scene.dead).await), (0, 0));

    let there = scene.sqs.drain(&scene.source).await;
    let counts = counts(&there);
    let all: BTreeSet<String> = parked_ids(500).chain(moved_ids(500)).collect();
    assert_eq!(counts.keys().cloned().collect::<BTreeSet<_>>(), all, "nothing is lost");
    let (doubled, named) = (there.len() - all.len(), named_as_doubled(&resumed).len());
    assert!(doubled <= named && named <= 10, "{doubled} are doubled, {named} named: {}", stderr(&resumed));
    for message in &there {
        let attributes = message.message_attributes().expect("the sender's");
        let body: Value = serde_json::from_str(message.body().expect("a body")).expect("JSON");
        assert_eq!(attributes["of"].string_value(), body["id"].as_str(), "attributes stay");
        assert!(!attributes.contains_key(REASON_ATTRIBUTE), "the reason does not");
    }
    let again = scene.run(&redrive).await;
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    assert!(stderr(&again).contains("0 messages sent"), "{again:?}");
}

/// Holds the answer to the `nth` request to send, after it was done.
fn hold_answer(scene: &Scene, nth: usize) -> Arc<AtomicUsize> {
    let sends = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sends);
    scene.sqs.proxy.set_script(move |call: &Call<'_>| {
        let is_it = call.operation == "SendMessageBatch" && count.fetch_add(1, Ordering::SeqCst) == nth;
        if is_it { Fault::HangAfter } else { Fault::Pass }
    });
    sends
}

/// Kills a redrive exactly between the send of a batch and its answer.
async fn kill_between(scene: &Scene, arguments: &[&str], nth: usize) {
    let sends = hold_answer(scene, nth);
    let url = scene.sqs.proxy.endpoint_url();
    let child = scene.command(&url, arguments).spawn().expect("it starts");
    let before = scene.depth(&scene.dead).await + scene.sqs.hidden(&scene.dead).await;
    let end_by = Instant::now() + PATIENCE;
    // The messages of that request are in the source queue, and the command waits for the answer.
    while sends.load(Ordering::SeqCst) <= nth || scene.depth(&scene.source).await == 0 {
        assert!(Instant::now() < end_by, "the request to hold did not come");
        tokio::time::sleep(LOOK).await;
    }
    while scene.depth(&scene.source).await + scene.depth(&scene.dead).await + scene.sqs.hidden(&scene.dead).await
        <= before
    {
        assert!(Instant::now() < end_by, "the request to hold was not done");
        tokio::time::sleep(LOOK).await;
    }
    signal(&child, "-KILL").await;
    end(child).await;
    scene.sqs.proxy.set_script(|_: &Call<'_>| Fault::Pass);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_without_an_answer_is_sent_again_and_named() {
    let scene = Scene::start("dlq-between", false).await;
    scene.move_out(moved_ids(40)).await;
    let redrive = ["dlq", "redrive", &scene.dead, "--to", "orders", "--yes", "--one-by-one"];
    kill_between(&scene, &redrive, 1).await;
    let resumed = scene.run(&redrive).await;
    // Another address of the same queue, and so another journal, would know nothing.
    assert_eq!(resumed.status.code(), Some(0), "{resumed:?}");
    let there = scene.sqs.drain(&scene.source).await;
    let counts = counts(&there);
    assert_eq!(counts.len(), 40, "nothing is lost");
    let doubled = counts.values().filter(|count| **count > 1).count();
    assert_eq!((doubled, named_as_doubled(&resumed).len()), (10, 10), "{}", stderr(&resumed));
    assert_eq!(scene.depth(&scene.dead).await, 0);
}

/// P16: on a FIFO queue the repetition is dropped, and the order of a group is kept.
#[tokio::test(flavor = "multi_thread")]
async fn p16_a_fifo_redrive_that_is_killed_doubles_nothing_and_keeps_the_order_of_groups() {
    let scene = Scene::start("dlq-fifo", true).await;
    for n in 0..48 {
        let request = scene.sqs.direct().send_message().queue_url(&scene.dead);
        let request = request.message_body(json!({"id": format!("{n:03}")}).to_string());
        let request = request.message_group_id(format!("g-{}", n % 6)).message_deduplication_id(n.to_string());
        request.send().await.expect("sent");
    }
    let redrive = ["dlq", "redrive", &scene.dead, "--to", "orders.fifo", "--yes"];
    kill_between(&scene, &redrive, 2).await;
    let resumed = scene.run(&redrive).await;
    assert_eq!(resumed.status.code(), Some(0), "{resumed:?}");
    assert_eq!(named_as_doubled(&resumed), [""; 0], "{}", stderr(&resumed));

    let there = scene.sqs.drain(&scene.source).await;
    let counts = counts(&there);
    assert_eq!((there.len(), counts.len()), (48, 48), "each once");
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for message in &there {
        let group = &message.attributes().expect("some")[&MessageSystemAttributeName::MessageGroupId];
        groups.entry(group).or_default().push(message.body().expect("a body"));
    }
    assert!(groups.len() == 6 && groups.values().all(|bodies| bodies.is_sorted()), "{groups:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_redriven_and_purged_by_selection_and_only_when_that_is_meant() {
    let scene = Scene::start("dlq-select", false).await;
    scene.park(parked_ids(12)).await;
    scene.move_out(moved_ids(15)).await;

    let unasked = scene.run(&["dlq", "redrive", "orders-dlq"]).await;
    assert_eq!(unasked.status.code(), Some(2), "{unasked:?}");
    assert!(stderr(&unasked).contains("--yes"), "{unasked:?}");
    let itself = scene.run(&["dlq", "redrive", "orders-dlq", "--to", "orders-dlq", "--yes"]).await;
    assert_eq!(itself.status.code(), Some(2), "{itself:?}");
    let everything = scene.run(&["dlq", "purge", "orders-dlq", "--yes"]).await;
    assert_eq!(everything.status.code(), Some(2), "{everything:?}");
    let dry = scene.run(&["dlq", "redrive", "orders-dlq", "--code", "on_purpose", "--dry-run"]).await;
    assert!(stderr(&dry).contains("12 messages to orders (12 on_purpose)"), "{dry:?}");
    assert_eq!((scene.depth(&scene.dead).await, scene.sqs.hidden(&scene.dead).await), (27, 0), "nothing was done");

    let some = scene.run(&["dlq", "redrive", "orders-dlq", "--code", "on_purpose", "--yes"]).await;
    assert_eq!(some.status.code(), Some(0), "{some:?}");
    let there = counts(&scene.sqs.drain(&scene.source).await);
    assert!(there.len() == 12 && there.keys().all(|id| id.starts_with("parked-")), "{there:?}");
    assert_eq!((scene.depth(&scene.dead).await, scene.sqs.hidden(&scene.dead).await), (15, 0));

    let list = scene.json(&["dlq", "show", "orders-dlq", "--limit", "2", "--format", "json"]).await;
    let ids: Vec<&str> = (0..2).map(|n| list["messages"][n]["message_id"].as_str().expect("an id")).collect();
    let purged = scene.run(&["dlq", "purge", "orders-dlq", ids[0], ids[1], "--yes"]).await;
    assert_eq!(purged.status.code(), Some(0), "{purged:?}");
    assert_eq!((scene.depth(&scene.dead).await, scene.sqs.hidden(&scene.dead).await), (13, 0));
    let purged = scene.run(&["dlq", "purge", "orders-dlq", "--all", "--yes"]).await;
    assert_eq!((purged.status.code(), scene.depth(&scene.dead).await), (Some(0), 0), "{purged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lapsed_work_is_explained_and_resolved_and_the_store_takes_the_operators_word() {
    let scene = Scene::start("dlq-resolve", false).await;
    let store = scene.store().await;
    let now_ms = microbatch::Clock::now_ms(&SystemClock);
    let claim = |key: &Key, lease_end_ms| ClaimRequest {
        key: key.clone(),
        owner: Owner::new(format!("owner-{lease_end_ms}")),
        fingerprint: None,
        lease_end_ms,
        retention_end_s: now_ms / 1_000 + 3_600,
        on_lapsed_lease: OnLapsedLease::Park,
    };
    let (done, again, live) = (Key::digest("n", "1"), Key::digest("n", "2"), Key::digest("n", "3"));
    for (key, lease_end_ms) in [(&done, now_ms - 1), (&again, now_ms - 1), (&live, now_ms + 600_000)] {
        assert!(matches!(store.claim(now_ms, &[claim(key, lease_end_ms)]).await[..], [Ok(ClaimAnswer::Claimed(_))]));
    }
    let status = async |key: &Key| {
        let told = scene.json(&["explain", key.as_str(), "--format", "json"]).await;
        told["record"]["status"].as_str().expect("a status").to_owned()
    };
    assert_eq!((status(&done).await.as_str(), status(&live).await.as_str()), ("lapsed", "in_progress"));

    let unasked = scene.run(&["resolve", done.as_str(), "--completed"]).await;
    assert_eq!(unasked.status.code(), Some(2), "{unasked:?}");
    let held = scene.run(&["resolve", live.as_str(), "--retry", "--yes", "--by", "maria"]).await;
    assert_eq!(held.status.code(), Some(2), "{held:?}");
    assert!(stderr(&held).contains("a claim holds the key"), "{held:?}");
    for (key, to) in [(&done, "--completed"), (&again, "--retry")] {
        let resolved = scene.run(&["resolve", key.as_str(), to, "--yes", "--by", "maria"]).await;
        assert_eq!(resolved.status.code(), Some(0), "{resolved:?}");
    }
    let told = scene.json(&["explain", done.as_str(), "--format", "json"]).await;
    assert_eq!((&told["record"]["status"], &told["record"]["resolved"]["by"]), (&json!("completed"), &json!("maria")));
    let later_ms = now_ms + 1_000;
    let answers = store.claim(later_ms, &[claim(&done, later_ms + 9), claim(&again, later_ms + 9)]).await;
    assert!(matches!(answers[..], [Ok(ClaimAnswer::Duplicate { .. }), Ok(ClaimAnswer::Claimed(_))]), "{answers:?}");

    let refused = scene.run(&["resolve", done.as_str(), "--retry", "--yes", "--by", "maria"]).await;
    assert!(refused.status.code() == Some(2) && stderr(&refused).contains("--undo-completed"), "{refused:?}");
    let undone = scene.run(&["resolve", done.as_str(), "--retry", "--undo-completed", "--yes", "--by", "maria"]).await;
    assert_eq!((undone.status.code(), status(&done).await.as_str()), (Some(0), "released"), "{undone:?}");
    let mistyped = format!("{}x", done.as_str());
    let mistyped = scene.run(&["resolve", &mistyped, "--completed", "--yes", "--by", "maria"]).await;
    assert!(mistyped.status.code() == Some(2) && stderr(&mistyped).contains("mistyped"), "{mistyped:?}");
    let absent = scene.run(&["resolve", "n#never-seen", "--retry", "--yes", "--by", "maria"]).await;
    assert!(absent.status.code() == Some(0) && stderr(&absent).contains("nothing to do"), "{absent:?}");
}

/// The operator's policy is what these commands call, and the watching of move tasks, which this server does not have.
#[tokio::test(flavor = "multi_thread")]
async fn the_operators_policy_is_the_calls_that_are_made() {
    let scene = Scene::start("dlq-policy", false).await;
    scene.park(parked_ids(3)).await;
    let calls = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&calls);
    scene.sqs.proxy.set_script(move |call: &Call<'_>| {
        let operation = call.operation.trim_end_matches("Batch");
        seen.lock().unwrap_or_else(PoisonError::into_inner).insert(format!("sqs:{operation}"));
        Fault::Pass
    });
    let url = scene.sqs.proxy.endpoint_url();
    for arguments in [
        &["dlq", "list", "orders-dlq"][..],
        &["dlq", "redrive", "orders-dlq", "--yes"],
        &["dlq", "purge", "orders-dlq", "--all", "--yes"],
    ] {
        let output = scene.command(&url, arguments).output().await.expect("the command can be started");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    let policy = need(fs::read_to_string(workspace_root().join("infra/policies/operator.json")));
    let policy: Value = need(serde_json::from_str(&policy));
    let statements = policy["Statement"].as_array().expect("statements").iter();
    let actions = statements.flat_map(|statement| statement["Action"].as_array().expect("actions"));
    let actions = actions.map(|action| action.as_str().expect("an action").to_owned());
    let allowed: BTreeSet<String> = actions.filter(|action| action.starts_with("sqs:")).collect();
    let mut called = calls.lock().unwrap_or_else(PoisonError::into_inner).clone();
    called.extend(["sqs:CancelMessageMoveTask", "sqs:ListMessageMoveTasks"].map(str::to_owned));
    assert_eq!(called, allowed);
}

/// What is not there is said, with what to do.
#[tokio::test(flavor = "multi_thread")]
async fn careless_input_is_told_what_is_wrong() {
    let scene = Scene::start("dlq-careless", false).await;
    for (arguments, code, words) in [
        (&["dlq", "list", "nowhere"][..], 6, "the queue nowhere cannot be reached"),
        (&["dlq", "list", ""], 2, "which queue?"),
        (&["dlq", "list", "orders-dlq", "--older-than", "soon"], 2, "30m, 2h or 3d"),
        (&["dlq", "list", "orders-dlq", "--state", "nowhere"], 6, "no stack runs"),
        (&["dlq", "list", "orders-dlq", "--endpoint-url", "127.0.0.1:1"], 2, "is no endpoint"),
        (&["dlq", "list", "orders-dlq", "--endpoint-url", "http://127.0.0.1:1"], 6, "no SQS answers"),
        (&["explain", "no-such-id"], 2, "--queue"),
        (&["explain", "no-such-id", "--queue", "orders-dlq"], 2, "holds no message of this id"),
        (&["explain", "#"], 2, "namespace#digest"),
        (&["explain", "n#k", "--table", "nowhere"], 6, "the table nowhere cannot be read"),
        (&["explain", "--body", "nowhere.json", "--key", "id"], 2, "cannot be read"),
        (&["resolve", "key", "--completed"], 2, "namespace#digest"),
        (&["resolve", "n#k"], 2, "--completed"),
    ] {
        let output = scene.run(arguments).await;
        let text = stderr(&output);
        assert!(output.status.code() == Some(code) && text.contains(words), "{arguments:?}: {output:?}");
    }
}

/// The key that is computed is the one that the real function wrote: its package says how.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_message_is_the_one_that_the_function_made() {
    let (scratch, root) = (Scratch::new("dlq-up"), workspace_root());
    let state = scratch.path("state");
    let binary = format!("process-orders={}", need(functions()).process_orders().display());
    let arguments = ["--function", "process-orders", "--binary", &binary];
    let mut up = Up::start(microbatch(&root), &arguments, state.clone()).await;
    let orders = events_dir().join("orders.json");
    let sent = send(&root, "process-orders", &orders, &state).await;
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    up.until("Processed 5").await;
    let sent = send_text(&root, "process-orders", "{\"order_id\": \"o-poison\"}\n", &state).await;
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    up.until("dead letters 1 ").await;

    let run = async |arguments: &[&str]| {
        let mut command = microbatch(&root);
        command.args(arguments).args(["--format", "json", "--state"]).arg(&state);
        let output = command.output().await.expect("the command can be started");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    };
    let show = run(&["dlq", "show", "process-orders"]).await;
    let parked = &show["messages"][0];
    assert_eq!(parked["record"]["status"], "never_claimed", "what cannot be decoded is not claimed: {show}");
    // A redrive of what the function still refuses has an end: what comes back is left.
    let mut command = microbatch(&root);
    command.args(["dlq", "redrive", "process-orders", "--yes", "--state"]).arg(&state);
    let redriven = timeout(PATIENCE, command.output()).await.expect("it ends").expect("the command can be started");
    assert!(redriven.status.code() == Some(0) && stderr(&redriven).contains("1 message sent"), "{redriven:?}");
    up.until("dead letters 1 · batches 3").await;
    let show = run(&["dlq", "show", "process-orders"]).await;
    let parked = &show["messages"][0];
    let by_id = run(&["explain", parked["message_id"].as_str().expect("an id"), "--queue", "process-orders"]).await;
    assert_eq!(by_id["record"], parked["record"]);

    let event: Value = serde_json::from_str(&fs::read_to_string(&orders).expect("the event")).expect("JSON");
    let body = scratch.path("body.json");
    fs::write(&body, event["Records"][0]["body"].as_str().expect("a body")).expect("written");
    let done = run(&["explain", "--body", body.to_str().expect("text"), "--function", "process-orders"]).await;
    assert_eq!(
        (&done["record"]["status"], &done["record"]["next"]["retry"]),
        (&json!("completed"), &json!("duplicate"))
    );
    fs::write(&body, event["Records"][0]["body"].as_str().expect("a body").replacen(':', " :", 1)).expect("written");
    assert_eq!(run(&["explain", "--body", body.to_str().expect("text"), "--function", "process-orders"]).await, done);
    assert_eq!(up.interrupt().await.code(), Some(0));
}
