//! The whole mapping: a queue behind HTTP, real processes that do as their messages say, and AWS's rules between.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use microbatch_local::function::{FunctionFailure, FunctionSpec, LogSink};
use microbatch_local::mapping::batching::Closed;
use microbatch_local::mapping::progress::{BatchReport, Outcome};
use microbatch_local::mapping::{Counts, Mapping, MappingError, MappingEvent, MappingInput, MappingSpec, Observer};
use microbatch_local::runtime_api::InvokeError;
use microbatch_testkit::queue::{Number, QueueSettings};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::sqs::{Fault, Sqs};

/// More than anything here takes.
const PATIENCE: Duration = Duration::from_mins(1);

/// `cargo test` puts examples beside the folder of the test's own binary.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the test's path");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let program = profile.join("examples/obey");
    assert!(program.exists(), "{} is missing: run `cargo build --example obey -p microbatch-local`", program.display());
    program
}

const REPORTING: MappingInput =
    MappingInput { batch_size: 10, window_s: 0, concurrency_max: None, reports_item_failures: true };

const STANDARD: QueueSettings = QueueSettings { fifo: false, visibility_timeout_ms: 30_000, max_receive_count: None };

/// A mapping under test, and what it tells.
struct Rig {
    sqs: Sqs,
    mapping: Mapping,
    events: mpsc::UnboundedReceiver<MappingEvent>,
    lines: Arc<Mutex<Vec<Value>>>,
}

fn spec(sqs: &Sqs, settings: MappingInput) -> MappingSpec {
    let function = FunctionSpec { name: "obey".to_owned(), program: program(), env: [].into() };
    MappingSpec {
        queue_url: sqs.url(),
        settings,
        function,
        function_timeout: Duration::from_secs(1),
        environments_max: Some(4),
        receive_wait_s: 1,
    }
}

/// The messages are in the queue before the mapping starts.
async fn rig(queue: QueueSettings, settings: MappingInput, messages: &[Value]) -> Rig {
    let sqs = Sqs::start(queue).await;
    for body in messages {
        sqs.send(body, None);
    }
    start(sqs, settings, |_| {}).await
}

async fn start(sqs: Sqs, settings: MappingInput, adjust: impl FnOnce(&mut MappingSpec)) -> Rig {
    let mut spec = spec(&sqs, settings);
    adjust(&mut spec);
    let (sender, events) = mpsc::unbounded_channel();
    let observer: Observer = Arc::new(move |event| drop(sender.send(event.clone())));
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink: LogSink = {
        let lines = Arc::clone(&lines);
        Arc::new(move |_, line| lines.lock().expect("a lock").push(serde_json::from_str(line).expect("a JSON line")))
    };
    let mapping = Mapping::start(&sqs.client(), spec, sink, observer).await.expect("it starts");
    Rig { sqs, mapping, events, lines }
}

impl Rig {
    /// The next event that is looked for.
    async fn until<T>(&mut self, find: impl Fn(&MappingEvent) -> Option<T>) -> T {
        let found = async {
            loop {
                let event = self.events.recv().await.expect("the mapping runs");
                if let Some(found) = find(&event) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, found).await.expect("it happens in time")
    }

    async fn ended(&mut self) -> BatchReport {
        self.until(|event| match event {
            MappingEvent::BatchEnded(report) => Some(report.clone()),
            _ => None,
        })
        .await
    }

    /// Waits until this many messages are deleted.
    async fn deleted(&mut self, messages: u64) {
        let mut counts = self.mapping.counts();
        timeout(PATIENCE, counts.wait_for(|counts| counts.deleted >= messages))
            .await
            .expect("in time")
            .expect("it runs");
    }

    /// Stops the mapping. Returns the counts, and the numbers of each batch and what was processed of it.
    async fn stop(self) -> (Sqs, Counts, Vec<(Vec<u64>, Vec<u64>)>) {
        let counts = self.mapping.stop().await;
        let numbers = |value: &Value| value.as_array().expect("numbers").iter().filter_map(Value::as_u64).collect();
        let lines = self.lines.lock().expect("a lock");
        let batches = lines.iter().map(|line| (numbers(&line["batch"]), numbers(&line["processed"]))).collect();
        (self.sqs, counts, batches)
    }
}

fn plain(numbers: std::ops::Range<u64>) -> Vec<Value> {
    numbers.map(|n| json!({"n": n})).collect()
}

#[tokio::test]
async fn a_window_makes_a_batch_of_hundreds_and_deletes_it() {
    let settings = MappingInput { batch_size: 300, window_s: 1, ..REPORTING };
    let mut rig = rig(STANDARD, settings, &plain(0..350)).await;
    let started = async |rig: &mut Rig| {
        rig.until(|event| match event {
            MappingEvent::BatchStarted { messages, closed, waited_ms, .. } => Some((*messages, *closed, *waited_ms)),
            _ => None,
        })
        .await
    };
    let (messages, closed, _) = started(&mut rig).await;
    assert_eq!((messages, closed), (300, Closed::Size));
    let (messages, closed, waited_ms) = started(&mut rig).await;
    assert_eq!((messages, closed), (50, Closed::Window));
    assert!((1_000..3_000).contains(&waited_ms), "{waited_ms}");
    rig.deleted(350).await;
    let (sqs, counts, batches) = rig.stop().await;
    assert!(sqs.is_drained());
    assert_eq!(sqs.calls("DeleteMessageBatch"), 35);
    assert_eq!((counts.deleted, counts.left, counts.batches, counts.largest_batch), (350, 0, 2, 300));
    let mut numbers: Vec<u64> = batches.into_iter().flat_map(|(batch, _)| batch).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..350).collect::<Vec<_>>());
}

