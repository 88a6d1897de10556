//! A batch's report as spans: the batch, its decoding, each request, each item.
//!
//! Names and attributes follow OpenTelemetry's semantic conventions for messaging where they have some; what is microbatch's
//! own starts with `microbatch.`. None holds a payload, a key or an attribute's text (P13).

use std::{
    num::NonZeroU64,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use microbatch::{
    BatchReport, ItemReport, TraceParent,
    telemetry::{CallReport, RefusedBatch},
};
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{Event, Link, SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

/// Most links of one span; OpenTelemetry's own limit.
const LINKS_MAX: usize = 128;

/// The positions of spans that are no items' begin here: an item's index is far below.
const OTHERS_FROM: usize = 1 << 32;

/// The spans of a batch, its own first.
pub(super) fn of_report(
    report: &BatchReport<'_>,
    trace: TraceParent,
    function: &str,
    items_max: usize,
) -> Vec<SpanData> {
    let items = chosen(&report.items, items_max, |item| item.kind.is_none());
    // Of those with an error too: while a store is down they are many, and alike.
    let (failed, answered): (Vec<&CallReport>, Vec<&CallReport>) =
        report.calls.iter().partition(|call| call.errors > 0);
    let calls: Vec<&CallReport> =
        [failed, answered].iter().flat_map(|calls| chosen(calls, items_max, |_| true)).copied().collect();
    let mut spans = Vec::with_capacity(2 + items.len() + calls.len());
    spans.push(batch(report, trace, function, &items));
    spans.push(decode(report, trace));
    let numbered = calls.into_iter().enumerate();
    spans.extend(numbered.map(|(n, call_report)| call(call_report, trace.of_item(OTHERS_FROM + 1 + n), trace)));
    let destination = destination(report.queue_arn);
    spans.extend(items.into_iter().map(|item_report| item(item_report, report, trace, &destination)));
    spans
}

/// The one span of a batch of which nothing is known.
pub(super) fn of_refused(refused: &RefusedBatch<'_>, trace: TraceParent, function: &str) -> SpanData {
    let ends_ms = refused.received_ms.saturating_add(refused.elapsed_ms);
    let attributes = vec![
        KeyValue::new("messaging.system", "aws_sqs"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("faas.name", function.to_owned()),
        KeyValue::new("faas.invocation_id", refused.batch_id.to_owned()),
        KeyValue::new("error.type", refused.error),
    ];
    let times = (refused.received_ms, ends_ms);
    SpanData {
        attributes,
        status: Status::error(refused.error),
        ..span("process", SpanKind::Consumer, trace, None, times)
    }
}

/// The batch's own span is the invocation's child.
pub(super) fn set_parent(span: &mut SpanData, parent: TraceParent) {
    span.parent_span_id = SpanId::from(parent.span_id.get());
    span.parent_span_is_remote = true;
}

/// All that matter, and so many of the others, spread evenly over the batch; in their order.
fn chosen<T>(all: &[T], others_max: usize, is_other: impl Fn(&T) -> bool) -> Vec<&T> {
    let others = all.iter().filter(|one| is_other(one)).count();
    let mut seen = 0;
    let mut chosen = Vec::with_capacity(all.len() - others + others.min(others_max));
    for one in all {
        if !is_other(one) {
            chosen.push(one);
            continue;
        }
        // Taken whenever the share of those seen passes a whole number: exactly `others_max` of them, evenly.
        let before = seen * others_max / others;
        seen += 1;
        if others <= others_max || seen * others_max / others > before {
            chosen.push(one);
        }
    }
    chosen
}

fn batch(report: &BatchReport<'_>, trace: TraceParent, function: &str, items: &[&ItemReport<'_>]) -> SpanData {
    let acknowledged = report.acknowledged();
    let queue = destination(report.queue_arn);
    let mut attributes = vec![
        KeyValue::new("messaging.system", "aws_sqs"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.destination.name", queue.clone()),
        KeyValue::new("messaging.batch.message_count", whole(report.items.len())),
        KeyValue::new("faas.name", function.to_owned()),
        KeyValue::new("faas.invocation_id", report.batch_id.to_owned()),
        KeyValue::new("microbatch.acknowledged", whole(acknowledged)),
        KeyValue::new("microbatch.reported", whole(report.items.len() - acknowledged)),
        KeyValue::new("microbatch.items_without_span", whole(report.items.len() - items.len())),
        KeyValue::new("microbatch.requests", whole(report.calls.len())),
        KeyValue::new("microbatch.requests_failed", whole(report.calls.iter().filter(|call| call.errors > 0).count())),
        KeyValue::new("microbatch.concurrency_limit", whole(report.control.limit)),
        KeyValue::new("microbatch.breaker", report.control.breaker.as_str()),
    ];
    attributes.extend(report.failed.map(|error| KeyValue::new("error.type", error)));
    // An item with a span of its own has its link there.
    let mut with_span = items.iter().map(|item| item.index).peekable();
    let without_span = report.items.iter().filter(|item| with_span.next_if_eq(&item.index).is_none());
    let senders: Vec<TraceParent> = without_span.filter_map(|item| item.sender).collect();
    let times = (report.received_ms, report.received_ms.saturating_add(report.elapsed_ms));
    SpanData {
        attributes,
        links: links(&senders),
        status: report.failed.map_or(Status::Unset, Status::error),
        ..span(format!("process {queue}"), SpanKind::Consumer, trace, None, times)
    }
}

fn decode(report: &BatchReport<'_>, trace: TraceParent) -> SpanData {
    let times = (report.received_ms, report.decoded_ms.max(report.received_ms));
    let attributes = vec![KeyValue::new("microbatch.bytes", whole(report.bytes))];
    SpanData {
        attributes,
        ..span("decode", SpanKind::Internal, trace.of_item(OTHERS_FROM), Some(trace.span_id), times)
    }
}

fn call(call: &CallReport, own: TraceParent, batch: TraceParent) -> SpanData {
    let attributes = vec![
        KeyValue::new("microbatch.entries", whole(call.entries)),
        KeyValue::new("microbatch.errors", whole(call.errors)),
    ];
    let times = (call.started_ms, call.ended_ms);
    let status = if call.errors == 0 { Status::Unset } else { Status::error("answers were errors") };
    SpanData { attributes, status, ..span(call.kind.as_str(), SpanKind::Client, own, Some(batch.span_id), times) }
}

/// From the claim to the outcome. One that was never claimed has no length.
fn item(item: &ItemReport<'_>, report: &BatchReport<'_>, batch: TraceParent, destination: &str) -> SpanData {
    let started_ms = item.claimed_ms.unwrap_or(report.received_ms);
    let ended_ms = started_ms.saturating_add(item.elapsed_ms.unwrap_or(0));
    let mut attributes = vec![
        KeyValue::new("messaging.system", "aws_sqs"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.message.id", item.message_id.to_owned()),
        KeyValue::new("microbatch.index", whole(item.index)),
        KeyValue::new("microbatch.outcome", item.outcome.as_str()),
        KeyValue::new("microbatch.acknowledged", item.is_acknowledged()),
    ];
    attributes.extend(item.code.map(|code| KeyValue::new("microbatch.code", code)));
    attributes.extend(item.error_type.map(|error_type| KeyValue::new("error.type", error_type)));
    attributes.extend(item.attempt.map(|attempt| KeyValue::new("microbatch.attempt", number(attempt))));
    attributes.extend(item.tries.map(|tries| KeyValue::new("microbatch.tries", number(tries))));
    attributes.extend(item.age_ms.map(|age_ms| KeyValue::new("microbatch.age_ms", number(age_ms))));
    let called = item.started_ms.map(|at_ms| Event::new("processor called", time(at_ms), Vec::new(), 0));
    let returned = item.ended_ms.map(|at_ms| Event::new("processor ended", time(at_ms), Vec::new(), 0));
    let mut events = SpanEvents::default();
    events.events = called.into_iter().chain(returned).collect();
    let own = batch.of_item(item.index);
    let status = item.kind.map_or(Status::Unset, |kind| Status::error(item.code.unwrap_or(kind.as_str())));
    SpanData {
        attributes,
        events,
        links: links(item.sender.as_slice()),
        status,
        ..span(
            format!("process {destination} item"),
            SpanKind::Consumer,
            own,
            Some(batch.span_id),
            (started_ms, ended_ms),
        )
    }
}

fn span(
    name: impl Into<std::borrow::Cow<'static, str>>,
    span_kind: SpanKind,
    own: TraceParent,
    parent: Option<NonZeroU64>,
    (started_ms, ended_ms): (u64, u64),
) -> SpanData {
    SpanData {
        span_context: context(own, false),
        parent_span_id: parent.map_or(SpanId::INVALID, |id| SpanId::from(id.get())),
        parent_span_is_remote: false,
        span_kind,
        name: name.into(),
        start_time: time(started_ms),
        end_time: time(ended_ms.max(started_ms)),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("microbatch")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

fn links(senders: &[TraceParent]) -> SpanLinks {
    let kept = &senders[..senders.len().min(LINKS_MAX)];
    let mut links = SpanLinks::default();
    links.links = kept.iter().map(|sender| Link::new(context(*sender, true), Vec::new(), 0)).collect();
    links.dropped_count = u32::try_from(senders.len() - kept.len()).unwrap_or(u32::MAX);
    links
}

fn context(parent: TraceParent, is_remote: bool) -> SpanContext {
    let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let trace_id = TraceId::from(parent.trace_id.get());
    SpanContext::new(trace_id, SpanId::from(parent.span_id.get()), flags, is_remote, TraceState::default())
}

/// The queue's name.
fn destination(arn: Option<&str>) -> String {
    crate::metrics::queue_name_of(arn).unwrap_or("unknown").to_owned()
}

fn time(at_ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at_ms)
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
