//! The function's pipeline on the embedded DynamoDB, over the real SDK and behind a proxy.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use aws_sdk_dynamodb::{Client, config::retry::RetryConfig, types::AttributeValue};
use microbatch::{
    Clock,
    pipeline::{Host, RunError},
};
use microbatch_aws::{
    DynamoDbStore,
    clock::{SystemClock, SystemRandom},
};
use microbatch_local::{
    dynamodb::EmbeddedDynamoDb,
    proxy::{Call, Fault, Proxy},
    tables::{Endpoint, TableSpec, ensure},
};
use microbatch_testkit::recorder::{KeepingRecorder, KeptReport};
use post_ledger::{
    config::Config,
    currency::Currencies,
    ledger::{BALANCES_KEYS, LEDGER_KEYS},
    process::pipeline,
};
use serde_json::{Value, json};

/// The table of entries.
pub(crate) const LEDGER: &str = "ledger";
/// The table of balances.
pub(crate) const BALANCES: &str = "balances";
/// The idempotency table.
pub(crate) const RECORDS: &str = "idempotency";

/// An item of a table.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// Both data tables at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Books {
    /// Amount and currency of each entry, by account and entry id.
    pub(crate) entries: BTreeMap<(String, String), (i64, String)>,
    /// Balance, number of entries and newest entry, by account and currency.
    pub(crate) balances: BTreeMap<(String, String), (i128, u64, String)>,
}

impl Books {
    /// Every balance is the sum of its entries, and every entry is in one.
    pub(crate) fn assert_balanced(&self) {
        let mut sums: BTreeMap<(String, String), (i128, u64)> = BTreeMap::new();
        for ((account, _), (amount, currency)) in &self.entries {
            let sum = sums.entry((account.clone(), currency.clone())).or_default();
            *sum = (sum.0 + i128::from(*amount), sum.1 + 1);
        }
        let kept = self.balances.iter().map(|(key, (balance, count, _))| (key.clone(), (*balance, *count)));
        assert_eq!(kept.collect::<BTreeMap<_, _>>(), sums);
    }

    /// The balance of an account in euros; none where it has none.
    pub(crate) fn euros(&self, account: &str) -> Option<i128> {
        self.balances.get(&(account.to_owned(), "EUR".to_owned())).map(|balance| balance.0)
    }
}

/// The settings of the function here.
pub(crate) fn config() -> Config {
    let currencies = Currencies::parse("EUR,GBP,SEK,USD").expect("a list");
    Config { ledger_table: LEDGER.to_owned(), balances_table: BALANCES.to_owned(), currencies }
}

/// A DynamoDB with the function's tables.
pub(crate) struct Bench {
    _server: EmbeddedDynamoDb,
    /// Between the pipeline and the DynamoDB.
    pub(crate) proxy: Proxy,
    /// For looking, past the pipeline.
    pub(crate) client: Client,
    store: DynamoDbStore,
    recorder: Arc<KeepingRecorder>,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let server = EmbeddedDynamoDb::start(None).await.expect("a server");
        let of_keys = |name, keys| TableSpec::from_keys(name, keys).expect("a table");
        let tables = [TableSpec::idempotency(RECORDS), of_keys(LEDGER, LEDGER_KEYS), of_keys(BALANCES, BALANCES_KEYS)];
        ensure(&Endpoint::parse(&server.endpoint_url()).expect("a URL"), &tables).await.expect("the tables");
        let proxy = Proxy::start(server.address(), |_: &Call<'_>| Fault::Pass).await.expect("a port");
        let client = Endpoint::parse(&proxy.endpoint_url()).expect("a URL").client().await;
        // As in production, a store's client makes one try.
        let config = client.config().to_builder().retry_config(RetryConfig::disabled()).build();
        let store = DynamoDbStore::new(Client::from_conf(config), RECORDS);
        Self { _server: server, proxy, client, store, recorder: Arc::default() }
    }

    /// What the function answers to an event within this time.
    pub(crate) async fn answer(&self, event: &str, time_ms: u64) -> Value {
        let host = Host {
            queue: None,
            store: self.store.clone(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            recorder: Arc::clone(&self.recorder) as _,
        };
        let pipeline = pipeline(config()).build(host).expect("the settings are right");
        match pipeline.run(event, "batch", Some(SystemClock.now_ms() + time_ms)).await {
            Ok(response) => {
                let failures: Vec<_> = response.failed_ids().iter().map(|id| json!({ "itemIdentifier": id })).collect();
                json!({ "batchItemFailures": failures })
            }
            Err(error @ RunError::Response(_)) => panic!("{error}"),
            Err(error) => json!({ "errorType": error.name(), "errorMessage": error.to_string() }),
        }
    }

    /// What became of the newest batch.
    pub(crate) fn report(&self) -> KeptReport {
        self.recorder.last()
    }

    /// All items of a table.
    pub(crate) async fn items(&self, table: &str) -> Vec<Item> {
        let scan = self.client.scan().table_name(table).consistent_read(true);
        scan.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await.expect("a scan")
    }

    /// What stands in the tables.
    pub(crate) async fn books(&self) -> Books {
        let entries = self.items(LEDGER).await.into_iter().map(|item| {
            let key = (text(&item, "account_id"), text(&item, "entry_id"));
            (key, (number(&item, "amount_minor"), text(&item, "currency")))
        });
        let entries = entries.collect();
        let balances = self.items(BALANCES).await.into_iter().map(|item| {
            let key = (text(&item, "account_id"), text(&item, "currency"));
            (key, (number(&item, "balance_minor"), number(&item, "entry_count"), text(&item, "last_entry")))
        });
        Books { entries, balances: balances.collect() }
    }
}

fn text(item: &Item, name: &str) -> String {
    item[name].as_s().expect("a string").clone()
}

fn number<N: std::str::FromStr<Err: std::fmt::Debug>>(item: &Item, name: &str) -> N {
    item[name].as_n().expect("a number").parse().expect("in range")
}
