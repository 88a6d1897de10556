//! Traces: a batch's spans, made when it has ended and exported by OTLP before the response leaves.
//!
//! Spans are made from the batch's report, not while it runs: what failed is then known, and is always kept, and a batch
//! that is not traced costs nothing. The export is bounded in time; what it could not deliver is lost, and the response
//! leaves all the same (P10). Where to export to is said by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`,
//! `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`), by default to a collector on this host.

mod http;
mod spans;

use std::{
    collections::HashMap,
    num::{NonZeroU64, NonZeroU128},
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use microbatch::{BatchReport, Random, Recorder, TraceParent, telemetry::RefusedBatch};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter},
};

use self::http::SdkHttpClient;

/// Spans in one request; OpenTelemetry's own default.
const REQUEST_SPANS_MAX: usize = 512;

/// Shortest time between two log lines about exports that failed.
const FAILURE_LOG_INTERVAL_MS: u64 = 60_000;

/// How long nothing is exported after an export that took too long: a collector that hangs must not cost each batch its
/// time.
const PAUSE_MS: u64 = 10_000;

/// Which batches are traced, and what of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceSettings {
    /// Which batches are traced.
    pub which: TracedBatches,
    /// Most spans of items that did not fail, and of requests without an error, in a batch.
    pub items_max: usize,
    /// Longest time for the export of a batch's spans.
    pub flush_ms: u64,
}

/// Which batches are traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TracedBatches {
    /// Those whose invocation is, by X-Ray's decision; all, where none is announced.
    Sampled,
    /// All.
    All,
}

/// Makes a batch's spans and exports them.
pub struct Tracer<E = OtlpExporter> {
    settings: TraceSettings,
    exporter: E,
    function: String,
    /// The spans of batches that have ended and are not exported yet, by the batch's own span.
    pending: Mutex<HashMap<NonZeroU64, Vec<SpanData>>>,
    /// When an export that failed was last logged, in epoch milliseconds.
    failure_logged_ms: AtomicU64,
    /// Until when nothing is exported, in epoch milliseconds.
    paused_until_ms: AtomicU64,
}

impl Tracer {
    /// A tracer that exports as OpenTelemetry's variables say.
    ///
    /// # Errors
    /// What is wrong with those variables.
    pub fn from_env(settings: TraceSettings) -> Result<Self, String> {
        let function = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|_| "unknown".to_owned());
        Self::to(settings, function, None)
    }

    /// A tracer of the function with this name that exports to this URL, or else as OpenTelemetry's variables say.
    ///
    /// # Errors
    /// What is wrong with those variables.
    pub fn to(settings: TraceSettings, function: String, url: Option<String>) -> Result<Self, String> {
        let builder = OtlpExporter::builder().with_http().with_http_client(SdkHttpClient::default());
        let exporter = match url {
            Some(url) => builder.with_endpoint(url).build(),
            None => builder.build(),
        };
        // The error may quote what a variable holds, and headers hold credentials.
        let mut exporter = exporter.map_err(|_| {
            "MICROBATCH_TRACES: the exporter cannot be set up; look at the variables OTEL_EXPORTER_OTLP_*: expected an \
             endpoint as http://localhost:4318, and headers as name=value,name=value"
                .to_owned()
        })?;
        exporter.set_resource(&resource(&function));
        Ok(Self::new(settings, exporter, function))
    }
}

impl<E: SpanExporter> Tracer<E> {
    /// A tracer with this exporter, of the function with this name.
    pub fn new(settings: TraceSettings, exporter: E, function: String) -> Self {
        let (pending, failure_logged_ms, paused_until_ms) = (Mutex::default(), AtomicU64::new(0), AtomicU64::new(0));
        Self { settings, exporter, function, pending, failure_logged_ms, paused_until_ms }
    }

    /// The span of a batch that comes now, by the header that announces the invocation; none where it is not traced.
    pub fn begin(&self, header: Option<&str>, random: &dyn Random) -> Option<BatchTrace> {
        let parent = header.and_then(TraceParent::from_xray);
        // Said also where no parent is named.
        let unsampled = header.is_some_and(|header| header.split(';').any(|part| part.trim() == "Sampled=0"));
        let sampled = self.settings.which == TracedBatches::All || !unsampled;
        if !sampled {
            return None;
        }
        let [high, low] = halves(random.next_u128());
        let span_id = NonZeroU64::new(high ^ low).unwrap_or(NonZeroU64::MIN);
        let new_trace = || NonZeroU128::new(random.next_u128()).unwrap_or(NonZeroU128::MIN);
        let trace_id = parent.map_or_else(new_trace, |parent| parent.trace_id);
        Some(BatchTrace { own: TraceParent { trace_id, span_id, sampled }, parent })
    }

