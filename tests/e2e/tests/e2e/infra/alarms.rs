//! `infra/alarms.yaml`: what its alarms compute, within what CloudWatch allows, and that each leads to a runbook.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use e2e::stack::need;
use serde_json::{Value, json};

use super::math::{Values, ids, value_of};
use super::metrics::named_by_alarm;
use super::runbooks::runbooks;
use super::template::{Template, UNITS, infra, list, map, number, text};

/// What the template of alarms is deployed with where nothing else is said.
pub(crate) const WATCHED: [(&str, &str); 4] = [
    ("FunctionName", "orders"),
    ("QueueName", "orders-queue"),
    ("DeadLetterQueueName", "orders-queue-dlq"),
    ("MemoryMB", "512"),
];
const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:page";
const TICKET_TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:ticket";

/// The alarms that tell somebody: their ids, the ends of their names, and what they tell by.
pub(crate) const TELLING: [(&str, &str, &str); 5] = [
    ("PageAlarm", "page", "page"),
    ("DeadLettersPageAlarm", "dead-letters-page", "page"),
    ("RepeatedEffectsPageAlarm", "repeated-effects-page", "page"),
    ("TicketAlarm", "ticket", "ticket"),
    ("LostLeasesTicketAlarm", "lost-leases-ticket", "ticket"),
];

/// The template of alarms, with these parameters beside those that it needs.
pub(crate) fn alarms(parameters: &[(&str, &str)]) -> Template {
    Template::of_file("alarms.yaml", &[&WATCHED, parameters].concat())
}

/// An alarm's value, where its metrics have these.
fn value(alarms: &Template, id: &str, metrics: &[(&str, Option<f64>)]) -> Option<f64> {
    value_of_queries(list(&alarms.properties(id)["Metrics"]), metrics)
}

/// The value of the one expression that the others are for. Each is computed once those that it names are.
pub(crate) fn value_of_queries(queries: &[Value], metrics: &[(&str, Option<f64>)]) -> Option<f64> {
    let mut values: Values = metrics.iter().map(|(id, value)| ((*id).to_owned(), *value)).collect();
    let is_band = |query: &Value| text(&query["Expression"]).starts_with("ANOMALY_DETECTION_BAND");
    let mut open: Vec<_> =
        queries.iter().filter(|query| query.get("Expression").is_some() && !is_band(query)).collect();
    let watched = open.iter().find(|query| query["ReturnData"] != json!(false)).expect("one that is watched");
    let watched = text(&watched["Id"]);
    while !open.is_empty() {
        let before = open.len();
        open.retain(|query| {
            let expression = text(&query["Expression"]);
            let ready = ids(&expression).iter().all(|id| values.contains_key(id));
            if ready {
                values.insert(text(&query["Id"]), value_of(&expression, &values));
            }
            !ready
        });
        assert!(open.len() < before, "what {open:?} name is nowhere");
    }
    values[&watched]
}

/// Whether an alarm that compares with a number goes off.
fn goes_off(alarms: &Template, id: &str, metrics: &[(&str, Option<f64>)]) -> bool {
    let properties = alarms.properties(id);
    assert_eq!(properties["ComparisonOperator"], "GreaterThanThreshold", "{id}");
    assert_eq!(properties["TreatMissingData"], "notBreaching", "{id}");
    let threshold: f64 = text(&properties["Threshold"]).parse().expect("a number");
    value(alarms, id, metrics).is_some_and(|value| value > threshold)
}

/// The metrics of the items' burn rate; failures of one kind each.
fn items(items: f64, failures: [f64; 4]) -> Vec<(&'static str, Option<f64>)> {
    let names = ["conflict", "failed", "rejected", "abandoned"];
    names.into_iter().zip(failures.map(Some)).chain([("items", Some(items))]).collect()
}

