//! Two sides measured in turns, so that what else the machine does is shared by both.

use std::num::NonZeroUsize;

use microbatch_aws::lambda::BoxError;

use crate::adapter::{Adapter, Sample};
use crate::args::Runs;
use crate::note;
use crate::orders::Orders;

/// The samples of both sides, for each batch size. The first run warms up and does not count.
pub(crate) async fn interleave(
    sides: &[Adapter; 2],
    batch_sizes: &[NonZeroUsize],
    options: &Runs,
    orders: &mut Orders,
) -> Result<Vec<[Vec<Sample>; 2]>, BoxError> {
    let mut samples: Vec<[Vec<Sample>; 2]> = batch_sizes.iter().map(|_| Default::default()).collect();
    for run in 0..=options.count() {
        for (&records, samples) in batch_sizes.iter().zip(&mut samples) {
            // The sides take turns at going first.
            for side in if run % 2 == 0 { [0, 1] } else { [1, 0] } {
                let sample = sides[side].measure(orders.batches(records)?).await?;
                if run > 0 {
                    samples[side].push(sample);
                }
            }
        }
        note(&format!("run {run} of {}{}", options.count(), if run == 0 { ", which warms up" } else { "" }));
    }
    Ok(samples)
}
