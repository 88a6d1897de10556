//! How often each value was seen, and the percentiles of that: weighted, in bounded memory.
//!
//! Up to 2,048 different values are kept as they are. With more, values that agree in their first seven binary digits behind the
//! first are counted as one, so that a percentile is at most 0.4 % off; its smallest and largest value stay exact.

use std::collections::BTreeMap;

/// Different values that are kept apart.
const EXACT_VALUES_MAX: usize = 2_048;
/// Bits of a double's fraction that are left out when values are counted together.
const DROPPED_BITS: u32 = 52 - 7;
/// Below it a value counts as 0 then: no metric has a meaning there, and all doubles below 1 are too many to count apart.
const SMALLEST: f64 = 0.001;

/// Values with how often each was seen. Values are finite and not negative.
#[derive(Debug, Clone, Default)]
pub(crate) struct Distribution {
    /// By the value's bits, which for such doubles sort as the values do.
    counts: BTreeMap<u64, u64>,
    is_coarse: bool,
    count: u64,
    min: f64,
    max: f64,
}

impl Distribution {
    /// Adds a value that was seen `count` times. Others than finite ones from 0 on are left out: the reader has refused them.
    pub(crate) fn add(&mut self, value: f64, count: u64) {
        if !value.is_finite() || value < 0.0 || count == 0 {
            return;
        }
        // -0.0 is not less than 0, but its bits are those of a negative number.
        let value = value.abs();
        (self.min, self.max) =
            if self.count == 0 { (value, value) } else { (self.min.min(value), self.max.max(value)) };
        self.count = self.count.saturating_add(count);
        let key = if self.is_coarse { coarse(value) } else { value.to_bits() };
        bump(&mut self.counts, key, count);
        if !self.is_coarse && self.counts.len() > EXACT_VALUES_MAX {
            self.is_coarse = true;
            let mut counts = BTreeMap::new();
            for (bits, count) in &self.counts {
                bump(&mut counts, coarse(f64::from_bits(*bits)), *count);
            }
            self.counts = counts;
        }
    }

    /// How many values were seen.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The largest value; none of none.
    pub(crate) fn max(&self) -> Option<f64> {
        (self.count > 0).then_some(self.max)
    }

    /// The smallest value that at least this share of all, in thousandths, does not exceed ("nearest rank").
    pub(crate) fn permille(&self, share: u64) -> Option<f64> {
        let rank = (u128::from(self.count) * u128::from(share.min(1_000))).div_ceil(1_000).max(1);
        let mut seen = 0_u128;
        self.values().find_map(|(value, count)| {
            seen += u128::from(count);
            (seen >= rank).then_some(value)
        })
    }

