//! Entries, balances and records against an embedded DynamoDB over the real SDK: a balance is the sum of its entries, whatever
//! is delivered and whatever fails.

mod support;

use aws_sdk_dynamodb::types::AttributeValue;
use microbatch::Outcome;
use microbatch_local::proxy::{Call, Fault};
use post_ledger::entry::{AMOUNT_MINOR_MAX, ID_BYTES_MAX};
use serde_json::{Value, json};
use support::{BALANCES, Bench, LEDGER, RECORDS};

const TIME_MS: u64 = 30_000;

/// An entry in euros.
fn entry(account: &str, id: &str, amount: i64) -> Value {
    json!({"account_id": account, "entry_id": id, "amount_minor": amount, "currency": "EUR"})
}

/// A batch of a FIFO queue in which each entry's group is its account. Message `n` has the id `m-n`.
fn event(entries: &[Value]) -> String {
    let records = entries.iter().enumerate().map(|(n, entry)| {
        json!({
            "messageId": format!("m-{n}"),
            "body": entry.to_string(),
            "attributes": {"MessageGroupId": entry["account_id"], "SequenceNumber": n.to_string()},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:ledger.fifo",
        })
    });
    json!({ "Records": records.collect::<Vec<_>>() }).to_string()
}

/// What became of each of these entries, sent as one batch. The books are balanced before anything else is looked at.
async fn send(bench: &Bench, entries: &[Value]) -> Vec<(Outcome, Option<&'static str>)> {
    bench.answer(&event(entries), TIME_MS).await;
    bench.books().await.assert_balanced();
    bench.report().items.iter().map(|item| (item.outcome, item.code)).collect()
}

const POSTED: (Outcome, Option<&str>) = (Outcome::Processed, None);
const DUPLICATE: (Outcome, Option<&str>) = (Outcome::Duplicate, None);

/// Forgets all records, as the table does when their retention is over.
async fn forget_records(bench: &Bench) {
    for item in bench.items(RECORDS).await {
        let delete = bench.client.delete_item().table_name(RECORDS).key("id", item["id"].clone());
        delete.send().await.expect("a deletion");
    }
}

#[tokio::test]
async fn accounts_are_opened_by_their_first_credit_and_kept_apart() {
    let bench = Bench::start().await;
    let dollars = json!({"account_id": "a-1", "entry_id": "e-4", "amount_minor": 7, "currency": "USD"});
    let entries =
        [entry("a-1", "e-1", 100), entry("a-2", "e-1", 50), entry("a-1", "e-2", -100), entry("a-1", "e-3", 1), dollars];
    assert_eq!(send(&bench, &entries).await, [POSTED; 5]);
    let books = bench.books().await;
    let balance = |account: &str, currency: &str| &books.balances[&(account.to_owned(), currency.to_owned())];
    assert_eq!(*balance("a-1", "EUR"), (1, 3, "e-3".to_owned()));
    assert_eq!(*balance("a-1", "USD"), (7, 1, "e-4".to_owned()));
    assert_eq!(*balance("a-2", "EUR"), (50, 1, "e-1".to_owned()));
}

/// P5, P8.
#[tokio::test]
async fn an_entry_counts_once_however_often_it_is_delivered() {
    let bench = Bench::start().await;
    let twice = [entry("a-1", "e-1", 100), entry("a-1", "e-1", 100)];
    assert_eq!(send(&bench, &twice).await, [POSTED, DUPLICATE]);
    assert_eq!(send(&bench, &twice).await, [DUPLICATE; 2]);
    assert_eq!(bench.books().await.euros("a-1"), Some(100));
    assert_eq!(bench.proxy.count("TransactWriteItems"), 1);
}

/// P9.
#[tokio::test]
async fn another_entry_under_a_used_id_is_a_conflict() {
    let bench = Bench::start().await;
    assert_eq!(send(&bench, &[entry("a-1", "e-1", 100)]).await, [POSTED]);
    let conflict = (Outcome::Conflict, Some("fingerprint_differs"));
    assert_eq!(send(&bench, &[entry("a-1", "e-1", 101)]).await, [conflict]);
    assert_eq!(send(&bench, &[entry("a-2", "e-1", 101)]).await, [POSTED], "ids are an account's own");
    let books = bench.books().await;
    assert_eq!((books.euros("a-1"), books.euros("a-2")), (Some(100), Some(101)));
}

#[tokio::test]
async fn an_entry_whose_record_is_forgotten_is_refused_and_counts_once() {
    let bench = Bench::start().await;
    assert_eq!(send(&bench, &[entry("a-1", "e-1", 100)]).await, [POSTED]);
    let before = bench.books().await;
    for amount in [100, 101, -500] {
        forget_records(&bench).await;
        let refused = (Outcome::Rejected, Some("entry_exists"));
        assert_eq!(send(&bench, &[entry("a-1", "e-1", amount)]).await, [refused], "{amount}");
        assert_eq!(bench.books().await, before);
    }
}

#[tokio::test]
async fn a_debit_that_is_not_covered_is_refused_and_one_to_the_last_cent_is_not() {
    let bench = Bench::start().await;
    let refused = (Outcome::Rejected, Some("insufficient_funds"));
    assert_eq!(send(&bench, &[entry("a-1", "e-0", -1)]).await, [refused], "there is no account");
    assert!(bench.books().await.balances.is_empty());
    assert_eq!(send(&bench, &[entry("a-1", "e-1", 100)]).await, [POSTED]);
    assert_eq!(send(&bench, &[entry("a-1", "e-2", -101)]).await, [refused]);
    let dollars = json!({"account_id": "a-1", "entry_id": "e-3", "amount_minor": -1, "currency": "USD"});
    assert_eq!(send(&bench, &[dollars]).await, [refused], "euros do not cover dollars");
    assert_eq!(send(&bench, &[entry("a-1", "e-4", -100)]).await, [POSTED]);
    assert_eq!(bench.books().await.euros("a-1"), Some(0));
    assert_eq!(send(&bench, &[entry("a-1", "e-0", -1)]).await, [refused]);
    assert_eq!(send(&bench, &[entry("a-1", "e-5", 1)]).await, [POSTED]);
    assert_eq!(send(&bench, &[entry("a-1", "e-0", -1)]).await, [POSTED], "tried again once it is covered");
}

