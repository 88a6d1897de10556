//! The conformance suite on every configuration of the DynamoDB store. Also compiled into the end-to-end tests, which run it on
//! other servers.

use std::{collections::HashMap, sync::Arc};

use aws_sdk_dynamodb::{Client, config::retry::RetryConfig, types::AttributeValue};
use microbatch::{
    Commit, Key, NoWrites, Store,
    record::{Owner, StoredResult},
    transition::{ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, OnLapsedLease},
};
use microbatch_aws::{
    DynamoDbStore,
    dynamodb::{Attribute, Layout, StoreCalls},
};
use microbatch_local::tables::{Endpoint, TableSpec, ensure};
use microbatch_testkit::conformance::{self, Histories, PeerData, PeerRecord, RawRecords};

const TABLE: &str = "conformance";
/// A table with a sort key, named as badly as a layout allows.
const COMPOSITE_TABLE: &str = "conformance-composite";
const PARTITION_KEY: &str = "p.k";
const SORT_KEY: &str = "s-k";
const PARTITION: &str = "idempotency";

/// Runs all of the suite on every configuration of the store, at a `DynamoDB` on this machine.
pub(crate) async fn check_endpoint(endpoint_url: &str, histories: Histories) {
    let endpoint = Endpoint::parse(endpoint_url).expect("an endpoint");
    let composite = format!("{PARTITION_KEY},{SORT_KEY}");
    let tables = [TableSpec::idempotency(TABLE), TableSpec::from_keys(COMPOSITE_TABLE, &composite).expect("two keys")];
    ensure(&endpoint, &tables).await.expect("tables");
    // A store makes one try: more would hide what it does when it is refused.
    let config = endpoint.client().await.config().to_builder().retry_config(RetryConfig::disabled()).build();
    let client = Client::from_conf(config);
    check_large_read(&client).await;
    check_table(&client, TABLE, histories).await;
    for calls in [StoreCalls::Batched, StoreCalls::Single] {
        check(Configuration { client: &client, table: COMPOSITE_TABLE, layout: composite_layout(), calls }, histories)
            .await;
    }
}

/// Runs all of the suite on a table whose key is `id` alone.
pub(crate) async fn check_table(client: &Client, table: &str, histories: Histories) {
    for calls in [StoreCalls::Batched, StoreCalls::Single] {
        check(Configuration { client, table, layout: Layout::default(), calls }, histories).await;
    }
}

/// `BatchGetItem` answers with 16 MB at most and leaves the other keys unprocessed: they are read all the same.
async fn check_large_read(client: &Client) {
    const RECORDS: u64 = 60;
    const RESULT_BYTES: usize = 300 * 1024;
    let now_ms = 1_763_900_000_000;
    let store = DynamoDbStore::new(client.clone(), TABLE);
    let claim = |nth| ClaimRequest {
        key: Key::from_stored(format!("large#{nth}")),
        owner: Owner::new("reader"),
        fingerprint: None,
        lease_end_ms: now_ms + nth,
        retention_end_s: now_ms / 1_000,
        on_lapsed_lease: OnLapsedLease::Retry,
    };
    let claims: Vec<_> = (0..RECORDS).map(claim).collect();
    for claim in &claims {
        let claimed = store.claim(now_ms, std::slice::from_ref(claim)).await;
        assert!(matches!(claimed[..], [Ok(ClaimAnswer::Claimed(_))]), "{claimed:?}");
        let (key, owner, retention_end_s) = (claim.key.clone(), claim.owner.clone(), claim.retention_end_s);
        let result = StoredResult::Kept("x".repeat(RESULT_BYTES).into());
        let completion = CompleteRequest::<NoWrites> { key, owner, result, retention_end_s, writes: Vec::new() };
        assert_eq!(store.complete(now_ms, &[completion]).await, [Ok(CompleteAnswer::Completed)]);
    }
    let keys: Vec<_> = claims.iter().map(|claim| claim.key.clone()).collect();
    let found = store
        .read(&keys)
        .await
        .into_iter()
        .map(|record| record.expect("an answer").and_then(|record| record.lease_end_ms));
    assert_eq!(found.collect::<Vec<_>>(), claims.iter().map(|claim| Some(claim.lease_end_ms)).collect::<Vec<_>>());
}

/// Every attribute has another name: reserved words, and what must be quoted.
fn composite_layout() -> Layout {
    let names = [
        ("id", PARTITION_KEY),
        ("status", "State"),
        ("expiration", "ttl"),
        ("in_progress_expiration", "select"),
        ("data", "da-ta"),
        ("validation", "hash.of"),
        ("owner", "user"),
        ("attempt", "0"),
        ("tries", "count"),
        ("data_not_kept", "_null"),
        ("resolved", "comment"),
    ];
    Layout::renamed(names)
        .and_then(|layout| layout.composite_key(SORT_KEY, PARTITION))
        .expect("names that a table can have")
}

struct Configuration<'a> {
    client: &'a Client,
    table: &'a str,
    layout: Layout,
    calls: StoreCalls,
}

async fn check(configuration: Configuration<'_>, histories: Histories) {
    let Configuration { client, table, layout, calls } = &configuration;
    let store = DynamoDbStore::new((*client).clone(), *table).layout(layout.clone()).calls(*calls);
    // A table that cannot be used is named once, not by every case.
    store.warm_up().await.unwrap_or_else(|error| panic!("{error}"));
    let store = Arc::new(store);
    let results = [
        conformance::check(&store).await,
        conformance::check_peer_records(&store, &configuration).await,
        conformance::check_resolutions(&store).await,
        conformance::check_histories(&store, histories).await,
    ];
    let failed: Vec<_> = results.into_iter().filter_map(Result::err).map(|violations| violations.to_string()).collect();
    assert!(failed.is_empty(), "table {table}, {calls:?}: {}", failed.join("\n"));
}

impl RawRecords for Configuration<'_> {
    async fn put(&self, key: &Key, record: &PeerRecord) -> bool {
        let mut item = HashMap::new();
        let mut set = |name: &str, value| item.insert(name.to_owned(), value);
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let number = |number: u64| AttributeValue::N(number.to_string());
        if self.table == COMPOSITE_TABLE {
            set(PARTITION_KEY, text(PARTITION));
            set(SORT_KEY, text(key.as_str()));
        } else {
            set("id", text(key.as_str()));
        }
        let mut set = |attribute, value: Option<AttributeValue>| {
            item.extend(value.map(|value| (self.layout.name(attribute).to_owned(), value)));
        };
        set(Attribute::Status, Some(text(record.status)));
        set(Attribute::Expiration, Some(number(record.expiration_s)));
        set(Attribute::LeaseEnd, record.in_progress_expiration_ms.map(number));
        set(Attribute::Validation, record.validation.map(text));
        set(
            Attribute::Data,
            record.data.map(|data| match data {
                PeerData::Json(json) => text(json),
                PeerData::Native => AttributeValue::M(HashMap::from([("receipt".to_owned(), number(7))])),
            }),
        );
        let put = self.client.put_item().table_name(self.table).set_item(Some(item));
        put.send().await.unwrap_or_else(|error| panic!("{}: {error:?}", self.table));
        true
    }
}
