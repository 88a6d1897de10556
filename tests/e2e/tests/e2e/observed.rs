//! What real functions tell of themselves: metrics in CloudWatch's format, and spans to a collector.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use e2e::events::{body, event, message_id};
use e2e::otlp::{OtlpReceiver, attribute};
use e2e::stack::{Stack, reported};
use microbatch_aws::metrics::{DIMENSIONS, METRICS, NAMESPACE};
use microbatch_local::runtime_api::InvocationResult;
use microbatch_testkit::emf::EmfLine;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use serde_json::{Value, json};

use crate::infra;

const TIMEOUT: Duration = Duration::from_secs(20);

/// The lines of metrics that a function wrote, each checked against the format.
async fn metrics(stack: &Stack) -> Vec<EmfLine> {
    stack.function.stop().await;
    let lines = stack.lines();
    let lines = lines.iter().filter(|line| line.contains("\"_aws\""));
    lines.map(|line| EmfLine::read(line).unwrap_or_else(|rule| panic!("{rule}: {line}"))).collect()
}

/// What alarms, dashboards and runbooks name, what the reference page lists, and what a real function emits.
#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_is_named_or_described_is_emitted_by_a_real_function_and_no_other() {
    let stack = Stack::process_orders(&[("AWS_LAMBDA_LOG_LEVEL", "ERROR")]).await;
    let events = e2e::paths::events_dir();
    for name in ["orders.json", "failures.json"] {
        let event = std::fs::read_to_string(events.join(name)).expect("a sample event");
        stack.failures_of(event, TIMEOUT).await;
    }
    let lines = metrics(&stack).await;
    assert_eq!(lines.len(), 2, "one a batch, also where Lambda lets only errors through");
    let described: BTreeSet<(String, String)> =
        METRICS.iter().map(|metric| (metric.name.to_owned(), metric.unit.name().to_owned())).collect();
    for line in &lines {
        let emitted: BTreeSet<(String, String)> =
            line.metrics.iter().map(|(name, (unit, _))| (name.clone(), unit.clone())).collect();
        assert_eq!(emitted, described);
        assert_eq!(line.namespace, NAMESPACE);
        assert_eq!(line.dimensions.keys().map(String::as_str).collect::<Vec<_>>(), DIMENSIONS);
        assert_eq!(line.root["level"], "ERROR");
    }
    let emitted: BTreeSet<String> = lines.iter().flat_map(|line| line.metrics.keys().cloned()).collect();
    assert_eq!(emitted, infra::metrics::ours(), "the reference page");
    let named = infra::metrics::all_named();
    assert_eq!(infra::metrics::problems(&named, &emitted), Vec::<String>::new(), "alarms, dashboards and runbooks");
    let of = |metric: &str| lines.iter().map(|line| line.sum(metric)).collect::<Vec<_>>();
    assert_eq!(of("Items"), [5.0, 5.0]);
    assert_eq!(of("ItemsProcessed"), [5.0, 3.0]);
    assert_eq!(of("PartialFailures"), [0.0, 1.0]);
    assert_eq!(of("ColdStart"), [1.0, 0.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_switched_off_and_renamed_by_settings() {
    let off = Stack::scripted(&[("MICROBATCH_METRICS", "off")]).await;
    off.warm_up().await;
    let named = Stack::scripted(&[("MICROBATCH_METRICS_NAMESPACE", "Shop/Orders")]).await;
    named.warm_up().await;
    assert!(metrics(&off).await.is_empty());
    let lines = metrics(&named).await;
    assert_eq!(lines.iter().map(|line| line.namespace.as_str()).collect::<Vec<_>>(), ["Shop/Orders"]);
}

// --- traces -----------------------------------------------------------------------------------------------------------

const W3C: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const XRAY: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";

/// Two that succeed, one that fails, one that cannot be decoded; two senders are traced, each in its own way.
fn mixed() -> String {
    let bodies = [body("a", "ok"), body("b", "ok"), body("c", "fail"), json!("no object")];
    let mut event: Value = serde_json::from_str(&event(&bodies)).expect("JSON");
    event["Records"][0]["messageAttributes"]["traceparent"] = json!({"stringValue": W3C, "dataType": "String"});
    event["Records"][2]["attributes"]["AWSTraceHeader"] = json!(XRAY);
    event.to_string()
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == i32::from(StatusCode::Error))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_batch_is_a_tree_of_spans_linked_to_its_senders() {
    let receiver = OtlpReceiver::start(true).await;
    let url = receiver.endpoint_url();
    let stack = Stack::scripted(&[("MICROBATCH_TRACES", "all"), ("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]).await;
    let failed = stack.failures_of(mixed(), TIMEOUT).await;
    // They came before the response.
    let (spans, resource) = receiver.spans();
    assert_eq!(attribute(&resource, "service.name").as_deref(), Some("scripted"));

    let batch = spans.iter().find(|span| span.name == "process scripted").expect("the batch's span");
    assert!(!batch.parent_span_id.is_empty(), "Lambda announces its span");
    assert_eq!(attribute(&batch.attributes, "messaging.batch.message_count").as_deref(), Some("4"));
    assert_eq!(attribute(&batch.attributes, "microbatch.reported").as_deref(), Some("2"));
    let children: Vec<&Span> = spans.iter().filter(|span| span.span_id != batch.span_id).collect();
    assert!(children.iter().all(|span| span.parent_span_id == batch.span_id && span.trace_id == batch.trace_id));
    let ids: BTreeSet<&[u8]> = spans.iter().map(|span| &span.span_id[..]).collect();
    assert_eq!(ids.len(), spans.len(), "no id stands twice");
    for span in &children {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        assert!(batch.start_time_unix_nano <= span.start_time_unix_nano, "{span:?}");
    }
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for span in &children {
        *names.entry(&span.name).or_default() += 1;
    }
    assert_eq!(names["decode"], 1);
    assert!(names["claim"] >= 1 && names["complete"] >= 1 && names["release"] >= 1, "{names:?}");

    let mut items: Vec<&Span> = children.into_iter().filter(|span| span.name == "process scripted item").collect();
    items.sort_by_key(|span| attribute(&span.attributes, "messaging.message.id"));
    let said = |key: &str| items.iter().map(|span| attribute(&span.attributes, key)).collect::<Vec<_>>();
    assert_eq!(said("messaging.message.id"), [0, 1, 2, 3].map(|n| Some(message_id(n))));
    let outcomes = ["Processed", "Processed", "Failed", "Rejected"].map(|outcome| Some(outcome.to_owned()));
    assert_eq!(said("microbatch.outcome"), outcomes);
    assert_eq!(items.iter().map(|span| is_error(span)).collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(failed, [message_id(2), message_id(3)]);
    let links: Vec<Vec<(String, String)>> = items
        .iter()
        .map(|span| span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect())
        .collect();
    let w3c = ("0af7651916cd43dd8448eb211c80319c".to_owned(), "b7ad6b7169203331".to_owned());
    let xray = ("5759e988bd862e3fe1be46a994272793".to_owned(), "53995c3f42cd8ad8".to_owned());
    assert_eq!(links, [vec![w3c], vec![], vec![xray], vec![]]);
    assert_eq!(items[0].events.len(), 2, "the processor was called, and returned");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_large_batch_some_spans_are_kept_and_those_of_failures_always() {
    let receiver = OtlpReceiver::start(true).await;
    let url = receiver.endpoint_url();
    let variables =
        [("MICROBATCH_TRACES", "all"), ("MICROBATCH_TRACE_ITEMS_MAX", "10"), ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url)];
    let stack = Stack::scripted(&variables).await;
    let bodies: Vec<Value> =
        (0..1_000).map(|n| body(&format!("k-{n}"), if n % 50 == 7 { "permanent" } else { "ok" })).collect();
    let failed = stack.failures_of(event(&bodies), TIMEOUT).await;
    assert_eq!(failed.len(), 20);
    let (spans, _) = receiver.spans();
    let items: Vec<&Span> = spans.iter().filter(|span| span.name == "process scripted item").collect();
    let kept: BTreeSet<String> = items
        .iter()
        .filter(|span| is_error(span))
        .filter_map(|span| attribute(&span.attributes, "messaging.message.id"))
        .collect();
    assert_eq!(kept, failed.into_iter().collect());
    assert_eq!(items.len(), 20 + 10);
}

/// P10: with an item that hangs and a collector that does, the response is there before the function's time is over.
#[tokio::test(flavor = "multi_thread")]
async fn p10_a_collector_that_hangs_does_not_delay_the_response_beyond_its_bound() {
    let receiver = OtlpReceiver::start(false).await;
    let url = receiver.endpoint_url();
    let variables =
        [("MICROBATCH_TRACES", "all"), ("MICROBATCH_TRACE_FLUSH_MS", "300"), ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url)];
    let stack = Stack::scripted(&variables).await;
    let bodies = [body("a", "ok"), body("b", "hang")];
    // The Runtime API kills the function at this time-out.
    let answer = stack.invoke(event(&bodies), Duration::from_secs(4)).await.expect("an answer in time");
    let InvocationResult::Response(response) = answer else { panic!("expected a response, found {answer:?}") };
    assert_eq!(reported(&response).expect("a batch response"), [message_id(1)]);
    // No export for a while: a collector that hangs does not cost each batch its time.
    stack.warm_up().await;
    assert_eq!(receiver.bodies().len(), 1);
    stack.function.stop().await;
    let lines = stack.lines();
    let told = lines.iter().filter(|line| line.contains("export_timed_out")).count();
    assert_eq!(told, 1, "once a minute: {lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_invocation_is_not_sampled_is_not_traced_unless_all_are() {
    let receiver = OtlpReceiver::start(true).await;
    let url = receiver.endpoint_url();
    let variables = [("MICROBATCH_TRACES", "sampled"), ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url)];
    let stack = Stack::scripted(&variables).await;
    stack.failures_of(mixed(), TIMEOUT).await;
    assert!(receiver.bodies().is_empty(), "the local Runtime API announces invocations that are not sampled");
}
