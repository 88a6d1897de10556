//! What the benches share: how long each measures, how large batches are, and how a row is named.
//!
//! Every group has rows named `floor`: the same work with nothing of this crate in it, which is what a cost is to be
//! compared with. Costs are read from the throughput, which is in elements: one element is one item of a batch.

use std::time::Duration;

use criterion::Criterion;

/// How many items a batch has: the last is the event source mapping's largest batch.
pub(crate) const COUNTS: [usize; 5] = [1, 10, 100, 1_000, 10_000];

/// The row of this crate's own work.
pub(crate) const MICROBATCH: &str = "microbatch";
/// The row of what the same work costs without this crate.
pub(crate) const FLOOR: &str = "floor";

/// Runs a file's benches: short measurements, so that all of them together take a few minutes.
pub(crate) fn run(benches: impl FnOnce(&mut Criterion)) {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
        .configure_from_args();
    benches(&mut criterion);
    criterion.final_summary();
}
