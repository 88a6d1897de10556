//! Deliveries, delays, and how long things are kept.

use microbatch::control::Backoff;

use super::super::found::Gap;
use super::super::model::{Queue, Target};
use super::{Check, FINE, Joined, Judged, Ours, Problem, Rule, dead_letter_queue, redrive, seconds, when};

const SETTINGS_PAGE: &str = "Settings (microbatch, README.md)";
const MAX_RECEIVE_COUNT: &str = "MICROBATCH_MAX_RECEIVE_COUNT";
const OUTAGE_BUDGET_S: &str = "MICROBATCH_OUTAGE_BUDGET_S";
const RETENTION_S: &str = "MICROBATCH_RETENTION_S";

/// Default and longest retention of a queue ("`SetQueueAttributes`").
const RETENTION_USUAL_S: u64 = 345_600;
const RETENTION_MAX_S: u64 = 1_209_600;

pub(super) const RULES: &[Rule] = &[
    Rule { id: "MB034", page: SETTINGS_PAGE, check: Check::Mapping(other_max_receive_count) },
    Rule {
        id: "MB035",
        page: "Setting-up dead-letter queue retention in Amazon SQS (Amazon SQS Developer Guide)",
        check: Check::Mapping(deliveries_outlast_queue),
    },
    Rule {
        id: "MB036",
        page: "Creating and configuring an Amazon SQS event source mapping (AWS Lambda Developer Guide)",
        check: Check::Mapping(deliveries_span_too_little),
    },
    Rule { id: "MB037", page: SETTINGS_PAGE, check: Check::Mapping(records_expire_early) },
];

/// A mapping of a function that uses microbatch from a queue that gives up messages after some deliveries.
struct Deliveries<'s> {
    ours: Ours<'s>,
    queue: &'s Queue,
    max_receive_count: u64,
    budget_s: u64,
}

fn deliveries<'s>(joined: &Joined<'s>) -> Result<Option<Deliveries<'s>>, Gap> {
    let Some(ours) = joined.ours()? else { return Ok(None) };
    let queue = joined.queue()?;
    let Some(redrive) = redrive(queue)? else { return Ok(None) };
    let max_receive_count = redrive.max_receive_count.copied()?;
    let budget_s = ours.microbatch.option(OUTAGE_BUDGET_S, |options| options.outage_budget_s)?;
    Ok(Some(Deliveries { ours, queue, max_receive_count, budget_s }))
}

fn other_max_receive_count(joined: &Joined<'_>) -> Judged {
    let Some(Deliveries { ours, queue, max_receive_count, budget_s }) = deliveries(joined)? else { return FINE };
    if !ours.microbatch.delays()? {
        return FINE;
    }
    let assumed = ours.microbatch.option(MAX_RECEIVE_COUNT, |options| options.max_receive_count)?;
    when(assumed != max_receive_count, || {
        let default = if ours.microbatch.is_set(MAX_RECEIVE_COUNT) { "" } else { " by default" };
        let effect = if assumed > max_receive_count {
            format!("the delays of the first {max_receive_count} do not span MICROBATCH_OUTAGE_BUDGET_S, {budget_s}")
        } else {
            "the last deliveries wait longer than they need to".to_owned()
        };
        let found = format!(
            "{MAX_RECEIVE_COUNT} is {assumed}{default}, and the maxReceiveCount of {} is {max_receive_count}: {effect}",
            queue.place.resource
        );
        Problem::error(&ours.microbatch.place_of(MAX_RECEIVE_COUNT), found)
            .fix(&ours.microbatch.place, format!("{MAX_RECEIVE_COUNT}: '{max_receive_count}'"))
    })
}

fn deliveries_outlast_queue(joined: &Joined<'_>) -> Judged {
    let queue = joined.queue()?;
    let Some(redrive) = redrive(queue)? else { return FINE };
    let count = redrive.max_receive_count.copied()?;
    let retention_s = queue.retention_s.copied()?;
    let visibility_s = queue.visibility_s.copied()?;
    let hidden_s = visibility_s.saturating_mul(count.saturating_sub(1));
    // What the queue alone does is wrong whatever the function is.
    let delays_s = if hidden_s >= retention_s { delays_s(joined).unwrap_or(0) } else { delays_s(joined)? };
    let longest_s = hidden_s.max(delays_s);
    when(longest_s >= retention_s, || {
        let what = if delays_s > hidden_s {
            "the delays between".to_owned()
        } else {
            format!("VisibilityTimeout, {visibility_s} s, after all but the last of")
        };
        let found = format!(
            "MessageRetentionPeriod is {}, and {what} {count} deliveries may add up to {longest_s} s: a message expires before its last \
             delivery, and never becomes a dead letter",
            seconds(retention_s)
        );
        let fitting_s = longest_s.saturating_mul(2).clamp(RETENTION_USUAL_S, RETENTION_MAX_S);
        let mut fix = format!("MessageRetentionPeriod: {fitting_s}");
        if hidden_s >= RETENTION_MAX_S {
            let most = (RETENTION_MAX_S - 1) / visibility_s.max(1) + 1;
            fix += &format!("\n# that is the longest; and in RedrivePolicy at most\n#   maxReceiveCount: {most}");
        }
        Problem::error(&queue.retention_s.place, found).fix(&queue.place, fix)
    })
}

