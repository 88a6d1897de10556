//! Events of orders, each order in one event only, so that no key is a duplicate.

use std::iter::repeat_with;
use std::num::NonZeroUsize;

use microbatch_aws::lambda::BoxError;
use microbatch_testkit::events::{Envelope, EventSpec, generate};

/// The records of a sample, where one batch has fewer.
const SAMPLE_RECORDS_MIN: usize = 1_000;

/// Makes events.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    made: u64,
}

/// The events of a sample, all of one size.
#[derive(Debug)]
pub(crate) struct Batches {
    pub(crate) events: Vec<String>,
    /// How many records they have in all.
    pub(crate) items: usize,
}

impl Orders {
    /// A sample's events, of this many records each.
    pub(crate) fn batches(&mut self, records: NonZeroUsize) -> Result<Batches, BoxError> {
        let count = SAMPLE_RECORDS_MIN.div_ceil(records.get());
        let events = repeat_with(|| self.event(records)).take(count).collect::<Result<_, BoxError>>()?;
        Ok(Batches { events, items: count * records.get() })
    }

    fn event(&mut self, records: NonZeroUsize) -> Result<String, BoxError> {
        // Short, so that 10,000 records fit an event, and all sizes compare.
        let (envelope, seed, first_order) = (Envelope::Short, self.made, self.made);
        self.made += records.get() as u64;
        let spec = EventSpec { records, envelope, body_bytes: 0, seed, fifo_groups: None, first_order };
        Ok(generate(&spec)?)
    }
}
