//! The functions' variables: microbatch knows each, takes them together, and they say what the queues and tables are.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use e2e::paths::workspace_root;
use e2e::stack::need;
use microbatch::Options;
use microbatch_aws::settings::{Settings, from_variables, variables};
use serde_json::Value;

use super::template::{Template, UNITS, Unit, infra, list, map, number, output_of, text};

/// What a function reads from its variables; the end of the test where it would not start.
pub(crate) fn settings(unit: Unit, variables: impl IntoIterator<Item = (String, String)>) -> (Options, Settings) {
    let mut options = Options::default();
    let name = ("AWS_LAMBDA_FUNCTION_NAME".to_owned(), format!("stack-{}", unit.name));
    let read = from_variables(&mut options, variables.into_iter().chain([name]));
    (options, read.unwrap_or_else(|error| panic!("{}: {error}", unit.name)))
}

#[test]
fn the_template_sets_variables_that_microbatch_knows() {
    let known: BTreeSet<&str> = variables().map(|variable| variable.name).collect();
    for unit in UNITS {
        for name in Template::read().variables(unit).keys().filter(|name| name.starts_with("MICROBATCH_")) {
            assert!(known.contains(name.as_str()), "{}: {name}", unit.name);
        }
    }
}

#[test]
fn the_functions_start_with_every_allowed_budget_and_receive_count() {
    for (receives, budget) in [("10", "3600"), ("5", "112000"), ("5", "1"), ("60", "112000"), ("60", "1")] {
        let template = Template::read().with(&[("MaxReceiveCount", receives), ("OutageBudgetSeconds", budget)]);
        for unit in UNITS {
            let (options, _) = settings(unit, template.variables(unit));
            let queue = template.properties(&unit.id("Queue"));
            assert_eq!(options.max_receive_count, number(&queue["RedrivePolicy"]["maxReceiveCount"]));
            assert_eq!(options.outage_budget_s.to_string(), budget);
        }
    }
    let template = Template::read();
    let limits = |name: &str| {
        let parameter = &template.body()["Parameters"][name];
        (number(&parameter["MinValue"]), number(&parameter["MaxValue"]))
    };
    assert_eq!((limits("MaxReceiveCount"), limits("OutageBudgetSeconds")), ((5, 60), (1, 112_000)), "tested above");
}

#[test]
fn a_function_knows_its_table_and_queues_and_keeps_records_as_long_as_messages_can_come_back() {
    let template = Template::read();
    for unit in UNITS {
        let (options, settings) = settings(unit, template.variables(unit));
        assert_eq!(options.namespace, unit.name, "a function of another name finds the same keys");
        assert_eq!(settings.table, "IdempotencyTable");

        let queues = settings.queues.expect("delays need the queue");
        let end = if unit.fifo { ".fifo" } else { "" };
        assert!(queues.backoff && queues.source_url.ends_with(&format!("/stack-{}{end}", unit.name)), "{queues:?}");
        // What is parked on a FIFO queue leaves its order.
        let park = (!unit.fifo).then(|| queues.source_url.clone() + "-dlq");
        assert_eq!(queues.park_url, park);

        let retention_s = |id: &str| number(&template.properties(&unit.id(id))["MessageRetentionPeriod"]);
        assert_eq!(options.retention_s, 2 * retention_s("Queue") + retention_s("DeadLetterQueue"));
        assert!(retention_s("DeadLetterQueue") > retention_s("Queue"));
        assert!(options.outage_budget_s < retention_s("Queue"));
    }
}

