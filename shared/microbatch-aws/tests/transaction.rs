//! A completion and the processor's writes: together or not at all (rule 13). On the embedded DynamoDB, behind a proxy that
//! counts requests and loses answers.

use std::{collections::HashMap, path::Path};

use aws_sdk_dynamodb::{
    Client,
    config::retry::RetryConfig,
    types::{AttributeValue, ConditionCheck, Delete, Put, Update},
};
use microbatch::{
    Commit, Key, Store, StoreError, WriteRefusal, WriteRefused,
    record::{Owner, Record, Status, StoredResult},
    store::StoreErrorKind,
    transition::{
        ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, OnLapsedLease, ReleaseAnswer, ReleaseKind,
        ReleaseRequest,
    },
};
use microbatch_aws::{
    DynamoDbStore,
    dynamodb::{DynamoDbWrite, Layout},
};
use microbatch_local::{
    dynamodb::EmbeddedDynamoDb,
    proxy::{Call, Fault, Proxy},
    tables::{Endpoint, TableSpec, ensure},
};

const RECORDS: &str = "idempotency";
const COMPOSITE_RECORDS: &str = "idempotency-composite";
const DATA: &str = "data";
const NOW_MS: u64 = 1_767_225_600_000;
const LEASE_END_MS: u64 = NOW_MS + 10_000;
const RETENTION_END_S: u64 = NOW_MS / 1_000 + 86_400;

struct Bench {
    server: EmbeddedDynamoDb,
    proxy: Proxy,
    client: Client,
    store: DynamoDbStore,
}

impl Bench {
    async fn start() -> Self {
        Self::start_in(None).await
    }

