//! `infra/runbooks`: complete, linked with the alarms in both directions, and with commands that exist.
//!
//! The commands of `microbatch` are parsed where its parser is, in the package of the command.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use e2e::stack::need;
use serde_json::Value;

use super::alarms::{TELLING, alarms};
use super::metrics::code_spans;
use super::template::{Template, infra, list, map, python, text};

/// The pages that no alarm leads to.
pub(crate) const BESIDE: [&str; 2] = ["game-day.md", "postmortem.md"];

/// The page that lists the others.
const INDEX: &str = "README.md";

/// What each runbook says, in this order.
const SECTIONS: [&str; 7] =
    ["## What it means", "## Confirm", "## Decide", "## Act", "## Verify", "## Do not", "## Afterwards"];

/// The pages' file names.
pub(crate) fn runbooks() -> BTreeSet<String> {
    pages().into_keys().collect()
}

/// The pages' texts by their file names.
pub(crate) fn pages() -> BTreeMap<String, String> {
    let files = need(fs::read_dir(infra().join("runbooks"))).map(|entry| need(entry).path());
    let page = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(path.extension().is_some_and(|extension| extension == "md"), "{name}");
        (name, need(fs::read_to_string(path)))
    };
    files.map(page).collect()
}

/// The runbooks proper.
fn procedures() -> Vec<(String, String)> {
    let is_procedure = |name: &str| name != INDEX && !BESIDE.contains(&name);
    pages().into_iter().filter(|(name, _)| is_procedure(name)).collect()
}

/// Words in backticks that are written as metrics are: parameters of the templates, and names of AWS's and ours.
pub(crate) fn words_that_are_no_metrics() -> BTreeSet<String> {
    let of_file = |file| map(&Template::read_file(file)["Parameters"]).keys().cloned().collect::<Vec<_>>();
    let parameters = ["template.yaml", "alarms.yaml", "dashboards.yaml"].into_iter().flat_map(of_file);
    let others = ["AllFailed", "InitFailed", "MemorySize", "ReportBatchItemFailures", "VisibilityTimeout"];
    parameters.chain(others.map(str::to_owned)).collect()
}

#[test]
fn each_runbook_leads_from_the_alarm_to_the_end() {
    let procedures = procedures();
    assert!(procedures.len() >= 8, "{}", procedures.len());
    for (name, page) in procedures {
        let found: Vec<_> = page.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(found, SECTIONS, "{name}");
        // The pause switch, with what it does.
        assert!(page.contains("--no-enabled") && page.contains("(README.md#the-pause-switch)"), "{name}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    for (name, page) in pages() {
        for target in page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = infra().join("runbooks").join(if file.is_empty() { &name } else { file });
            let Ok(linked) = fs::read_to_string(&path) else { panic!("{name}: {target} is not there") };
            let heads = linked.lines().filter(|line| line.starts_with('#')).map(anchor_of);
            assert!(anchor.is_empty() || heads.into_iter().any(|head| head == anchor), "{name}: {target}");
        }
    }
}

/// The anchor of a heading.
fn anchor_of(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The index's rows: an alarm's name behind the function's, whom it tells, and its page.
fn index() -> Vec<(String, String, String)> {
    let pages = pages();
    let rows = pages[INDEX].lines().filter(|line| line.starts_with("| `FUNCTION-"));
    let mut found = Vec::new();
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [names, tells, page] = cells.as_slice() else { panic!("three cells: {row}") };
        let page = page.split_once("](").and_then(|(_, link)| link.strip_suffix(')')).expect("a link").to_owned();
        for name in code_spans(names) {
            let name = name.trim_start_matches("FUNCTION-").to_owned();
            found.push((name, (*tells).to_owned(), page.clone()));
        }
    }
    found
}

#[test]
fn the_index_and_the_alarms_say_the_same() {
    let alarms = alarms(&[]);
    let property = |id: &str, name: &str| text(&alarms.properties(id)[name]);
    let pages = TELLING.iter().filter(|(_, _, by)| *by == "page").map(|(id, _, _)| *id);
    let page_rules: String =
        pages.chain(["ItemBurnAlarm", "BatchBurnAlarm"]).map(|id| property(id, "AlarmRule")).collect();
    let mut expected = BTreeSet::new();
    for id in [alarms.ids("AWS::CloudWatch::Alarm"), alarms.ids("AWS::CloudWatch::CompositeAlarm")].concat() {
        if TELLING.iter().any(|(telling, _, _)| *telling == id) {
            continue;
        }
        let name = property(id, "AlarmName");
        let quoted = format!("\"{name}\"");
        let tells = if page_rules.contains(&quoted) { "page" } else { "ticket" };
        let description = property(id, "AlarmDescription");
        let page = description.rsplit('/').next().unwrap_or_default().to_owned();
        expected.insert((name.trim_start_matches("orders-").to_owned(), tells.to_owned(), page));
    }
    assert_eq!(index().into_iter().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn every_runbook_is_led_to_and_says_of_which_alarms() {
    let index = index();
    for (name, page) in procedures() {
        let alarms: Vec<_> = index.iter().filter(|(_, _, leads_to)| *leads_to == name).collect();
        assert!(!alarms.is_empty(), "no alarm leads to {name}");
        let head = page.split("## ").next().unwrap_or_default();
        let is_window = |alarm: &str| alarm.ends_with("-30m") || alarm.ends_with("-5m");
        for (alarm, _, _) in alarms.iter().filter(|(alarm, _, _)| !is_window(alarm)) {
            assert!(head.contains(&format!("`FUNCTION-{alarm}`")), "{name} does not begin with {alarm}");
        }
    }
    for name in BESIDE {
        assert!(pages()[INDEX].contains(&format!("]({name})")), "{name} is not in the index");
    }
}

#[test]
fn an_alarm_or_a_widget_that_a_page_names_exists() {
    let telling = TELLING.iter().map(|(_, name, _)| (*name).to_owned());
    let alarms: BTreeSet<_> = index().into_iter().map(|(name, _, _)| name).chain(telling).collect();
    let titles: BTreeSet<_> = super::dashboards::dashboards()
        .iter()
        .flat_map(|(_, body)| list(&body["widgets"]).to_vec())
        .map(|widget| text(&widget["properties"]["title"]))
        .collect();
    for (name, page) in pages() {
        for span in code_spans(&page) {
            if let Some(alarm) = span.strip_prefix("FUNCTION-") {
                assert!(alarms.contains(alarm), "{name}: there is no alarm {alarm}");
            }
        }
        // Titles of widgets are quoted where a dashboard is named, outside blocks of code and tables.
        let prose: String = page.split("```").step_by(2).collect();
        for paragraph in prose.split("\n\n").filter(|part| part.contains("dashboard") && !part.starts_with('|')) {
            for title in paragraph.replace('\n', " ").split('"').skip(1).step_by(2) {
                assert!(titles.contains(title), "{name}: there is no widget {title}");
            }
        }
    }
}

/// The commands of AWS in the pages exist, with these options: its own models are asked.
#[test]
fn the_commands_of_aws_exist_with_their_options() {
    let answer = python("commands.py", |command| {
        command.args(runbooks().iter().map(|name| infra().join("runbooks").join(name)));
    });
    assert_eq!(answer["problems"], Value::Array(Vec::new()));
    assert!(answer["checked"].as_u64() > Some(60), "{}", answer["checked"]);
}
