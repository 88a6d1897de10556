//! The order's write and the record's completion, against an embedded DynamoDB over the real SDK: both are there or neither.

mod support;

use aws_sdk_dynamodb::types::AttributeValue;
use microbatch::{
    Clock, Commit, Done, ItemContext, Key, Outcome, Pipeline, ProcessError, Processor, Store,
    record::Owner,
    transition::{ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, OnLapsedLease},
};
use microbatch_aws::{DynamoDbStore, clock::SystemClock, dynamodb::DynamoDbWrite};
use microbatch_local::proxy::{Call, Fault};
use microbatch_testkit::recorder::KeptReport;
use process_orders::{
    order::{ID_BYTES_MAX, LINES_MAX, Line, Order},
    process::{ProcessOrders, Receipt, pipeline},
};
use serde_json::json;
use support::{Bench, ORDERS, RECORDS};

const TIME_MS: u64 = 30_000;

fn order(order_id: &str) -> Order {
    Order {
        order_id: order_id.to_owned(),
        customer_id: "c-1".to_owned(),
        currency: "EUR".to_owned(),
        lines: vec![
            Line { sku: "s-1".to_owned(), quantity: 100, unit_price_minor: 10_000_000_000_000_000 },
            Line { sku: "s-2".to_owned(), quantity: 1, unit_price_minor: 0 },
        ],
        total_minor: 1_000_000_000_000_000_000,
        amends: None,
    }
}

fn amending(order_id: &str, amended: &str) -> Order {
    Order { amends: Some(amended.to_owned()), ..order(order_id) }
}

fn event(order: &Order) -> String {
    let body = serde_json::to_string(order).expect("an order is JSON");
    json!({ "Records": [{ "messageId": "m", "eventSource": "aws:sqs", "body": body }] }).to_string()
}

/// What became of one message with this order.
async fn send(bench: &Bench, order: &Order) -> (Outcome, Option<&'static str>) {
    bench.answer(pipeline(ORDERS), &event(order), TIME_MS).await;
    outcome(&bench.report())
}

fn outcome(report: &KeptReport) -> (Outcome, Option<&'static str>) {
    report.of("m").expect("the message was reported")
}

/// The one record: its status, and whether it is released.
async fn record(bench: &Bench) -> (String, bool) {
    let records = bench.items(RECORDS, "id").await;
    assert_eq!(records.len(), 1);
    let record = records.into_values().next().expect("one record");
    let status = record["status"].as_s().expect("a string").clone();
    (status, !record.contains_key("owner"))
}

/// Forgets all records, as the table does when their retention is over.
async fn forget_records(bench: &Bench) {
    for id in bench.items(RECORDS, "id").await.into_keys() {
        let delete = bench.client.delete_item().table_name(RECORDS).key("id", AttributeValue::S(id));
        delete.send().await.expect("a deletion");
    }
}

#[tokio::test]
async fn an_order_and_its_completion_are_written_together_and_once() {
    let bench = Bench::start().await;
    assert_eq!(send(&bench, &order("o-1")).await, (Outcome::Processed, None));
    assert_eq!(record(&bench).await, ("COMPLETED".to_owned(), false));
    assert_eq!(bench.orders().await["o-1"]["total_minor"], AttributeValue::N("1000000000000000000".to_owned()));

    // Were a redelivery to write, the order would be back.
    let delete = bench.client.delete_item().table_name(ORDERS).key("order_id", AttributeValue::S("o-1".to_owned()));
    delete.send().await.expect("a deletion");
    assert_eq!(send(&bench, &order("o-1")).await, (Outcome::Duplicate, None));
    assert!(bench.orders().await.is_empty());
    assert_eq!(bench.proxy.count("TransactWriteItems"), 1);
}

