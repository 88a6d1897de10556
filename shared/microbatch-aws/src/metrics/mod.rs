//! Metrics: one line of CloudWatch's embedded metric format for each batch, on standard output.
//!
//! CloudWatch Logs makes metrics of such lines, without a request of the function's own ("Embedding metrics within logs").
//! Each metric has the dimensions `function` and `queue` and no other: what there is to pay for does not grow with the
//! load. [`METRICS`] lists them. Every line carries every count, zeros too, so that averages are rates; a latency of which
//! there was no observation is left out.

mod catalogue;
mod histogram;

use std::{
    collections::BTreeSet,
    io::{Stdout, Write, stdout},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use aws_smithy_types::{DateTime, date_time::Format as DateFormat};
use metrique_writer_core::{Entry, EntryWriter, MetricFlags, Observation, Value, ValueWriter, format::Format as _};
use metrique_writer_format_emf::Emf;
use microbatch::{
    BatchReport, Outcome, Recorder,
    control::BreakerState,
    telemetry::{CallKind, RefusedBatch},
};

use self::catalogue as metric;
pub use self::catalogue::{METRICS, Metric};

/// The dimensions of every metric.
pub const DIMENSIONS: [&str; 2] = ["function", "queue"];

/// The namespace where none is set.
pub const NAMESPACE: &str = "microbatch";

/// Most queues that one process names: the names come with the events, and each makes metrics that cost.
const QUEUES_MAX: usize = 8;

/// The queue of a batch that does not say where it comes from.
const UNKNOWN_QUEUE: &str = "unknown";

/// The queue of a batch from one queue too many.
const OTHER_QUEUE: &str = "other";

/// What stands in every line of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSettings {
    /// The metrics' namespace.
    pub namespace: String,
    /// The function's name, a dimension.
    pub function: String,
    /// The function's version.
    pub version: String,
    /// The least serious level that Lambda lets through, in capitals: lines of a lower level, or of none, are dropped
    /// where the function logs JSON ("Log-level filtering").
    pub level: String,
}

impl MetricsSettings {
    /// What Lambda's own variables say, with this namespace.
    pub fn from_env(namespace: String) -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let level = text("AWS_LAMBDA_LOG_LEVEL").map(|level| level.to_ascii_uppercase());
        let known = |level: &String| ["TRACE", "DEBUG", "WARN", "ERROR", "FATAL"].contains(&level.as_str());
        Self {
            namespace,
            function: text("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|| "unknown".to_owned()),
            version: text("AWS_LAMBDA_FUNCTION_VERSION").unwrap_or_else(|| "$LATEST".to_owned()),
            level: level.filter(known).unwrap_or_else(|| "INFO".to_owned()),
        }
    }
}

/// Writes a line for each batch.
pub struct MetricsRecorder<W = Stdout> {
    settings: MetricsSettings,
    warm: AtomicBool,
    inner: Mutex<Inner<W>>,
}

struct Inner<W> {
    emf: Emf,
    out: W,
    text: Vec<u8>,
    queues: BTreeSet<String>,
}

impl MetricsRecorder {
    /// A recorder that writes to standard output, as Lambda wants it.
    pub fn new(settings: MetricsSettings) -> Self {
        Self::to(settings, stdout())
    }
}

impl<W: Write> MetricsRecorder<W> {
    /// A recorder that writes to `out`.
    pub fn to(settings: MetricsSettings, out: W) -> Self {
        let dimensions = DIMENSIONS.iter().map(|&name| name.to_owned()).collect();
        let emf = Emf::builder(settings.namespace.clone(), vec![dimensions]).build();
        let inner = Inner { emf, out, text: Vec::new(), queues: BTreeSet::new() };
        Self { settings, warm: AtomicBool::new(false), inner: Mutex::new(inner) }
    }

    fn is_cold_start(&self) -> bool {
        !self.warm.swap(true, Ordering::Relaxed)
    }

    fn write(&self, queue_arn: Option<&str>, line: &Line<'_>) {
        let Inner { emf, out, text, queues } = &mut *self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = dimension(queues, queue_arn);
        text.clear();
        // Neither can be mended here, and neither may change what becomes of the batch.
        if emf.format(&Entered { settings: &self.settings, queue, line }, text).is_ok() {
            let _unwritten = out.write_all(text).and_then(|()| out.flush());
        }
    }
}

/// The queue's name as a dimension: bounded in number and in form. A batch that does not say where it is from came from
/// where all others do.
fn dimension<'a>(queues: &'a mut BTreeSet<String>, arn: Option<&'a str>) -> &'a str {
    let Some(name) = queue_name_of(arn) else {
        return match queues.first() {
            Some(only) if queues.len() == 1 => only,
            _ => UNKNOWN_QUEUE,
        };
    };
    if !queues.contains(name) {
        if queues.len() >= QUEUES_MAX {
            return OTHER_QUEUE;
        }
        queues.insert(name.to_owned());
    }
    name
}

/// The queue's name in an ARN; none where that is no name of a queue. It came with an event, and goes to metrics and
/// traces.
pub(crate) fn queue_name_of(arn: Option<&str>) -> Option<&str> {
    let (_, name) = arn?.rsplit_once(':')?;
    let is_name = (1..=80).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    is_name.then_some(name)
}

impl<W: Write + Send + 'static> Recorder for MetricsRecorder<W> {
    fn record(&self, report: &BatchReport<'_>) {
        self.write(report.queue_arn, &Line::of_report(report, self.is_cold_start()));
    }

    fn record_refused(&self, refused: &RefusedBatch<'_>) {
        self.write(None, &Line::of_refused(refused, self.is_cold_start()));
    }
}

