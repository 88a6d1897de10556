//! The metrics that alarms, dashboards and runbooks name: each exists, and has the dimensions that it is emitted with.
//!
//! Ours are those of the table in `infra/telemetry.md`. AWS's are listed here, from its documentation.

use std::collections::BTreeSet;
use std::fs;

use e2e::stack::need;
use serde_json::{Value, json};

use super::alarms::alarms;
use super::dashboards::dashboards;
use super::runbooks::pages;
use super::template::{infra, list, text};

/// The namespace of our metrics by default.
pub(crate) const NAMESPACE: &str = "microbatch";
/// The dimensions that each of our metrics has.
const DIMENSIONS: [&str; 2] = ["function", "queue"];

/// AWS's metrics that something here names: namespace, dimensions, names.
const OF_AWS: &[(&str, &[&str], &[&str])] = &[
    // "Types of metrics for Lambda functions"
    ("AWS/Lambda", &["FunctionName"], &["ConcurrentExecutions", "Duration", "Errors", "Invocations", "Throttles"]),
    (
        "AWS/Lambda",
        &["EventSourceMappingUUID"],
        &[
            "DeletedEventCount",
            "FailedInvokeEventCount",
            "FilteredOutEventCount",
            "InvokedEventCount",
            "PolledEventCount",
        ],
    ),
    // "Available CloudWatch metrics for Amazon SQS"
    (
        "AWS/SQS",
        &["QueueName"],
        &[
            "ApproximateAgeOfOldestMessage",
            "ApproximateNumberOfMessagesDelayed",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesVisible",
            "NumberOfMessagesDeleted",
            "NumberOfMessagesReceived",
            "NumberOfMessagesSent",
        ],
    ),
    // "DynamoDB Metrics and dimensions", "CloudWatch throttling metrics"
    (
        "AWS/DynamoDB",
        &["TableName"],
        &[
            "ConditionalCheckFailedRequests",
            "ConsumedReadCapacityUnits",
            "ConsumedWriteCapacityUnits",
            "ReadThrottleEvents",
            "TransactionConflict",
            "WriteAccountLimitThrottleEvents",
            "WriteKeyRangeThroughputThrottleEvents",
            "WriteMaxOnDemandThroughputThrottleEvents",
            "WriteThrottleEvents",
        ],
    ),
];

/// A metric as something names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    /// What names it.
    pub(crate) by: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The names of its dimensions; none where it is only mentioned.
    pub(crate) dimensions: Option<Vec<String>>,
}

/// The metrics of an alarm's resolved properties, or of anything that holds metrics in that form.
pub(crate) fn named_by_alarm(by: &str, properties: &Value) -> Vec<Named> {
    match properties {
        Value::Array(list) => list.iter().flat_map(|value| named_by_alarm(by, value)).collect(),
        Value::Object(object) if object.contains_key("MetricName") => {
            let dimensions = list(&object["Dimensions"]).iter().map(|dimension| text(&dimension["Name"]));
            vec![Named {
                by: by.to_owned(),
                namespace: text(&object["Namespace"]),
                name: text(&object["MetricName"]),
                dimensions: Some(dimensions.collect()),
            }]
        }
        Value::Object(object) => object.values().flat_map(|value| named_by_alarm(by, value)).collect(),
        _ => Vec::new(),
    }
}

/// The metrics of a dashboard's body.
pub(crate) fn named_by_dashboard(by: &str, body: &Value) -> Vec<Named> {
    let widgets = list(&body["widgets"]).iter().filter(|widget| widget["type"] == "metric");
    let rows = widgets.flat_map(|widget| list(&widget["properties"]["metrics"]));
    // A row is a namespace, a name, pairs of dimensions, and options; or an expression alone.
    let metrics = rows.filter_map(|row| {
        let words: Vec<_> = list(row).iter().filter_map(Value::as_str).collect();
        let [namespace, name, dimensions @ ..] = words.as_slice() else { return None };
        Some(Named {
            by: by.to_owned(),
            namespace: (*namespace).to_owned(),
            name: (*name).to_owned(),
            dimensions: Some(dimensions.iter().step_by(2).map(|&name| name.to_owned()).collect()),
        })
    });
    metrics.collect()
}

