//! The figures of each function and queue, as text and as JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::advice::advice;
use super::plot::{Canvas, Unit, buckets, histogram};
use crate::numbers::{grouped, percent, short, whole};
use crate::telemetry::{Distribution, Gathered, Group, Lines, as_f64, moment};

/// The outcomes with the metrics that count them.
pub(crate) const OUTCOMES: [(&str, &str); 7] = [
    ("Processed", "ItemsProcessed"),
    ("Duplicate", "Duplicates"),
    ("Busy", "ItemsBusy"),
    ("Conflict", "ItemsConflict"),
    ("Failed", "ItemsFailed"),
    ("Rejected", "ItemsRejected"),
    ("Abandoned", "ItemsAbandoned"),
];
/// What is told of only where there is some.
const TROUBLES: [(&str, &str); 9] = [
    ("lost leases", "LostLeases"),
    ("effects after a lost lease", "EffectsAfterLostLease"),
    ("completions lost", "CompletionsLost"),
    ("releases lost", "ReleasesLost"),
    ("parks failed", "ParksFailed"),
    ("delays failed", "DelaysFailed"),
    ("store errors", "StoreErrors"),
    ("queue errors", "QueueErrors"),
    ("batches with the breaker open", "BreakerOpen"),
];
/// The distributions that are shown.
const SHOWN: [(&str, &str, Unit); 5] = [
    ("batch size", "BatchSize", Unit::Records),
    ("batch latency", "BatchLatency", Unit::Ms),
    ("item latency", "ItemLatency", Unit::Ms),
    ("item age", "ItemAge", Unit::Ms),
    ("claim latency", "ClaimLatency", Unit::Ms),
];
const SHARES: [(&str, u64); 3] = [("p50", 500), ("p90", 900), ("p99", 990)];

/// All groups, one after the other.
pub(super) fn text(gathered: &Gathered, timeout: Option<Duration>, canvas: Canvas) -> String {
    let groups: Vec<String> = gathered.groups.iter().map(|group| group_text(group, timeout, canvas)).collect();
    groups.join("\n\n")
}

fn group_text(group: &Group, timeout: Option<Duration>, canvas: Canvas) -> String {
    let mut lines = vec![group.title()];
    lines.extend(facts(group).into_iter().map(|(label, told)| format!("  {label:<10} {told}")));
    lines.push(String::new());
    lines.extend(percentiles(group));
    for (name, metric, unit) in SHOWN {
        let Some(distribution) = group.distribution(metric).filter(|values| values.count() > 0) else { continue };
        lines.push(String::new());
        lines.push(format!("  {name} (from)"));
        lines.extend(histogram(distribution, unit, canvas));
    }
    let advice = advice(group, timeout);
    if !advice.is_empty() {
        lines.push(String::new());
        lines.extend(advice.into_iter().map(|advice| format!("  advice: {advice}")));
    }
    lines.join("\n")
}

fn facts(group: &Group) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some((first, last)) = group.period_ms {
        facts.push(("time", format!("{} to {}", moment::shown(first), moment::shown(last))));
    }
    let rate = group.items_per_s().map_or_else(String::new, |rate| format!(", {} items a second", short(rate)));
    let size = group.mean("BatchSize").map_or_else(String::new, |size| format!(" of {} on average", short(size)));
    facts.push(("batches", format!("{}{size}", grouped(group.batches()))));
    facts.push(("items", format!("{}{rate}", whole(group.items()))));
    facts.push(("outcomes", outcomes(group)));
    facts.push(("rates", rates(group)));
    let some = |(name, metric): &(&str, &str)| {
        let sum = group.sum(metric);
        (sum > 0.0).then(|| format!("{} {name}", whole(sum)))
    };
    let troubles: Vec<String> = TROUBLES.iter().filter_map(some).collect();
    if !troubles.is_empty() {
        facts.push(("troubles", troubles.join(", ")));
    }
    facts
}

fn outcomes(group: &Group) -> String {
    let items = group.items();
    let mut told = Vec::new();
    let mut known = 0.0;
    for (outcome, metric) in OUTCOMES {
        let sum = group.sum(metric);
        known += sum;
        if sum > 0.0 {
            told.push(format!("{} {outcome} ({})", whole(sum), percent(sum, items)));
        }
    }
    let parked = group.sum("Parked");
    if parked > 0.0 {
        told.push(format!("{} of them parked", whole(parked)));
    }
    if known < items {
        // Without metrics only those items are known that have a log line, by default the failures.
        let why = if group.names.is_none() { " without a log line (MICROBATCH_ITEM_LOG=all)" } else { " not told" };
        told.push(format!("{}{why}", whole(items - known)));
    }
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}

