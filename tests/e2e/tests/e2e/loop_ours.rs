//! The whole loop under our own event source mapping: a queue on ministack, release binaries, and AWS's rules for batches that
//! no stand-in honours.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use e2e::events::body;
use e2e::functions::functions;
use e2e::process::kill;
use e2e::sqs::Sqs;
use e2e::stack::{EFFECTS_TABLE, IDEMPOTENCY_TABLE, ORDERS_TABLE, Row, Tables, need, rows};
use microbatch_local::environment;
use microbatch_local::function::{FunctionFailure, FunctionSpec};
use microbatch_local::items::{LogLine, parse};
use microbatch_local::mapping::batching::{Closed, EVENT_BYTES_MAX};
use microbatch_local::mapping::progress::Outcome;
use microbatch_local::mapping::{Counts, Mapping, MappingEvent, MappingInput, MappingSpec};
use microbatch_local::proxy::{Call, Fault, Proxy};
use microbatch_local::tables::{Endpoint, TableSpec, ensure};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::loop_orders::{Kind, MAX_RECEIVE_COUNT, MESSAGES, Orders, Queues, depth, order_ids, send};

/// The function's time-out.
const TIMEOUT: Duration = Duration::from_secs(6);
/// As short as the slowest batch allows: a message whose timeout ends while its batch runs is delivered again.
pub(crate) const VISIBILITY_TIMEOUT_S: u64 = 8;
/// More than a loop takes.
const PATIENCE: Duration = Duration::from_mins(3);

/// A function, its tables, and the mapping that feeds it.
pub(crate) struct Loop {
    mapping: Mapping,
    /// Reaches DynamoDB without the proxy.
    pub(crate) client: Client,
    /// Between the function and DynamoDB.
    pub(crate) proxy: Proxy,
    events: Arc<Mutex<Vec<MappingEvent>>>,
    lines: Arc<Mutex<Vec<String>>>,
    _tables: Tables,
}

impl Loop {
    /// post-ledger on a FIFO queue, with its tables.
    pub(crate) async fn post_ledger(sqs: &Sqs, source: &str) -> Self {
        let settings = MappingInput { reports_item_failures: true, ..MappingInput::default() };
        let variables = [("LEDGER_TABLE", "ledger"), ("BALANCES_TABLE", "balances"), ("LEDGER_CURRENCIES", "EUR")];
        let tables = [("ledger", "account_id,entry_id"), ("balances", "account_id,currency")];
        let program = need(functions()).post_ledger();
        Self::start("post-ledger", &program, &variables, &tables, sqs, source, settings).await
    }