/// What a line says.
struct Line<'l> {
    batch_id: &'l str,
    /// The receipt, which Lambda's own metrics of an invocation are stamped with as well: the two are subtracted.
    at_ms: u64,
    values: Vec<(Metric, Vec<Observation>)>,
}

impl<'l> Line<'l> {
    fn of_report(report: &'l BatchReport<'_>, cold_start: bool) -> Self {
        let failed = report.failed.is_some();
        let reported = report.items.len() - report.acknowledged();
        let latencies = |kind: CallKind| {
            let calls = report.calls.iter().filter(|call| call.kind == kind);
            calls.map(|call| call.ended_ms.saturating_sub(call.started_ms)).collect()
        };
        let failed_calls = |kinds: [CallKind; 2]| {
            report.calls.iter().filter(|call| kinds.contains(&call.kind) && call.errors > 0).count() as u64
        };
        let of = |outcome: Outcome| report.count(outcome) as u64;
        let counts = &report.counts;
        let values = [
            (metric::BATCH_SIZE, report.items.len() as u64),
            (metric::BATCH_BYTES, report.bytes as u64),
            (metric::BATCH_LATENCY, report.elapsed_ms),
            (metric::BATCH_FAILURES, failed.into()),
            (metric::PARTIAL_FAILURES, (reported > 0 && !failed).into()),
            (metric::COLD_START, cold_start.into()),
            (metric::CONCURRENCY, report.concurrency_max as u64),
            (metric::CONCURRENCY_LIMIT, report.control.limit as u64),
            (metric::BREAKER_OPEN, (report.control.breaker != BreakerState::Closed).into()),
            (metric::BUFFERED_BYTES, report.buffered_bytes as u64),
            (metric::STORE_ERRORS, failed_calls([CallKind::Claim, CallKind::Complete])),
            (metric::QUEUE_ERRORS, failed_calls([CallKind::Park, CallKind::Delay])),
            (metric::ITEMS, report.items.len() as u64),
            (metric::ITEMS_PROCESSED, of(Outcome::Processed)),
            (metric::DUPLICATES, of(Outcome::Duplicate)),
            (metric::ITEMS_BUSY, of(Outcome::Busy)),
            (metric::ITEMS_CONFLICT, of(Outcome::Conflict)),
            (metric::ITEMS_FAILED, of(Outcome::Failed)),
            (metric::ITEMS_REJECTED, of(Outcome::Rejected)),
            (metric::ITEMS_ABANDONED, of(Outcome::Abandoned)),
            (metric::PARKED, report.parked() as u64),
            (metric::LOST_LEASES, counts.lost_leases),
            (metric::EFFECTS_AFTER_LOST_LEASE, counts.effect_after_lost_lease),
            (metric::COMPLETIONS_LOST, counts.completions_lost),
            (metric::RELEASES_LOST, counts.releases_lost),
            (metric::PARKS_FAILED, counts.parks_failed),
            (metric::DELAYS_FAILED, counts.delays_failed),
        ];
        let single = values.map(|(metric, value)| (metric, vec![Observation::Unsigned(value)]));
        let many = [
            (metric::CLAIM_LATENCY, latencies(CallKind::Claim)),
            (metric::COMPLETION_LATENCY, latencies(CallKind::Complete)),
            (metric::ITEM_LATENCY, report.items.iter().filter_map(|item| item.elapsed_ms).collect()),
            (metric::ITEM_AGE, report.items.iter().filter_map(|item| item.age_ms).collect()),
        ];
        let many = many.map(|(metric, values)| (metric, histogram::observations(values)));
        let at_ms = report.received_ms;
        Self { batch_id: report.batch_id, at_ms, values: single.into_iter().chain(many).collect() }
    }

    /// Of such a batch little is known, and nothing of its items.
    fn of_refused(refused: &'l RefusedBatch<'_>, cold_start: bool) -> Self {
        let values = [
            (metric::BATCH_BYTES, refused.bytes as u64),
            (metric::BATCH_LATENCY, refused.elapsed_ms),
            (metric::BATCH_FAILURES, 1),
            (metric::COLD_START, cold_start.into()),
        ];
        let values = values.map(|(metric, value)| (metric, vec![Observation::Unsigned(value)]));
        let at_ms = refused.received_ms;
        Self { batch_id: refused.batch_id, at_ms, values: values.into() }
    }
}

/// A line as metrique takes it.
struct Entered<'l> {
    settings: &'l MetricsSettings,
    queue: &'l str,
    line: &'l Line<'l>,
}

impl Entry for Entered<'_> {
    fn write<'a>(&'a self, writer: &mut impl EntryWriter<'a>) {
        let Self { settings, queue, line } = self;
        writer.timestamp(UNIX_EPOCH + Duration::from_millis(line.at_ms));
        writer.value("function", settings.function.as_str());
        writer.value("queue", *queue);
        // By these two Lambda decides whether the line is let through.
        writer.value("level", settings.level.as_str());
        writer.value("timestamp", timestamp(line.at_ms).as_str());
        writer.value("version", settings.version.as_str());
        writer.value("batch_id", line.batch_id);
        for (metric, observations) in &line.values {
            writer.value(metric.name, &Observed { metric, observations });
        }
    }
}

/// A metric's observations in one line.
struct Observed<'o> {
    metric: &'o Metric,
    observations: &'o [Observation],
}

impl Value for Observed<'_> {
    fn write(&self, writer: impl ValueWriter) {
        writer.metric(self.observations.iter().copied(), self.metric.unit, [], MetricFlags::empty());
    }
}

/// RFC 3339.
fn timestamp(at_ms: u64) -> String {
    let at = DateTime::from_millis(i64::try_from(at_ms).unwrap_or(i64::MAX));
    at.fmt(DateFormat::DateTime).unwrap_or_default()
}