#[tokio::test]
async fn a_transaction_that_is_never_applied_leaves_neither() {
    let bench = Bench::start().await;
    bench.proxy.set_script(|call: &Call<'_>| match call.operation {
        "TransactWriteItems" => Fault::Error500,
        _ => Fault::Pass,
    });
    bench.answer(pipeline(ORDERS), &event(&order("o-1")), 1_500).await;
    assert_eq!(outcome(&bench.report()), (Outcome::Failed, Some("completion_lost")));
    assert_eq!(record(&bench).await, ("INPROGRESS".to_owned(), false));
    assert!(bench.orders().await.is_empty());
}

#[tokio::test]
async fn a_transaction_whose_answer_is_lost_leaves_both() {
    let bench = Bench::start().await;
    bench.proxy.set_script(|call: &Call<'_>| match (call.operation, call.nth_of_operation) {
        ("TransactWriteItems", 0) => Fault::DropAnswer,
        _ => Fault::Pass,
    });
    assert_eq!(send(&bench, &order("o-1")).await, (Outcome::Processed, None));
    assert_eq!(bench.proxy.count("TransactWriteItems"), 2);
    assert_eq!(record(&bench).await, ("COMPLETED".to_owned(), false));
    assert_eq!(bench.orders().await.len(), 1);
}

#[tokio::test]
async fn an_amended_order_that_is_missing_is_waited_for() {
    let bench = Bench::start().await;
    let amendment = amending("o-2", "o-1");
    assert_eq!(send(&bench, &amendment).await, (Outcome::Failed, Some("amended_order_missing")));
    assert_eq!(record(&bench).await, ("INPROGRESS".to_owned(), true), "others may try at once");
    assert!(bench.orders().await.is_empty());

    assert_eq!(send(&bench, &order("o-1")).await, (Outcome::Processed, None));
    assert_eq!(send(&bench, &amendment).await, (Outcome::Processed, None));
    assert_eq!(bench.orders().await["o-2"]["amends"], AttributeValue::S("o-1".to_owned()));
}

#[tokio::test]
async fn an_order_under_a_taken_id_is_rejected_whatever_it_differs_in() {
    let bench = Bench::start().await;
    send(&bench, &order("o-0")).await;
    for kept in [order("o-1"), amending("o-2", "o-0")] {
        assert_eq!(send(&bench, &kept).await, (Outcome::Processed, None));
        let before = bench.orders().await;
        let changes: [fn(&mut Order); 6] = [
            |o| o.customer_id.push('2'),
            |o| "SEK".clone_into(&mut o.currency),
            |o| o.lines[1].quantity = 2,
            |o| o.lines.swap(0, 1),
            |o| drop(o.lines.pop()),
            |o| o.amends = if o.amends.is_some() { None } else { Some("o-0".to_owned()) },
        ];
        for change in changes {
            // While the record is there, the fingerprint tells: this is what comes after.
            forget_records(&bench).await;
            let mut other = kept.clone();
            change(&mut other);
            assert_eq!(send(&bench, &other).await, (Outcome::Rejected, Some("order_id_taken")), "{other:?}");
            assert_eq!(record(&bench).await, ("INPROGRESS".to_owned(), true));
            assert_eq!(bench.orders().await, before);
        }
    }
}

#[tokio::test]
async fn the_same_order_after_its_record_is_forgotten_changes_nothing() {
    let bench = Bench::start().await;
    send(&bench, &order("o-0")).await;
    for order in [order("o-1"), amending("o-2", "o-0")] {
        assert_eq!(send(&bench, &order).await, (Outcome::Processed, None));
        let shipped = bench
            .client
            .update_item()
            .table_name(ORDERS)
            .key("order_id", AttributeValue::S(order.order_id.clone()))
            .update_expression("SET shipped = :true")
            .expression_attribute_values(":true", AttributeValue::Bool(true));
        shipped.send().await.expect("an update");
        let before = bench.orders().await;
        forget_records(&bench).await;
        assert_eq!(send(&bench, &order).await, (Outcome::Processed, None));
        assert_eq!(bench.orders().await, before, "what others have added stays");
    }
}

