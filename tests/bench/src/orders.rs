//! Events of orders, each order in one event only, so that no key is a duplicate.

use std::iter::repeat_with;
use std::num::NonZeroUsize;

use microbatch_aws::lambda::BoxError;
use microbatch_testkit::events::{Envelope, EventSpec, generate};

/// The largest batch whose records are as AWS sends them: more of those would not fit an event with certainty.
const REAL_RECORDS_MAX: usize = 1_000;

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

/// The first order of those that stand apart.
const APART: u64 = 1 << 40;

impl Orders {
    /// Orders that others of this process do not have.
    pub(crate) fn apart() -> Self {
        Self { made: APART }
    }

    /// A sample's events, of this many records each: as many as have `items_min` records, at least one. Short records, so that
    /// 10,000 of them fit an event, and all sizes compare.
    pub(crate) fn batches(&mut self, records: NonZeroUsize, items_min: usize) -> Result<Batches, BoxError> {
        self.sample(records, items_min, Envelope::Short)
    }

    /// The same, with records as AWS sends them, up to 1,000 an event.
    pub(crate) fn real_batches(&mut self, records: NonZeroUsize, items_min: usize) -> Result<Batches, BoxError> {
        let envelope = if records.get() <= REAL_RECORDS_MAX { Envelope::Real } else { Envelope::Short };
        self.sample(records, items_min, envelope)
    }

    fn sample(&mut self, records: NonZeroUsize, items_min: usize, envelope: Envelope) -> Result<Batches, BoxError> {
        let count = items_min.div_ceil(records.get()).max(1);
        let events = repeat_with(|| self.event(records, envelope)).take(count).collect::<Result<_, BoxError>>()?;
        Ok(Batches { events, items: count * records.get() })
    }

    /// One event.
    pub(crate) fn event(&mut self, records: NonZeroUsize, envelope: Envelope) -> Result<String, BoxError> {
        let (seed, first_order) = (self.made, self.made);
        self.made += records.get() as u64;
        Ok(generate(&EventSpec { records, envelope, body_bytes: 0, seed, fifo_groups: None, first_order })?)
    }
}