/// What the delays of a function that uses microbatch may add up to; 0 where it delays nothing.
fn delays_s(joined: &Joined<'_>) -> Result<u64, Gap> {
    let Some(Deliveries { ours, max_receive_count, budget_s, .. }) = deliveries(joined)? else { return Ok(0) };
    if !ours.microbatch.delays()? {
        return Ok(0);
    }
    let count = u32::try_from(max_receive_count).unwrap_or(u32::MAX);
    // What does not fit is another rule's.
    Ok(Backoff::spanning(budget_s, count).map_or(0, |backoff| longest_s(backoff, max_receive_count)))
}

/// The delays after all deliveries but the last, each with its random part: up to half as much again.
fn longest_s(backoff: Backoff, max_receive_count: u64) -> u64 {
    // More deliveries than SQS counts add nothing.
    let last = u32::try_from(max_receive_count.min(1_000)).unwrap_or(1_000);
    (1..last).map(|receive| backoff.floor_s(receive)).map(|floor_s| floor_s + floor_s / 2).sum()
}

fn deliveries_span_too_little(joined: &Joined<'_>) -> Judged {
    let Some(Deliveries { ours, queue, max_receive_count, budget_s }) = deliveries(joined)? else { return FINE };
    let visibility_s = queue.visibility_s.copied()?;
    if ours.microbatch.delays()? {
        return FINE;
    }
    let span_s = visibility_s.saturating_mul(max_receive_count.saturating_sub(1));
    when(span_s < budget_s, || {
        let found = format!(
            "without MICROBATCH_BACKOFF the {max_receive_count} deliveries of a message span {span_s} s (VisibilityTimeout {visibility_s} s \
             each), less than {OUTAGE_BUDGET_S}, {budget_s}: a longer outage makes dead letters of healthy messages"
        );
        let queue_id = &queue.place.resource;
        let fix = format!(
            "MICROBATCH_BACKOFF: 'on'\nMICROBATCH_QUEUE_URL: !Ref {queue_id}\nMICROBATCH_MAX_RECEIVE_COUNT: '{max_receive_count}'\n\
             # the role needs sqs:ChangeMessageVisibility on {queue_id}"
        );
        let redrive = redrive(queue).ok().flatten();
        let place = redrive.map_or(&queue.place, |redrive| &redrive.max_receive_count.place);
        Problem::warning(place, found).fix(&ours.microbatch.place, fix)
    })
}

fn records_expire_early(joined: &Joined<'_>) -> Judged {
    let Some(ours) = joined.ours()? else { return FINE };
    if !ours.microbatch.option("MICROBATCH_IDEMPOTENCY", |options| options.idempotency)? {
        return FINE;
    }
    let kept_s = ours.microbatch.option(RETENTION_S, |options| options.retention_s)?;
    let queue = joined.queue()?;
    let queue_s = queue.retention_s.copied()?;
    let mut dead_letters_s = match dead_letter_queue(joined.stack, queue)? {
        Some(dead_letters) => dead_letters.retention_s.copied()?,
        None => 0,
    };
    if let Some(Target::Here(park)) = ours.microbatch.park.get()?
        && let Some(park) = joined.stack.queues.get(park)
    {
        dead_letters_s = dead_letters_s.max(park.retention_s.copied()?);
    }
    let wanted_s = queue_s.saturating_mul(2).saturating_add(dead_letters_s);
    when(kept_s < wanted_s, || {
        let default = if ours.microbatch.is_set(RETENTION_S) { "" } else { " by default" };
        let found = format!(
            "{RETENTION_S} is {kept_s}{default}, less than the retention of {queue}, {queue_s}, the dead-letter queue, {dead_letters_s}, and \
             {queue} again after a redrive = {wanted_s}: a message that comes back late runs twice",
            queue = queue.place.resource
        );
        Problem::error(&ours.microbatch.place_of(RETENTION_S), found)
            .fix(&ours.microbatch.place, format!("{RETENTION_S}: '{wanted_s}'"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_delays_are_at_most_one_and_a_half_times_the_least() {
        let backoff = Backoff::spanning(3_600, 10).expect("it fits");
        let least_s: u64 = (1..10).map(|receive| backoff.floor_s(receive)).sum();
        let longest_s = longest_s(backoff, 10);
        assert!(least_s >= 3_600 && longest_s <= least_s * 3 / 2 && longest_s + 9 >= least_s * 3 / 2, "{longest_s}");
    }
}