    /// Starts all but the processes, which the mapping starts. `tables` are made beside those of every [`Tables`].
    pub(crate) async fn start(
        name: &str,
        program: &Path,
        variables: &[(&str, &str)],
        tables: &[(&str, &str)],
        sqs: &Sqs,
        queue_url: &str,
        settings: MappingInput,
    ) -> Self {
        let dynamodb = Tables::start().await;
        let endpoint = need(Endpoint::parse(&dynamodb.endpoint_url()));
        let specs: Vec<_> = tables.iter().map(|(name, keys)| need(TableSpec::from_keys(name, keys))).collect();
        need(ensure(&endpoint, &specs).await);
        let address = endpoint.url().trim_start_matches("http://").parse().expect("the address of a local server");
        let proxy = need(Proxy::start(address, |_: &Call<'_>| Fault::Pass).await);
        let mut env = environment::local(&proxy.endpoint_url(), true);
        env.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let spec = MappingSpec {
            queue_url: queue_url.to_owned(),
            settings,
            function: FunctionSpec { name: name.to_owned(), program: program.to_owned(), env },
            function_timeout: TIMEOUT,
            environments_max: Some(4),
            receive_wait_s: 1,
        };
        let (events, lines) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let observer = {
            let events = Arc::clone(&events);
            Arc::new(move |event: &MappingEvent| events.lock().expect("a lock").push(event.clone()))
        };
        let sink = {
            let lines = Arc::clone(&lines);
            Arc::new(move |_, line: &str| lines.lock().expect("a lock").push(line.to_owned()))
        };
        let mapping = need(Mapping::start(sqs.direct(), spec, sink, observer).await);
        Self { mapping, client: endpoint.client().await, proxy, events, lines, _tables: dynamodb }
    }

    /// Waits until the sums of what has happened are so.
    pub(crate) async fn until(&self, reached: impl FnMut(&Counts) -> bool) {
        let mut counts: watch::Receiver<Counts> = self.mapping.counts();
        if timeout(PATIENCE, counts.wait_for(reached)).await.is_err() {
            let lines = self.lines.lock().expect("a lock").join("\n");
            panic!("it takes too long: {:?}; the function said:\n{lines}", *self.mapping.counts().borrow());
        }
    }

    /// Waits until the queue is empty. Nothing announces what the redrive policy moves: it happens at a receive.
    pub(crate) async fn until_empty(&self, sqs: &Sqs, queue_url: &str) {
        let empty = async {
            while depth(sqs.direct(), queue_url).await > 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let in_time = timeout(PATIENCE, empty).await;
        assert!(in_time.is_ok(), "messages stay in the queue: {:?}", *self.mapping.counts().borrow());
    }

    /// Stops the mapping and its processes. What the function printed, and what the mapping told, is then complete.
    pub(crate) async fn stop(self) -> Ended {
        let counts = self.mapping.stop().await;
        let events = std::mem::take(&mut *self.events.lock().expect("a lock"));
        let lines = std::mem::take(&mut *self.lines.lock().expect("a lock"));
        Ended { counts, events, lines }
    }
}

/// What a mapping and its function said until they ended.
pub(crate) struct Ended {
    pub(crate) counts: Counts,
    events: Vec<MappingEvent>,
    pub(crate) lines: Vec<String>,
}

/// The mapping's batches: how many messages, why complete, how long they waited.
fn batches(events: &[MappingEvent]) -> Vec<(usize, Closed, u64)> {
    let started = events.iter().filter_map(|event| match event {
        MappingEvent::BatchStarted { messages, event_bytes, closed, waited_ms, .. } => {
            assert!(*event_bytes <= EVENT_BYTES_MAX);
            Some((*messages, *closed, *waited_ms))
        }
        _ => None,
    });
    started.collect()
}

/// P1, P12: 1,000 messages in one batch; every good one is processed once, only failed ones are delivered again, and poison
/// is in the dead-letter queue after as many receives as configured.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_orders_in_a_batch_are_processed_once_each_or_are_dead_letters() {
    let sqs = Sqs::start("loop-ours").await;
    let queues = Queues::make(&sqs, "orders", VISIBILITY_TIMEOUT_S).await;
    let mut orders = Orders::default();
    orders.send(sqs.direct(), &queues.source).await;
    let settings = MappingInput { batch_size: 1_000, window_s: 2, concurrency_max: None, reports_item_failures: true };
    let program = need(functions()).process_orders();
    let variables = [("ORDERS_TABLE", ORDERS_TABLE)];
    let it = Loop::start("process-orders", &program, &variables, &[], &sqs, &queues.source, settings).await;

    it.until(|counts| counts.left > 0).await;
    orders.send_amended(sqs.direct(), &queues.source).await;
    it.until_empty(&sqs, &queues.source).await;
    let table = order_ids(&it.client).await;
    let ended = it.stop().await;

    orders.check_reports(&ended.lines);
    orders.check_orders(&table);
    orders.check_dead(&sqs.drain(&queues.dead).await);
    assert_eq!(depth(sqs.direct(), &queues.source).await, 0);

    let batches = batches(&ended.events);
    assert_eq!((batches[0].0, batches[0].1), (MESSAGES, Closed::Size), "{batches:?}");
    for &(messages, closed, waited_ms) in &batches[1..] {
        assert_eq!(closed, Closed::Window, "{batches:?}");
        assert!(messages < MESSAGES && waited_ms >= 2_000, "{batches:?}");
    }
    let (transient, poison) = (orders.count(Kind::Transient), orders.count(Kind::Poison));
    assert_eq!((transient, poison), (50, 30));
    let counts = ended.counts;
    let delivered = MESSAGES + 1 + transient + poison * (MAX_RECEIVE_COUNT - 1);
    assert_eq!((counts.invoked, counts.deleted), (delivered as u64, (MESSAGES + 1 - poison) as u64));
    assert_eq!((counts.errors, counts.bad_responses, counts.undeleted, counts.returned), (0, 0, 0, 0));
}

/// P16: each account's entries are processed in order. A poisoned one holds up its account, and no other, until it is moved;
/// what was delivered together with it as often as it was is moved with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_fifo_queue_keeps_the_order_of_each_account() {
    const ACCOUNTS: usize = 5;
    const ENTRIES: usize = 24;
    const POISON: usize = 9 * ACCOUNTS;
    let sqs = Sqs::start("loop-ours-fifo").await;
    let queues = Queues::make(&sqs, "ledger.fifo", VISIBILITY_TIMEOUT_S).await;
    let account = |number: usize| format!("a-{}", number % ACCOUNTS);
    let bodies: Vec<_> = (0..ACCOUNTS * ENTRIES)
        .map(|number| {
            let (account, entry) = (account(number), number / ACCOUNTS);
            // A debit is covered only if the credit before it was posted; an entry of nothing is invalid.
            let amount = if number == POISON { 0 } else if entry % 2 == 0 { 100 } else { -100 };
            let body = json!({"account_id": account, "entry_id": entry.to_string(), "amount_minor": amount, "currency": "EUR"});
            (body, Some(account))
        })
        .collect();
    let ids = send(sqs.direct(), &queues.source, &bodies).await;
    let it = Loop::post_ledger(&sqs, &queues.source).await;
    it.until_empty(&sqs, &queues.source).await;
    let ended = it.stop().await;

    let numbers: BTreeMap<&str, usize> = ids.iter().enumerate().map(|(number, id)| (id.as_str(), number)).collect();
    let number = |id: &str| numbers[id];
    let dead: Vec<usize> =
        sqs.drain(&queues.dead).await.iter().filter_map(|message| message.message_id().map(number)).collect();
    let beginning = (POISON..).step_by(ACCOUNTS).take(dead.len());
    assert_eq!(dead, beginning.collect::<Vec<_>>(), "the poisoned one, and what stood next to it");
    assert!((1..=10).contains(&dead.len()), "no more than a batch: {dead:?}");

    let mut processed: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for line in &ended.lines {
        let LogLine::Item(report) = parse(line) else { continue };
        let number = number(&report.message_id);
        match report.outcome.as_str() {
            "Processed" => processed.entry(account(number)).or_default().push(number),
            "Rejected" => assert_eq!(number, POISON, "a debit came before its credit"),
            _ => assert_eq!(number % ACCOUNTS, POISON % ACCOUNTS, "another account was held up: {report:?}"),
        }
    }
    let expected = |name: &str| {
        (0..ACCOUNTS * ENTRIES).filter(|number| account(*number) == name && !dead.contains(number)).collect::<Vec<_>>()
    };
    assert_eq!(processed.len(), ACCOUNTS);
    for (name, found) in processed {
        assert_eq!(found, expected(&name), "{name}");
    }
    assert!(ended.counts.largest_batch <= 10 && ended.counts.errors == 0, "{:?}", ended.counts);
}

/// Makes a lease end with the invocation's time-out.
const NO_SLACK: [(&str, &str); 3] =
    [("MICROBATCH_EFFECT_TIMEOUT_MS", "0"), ("MICROBATCH_CLOCK_SKEW_MS", "0"), ("MICROBATCH_KILL_GRACE_MS", "0")];

/// P1, P12: a process that is killed in the middle of a batch loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_killed_in_mid_batch_loses_nothing() {
    const ITEMS: usize = 200;
    let sqs = Sqs::start("loop-ours-kill").await;
    let queues = Queues::make(&sqs, "scripted", VISIBILITY_TIMEOUT_S).await;
    let settings = MappingInput { batch_size: 100, window_s: 1, concurrency_max: Some(2), reports_item_failures: true };
    let program = need(functions()).scripted();
    let variables: Vec<_> = NO_SLACK.into_iter().chain([("EFFECTS_TABLE", EFFECTS_TABLE)]).collect();
    let it = Loop::start("scripted", &program, &variables, &[], &sqs, &queues.source, settings).await;
    send(sqs.direct(), &queues.source, &[(body("warm-up", "ok"), None)]).await;
    it.until(|counts| counts.deleted == 1).await;
    let [process_id] = it.mapping.process_ids()[..] else { panic!("one process: {:?}", it.mapping.process_ids()) };