    /// How many of the values are at most `limit`.
    pub(crate) fn at_most(&self, limit: f64) -> u64 {
        self.values().take_while(|(value, _)| *value <= limit).fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// How many values lie between each two neighbours of `bounds` (ascending): from one on, below the next. The first bucket is
    /// what lies below the first bound, the last what lies from the last bound on.
    pub(crate) fn buckets(&self, bounds: &[f64]) -> Vec<u64> {
        let mut buckets = vec![0_u64; bounds.len() + 1];
        for (value, count) in self.values() {
            let bucket = &mut buckets[bounds.partition_point(|bound| *bound <= value)];
            *bucket = bucket.saturating_add(count);
        }
        buckets
    }

    /// The values in ascending order; of values counted together the middle.
    fn values(&self) -> impl Iterator<Item = (f64, u64)> {
        self.counts.iter().map(|(bits, count)| {
            let is_exact = !self.is_coarse || *bits == 0;
            let bits = if is_exact { *bits } else { *bits | (1 << (DROPPED_BITS - 1)) };
            (f64::from_bits(bits).clamp(self.min, self.max), *count)
        })
    }
}

fn coarse(value: f64) -> u64 {
    if value < SMALLEST { 0 } else { value.to_bits() >> DROPPED_BITS << DROPPED_BITS }
}

fn bump(counts: &mut BTreeMap<u64, u64>, key: u64, count: u64) {
    let known = counts.entry(key).or_default();
    *known = known.saturating_add(count);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHARES: [u64; 6] = [0, 1, 500, 900, 990, 1_000];

    fn distribution(weighted: &[(f64, u64)]) -> Distribution {
        let mut distribution = Distribution::default();
        for (value, count) in weighted {
            distribution.add(*value, *count);
        }
        distribution
    }

    /// Each value as often as it was seen, sorted.
    fn expanded(weighted: &[(f64, u64)]) -> Vec<f64> {
        let mut values: Vec<f64> = weighted
            .iter()
            .flat_map(|(value, count)| std::iter::repeat_n(*value, usize::try_from(*count).expect("small")))
            .collect();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The definition, on values one by one.
    fn nearest_rank(sorted: &[f64], share: u64) -> Option<f64> {
        let least = |position: usize| (position as u64 + 1) * 1_000 >= share * sorted.len() as u64;
        (0..sorted.len()).find(|position| least(*position)).map(|position| sorted[position])
    }

    fn bit_equal(left: Option<f64>, right: Option<f64>) -> bool {
        left.map(f64::to_bits) == right.map(f64::to_bits)
    }

    /// Values that repeat, with how often; all sizes that a metric has.
    fn weighted(values_max: usize) -> impl Strategy<Value = Vec<(f64, u64)>> {
        let value = prop_oneof![(0_u32..50).prop_map(f64::from), 0.0..1e6, Just(0.0), Just(1e15)];
        prop::collection::vec((value, 0_u64..20), 0..values_max)
    }

    proptest! {
        #[test]
        fn few_values_have_the_percentiles_of_their_expansion(weighted in weighted(200)) {
            let (distribution, sorted) = (distribution(&weighted), expanded(&weighted));
            for share in SHARES {
                let (found, expected) = (distribution.permille(share), nearest_rank(&sorted, share));
                prop_assert!(bit_equal(found, expected), "{share}: {found:?}, expected {expected:?}");
            }
            prop_assert_eq!(distribution.count(), sorted.len() as u64);
            prop_assert!(bit_equal(distribution.max(), sorted.last().copied()));
        }

        #[test]
        fn order_and_splitting_of_counts_change_nothing(weighted in weighted(100)) {
            let ones: Vec<(f64, u64)> = expanded(&weighted).into_iter().rev().map(|value| (value, 1)).collect();
            let (whole, apart) = (distribution(&weighted), distribution(&ones));
            for share in SHARES {
                prop_assert!(bit_equal(whole.permille(share), apart.permille(share)));
            }
        }

        #[test]
        fn buckets_hold_every_value_once(weighted in weighted(100), limit in 0.0..60.0) {
            let (distribution, sorted) = (distribution(&weighted), expanded(&weighted));
            let buckets = distribution.buckets(&[1.0, 10.0, 1_000.0]);
            let below = |bound: f64| sorted.iter().filter(|value| **value < bound).count() as u64;
            prop_assert_eq!(buckets[0], below(1.0));
            prop_assert_eq!(buckets[1], below(10.0) - below(1.0));
            prop_assert_eq!(buckets.iter().sum::<u64>(), sorted.len() as u64);
            prop_assert_eq!(distribution.at_most(limit), sorted.iter().filter(|value| **value <= limit).count() as u64);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn many_values_take_bounded_memory_and_little_precision(
            values in prop::collection::vec(prop_oneof![0.0..1e15, 0.0..1.0, 1e-300..1e-290], 2_500..6_000)
        ) {
            let weighted: Vec<(f64, u64)> = values.into_iter().map(|value| (value, 1)).collect();
            let (distribution, sorted) = (distribution(&weighted), expanded(&weighted));
            for share in SHARES {
                let (found, expected) = (distribution.permille(share), nearest_rank(&sorted, share));
                let (found, expected) = (found.expect("some"), expected.expect("some"));
                let off = (found - expected).abs();
                prop_assert!(off <= SMALLEST || off <= expected / 250.0, "{share}: {found}, expected {expected}");
            }
            prop_assert!(bit_equal(distribution.max(), sorted.last().copied()));
        }
    }

    #[test]
    fn memory_is_bounded_whatever_the_values_are() {
        let mut distribution = Distribution::default();
        let mut value = 1e15;
        while value > f64::MIN_POSITIVE {
            distribution.add(value, u64::MAX / 2);
            value *= 0.999;
        }
        assert!(distribution.counts.len() < 8_000, "{}", distribution.counts.len());
        assert_eq!(distribution.count(), u64::MAX);
        assert!(distribution.permille(500).is_some());
    }

    #[test]
    fn what_is_no_value_is_left_out() {
        let distribution = distribution(&[(f64::NAN, 1), (f64::INFINITY, 1), (-1.0, 1), (3.0, 0), (-0.0, 2)]);
        assert_eq!((distribution.count(), distribution.permille(990), distribution.max()), (2, Some(0.0), Some(0.0)));
        assert_eq!(Distribution::default().permille(500), None);
    }
}
