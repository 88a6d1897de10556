//! `microbatch generate`: an SQS event of any size.

use std::num::NonZeroUsize;

use microbatch_testkit::events::{self, EventSpec};

use crate::args::{Envelope, Generate};
use crate::exit::{Exit, Failure};
use crate::terminal;

/// The message groups of a FIFO event. FIFO batches hold 10 records on AWS, so that some share a group.
const FIFO_GROUPS: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not 0");
/// The first order's number; the sample events stay below it.
const FIRST_ORDER: u64 = 100_000;

/// Runs the subcommand.
pub(crate) fn run(args: &Generate) -> Result<Exit, Failure> {
    let records = usize::try_from(args.records).ok().and_then(NonZeroUsize::new);
    let spec = EventSpec {
        records: records.ok_or_else(|| Failure::usage("expected at least one record"))?,
        envelope: match args.envelope {
            Envelope::Real => events::Envelope::Real,
            Envelope::Short => events::Envelope::Short,
        },
        body_bytes: args.body_bytes,
        seed: args.seed,
        fifo_groups: args.fifo.then_some(FIFO_GROUPS),
        first_order: FIRST_ORDER,
    };
    let event = events::generate(&spec).map_err(Failure::usage)?;
    match &args.out {
        None => terminal::output(event.as_bytes())
            .map_err(|error| Failure::environment(format!("standard output cannot be written: {error}")))?,
        Some(path) => {
            std::fs::write(path, format!("{event}\n"))
                .map_err(|error| Failure::usage(format!("{} cannot be written: {error}", path.display())))?;
            terminal::line(&format!("{}: {} records, {} bytes", path.display(), args.records, event.len()));
        }
    }
    Ok(Exit::Done)
}
