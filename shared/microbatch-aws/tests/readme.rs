//! The README says what the code does: its tables of settings and outcomes, and the files it points to.

use std::{collections::BTreeSet, fs, path::PathBuf};

use microbatch::Outcome;
use microbatch_aws::{metrics::METRICS, settings::variables};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn readme() -> String {
    let file = root().join("README.md");
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn the_settings_table_is_that_of_the_code() {
    let readme = readme();
    let found: Vec<&str> = readme.lines().filter(|line| line.starts_with("| `MICROBATCH_")).collect();
    let expected: Vec<String> =
        variables().map(|variable| format!("| `{}` | {} |", variable.name, variable.meaning)).collect();
    assert_eq!(found, expected, "the README's table of settings must be:\n{}\n", expected.join("\n"));
}

#[test]
fn the_reference_page_lists_the_metrics_of_the_code() {
    let file = root().join("infra/telemetry.md");
    let page = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let found: Vec<&str> = page.lines().skip_while(|line| !line.starts_with("| Metric | Unit |")).skip(2).collect();
    let found: Vec<&str> = found.into_iter().take_while(|line| line.starts_with('|')).collect();
    let expected: Vec<String> = METRICS
        .iter()
        .map(|metric| format!("| `{}` | {} | {} |", metric.name, metric.unit.name(), metric.meaning))
        .collect();
    assert_eq!(found, expected, "the table must be:\n{}\n", expected.join("\n"));
}

#[test]
fn no_other_variable_is_named() {
    let readme = readme();
    let words = readme.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named: BTreeSet<&str> = words.filter(|word| word.starts_with("MICROBATCH_")).collect();
    let known: BTreeSet<&str> = variables().map(|variable| variable.name).collect();
    let unknown: Vec<&str> = named.difference(&known).copied().collect();
    assert!(unknown.is_empty(), "the README names variables that nothing reads: {unknown:?}");
}

#[test]
fn every_outcome_stands_there_with_whether_it_is_acknowledged() {
    let readme = readme();
    for outcome in Outcome::ALL {
        let prefix = format!("| `{outcome}` | ");
        let rows: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
        assert_eq!(rows.len(), 1, "{outcome} needs one row in the README's table of outcomes");
        let acknowledged = if outcome.is_acknowledged() { "yes | " } else { "no | " };
        assert!(rows[0].starts_with(acknowledged), "{outcome}: expected {acknowledged}, found {}", rows[0]);
    }
}

#[test]
fn every_file_it_points_to_is_there() {
    let readme = readme();
    let targets = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.filter(|target| !target.starts_with("https://"));
    let files: Vec<&str> = files.filter_map(|target| target.split('#').next()).collect();
    assert!(files.len() > 20, "found {files:?}");
    let missing: Vec<&str> = files.into_iter().filter(|file| !root().join(file).exists()).collect();
    assert!(missing.is_empty(), "the README points to files that are not there: {missing:?}");
}
