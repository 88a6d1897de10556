//! A process that dies at a store call, before the call is applied or after: its batch is delivered again and completes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::events::{body, event, message_id};
use e2e::process::kill;
use e2e::stack::{ORDERS_TABLE, Row, Stack, StoredRecord, rows};
use microbatch_local::function::FunctionFailure;
use microbatch_local::proxy::{Call, Fault, Script};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The invocation's time-out, and with the settings below the lease of a claim.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long the key may stay locked: the rest of the lease, and some for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const REDELIVERY: Duration = Duration::from_millis(100);
/// Makes the lease end with the invocation's time-out.
const NO_SLACK: [(&str, &str); 3] =
    [("MICROBATCH_EFFECT_TIMEOUT_MS", "0"), ("MICROBATCH_CLOCK_SKEW_MS", "0"), ("MICROBATCH_KILL_GRACE_MS", "0")];

/// Kills a process at its `index`th call.
struct KillAt {
    process_id: u32,
    index: usize,
    applied: bool,
    killed: Arc<AtomicBool>,
}

impl KillAt {
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
        match (call.index == self.index, self.applied) {
            (true, false) => Fault::Refuse,
            (true, true) => Fault::DropAnswer,
            (false, _) => Fault::Pass,
        }
    }

    fn before(&self, call: &Call<'_>) {
        self.kill_if(call.index == self.index && !self.applied);
    }

    fn after(&self, call: &Call<'_>) {
        self.kill_if(call.index == self.index && self.applied);
    }
}

/// One item: its calls are the claim, the effect, the completion. Gives how often it has run in the end.
async fn runs_after_a_death_at(index: usize, applied: bool) -> usize {
    let mut stack = Stack::scripted(&NO_SLACK).await;
    stack.warm_up().await;
    let killed = Arc::new(AtomicBool::new(false));
    let process_id = stack.function.process_id().expect("it runs");
    stack.proxy.set_script(KillAt { process_id, index, applied, killed: Arc::clone(&killed) });
    let batch = event(&[body("k-0", "ok")]);
    let result = stack.invoke(batch.clone(), TIMEOUT).await;
    assert!(matches!(result, Err(FunctionFailure::Died { .. })), "{index}, {applied}: {result:?}");
    assert!(killed.load(Ordering::SeqCst), "{index}, {applied}: there was such a call");

    stack.proxy.set_script(|_: &Call<'_>| Fault::Pass);
    stack.function.restart().await.expect("a new process");
    let end = Instant::now() + PATIENCE;
    while stack.failures_of(batch.clone(), TIMEOUT).await == [message_id(0)] {
        // P1: acknowledged only once completed.
        assert!(stack.records().await.values().all(|record| record.status == "INPROGRESS"));
        assert!(Instant::now() < end, "{index}, {applied}: the key stays locked");
        tokio::time::sleep(REDELIVERY).await;
    }
    let records = stack.records().await;
    assert!(records.len() == 1 && records.values().all(|record| record.status == "COMPLETED"), "{records:?}");
    stack.effects().await.len()
}

/// P1, P12; and what cannot be promised: an effect that was applied and not recorded is attempted again.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_process_died_at_any_store_call_completes_when_delivered_again() {
    let (claim, effect, completion) = tokio::join!(at(0), at(1), at(2));
    assert_eq!(claim, (1, 1), "nothing had run");
    assert_eq!(effect, (1, 2), "the effect was applied or not");
    assert_eq!(completion, (2, 1), "the effect was recorded or not");
}

/// The runs after a death before the call was applied, and after one when it was.
async fn at(index: usize) -> (usize, usize) {
    tokio::join!(runs_after_a_death_at(index, false), runs_after_a_death_at(index, true))
}

/// The items of a batch.
const ITEMS: usize = 3;
/// How many functions run at once, each with a DynamoDB of its own.
const AT_ONCE: usize = 6;

/// Which function gets the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// `scripted`: an effect is a request of its own, between claim and completion.
    Scripted,
    /// `process-orders`: an effect is in the completion's transaction.
    Orders,
}

/// A place to die: the call, and whether it has been applied.
#[derive(Debug, Clone, Copy)]
struct Place {
    index: usize,
    applied: bool,
}

