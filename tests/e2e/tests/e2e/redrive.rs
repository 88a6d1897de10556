//! The end of the loop: what came to the dead-letter queue is moved back to its source queue, where the mapping delivers it to
//! the release binaries again.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{
    Message, MessageAttributeValue, MessageSystemAttributeName, MessageSystemAttributeNameForSends,
    MessageSystemAttributeValue,
};
use e2e::functions::functions;
use e2e::sqs::Sqs;
use e2e::stack::{ORDERS_TABLE, Row, need, rows};
use microbatch_local::items::{LogLine, parse};
use microbatch_local::mapping::MappingInput;
use microbatch_local::proxy::{Call, Fault};
use serde_json::{Value, json};

use crate::loop_orders::{ATTRIBUTE, MAX_RECEIVE_COUNT, Queues, deliveries, depth, order, order_ids, send};
use crate::loop_ours::{Loop, VISIBILITY_TIMEOUT_S};

/// Batches of orders, as they are deployed.
const ORDERS: MappingInput =
    MappingInput { batch_size: 100, window_s: 1, concurrency_max: None, reports_item_failures: true };
/// The order that amendments wait for. It is sent when they are dead letters.
const LATE: &str = "o-late";

/// What becomes of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is processed when it is delivered first.
    Good,
    /// It amends an order that arrives too late, and is processed after the redrive.
    Mended,
    /// The same, but its body is sent once more before the redrive: by its sender, or by a move that was cut off.
    SentAgain,
    /// It amends an order that never arrives.
    Orphan,
    /// Its total is wrong, and stays so.
    Poison,
}

/// How many orders of each kind there are.
const KINDS: [(Kind, usize); 5] =
    [(Kind::Good, 40), (Kind::Mended, 30), (Kind::SentAgain, 15), (Kind::Orphan, 5), (Kind::Poison, 15)];

impl Kind {
    fn order(self, number: usize) -> Value {
        let mut order = order(&format!("o-{self:?}-{number}"));
        match self {
            Self::Good => {}
            Self::Mended | Self::SentAgain => order["amends"] = LATE.into(),
            Self::Orphan => order["amends"] = "o-never".into(),
            Self::Poison => order["total_minor"] = 1.into(),
        }
        order
    }

    fn orders(self) -> Vec<(Value, Option<String>)> {
        let count = KINDS.iter().find(|(kind, _)| *kind == self).expect("every kind").1;
        (0..count).map(|number| (self.order(number), None)).collect()
    }

    /// What each message of the first sending must become.
    fn first(self) -> Vec<(String, bool)> {
        match self {
            Self::Good => processed(),
            Self::Mended | Self::SentAgain | Self::Orphan => dead("Failed"),
            Self::Poison => dead("Rejected"),
        }
    }

    /// What each message must become that was moved.
    fn moved(self) -> Vec<(String, bool)> {
        match self {
            Self::Good => panic!("a good order became a dead letter"),
            Self::Mended => processed(),
            Self::SentAgain => vec![("Duplicate".to_owned(), true)],
            Self::Orphan | Self::Poison => self.first(),
        }
    }

    /// Whether it is a dead letter in the end.
    fn stays_dead(self) -> bool {
        matches!(self, Self::Orphan | Self::Poison)
    }
}

fn processed() -> Vec<(String, bool)> {
    vec![("Processed".to_owned(), true)]
}

/// As often delivered as the queue allows, and never acknowledged.
fn dead(outcome: &str) -> Vec<(String, bool)> {
    vec![(outcome.to_owned(), false); MAX_RECEIVE_COUNT]
}

async fn orders_loop(sqs: &Sqs, queues: &Queues) -> Loop {
    let program = need(functions()).process_orders();
    let variables = [("ORDERS_TABLE", ORDERS_TABLE)];
    Loop::start("process-orders", &program, &variables, &[], sqs, &queues.source, ORDERS).await
}

/// How many transactions were committed.
fn committed(it: &Loop) -> usize {
    let calls = it.proxy.calls();
    calls.iter().filter(|call| call.operation == "TransactWriteItems" && call.status == Some(200)).count()
}

fn body(message: &Message) -> Value {
    serde_json::from_str(message.body().expect("a body")).expect("JSON")
}

fn text<'a>(body: &'a Value, name: &str) -> &'a str {
    body[name].as_str().expect("a text")
}

/// The dead letters have the bodies and the attribute that they were sent with.
#[track_caller]
fn assert_unchanged(dead: &[Message], sent: &BTreeMap<String, Value>) {
    for letter in dead {
        let id = letter.message_id().expect("an id");
        assert_eq!(body(letter), sent[id], "{id}");
        let attributes = letter.message_attributes().expect("attributes");
        assert_eq!(attributes.len(), 1, "{attributes:?}");
        assert_eq!(attributes[ATTRIBUTE.0].string_value(), Some(ATTRIBUTE.1));
    }
}

