//! cfn-lint, `sam validate --lint` and checkov find nothing, or what is suppressed for a reason.

use std::fs;
use std::path::Path;

use e2e::stack::need;
use e2e::tools::{checkov, sam_cli_bin};
use serde_json::{Value, json};

use super::template::{infra, list, output_of, quiet, text};

/// The shortest suppression's reason that can say something.
const REASON_CHARS_MIN: usize = 20;

/// The templates that are written in `infra`.
const TEMPLATES: [&str; 3] = ["template.yaml", "alarms.yaml", "dashboards.yaml"];

#[test]
fn cfn_lint_finds_nothing() {
    for template in TEMPLATES {
        let said = output_of(quiet(need(sam_cli_bin()).join("cfn-lint")).arg(template));
        assert_eq!(String::from_utf8_lossy(&said), "", "{template}");
    }
}

#[test]
fn sam_validates_the_templates_of_alarms_and_dashboards() {
    for template in ["alarms.yaml", "dashboards.yaml"] {
        output_of(quiet(need(sam_cli_bin()).join("sam")).args(["validate", "--lint", "--template", template]));
    }
}

#[test]
fn sam_validates_the_template_in_each_stage() {
    for stage in ["dev", "prod"] {
        output_of(quiet(need(sam_cli_bin()).join("sam")).args(["validate", "--config-env", stage]));
    }
}

#[test]
fn checkov_finds_nothing_in_the_template() {
    let (passed, skipped) = checkov_finds_nothing(&["--file", "template.yaml", "--framework", "cloudformation"]);
    // A template that it cannot read passes as well, of nothing.
    assert!(passed > 40, "only {passed} checks were made");
    assert_eq!(skipped, occurrences(&infra().join("template.yaml"), "id: CKV"), "a suppression is not needed");
}

#[test]
fn checkov_finds_nothing_in_alarms_and_dashboards() {
    for template in ["alarms.yaml", "dashboards.yaml"] {
        let found = checkov_says(&["--file", template, "--framework", "cloudformation"]);
        // It knows no check of such resources, and says so in a report of another form.
        let counts = ["passed", "failed", "skipped", "parsing_errors"].map(|of| &found[of]);
        assert_eq!(counts, [&json!(0); 4], "{template}: {found:#}");
    }
}

#[test]
fn checkov_finds_nothing_in_the_terraform_example() {
    let (passed, skipped) = checkov_finds_nothing(&["--directory", "terraform", "--framework", "terraform"]);
    assert!(passed > 20, "only {passed} checks were made");
    assert_eq!(
        skipped,
        occurrences(&infra().join("terraform/main.tf"), "checkov:skip="),
        "a suppression is not needed"
    );
}

#[test]
fn a_suppression_needs_a_reason() {
    let skipped = |comment| json!({"check_id": "CKV_AWS_1", "check_result": {"suppress_comment": comment}});
    let unreasoned = ["", "later", "No comment provided"].map(skipped);
    assert_eq!(unreasonable(&unreasoned).len(), 3);
    assert!(unreasonable(&[skipped("The queue holds nothing that is secret")]).is_empty());
}

/// Runs checkov, and gives how many checks passed and were suppressed, each for a reason.
fn checkov_finds_nothing(arguments: &[&str]) -> (usize, usize) {
    let found = checkov_says(arguments);
    let results = &found["results"];
    assert_eq!(results["failed_checks"], json!([]), "{found:#}");
    assert_eq!(results["parsing_errors"], json!([]), "{found:#}");
    let skipped = list(&results["skipped_checks"]);
    assert_eq!(unreasonable(skipped), Vec::<String>::new(), "suppressed without a reason");
    (list(&results["passed_checks"]).len(), skipped.len())
}

fn checkov_says(arguments: &[&str]) -> Value {
    let mut command = quiet(need(checkov()));
    // Without downloads it asks nothing of its maker's platform.
    command.args(["--skip-download", "--compact", "--output", "json"]).args(arguments);
    need(serde_json::from_slice(&output_of(&mut command)))
}

/// The suppressed checks that say no reason.
fn unreasonable(skipped: &[Value]) -> Vec<String> {
    let without = skipped.iter().filter(|check| {
        let reason = check["check_result"]["suppress_comment"].as_str().unwrap_or_default();
        reason.chars().count() < REASON_CHARS_MIN || reason == "No comment provided"
    });
    without.map(|check| format!("{} of {}", text(&check["check_id"]), text(&check["resource"]))).collect()
}

fn occurrences(file: &Path, pattern: &str) -> usize {
    need(fs::read_to_string(file)).matches(pattern).count()
}