    // The process that is idle is used next. It dies when half of a batch is done.
    let victim = AtomicU32::new(process_id);
    it.proxy.set_script(move |call: &Call<'_>| {
        let dies = call.operation == "PutItem" && call.nth_of_operation == 50 && victim.load(Ordering::SeqCst) > 0;
        if dies {
            kill(victim.swap(0, Ordering::SeqCst));
        }
        if dies { Fault::Refuse } else { Fault::Pass }
    });
    let bodies: Vec<_> = (0..ITEMS).map(|number| (body(&format!("k-{number}"), "ok"), None)).collect();
    send(sqs.direct(), &queues.source, &bodies).await;
    it.until_empty(&sqs, &queues.source).await;
    let effects = rows(&it.client, EFFECTS_TABLE).await;
    let records = rows(&it.client, IDEMPOTENCY_TABLE).await;
    let ended = it.stop().await;

    let deaths = ended.events.iter().filter(|event| {
        let MappingEvent::BatchEnded(report) = event else { return false };
        matches!(report.outcome, Outcome::Failure(FunctionFailure::Died { .. })) && report.deleted == 0
    });
    assert_eq!(deaths.count(), 1, "{:?}", ended.counts);
    assert_eq!(depth(sqs.direct(), &queues.dead).await, 0);
    let mut runs: BTreeMap<&str, usize> = BTreeMap::new();
    for effect in &effects {
        *runs.entry(effect["id"].as_s().expect("a string")).or_default() += 1;
    }
    assert_eq!(runs.len(), ITEMS + 1);
    // An effect whose completion was not recorded is attempted again, and no other.
    assert!(runs.values().all(|runs| (1..=2).contains(runs)), "{runs:?}");
    let completed = |row: &Row| row["status"].as_s().is_ok_and(|status| status == "COMPLETED");
    assert_eq!(records.iter().filter(|row| completed(row)).count(), ITEMS + 1);
    assert_eq!(ended.counts.deleted, ITEMS as u64 + 1);
}