/// The metrics of a page: ours in backticks, which are words such as `BatchSize`; AWS's in backticks with their namespace.
pub(crate) fn named_by_page(by: &str, page: &str, no_metrics: &BTreeSet<String>) -> Vec<Named> {
    let spans = code_spans(page);
    let named = spans.iter().filter_map(|span| {
        let (namespace, name) = span.split_once(' ').unwrap_or((NAMESPACE, span));
        let known_form = namespace == NAMESPACE || namespace.starts_with("AWS/");
        let is_one = known_form && is_compound(name) && !no_metrics.contains(name);
        is_one.then(|| Named {
            by: by.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            dimensions: None,
        })
    });
    named.collect()
}

/// What stands between backticks in the text, outside blocks of code.
pub(crate) fn code_spans(page: &str) -> Vec<String> {
    let prose = page.split("```").step_by(2);
    prose.flat_map(|prose| prose.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Whether a word is written as a metric of several words is: `BatchSize`, and neither `Busy` nor `MICROBATCH_TABLE`.
fn is_compound(word: &str) -> bool {
    let capitals = word.chars().filter(char::is_ascii_uppercase).count();
    word.starts_with(|first: char| first.is_ascii_uppercase())
        && word.chars().all(|character| character.is_ascii_alphanumeric())
        && capitals > 1
        && word.chars().any(|character| character.is_ascii_lowercase())
}

/// Our metrics by the reference page: the first column of the tables of metrics, one name or several.
pub(crate) fn documented(page: &str) -> BTreeSet<String> {
    let mut of_metrics = false;
    let rows = page.lines().filter(|line| {
        let is_head = line.to_lowercase().starts_with("| metric |");
        of_metrics = is_head || (of_metrics && line.starts_with('|'));
        of_metrics && !is_head
    });
    let cells: Vec<_> = rows.filter_map(|row| row.strip_prefix("| ")?.split_once(" |")).map(|(cell, _)| cell).collect();
    let words = cells.into_iter().flat_map(|cell| cell.split(", ")).map(|word| word.trim_matches('`'));
    let is_name = |word: &&str| {
        word.starts_with(|first: char| first.is_ascii_uppercase())
            && word.chars().all(|character| character.is_ascii_alphanumeric())
    };
    words.filter(is_name).map(str::to_owned).collect()
}

/// Our metrics by `infra/telemetry.md`.
pub(crate) fn ours() -> BTreeSet<String> {
    documented(&need(fs::read_to_string(infra().join("telemetry.md"))))
}

/// What is wrong with each of these metrics, if ours are these.
pub(crate) fn problems(named: &[Named], ours: &BTreeSet<String>) -> Vec<String> {
    named.iter().filter_map(|metric| problem(metric, ours)).collect()
}

fn problem(metric: &Named, ours: &BTreeSet<String>) -> Option<String> {
    let Named { by, namespace, name, dimensions } = metric;
    let mut expected: Vec<Vec<&str>> = Vec::new();
    if namespace == NAMESPACE {
        expected.extend(ours.contains(name).then(|| DIMENSIONS.to_vec()));
    } else {
        let of_that_name = OF_AWS.iter().filter(|(of, _, names)| of == namespace && names.contains(&name.as_str()));
        expected.extend(of_that_name.map(|(_, dimensions, _)| dimensions.to_vec()));
    }
    if expected.is_empty() {
        return Some(format!("{by}: there is no {namespace} {name}"));
    }
    let dimensions = dimensions.as_ref()?;
    (!expected.iter().any(|expected| expected == dimensions))
        .then(|| format!("{by}: {namespace} {name} has {expected:?}, not {dimensions:?}"))
}

/// Every metric that an alarm, a dashboard or a runbook names.
pub(crate) fn all_named() -> Vec<Named> {
    let alarms = alarms(&[]);
    let mut named = Vec::new();
    for id in alarms.ids("AWS::CloudWatch::Alarm") {
        named.extend(named_by_alarm(id, &alarms.properties(id)));
    }
    for (id, body) in dashboards() {
        named.extend(named_by_dashboard(&id, &body));
    }
    let others = super::runbooks::words_that_are_no_metrics();
    for (file, page) in pages() {
        named.extend(named_by_page(&file, &page, &others));
    }
    named
}

#[test]
fn every_metric_that_is_named_exists_with_its_dimensions() {
    let named = all_named();
    assert!(named.len() > 100, "only {} were found", named.len());
    assert_eq!(problems(&named, &ours()), Vec::<String>::new());
}

#[test]
fn every_metric_of_ours_is_on_a_dashboard() {
    let shown: BTreeSet<_> =
        dashboards().iter().flat_map(|(id, body)| named_by_dashboard(id, body)).map(|metric| metric.name).collect();
    let missing: Vec<_> = ours().into_iter().filter(|name| !shown.contains(name)).collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn what_an_alarm_looks_at_is_on_the_on_call_dashboard() {
    let alarms = alarms(&[]);
    let (_, body) = dashboards().into_iter().find(|(id, _)| id == "OnCallDashboard").expect("it is there");
    let shown: BTreeSet<_> =
        named_by_dashboard("", &body).into_iter().map(|metric| (metric.namespace, metric.name)).collect();
    for id in alarms.ids("AWS::CloudWatch::Alarm") {
        for metric in named_by_alarm(id, &alarms.properties(id)) {
            assert!(shown.contains(&(metric.namespace, metric.name.clone())), "{id}: {}", metric.name);
        }
    }
}

#[test]
fn the_list_of_awss_metrics_holds_none_that_nothing_names() {
    let named: BTreeSet<_> = all_named().into_iter().map(|metric| (metric.namespace, metric.name)).collect();
    for (namespace, _, names) in OF_AWS {
        for name in *names {
            assert!(named.contains(&((*namespace).to_owned(), (*name).to_owned())), "{namespace} {name}");
        }
    }
    for (namespace, _) in &named {
        assert!(namespace == NAMESPACE || OF_AWS.iter().any(|(known, _, _)| known == namespace), "{namespace}");
    }
}

#[test]
fn a_wrong_name_or_dimension_is_a_problem() {
    let page = "| Metric | Unit |\n|---|---|\n| BatchSize | Count |\n| `ItemsBusy`, `ItemsFailed` | Count |\n\n| Target |\n|---|\n| Other |\n";
    let ours = documented(page);
    assert_eq!(Vec::from_iter(&ours), ["BatchSize", "ItemsBusy", "ItemsFailed"]);
    let alarm = |namespace: &str, name: &str, dimensions: &[&str]| {
        let dimensions: Vec<_> = dimensions.iter().map(|name| json!({"Name": name, "Value": "x"})).collect();
        let metric = json!({"Namespace": namespace, "MetricName": name, "Dimensions": dimensions});
        problems(&named_by_alarm("A", &json!({"Metrics": [{"MetricStat": {"Metric": metric}}]})), &ours)
    };
    let both = ["function", "queue"];
    assert_eq!(alarm(NAMESPACE, "BatchSize", &both), Vec::<String>::new());
    assert_eq!(alarm("AWS/Lambda", "Errors", &["FunctionName"]), Vec::<String>::new());
    assert_eq!(alarm(NAMESPACE, "BatchSizes", &both).len(), 1);
    assert_eq!(alarm("Other", "BatchSize", &both).len(), 1);
    assert_eq!(alarm(NAMESPACE, "BatchSize", &["function"]).len(), 1);
    assert_eq!(alarm("AWS/Lambda", "Errors", &["QueueName"]).len(), 1);

    let row = json!([NAMESPACE, "ItemsBusy", "function", "f", "queue", "q", {"id": "busy"}]);
    let widget = json!({"type": "metric", "properties": {"metrics": [[{"expression": "1 * busy"}], row]}});
    let named = named_by_dashboard("D", &json!({"widgets": [widget]}));
    assert_eq!(named.len(), 1);
    assert_eq!(problems(&named, &ours), Vec::<String>::new());

    let page =
        "`BatchSize` and `Busy`, `BatchSises`, `AWS/SQS NumberOfMessagesSent`\n```\n`NoMetric`\n```\n`AllFailed`";
    let named = named_by_page("P", page, &BTreeSet::from(["AllFailed".to_owned()]));
    assert_eq!(problems(&named, &ours), ["P: there is no microbatch BatchSises"]);
}