#[test]
fn a_message_stays_hidden_for_six_time_outs_and_the_window_and_longer_than_any_lease() {
    let template = Template::read();
    let allowed = |parameter: &str| list(&template.body()["Parameters"][parameter]["AllowedValues"]).iter().map(text);
    for unit in UNITS {
        let windows: Vec<_> = if unit.fifo { vec!["0".to_owned()] } else { allowed(&unit.id("BatchWindow")).collect() };
        for timeout in allowed(&unit.id("Timeout")) {
            for window in &windows {
                let mut parameters = vec![(unit.id("Timeout"), timeout.clone())];
                parameters.extend((!unit.fifo).then(|| (unit.id("BatchWindow"), window.clone())));
                let parameters: Vec<_> =
                    parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                is_hidden_long_enough(unit, &Template::read().with(&parameters), &timeout, window);
            }
        }
    }
    let rows = map(&template.body()["Mappings"]["VisibilityTimeout"]);
    assert_eq!(rows.len(), allowed("PostLedgerTimeout").count(), "a row that no timeout leads to");

    let longest_s = rows.values().flat_map(|row| map(row).values()).map(number).max().unwrap_or_default();
    let waits = number(&template.body()["Parameters"]["MaxReceiveCount"]["MaxValue"]) - 1;
    let retention_s = number(&template.body()["Mappings"]["Retention"]["Seconds"]["Queue"]);
    assert!(waits * longest_s < retention_s, "a message is deleted for its age before it is a dead letter");
}

fn is_hidden_long_enough(unit: Unit, template: &Template, timeout: &str, window: &str) {
    let timeout_s: u64 = need(timeout.parse());
    let window_s: u64 = need(window.parse());
    let visibility_s = number(&template.properties(&unit.id("Queue"))["VisibilityTimeout"]);
    assert_eq!(visibility_s, 6 * timeout_s + window_s, "{} at {timeout} s and {window} s", unit.name);
    assert_eq!(text(&template.properties(&unit.id("Function"))["Timeout"]), timeout);

    let (options, _) = settings(unit, template.variables(unit));
    let lease_ms = timeout_s * 1_000 + options.kill_grace_ms + options.effect_timeout_ms + options.clock_skew_ms;
    assert!(lease_ms < visibility_s * 1_000);
    assert!(options.item_timeout_ms < timeout_s * 1_000, "an item may take longer than its invocation");
}

#[test]
fn the_functions_have_the_variables_and_tables_that_their_packages_ask_for() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(workspace_root());
    let metadata: Value = need(serde_json::from_slice(&output_of(&mut command)));
    let packages = list(&metadata["packages"]);
    let template = Template::read();
    for unit in UNITS {
        let package = packages.iter().find(|package| package["name"] == unit.name);
        let local = &package.expect("a package of that name")["metadata"]["microbatch"];
        let variables = template.variables(unit);
        for (name, value) in map(&local["env"]) {
            let deployed = variables.get(name).unwrap_or_else(|| panic!("{} lacks {name}", unit.name));
            match local["tables"].get(text(value)) {
                Some(keys) => assert_eq!(key_names(&template, deployed), text(keys), "the keys of {deployed}"),
                None => assert_eq!(*deployed, text(value), "{name}"),
            }
        }
    }
}

/// The names of a table's keys, as packages write them: partition key, and sort key where there is one.
fn key_names(template: &Template, table: &str) -> String {
    let properties = template.properties(table);
    let keys: Vec<_> = list(&properties["KeySchema"]).iter().map(|key| text(&key["AttributeName"])).collect();
    assert!(list(&properties["AttributeDefinitions"]).iter().all(|attribute| attribute["AttributeType"] == "S"));
    keys.join(",")
}

#[test]
fn the_readme_says_what_every_parameter_is_for() {
    let readme = need(fs::read_to_string(infra().join("README.md")));
    let template = Template::read();
    for name in map(&template.body()["Parameters"]).keys() {
        let common = UNITS.iter().find_map(|unit| name.strip_prefix(unit.prefix));
        let told = common.map_or_else(|| format!("`{name}`"), |name| format!("`{name}`").replacen('`', "`…", 1));
        assert!(readme.contains(&told) || readme.contains(&format!("`{name}`")), "{told} is not in infra/README.md");
    }
}