#[test]
fn items_burn_over_five_times_what_the_objective_allows() {
    // At 99 % one item of 100 may fail; five times that is five. At 99.9 % it is one of 200.
    for (objective, deliveries, failures, burns) in [
        ("99", 1000.0, [0.0, 50.0, 0.0, 0.0], false),
        ("99", 1000.0, [0.0, 51.0, 0.0, 0.0], true),
        ("99", 1000.0, [13.0, 13.0, 13.0, 12.0], true),
        ("99", 1000.0, [0.0, 0.0, 0.0, 0.0], false),
        ("99.9", 10_000.0, [0.0, 0.0, 49.0, 0.0], false),
        ("99.9", 10_000.0, [0.0, 0.0, 51.0, 0.0], true),
    ] {
        let alarms = alarms(&[("ItemSuccessPercent", objective)]);
        for id in ["ItemBurnLongAlarm", "ItemBurnShortAlarm"] {
            assert_eq!(goes_off(&alarms, id, &items(deliveries, failures)), burns, "{id} {objective} {failures:?}");
        }
    }
    let rate = value(&alarms(&[]), "ItemBurnShortAlarm", &items(200.0, [0.0, 3.0, 1.0, 0.0]));
    assert_eq!(rate, Some(2.0), "2 % of failures are twice the 1 % that is allowed");
}

#[test]
fn batches_burn_over_five_times_what_the_objective_allows() {
    for (objective, batches, failures, burns) in
        [("99", 100.0, 5.0, false), ("99", 100.0, 6.0, true), ("99.9", 1000.0, 4.0, false), ("99.9", 1000.0, 6.0, true)]
    {
        let alarms = alarms(&[("BatchSuccessPercent", objective)]);
        for id in ["BatchBurnLongAlarm", "BatchBurnShortAlarm"] {
            let metrics = [("failed", Some(failures)), ("batches", Some(batches))];
            assert_eq!(goes_off(&alarms, id, &metrics), burns, "{id} {objective}: {failures} of {batches}");
        }
    }
}

#[test]
fn a_failure_of_everything_pages_whatever_the_objective_and_the_burn_rate() {
    let declared = alarms(&[]).body()["Parameters"].clone();
    let extremes = |name: &str| ["MinValue", "MaxValue"].map(|of| text(&declared[name][of]));
    for rate in extremes("BurnRate") {
        for objective in extremes("ItemSuccessPercent") {
            let alarms = alarms(&[("ItemSuccessPercent", objective.as_str()), ("BurnRate", rate.as_str())]);
            for id in ["ItemBurnLongAlarm", "ItemBurnShortAlarm"] {
                let burns = goes_off(&alarms, id, &items(100.0, [0.0, 100.0, 0.0, 0.0]));
                assert!(burns, "{id} at {objective} % and {rate} times");
            }
        }
        for objective in extremes("BatchSuccessPercent") {
            let alarms = alarms(&[("BatchSuccessPercent", objective.as_str()), ("BurnRate", rate.as_str())]);
            for id in ["BatchBurnLongAlarm", "BatchBurnShortAlarm"] {
                let burns = goes_off(&alarms, id, &[("failed", Some(10.0)), ("batches", Some(10.0))]);
                assert!(burns, "{id} at {objective} % and {rate} times");
            }
        }
    }
    // The template's own parameters are no wider.
    let template = Template::read();
    for (unit, of) in UNITS.iter().flat_map(|unit| ["ItemSuccessPercent", "BatchSuccessPercent"].map(|of| (unit, of))) {
        let own = &template.body()["Parameters"][unit.id(of)];
        assert_eq!(["MinValue", "MaxValue"].map(|of| text(&own[of])), extremes(of), "{of} of {}", unit.name);
    }
}

