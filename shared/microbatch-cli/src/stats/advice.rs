//! What the figures ask for.

use std::time::Duration;

use crate::numbers::{duration, percent};
use crate::telemetry::{Group, as_f64};

/// Fewer batches say nothing.
const BATCHES_MIN: u64 = 20;
const SINGLES_SHARE: f64 = 0.5;
const DUPLICATES_SHARE: f64 = 0.05;
const FAILED_SHARE: f64 = 0.05;
const ABANDONED_SHARE: f64 = 0.01;
const BATCH_FAILURES_SHARE: f64 = 0.01;
const COLD_STARTS_SHARE: f64 = 0.1;
/// Of the time-out that batches may take at p99; the rest is for a bad day.
const TIMEOUT_SHARE: f64 = 0.8;
const CLAIM_P99_MS: f64 = 100.0;
const AGE_P50_MS: f64 = 60_000.0;

/// Advice, the most urgent first; `timeout` is the function's, if known.
pub(super) fn advice(group: &Group, timeout: Option<Duration>) -> Vec<String> {
    let mut advice: Vec<String> = losses(group).into_iter().chain(late(group, timeout)).collect();
    if group.batches() >= BATCHES_MIN {
        advice.extend(shares(group));
        advice.extend(small(group));
        advice.extend(slow(group));
    }
    advice
}

/// What should never be.
fn losses(group: &Group) -> Option<String> {
    let count = |name| group.sum(name);
    let (twice, lost) = (count("EffectsAfterLostLease"), count("LostLeases") + count("CompletionsLost"));
    (twice + lost > 0.0).then(|| {
        "effects may have happened twice: leases ended, or completions were not recorded in time; look at the latency of \
         batches and claims, and at MICROBATCH_SETTLE_MS and MICROBATCH_EFFECT_TIMEOUT_MS"
            .to_owned()
    })
}

fn late(group: &Group, timeout: Option<Duration>) -> Option<String> {
    let timeout_ms = timeout?.as_secs_f64() * 1_000.0;
    let p99 = group.distribution("BatchLatency")?.permille(990)?;
    (p99 >= timeout_ms * TIMEOUT_SHARE).then(|| {
        format!(
            "batch latency p99 is {}, {} of the time-out: lower the batch size, raise MICROBATCH_CONCURRENCY, or give it more time",
            duration(p99),
            percent(p99, timeout_ms)
        )
    })
}

fn shares(group: &Group) -> Vec<String> {
    let items = group.items();
    let of_batches = |name| group.mean(name).unwrap_or_default();
    let rules: [(f64, f64, &str); 5] = [
        (
            of_batches("BatchFailures"),
            BATCH_FAILURES_SHARE,
            "of the batches failed as a whole: look for errors in the log",
        ),
        (
            group.sum("ItemsAbandoned") / items,
            ABANDONED_SHARE,
            "of the items were not started (Abandoned): batches do not fit into the time-out, or the breaker was open; lower the \
             batch size or raise MICROBATCH_CONCURRENCY",
        ),
        (
            group.sum("ItemsFailed") / items,
            FAILED_SHARE,
            "of the items failed and came again: their log lines have the codes",
        ),
        (
            group.sum("Duplicates") / items,
            DUPLICATES_SHARE,
            "of the items were duplicates: the sender sends twice, or messages come back before they are done (visibility \
             timeout against the function's time-out)",
        ),
        (
            of_batches("ColdStart"),
            COLD_STARTS_SHARE,
            "of the batches started a process: bigger batches or a longer window make fewer",
        ),
    ];
    let told = rules.into_iter().filter(|(share, limit, _)| share > limit);
    told.map(|(share, _, words)| format!("{} {words}", percent(share, 1.0))).collect()
}

fn small(group: &Group) -> Option<String> {
    let sizes = group.distribution("BatchSize")?;
    let singles = as_f64(sizes.at_most(1.0)) / as_f64(sizes.count());
    (singles > SINGLES_SHARE).then(|| {
        format!(
            "{} of the batches held one record or none: with a MaximumBatchingWindowInSeconds of 0, raise it to 1 or more; with \
             a window, there is too little traffic to batch",
            percent(singles, 1.0)
        )
    })
}

