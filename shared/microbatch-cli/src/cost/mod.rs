//! `microbatch cost`: what an item costs on AWS.

mod load;
mod model;
mod prices;
mod report;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use self::load::{Measured, Workload, workload};
pub(crate) use self::model::Architecture;
use self::prices::Prices;
use self::report::{Costed, Rate};
use crate::args::{Cost, Format};
use crate::exit::{Exit, Failure};
use crate::telemetry::Group;
use crate::{telemetry, terminal};

/// Bytes of a file of prices.
const PRICES_BYTES_MAX: u64 = 65_536;

/// Runs the subcommand.
pub(crate) async fn run(args: Cost) -> Result<Exit, Failure> {
    let prices = args.prices.as_deref().map_or_else(|| Ok(Prices::built_in()), read_prices).map_err(Failure::usage)?;
    let costed = if args.files.is_empty() {
        let chosen = &args.chosen;
        if chosen.function.is_some() || chosen.queue.is_some() || chosen.since.is_some() || chosen.until.is_some() {
            let message = "--function, --queue, --since and --until choose lines of a log: name a log file, or - for \
                           standard input";
            return Err(Failure::usage(message));
        }
        let workload = workload(&args.figures, None).map_err(Failure::usage)?;
        vec![costed(&args, "given figures".to_owned(), None, workload)]
    } else {
        measured(&args).await?
    };
    let text = match args.format {
        Format::Text => report::text(&costed, &prices),
        Format::Json => report::json(&costed, &prices),
    };
    terminal::output(text.as_bytes())
        .map_err(|error| Failure::environment(format!("standard output cannot be written: {error}")))?;
    Ok(Exit::Done)
}

/// The cost by what logs say, of each function and queue that had items.
async fn measured(args: &Cost) -> Result<Vec<Costed>, Failure> {
    let gathered = telemetry::gather(args.files.clone(), args.chosen.clone()).await?;
    if gathered.lines.unreadable > 0 {
        terminal::note(&format!("{} lines were unreadable and do not count", gathered.lines.unreadable));
    }
    let with_items = gathered.groups.iter().filter(|group| group.items() > 0.0 && group.batches() > 0);
    let costed = with_items.map(|group| {
        let workload = workload(&args.figures, Some(Measured::new(&gathered, group))).map_err(Failure::usage)?;
        Ok(costed(args, group.title(), Some(group), workload))
    });
    let costed: Vec<Costed> = costed.collect::<Result<_, Failure>>()?;
    if costed.is_empty() {
        return Err(Failure::usage("the batches in the log held no items, so that an item has no cost"));
    }
    Ok(costed)
}

fn costed(args: &Cost, title: String, group: Option<&Group>, workload: Workload) -> Costed {
    let given = args.items_per_s.map(|items_per_s| Rate { items_per_s, is_measured: false });
    let measured = || {
        let items_per_s = group?.items_per_s()?;
        Some(Rate { items_per_s, is_measured: true })
    };
    let names = group.and_then(|group| group.names.clone());
    let measured_on = group.map(load::measured_on);
    Costed { title, names, measured_on, workload, rate: given.or_else(measured), items: args.items }
}

fn read_prices(path: &Path) -> Result<Prices, String> {
    let name = path.display();
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(PRICES_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| format!("{name} cannot be read: {error}"))?;
    Prices::parse(&text).map_err(|problems| {
        let located: Vec<String> = problems.lines().map(|problem| format!("{name}: {problem}")).collect();
        located.join("\n")
    })
}
