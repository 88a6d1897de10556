//! Logs: one JSON object or one line of text each, on standard output, without payloads (P13).

use std::{backtrace::Backtrace, panic::PanicHookInfo};

use microbatch::{BatchReport, ItemReport, Recorder};
use tracing::{Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, Targets, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::settings::ItemLog;

/// Targets that log what they send or receive below INFO: events, requests, headers.
const CAPPED_TARGETS: &[&str] =
    &["lambda_runtime", "lambda_runtime_api_client", "aws_", "hyper", "h2", "rustls", "tower", "reqwest"];

/// Sets up logging by Lambda's variables: `AWS_LAMBDA_LOG_FORMAT` (JSON or text) and `AWS_LAMBDA_LOG_LEVEL`, or
/// `RUST_LOG`. A subscriber that is there already is kept.
pub fn init() {
    let json = std::env::var("AWS_LAMBDA_LOG_FORMAT").is_ok_and(|format| format.eq_ignore_ascii_case("json"));
    let level = std::env::var("AWS_LAMBDA_LOG_LEVEL").or_else(|_| std::env::var("RUST_LOG")).unwrap_or_default();
    let filter = wanted(&level).and(filter_fn(is_harmless));
    let layer = tracing_subscriber::fmt::layer();
    let layer = if json {
        layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    } else {
        layer.without_time().with_ansi(false).boxed()
    };
    // An error means that the user has set up a subscriber: it stays.
    let _kept = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    std::panic::set_hook(Box::new(log_panic));
}

/// The lines that are asked for: by a level, by levels of targets, or by both, as in `warn,microbatch=debug`. What is no level does
/// not count; INFO holds where no other level does.
///
/// No `EnvFilter`: its regular expressions take half a megabyte of each binary, for spans' fields that nothing here has.
fn wanted(levels: &str) -> Targets {
    let mut wanted = Targets::new().with_default(LevelFilter::INFO);
    for part in levels.split(',') {
        let (target, text) = part.split_once('=').map_or((None, part), |(target, text)| (Some(target.trim()), text));
        let Some(level) = level(text) else { continue };
        wanted = match target {
            None => wanted.with_default(level),
            Some("") => wanted,
            Some(target) => wanted.with_target(target, level),
        };
    }
    wanted
}

fn level(text: &str) -> Option<LevelFilter> {
    match text.trim() {
        // Which tracing reads as ERROR.
        "" => None,
        // Lambda has one more level than tracing.
        fatal if fatal.eq_ignore_ascii_case("fatal") => Some(LevelFilter::ERROR),
        text => text.parse().ok(),
    }
}

/// Whether a line may be logged at its level: of the targets that log payloads only INFO and above.
fn is_harmless(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= LevelFilter::INFO || CAPPED_TARGETS.iter().all(|target| !metadata.target().starts_with(target))
}

/// Says where a panic happened, not what it said: a message often quotes the value that surprised it.
fn log_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        tracing::error!(target: "microbatch::panic", place, %backtrace, "panicked");
    } else {
        tracing::error!(target: "microbatch::panic", place, "panicked");
    }
}

/// Logs each batch, and its items as far as asked for.
#[derive(Debug, Clone, Copy)]
pub struct LogRecorder {
    /// Which items get a line.
    pub item_log: ItemLog,
}

impl Recorder for LogRecorder {
    fn record(&self, report: &BatchReport<'_>) {
        for item in &report.items {
            let wanted = match self.item_log {
                ItemLog::All => true,
                // A parked one is a failure, and acknowledged.
                ItemLog::Failures => !item.outcome.is_acknowledged(),
                ItemLog::None => false,
            };
            if wanted {
                log_item(report.batch_id, item);
            }
        }
        for error in report.store_errors {
            tracing::warn!(
                target: "microbatch::store",
                batch_id = report.batch_id,
                code = error.code(),
                %error,
                "store error"
            );
        }
        for error in report.queue_errors {
            tracing::warn!(
                target: "microbatch::queue",
                batch_id = report.batch_id,
                code = error.code(),
                %error,
                "queue error"
            );
        }
        log_batch(report);
    }
}

macro_rules! item_event {
    ($level:expr, $batch_id:expr, $item:expr) => {
        tracing::event!(
            target: "microbatch::item",
            $level,
            batch_id = $batch_id,
            index = $item.index,
            message_id = $item.message_id,
            outcome = $item.outcome.as_str(),
            acknowledged = $item.is_acknowledged(),
            parked = $item.parked.then_some(true),
            kind = $item.kind.map(microbatch::FailureKind::as_str),
            code = $item.code,
            error_type = $item.error_type,
            attempt = $item.attempt,
            tries = $item.tries,
            elapsed_ms = $item.elapsed_ms,
            age_ms = $item.age_ms,
            retry_after_ms = $item.retry_after_ms,
            busy_until_ms = $item.busy_until_ms,
            delayed_until_ms = $item.delayed_until_ms,
            "item"
        )
    };
}

fn log_item(batch_id: &str, item: &ItemReport<'_>) {
    if item.outcome.is_acknowledged() {
        item_event!(tracing::Level::INFO, batch_id, item);
    } else {
        item_event!(tracing::Level::WARN, batch_id, item);
    }
}

fn log_batch(report: &BatchReport<'_>) {
    let acknowledged = report.acknowledged();
    let counts = &report.counts;
    tracing::info!(
        target: "microbatch::batch",
        batch_id = report.batch_id,
        records = report.items.len(),
        acknowledged,
        reported = report.items.len() - acknowledged,
        parked = report.parked(),
        elapsed_ms = report.elapsed_ms,
        effect_after_lost_lease = counts.effect_after_lost_lease,
        lost_leases = counts.lost_leases,
        completions_lost = counts.completions_lost,
        releases_lost = counts.releases_lost,
        fingerprints_not_compared = counts.fingerprints_not_compared,
        results_not_kept = counts.results_not_kept,
        panics_in_drop = counts.panics_in_drop,
        parks_failed = counts.parks_failed,
        delays_failed = counts.delays_failed,
        hook_panics = counts.hook_panics,
        concurrency_limit = report.control.limit,
        breaker = report.control.breaker.as_str(),
        "batch"
    );
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_log_is_what_the_level_asks_for() {
        let most = |levels: &str, target: &str| {
            let wanted = wanted(levels);
            [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR]
                .into_iter()
                .find(|level| wanted.would_enable(target, level))
        };
        for levels in ["", " ", ",", "microbatch=loud", "=,=", "verbose", "microbatch=", "=debug", "info, "] {
            assert_eq!(most(levels, "microbatch::item"), Some(Level::INFO), "{levels:?}");
        }
        for levels in ["warn", "WARN", "warn,", ",warn,,mine=debug", "verbose,WARN"] {
            assert_eq!(most(levels, "microbatch::item"), Some(Level::WARN), "{levels:?}");
        }
        assert_eq!(most("FATAL", "microbatch::item"), Some(Level::ERROR));
        assert_eq!(most("off", "microbatch::item"), None);
        let levels = "warn, microbatch = DEBUG, mine=loud, fatal_queue=fatal";
        assert_eq!(most(levels, "microbatch::item"), Some(Level::DEBUG));
        assert_eq!(most(levels, "mine"), Some(Level::WARN));
        assert_eq!(most(levels, "fatal_queue"), Some(Level::ERROR));
        assert_eq!(most("mine=debug", "microbatch::item"), Some(Level::INFO), "the others' level is as before");
    }
}