/// P1, P5, P12: send, batch, invoke, partial failure, redelivery, dead-letter queue, redrive. After it what was mended is processed,
/// once each; what was done meanwhile is a Duplicate and runs nothing; what is still wrong is a dead letter again, unchanged,
/// after as many deliveries as the first time; and the source queue is empty.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_were_mended_are_processed_once_after_a_redrive() {
    let sqs = Sqs::start("redrive").await;
    let queues = Queues::make(&sqs, "orders", VISIBILITY_TIMEOUT_S).await;
    let mut expected: BTreeMap<String, Vec<(String, bool)>> = BTreeMap::new();
    for (kind, _) in KINDS {
        let ids = send(sqs.direct(), &queues.source, &kind.orders()).await;
        expected.extend(ids.into_iter().map(|id| (id, kind.first())));
    }
    let good = Kind::Good.orders().len();
    let it = orders_loop(&sqs, &queues).await;
    it.until_empty(&sqs, &queues.source).await;
    let died = expected.len() - good;
    assert_eq!(depth(sqs.direct(), &queues.dead).await, died);

    // What was missing arrives, and some orders once more.
    let late = send(sqs.direct(), &queues.source, &[(order(LATE), None)]).await;
    it.until(|counts| counts.deleted == good as u64 + 1).await;
    let again = send(sqs.direct(), &queues.source, &Kind::SentAgain.orders()).await;
    it.until(|counts| counts.deleted == (good + 1 + again.len()) as u64).await;
    let done_before = good + 1 + again.len();
    assert_eq!(committed(&it), done_before);
    expected.extend(late.into_iter().chain(again).map(|id| (id, processed())));

    let moved = sqs.redrive(&queues.dead, &queues.source).await;
    assert_eq!(moved.len(), died);
    assert_eq!(depth(sqs.direct(), &queues.dead).await, 0, "nothing can be dead again so soon");
    it.until_empty(&sqs, &queues.source).await;
    let mended = Kind::Mended.orders().len();
    assert_eq!(committed(&it), done_before + mended, "a duplicate, or a dead letter, wrote something");
    let table: BTreeSet<String> = order_ids(&it.client).await.into_iter().collect();
    let ended = it.stop().await;

    let kind = |body: &Value| {
        let id = text(body, "order_id").to_owned();
        KINDS.iter().find(|(kind, _)| id.starts_with(&format!("o-{kind:?}-"))).expect("a kind").0
    };
    let mut sent_last = BTreeMap::new();
    for (letter, new_id) in moved {
        let body = body(&letter);
        assert!(expected.insert(new_id.clone(), kind(&body).moved()).is_none(), "{new_id} was there before");
        sent_last.insert(new_id, body);
    }
    assert_eq!(deliveries(&ended.lines), expected);
    sent_last.retain(|_, body| kind(body).stays_dead());

    let dead = sqs.drain(&queues.dead).await;
    assert_unchanged(&dead, &sent_last);
    assert_eq!(dead.len(), sent_last.len());
    assert_eq!(depth(sqs.direct(), &queues.source).await, 0);
    let written = KINDS.iter().filter(|(kind, _)| !kind.stays_dead()).flat_map(|(kind, _)| kind.orders());
    let written = written.map(|(body, _)| text(&body, "order_id").to_owned()).chain([LATE.to_owned()]);
    assert_eq!(table, written.collect());
    assert_eq!((ended.counts.errors, ended.counts.bad_responses, ended.counts.undeleted), (0, 0, 0));
}