/// P16: what is behind a failed entry of its account waits, and other accounts do not.
#[tokio::test]
async fn an_entry_that_fails_blocks_its_account_and_no_other() {
    let bench = Bench::start().await;
    let entries = [
        entry("a-1", "e-1", 100),
        entry("a-2", "e-1", 10),
        entry("a-1", "e-2", -500),
        entry("a-1", "e-3", 500),
        entry("a-2", "e-2", 10),
    ];
    let (refused, blocked) =
        ((Outcome::Rejected, Some("insufficient_funds")), (Outcome::Abandoned, Some("group_blocked")));
    assert_eq!(send(&bench, &entries).await, [POSTED, POSTED, refused, blocked, POSTED]);
    let books = bench.books().await;
    assert_eq!((books.euros("a-1"), books.euros("a-2")), (Some(100), Some(20)));

    // The redrive policy has moved the refused one: those behind it go on.
    assert_eq!(send(&bench, &entries[3..4]).await, [POSTED]);
    assert_eq!(bench.books().await.euros("a-1"), Some(600));
}

#[tokio::test]
async fn a_transaction_that_is_never_applied_leaves_nothing() {
    let bench = Bench::start().await;
    bench.proxy.set_script(|call: &Call<'_>| match call.operation {
        "TransactWriteItems" => Fault::Error500,
        _ => Fault::Pass,
    });
    bench.answer(&event(&[entry("a-1", "e-1", 100)]), 1_500).await;
    assert_eq!(bench.report().of("m-0"), Some((Outcome::Failed, Some("completion_lost"))));
    let books = bench.books().await;
    assert!(books.entries.is_empty() && books.balances.is_empty(), "{books:?}");
}

/// The adapter sends the same transaction again, and DynamoDB knows it by its token; once it is known no more, by its own
/// completed record.
#[tokio::test]
async fn a_transaction_whose_answer_is_lost_is_posted_once() {
    for lost in [1, 3] {
        let bench = Bench::start().await;
        bench.proxy.set_script(move |call: &Call<'_>| match call.operation {
            "TransactWriteItems" if call.nth_of_operation < lost => Fault::DropAnswer,
            _ => Fault::Pass,
        });
        let entries = [entry("a-1", "e-1", 100), entry("a-1", "e-2", -60)];
        assert_eq!(send(&bench, &entries).await, [POSTED; 2]);
        let books = bench.books().await;
        assert_eq!((books.euros("a-1"), books.entries.len()), (Some(40), 2));
        assert_eq!(bench.proxy.count("TransactWriteItems"), 2 + lost);
    }
}

/// The transaction's own condition decides, not what was read before: there is no such read.
#[tokio::test]
async fn two_debits_at_once_are_not_both_covered_by_the_same_money() {
    let bench = Bench::start().await;
    assert_eq!(send(&bench, &[entry("a-1", "e-0", 100)]).await, [POSTED]);
    let debits = ["e-1", "e-2", "e-3"].map(|id| event(&[entry("a-1", id, -60)]));
    // As from three environments: three pipelines know nothing of each other.
    let (one, two, three) = tokio::join!(
        bench.answer(&debits[0], TIME_MS),
        bench.answer(&debits[1], TIME_MS),
        bench.answer(&debits[2], TIME_MS)
    );
    let posted = [one, two, three].iter().filter(|answer| **answer == json!({"batchItemFailures": []})).count();
    assert_eq!(posted, 1);
    let books = bench.books().await;
    books.assert_balanced();
    assert_eq!(books.euros("a-1"), Some(40));
}

#[tokio::test]
async fn the_largest_entries_fit_and_balances_go_beyond_64_bits() {
    let bench = Bench::start().await;
    let (account, limit) = ("a".repeat(ID_BYTES_MAX), i64::try_from(AMOUNT_MINOR_MAX).expect("it fits"));
    let id = |end: &str| "e".repeat(ID_BYTES_MAX - 1) + end;
    assert_eq!(send(&bench, &[entry(&account, &id("1"), limit)]).await, [POSTED]);
    // As after ten thousand such entries.
    let far = bench
        .client
        .update_item()
        .table_name(BALANCES)
        .key("account_id", AttributeValue::S(account.clone()))
        .key("currency", AttributeValue::S("EUR".to_owned()))
        .update_expression("SET balance_minor = :far")
        .expression_attribute_values(":far", AttributeValue::N("10000000000000000000".to_owned()));
    far.send().await.expect("an update");
    bench.answer(&event(&[entry(&account, &id("2"), limit), entry(&account, &id("3"), -1)]), TIME_MS).await;
    assert_eq!(bench.books().await.euros(&account), Some(10_000_000_000_000_000_000 + i128::from(limit) - 1));
}

#[tokio::test]
async fn a_missing_table_is_no_fault_of_the_entry() {
    for table in [LEDGER, BALANCES] {
        let bench = Bench::start().await;
        bench.client.delete_table().table_name(table).send().await.expect("a deletion");
        bench.answer(&event(&[entry("a-1", "e-1", 100)]), TIME_MS).await;
        assert_eq!(bench.report().of("m-0").map(|(outcome, _)| outcome), Some(Outcome::Failed), "{table}");
    }
}
