//! P15: the role's permissions in `infra/policies` are the calls that the functions make, no more and no fewer.
//!
//! The calls are taken off the wire, by a proxy, while real binaries work through batches that lead them everywhere: claims
//! that are new, refused, retried and taken over, completions, releases, transactions. Each is mapped to the actions that
//! AWS asks for ("Actions, resources, and condition keys for Amazon DynamoDB", for PartiQL "IAM security policies with
//! PartiQL for DynamoDB").

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use e2e::paths::workspace_root;
use e2e::samples::Sample;
use e2e::stack::{IDEMPOTENCY_TABLE, ORDERS_TABLE, Stack};
use microbatch_local::proxy::{Call, Fault, Proxy};
use serde_json::Value;

use crate::ledger::ledger;
use crate::telemetry::telemetry;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Actions on resources, as `(table, action)`.
type Actions = BTreeSet<(String, String)>;

fn read(file: &str) -> Value {
    let path = workspace_root().join("infra/policies").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn actions_in(statement: &Value, table: &str) -> Vec<(String, String)> {
    assert_eq!(statement["Effect"], "Allow");
    assert_ne!(statement["Resource"], "*", "a statement must name its resource");
    let actions = statement["Action"].as_array().expect("a list of actions").iter();
    actions.map(|action| (table.to_owned(), action.as_str().expect("an action").to_owned())).collect()
}

/// What a policy file allows on each of its resources, by the table that stands for it here.
fn actions_by_resource(file: &str, tables: &[(&str, &str)]) -> Actions {
    let policy = read(file);
    let statements = policy["Statement"].as_array().expect("a list of statements");
    let of_statement = |statement: &Value| {
        let resource = statement["Resource"].as_str().expect("a resource");
        let table = tables.iter().find(|(known, _)| *known == resource).unwrap_or_else(|| panic!("{resource}")).1;
        actions_in(statement, table)
    };
    statements.iter().flat_map(of_statement).collect()
}

/// The actions that a call of DynamoDB asks for.
fn actions(call: &Call<'_>) -> Actions {
    let body: Value = serde_json::from_slice(call.body).expect("the SDK sends JSON");
    let action =
        |table: &Value, action: &str| (table.as_str().unwrap_or_default().to_owned(), format!("dynamodb:{action}"));
    match call.operation {
        "BatchExecuteStatement" => {
            let statements = body["Statements"].as_array().into_iter().flatten();
            let statements = statements.filter_map(|statement| statement["Statement"].as_str());
            statements
                .flat_map(|statement| call.tables.iter().map(move |table| (table, partiql(statement))))
                .map(|(table, action)| (table.clone(), action.to_owned()))
                .collect()
        }
        "TransactWriteItems" => {
            let writes = body["TransactItems"].as_array().into_iter().flatten();
            let writes = writes.flat_map(|write| write.as_object().into_iter().flatten());
            writes.map(|(kind, write)| action(&write["TableName"], in_transaction(kind))).collect()
        }
        operation => call.tables.iter().map(|table| (table.clone(), format!("dynamodb:{operation}"))).collect(),
    }
}

fn partiql(statement: &str) -> &'static str {
    match statement.split_whitespace().next() {
        Some("INSERT") => "dynamodb:PartiQLInsert",
        Some("UPDATE") => "dynamodb:PartiQLUpdate",
        Some("DELETE") => "dynamodb:PartiQLDelete",
        _ => "dynamodb:PartiQLSelect",
    }
}

/// Each write of a transaction needs the permission of its kind; the transaction itself needs none.
fn in_transaction(kind: &str) -> &'static str {
    match kind {
        "Put" => "PutItem",
        "Update" => "UpdateItem",
        "Delete" => "DeleteItem",
        _ => "ConditionCheckItem",
    }
}

/// Keeps the actions of all calls, and throttles the first batch of claims, so that each is retried by itself.
fn keep(kept: &Arc<Mutex<Actions>>) -> impl Fn(&Call<'_>) -> Fault + Send + Sync + 'static {
    let kept = Arc::clone(kept);
    move |call| {
        kept.lock().unwrap_or_else(PoisonError::into_inner).extend(actions(call));
        let is_first_batch = call.operation == "BatchExecuteStatement" && call.nth_of_operation == 0;
        if is_first_batch { Fault::Throttle } else { Fault::Pass }
    }
}

fn called(kept: &Arc<Mutex<Actions>>, proxy: &Proxy) -> Actions {
    let mut called = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // The init's own, which the proxy passed before it had its script.
    let of_init = proxy.calls().into_iter().filter(|call| call.operation == "GetItem").flat_map(|call| call.tables);
    called.extend(of_init.map(|table| (table, "dynamodb:GetItem".to_owned())));
    called
}

/// What the function's own policy allows on these tables, and that of the idempotency table.
fn expected(own: &str, tables: &[(&str, &str)]) -> Actions {
    let common = actions_by_resource("idempotency-table.json", &[("${IdempotencyTableArn}", IDEMPOTENCY_TABLE)]);
    common.into_iter().chain(actions_by_resource(own, tables)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p15_the_role_of_process_orders_is_what_it_calls() {
    let stack = Stack::process_orders(&[]).await;
    let kept = Arc::new(Mutex::new(Actions::new()));
    stack.proxy.set_script(keep(&kept));
    // The second time some are duplicates, and others are taken over from their released records.
    for _ in 0..3 {
        let failed = stack.failures_of(Sample::named("failures").event(), TIMEOUT).await;
        assert_eq!(failed.len(), 2, "{failed:?}");
    }
    assert_eq!(called(&kept, &stack.proxy), expected("process-orders.json", &[("${OrdersTableArn}", ORDERS_TABLE)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p15_the_role_of_post_ledger_is_what_it_calls() {
    let rig = ledger().await;
    let kept = Arc::new(Mutex::new(Actions::new()));
    rig.proxy.set_script(keep(&kept));
    for sample in ["ledger", "ledger-failing", "ledger", "ledger-failing"] {
        rig.failures_of(&Sample::named(sample).event(), TIMEOUT).await;
    }
    let tables = [("${LedgerTableArn}", "ledger"), ("${BalancesTableArn}", "balances")];
    assert_eq!(called(&kept, &rig.proxy), expected("post-ledger.json", &tables));
}

#[tokio::test(flavor = "multi_thread")]
async fn p15_the_role_of_ingest_telemetry_is_what_it_calls() {
    let rig = telemetry().await;
    let kept = Arc::new(Mutex::new(Actions::new()));
    rig.proxy.set_script(keep(&kept));
    for sample in ["telemetry", "telemetry-failing", "telemetry", "telemetry-failing"] {
        rig.failures_of(&Sample::named(sample).event(), TIMEOUT).await;
    }
    let tables = [("${TelemetryTableArn}", "telemetry"), ("${IdempotencyTableArn}", IDEMPOTENCY_TABLE)];
    assert_eq!(called(&kept, &rig.proxy), expected("ingest-telemetry.json", &tables));
}
