//! The queues that a function is told of: its source, and where it parks.

use microbatch::FifoFailure;

use super::super::found::Gap;
use super::super::model::{PARK_QUEUE_URL, QUEUE_URL, Queue, Target};
use super::{Check, FINE, Joined, Judged, Ours, Problem, Rule, when};

const SETTINGS_PAGE: &str = "Settings (microbatch, README.md)";

pub(super) const RULES: &[Rule] = &[
    Rule { id: "MB038", page: SETTINGS_PAGE, check: Check::Mapping(other_source) },
    Rule { id: "MB039", page: SETTINGS_PAGE, check: Check::Mapping(parks_in_source) },
    Rule {
        id: "MB040",
        page: "Using dead-letter queues in Amazon SQS (Amazon SQS Developer Guide)",
        check: Check::Mapping(parks_in_other_kind),
    },
    Rule { id: "MB041", page: SETTINGS_PAGE, check: Check::Mapping(parks_nothing) },
];

const FIFO_FAILURE: &str = "MICROBATCH_FIFO_FAILURE";

/// The queue of this template that a function parks in.
pub(super) fn park<'s>(ours: &Ours<'s>) -> Result<Option<&'s Queue>, Gap> {
    match ours.microbatch.park.get()? {
        None => Ok(None),
        Some(Target::Here(id)) => Ok(ours.stack.queues.get(id)),
        Some(Target::Elsewhere { why, .. }) => Err(Gap { place: ours.microbatch.park.place.clone(), why: why.clone() }),
    }
}

fn other_source(joined: &Joined<'_>) -> Judged {
    let Some(ours) = joined.ours()? else { return FINE };
    let microbatch = ours.microbatch;
    let named = match microbatch.queue.get()? {
        Some(named) if microbatch.delays()? || microbatch.is_set(PARK_QUEUE_URL) => named,
        _ => return FINE,
    };
    let queue = joined.queue()?;
    let named = match named {
        Target::Here(id) => id,
        Target::Elsewhere { why, .. } => {
            return Err(Gap { place: microbatch.queue.place.clone(), why: why.clone() });
        }
    };
    let id = &queue.place.resource;
    when(named != id, || {
        let found = format!(
            "{QUEUE_URL} is that of {named}, and the function's messages come from {id}: delays and parking go to the wrong queue"
        );
        Problem::error(&microbatch.queue.place, found).fix(&microbatch.place, format!("{QUEUE_URL}: !Ref {id}"))
    })
}

fn parks_in_source(joined: &Joined<'_>) -> Judged {
    let Some(ours) = joined.ours()? else { return FINE };
    let Some(park) = park(&ours)? else { return FINE };
    let queue = joined.queue()?;
    when(park.place == queue.place, || {
        let found = format!("{PARK_QUEUE_URL} is the source queue: rejected messages come back for ever");
        let dead_letters = super::dead_letter_queue(joined.stack, queue).ok().flatten();
        let id = dead_letters.map_or("DEAD_LETTER_QUEUE", |queue| queue.place.resource.as_str());
        Problem::error(&ours.microbatch.park.place, found)
            .fix(&ours.microbatch.place, format!("{PARK_QUEUE_URL}: !Ref {id}"))
    })
}

fn parks_in_other_kind(joined: &Joined<'_>) -> Judged {
    let Some(ours) = joined.ours()? else { return FINE };
    let Some(park) = park(&ours)? else { return FINE };
    let (own, other) = (joined.is_fifo()?, park.is_fifo.copied()?);
    when(own != other, || {
        let kind = |is_fifo| if is_fifo { "a FIFO queue" } else { "a standard queue" };
        let found = format!(
            "{PARK_QUEUE_URL} is {}, {}, and the source is {}: the function does not start",
            park.place.resource,
            kind(other),
            kind(own)
        );
        let fix = format!("{PARK_QUEUE_URL}: !Ref DEAD_LETTER_QUEUE  # {}", kind(own));
        Problem::error(&ours.microbatch.park.place, found).fix(&ours.microbatch.place, fix)
    })
}

/// Whether the function parks at all: on a FIFO queue it does only where it may go on behind a rejected message.
pub(super) fn is_parking(joined: &Joined<'_>, ours: &Ours<'_>) -> Result<bool, Gap> {
    let is_set = ours.microbatch.is_set(PARK_QUEUE_URL);
    let policy = ours.microbatch.option(FIFO_FAILURE, |options| options.fifo_failure)?;
    Ok(is_set && (policy == FifoFailure::ParkAndContinue || !joined.is_fifo()?))
}

fn parks_nothing(joined: &Joined<'_>) -> Judged {
    let Some(ours) = joined.ours()? else { return FINE };
    when(ours.microbatch.is_set(PARK_QUEUE_URL) && !is_parking(joined, &ours)?, || {
        let found = format!(
            "{PARK_QUEUE_URL} has no effect on a FIFO queue while {FIFO_FAILURE} is block: rejected messages block their group until the \
             redrive policy moves them"
        );
        let fix = format!("{FIFO_FAILURE}: park_and_continue  # gives the order up; or leave {PARK_QUEUE_URL} out");
        Problem::warning(&ours.microbatch.park.place, found).fix(&ours.microbatch.place, fix)
    })
}