fn rates(group: &Group) -> String {
    let of_batches = |metric, words: &str| {
        let tally = group.tally(metric);
        (tally.count > 0).then(|| format!("{} {words}", percent(tally.sum, as_f64(tally.count))))
    };
    let rates = [
        of_batches("PartialFailures", "failed in part"),
        of_batches("BatchFailures", "as a whole"),
        of_batches("ColdStart", "cold starts"),
    ];
    let rates: Vec<String> = rates.into_iter().flatten().collect();
    let rates = if rates.is_empty() { String::new() } else { format!("of batches {}; ", rates.join(", ")) };
    // Log lines tell of duplicates only if all items have one.
    let duplicates = percent(group.sum("Duplicates"), group.items());
    format!("{rates}of items {duplicates} duplicates")
}

fn percentiles(group: &Group) -> Vec<String> {
    let mut lines = vec![format!("  {:<14} {:>9} {:>9} {:>9} {:>9} {:>11}", "", "p50", "p90", "p99", "max", "values")];
    for (name, metric, unit) in SHOWN {
        let Some(values) = group.distribution(metric).filter(|values| values.count() > 0) else { continue };
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| unit.show(value));
        let [p50, p90, p99] = SHARES.map(|(_, share)| cell(values.permille(share)));
        let (max, count) = (cell(values.max()), grouped(values.count()));
        lines.push(format!("  {name:<14} {p50:>9} {p90:>9} {p99:>9} {max:>9} {count:>11}"));
    }
    lines
}

/// What the reader of the figures should know about the lines.
pub(super) fn notes(lines: &Lines) -> Vec<String> {
    let mut notes = Vec::new();
    let counted =
        |count: u64, what: &str| format!("{} line{} {what}", grouped(count), if count == 1 { "" } else { "s" });
    if lines.unreadable > 0 {
        notes.push(counted(lines.unreadable, "unreadable: cut off, or with values that no metric has"));
    }
    if lines.metrics > 0 && lines.batches + lines.items > 0 {
        notes.push(counted(lines.batches + lines.items, "of the log left out, since there are metrics lines"));
    }
    if lines.left_out > 0 {
        notes.push(counted(lines.left_out, "of other functions, queues or times left out"));
    }
    if lines.beyond > 0 {
        notes.push(counted(lines.beyond, "of still more functions and queues left out: choose some by --function"));
    }
    if lines.other > 0 {
        notes.push(counted(lines.other, "of other kinds skipped"));
    }
    notes
}

/// The same for programs.
pub(super) fn json(gathered: &Gathered, timeout: Option<Duration>) -> String {
    let groups: Vec<Value> = gathered.groups.iter().map(|group| group_json(group, timeout)).collect();
    let lines = &gathered.lines;
    let json = json!({
        "groups": groups,
        "lines": {
            "metrics": lines.metrics,
            "batch_log": lines.batches,
            "item_log": lines.items,
            "left_out": lines.left_out + lines.beyond,
            "unreadable": lines.unreadable,
            "other": lines.other,
        },
    });
    format!("{json:#}")
}

fn group_json(group: &Group, timeout: Option<Duration>) -> Value {
    let rate = |metric| {
        let tally = group.tally(metric);
        (tally.count > 0).then(|| tally.sum / as_f64(tally.count))
    };
    let of_items = |metric| (group.items() > 0.0).then(|| group.sum(metric) / group.items());
    let counts = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(_, metric)| ((*metric).to_owned(), json!(group.sum(metric))));
        Value::Object(pairs.collect::<Map<_, _>>())
    };
    let metrics = SHOWN.iter().filter_map(|(_, metric, unit)| {
        let values = group.distribution(metric).filter(|values| values.count() > 0)?;
        Some(((*metric).to_owned(), distribution_json(group, metric, values, *unit)))
    });
    json!({
        "function": group.names.as_ref().map(|names| &names.0),
        "queue": group.names.as_ref().map(|names| &names.1),
        "from": group.period_ms.map(|period| moment::shown(period.0)),
        "to": group.period_ms.map(|period| moment::shown(period.1)),
        "batches": group.batches(),
        "items": group.items(),
        "items_per_s": group.items_per_s(),
        "outcomes": counts(&OUTCOMES),
        "parked": group.sum("Parked"),
        "troubles": counts(&TROUBLES),
        "rates": {
            "partial_failures": rate("PartialFailures"),
            "batch_failures": rate("BatchFailures"),
            "cold_starts": rate("ColdStart"),
            "duplicates": of_items("Duplicates"),
        },
        "metrics": metrics.collect::<Map<_, _>>(),
        "advice": advice(group, timeout),
    })
}

fn distribution_json(group: &Group, metric: &str, values: &Distribution, unit: Unit) -> Value {
    let buckets = buckets(values, unit).into_iter();
    let buckets: Vec<Value> =
        buckets.map(|bucket| json!({"from": bucket.from, "to": bucket.to, "count": bucket.count})).collect();
    let mut json = json!({
        "count": values.count(),
        "sum": group.sum(metric),
        "max": values.max(),
        "buckets": buckets,
    });
    for (name, share) in SHARES {
        json[name] = json!(values.permille(share));
    }
    json
}