/// What both tables hold at one moment.
#[derive(Debug, PartialEq)]
struct Snapshot {
    records: BTreeMap<String, StoredRecord>,
    /// How often each id's effect has happened.
    effects: BTreeMap<String, usize>,
    orders: BTreeMap<String, Row>,
}

impl Snapshot {
    fn is_completed(&self, key: &str) -> bool {
        self.records.get(key).is_some_and(|record| record.status == "COMPLETED")
    }

    fn effects_of(&self, id: &str) -> usize {
        self.effects.get(id).copied().unwrap_or_default()
    }
}

/// A batch, and what comes of it where nothing dies.
#[derive(Debug)]
struct Expected {
    work: Work,
    /// The key of each item, as it stands in the idempotency table.
    keys: Vec<String>,
    /// The operations of the calls, in order.
    calls: Vec<String>,
    orders: BTreeMap<String, Row>,
}

fn id(n: usize) -> String {
    format!("k-{n}")
}

impl Work {
    async fn stack(self) -> Stack {
        let stack = match self {
            Self::Scripted => Stack::scripted(&NO_SLACK).await,
            Self::Orders => Stack::process_orders(&NO_SLACK).await,
        };
        stack.warm_up().await;
        stack
    }

    fn body(self, n: usize) -> Value {
        match self {
            Self::Scripted => body(&id(n), "ok"),
            Self::Orders => json!({
                "order_id": id(n),
                "customer_id": "c-1",
                "currency": "EUR",
                "lines": [{"sku": "s-1", "quantity": n + 1, "unit_price_minor": 100}],
                "total_minor": (n + 1) * 100,
            }),
        }
    }

    fn batch(self) -> String {
        event(&(0..ITEMS).map(|n| self.body(n)).collect::<Vec<_>>())
    }

    /// Runs the batch as a whole, and its items one by one, to learn which key is whose.
    async fn expected(self) -> Expected {
        let stack = self.stack().await;
        let made_before = stack.proxy.calls().len();
        assert_eq!(stack.failures_of(self.batch(), TIMEOUT).await, [""; 0]);
        let calls = stack.proxy.calls().split_off(made_before).into_iter().map(|call| call.operation).collect();
        let orders = snapshot(&stack).await.orders;

        let single = self.stack().await;
        let mut keys: Vec<String> = Vec::new();
        for n in 0..ITEMS {
            assert_eq!(single.failures_of(event(&[self.body(n)]), TIMEOUT).await, [""; 0]);
            let known = single.records().await.into_keys();
            keys.extend(known.filter(|key| !keys.contains(key)).collect::<Vec<_>>());
            assert_eq!(keys.len(), n + 1, "one key an item");
        }
        Expected { work: self, keys, calls, orders }
    }
}

/// Reads the tables past the proxy. What the proxy had received when the process died may still be applied between two
/// reads: such reads are done again.
async fn snapshot(stack: &Stack) -> Snapshot {
    let effects = async || {
        let orders = rows(&stack.client, ORDERS_TABLE).await.into_iter();
        let order_id = |row: &Row| row["order_id"].as_s().expect("a string").clone();
        (stack.runs().await, orders.map(|row| (order_id(&row), row)).collect::<BTreeMap<_, _>>())
    };
    loop {
        let (before, records, after) = (effects().await, stack.records().await, effects().await);
        if before == after {
            return Snapshot { records, effects: after.0, orders: after.1 };
        }
    }
}

impl Expected {
    /// P1, and for effects in the completion's transaction that neither is without the other.
    fn check(&self, at: &str, found: &Snapshot) {
        for (n, key) in self.keys.iter().enumerate() {
            let completed = found.is_completed(key);
            match self.work {
                Work::Scripted => assert!(!completed || found.effects_of(&id(n)) > 0, "{at}: {found:?}"),
                Work::Orders => assert_eq!(completed, found.orders.contains_key(&id(n)), "{at}: {found:?}"),
            }
        }
        for (order_id, row) in &found.orders {
            assert_eq!(row, &self.orders[order_id], "{at}");
        }
    }

