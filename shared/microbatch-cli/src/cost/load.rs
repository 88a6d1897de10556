//! The workload: what was given, else what was measured, else what is assumed; each figure with where it comes from.

use microbatch_aws::metrics::METRICS;
use serde_json::{Value, json};

use super::model::{Architecture, Load, Shares};
use crate::args::Figures;
use crate::numbers::{grouped, percent, short, whole};
use crate::telemetry::{Gathered, Group, as_f64};

/// Bytes of what surrounds a body in an event.
const ENVELOPE_BYTES: f64 = 940.0;
/// Bytes of a batch's metrics line and log line, when none was measured.
const LINES_BYTES: f64 = 3_000.0;
/// Bytes of Lambda's own lines of an invocation: START, END, REPORT.
const LAMBDA_LINES_BYTES: f64 = 450.0;
/// Bytes that `CloudWatch` counts beside each line's own.
const LINE_OVERHEAD_BYTES: f64 = 26.0;
/// Lines of Lambda's own of an invocation: a log with fewer others than these holds only a choice of lines.
const LAMBDA_LINES: u64 = 3;

/// Where a figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Given,
    Measured,
    Assumed,
}

impl Origin {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Measured => "measured",
            Self::Assumed => "assumed",
        }
    }
}

/// A figure that the cost depends on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) shown: String,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// A workload with its figures.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) load: Load,
    pub(super) figures: Vec<Figure>,
}

/// What logs say of the workload.
#[derive(Clone, Copy)]
pub(super) struct Measured<'a> {
    pub(super) group: &'a Group,
    pub(super) log_bytes_per_batch: f64,
}

impl<'a> Measured<'a> {
    /// Lines that name no function count as if each batch had as much of them.
    pub(super) fn new(gathered: &'a Gathered, group: &'a Group) -> Self {
        let lines = &gathered.lines;
        let all: u64 = gathered.groups.iter().map(Group::batches).sum();
        let all = as_f64(all.max(1));
        let own = if group.names.is_some() { as_f64(group.bytes) / as_f64(group.batches().max(1)) } else { 0.0 };
        let others = as_f64(lines.unattributed_bytes) / all;
        let count = as_f64(lines.metrics + lines.batches + lines.items + lines.other) / all;
        let is_whole = as_f64(lines.other) >= all * as_f64(LAMBDA_LINES);
        let lambda = if is_whole { 0.0 } else { LAMBDA_LINES_BYTES };
        Self { group, log_bytes_per_batch: own + others + lambda + count * LINE_OVERHEAD_BYTES }
    }

    fn batch_size(&self) -> Option<f64> {
        let (batches, items) = (self.group.batches(), self.group.items());
        (batches > 0 && items > 0.0).then(|| (items / as_f64(batches)).max(1.0))
    }

    fn share(&self, metric: &str) -> f64 {
        (self.group.sum(metric) / self.group.items()).clamp(0.0, 1.0)
    }

    /// Items of which nothing is told are those that have no log line by default: their work is done.
    fn shares(&self) -> Shares {
        let share = |metric| self.share(metric);
        let mut shares = Shares {
            processed: share("ItemsProcessed"),
            duplicate: share("Duplicates"),
            busy: share("ItemsBusy"),
            conflict: share("ItemsConflict"),
            failed: share("ItemsFailed"),
            rejected: share("ItemsRejected"),
            abandoned: share("ItemsAbandoned"),
            parked: share("Parked"),
            claimed: 0.0,
        };
        shares.processed += (1.0 - sum(&shares)).max(0.0);
        // An item's latency is told if a claim was sent for it.
        let claims = as_f64(self.group.tally("ItemLatency").count) / self.group.items();
        let is_complete = self.group.names.is_some() && claims > 0.0;
        shares.claimed = if is_complete { claims.min(1.0) } else { 1.0 - shares.abandoned };
        shares
    }
}

fn sum(shares: &Shares) -> f64 {
    let Shares { processed, duplicate, busy, conflict, failed, rejected, abandoned, .. } = shares;
    processed + duplicate + busy + conflict + failed + rejected + abandoned
}