fn slow(group: &Group) -> Vec<String> {
    let mut advice = Vec::new();
    let at = |name, share| group.distribution(name).and_then(|values| values.permille(share)).unwrap_or_default();
    let claims = at("ClaimLatency", 990);
    if claims > CLAIM_P99_MS {
        let errors = if group.sum("StoreErrors") > 0.0 { ", and there are store errors" } else { "" };
        advice.push(format!(
            "claim latency p99 is {}{errors}: look whether the table throttles (a hot partition, too little warm throughput)",
            duration(claims)
        ));
    }
    let age = at("ItemAge", 500);
    if age > AGE_P50_MS {
        advice.push(format!(
            "half of the messages had waited {} or longer: more batches at once (MaximumConcurrency) or bigger ones, unless they \
             were delayed on purpose",
            duration(age)
        ));
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches of 10 items, all well.
    const GOOD: &[(&str, &[(f64, u64)])] = &[
        ("BatchSize", &[(10.0, 100)]),
        ("BatchLatency", &[(50.0, 100)]),
        ("Items", &[(10.0, 100)]),
        ("BatchFailures", &[(0.0, 100)]),
        ("ColdStart", &[(0.0, 98), (1.0, 2)]),
        ("ClaimLatency", &[(8.0, 100)]),
        ("ItemAge", &[(900.0, 1_000)]),
    ];

    /// A metric, its values, and how the advice begins.
    type Case = (&'static str, &'static [(f64, u64)], &'static str);

    /// The advice where one metric is different.
    fn advised(metric: &'static str, values: &'static [(f64, u64)]) -> Vec<String> {
        let mut metrics: Vec<_> = GOOD.iter().copied().filter(|(name, _)| *name != metric).collect();
        metrics.push((metric, values));
        advice(&Group::of(&metrics), Some(Duration::from_secs(1)))
    }

    #[test]
    fn what_is_well_asks_for_nothing() {
        assert!(advice(&Group::of(GOOD), Some(Duration::from_secs(1))).is_empty());
        assert!(advice(&Group::default(), None).is_empty());
    }

    #[test]
    fn each_trouble_has_its_advice() {
        let cases: [Case; 10] = [
            (
                "BatchSize",
                &[(1.0, 60), (20.0, 40)],
                "60.0 % of the batches held one record or none: with a MaximumBatching",
            ),
            ("BatchLatency", &[(50.0, 98), (900.0, 2)], "batch latency p99 is 900 ms, 90.0 % of the time-out"),
            ("Duplicates", &[(60.0, 1)], "6.0 % of the items were duplicates"),
            ("ItemsFailed", &[(60.0, 1)], "6.0 % of the items failed"),
            ("ItemsAbandoned", &[(20.0, 1)], "2.0 % of the items were not started"),
            ("BatchFailures", &[(0.0, 98), (1.0, 2)], "2.0 % of the batches failed as a whole"),
            ("ColdStart", &[(0.0, 80), (1.0, 20)], "20.0 % of the batches started a process"),
            ("ClaimLatency", &[(8.0, 90), (150.0, 10)], "claim latency p99 is 150 ms: look"),
            ("ItemAge", &[(120_000.0, 1_000)], "half of the messages had waited 2 min or longer"),
            ("LostLeases", &[(1.0, 1)], "effects may have happened twice"),
        ];
        for (metric, values, words) in cases {
            let found = advised(metric, values);
            assert!(found.len() == 1 && found[0].starts_with(words), "{metric}: {found:?}");
        }
    }

    #[test]
    fn few_batches_and_an_unknown_time_out_are_not_judged() {
        let few = Group::of(&[("BatchSize", &[(1.0, 19)]), ("BatchLatency", &[(1e6, 19)]), ("Items", &[(1.0, 19)])]);
        assert!(advice(&few, None).is_empty());
        assert_eq!(advice(&few, Some(Duration::from_mins(15))).len(), 1);
    }
}