#[test]
fn few_failures_of_few_wake_nobody_and_nothing_is_no_failure() {
    let alarms = alarms(&[]);
    assert!(!goes_off(&alarms, "ItemBurnLongAlarm", &items(99.0, [0.0, 99.0, 0.0, 0.0])));
    assert!(goes_off(&alarms, "ItemBurnLongAlarm", &items(100.0, [0.0, 99.0, 0.0, 0.0])));
    for (id, failed, batches, burns) in [
        ("BatchBurnLongAlarm", Some(9.0), Some(9.0), false),
        ("BatchBurnLongAlarm", Some(9.0), Some(10.0), true),
        ("BatchBurnLongAlarm", None, None, false),
        ("BatchBurnShortAlarm", None, None, false),
        ("BatchBurnShortAlarm", Some(0.0), Some(0.0), false),
    ] {
        assert_eq!(goes_off(&alarms, id, &[("failed", failed), ("batches", batches)]), burns, "{id} {failed:?}");
    }
}

#[test]
fn the_windows_of_a_burn_rate_are_half_an_hour_and_five_minutes() {
    let alarms = alarms(&[("BurnRate", "7")]);
    for of in ["Item", "Batch"] {
        for (window, period_s) in [("Long", 1800), ("Short", 300)] {
            let properties = alarms.properties(&format!("{of}Burn{window}Alarm"));
            assert_eq!((number(&properties["EvaluationPeriods"]), text(&properties["Threshold"])), (1, "7".to_owned()));
            let periods: BTreeSet<_> = stats(&properties).iter().map(|stat| number(&stat["Period"])).collect();
            assert_eq!(periods, BTreeSet::from([period_s]));
        }
        let rule = text(&alarms.properties(&format!("{of}BurnAlarm"))["AlarmRule"]);
        let name = format!("orders-{}-burn", of.to_lowercase());
        assert_eq!(rule, format!(r#"ALARM("{name}-30m") AND ALARM("{name}-5m")"#));
    }
}

#[test]
fn a_batch_is_lost_that_lambda_counts_as_an_error_and_nobody_reported() {
    let alarms = alarms(&[]);
    for (errors, failures, lost) in [
        (Some(0.0), Some(0.0), Some(0.0)),
        // Five that were killed; a stream of those that failed as a whole, and said so; some of both.
        (Some(5.0), Some(0.0), Some(5.0)),
        (Some(400.0), Some(400.0), Some(0.0)),
        (Some(403.0), Some(400.0), Some(3.0)),
        // One of them was reported a moment later, in the next period.
        (Some(399.0), Some(400.0), Some(0.0)),
        // All of them, as after a deployment that does not start; or they report nothing, with metrics off.
        (Some(20.0), None, Some(20.0)),
        (None, Some(2.0), Some(0.0)),
        (None, None, None),
    ] {
        let metrics = [("errors", errors), ("failures", failures)];
        assert_eq!(value(&alarms, "BatchLossAlarm", &metrics), lost, "{metrics:?}");
        assert_eq!(goes_off(&alarms, "BatchLossAlarm", &metrics), lost.is_some_and(|lost| lost > 0.0));
    }
    let properties = alarms.properties("BatchLossAlarm");
    let of = |name: &str| number(&properties[name]);
    assert_eq!((of("DatapointsToAlarm"), of("EvaluationPeriods")), (2, 3), "one period may deceive");
    let counted = stats(&properties).into_iter().map(|stat| (text(&stat["Metric"]["MetricName"]), text(&stat["Stat"])));
    let sums = ["Errors", "BatchFailures"].map(|name| (name.to_owned(), "Sum".to_owned()));
    assert_eq!(counted.collect::<BTreeSet<_>>(), BTreeSet::from(sums));
}

#[test]
fn an_item_costs_the_time_and_the_requests_of_lambda() {
    // 1,000 invocations of 100 ms at half a gigabyte are 50 GB-s: 0.000833335 USD, and 0.0002 for the requests.
    let used = [("duration", Some(100_000.0)), ("invocations", Some(1000.0)), ("processed", Some(100_000.0))];
    let cost = value(&alarms(&[]), "CostPerItemAlarm", &used).expect("a cost");
    assert!((cost - 0.010_333_35).abs() < 1e-9, "{cost}");
    let nothing_done = [("duration", Some(100_000.0)), ("invocations", Some(1000.0)), ("processed", Some(0.0))];
    assert_eq!(value(&alarms(&[]), "CostPerItemAlarm", &nothing_done), None);

    let by_budget = alarms(&[("CostPerMillionItemsMax", "0.01")]);
    assert!(goes_off(&by_budget, "CostPerItemAlarm", &used));
    assert!(!goes_off(&alarms(&[("CostPerMillionItemsMax", "0.02")]), "CostPerItemAlarm", &used));
    assert_eq!(by_budget.properties("CostPerItemAlarm")["ThresholdMetricId"], Value::Null);

    // Without a budget it is compared with itself.
    let by_band = alarms(&[]).properties("CostPerItemAlarm");
    assert_eq!(
        (&by_band["Threshold"], &by_band["ThresholdMetricId"], &by_band["ComparisonOperator"]),
        (&Value::Null, &json!("usual"), &json!("GreaterThanUpperThreshold"))
    );
    assert_eq!(by_band["Metrics"][0]["Expression"], "ANOMALY_DETECTION_BAND(cost, 4)");
}

#[test]
fn shares_are_of_all_items_or_requests() {
    let alarms = alarms(&[]);
    let share = |id: &str, metrics: &[(&str, f64)]| {
        value(&alarms, id, &metrics.iter().map(|(id, value)| (*id, Some(*value))).collect::<Vec<_>>())
    };
    assert_eq!(share("DuplicatesAlarm", &[("duplicates", 3.0), ("items", 60.0)]), Some(5.0));
    assert_eq!(share("BusyAlarm", &[("busy", 3.0), ("items", 50.0)]), Some(6.0));
    assert_eq!(share("StoreErrorsAlarm", &[("errors", 2.0), ("claims", 60.0), ("completions", 40.0)]), Some(2.0));
    assert_eq!(share("StoreErrorsAlarm", &[("errors", 0.0), ("claims", 0.0), ("completions", 0.0)]), None);
    assert_eq!(share("RepeatedEffectsAlarm", &[("twice", 1.0), ("unrecorded", 2.0)]), Some(3.0));
    assert_eq!(share("RequeueFailuresAlarm", &[("unparked", 1.0), ("undelayed", 2.0)]), Some(3.0));
}

/// The metrics that an alarm computes with.
fn stats(properties: &Value) -> Vec<&Value> {
    let queries = properties["Metrics"].as_array().map(Vec::as_slice).unwrap_or_default();
    queries.iter().map(|query| &query["MetricStat"]).filter(|stat| stat.is_object()).collect()
}

#[test]
fn each_alarm_is_within_what_cloudwatch_allows() {
    let alarms = alarms(&[]);
    for id in alarms.ids("AWS::CloudWatch::Alarm") {
        let properties = alarms.properties(id);
        let stats = stats(&properties);
        let queries = properties["Metrics"].as_array().map_or(0, Vec::len);
        assert!(stats.len() <= 10 && queries - stats.len() <= 10, "{id}");
        // One value is watched, with its band where it is compared with that.
        let watched = properties["Metrics"]
            .as_array()
            .map_or(1, |queries| queries.iter().filter(|query| query["ReturnData"] != json!(false)).count());
        assert_eq!(watched, if properties["ThresholdMetricId"].is_null() { 1 } else { 2 }, "{id}");
        assert!(properties["Metrics"].is_null() || queries > stats.len(), "{id}");

        let periods: BTreeSet<_> = stats.iter().map(|stat| number(&stat["Period"])).collect();
        let periods = if periods.is_empty() { BTreeSet::from([number(&properties["Period"])]) } else { periods };
        assert_eq!(periods.len(), 1, "{id}: a band and a share need one period");
        let seconds = *periods.first().expect("a period");
        assert_eq!(seconds % 60, 0, "{id}");
        let longest_s = if seconds < 3_600 { 86_400 } else { 604_800 };
        assert!(seconds * number(&properties["EvaluationPeriods"]) <= longest_s, "{id}");
        assert!(
            properties["DatapointsToAlarm"].is_null()
                || properties["DatapointsToAlarm"].as_u64() <= properties["EvaluationPeriods"].as_u64()
        );
    }
    for id in alarms.ids("AWS::CloudWatch::CompositeAlarm") {
        assert!(text(&alarms.properties(id)["AlarmRule"]).len() <= 10_240, "{id}");
    }
}

#[test]
fn names_and_descriptions_fit_with_the_longest_parameters() {
    let long = |length: usize, end: &str| "n".repeat(length - end.len()) + end;
    let (function, queue, url) = (long(64, ""), long(80, ".fifo"), long(201, ""));
    let alarms = Template::of_file(
        "alarms.yaml",
        &[
            ("FunctionName", function.as_str()),
            ("QueueName", &queue),
            ("DeadLetterQueueName", &queue),
            ("MemoryMB", "10240"),
            ("RunbookBaseUrl", &url),
        ],
    );
    let mut names = BTreeSet::new();
    for id in all(&alarms) {
        let properties = alarms.properties(id);
        let name = text(&properties["AlarmName"]);
        assert!(name.starts_with(&function) && name.len() <= 255, "{id}");
        assert!(text(&properties["AlarmDescription"]).chars().count() <= 1_024, "{id}");
        assert!(names.insert(name), "{id}: another has its name");
    }
}

/// All alarms, composite ones included.
fn all(alarms: &Template) -> Vec<&str> {
    [alarms.ids("AWS::CloudWatch::Alarm"), alarms.ids("AWS::CloudWatch::CompositeAlarm")].concat()
}

#[test]
fn each_alarm_says_one_sentence_and_links_a_runbook() {
    let alarms = alarms(&[("RunbookBaseUrl", "https://example.com/runbooks")]);
    let runbooks = runbooks();
    for id in all(&alarms) {
        let description = text(&alarms.properties(id)["AlarmDescription"]);
        let (sentence, link) = description.split_once(" Runbook: ").unwrap_or_else(|| panic!("{id}: {description}"));
        assert!(sentence.ends_with('.') && !sentence.contains(". "), "{id}: {sentence}");
        let file = link.strip_prefix("https://example.com/runbooks/").unwrap_or_else(|| panic!("{id}: {link}"));
        assert!(runbooks.contains(file), "{id}: {file}");
    }
}

/// The names in a rule, which must all be asked for their ALARM state.
fn names_in(rule: &str) -> Vec<String> {
    let names: Vec<_> = rule.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(rule.matches("ALARM(\"").count(), names.len(), "{rule}");
    names
}

#[test]
fn every_alarm_is_in_one_composite_and_only_those_at_the_top_tell_anybody() {
    let alarms = alarms(&[("PageTopicArn", TOPIC), ("TicketTopicArn", TICKET_TOPIC)]);
    let by_name: BTreeMap<_, _> =
        all(&alarms).into_iter().map(|id| (text(&alarms.properties(id)["AlarmName"]), id)).collect();
    let mut parents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for parent in alarms.ids("AWS::CloudWatch::CompositeAlarm") {
        for name in names_in(&text(&alarms.properties(parent)["AlarmRule"])) {
            let child =
                by_name.get(&name).unwrap_or_else(|| panic!("{parent} names {name}, which is not of this stack"));
            parents.entry(child).or_default().push(parent);
        }
    }
    for id in all(&alarms) {
        let properties = alarms.properties(id);
        let tells = ["AlarmActions", "OKActions"].map(|of| properties[of].as_array().map_or(0, Vec::len));
        if let Some((_, name, by)) = TELLING.iter().find(|(telling, _, _)| *telling == id) {
            assert!(!parents.contains_key(id), "{id}");
            assert_eq!(tells, [1, 1], "{id}");
            assert_eq!(text(&properties["AlarmName"]), format!("orders-{name}"));
            let topic = if *by == "page" { TOPIC } else { TICKET_TOPIC };
            assert_eq!(
                (&properties["AlarmActions"], &properties["OKActions"]),
                (&json!([topic]), &json!([topic])),
                "{id}"
            );
        } else {
            assert_eq!(parents[id].len(), 1, "{id}");
            assert_eq!(tells, [0, 0], "{id}");
        }
        assert_eq!(properties["InsufficientDataActions"], Value::Null, "{id}");
    }
}

/// The names of the metric alarms that a composite alarm goes off with, also by others.
fn behind(alarms: &Template, id: &str) -> BTreeSet<String> {
    let composite = alarms.ids("AWS::CloudWatch::CompositeAlarm").into_iter();
    let composite: BTreeMap<_, _> = composite.map(|id| (text(&alarms.properties(id)["AlarmName"]), id)).collect();
    let names = names_in(&text(&alarms.properties(id)["AlarmRule"]));
    let leaves = names.into_iter().flat_map(|name| match composite.get(&name) {
        Some(id) => behind(alarms, id),
        None => BTreeSet::from([name]),
    });
    leaves.collect()
}

#[test]
fn what_lasts_for_days_or_minutes_hides_nothing_and_is_hidden_by_nothing() {
    let alarms = alarms(&[]);
    let suppressed = |id: &str| !alarms.properties(id)["ActionsSuppressor"].is_null();
    // Letters wait until somebody has looked; the others are over after a period.
    for (alone, teller) in [
        ("orders-dead-letters", "DeadLettersPageAlarm"),
        ("orders-repeated-effects", "RepeatedEffectsPageAlarm"),
        ("orders-lost-leases", "LostLeasesTicketAlarm"),
    ] {
        let alone = BTreeSet::from([alone.to_owned()]);
        for (id, _, _) in TELLING {
            let behind = behind(&alarms, id);
            assert!(if id == teller { behind == alone } else { behind.is_disjoint(&alone) }, "{id}: {behind:?}");
        }
        assert!(!suppressed(teller), "{teller}");
    }
    // Nor is anything else hidden that looks at these metrics.
    for id in alarms.ids("AWS::CloudWatch::CompositeAlarm").into_iter().filter(|id| suppressed(id)) {
        let hidden = behind(&alarms, id);
        for metric_alarm in alarms.ids("AWS::CloudWatch::Alarm") {
            let properties = alarms.properties(metric_alarm);
            let metrics = named_by_alarm(metric_alarm, &properties);
            let short =
                metrics.iter().any(|metric| ["LostLeases", "EffectsAfterLostLease"].contains(&metric.name.as_str()));
            assert!(!short || !hidden.contains(&text(&properties["AlarmName"])), "{id} hides {metric_alarm}");
        }
        // And only by what ends with its cause.
        let suppressor = text(&alarms.properties(id)["ActionsSuppressor"]);
        assert_eq!(suppressor, text(&alarms.properties("PageAlarm")["AlarmName"]));
    }
}

#[test]
fn a_look_at_the_dead_letters_does_not_end_their_page() {
    // A look hides them for up to two minutes.
    let properties = alarms(&[]).properties("DeadLettersAlarm");
    assert_eq!(properties["Statistic"], "Maximum");
    assert!(number(&properties["Period"]) * number(&properties["EvaluationPeriods"]) > 2 * 120);
}

#[test]
fn without_topics_nobody_is_told() {
    let alarms = alarms(&[]);
    for id in all(&alarms) {
        for of in ["AlarmActions", "OKActions"] {
            assert_eq!(alarms.properties(id)[of], Value::Null, "{id}");
        }
    }
}

#[test]
fn every_alarm_says_what_missing_data_means_and_why() {
    let alarms = alarms(&[]);
    for id in alarms.ids("AWS::CloudWatch::Alarm") {
        assert!(alarms.properties(id)["TreatMissingData"].is_string(), "{id}");
    }
    let written = need(fs::read_to_string(infra().join("alarms.yaml")));
    let lines: Vec<_> = written.lines().map(str::trim).collect();
    for (at, _) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("TreatMissingData:")) {
        assert!(lines[at - 1].starts_with('#'), "line {}: no reason", at + 1);
    }
}

#[test]
fn the_template_gives_each_function_its_alarms_and_dashboards() {
    let topics = [("PageTopicArn", TOPIC), ("RunbookBaseUrl", "https://example.com")];
    let template = Template::read().with(&topics);
    for unit in UNITS {
        let own: Vec<_> = ["ItemSuccessPercent", "OldestMessageSeconds", "BatchSuccessPercent", "BatchLatencyP99Ms"]
            .into_iter()
            .zip(["98", "1000", "97", "4321"])
            .collect();
        let set: Vec<_> = own.iter().map(|(name, value)| (unit.id(name), *value)).collect();
        let set: Vec<_> = set.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let template = template.clone().with(&set);
        let queue = text(&template.properties(&unit.id("Queue"))["QueueName"]);
        for (of, file) in [("Alarms", "alarms.yaml"), ("Dashboards", "dashboards.yaml")] {
            let stack = template.properties(&unit.id(of));
            assert_eq!(stack["TemplateURL"], file);
            let given = map(&stack["Parameters"]);
            assert_eq!(given["FunctionName"], template.properties(&unit.id("Function"))["FunctionName"]);
            assert_eq!(text(&given["QueueName"]), queue);
            assert_eq!(given["DeadLetterQueueName"], template.properties(&unit.id("DeadLetterQueue"))["QueueName"]);
            assert_eq!(text(&given["MemoryMB"]), text(&template.properties(&unit.id("Function"))["MemorySize"]));
            assert_eq!(given["RunbookBaseUrl"], "https://example.com");
            let on_arm = template.clone().with(&[("Architecture", "arm64")]).properties(&unit.id(of));
            let usd = |given: &Value| text(&given["UsdPerGbSecond"]).parse::<f64>().expect("a price");
            assert!(usd(&on_arm["Parameters"]) < usd(&stack["Parameters"]), "{}", unit.name);
            for (name, value) in &own {
                assert_eq!(text(&given[*name]), *value, "{name}");
            }
            // It knows each parameter, and gets each that it needs.
            let given: Vec<_> = given.iter().map(|(name, value)| (name.clone(), text(value))).collect();
            let given: Vec<_> = given.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            Template::of_file(file, &given);
        }
        assert_eq!(template.properties(&unit.id("Alarms"))["Parameters"]["PageTopicArn"], TOPIC);
    }
    let stacks =
        |parameters: &[(&str, &str)]| Template::read().with(parameters).ids("AWS::CloudFormation::Stack").len();
    assert_eq!(stacks(&[]), 2 * UNITS.len());
    assert_eq!(stacks(&[("Alarms", "false")]), UNITS.len());
    assert_eq!(stacks(&[("Alarms", "false"), ("Dashboards", "false")]), 0);
}

#[test]
fn a_batch_may_take_less_than_its_time_out() {
    let template = Template::read();
    for unit in UNITS {
        let timeout_s = number(&template.properties(&unit.id("Function"))["Timeout"]);
        let objective_ms = template.parameter(&unit.id("BatchLatencyP99Ms")).parse::<u64>().expect("a number");
        assert!(objective_ms < timeout_s * 1_000, "{}: what is killed reports no latency", unit.name);
    }
}