/// Puts the workload together.
///
/// # Errors
/// When the given shares are more than all.
pub(super) fn workload(given: &Figures, measured: Option<Measured<'_>>) -> Result<Workload, String> {
    let mut chooser = Chooser { figures: Vec::new() };
    let mean = |metric| measured.and_then(|measured| measured.group.mean(metric)).filter(|mean: &f64| *mean > 0.0);
    let measured_size = measured.and_then(|measured| measured.batch_size());
    let batch_size = chooser.number("batch size", "", given.batch_size, measured_size, 10.0);
    let item_ms = chooser.number("item latency", " ms", given.item_latency_ms, mean("ItemLatency"), 20.0);
    let concurrency = chooser.number("concurrency", "", given.concurrency, mean("ConcurrencyLimit"), 64.0);
    let memory_mb = chooser.number("memory", " MB", given.memory_mb.map(f64::from), None, 256.0);
    let architecture = chooser.architecture(given.architecture);
    let cold_measured = measured.and_then(|measured| measured.group.mean("ColdStart"));
    let cold_starts = chooser.share("cold starts of batches", given.cold_start_percent, cold_measured);
    let init_ms = chooser.number("time of a cold start", " ms", given.init_ms, None, 100.0);
    let is_fifo = chooser.fifo(given.fifo, measured);
    // A stand-in for SQS has shorter envelopes, and then says nothing of bodies.
    let body = mean("BatchBytes").zip(measured_size).map(|(bytes, size)| bytes / size - ENVELOPE_BYTES);
    let body = body.filter(|bytes| *bytes >= 1.0);
    let message_bytes = chooser.number("message", " bytes", given.message_bytes.map(f64::from), body, 1_024.0);
    let sends = given.sends_per_request.map(f64::from);
    let sends_per_request = chooser.number("messages in a send request", "", sends, None, 10.0);
    let shares = chooser.shares(given, measured)?;
    let is_transactional = chooser.yes_or_no("completion in a transaction", given.transactional);
    let own = if is_transactional { 1.0 } else { 0.0 };
    let writes_per_item = chooser.number("own write units of an item", "", given.writes_per_item, None, own);
    let record_bytes = chooser.number("record", " bytes", given.record_bytes.map(f64::from), None, 400.0);
    let retention_days = chooser.number("records kept for", " days", given.retention_days, None, 22.0);
    let log = measured.map(|measured| measured.log_bytes_per_batch);
    let lines = LINES_BYTES + LAMBDA_LINES_BYTES;
    let log_bytes_per_batch =
        chooser.number("log of a batch", " bytes", given.log_bytes_per_batch.map(f64::from), log, lines);
    let named = measured.filter(|measured| measured.group.names.is_some());
    let metrics = named.map(|measured| as_f64(measured.group.metrics() as u64));
    let metrics = chooser.number("metrics", "", given.metrics.map(f64::from), metrics, as_f64(METRICS.len() as u64));

    let mut load = Load {
        batch_size,
        item_ms,
        concurrency,
        duration_scale: 1.0,
        memory_mb,
        architecture,
        cold_starts,
        init_ms,
        is_fifo,
        message_bytes,
        sends_per_request,
        shares,
        is_transactional,
        writes_per_item,
        record_bytes,
        retention_days,
        log_bytes_per_batch,
        metrics,
    };
    // What was measured scales what is computed, also for another batch size than was measured.
    let (origin, scale) = match (given.batch_latency_ms, mean("BatchLatency")) {
        (Some(given_ms), _) => (Origin::Given, given_ms / load.unscaled_ms()),
        (None, Some(measured_ms)) => {
            let as_measured = Load {
                batch_size: measured_size.unwrap_or(batch_size),
                item_ms: mean("ItemLatency").unwrap_or(item_ms),
                concurrency: mean("ConcurrencyLimit").unwrap_or(concurrency),
                ..load.clone()
            };
            (Origin::Measured, measured_ms / as_measured.unscaled_ms())
        }
        (None, None) => (Origin::Assumed, 1.0),
    };
    load.duration_scale = scale;
    let duration_ms = load.duration_ms();
    let shown = format!("{} ms", short(duration_ms));
    chooser.figures.insert(1, Figure { name: "batch latency", shown, value: json!(duration_ms), origin });
    Ok(Workload { load, figures: chooser.figures })
}

/// Chooses figures and notes each choice.
struct Chooser {
    figures: Vec<Figure>,
}

