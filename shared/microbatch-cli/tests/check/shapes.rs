//! Templates of other projects' shapes: as SAM's transform leaves them, as synthesised, with much that is unknown.

use std::path::{Path, PathBuf};

use super::{Template, check, report, rules};

fn shape(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check/shapes").join(name)
}

#[test]
fn nothing_is_found_in_a_good_processed_template() {
    let (report, code) = report(&shape("processed.json"), &["--strict"]);
    assert_eq!((rules(&report), code), (vec![], Some(0)), "{report:#}");
    assert_eq!(report["not_checkable"], serde_json::json!([]));
    assert_eq!((&report["functions"], &report["mappings"]), (&1.into(), &1.into()));
}

#[test]
fn mistakes_in_a_processed_template_are_found() {
    let good = std::fs::read_to_string(shape("processed.json")).expect("text");
    for (from, to, rule) in [
        ("\"VisibilityTimeout\": \"365\"", "\"VisibilityTimeout\": \"364\"", "MB002"),
        ("\"MaximumBatchingWindowInSeconds\": 5", "\"MaximumBatchingWindowInSeconds\": 0", "MB005"),
        ("\"ReportBatchItemFailures\"", "\"Other\"", "MB010"),
        ("\"maxReceiveCount\": \"10\"", "\"maxReceiveCount\": \"11\"", "MB034"),
        ("/pay\"", "/pay-dlq\"", "MB038"),
        ("sqs:ChangeMessageVisibility", "sqs:SendMessage", "MB042"),
        ("\"expiration=ttl\"", "\"\"", ""),
        ("id=pk,expiration=ttl", "id=pk", "MB051"),
        ("id=pk,expiration=ttl", "expiration=ttl", "MB052"),
        ("\"MICROBATCH_SORT_KEY\": \"sk\"", "\"MICROBATCH_SORT_KEY\": \"other\"", "MB052"),
    ] {
        let (found, _) = report(&Template::new(good.replace(from, to)).path, &[]);
        let expected: Vec<&str> = Some(rule).filter(|rule| !rule.is_empty()).into_iter().collect();
        assert_eq!(rules(&found), expected, "{from} → {to}: {found:#}");
    }
}

#[test]
fn a_synthesised_template_is_read() {
    let (report, code) = report(&shape("synthesised.json"), &[]);
    let mut found = rules(&report);
    found.sort_unstable();
    let expected = ["MB002", "MB005", "MB010", "MB014", "MB021", "MB023", "MB024", "MB026", "MB026"];
    assert_eq!((found.as_slice(), code), (expected.as_slice(), Some(1)), "{report:#}");
    assert_eq!(report["mappings"], 1, "the stream's mapping is none of a queue's");
    assert_eq!(report["not_checkable"], serde_json::json!([]), "{report:#}");
}

#[test]
fn templates_without_queues_are_left_alone() {
    let (report, code) = report(&shape("streams.yaml"), &["--strict"]);
    assert_eq!((rules(&report), code), (vec![], Some(0)), "{report:#}");
    assert_eq!((&report["functions"], &report["mappings"]), (&1.into(), &0.into()));
}

#[test]
fn a_first_draft_is_told_all_that_is_missing() {
    let (report, code) = report(&shape("worker.yaml"), &[]);
    let mut found = rules(&report);
    found.sort_unstable();
    found.dedup();
    let expected = ["MB002", "MB010", "MB020", "MB026", "MB051", "MB053"];
    assert_eq!((found.as_slice(), code), (expected.as_slice(), Some(1)), "{report:#}");
}

#[test]
fn what_is_not_known_is_named_and_the_rest_is_checked() {
    let (report, code) = report(&shape("unknown.yaml"), &[]);
    let found = rules(&report);
    assert_eq!(found, ["MB031", "MB010", "MB006", "MB007"], "{report:#}");
    assert_eq!(code, Some(1));
    let gaps: Vec<(String, Vec<String>)> = report["not_checkable"]
        .as_array()
        .expect("gaps")
        .iter()
        .map(|gap| {
            let text = |key: &str| gap[key].as_str().unwrap_or_default().to_owned();
            let rules = gap["rules"].as_array().expect("rules").iter().filter_map(|rule| rule.as_str());
            (format!("{}.{}: {}", text("resource"), text("property"), text("why")), rules.map(str::to_owned).collect())
        })
        .collect();
    for (gap, rule) in [
        ("Fn::ForEach::Topics.: Fn::ForEach::Topics is not expanded here", ""),
        ("Fn::Transform.: Fn::Transform is not expanded here", ""),
        ("Network.: a nested stack", ""),
        ("Queue.VisibilityTimeout: parameter Seconds has no default; give it by --parameter Seconds=VALUE", "MB002"),
        ("Queue.RedrivePolicy.deadLetterTargetArn: it is another stack's export, orders-dead-letters", "MB023"),
        ("Queue.RedrivePolicy.maxReceiveCount: unknown intrinsic function Fn::Frobnicate", "MB021"),
        ("Queue.: a macro, Fn::Transform, makes it", "MB026"),
        ("Known.Timeout: whether the condition IsEurope holds is not known", "MB004"),
        ("Known.Events.Orders.Properties.BatchSize: parameter BatchSize names a value of Systems Manager", "MB006"),
        ("Known.Events.Elsewhere.Properties.Queue: it is another stack's export, other-queue-arn", "MB001"),
        ("Known.Environment.Variables.MICROBATCH_TABLE: it is a dynamic reference", "MB051"),
        ("Known.Environment.Variables.MICROBATCH_QUEUE_URL: it is another stack's export, orders-url", "MB038"),
        ("Known.Role: parameter RoleArn has no default", "MB042"),
        ("Macro.Environment.Variables: a macro, Fn::Transform, may set it", "MB030"),
    ] {
        let is_told = gaps
            .iter()
            .any(|(told, rules)| told.starts_with(gap) && (rule.is_empty() || rules.iter().any(|known| known == rule)));
        assert!(is_told, "{gap} ({rule})\n{gaps:#?}");
    }
}

#[test]
fn an_unresolved_parameter_is_checked_once_it_is_given() {
    let path = shape("unknown.yaml");
    let (report, _) = report(&path, &["--parameter", "Seconds=5"]);
    assert!(!report["not_checkable"].to_string().contains("parameter Seconds"), "{report:#}");
    let output = check(&path, &["--parameter", "Seconds=5", "--parameter", "Seconds=70"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("expected at most concurrency, 70"), "{output:?}");
}