    /// Exports the spans of a batch that has ended: within the time for that, and before `deadline_ms`, both in epoch
    /// milliseconds. A panic of the exporter is an export that failed.
    pub async fn flush(&self, batch: &BatchTrace, deadline_ms: u64, now_ms: u64) {
        let Some(mut spans) = self.lock().remove(&batch.own.span_id) else { return };
        let time_ms = self.settings.flush_ms.min(deadline_ms.saturating_sub(now_ms));
        if time_ms == 0 || now_ms < self.paused_until_ms.load(Ordering::Relaxed) {
            return;
        }
        if let (Some(root), Some(parent)) = (spans.first_mut(), batch.parent) {
            spans::set_parent(root, parent);
        }
        let export = async {
            let mut rest = spans;
            while !rest.is_empty() {
                let next = rest.split_off(rest.len().min(REQUEST_SPANS_MAX));
                self.exporter.export(rest).await.map_err(|_| "export_failed")?;
                rest = next;
            }
            Ok(())
        };
        let export = AssertUnwindSafe(export).catch_unwind();
        match tokio::time::timeout(Duration::from_millis(time_ms), export).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(code))) => self.log_failure(code, now_ms),
            Ok(Err(_panicked)) => self.log_failure("export_panicked", now_ms),
            Err(_elapsed) => {
                self.paused_until_ms.store(now_ms.saturating_add(PAUSE_MS), Ordering::Relaxed);
                self.log_failure("export_timed_out", now_ms);
            }
        }
    }

    /// Not for each batch: a collector that is down would double the log.
    fn log_failure(&self, code: &'static str, now_ms: u64) {
        let logged_ms = self.failure_logged_ms.load(Ordering::Relaxed);
        if logged_ms == 0 || now_ms.saturating_sub(logged_ms) >= FAILURE_LOG_INTERVAL_MS {
            self.failure_logged_ms.store(now_ms, Ordering::Relaxed);
            tracing::warn!(
                target: "microbatch::trace",
                code,
                "spans could not be exported; look at OTEL_EXPORTER_OTLP_ENDPOINT and the collector"
            );
        }
    }

    fn keep(&self, trace: Option<TraceParent>, make: impl FnOnce(TraceParent) -> Vec<SpanData>) {
        if let Some(trace) = trace {
            let spans = make(trace);
            self.lock().insert(trace.span_id, spans);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NonZeroU64, Vec<SpanData>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The span of a batch, and that of the invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchTrace {
    /// The batch's own span.
    pub own: TraceParent,
    /// Lambda's span of the invocation, where it is announced.
    pub parent: Option<TraceParent>,
}

/// Makes the spans; the host then has them exported by [`Tracer::flush`].
pub struct TraceRecorder<E = OtlpExporter>(pub Arc<Tracer<E>>);

impl<E: SpanExporter + 'static> Recorder for TraceRecorder<E> {
    fn record(&self, report: &BatchReport<'_>) {
        let Self(tracer) = self;
        tracer.keep(report.trace, |trace| spans::of_report(report, trace, &tracer.function, tracer.settings.items_max));
    }

    fn record_refused(&self, refused: &RefusedBatch<'_>) {
        let Self(tracer) = self;
        tracer.keep(refused.trace, |trace| vec![spans::of_refused(refused, trace, &tracer.function)]);
    }
}

/// Who speaks: OpenTelemetry's variables, and what Lambda says where they say nothing.
fn resource(function: &str) -> Resource {
    let resource = Resource::builder();
    let named = ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"];
    let is_named = named
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|text| text.contains("service.name") || *name == named[0]));
    let resource = if is_named { resource } else { resource.with_service_name(function.to_owned()) };
    resource
        .with_attribute(opentelemetry::KeyValue::new("faas.name", function.to_owned()))
        .with_attribute(opentelemetry::KeyValue::new("cloud.provider", "aws"))
        .build()
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
fn halves(number: u128) -> [u64; 2] {
    [(number >> 64) as u64, number as u64]
}
