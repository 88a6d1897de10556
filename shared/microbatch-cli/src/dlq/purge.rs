//! `microbatch dlq purge`: messages are deleted for good.

use super::messages;
use super::sweep::{Bounds, Selection, Sweep, delete, look};
use crate::args::Purge;
use crate::exit::{Exit, Failure};
use crate::operate::ask::{ask, check};
use crate::operate::place::{self, Place};
use crate::operate::stop::Stop;
use crate::terminal;
use crate::up::sqs::reason;

/// Most messages that are counted before a question; no more are deleted then.
const LOOK_MAX: usize = 10_000;

pub(super) async fn run(args: Purge, stop: &Stop) -> Result<Exit, Failure> {
    let mut selection = Selection::new(&args.letters.filter, &args.letters.ids);
    if selection.is_all() && !args.all {
        return Err(Failure::usage("which messages? Name ids or a filter such as --code, or everything by --all"));
    }
    check(args.yes || args.dry_run)?;
    let place = place::find(&args.letters.queue, &args.places).await?;
    if args.all {
        return all(&args, &place, stop).await;
    }
    if args.dry_run || !args.yes {
        let looked = look(&place, stop, &selection, LOOK_MAX).await?;
        if let Some(exit) = stop.heard() {
            return Ok(exit);
        }
        let count = looked.letters.len();
        let codes = if count > 0 { format!(" ({})", super::by_code(&looked.letters)) } else { String::new() };
        let plan = format!("{}{codes} of {} looked at in {}", messages(count), looked.seen, place.name());
        if args.dry_run {
            terminal::line(&format!("{plan} would be deleted\nnothing was deleted: this was a dry run"));
            return Ok(Exit::Done);
        }
        if count == 0 {
            terminal::line(&format!("{plan} are meant; there is nothing to do"));
            return Ok(Exit::Done);
        }
        if !ask(&format!("{plan}: delete them for good? This cannot be undone."), stop).await? {
            terminal::line("nothing was deleted");
            return Ok(stop.heard().unwrap_or(Exit::Done));
        }
        // Exactly those that were counted.
        selection.ids = looked.letters.into_iter().map(|letter| letter.id).collect();
    }
    selected(&place, stop, &selection).await
}

/// Deletes what is selected, as it comes.
async fn selected(place: &Place, stop: &Stop, selection: &Selection) -> Result<Exit, Failure> {
    let bounds = Bounds { seen_max: usize::MAX, waits_for_others: false };
    let mut sweep = Sweep::new(place, stop, selection, bounds);
    let (mut deleted, mut failed) = (0, 0);
    let outcome = loop {
        let letters = match sweep.next().await {
            Ok(Some(letters)) => letters,
            Ok(None) => break Ok(()),
            Err(failure) => break Err(failure),
        };
        let handles: Vec<&str> = letters.iter().map(|letter| letter.handle.as_str()).collect();
        for (letter, gone) in letters.iter().zip(delete(&place.sqs.client, &place.url, &handles).await) {
            if gone {
                deleted += 1;
            } else {
                failed += 1;
                sweep.keep(letter);
            }
        }
    };
    let (seen, missing) = (sweep.seen(), sweep.missing());
    sweep.finish().await;
    terminal::line(&format!("{} deleted from {}, of {seen} looked at", messages(deleted), place.name()));
    outcome?;
    if failed > 0 {
        let what =
            format!("{} could not be deleted and are still there; the same command tries again", messages(failed));
        return Err(Failure::environment(what));
    }
    match stop.heard() {
        Some(exit) => Ok(exit),
        None if missing > 0 => Err(Failure::usage(format!("{missing} of the ids that were asked for did not come"))),
        None => Ok(Exit::Done),
    }
}

/// Deletes everything at once.
async fn all(args: &Purge, place: &Place, stop: &Stop) -> Result<Exit, Failure> {
    let depth = place::depth(place).await.map_or(0, |depth| depth.waiting + depth.in_flight);
    let plan = format!("all of about {depth} messages in {}", place.name());
    if args.dry_run {
        terminal::line(&format!("{plan} would be deleted\nnothing was deleted: this was a dry run"));
        return Ok(Exit::Done);
    }
    if !args.yes && !ask(&format!("Delete {plan} for good? This cannot be undone."), stop).await? {
        terminal::line("nothing was deleted");
        return Ok(stop.heard().unwrap_or(Exit::Done));
    }
    let purged = place.sqs.client.purge_queue().queue_url(&place.url).send().await;
    purged.map_err(|error| Failure::environment(format!("{} cannot be purged: {}", place.name(), reason(&error))))?;
    terminal::line(&format!("{plan} are being deleted, which takes up to a minute"));
    Ok(Exit::Done)
}