    /// Lets the function die there and gives it the batch again. Gives the operation that it died at; none where it made
    /// fewer calls this time: how completions are put together is a matter of time.
    async fn death_at(&self, place: Place) -> Option<String> {
        let mut stack = self.work.stack().await;
        let killed = Arc::new(AtomicBool::new(false));
        let process_id = stack.function.process_id().expect("it runs");
        let made_before = stack.proxy.calls().len();
        let Place { index, applied } = place;
        stack.proxy.set_script(KillAt { process_id, index, applied, killed: Arc::clone(&killed) });
        let result = stack.invoke(self.work.batch(), TIMEOUT).await;
        if !killed.load(Ordering::SeqCst) {
            assert!(stack.proxy.calls().len() <= made_before + index, "{place:?}: {result:?}");
            return None;
        }
        assert!(matches!(result, Err(FunctionFailure::Died { .. })), "{place:?}: {result:?}");
        let operation = stack.proxy.calls()[made_before + index].operation.clone();
        let at = format!("{:?}, {place:?}, {operation}", self.work);
        self.check(&at, &snapshot(&stack).await);

        stack.proxy.set_script(|_: &Call<'_>| Fault::Pass);
        stack.function.restart().await.expect("a new process");
        // By now nothing of the dead process is on its way.
        let left = snapshot(&stack).await;
        self.check(&at, &left);
        self.redeliver(&at, &stack).await;

        let end = snapshot(&stack).await;
        assert_eq!(end.orders, self.orders, "{at}");
        for (n, key) in self.keys.iter().enumerate() {
            let runs_since = usize::from(self.work == Work::Scripted && !left.is_completed(key));
            assert_eq!(end.effects_of(&id(n)), left.effects_of(&id(n)) + runs_since, "{at}: {left:?}");
        }
        Some(operation)
    }

    /// Delivers the batch until nothing of it is reported. A message is acknowledged only if its record is completed.
    async fn redeliver(&self, at: &str, stack: &Stack) {
        let end = Instant::now() + PATIENCE;
        loop {
            let failures = stack.failures_of(self.work.batch(), TIMEOUT).await;
            let found = snapshot(stack).await;
            self.check(at, &found);
            for (n, key) in self.keys.iter().enumerate() {
                assert!(failures.contains(&message_id(n)) || found.is_completed(key), "{at}: {n}: {found:?}");
            }
            if failures.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "{at}: the keys stay locked");
            tokio::time::sleep(REDELIVERY).await;
        }
    }
}

/// Dies at each call of a batch, before and after it is applied. Gives the operations that were hit.
async fn death_at_every_call(work: Work) -> BTreeSet<String> {
    let expected = Arc::new(work.expected().await);
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut deaths = JoinSet::new();
    for (index, applied) in (0..expected.calls.len()).flat_map(|index| [(index, false), (index, true)]) {
        let (expected, permits) = (Arc::clone(&expected), Arc::clone(&permits));
        deaths.spawn(async move {
            let _permit = permits.acquire_owned().await.expect("never closed");
            expected.death_at(Place { index, applied }).await
        });
    }
    let hit: Vec<Option<String>> = deaths.join_all().await;
    // Written past the capture of test output: which calls there were is of interest when the test passes.
    writeln!(std::io::stderr(), "{work:?}: calls {:?}, deaths at {hit:?}", expected.calls)
        .expect("standard error is open");
    hit.into_iter().flatten().collect()
}

/// P1, P5, P12: an item is run again only if its completion was not applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_three_whose_process_died_at_any_call_completes_when_delivered_again() {
    let hit = death_at_every_call(Work::Scripted).await;
    assert!(["BatchExecuteStatement", "PutItem"].iter().all(|operation| hit.contains(*operation)), "{hit:?}");
}

/// P1, P5, P12, rule 13: right after the death and ever after, an order is in its table if and only if its record is
/// completed.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_written_if_and_only_if_it_is_completed_wherever_the_process_died() {
    let hit = death_at_every_call(Work::Orders).await;
    let operations = ["BatchExecuteStatement", "TransactWriteItems"];
    assert!(operations.iter().all(|operation| hit.contains(*operation)), "{hit:?}");
}
