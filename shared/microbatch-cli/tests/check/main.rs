//! `microbatch check`: every rule finds its mistake and nothing else; what cannot be checked is named.

#![expect(unreachable_pub, reason = "the seeds are also a module of the command's own tests")]

mod formats;
mod mends;
mod seeds;
mod shapes;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use self::seeds::{GOOD, SEEDS};

/// A template in a file of its own, gone when this is dropped.
struct Template {
    path: PathBuf,
}

impl Template {
    fn new(text: impl AsRef<[u8]>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("microbatch-check-{}-{}.yaml", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).expect("the template is written");
        Self { path }
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn check(path: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_microbatch"));
    command.arg("check").arg(path).args(more).output().expect("the command starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// The report on a template, and the exit code.
fn report(path: &Path, more: &[&str]) -> (Value, Option<i32>) {
    let output = check(path, &[&["--format", "json"], more].concat());
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (json["templates"][0].clone(), output.status.code())
}

fn rules(report: &Value) -> Vec<&str> {
    report["findings"].as_array().expect("findings").iter().filter_map(|finding| finding["rule"].as_str()).collect()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn nothing_is_found_in_a_good_template() {
    let output = check(&Template::new(GOOD).path, &["--strict"]);
    assert_eq!(stdout(&output), "1 template, 2 functions, 2 mappings: 0 errors, 0 warnings\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn nothing_is_found_in_our_own_template() {
    let template = repository().join("infra/template.yaml");
    let (report, code) = report(&template, &["--strict"]);
    assert_eq!((rules(&report), code), (vec![], Some(0)), "{report:#}");
    assert_eq!(report["not_checkable"].as_array().map(Vec::len), Some(0), "{report:#}");
    assert!(report["functions"].as_u64() >= Some(3) && report["mappings"].as_u64() >= Some(3), "{report:#}");
}

#[test]
fn a_nested_stack_is_no_gap_if_its_file_holds_nothing_that_a_rule_looks_at() {
    let holding = |kind: &str| format!("Resources: {{ Thing: {{ Type: {kind} }} }}\n");
    for (text, gaps) in [
        (holding("AWS::CloudWatch::Alarm"), 0),
        (holding("AWS::SQS::Queue"), 1),
        (holding("AWS::CloudFormation::Stack"), 1),
        ("no template".to_owned(), 1),
    ] {
        let nested = Template::new(&text);
        let name = nested.path.file_name().and_then(|name| name.to_str()).expect("a plain name");
        for (named, gaps) in [(name, gaps), ("missing.yaml", 1), ("https://bucket.s3.amazonaws.com/alarms.yaml", 1)] {
            let stack = format!("{{ Type: AWS::CloudFormation::Stack, Properties: {{ TemplateURL: '{named}' }} }}");
            let (report, _) = report(&Template::new(format!("Resources: {{ Nested: {stack} }}\n")).path, &[]);
            assert_eq!(report["not_checkable"].as_array().map(Vec::len), Some(gaps), "{text} {named}: {report:#}");
        }
    }
}

#[test]
fn every_mistake_is_found_by_its_rule_alone() {
    for seed in SEEDS {
        let template = Template::new(seed.template());
        let (report, code) = report(&template.path, &[]);
        let findings = report["findings"].as_array().expect("findings");
        let what = format!("{} {:?}\n{report:#}", seed.rule, seed.edits);
        assert!(!findings.is_empty(), "{what}");
        for finding in findings {
            assert_eq!(finding["rule"], seed.rule, "{what}");
            assert_eq!(finding["severity"], seed.severity, "{what}");
            assert_eq!(finding["resource"], seed.resource, "{what}");
            let fix = finding["fix"]["yaml"].as_str().expect("a fix");
            assert!(!fix.is_empty() && !finding["fix"]["in"].as_str().expect("a place").is_empty(), "{what}");
            assert!(finding["page"].as_str().expect("a page").ends_with(')'), "{what}");
        }
        assert_eq!(code, Some(i32::from(seed.severity == "error")), "{what}");
    }
}

#[test]
fn every_rule_has_a_mistake() {
    let seeded: BTreeSet<&str> = SEEDS.iter().map(|seed| seed.rule).collect();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/check/rules");
    let files = fs::read_dir(source).expect("the rules").map(|file| file.expect("an entry").path());
    let mut all = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).expect("text");
        all.extend(text.split("id: \"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
    }
    assert_eq!(seeded, all.iter().map(String::as_str).collect());
    assert!(seeded.len() >= 25);
}
