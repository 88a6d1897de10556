//! `post-ledger`, as it is deployed: a balance is the sum of its distinct entries, and an account's entries are posted in
//! order, whatever is delivered again and wherever the process dies.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use e2e::functions::functions;
use e2e::process::kill;
use e2e::samples::Sample;
use e2e::stack::{IDEMPOTENCY_TABLE, Row, Tables, need, reported, rows};
use microbatch::Random;
use microbatch_local::environment;
use microbatch_local::function::{Function, FunctionFailure, FunctionSpec};
use microbatch_local::proxy::{Call, Fault, Proxy, Script};
use microbatch_local::runtime_api::InvocationResult;
use microbatch_local::tables::{Endpoint, TableSpec, ensure};
use microbatch_testkit::clock::SeededRandom;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The process of a function that brings its own tables, and a proxy before DynamoDB.
pub(crate) struct Rig {
    pub(crate) function: Function,
    /// Between the function and DynamoDB.
    pub(crate) proxy: Proxy,
    /// Reaches DynamoDB without the proxy.
    pub(crate) client: Client,
    lines: Arc<Mutex<Vec<String>>>,
    _tables: Tables,
}

impl Rig {
    /// Starts a function with these variables, and these tables beside the idempotency table.
    pub(crate) async fn start(name: &str, program: &Path, variables: &[(&str, &str)], tables: &[(&str, &str)]) -> Self {
        let dynamodb = Tables::start().await;
        let endpoint = need(Endpoint::parse(&dynamodb.endpoint_url()));
        let specs: Vec<_> = tables.iter().map(|(name, keys)| need(TableSpec::from_keys(name, keys))).collect();
        need(ensure(&endpoint, &specs).await);
        let address = endpoint.url().trim_start_matches("http://").parse().expect("the address of a local server");
        let proxy = need(Proxy::start(address, |_: &Call<'_>| Fault::Pass).await);
        let mut env = environment::local(&proxy.endpoint_url(), true);
        env.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = {
            let lines = Arc::clone(&lines);
            Arc::new(move |_, line: &str| lock(&lines).push(line.to_owned()))
        };
        let spec = FunctionSpec { name: name.to_owned(), program: program.to_owned(), env };
        let function = need(Function::start(spec, sink).await);
        Self { function, proxy, client: endpoint.client().await, lines, _tables: dynamodb }
    }

    /// Lets the function take an empty batch, so that its init is over.
    pub(crate) async fn warm_up(&self) {
        assert_eq!(self.failures_of(r#"{"Records":[]}"#, Duration::from_secs(10)).await, [""; 0]);
    }

    /// Sends an event that the function must answer, and gives the message ids that come back: those that are reported,
    /// or all where the function erred because none was done.
    pub(crate) async fn failures_of(&self, event: &str, timeout: Duration) -> Vec<String> {
        match self.function.invoke(event.to_owned().into(), timeout).await {
            Ok(InvocationResult::Response(response)) => need(reported(&response)),
            Ok(InvocationResult::FunctionError(error)) if error.error_type == "AllFailed" => {
                let event: Value = serde_json::from_str(event).expect("JSON");
                let records = event["Records"].as_array().into_iter().flatten();
                records.map(|record| record["messageId"].as_str().expect("an id").to_owned()).collect()
            }
            other => panic!("expected a response, found {other:?}; it said:\n{}", lock(&self.lines).join("\n")),
        }
    }

    /// Sends a sample event, and expects its response.
    pub(crate) async fn answers(&self, sample: &Sample, timeout: Duration) {
        match self.function.invoke(sample.event().into(), timeout).await {
            Ok(InvocationResult::Response(response)) => {
                let response: Value = serde_json::from_slice(&response).expect("JSON");
                assert_eq!(response, sample.expected, "{}", sample.name);
            }
            other => panic!("{}: expected a response, found {other:?}", sample.name),
        }
    }

    /// Whether every record in the idempotency table is completed.
    pub(crate) async fn all_completed(&self) -> bool {
        let records = rows(&self.client, IDEMPOTENCY_TABLE).await;
        records.iter().all(|record| record["status"].as_s().is_ok_and(|status| status == "COMPLETED"))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills a process at a call, before it is applied or after.
pub(crate) struct KillAt {
    process_id: u32,
    here: Box<dyn Fn(&Call<'_>) -> bool + Send + Sync>,
    applied: bool,
    killed: Arc<AtomicBool>,
}

impl KillAt {
    /// And a flag that says whether it has.
    pub(crate) fn new(
        process_id: u32,
        applied: bool,
        here: impl Fn(&Call<'_>) -> bool + Send + Sync + 'static,
    ) -> (Self, Arc<AtomicBool>) {
        let killed = Arc::new(AtomicBool::new(false));
        (Self { process_id, here: Box::new(here), applied, killed: Arc::clone(&killed) }, killed)
    }

    fn kill_if(&self, here: bool) {
        if here {
            // Noted first: the test goes on as soon as the process is dead.
            self.killed.store(true, Ordering::SeqCst);
            kill(self.process_id);
        }
    }
}

impl Script for KillAt {
    fn fault(&self, call: &Call<'_>) -> Fault {
        match ((self.here)(call), self.applied) {
            (true, false) => Fault::Refuse,
            (true, true) => Fault::DropAnswer,
            (false, _) => Fault::Pass,
        }
    }

    fn before(&self, call: &Call<'_>) {
        self.kill_if(!self.applied && (self.here)(call));
    }

    fn after(&self, call: &Call<'_>) {
        self.kill_if(self.applied && (self.here)(call));
    }
}

const TABLES: [(&str, &str); 2] = [("ledger", "account_id,entry_id"), ("balances", "account_id,currency")];

/// The last three make a lease end with the invocation's time-out.
const VARIABLES: [(&str, &str); 6] = [
    ("LEDGER_TABLE", "ledger"),
    ("BALANCES_TABLE", "balances"),
    ("LEDGER_CURRENCIES", "EUR,USD"),
    ("MICROBATCH_EFFECT_TIMEOUT_MS", "0"),
    ("MICROBATCH_CLOCK_SKEW_MS", "0"),
    ("MICROBATCH_KILL_GRACE_MS", "0"),
];

/// The invocation's time-out, and with these settings the lease of a claim.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long an account may stay locked: the rest of the lease, and some for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const REDELIVERY: Duration = Duration::from_millis(100);

pub(crate) async fn ledger() -> Rig {
    let rig = Rig::start("post-ledger", &need(functions()).post_ledger(), &VARIABLES, &TABLES).await;
    rig.warm_up().await;
    rig
}

/// An entry on its way: the message's id is that of the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    account: String,
    id: String,
    amount: i64,
}

impl Entry {
    fn new(account: &str, number: usize, amount: i64) -> Self {
        Self { account: account.to_owned(), id: format!("{account}-{number}"), amount }
    }
}

/// A batch of the FIFO queue.
fn event(entries: &[Entry]) -> String {
    let records = entries.iter().enumerate().map(|(sequence, Entry { account, id, amount })| {
        let body = json!({"account_id": account, "entry_id": id, "amount_minor": amount, "currency": "EUR"});
        json!({
            "messageId": id,
            "receiptHandle": format!("r-{id}"),
            "body": body.to_string(),
            "attributes": {
                "ApproximateReceiveCount": "1",
                "SentTimestamp": "1763900600550",
                "SequenceNumber": format!("{sequence:020}"),
                "MessageGroupId": account,
                "MessageDeduplicationId": id,
            },
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:ledger.fifo",
            "awsRegion": "eu-west-1",
        })
    });
    json!({"Records": records.collect::<Vec<_>>()}).to_string()
}

/// What stands in the two tables.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Books {
    /// The amounts by entry id.
    entries: BTreeMap<String, i64>,
    /// Balance, number of entries and newest entry by account.
    balances: BTreeMap<String, (i64, usize, String)>,
}

impl Books {
    /// As they are once these entries, in this order, are posted once each.
    fn of(entries: &[Entry]) -> Self {
        let mut books = Self { entries: BTreeMap::new(), balances: BTreeMap::new() };
        for Entry { account, id, amount } in entries {
            books.entries.insert(id.clone(), *amount);
            let balance = books.balances.entry(account.clone()).or_default();
            *balance = (balance.0 + amount, balance.1 + 1, id.clone());
        }
        books
    }

    /// Reads the tables past the proxy. What the proxy had received when a process died may still be applied between two
    /// reads: such reads are done again.
    async fn read(rig: &Rig) -> Self {
        let text = |row: &Row, name: &str| row[name].as_s().expect("a string").clone();
        let number = |row: &Row, name: &str| row[name].as_n().expect("a number").parse::<i64>().expect("64 bits");
        let once = async || {
            let entries = rows(&rig.client, "ledger").await;
            let balances = rows(&rig.client, "balances").await;
            let balance = |row: &Row| {
                let count = usize::try_from(number(row, "entry_count")).expect("a count");
                (text(row, "account_id"), (number(row, "balance_minor"), count, text(row, "last_entry")))
            };
            Self {
                entries: entries.iter().map(|row| (text(row, "entry_id"), number(row, "amount_minor"))).collect(),
                balances: balances.iter().map(balance).collect(),
            }
        };
        loop {
            let (before, after) = (once().await, once().await);
            if before == after {
                return after;
            }
        }
    }

    /// What is posted is a beginning of each account's entries, each once.
    #[track_caller]
    fn assert_beginning_of(&self, entries: &[Entry], at: &str) {
        let posted: Vec<Entry> = entries.iter().filter(|entry| self.entries.contains_key(&entry.id)).cloned().collect();
        assert_eq!(*self, Self::of(&posted), "{at}");
        let mut ended = HashSet::new();
        for entry in entries {
            if self.entries.contains_key(&entry.id) {
                assert!(!ended.contains(&entry.account), "{at}: {entry:?} was posted before its turn");
            } else {
                ended.insert(&entry.account);
            }
        }
    }
}

/// Three accounts; a debit is covered only by what comes before it.
fn batch() -> Vec<Entry> {
    let amounts = [("a", 100), ("b", 50), ("a", -100), ("c", 7), ("a", 30), ("b", -50), ("a", -30)];
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let entry = |(account, amount)| {
        let number = numbers.entry(account).or_default();
        *number += 1;
        Entry::new(account, *number, amount)
    };
    amounts.into_iter().map(entry).collect()
}

/// Lets the process die at a call, and delivers the batch until all of it is posted. Gives the operation that it died at;
/// none where it made fewer calls this time.
async fn death_at(index: usize, applied: bool) -> Option<String> {
    let (mut rig, entries) = (ledger().await, batch());
    let made_before = rig.proxy.calls().len();
    let process_id = rig.function.process_id().expect("it runs");
    let (script, killed) = KillAt::new(process_id, applied, move |call| call.index == index);
    rig.proxy.set_script(script);
    let result = rig.function.invoke(event(&entries).into(), TIMEOUT).await;
    if !killed.load(Ordering::SeqCst) {
        assert!(matches!(result, Ok(InvocationResult::Response(_))), "{index}: {result:?}");
        return None;
    }
    assert!(matches!(result, Err(FunctionFailure::Died { .. })), "{index}, {applied}: {result:?}");
    let operation = rig.proxy.calls()[made_before + index].operation.clone();
    let at = format!("call {index}, {operation}, applied: {applied}");
    Books::read(&rig).await.assert_beginning_of(&entries, &at);

    rig.proxy.set_script(|_: &Call<'_>| Fault::Pass);
    rig.function.restart().await.expect("a new process");
    let end = Instant::now() + PATIENCE;
    loop {
        let failures = rig.failures_of(&event(&entries), TIMEOUT).await;
        let books = Books::read(&rig).await;
        books.assert_beginning_of(&entries, &at);
        for entry in &entries {
            // P1: what is acknowledged is posted.
            assert!(failures.contains(&entry.id) || books.entries.contains_key(&entry.id), "{at}: {entry:?}");
        }
        if failures.is_empty() {
            assert!(rig.all_completed().await, "{at}");
            assert_eq!(books, Books::of(&entries), "{at}");
            return Some(operation);
        }
        assert!(Instant::now() < end, "{at}: the accounts stay locked");
        tokio::time::sleep(REDELIVERY).await;
    }
}

/// How many functions run at once, each with a DynamoDB of its own.
const AT_ONCE: usize = 6;

/// P1, P5, P12, P16, rule 13: SIGKILL at every call of a batch, and the batch again.
#[tokio::test(flavor = "multi_thread")]
async fn balances_are_right_wherever_the_process_died() {
    let clean = ledger().await;
    let made_before = clean.proxy.calls().len();
    assert_eq!(clean.failures_of(&event(&batch()), TIMEOUT).await, [""; 0]);
    assert_eq!(Books::read(&clean).await, Books::of(&batch()));
    let calls = clean.proxy.calls().len() - made_before;

    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut deaths = JoinSet::new();
    for (index, applied) in (0..calls).flat_map(|index| [(index, false), (index, true)]) {
        let permits = Arc::clone(&permits);
        deaths.spawn(async move {
            let _permit = permits.acquire_owned().await.expect("never closed");
            death_at(index, applied).await
        });
    }
    let hit: HashSet<String> = deaths.join_all().await.into_iter().flatten().collect();
    assert!(
        ["BatchExecuteStatement", "TransactWriteItems"].iter().all(|operation| hit.contains(*operation)),
        "{hit:?}"
    );
}

/// A number below `limit` that looks random.
pub(crate) fn below(random: &SeededRandom, limit: usize) -> usize {
    usize::try_from(random.below(limit as u64)).expect("below a usize")
}

/// The entries of a FIFO queue, by account and in order, with how many of each are acknowledged.
struct Queue {
    accounts: Vec<(Vec<Entry>, usize)>,
    random: SeededRandom,
}

impl Queue {
    /// Entries of which every debit is covered by those before it.
    fn new(accounts: usize, entries: usize, seed: u64) -> Self {
        let random = SeededRandom::new(seed);
        let account = |name: usize| {
            let (name, mut balance) = (format!("acc-{name}"), 0_i64);
            let entry = |number: usize| {
                let any = i64::try_from(1 + below(&random, 1_000)).expect("small");
                // To the last cent, now and then: then no order but this one covers all.
                let amount = match below(&random, 3) {
                    0 if balance > 0 => -balance,
                    1 if balance > any => -any,
                    _ => any,
                };
                balance += amount;
                Entry::new(&name, number, amount)
            };
            ((0..entries).map(entry).collect(), 0)
        };
        let accounts = (0..accounts).map(account).collect();
        Self { accounts, random }
    }

    fn is_done(&self) -> bool {
        self.accounts.iter().all(|(entries, acknowledged)| *acknowledged == entries.len())
    }

    /// Up to ten messages of some accounts, each account's in order: what comes next, and often some that are acknowledged
    /// already, as after a deletion that failed.
    fn next_batch(&self) -> Vec<Entry> {
        let of_account = |(entries, acknowledged): &(Vec<Entry>, usize)| {
            let again = below(&self.random, 3).min(*acknowledged);
            entries[acknowledged - again..].iter().take(below(&self.random, 5)).cloned().collect()
        };
        let mut waiting: Vec<VecDeque<Entry>> = self.accounts.iter().map(of_account).collect();
        let mut batch = Vec::new();
        while batch.len() < 10 {
            waiting.retain(|account| !account.is_empty());
            if waiting.is_empty() {
                break;
            }
            let turn = below(&self.random, waiting.len());
            batch.extend(waiting[turn].pop_front());
        }
        batch
    }

    /// Takes what was not reported as acknowledged. It is the beginning of what was sent of each account (P16).
    fn settle(&mut self, batch: &[Entry], failures: &[String]) {
        let mut blocked = HashSet::new();
        for entry in batch {
            if failures.contains(&entry.id) {
                blocked.insert(&entry.account);
                continue;
            }
            assert!(!blocked.contains(&entry.account), "{entry:?} overtook one of its account: {failures:?}");
            let account = self.accounts.iter_mut().find(|(entries, _)| entries[0].account == entry.account);
            let (entries, acknowledged) = account.expect("an account of the queue");
            let place = entries.iter().position(|known| known == entry).expect("an entry of the queue");
            *acknowledged = (*acknowledged).max(place + 1);
        }
    }

    fn entries(&self) -> Vec<Entry> {
        self.accounts.iter().flat_map(|(entries, _)| entries.clone()).collect()
    }
}

/// Fails some calls, and notes in which order entries are sent to be posted.
struct Unreliable {
    random: SeededRandom,
    order: Arc<Mutex<Vec<String>>>,
}

impl Script for Unreliable {
    fn fault(&self, call: &Call<'_>) -> Fault {
        if call.operation == "TransactWriteItems" {
            let request: Value = serde_json::from_slice(call.body).expect("JSON");
            let puts = request["TransactItems"].as_array().into_iter().flatten();
            let ids = puts.filter_map(|item| item["Put"]["Item"]["entry_id"]["S"].as_str().map(str::to_owned));
            let mut order = lock(&self.order);
            for id in ids {
                if !order.contains(&id) {
                    order.push(id);
                }
            }
        }
        match below(&self.random, 20) {
            0 => Fault::Throttle,
            1 => Fault::DropAnswer,
            2 => Fault::Refuse,
            3 => Fault::Error500,
            _ => Fault::Pass,
        }
    }
}

/// P1, P5, P8, P16: random deliveries and redeliveries, over a store that throttles, loses requests and loses answers, and
/// with a process that is killed now and then.
#[tokio::test(flavor = "multi_thread")]
async fn balances_are_right_after_random_redeliveries_faults_and_deaths() {
    let (mut rig, mut queue) = (ledger().await, Queue::new(5, 24, 20_261_123));
    let order = Arc::new(Mutex::new(Vec::new()));
    let end = Instant::now() + Duration::from_mins(3);
    let mut deaths = 0;
    for delivery in 1.. {
        assert!(Instant::now() < end, "not done after {delivery} deliveries");
        let batch = queue.next_batch();
        if delivery % 15 == 0 && deaths < 4 {
            let place = below(&queue.random, 6);
            let process_id = rig.function.process_id().expect("it runs");
            let applied = below(&queue.random, 2) == 0;
            let (script, killed) = KillAt::new(process_id, applied, move |call| call.index == place);
            rig.proxy.set_script(script);
            let result = rig.function.invoke(event(&batch).into(), TIMEOUT).await;
            if killed.load(Ordering::SeqCst) {
                deaths += 1;
                rig.proxy.set_script(|_: &Call<'_>| Fault::Pass);
                rig.function.restart().await.expect("a new process");
            } else if let Ok(InvocationResult::Response(response)) = result {
                queue.settle(&batch, &need(reported(&response)));
            }
        } else {
            let random = SeededRandom::new(delivery);
            rig.proxy.set_script(Unreliable { random, order: Arc::clone(&order) });
            let failures = rig.failures_of(&event(&batch), TIMEOUT).await;
            queue.settle(&batch, &failures);
        }
        let books = Books::read(&rig).await;
        books.assert_beginning_of(&queue.entries(), &format!("delivery {delivery}"));
        if queue.is_done() {
            assert_eq!(books, Books::of(&queue.entries()));
            break;
        }
    }
    assert!(deaths > 0, "the process was killed");

    // Each account's entries were first sent to be posted in the queue's order; what was sent to a process that was killed is
    // not noted.
    let order = lock(&order);
    for (entries, _) in &queue.accounts {
        let places: Vec<usize> =
            entries.iter().filter_map(|entry| order.iter().position(|id| *id == entry.id)).collect();
        assert!(places.is_sorted() && places.len() > entries.len() / 2, "{places:?}");
    }
}

/// A permanent failure blocks its account, and no other, until the queue moves it away.
#[tokio::test(flavor = "multi_thread")]
async fn a_debit_that_is_not_covered_blocks_its_account_only() {
    let rig = ledger().await;
    let entries = [
        Entry::new("a", 1, 10),
        Entry::new("b", 1, 5),
        Entry::new("a", 2, -11),
        Entry::new("a", 3, 1),
        Entry::new("b", 2, -5),
    ];
    for _ in 0..2 {
        assert_eq!(rig.failures_of(&event(&entries), TIMEOUT).await, ["a-2", "a-3"]);
    }
    assert_eq!(rig.failures_of(&event(&entries[3..]), TIMEOUT).await, [""; 0]);
    let books = Books::read(&rig).await;
    assert_eq!(books.balances["a"], (11, 2, "a-3".to_owned()));
    assert_eq!(books.balances["b"], (0, 2, "b-2".to_owned()));
}

/// Each twice on the same tables.
#[tokio::test(flavor = "multi_thread")]
async fn every_sample_event_of_the_ledger_gives_its_expected_answer() {
    let rig = ledger().await;
    for name in ["ledger", "ledger-failing", "ledger", "ledger-failing"] {
        rig.answers(&Sample::named(name), TIMEOUT).await;
    }
}
