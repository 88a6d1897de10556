//! `infra/dashboards.yaml`: bodies that are JSON, widgets that fit, and figures that are the alarms'.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::alarms::{WATCHED, alarms, value_of_queries};
use super::math::ids;
use super::template::{Template, list, map, number, text};

/// The grid's columns.
const GRID_WIDTH: u64 = 24;

fn template() -> Template {
    let own = [
        ("EventSourceMappingId", "91eaeb7e-c976-1234-9451-8709db01f137"),
        ("TableName", "idempotency"),
        ("LogGroupName", "/aws/lambda/orders"),
    ];
    Template::of_file("dashboards.yaml", &[&WATCHED[..], &own].concat())
}

/// The dashboards' logical ids and bodies.
pub(crate) fn dashboards() -> Vec<(String, Value)> {
    let template = template();
    let ids = template.ids("AWS::CloudWatch::Dashboard");
    ids.iter().map(|id| ((*id).to_owned(), body_of(&template, id))).collect()
}

fn body_of(template: &Template, id: &str) -> Value {
    let body = text(&template.properties(id)["DashboardBody"]);
    assert!(!body.contains("${"), "{id}: a placeholder that is nobody's");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{id}: {error}"))
}

#[test]
fn there_are_three_within_what_cloudwatch_allows() {
    let template = template();
    let found: Vec<_> = dashboards();
    let names: Vec<_> = found.iter().map(|(id, _)| text(&template.properties(id)["DashboardName"])).collect();
    assert_eq!(names, ["orders-debug", "orders-executive", "orders-on-call"]);
    for (id, body) in &found {
        assert!(body.to_string().len() < 500 * 1_024, "{id}");
        let widgets = list(&body["widgets"]);
        assert!(widgets.len() <= 50, "{id} has more than one looks at");
        let metrics = widgets.iter().map(|widget| widget["properties"]["metrics"].as_array().map_or(0, Vec::len));
        // A widget takes 500, a dashboard 2,500.
        assert!(metrics.clone().max() <= Some(500) && metrics.sum::<usize>() <= 2_500, "{id}");
    }
}

#[test]
fn widgets_stand_on_the_grid_and_not_on_each_other() {
    for (id, body) in dashboards() {
        let mut taken = BTreeSet::new();
        for widget in list(&body["widgets"]) {
            let [x, y, width, height] = ["x", "y", "width", "height"].map(|of| number(&widget[of]));
            assert!(width > 0 && height > 0 && x + width <= GRID_WIDTH, "{id}: {widget}");
            for column in x..x + width {
                for row in y..y + height {
                    assert!(taken.insert((column, row)), "{id}: two widgets are at {column}, {row}");
                }
            }
        }
        // No row is left empty, and each is filled.
        let rows = taken.iter().map(|(_, row)| row + 1).max().unwrap_or_default();
        assert_eq!(taken.len() as u64, rows * GRID_WIDTH, "{id} has a hole");
    }
}

#[test]
fn every_widget_has_what_its_kind_needs() {
    for (id, body) in dashboards() {
        for widget in list(&body["widgets"]) {
            let properties = &widget["properties"];
            match text(&widget["type"]).as_str() {
                "text" => assert!(!text(&properties["markdown"]).is_empty(), "{id}"),
                "alarm" => assert!(!list(&properties["alarms"]).is_empty(), "{id}"),
                "log" => {
                    assert_eq!(properties["region"], "eu-west-1", "{id}");
                    assert!(text(&properties["query"]).starts_with("SOURCE '/aws/lambda/orders' | "), "{id}");
                }
                "metric" => metric_widget_is_whole(&id, properties),
                other => panic!("{id}: a widget of kind {other}"),
            }
        }
    }
}

/// Its expressions name rows of the widget, each row has an id of its own, and what it shows has a label.
fn metric_widget_is_whole(id: &str, properties: &Value) {
    assert_eq!(properties["region"], "eu-west-1", "{id}");
    assert!(properties["title"].is_string() && properties["period"].is_u64() && properties["stat"].is_string(), "{id}");
    let rows = list(&properties["metrics"]);
    let options: Vec<_> = rows.iter().filter_map(|row| list(row).last().filter(|last| last.is_object())).collect();
    let row_ids: Vec<_> = options.iter().filter_map(|options| options["id"].as_str()).collect();
    assert_eq!(BTreeSet::from_iter(&row_ids).len(), row_ids.len(), "{id}: an id twice");
    for options in options {
        if let Some(expression) = options["expression"].as_str() {
            for named in ids(expression) {
                assert!(row_ids.contains(&named.as_str()), "{id}: {expression}: there is no {named}");
            }
        }
        assert!(options["visible"] == json!(false) || options["label"].is_string(), "{id}: {options}");
    }
}

#[test]
fn the_on_call_dashboard_shows_every_alarm() {
    let alarms = alarms(&[]);
    let (_, body) = dashboards().into_iter().find(|(id, _)| id == "OnCallDashboard").expect("it is there");
    let widgets = list(&body["widgets"]);
    let shown: BTreeSet<_> = widgets
        .iter()
        .filter(|widget| widget["type"] == "alarm")
        .flat_map(|widget| list(&widget["properties"]["alarms"]))
        .map(text)
        .collect();
    // The two windows of a burn rate are behind their composite.
    let ids = [alarms.ids("AWS::CloudWatch::Alarm"), alarms.ids("AWS::CloudWatch::CompositeAlarm")].concat();
    let expected = ids.iter().filter(|id| !id.contains("BurnLong") && !id.contains("BurnShort"));
    let expected: BTreeSet<_> = expected
        .map(|id| {
            format!("arn:aws:cloudwatch:eu-west-1:123456789012:alarm:{}", text(&alarms.properties(id)["AlarmName"]))
        })
        .collect();
    assert_eq!(shown, expected);
}