/// P1, P12: an outage of the dependency that lasts longer than the queue delivers a message. What it made dead letters is processed
/// after a redrive, once each.
#[tokio::test(flavor = "multi_thread")]
async fn orders_that_an_outage_made_dead_letters_are_processed_once_after_a_redrive() {
    const COUNT: usize = 50;
    let sqs = Sqs::start("redrive-outage").await;
    let queues = Queues::make(&sqs, "orders", VISIBILITY_TIMEOUT_S).await;
    let it = orders_loop(&sqs, &queues).await;
    send(sqs.direct(), &queues.source, &[(order("o-before"), None)]).await;
    it.until(|counts| counts.deleted == 1).await;

    // Nothing that DynamoDB is asked is done.
    it.proxy.set_script(|_: &Call<'_>| Fault::Error500);
    let orders: Vec<_> = (0..COUNT).map(|number| (order(&format!("o-{number}")), None)).collect();
    let ids = send(sqs.direct(), &queues.source, &orders).await;
    it.until_empty(&sqs, &queues.source).await;
    assert_eq!(depth(sqs.direct(), &queues.dead).await, COUNT);
    assert_eq!(committed(&it), 1);

    it.proxy.set_script(|_: &Call<'_>| Fault::Pass);
    let moved = sqs.redrive(&queues.dead, &queues.source).await;
    it.until_empty(&sqs, &queues.source).await;
    let table = order_ids(&it.client).await;
    assert_eq!(committed(&it), 1 + COUNT);
    let ended = it.stop().await;

    let found = deliveries(&ended.lines);
    assert_eq!(
        moved.iter().filter_map(|(letter, _)| letter.message_id()).collect::<BTreeSet<_>>(),
        ids.iter().map(String::as_str).collect::<BTreeSet<_>>()
    );
    for (letter, new_id) in &moved {
        let before = &found[letter.message_id().expect("an id")];
        assert!(before.iter().all(|(outcome, acknowledged)| outcome == "Failed" && !acknowledged), "{before:?}");
        assert_eq!(found[new_id], processed());
    }
    assert_eq!(found.len(), 1 + 2 * COUNT);
    assert!(ended.counts.errors > 0, "an invocation of which nothing was done errs: {:?}", ended.counts);
    assert_eq!(table.len(), 1 + COUNT);
    assert_eq!(depth(sqs.direct(), &queues.dead).await, 0);
}

/// Entries of the FIFO queue, as `(account, entry, amount)`.
type Entry = (&'static str, &'static str, i64);

fn entries(entries: &[Entry]) -> Vec<(Value, Option<String>)> {
    let entry = |&(account, entry, amount): &Entry| {
        let body = json!({"account_id": account, "entry_id": entry, "amount_minor": amount, "currency": "EUR"});
        (body, Some(account.to_owned()))
    };
    entries.iter().map(entry).collect()
}

fn name(body: &Value) -> String {
    format!("{}/{}", text(body, "account_id"), text(body, "entry_id"))
}

fn group(message: &Message) -> Option<&str> {
    Some(message.attributes()?.get(&MessageSystemAttributeName::MessageGroupId)?.as_str())
}

/// P1, P12 on a FIFO queue. P16 excludes a redrive: what was moved comes at the end of its group, behind what was sent meanwhile.
/// What was moved together keeps its order; so an entry that is still poison takes those of its account behind it along once
/// more, until it is left out.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_a_fifo_queue_are_posted_once_at_the_end_of_their_group() {
    // No credit covers the debit of `a`, an entry of nothing is invalid, and nothing is wrong with `c`.
    const FIRST: [Entry; 6] =
        [("a", "0", -100), ("a", "1", 30), ("b", "0", 0), ("b", "1", 50), ("c", "0", 10), ("c", "1", -10)];
    const LATE: [Entry; 1] = [("a", "late", 200)];
    let sqs = Sqs::start("redrive-fifo").await;
    let queues = Queues::make(&sqs, "ledger.fifo", VISIBILITY_TIMEOUT_S).await;
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let first = entries(&FIRST);
    names.extend(send(sqs.direct(), &queues.source, &first).await.into_iter().zip(first.iter().map(|it| name(&it.0))));
    let it = Loop::post_ledger(&sqs, &queues.source).await;
    it.until_empty(&sqs, &queues.source).await;

    // The credit comes, behind the debit that it covers.
    let late = entries(&LATE);
    names.extend(send(sqs.direct(), &queues.source, &late).await.into_iter().zip(late.iter().map(|it| name(&it.0))));
    it.until_empty(&sqs, &queues.source).await;
    let moved = sqs.redrive(&queues.dead, &queues.source).await;
    names.extend(moved.iter().map(|(letter, new_id)| (new_id.clone(), name(&body(letter)))));
    let dead: Vec<String> = moved.iter().map(|(letter, _)| name(&body(letter))).collect();
    assert!(dead.contains(&"a/0".to_owned()) && dead.contains(&"b/0".to_owned()), "{dead:?}");
    it.until_empty(&sqs, &queues.source).await;

    // What is still poison is left out, and what it took along is moved again.
    let mut dead = sqs.drain(&queues.dead).await;
    for letter in &dead {
        assert_eq!(group(letter), Some("b"), "only the poison, and what stands behind it, is dead again");
        assert_eq!(letter.message_attributes().expect("attributes")[ATTRIBUTE.0].string_value(), Some(ATTRIBUTE.1));
    }
    let poison = dead.iter().position(|letter| name(&body(letter)) == "b/0").expect("it is there");
    dead.remove(poison);
    for letter in &dead {
        names.insert(sqs.send_again(letter, &queues.source).await, name(&body(letter)));
    }
    it.until_empty(&sqs, &queues.source).await;
    let ledger = rows(&it.client, "ledger").await;
    let balances = rows(&it.client, "balances").await;
    let committed = committed(&it);
    let ended = it.stop().await;

    let mut posted: Vec<&str> = Vec::new();
    for line in &ended.lines {
        let LogLine::Item(report) = parse(line) else { continue };
        match report.outcome.as_str() {
            "Processed" => posted.push(&names[&report.message_id]),
            outcome => assert_eq!((outcome, report.acknowledged), (outcome, false)),
        }
    }
    let of_account =
        |account: &str| posted.iter().filter(|name| name.starts_with(account)).copied().collect::<Vec<_>>();
    let place = |name: &str| of_account("a").iter().position(|posted| *posted == name).expect("it was posted");
    assert!(place("a/late") < place("a/0"), "the debit was covered by what was sent after it: {posted:?}");
    assert_eq!(of_account("b"), ["b/1"]);
    assert_eq!(of_account("c"), ["c/0", "c/1"]);
    assert_eq!(posted.iter().collect::<BTreeSet<_>>().len(), posted.len(), "one was posted twice: {posted:?}");

    let key =
        |row: &Row| format!("{}/{}", row["account_id"].as_s().expect("text"), row["entry_id"].as_s().expect("text"));
    let found: BTreeSet<String> = ledger.iter().map(key).collect();
    assert_eq!(found, ["a/0", "a/1", "a/late", "b/1", "c/0", "c/1"].map(str::to_owned).into());
    assert_eq!(committed, found.len());
    let balance = |row: &Row| {
        let number = |name: &str| row[name].as_n().expect("a number").parse::<i64>().expect("64 bits");
        (row["account_id"].as_s().expect("text").clone(), (number("balance_minor"), number("entry_count")))
    };
    let balances: BTreeMap<String, (i64, i64)> = balances.iter().map(balance).collect();
    let expected = [("a", (130, 3)), ("b", (50, 1)), ("c", (0, 2))];
    assert_eq!(balances, expected.map(|(account, balance)| (account.to_owned(), balance)).into());
    assert_eq!(depth(sqs.direct(), &queues.source).await + depth(sqs.direct(), &queues.dead).await, 0);
}

/// What the tests above move is moved whole: body, attributes of each type, trace header, and group; on a FIFO queue in order,
/// and although it is the queue's own deduplication time.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_keeps_what_a_message_is() {
    let sqs = Sqs::start("redrive-whole").await;
    for suffix in ["", ".fifo"] {
        let queues = Queues::make(&sqs, &format!("any{suffix}"), 0).await;
        let attribute = |kind: &str| MessageAttributeValue::builder().data_type(kind);
        let trace =
            MessageSystemAttributeValue::builder().data_type("String").string_value("Root=1-5e3d83c1-0123456789ab");
        for number in 0..12 {
            let request =
                sqs.direct().send_message().queue_url(&queues.source).message_body(format!("{{\"n\": {number}}}"));
            let request = request
                .message_attributes("text", attribute("String.label").string_value("a").build().expect("complete"))
                .message_attributes("number", attribute("Number").string_value("7").build().expect("complete"))
                .message_attributes(
                    "bytes",
                    attribute("Binary").binary_value(Blob::new([0, 255])).build().expect("complete"),
                )
                .message_system_attributes(
                    MessageSystemAttributeNameForSends::AwsTraceHeader,
                    trace.clone().build().expect("complete"),
                )
                .message_group_id("g-1")
                .set_message_deduplication_id((!suffix.is_empty()).then(|| format!("d-{number}")));
            request.send().await.expect("it is sent");
        }
        // What is visible again at once is received until there is nothing left to receive.
        while depth(sqs.direct(), &queues.source).await > 0 {
            sqs.receive(&queues.source, 0, 0).await;
        }
        let moved = sqs.redrive(&queues.dead, &queues.source).await;
        let arrived = sqs.drain(&queues.source).await;
        assert_eq!((moved.len(), arrived.len()), (12, 12), "{suffix:?}");
        for (place, message) in arrived.iter().enumerate() {
            let (letter, new_id) = moved
                .iter()
                .find(|(_, new_id)| message.message_id() == Some(new_id))
                .unwrap_or_else(|| panic!("{:?} was not moved", message.message_id()));
            assert_ne!(letter.message_id(), Some(new_id.as_str()));
            assert_eq!(message.body(), letter.body());
            assert_eq!(message.message_attributes(), letter.message_attributes());
            assert_eq!(message.message_attributes().map(std::collections::HashMap::len), Some(3));
            assert_eq!(group(message), Some("g-1"));
            let header = message.attributes().and_then(|all| all.get(&MessageSystemAttributeName::AwsTraceHeader));
            assert_eq!(header.map(String::as_str), Some("Root=1-5e3d83c1-0123456789ab"));
            assert!(suffix.is_empty() || body(message) == json!({"n": place}), "out of order: {message:?}");
        }
        assert_eq!(depth(sqs.direct(), &queues.dead).await, 0);
    }
}