    async fn start_in(state: Option<&Path>) -> Self {
        let server = EmbeddedDynamoDb::start(state).await.expect("a server");
        let tables = [
            TableSpec::idempotency(RECORDS),
            TableSpec::from_keys(COMPOSITE_RECORDS, "pk,sk").expect("a table"),
            TableSpec::from_keys(DATA, "id").expect("a table"),
        ];
        ensure(&Endpoint::parse(&server.endpoint_url()).expect("a URL"), &tables).await.expect("the tables");
        let proxy = Proxy::start(server.address(), |_: &Call<'_>| Fault::Pass).await.expect("a port");
        let endpoint = Endpoint::parse(&proxy.endpoint_url()).expect("a URL");
        let config = endpoint.client().await.config().to_builder().retry_config(RetryConfig::disabled()).build();
        let client = Client::from_conf(config);
        let store = DynamoDbStore::new(client.clone(), RECORDS);
        Self { server, proxy, client, store }
    }

    async fn claim(&self, key: &str, owner: &str, now_ms: u64) {
        let claim = ClaimRequest {
            key: Key::from_stored(key),
            owner: Owner::new(owner),
            fingerprint: None,
            lease_end_ms: now_ms + (LEASE_END_MS - NOW_MS),
            retention_end_s: RETENTION_END_S,
            on_lapsed_lease: OnLapsedLease::Retry,
        };
        let answer = self.store.claim(now_ms, &[claim]).await.remove(0);
        assert!(matches!(answer, Ok(ClaimAnswer::Claimed(_))), "{answer:?}");
    }

    async fn complete(&self, request: &CompleteRequest<DynamoDbWrite>) -> Result<CompleteAnswer, StoreError> {
        self.store.complete(NOW_MS + 1, std::slice::from_ref(request)).await.remove(0)
    }

    async fn record(&self, key: &str) -> Option<Record> {
        self.store.read(&[Key::from_stored(key)]).await.remove(0).expect("a record that can be read")
    }

    async fn status(&self, key: &str) -> Option<(Status, String)> {
        let record = self.record(key).await?;
        Some((record.status, record.owner.map(|owner| owner.as_str().to_owned()).unwrap_or_default()))
    }

    /// All data: of each item its id and the number `n`.
    async fn data(&self) -> Vec<(String, String)> {
        let scan = self.client.scan().table_name(DATA).consistent_read(true).send().await.expect("an answer");
        let number = |item: &HashMap<String, AttributeValue>| item.get("n").and_then(|n| n.as_n().ok().cloned());
        let rows = scan.items().iter().map(|item| {
            let id = item["id"].as_s().expect("a string").clone();
            (id, number(item).unwrap_or_default())
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort();
        rows
    }

    fn transactions(&self) -> usize {
        self.proxy.count("TransactWriteItems")
    }
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn one() -> AttributeValue {
    AttributeValue::N("1".to_owned())
}

fn put(id: &str) -> DynamoDbWrite {
    Put::builder().table_name(DATA).item("id", text(id)).item("n", one()).build().expect("complete").into()
}

/// Writes the item, where there is none.
fn put_new(id: &str) -> DynamoDbWrite {
    let put = Put::builder().table_name(DATA).item("id", text(id)).item("n", one());
    put.condition_expression("attribute_not_exists(id)").build().expect("complete").into()
}

/// Counts how often it is applied.
fn add(id: &str) -> DynamoDbWrite {
    let update = Update::builder().table_name(DATA).key("id", text(id)).update_expression("ADD n :one");
    update.expression_attribute_values(":one", one()).build().expect("complete").into()
}

fn delete(id: &str) -> DynamoDbWrite {
    Delete::builder().table_name(DATA).key("id", text(id)).build().expect("complete").into()
}

fn check(id: &str) -> DynamoDbWrite {
    let check = ConditionCheck::builder().table_name(DATA).key("id", text(id));
    check.condition_expression("attribute_exists(id)").build().expect("complete").into()
}

fn completion(key: &str, owner: &str, writes: Vec<DynamoDbWrite>) -> CompleteRequest<DynamoDbWrite> {
    CompleteRequest {
        key: Key::from_stored(key),
        owner: Owner::new(owner),
        result: StoredResult::Kept("{\"receipt\": 7}".into()),
        retention_end_s: RETENTION_END_S,
        writes,
    }
}

#[allow(clippy::unnecessary_wraps)] // as what it is compared with
fn refused(index: usize, reason: WriteRefusal) -> Result<CompleteAnswer, StoreError> {
    Ok(CompleteAnswer::WriteRefused(WriteRefused { index, reason }))
}

fn pairs(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    rows.iter().map(|(id, n)| ((*id).to_owned(), (*n).to_owned())).collect()
}

const IN_PROGRESS: Status = Status::InProgress;

#[tokio::test]
async fn the_writes_and_the_completion_are_there_together() {
    let bench = Bench::start().await;
    bench.claim("n#0", "o-0", NOW_MS).await;
    bench.complete(&completion("n#0", "o-0", vec![put("old"), put("there")])).await.expect("completed");
    bench.claim("n#1", "o-1", NOW_MS).await;
    let writes = vec![put("new"), add("there"), delete("old"), check("there-too")];
    assert_eq!(bench.complete(&completion("n#1", "o-1", writes)).await, refused(3, WriteRefusal::Condition));
    assert_eq!(bench.data().await, pairs(&[("old", "1"), ("there", "1")]), "none of it");

    let writes = vec![put_new("new"), add("there"), delete("old"), check("other")];
    bench.client.put_item().table_name(DATA).item("id", text("other")).send().await.expect("an answer");
    let request = completion("n#1", "o-1", writes);
    assert_eq!(bench.complete(&request).await, Ok(CompleteAnswer::Completed));
    assert_eq!(bench.data().await, pairs(&[("new", "1"), ("other", ""), ("there", "2")]));
    let record = bench.record("n#1").await.expect("a record");
    assert_eq!((record.status, record.result), (Status::Completed, request.result));
}

#[tokio::test]
async fn a_retry_with_the_same_token_is_applied_once() {
    let bench = Bench::start().await;
    bench.claim("n#1", "o-1", NOW_MS).await;
    let request = completion("n#1", "o-1", vec![add("count"), put_new("new")]);
    bench.proxy.set_script(|call: &Call<'_>| match (call.operation, call.nth_of_operation) {
        ("TransactWriteItems", 0) => Fault::DropAnswer,
        _ => Fault::Pass,
    });
    let error = bench.complete(&request).await.expect_err("the answer was lost");
    assert!(error.is_retryable(), "{error}");
    assert_eq!(bench.complete(&request).await, Ok(CompleteAnswer::Completed));
    assert_eq!(bench.complete(&request).await, Ok(CompleteAnswer::Completed));
    assert_eq!((bench.transactions(), bench.data().await), (3, pairs(&[("count", "1"), ("new", "1")])));
}

#[tokio::test]
async fn a_retry_is_judged_by_the_record_when_the_token_is_forgotten() {
    // DynamoDB forgets tokens after ten minutes, the embedded one when it is started anew.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("forgotten-token");
    let _ = std::fs::remove_dir_all(&folder);
    let bench = Bench::start_in(Some(&folder)).await;
    bench.claim("n#1", "o-1", NOW_MS).await;
    let request = completion("n#1", "o-1", vec![add("count"), put_new("new")]);
    assert_eq!(bench.complete(&request).await, Ok(CompleteAnswer::Completed));
    let Bench { server, .. } = bench;
    server.stop().await;

    let bench = Bench::start_in(Some(&folder)).await;
    assert_eq!(bench.complete(&request).await, Ok(CompleteAnswer::Completed), "not refused by its own write");
    assert_eq!((bench.transactions(), bench.data().await), (1, pairs(&[("count", "1"), ("new", "1")])));
}

#[tokio::test]
async fn a_condition_of_the_processors_that_does_not_hold_leaves_the_key_held() {
    let bench = Bench::start().await;
    bench.claim("n#1", "o-1", NOW_MS).await;
    let before = bench.record("n#1").await;
    let request = completion("n#1", "o-1", vec![put("a"), check("missing"), add("b"), check("missing-too")]);
    assert_eq!(bench.complete(&request).await, refused(1, WriteRefusal::Condition));
    assert_eq!((bench.record("n#1").await, bench.data().await), (before, pairs(&[])));

    // What the pipeline does then: the next attempt is not in the way of this one's token.
    let release = ReleaseRequest { key: request.key, owner: request.owner, kind: ReleaseKind::Now };
    assert_eq!(bench.store.release(NOW_MS + 2, &[release]).await, [Ok(ReleaseAnswer::Released)]);
    bench.claim("n#1", "o-2", NOW_MS + 3).await;
    assert_eq!(bench.complete(&completion("n#1", "o-2", vec![put("a")])).await, Ok(CompleteAnswer::Completed));
    assert_eq!(bench.data().await, pairs(&[("a", "1")]));
}

/// P4, effects included.
#[tokio::test]
async fn a_claim_that_was_lost_writes_nothing() {
    let bench = Bench::start().await;
    // With a condition of the processor's that does not hold either: ours is judged first.
    for (key, writes) in [("n#1", vec![put("a")]), ("n#2", vec![put("a"), check("missing")])] {
        bench.claim(key, "o-1", NOW_MS).await;
        bench.claim(key, "o-2", LEASE_END_MS + 1).await;
        let late = completion(key, "o-1", writes);
        assert_eq!(bench.complete(&late).await, Ok(CompleteAnswer::Lost));
        assert_eq!(bench.status(key).await, Some((IN_PROGRESS, "o-2".to_owned())));

        let theirs = completion(key, "o-2", Vec::new());
        assert_eq!(bench.complete(&theirs).await, Ok(CompleteAnswer::Completed));
        assert_eq!(bench.complete(&late).await, Ok(CompleteAnswer::CompletedByOther));
        assert_eq!(
            (bench.status(key).await, bench.data().await),
            (Some((Status::Completed, "o-2".to_owned())), vec![])
        );
    }
    assert_eq!(bench.complete(&completion("n#3", "o-1", vec![put("a")])).await, Ok(CompleteAnswer::Lost), "no record");
    assert_eq!((bench.record("n#3").await, bench.data().await), (None, vec![]));
}

#[tokio::test]
async fn ninety_nine_writes_fit_and_a_hundred_are_not_sent() {
    let bench = Bench::start().await;
    bench.claim("n#1", "o-1", NOW_MS).await;
    let writes = |count| (0..count).map(|n| put(&format!("i-{n}"))).collect::<Vec<_>>();
    let request = completion("n#1", "o-1", writes(100));
    assert_eq!(bench.complete(&request).await, refused(99, WriteRefusal::Invalid));
    assert_eq!((bench.transactions(), bench.status("n#1").await), (0, Some((IN_PROGRESS, "o-1".to_owned()))));
    assert_eq!(bench.complete(&completion("n#1", "o-1", writes(99))).await, Ok(CompleteAnswer::Completed));
    assert_eq!(bench.data().await.len(), 99);
}

#[tokio::test]
async fn a_write_to_the_record_itself_is_not_sent() {
    let mut bench = Bench::start().await;
    let layout = Layout::renamed([("id", "pk")])
        .and_then(|layout| layout.composite_key("sk", "idempotency"))
        .expect("plain names");
    for composite in [false, true] {
        if composite {
            bench.store = DynamoDbStore::new(bench.client.clone(), COMPOSITE_RECORDS).layout(layout.clone());
        }
        // A token of its own: it stands for a claim, and with other writes would be refused.
        let owner = if composite { "o-2" } else { "o-1" };
        let key = |record: &str| {
            let pairs: &[(&str, &str)] =
                if composite { &[("pk", "idempotency"), ("sk", record)] } else { &[("id", record)] };
            pairs.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect::<HashMap<_, _>>()
        };
        let table = if composite { COMPOSITE_RECORDS } else { RECORDS };
        bench.claim("n#1", owner, NOW_MS).await;
        let before = (bench.record("n#1").await, bench.transactions());
        let put = |record| Put::builder().table_name(table).set_item(Some(key(record))).build().expect("complete");
        let update = Update::builder().table_name(table).set_key(Some(key("n#1"))).update_expression("REMOVE #owner");
        let delete = Delete::builder().table_name(table).set_key(Some(key("n#1")));
        let check = ConditionCheck::builder().table_name(table).set_key(Some(key("n#1"))).condition_expression("a = b");
        let writes: [DynamoDbWrite; 4] = [
            put("n#1").into(),
            update.build().expect("complete").into(),
            delete.build().expect("complete").into(),
            check.build().expect("complete").into(),
        ];
        for write in writes {
            let request = completion("n#1", owner, vec![add("a"), write]);
            assert_eq!(bench.complete(&request).await, refused(1, WriteRefusal::Invalid));
        }
        assert_eq!((bench.record("n#1").await, bench.transactions()), before, "nothing was sent");
        // Another item of that table is the user's own affair.
        let request = completion("n#1", owner, vec![put("other").into()]);
        assert_eq!(bench.complete(&request).await, Ok(CompleteAnswer::Completed));
    }
}

#[tokio::test]
async fn what_dynamodb_cannot_take_is_refused_for_good() {
    let bench = Bench::start().await;
    bench.claim("n#1", "o-1", NOW_MS).await;
    bench
        .client
        .put_item()
        .table_name(DATA)
        .item("id", text("t"))
        .item("n", text("no number"))
        .send()
        .await
        .expect("an answer");
    let before = bench.record("n#1").await;
    let large = |id: &str| {
        let put = Put::builder().table_name(DATA).item("id", text(id)).item("large", text(&"x".repeat(390 * 1_024)));
        DynamoDbWrite::from(put.build().expect("complete"))
    };
    let too_large = Put::builder().table_name(DATA).item("id", text("a")).item("large", text(&"x".repeat(400 * 1_024)));
    let syntax = Update::builder().table_name(DATA).key("id", text("a")).update_expression("SET");
    let no_key = Put::builder().table_name(DATA).item("other", text("a"));
    // What DynamoDB names the write for, and what it refuses as a whole.
    let cases: [(&str, Vec<DynamoDbWrite>, Option<usize>); 6] = [
        ("another type than the item has", vec![put("a"), add("t")], Some(1)),
        ("an item without its key", vec![put("a"), no_key.build().expect("complete").into()], Some(1)),
        ("an item over 400 KB", vec![too_large.build().expect("complete").into()], None),
        ("no update expression", vec![syntax.build().expect("complete").into()], None),
        ("two writes to one item", vec![put("a"), add("a")], None),
        ("over 4 MB", (0..11).map(|n| large(&format!("i-{n}"))).collect(), None),
    ];
    for (what, writes, named) in cases {
        let answer = bench.complete(&completion("n#1", "o-1", writes)).await;
        assert_eq!(answer, refused(named.unwrap_or(0), WriteRefusal::Invalid), "{what}");
        assert_eq!((bench.record("n#1").await, bench.data().await.len()), (before.clone(), 1), "{what}");
    }
}

#[tokio::test]
async fn a_missing_data_table_is_an_error_and_nothing_is_written() {
    let bench = Bench::start().await;
    bench.claim("n#1", "o-1", NOW_MS).await;
    let write = Put::builder().table_name("elsewhere").item("id", text("a")).build().expect("complete");
    let error = bench.complete(&completion("n#1", "o-1", vec![put("a"), write.into()])).await.expect_err("no table");
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    assert!(error.to_string().contains("ResourceNotFoundException"), "{error}");
    assert_eq!((bench.status("n#1").await, bench.data().await), (Some((IN_PROGRESS, "o-1".to_owned())), vec![]));
}

#[tokio::test]
async fn a_call_answers_each_request_in_order() {
    let bench = Bench::start().await;
    let mut requests = Vec::new();
    for n in 0..4 {
        let (key, owner) = (format!("n#{n}"), format!("o-{n}"));
        bench.claim(&key, &owner, NOW_MS).await;
        requests.push(completion(&key, &owner, Vec::new()));
    }
    requests[1].writes = vec![check("missing")];
    requests[2].writes = vec![put("a")];
    requests[3].owner = Owner::new("stale");
    let answers = bench.store.complete(NOW_MS + 1, &requests).await;
    let expected = [
        Ok(CompleteAnswer::Completed),
        refused(0, WriteRefusal::Condition),
        Ok(CompleteAnswer::Completed),
        Ok(CompleteAnswer::Lost),
    ];
    assert_eq!(answers, expected);
    assert_eq!(bench.data().await, pairs(&[("a", "1")]));
}

#[tokio::test]
async fn writes_without_a_record_are_applied_once_a_token() {
    let bench = Bench::start().await;
    let token = Owner::new("t-1");
    let writes = [add("count"), put_new("new")];
    for _ in 0..2 {
        assert_eq!(bench.store.write(&token, &writes).await, Ok(CompleteAnswer::Completed));
    }
    assert_eq!(bench.data().await, pairs(&[("count", "1"), ("new", "1")]));
    assert_eq!(bench.store.write(&Owner::new("t-2"), &writes).await, refused(1, WriteRefusal::Condition));
    let twice = [add("count"), add("count")];
    assert_eq!(bench.store.write(&Owner::new("t-3"), &twice).await, refused(0, WriteRefusal::Invalid));
    assert_eq!(bench.data().await, pairs(&[("count", "1"), ("new", "1")]));
}

/// Transactions are cancelled with reasons that the embedded DynamoDB never gives by itself.
fn cancelled(reasons: &'static str) -> impl Fn(&Call<'_>) -> Fault {
    move |call: &Call<'_>| match call.operation {
        "TransactWriteItems" => Fault::Answer { status: 400, body: reasons },
        _ => Fault::Pass,
    }
}

const ONLY_THE_USERS: &str = r#"{"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
    "CancellationReasons":[{"Code":"None"},{"Code":"ConditionalCheckFailed"}]}"#;

#[tokio::test]
async fn a_refusal_of_the_processors_write_is_believed_only_after_a_look_at_the_record() {
    let bench = Bench::start().await;
    bench.claim("n#1", "o-1", NOW_MS).await;
    let request = completion("n#1", "o-1", vec![put_new("a")]);
    bench.proxy.set_script(cancelled(ONLY_THE_USERS));
    assert_eq!(bench.complete(&request).await, refused(0, WriteRefusal::Condition), "still held");

    bench.proxy.set_script(|_: &Call<'_>| Fault::Pass);
    assert_eq!(bench.complete(&request).await, Ok(CompleteAnswer::Completed));
    bench.proxy.set_script(cancelled(ONLY_THE_USERS));
    assert_eq!(bench.complete(&request).await, Ok(CompleteAnswer::Completed), "an earlier try was applied");

    bench.claim("n#2", "o-2", NOW_MS).await;
    bench.claim("n#2", "o-3", LEASE_END_MS + 1).await;
    let late = completion("n#2", "o-2", vec![put_new("a")]);
    assert_eq!(bench.complete(&late).await, Ok(CompleteAnswer::Lost), "held by another");

    let unread = |call: &Call<'_>| match call.operation {
        "GetItem" => Fault::Throttle,
        _ => cancelled(ONLY_THE_USERS)(call),
    };
    bench.proxy.set_script(unread);
    let error = bench.complete(&late).await.expect_err("it is not known");
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn what_passes_by_itself_is_tried_again() {
    let bench = Bench::start().await;
    bench.claim("n#1", "o-1", NOW_MS).await;
    let cases = [
        // Ours conflicts with another request; the processor's does, beside a condition that may not hold any more.
        r#"{"__type":"TransactionCanceledException","CancellationReasons":[{"Code":"TransactionConflict"},{"Code":"None"},{"Code":"None"}]}"#,
        r#"{"__type":"TransactionCanceledException","CancellationReasons":[{"Code":"None"},{"Code":"ConditionalCheckFailed"},{"Code":"TransactionConflict"}]}"#,
        r#"{"__type":"TransactionCanceledException","CancellationReasons":[{"Code":"None"},{"Code":"None"},{"Code":"ThrottlingError"}]}"#,
        r#"{"__type":"TransactionInProgressException"}"#,
        // Nothing is known.
        r#"{"__type":"TransactionCanceledException","CancellationReasons":[{"Code":"None"},{"Code":"None"},{"Code":"None"}]}"#,
        r#"{"__type":"TransactionCanceledException"}"#,
    ];
    for reasons in cases {
        bench.proxy.set_script(cancelled(reasons));
        let error = bench.complete(&completion("n#1", "o-1", vec![put("a"), put("b")])).await.expect_err(reasons);
        assert!(error.is_retryable(), "{reasons}: {error}");
    }
}

#[tokio::test]
async fn a_completion_that_dynamodb_cannot_take_is_no_fault_of_the_processor() {
    let bench = Bench::start().await;
    bench.claim("n#1", "o-1", NOW_MS).await;
    bench.proxy.set_script(cancelled(
        r#"{"__type":"TransactionCanceledException","CancellationReasons":[{"Code":"ValidationError"},{"Code":"None"}]}"#,
    ));
    let error = bench.complete(&completion("n#1", "o-1", vec![put("a")])).await.expect_err("ours");
    assert_eq!(error.kind(), StoreErrorKind::Refused, "{error}");
}
