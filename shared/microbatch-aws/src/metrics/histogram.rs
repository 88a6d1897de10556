//! Many observations as few values with counts, so that percentiles survive and a line stays short.

use metrique_writer_core::Observation;

/// Most values of one metric in a line, by the embedded metric format.
const VALUES_MAX: usize = 100;

/// How far apart two values of one bucket may lie, as a ratio: the first that gives few enough buckets is taken. The last
/// one does for all of 64 bits.
const RATIOS: &[f64] = &[1.0, 1.01, 1.02, 1.05, 1.1, 1.25, 1.6];

/// The observations as at most 100 values with their counts. A bucket's value is its mean: count and sum stay exact, and a
/// percentile is off by less than the bucket is wide, mostly not at all.
pub(super) fn observations(mut values: Vec<u64>) -> Vec<Observation> {
    values.sort_unstable();
    RATIOS.iter().map(|&ratio| buckets(&values, ratio)).find(|buckets| buckets.len() <= VALUES_MAX).unwrap_or_default()
}

/// Sorted values by buckets, each as wide as the ratio from its smallest value; no more than one too many.
fn buckets(sorted: &[u64], ratio: f64) -> Vec<Observation> {
    let mut buckets = Vec::new();
    let mut rest = sorted;
    while let Some(&first) = rest.first()
        && buckets.len() <= VALUES_MAX
    {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds and bytes are far below 2^53")]
        let ends_at = first as f64 * ratio;
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        let count = rest.partition_point(|&value| value == first || value as f64 <= ends_at);
        let (bucket, above) = rest.split_at(count);
        rest = above;
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        let total = bucket.iter().map(|&value| value as f64).sum();
        buckets.push(Observation::Repeated { total, occurrences: count as u64 });
    }
    buckets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(observations: &[Observation]) -> Vec<(f64, u64)> {
        let part = |observation: &Observation| match *observation {
            Observation::Repeated { total, occurrences } => (total, occurrences),
            _ => unreachable!("only such are made"),
        };
        observations.iter().map(part).collect()
    }

    #[test]
    fn few_different_values_are_kept_as_they_are() {
        assert_eq!(parts(&observations(vec![7, 0, 7, 12])), [(0.0, 1), (14.0, 2), (12.0, 1)]);
        assert!(observations(Vec::new()).is_empty());
    }

    proptest! {
        #[test]
        fn counts_and_sums_are_exact_and_percentiles_close(
            values in prop::collection::vec(prop_oneof![0..100_u64, 0..900_000_u64, 0..1_209_600_000_u64], 1..3_000),
        ) {
            let parts = parts(&observations(values.clone()));
            prop_assert!(parts.len() <= VALUES_MAX);
            prop_assert_eq!(parts.iter().map(|(_, count)| count).sum::<u64>(), values.len() as u64);
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let (sum, found) = (values.iter().sum::<u64>() as f64, parts.iter().map(|(total, _)| total).sum::<f64>());
            prop_assert!((sum - found).abs() <= sum * 1e-9);
            let mut sorted = values;
            sorted.sort_unstable();
            let mut at = 0;
            for (total, count) in parts {
                #[expect(clippy::cast_precision_loss, reason = "small")]
                let mean = total / count as f64;
                let count = usize::try_from(count).expect("small");
                for &value in &sorted[at..at + count] {
                    #[expect(clippy::cast_precision_loss, reason = "small")]
                    let off = (value as f64 - mean).abs();
                    prop_assert!(off <= mean * 0.6, "{value} stands for {mean}");
                }
                at += count;
            }
        }
    }
}