#[test]
fn the_on_call_dashboard_links_every_runbook_or_names_it_where_there_is_no_url() {
    for (base, is_url) in [("infra/runbooks", false), ("https://example.com/runbooks", true)] {
        let body = body_of(&template().with(&[("RunbookBaseUrl", base)]), "OnCallDashboard");
        let widgets = list(&body["widgets"]).iter();
        let markdown: String = widgets.filter_map(|widget| widget["properties"]["markdown"].as_str()).collect();
        assert_eq!(markdown.contains("]("), is_url, "{markdown}");
        for file in super::runbooks::runbooks() {
            let link = if is_url { format!("]({base}/{file})") } else { format!(": {base}/{file}") };
            let beside = file == "README.md" || super::runbooks::BESIDE.contains(&file.as_str());
            assert!(beside || markdown.contains(&link), "{file} is not linked");
        }
    }
}

/// The rows of the first widget that has an expression of this id, as an alarm's queries.
fn queries(body: &Value, expression_id: &str) -> Vec<Value> {
    let widgets = list(&body["widgets"]).iter().map(|widget| &widget["properties"]["metrics"]);
    let rows =
        widgets.filter_map(Value::as_array).find(|rows| rows.iter().any(|row| list(row)[0]["id"] == *expression_id));
    let rows = rows.unwrap_or_else(|| panic!("no widget computes {expression_id}"));
    let expressions = rows.iter().filter_map(|row| list(row)[0].as_object());
    let query = |row: &serde_json::Map<String, Value>| json!({"Id": row["id"], "Expression": row["expression"], "ReturnData": row["id"] == *expression_id});
    expressions.map(query).collect()
}

#[test]
fn what_a_dashboard_computes_is_what_the_alarm_does() {
    let alarms = alarms(&[("BurnItemsMin", "1"), ("BurnBatchesMin", "1")]);
    let metrics: Vec<_> = [
        ("conflict", 1.0),
        ("failed", 2.0),
        ("rejected", 3.0),
        ("abandoned", 4.0),
        ("items", 500.0),
        ("errors", 7.0),
        ("failures", 3.0),
        ("invocations", 90.0),
        ("batches", 90.0),
        ("duration", 12_345.0),
        ("processed", 321.0),
        ("duplicates", 9.0),
        ("busy", 8.0),
        ("store_errors", 5.0),
        ("claims", 30.0),
        ("completions", 20.0),
    ]
    .map(|(id, value)| (id, Some(value)))
    .to_vec();
    let mut compared = 0;
    for (id, body) in dashboards() {
        for (expression_id, alarm, renamed) in [
            ("item_burn", "ItemBurnLongAlarm", None),
            ("batch_burn", "BatchBurnLongAlarm", Some(("failed", 7.0))),
            ("lost", "BatchLossAlarm", None),
            ("cost", "CostPerItemAlarm", None),
            ("duplicate_share", "DuplicatesAlarm", None),
            ("busy_share", "BusyAlarm", None),
            ("store_share", "StoreErrorsAlarm", Some(("errors", 5.0))),
        ] {
            if !body.to_string().contains(&format!("\"{expression_id}\"")) {
                continue;
            }
            let shown = value_of_queries(&queries(&body, expression_id), &metrics);
            let mut of_alarm = metrics.clone();
            of_alarm.extend(renamed.map(|(id, value)| (id, Some(value))));
            let watched = value_of_queries(list(&alarms.properties(alarm)["Metrics"]), &of_alarm);
            let (shown, watched) = (shown.expect("a value"), watched.expect("a value"));
            assert!((shown - watched).abs() < 1e-9 * watched.abs(), "{id}: {expression_id} is {shown}, not {watched}");
            compared += 1;
        }
    }
    assert_eq!(compared, 8, "seven, and the cost on two dashboards");
}

#[test]
fn success_is_what_the_burn_rate_leaves() {
    let (_, body) = dashboards().into_iter().find(|(id, _)| id == "ExecutiveDashboard").expect("it is there");
    let metrics = [("conflict", 1.0), ("failed", 2.0), ("rejected", 3.0), ("abandoned", 4.0), ("items", 1000.0)];
    let metrics = [&metrics[..], &[("errors", 2.0), ("invocations", 50.0)]].concat();
    let metrics: Vec<_> = metrics.into_iter().map(|(id, value)| (id, Some(value))).collect();
    assert_eq!(value_of_queries(&queries(&body, "item_success"), &metrics), Some(99.0));
    assert_eq!(value_of_queries(&queries(&body, "batch_success"), &metrics), Some(96.0));
}

#[test]
fn the_objectives_are_the_alarms() {
    let (dashboards, alarms) = (template(), alarms(&[]));
    for (name, parameter) in map(&dashboards.body()["Parameters"]) {
        let of_alarms = &alarms.body()["Parameters"][name];
        if !of_alarms.is_null() {
            for of in ["Type", "Default", "AllowedPattern", "MinValue", "MaxValue"] {
                assert_eq!(parameter[of], of_alarms[of], "{of} of {name}");
            }
        }
    }
}
