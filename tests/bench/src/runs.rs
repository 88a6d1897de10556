//! Sides measured in turns, so that what else the machine does is shared by all.

use std::num::NonZeroUsize;
use std::time::Duration;

use microbatch_aws::lambda::BoxError;

use crate::args::Runs;
use crate::note;
use crate::orders::{Batches, Orders};
use crate::stats::float;

/// The records of a sample, where one batch has fewer.
const SAMPLE_RECORDS_MIN: usize = 1_000;

/// What some batches cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) cpu_us_per_item: f64,
    pub(crate) wall_ms_per_batch: f64,
}

impl Sample {
    /// What so many items cost in so many batches.
    pub(crate) fn new(cpu: Duration, items: usize, wall: Duration, batches: usize) -> Self {
        Self {
            cpu_us_per_item: cpu.as_secs_f64() * 1e6 / float(items),
            wall_ms_per_batch: wall.as_secs_f64() * 1e3 / float(batches),
        }
    }
}

/// Something that works on batches.
pub(crate) trait Contender {
    /// Works on the batches, one after the other, and measures what they cost.
    async fn measure(&self, batches: Batches) -> Result<Sample, BoxError>;
}

/// The samples of both sides, for each batch size. The first run warms up and does not count.
pub(crate) async fn interleave(
    ours: &impl Contender,
    theirs: &impl Contender,
    options: &Runs,
) -> Result<Vec<[Vec<Sample>; 2]>, BoxError> {
    let mut orders = Orders::default();
    let mut next = |records: NonZeroUsize| orders.batches(records, SAMPLE_RECORDS_MIN);
    let mut samples: Vec<[Vec<Sample>; 2]> = options.records.iter().map(|_| Default::default()).collect();
    for run in 0..=options.count() {
        for (&records, samples) in options.records.iter().zip(&mut samples) {
            // The sides take turns at going first.
            let pair = if run % 2 == 0 {
                [ours.measure(next(records)?).await?, theirs.measure(next(records)?).await?]
            } else {
                let of_theirs = theirs.measure(next(records)?).await?;
                [ours.measure(next(records)?).await?, of_theirs]
            };
            if run > 0 {
                samples.iter_mut().zip(pair).for_each(|(samples, sample)| samples.push(sample));
            }
        }
        note_run(run, options);
    }
    Ok(samples)
}

/// Says how far the runs have come.
pub(crate) fn note_run(run: u16, options: &Runs) {
    note(&format!("run {run} of {}{}", options.count(), if run == 0 { ", which warms up" } else { "" }));
}
