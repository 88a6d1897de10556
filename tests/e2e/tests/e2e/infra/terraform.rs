//! The Terraform example: python-hcl2 reads it, and it says the same as the template. It has been applied nowhere.

use std::fs;

use e2e::stack::need;
use serde_json::Value;

use super::template::{Template, UNITS, infra, list, map, number, python, text};

/// The example's blocks of a kind, each with its labels and its body.
fn blocks(kind: &str) -> Vec<(Vec<String>, Value)> {
    let files = ["terraform/main.tf", "terraform/variables.tf", "terraform/outputs.tf"];
    let read = python("read.py", |command| {
        command.arg("hcl").args(files);
    });
    let mut found = Vec::new();
    for block in list(&read[kind]) {
        let (mut labels, mut body) = (Vec::new(), block);
        // Labels are read as the keys of nested objects, in quotes.
        while let Some((label, inner)) = map(body).iter().next().filter(|(label, _)| label.starts_with('"')) {
            labels.push(label.trim_matches('"').to_owned());
            body = inner;
        }
        found.push((labels, body.clone()));
    }
    found
}

fn resource(of_type: &str, name: &str) -> Value {
    let found = blocks("resource").into_iter().find(|(labels, _)| *labels == [of_type, name]);
    found.unwrap_or_else(|| panic!("no {of_type} {name}")).1
}

#[test]
fn the_defaults_are_those_of_the_template() {
    let template = Template::read();
    let variables = blocks("variable");
    let mut compared = 0;
    for (variable, parameter) in [
        ("timeout_s", "ProcessOrdersTimeout"),
        ("batch_size", "ProcessOrdersBatchSize"),
        ("batch_window_s", "ProcessOrdersBatchWindow"),
        ("maximum_concurrency", "ProcessOrdersMaximumConcurrency"),
        ("max_receive_count", "MaxReceiveCount"),
        ("outage_budget_s", "OutageBudgetSeconds"),
        ("log_retention_days", "LogRetentionDays"),
        ("architecture", "Architecture"),
        ("deletion_protection", "DeletionProtection"),
    ] {
        let (_, body) = variables.iter().find(|(labels, _)| *labels == [variable]).expect("a variable of that name");
        assert_eq!(text(&body["default"]).trim_matches('"'), template.parameter(parameter), "{variable}");
        compared += 1;
    }
    // The rest name things: the stack, the package, the key.
    assert_eq!(variables.len(), compared + 3);
    let (_, locals) = blocks("locals").into_iter().next().expect("locals");
    let retention = &template.body()["Mappings"]["Retention"]["Seconds"];
    assert_eq!(number(&locals["queue_retention_s"]), number(&retention["Queue"]));
    assert_eq!(number(&locals["dead_letter_retention_s"]), number(&retention["DeadLetterQueue"]));
}

#[test]
fn the_function_has_the_variables_of_the_template() {
    let function = resource("aws_lambda_function", "process_orders");
    let variables = map(&function["environment"][0]["variables"]);
    let mut found: Vec<_> = variables.keys().map(|name| name.trim_matches('"').to_owned()).collect();
    found.retain(|name| !name.starts_with("__"));
    found.sort();
    let expected: Vec<_> = Template::read().variables(UNITS[0]).into_keys().collect();
    assert_eq!(found, expected);
}

#[test]
fn the_mapping_is_that_of_the_template() {
    let mapping = resource("aws_lambda_event_source_mapping", "orders");
    assert_eq!(text(&mapping["function_response_types"][0]).trim_matches('"'), "ReportBatchItemFailures");
    assert_eq!(text(&mapping["metrics_config"][0]["metrics"][0]).trim_matches('"'), "EventCount");
    assert_eq!(mapping["scaling_config"][0]["maximum_concurrency"], "${var.maximum_concurrency}");
}

#[test]
fn the_role_is_made_of_the_policies_with_all_their_placeholders() {
    let text = need(fs::read_to_string(infra().join("terraform/main.tf")));
    let table = text.split("  policies = merge({").nth(1).expect("the table of policies");
    let table = table.split("\n  })").next().unwrap_or_default();
    for file in ["lambda-itself", "tracing", "kms", "idempotency-table", "backoff", "park-queue", "process-orders"] {
        let entry = table.split(&format!("\"{file}\"")).nth(1).unwrap_or_else(|| panic!("{file} is not used"));
        let entry = entry.split('}').next().unwrap_or_default();
        let policy = need(fs::read_to_string(infra().join("policies").join(format!("{file}.json"))));
        let placeholders = policy.split("${").skip(1).filter_map(|rest| rest.split('}').next());
        for placeholder in placeholders {
            assert!(entry.contains(&format!("{placeholder} ")), "{file}: {placeholder} is not given");
        }
    }
}

#[test]
fn the_readme_says_that_it_was_applied_nowhere() {
    let readme = need(fs::read_to_string(infra().join("terraform/README.md")));
    assert!(readme.contains("**applied nowhere**"));
}