#[tokio::test]
async fn only_reported_messages_are_delivered_again() {
    let queue = QueueSettings { visibility_timeout_ms: 1_000, ..STANDARD };
    let messages = [json!({"n": 0}), json!({"n": 1, "fails": 1}), json!({"n": 2, "fails": 2}), json!({"n": 3})];
    let mut rig = rig(queue, REPORTING, &messages).await;
    rig.deleted(4).await;
    let (sqs, counts, batches) = rig.stop().await;
    assert!(sqs.is_drained());
    assert_eq!(batches, [(vec![0, 1, 2, 3], vec![0, 3]), (vec![1, 2], vec![1]), (vec![2], vec![2])]);
    assert_eq!((counts.left, counts.partial_batches, counts.errors), (3, 2, 0));
}

#[tokio::test]
async fn poison_goes_to_the_dead_letters_after_as_many_receives_as_configured() {
    let queue = QueueSettings { visibility_timeout_ms: 1_000, max_receive_count: Some(2), ..STANDARD };
    let mut rig = rig(queue, REPORTING, &[json!({"n": 0, "fails": 99}), json!({"n": 1})]).await;
    for left in [1, 1] {
        assert_eq!(rig.ended().await.left, left);
    }
    timeout(PATIENCE, async {
        while rig.sqs.whereabouts(Number(0)).dead == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it is moved");
    let (_, counts, batches) = rig.stop().await;
    assert_eq!((counts.invoked, batches.len()), (3, 2));
}

/// A response to a batch of three, whether the mapping reads it, and which messages stay by AWS's rules.
fn responses() -> Vec<(String, bool, Vec<usize>)> {
    // The model's ids.
    let id = |number: usize| format!("{number:08x}-0000-4000-8000-{:012x}", number + 1);
    let failures = |ids: &[&str]| {
        let failures: Vec<Value> = ids.iter().map(|id| json!({"itemIdentifier": id})).collect();
        json!({"batchItemFailures": failures}).to_string()
    };
    let all = || vec![0, 1, 2];
    vec![
        (String::new(), true, vec![]),
        ("null".to_owned(), true, vec![]),
        ("{}".to_owned(), true, vec![]),
        (r#"{"batchItemFailures": null}"#.to_owned(), true, vec![]),
        (failures(&[]), true, vec![]),
        (r#"{"statusCode": 200}"#.to_owned(), true, vec![]),
        (failures(&[&id(1)]), true, vec![1]),
        (failures(&[&id(2), &id(0)]), true, vec![0, 2]),
        (failures(&[&id(1), &id(1)]), true, vec![1]),
        (failures(&["nobody"]), true, all()),
        (failures(&[&id(1), "nobody"]), true, all()),
        (failures(&[""]), true, all()),
        (r#"{"batchItemFailures": [{"itemIdentifier": null}]}"#.to_owned(), true, all()),
        (r#"{"batchItemFailures": [{"itemidentifier": "x"}]}"#.to_owned(), true, all()),
        ("{\"batchItemFailures\": [".to_owned(), true, all()),
        ("\"done\"".to_owned(), true, all()),
        (failures(&[&id(1)]), false, vec![]),
        (failures(&[""]), false, vec![]),
        ("no JSON".to_owned(), false, vec![]),
    ]
}

#[tokio::test]
async fn the_rules_for_responses_hold_one_by_one() {
    let mut rules = JoinSet::new();
    for (response, reports_item_failures, left) in responses() {
        rules.spawn(async move {
            let settings = MappingInput { reports_item_failures, ..REPORTING };
            let messages = [json!({"n": 0, "respond": response}), json!({"n": 1}), json!({"n": 2})];
            let mut rig = rig(STANDARD, settings, &messages).await;
            let report = rig.ended().await;
            let (sqs, counts, _) = rig.stop().await;
            let found: Vec<usize> = (0..3).filter(|&n| sqs.whereabouts(Number(n)).source == 1).collect();
            assert_eq!(found, left, "{response}, {reports_item_failures}");
            assert_eq!((report.deleted, report.left, report.undeleted), (3 - left.len(), left.len(), 0), "{response}");
            assert_eq!((counts.errors, sqs.visible()), (0, 0), "{response}: what is left keeps its visibility timeout");
        });
    }
    while let Some(rule) = rules.join_next().await {
        rule.expect("the rule holds");
    }
}

/// An error, a crash and a time-out leave everything, and the next batch finds a process.
#[tokio::test]
async fn a_function_that_errs_or_dies_or_hangs_loses_nothing() {
    for what in ["error", "exit", "hang"] {
        let queue = QueueSettings { visibility_timeout_ms: 2_000, max_receive_count: Some(1), ..STANDARD };
        let messages = [json!({"n": 0}), json!({"n": 1, what: true}), json!({"n": 2})];
        let mut rig = rig(queue, REPORTING, &messages).await;
        let report = rig.ended().await;
        assert_eq!((report.deleted, report.left), (0, 3), "{what}");
        match report.outcome {
            Outcome::FunctionError(error) => assert_eq!((what, error.error_type.as_str()), ("error", "Told")),
            Outcome::Failure(FunctionFailure::Died { status, .. }) => {
                assert_eq!((what, status.code()), ("exit", Some(7)));
            }
            Outcome::Failure(FunctionFailure::Invoke(error)) => {
                assert_eq!((what, error), ("hang", InvokeError::TimedOut { timeout_ms: 1_000 }));
            }
            other => panic!("{what}: {other:?}"),
        }
        rig.until(|event| (*event == MappingEvent::Scaled { limit: 2, pause_ms: 200 }).then_some(())).await;
        rig.sqs.send(&json!({"n": 3}), None);
        assert_eq!(rig.ended().await.outcome, Outcome::Success { note: None }, "{what}");
        let (sqs, counts, _) = rig.stop().await;
        assert_eq!((counts.errors, counts.deleted), (1, 1), "{what}");
        assert_eq!(sqs.whereabouts(Number(3)).source, 0);
    }
}

#[tokio::test]
async fn repeated_errors_slow_the_mapping_down_and_a_success_speeds_it_up() {
    let queue = QueueSettings { visibility_timeout_ms: 1_000, max_receive_count: Some(1), ..STANDARD };
    let settings = MappingInput { batch_size: 1, ..REPORTING };
    let mut rig = start(Sqs::start(queue).await, settings, |_| {}).await;
    let scaled = |event: &MappingEvent| match event {
        MappingEvent::Scaled { limit, pause_ms } => Some((*limit, *pause_ms)),
        _ => None,
    };
    assert_eq!(rig.until(scaled).await, (4, 0), "as many as there may be processes");
    for expected in [(2, 200), (1, 400), (1, 800)] {
        rig.sqs.send(&json!({"n": 0, "error": true}), None);
        assert_eq!(rig.until(scaled).await, expected);
    }
    for expected in [(2, 400), (3, 200), (4, 0)] {
        rig.sqs.send(&json!({"n": 1}), None);
        assert_eq!(rig.until(scaled).await, expected);
    }
}

#[tokio::test]
async fn a_fifo_queue_keeps_its_order() {
    let queue = QueueSettings { fifo: true, visibility_timeout_ms: 1_000, max_receive_count: None };
    let sqs = Sqs::start(queue).await;
    for n in 0..60 {
        let body = if n % 7 == 0 { json!({"n": n, "fails": 1}) } else { json!({"n": n}) };
        sqs.send(&body, Some(&format!("g-{}", n % 3)));
    }
    let mut rig = start(sqs, REPORTING, |_| {}).await;
    rig.deleted(60).await;
    let (sqs, counts, batches) = rig.stop().await;
    assert!(sqs.is_drained());
    assert!(counts.left > 0);
    let processed: Vec<u64> = batches.iter().flat_map(|(_, processed)| processed.clone()).collect();
    for group in 0..3 {
        let of_group: Vec<u64> = processed.iter().copied().filter(|n| n % 3 == group).collect();
        assert_eq!(of_group, (0..60).filter(|n| n % 3 == group).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn deletions_that_fail_for_a_while_are_tried_again() {
    let rig_of = async |fault: Fault, times: usize| {
        let mut rig = start(Sqs::start(STANDARD).await, REPORTING, |_| {}).await;
        let mut left = times;
        rig.sqs.set_faults(move |operation| {
            let here = operation == "DeleteMessageBatch" && left > 0;
            left -= usize::from(here);
            here.then_some(fault)
        });
        rig.sqs.send(&json!({"n": 0}), None);
        let report = rig.ended().await;
        let (sqs, ..) = rig.stop().await;
        (
            report.deleted,
            report.undeleted,
            report.delete_error.map(|error| error.to_string()),
            sqs.calls("DeleteMessageBatch"),
        )
    };
    let never = Some("DeleteMessageBatch failed: InternalError".to_owned());
    assert_eq!(rig_of(Fault::Entries { sender: false }, 2).await, (1, 0, None, 3));
    assert_eq!(rig_of(Fault::Refused("RequestThrottled"), 2).await, (1, 0, None, 3));
    assert_eq!(rig_of(Fault::AnswerLost, 1).await, (1, 0, None, 2));
    assert_eq!(rig_of(Fault::Entries { sender: false }, 9).await, (0, 1, never.clone(), 3));
    assert_eq!(rig_of(Fault::Entries { sender: true }, 9).await, (0, 1, never, 1), "trying again cannot help");
}

#[tokio::test]
async fn receives_that_fail_are_told_and_tried_again() {
    let mut rig = start(Sqs::start(STANDARD).await, REPORTING, |_| {}).await;
    let mut left = 2;
    rig.sqs.set_faults(move |operation| {
        let here = operation == "ReceiveMessage" && left > 0;
        left -= usize::from(here);
        here.then_some(Fault::Refused("OverLimit"))
    });
    for _ in 0..2 {
        let error = rig
            .until(|event| match event {
                MappingEvent::ReceiveFailed(error) => Some(error.to_string()),
                _ => None,
            })
            .await;
        assert_eq!(error, "ReceiveMessage failed: OverLimit");
    }
    rig.sqs.send(&json!({"n": 0}), None);
    rig.deleted(1).await;
}

#[tokio::test]
async fn a_stop_finishes_what_runs_and_gives_back_the_rest() {
    let settings = MappingInput { batch_size: 20, window_s: 60, ..REPORTING };
    let messages: Vec<Value> = (0..25).map(|n| json!({"n": n, "slow_ms": 20})).collect();
    let mut rig = rig(STANDARD, settings, &messages).await;
    rig.until(|event| matches!(event, MappingEvent::BatchStarted { messages: 20, .. }).then_some(())).await;
    let mut counts = rig.mapping.counts();
    timeout(PATIENCE, counts.wait_for(|counts| counts.received == 25)).await.expect("in time").expect("it runs");
    let (sqs, counts, batches) = rig.stop().await;
    assert_eq!((counts.deleted, counts.returned, counts.running_batches), (20, 5, 0));
    assert_eq!((batches.len(), sqs.visible()), (1, 5));
}

#[tokio::test]
async fn a_new_build_takes_over_and_a_missing_one_loses_nothing() {
    let mut rig = rig(STANDARD, REPORTING, &plain(0..1)).await;
    assert_eq!(rig.ended().await.deleted, 1);
    let spec = FunctionSpec { name: "obey".to_owned(), program: "./no/such/binary".into(), env: [].into() };
    rig.mapping.deploy(spec.clone());
    rig.sqs.send(&json!({"n": 1}), None);
    let report = rig.ended().await;
    assert_eq!((report.left, report.outcome.is_error()), (1, true));
    assert!(report.outcome.to_string().contains("./no/such/binary"), "{}", report.outcome);
    rig.mapping.deploy(FunctionSpec { program: program(), ..spec });
    rig.sqs.send(&json!({"n": 2}), None);
    assert_eq!(rig.ended().await.deleted, 1);
}

#[tokio::test]
async fn what_lambda_refuses_does_not_start() {
    let start = async |settings: MappingInput, queue: QueueSettings, fault: Option<Fault>| {
        let sqs = Sqs::start(queue).await;
        sqs.set_faults(move |_| fault);
        let spec = spec(&sqs, settings);
        Mapping::start(&sqs.client(), spec, Arc::new(|_, _| {}), Arc::new(|_| {})).await.expect_err("refused")
    };
    let fifo = QueueSettings { fifo: true, ..STANDARD };
    let error = start(MappingInput { batch_size: 11, window_s: 1, ..REPORTING }, fifo, None).await;
    let MappingError::Settings(error) = error else { panic!("{error}") };
    assert_eq!(error.problems.len(), 2, "{error}");
    let error = start(REPORTING, STANDARD, Some(Fault::Refused("QueueDoesNotExist"))).await;
    assert!(matches!(error, MappingError::Queue { .. }), "{error}");
    assert!(error.to_string().contains("GetQueueAttributes failed: QueueDoesNotExist"), "{error}");
}