impl Chooser {
    fn note(&mut self, name: &'static str, shown: String, value: Value, origin: Origin) {
        self.figures.push(Figure { name, shown, value, origin });
    }

    fn number(
        &mut self,
        name: &'static str,
        unit: &str,
        given: Option<f64>,
        measured: Option<f64>,
        assumed: f64,
    ) -> f64 {
        let (value, origin) = choose(given, measured, assumed);
        self.note(name, format!("{}{unit}", short(value)), json!(value), origin);
        value
    }

    fn share(&mut self, name: &'static str, given_percent: Option<f64>, measured: Option<f64>) -> f64 {
        let (value, origin) = choose(given_percent.map(|percent| percent / 100.0), measured, 0.0);
        self.note(name, percent(value, 1.0), json!(value), origin);
        value
    }

    fn yes_or_no(&mut self, name: &'static str, given: bool) -> bool {
        let origin = if given { Origin::Given } else { Origin::Assumed };
        self.note(name, if given { "yes" } else { "no" }.to_owned(), json!(given), origin);
        given
    }

    fn architecture(&mut self, given: Option<Architecture>) -> Architecture {
        let value = given.unwrap_or(Architecture::X86_64);
        let name = match value {
            Architecture::X86_64 => "x86_64",
            Architecture::Arm64 => "arm64",
        };
        let origin = if given.is_some() { Origin::Given } else { Origin::Assumed };
        self.note("architecture", name.to_owned(), json!(name), origin);
        value
    }

    fn fifo(&mut self, given: bool, measured: Option<Measured<'_>>) -> bool {
        let names = measured.and_then(|measured| measured.group.names.as_ref());
        let (value, origin) = match names {
            _ if given => (true, Origin::Given),
            Some((_, queue)) => (queue.strip_suffix(".fifo").is_some(), Origin::Measured),
            None => (false, Origin::Assumed),
        };
        self.note("queue", if value { "FIFO" } else { "standard" }.to_owned(), json!(value), origin);
        value
    }

    fn shares(&mut self, given: &Figures, measured: Option<Measured<'_>>) -> Result<Shares, String> {
        let of_measured = measured.map(|measured| measured.shares());
        let plain = Shares { processed: 1.0, claimed: 1.0, ..Shares::default() };
        let mut shares = of_measured.unwrap_or(plain);
        let is_measured = of_measured.is_some();
        let names = [
            ("duplicates", given.duplicate_percent, &mut shares.duplicate),
            ("failed items", given.failed_percent, &mut shares.failed),
            ("rejected items", given.rejected_percent, &mut shares.rejected),
        ];
        let mut is_given = false;
        for (name, given_percent, share) in names {
            *share = self.share(name, given_percent, is_measured.then_some(*share));
            is_given |= given_percent.is_some();
        }
        if given.rejected_percent.is_some() {
            shares.parked = shares.rejected;
        }
        if is_given {
            let rest = sum(&shares) - shares.processed;
            // A sum of percents may come out a little over 1.
            if rest > 1.0 + 1e-9 {
                let found = percent(rest, 1.0);
                return Err(format!(
                    "duplicates, failed, rejected and other unfinished items are {found} of all items"
                ));
            }
            shares.processed = (1.0 - rest).max(0.0);
        }
        let others = shares.busy + shares.conflict + shares.abandoned;
        if others > 0.0 {
            self.note("busy, conflicting, abandoned", percent(others, 1.0), json!(others), Origin::Measured);
        }
        let origin = if is_measured { Origin::Measured } else { Origin::Assumed };
        self.note("items that are claimed", percent(shares.claimed, 1.0), json!(shares.claimed), origin);
        Ok(shares)
    }
}

fn choose(given: Option<f64>, measured: Option<f64>, assumed: f64) -> (f64, Origin) {
    match (given, measured) {
        (Some(given), _) => (given, Origin::Given),
        (None, Some(measured)) => (measured, Origin::Measured),
        (None, None) => (assumed, Origin::Assumed),
    }
}

/// What a workload was measured on.
pub(super) fn measured_on(group: &Group) -> String {
    let of = |number: u64, what: &str| format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "es" });
    format!("{}, {} items", of(group.batches(), "batch"), whole(group.items()))
}
