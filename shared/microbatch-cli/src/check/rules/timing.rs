//! Time-outs, leases and visibility.

use super::super::found::Gap;
use super::super::model::Queue;
use super::{Check, FINE, Joined, Judged, Ours, Problem, Rule, when};

const MAPPING_PAGE: &str = "Creating and configuring an Amazon SQS event source mapping (AWS Lambda Developer Guide)";

pub(super) const RULES: &[Rule] = &[
    Rule { id: "MB001", page: MAPPING_PAGE, check: Check::Mapping(timeout_over_visibility) },
    Rule { id: "MB002", page: MAPPING_PAGE, check: Check::Mapping(visibility_too_short) },
    Rule {
        id: "MB003",
        page: "Amazon SQS visibility timeout (Amazon SQS Developer Guide)",
        check: Check::Mapping(lease_not_under_visibility),
    },
    Rule {
        id: "MB004",
        page: "Configure Lambda function timeout (AWS Lambda Developer Guide)",
        check: Check::Function(no_time_to_work),
    },
];

/// Times that a queue must hide a message for, by the page: the function's timeout, this often.
const TIMEOUTS: u64 = 6;

/// The times of a mapping, in seconds.
struct Times<'s> {
    queue: &'s Queue,
    function: &'s str,
    visibility_s: u64,
    timeout_s: u64,
    window_s: u64,
}

impl Times<'_> {
    fn wanted_s(&self) -> u64 {
        self.timeout_s.saturating_mul(TIMEOUTS).saturating_add(self.window_s)
    }
}

fn times<'s>(joined: &Joined<'s>) -> Result<Times<'s>, Gap> {
    let (queue, function) = (joined.queue()?, joined.function()?);
    Ok(Times {
        queue,
        function: &function.place.resource,
        visibility_s: queue.visibility_s.copied()?,
        timeout_s: function.timeout_s.copied()?,
        window_s: joined.mapping.window_s.copied()?,
    })
}

/// What a lease lasts beyond the function's timeout, in milliseconds.
fn lease_beyond_timeout_ms(ours: &Ours<'_>) -> Result<u64, Gap> {
    let grace = ours.microbatch.option("MICROBATCH_KILL_GRACE_MS", |options| options.kill_grace_ms)?;
    let effect = ours.microbatch.option("MICROBATCH_EFFECT_TIMEOUT_MS", |options| options.effect_timeout_ms)?;
    let skew = ours.microbatch.option("MICROBATCH_CLOCK_SKEW_MS", |options| options.clock_skew_ms)?;
    Ok(grace.saturating_add(effect).saturating_add(skew))
}

/// Seconds after which, at the latest, the lease of a message has ended that was received now.
fn lease_end_s(times: &Times<'_>, beyond_ms: u64) -> u64 {
    times.timeout_s.saturating_add(times.window_s).saturating_add(beyond_ms.div_ceil(1_000))
}

/// The visibility timeout that satisfies every rule here.
fn fitting_s(joined: &Joined<'_>, times: &Times<'_>) -> u64 {
    let beyond_ms = joined.ours().ok().flatten().and_then(|ours| lease_beyond_timeout_ms(&ours).ok());
    times.wanted_s().max(beyond_ms.map_or(0, |beyond_ms| lease_end_s(times, beyond_ms).saturating_add(1)))
}

fn set_visibility(problem: Problem, queue: &Queue, visibility_s: u64) -> Problem {
    problem.fix(&queue.place, format!("VisibilityTimeout: {visibility_s}"))
}

fn timeout_over_visibility(joined: &Joined<'_>) -> Judged {
    let times = times(joined)?;
    when(times.timeout_s > times.visibility_s, || {
        let found = format!(
            "VisibilityTimeout is {} s, less than the Timeout of {}, {} s: AWS refuses the mapping",
            times.visibility_s, times.function, times.timeout_s
        );
        let problem = Problem::error(&times.queue.visibility_s.place, found);
        set_visibility(problem, times.queue, fitting_s(joined, &times))
    })
}

fn visibility_too_short(joined: &Joined<'_>) -> Judged {
    let times = times(joined)?;
    let is_refused = times.timeout_s > times.visibility_s;
    when(!is_refused && times.visibility_s < times.wanted_s(), || {
        let found = format!(
            "VisibilityTimeout is {} s, less than {TIMEOUTS} x {} s (the Timeout of {}) + {} s (the window) = {} s: messages of a \
             throttled batch come back while it is tried again, and use up their deliveries",
            times.visibility_s,
            times.timeout_s,
            times.function,
            times.window_s,
            times.wanted_s()
        );
        let problem = Problem::error(&times.queue.visibility_s.place, found);
        set_visibility(problem, times.queue, fitting_s(joined, &times))
    })
}

fn lease_not_under_visibility(joined: &Joined<'_>) -> Judged {
    let times = times(joined)?;
    let Some(ours) = joined.ours()? else { return FINE };
    if !ours.microbatch.option("MICROBATCH_IDEMPOTENCY", |options| options.idempotency)? {
        return FINE;
    }
    let lease_end_s = lease_end_s(&times, lease_beyond_timeout_ms(&ours)?);
    // A shorter one is found by the rules above, whose fix satisfies this one too.
    when(times.visibility_s >= times.wanted_s() && lease_end_s >= times.visibility_s, || {
        let found = format!(
            "VisibilityTimeout is {} s, but a lease may last until {lease_end_s} s after the receipt (window, Timeout of {}, \
             MICROBATCH_KILL_GRACE_MS, MICROBATCH_EFFECT_TIMEOUT_MS and MICROBATCH_CLOCK_SKEW_MS): the next delivery meets it, is \
             Busy, and is used up",
            times.visibility_s, times.function
        );
        let problem = Problem::error(&times.queue.visibility_s.place, found);
        set_visibility(problem, times.queue, fitting_s(joined, &times))
    })
}

fn no_time_to_work(ours: &Ours<'_>) -> Judged {
    let timeout = &ours.function.timeout_s;
    let timeout_ms = timeout.copied()?.saturating_mul(1_000);
    let margin_ms = ours.microbatch.option("MICROBATCH_DEADLINE_MARGIN_MS", |options| options.deadline_margin_ms)?;
    let settle_ms = ours.microbatch.option("MICROBATCH_SETTLE_MS", |options| options.settle_ms)?;
    let item_ms = ours.microbatch.option("MICROBATCH_ITEM_TIMEOUT_MS", |options| options.item_timeout_ms)?;
    let spent_ms = margin_ms.saturating_add(settle_ms);
    when(timeout_ms <= spent_ms, || {
        let found = format!(
            "Timeout is {timeout_ms} ms, and MICROBATCH_DEADLINE_MARGIN_MS, {margin_ms}, plus MICROBATCH_SETTLE_MS, {settle_ms}, take all \
             of it: no item has time to run"
        );
        let fitting_s = spent_ms.saturating_add(item_ms).div_ceil(1_000);
        Problem::error(&timeout.place, found).fix(&ours.function.place, format!("Timeout: {fitting_s}"))
    })
}
