//! `microbatch stats`: batch sizes, latencies and outcomes from functions' logs.

mod advice;
mod plot;
mod report;

use std::io::{self, IsTerminal};

use self::plot::Canvas;
use crate::args::{Format, Stats};
use crate::exit::{Exit, Failure};
use crate::{telemetry, terminal};

/// Runs the subcommand.
pub(crate) async fn run(args: Stats) -> Result<Exit, Failure> {
    let gathered = telemetry::gather(args.files, args.chosen).await?;
    let text = match args.format {
        Format::Json => report::json(&gathered, args.timeout),
        Format::Text => {
            let columns = std::env::var("COLUMNS").ok();
            let canvas = Canvas::new(columns.as_deref(), args.ascii || !io::stdout().is_terminal());
            report::text(&gathered, args.timeout, canvas)
        }
    };
    terminal::output(text.as_bytes())
        .map_err(|error| Failure::environment(format!("standard output cannot be written: {error}")))?;
    for note in report::notes(&gathered.lines) {
        terminal::note(&note);
    }
    Ok(Exit::Done)
}