#[tokio::test]
async fn the_largest_order_fits() {
    let bench = Bench::start().await;
    let unit_price_minor = u64::MAX / LINES_MAX as u64;
    let line = Line { sku: "s".repeat(ID_BYTES_MAX), quantity: 1, unit_price_minor };
    let largest = Order {
        order_id: "o".repeat(ID_BYTES_MAX),
        customer_id: "c".repeat(ID_BYTES_MAX),
        lines: vec![line; LINES_MAX],
        total_minor: unit_price_minor * LINES_MAX as u64,
        ..order("")
    };
    assert_eq!(send(&bench, &largest).await, (Outcome::Processed, None));
    forget_records(&bench).await;
    assert_eq!(send(&bench, &largest).await, (Outcome::Processed, None), "it is compared as it was written");
    assert_eq!(bench.orders().await.len(), 1);
}

#[tokio::test]
async fn a_missing_orders_table_is_no_fault_of_the_order() {
    let bench = Bench::start().await;
    bench.client.delete_table().table_name(ORDERS).send().await.expect("a deletion");
    bench.answer(pipeline(ORDERS), &event(&order("o-1")), TIME_MS).await;
    assert_eq!(outcome(&bench.report()).0, Outcome::Failed);
    assert_eq!(record(&bench).await.0, "INPROGRESS");
}

/// Processes an order, but only after another worker has taken its key over, as one does whose clock says that the lease
/// is over.
struct Overtaken {
    inner: ProcessOrders,
    store: DynamoDbStore,
    other_completes: bool,
}

impl Processor for Overtaken {
    type Item = Order;
    type Output = Receipt;
    type Write = DynamoDbWrite;

    async fn process(&self, order: Order, cx: &ItemContext) -> Result<Done<Receipt, DynamoDbWrite>, ProcessError> {
        let (key, owner) = (Key::from_stored(cx.idempotency_key().expect("a key")), Owner::new("other"));
        let now_ms = SystemClock.now_ms() + 86_400_000;
        let claim = ClaimRequest {
            key: key.clone(),
            owner: owner.clone(),
            fingerprint: None,
            lease_end_ms: now_ms + 60_000,
            retention_end_s: now_ms / 1_000 + 86_400,
            on_lapsed_lease: OnLapsedLease::Retry,
        };
        let retention_end_s = claim.retention_end_s;
        let claimed = self.store.claim(now_ms, &[claim]).await.remove(0)?;
        assert!(matches!(claimed, ClaimAnswer::Claimed(_)), "{claimed:?}");
        if self.other_completes {
            let result = microbatch::record::StoredResult::None;
            let writes: Vec<DynamoDbWrite> = Vec::new();
            let completion = CompleteRequest { key, owner, result, retention_end_s, writes };
            assert_eq!(self.store.complete(now_ms, &[completion]).await.remove(0)?, CompleteAnswer::Completed);
        }
        self.inner.process(order, cx).await
    }
}

/// P4: a stale owner changes nothing, its order included.
#[tokio::test]
async fn a_claim_that_was_lost_writes_no_order() {
    let cases = [
        (false, (Outcome::Failed, Some("lost_lease")), "INPROGRESS"),
        // Ours was not committed: the work is done, once, by the other.
        (true, (Outcome::Duplicate, None), "COMPLETED"),
    ];
    for (other_completes, expected, status) in cases {
        let bench = Bench::start().await;
        let inner = ProcessOrders::new(ORDERS);
        let overtaken = Overtaken { inner, store: bench.store.clone(), other_completes };
        let builder = Pipeline::builder(overtaken).key("order_id").fingerprint_body();
        bench.answer(builder, &event(&order("o-1")), TIME_MS).await;
        assert_eq!(outcome(&bench.report()), expected);
        assert!(bench.orders().await.is_empty(), "nothing of ours is written");
        let records = bench.items(RECORDS, "id").await;
        let record = records.values().next().expect("one record");
        let text = |name: &str| record[name].as_s().expect("a string").clone();
        assert_eq!(
            (text("owner"), text("status")),
            ("other".to_owned(), status.to_owned()),
            "the other's record stays"
        );
    }
}
