//! Histograms in a terminal: buckets that widen as values grow, bars of whole and part characters.

use crate::numbers::{duration, grouped, percent, whole};
use crate::telemetry::{Distribution, as_f64};

/// Lower bounds of time buckets, in milliseconds, at the steps that clocks have.
const TIME_BOUNDS: [f64; 29] = [
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1_000.0,
    2_000.0,
    5_000.0,
    10_000.0,
    20_000.0,
    30_000.0,
    60_000.0,
    120_000.0,
    300_000.0,
    600_000.0,
    900_000.0,
    1_800_000.0,
    3_600_000.0,
    7_200_000.0,
    18_000_000.0,
    43_200_000.0,
    86_400_000.0,
    172_800_000.0,
    432_000_000.0,
    1_209_600_000.0,
];
/// The same for numbers of records.
const COUNT_BOUNDS: [f64; 16] = [
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1_000.0,
    2_000.0,
    5_000.0,
    10_000.0,
    100_000.0,
    1_000_000.0,
    10_000_000.0,
];
/// Columns of a terminal that says nothing, and the narrowest and widest that are drawn for.
const COLUMNS_DEFAULT: usize = 80;
const COLUMNS_RANGE: std::ops::RangeInclusive<usize> = 40..=160;
/// Columns of a bucket's bound.
const LABEL_COLUMNS: usize = 11;
/// A bar's last character, by the eighths of a column that it fills.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// What a metric counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Records,
    Ms,
}

impl Unit {
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Records => whole(value),
            Self::Ms => duration(value),
        }
    }

    fn bounds(self) -> &'static [f64] {
        match self {
            Self::Records => &COUNT_BOUNDS,
            Self::Ms => &TIME_BOUNDS,
        }
    }
}

/// How bars are drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Canvas {
    pub(super) columns: usize,
    pub(super) is_ascii: bool,
}

impl Canvas {
    /// A canvas as wide as the variable `COLUMNS` says.
    pub(super) fn new(columns: Option<&str>, is_ascii: bool) -> Self {
        let columns = columns.and_then(|text| text.trim().parse().ok()).filter(|columns| *columns > 0);
        let columns = columns.unwrap_or(COLUMNS_DEFAULT).clamp(*COLUMNS_RANGE.start(), *COLUMNS_RANGE.end());
        Self { columns, is_ascii }
    }

    /// A bar for a part of the whole width. What is not nothing is seen.
    fn bar(self, part: u64, largest: u64, columns: usize) -> String {
        if part == 0 || largest == 0 {
            return String::new();
        }
        let eighths = u128::from(part) * columns as u128 * 8 / u128::from(largest);
        let eighths = usize::try_from(eighths).unwrap_or(columns * 8).clamp(1, columns * 8);
        if self.is_ascii {
            return "#".repeat(eighths.div_ceil(8));
        }
        format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
    }
}

/// A bucket: from a lower bound on, below an upper one; the last of all has none.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bucket {
    pub(super) from: f64,
    pub(super) to: Option<f64>,
    pub(super) count: u64,
}

/// The buckets from the first to the last that is not empty.
pub(super) fn buckets(distribution: &Distribution, unit: Unit) -> Vec<Bucket> {
    let bounds = unit.bounds();
    let counts = distribution.buckets(bounds);
    let Some(first) = counts.iter().position(|count| *count > 0) else { return Vec::new() };
    let last = counts.iter().rposition(|count| *count > 0).unwrap_or(first);
    let bucket = |position: usize| Bucket {
        from: if position == 0 { 0.0 } else { bounds[position - 1] },
        to: bounds.get(position).copied(),
        count: counts[position],
    };
    (first..=last).map(bucket).collect()
}

/// The lines of a histogram: each bucket with its lower bound, its bar and its count.
pub(super) fn histogram(distribution: &Distribution, unit: Unit, canvas: Canvas) -> Vec<String> {
    let buckets = buckets(distribution, unit);
    let largest = buckets.iter().map(|bucket| bucket.count).max().unwrap_or_default();
    let total = as_f64(distribution.count());
    let figures: Vec<(String, String)> =
        buckets.iter().map(|bucket| (grouped(bucket.count), percent(as_f64(bucket.count), total))).collect();
    let count_columns = figures.iter().map(|(count, _)| count.len()).max().unwrap_or_default();
    // Two in front, two on each side of the bar, one and seven for the share.
    let bar_columns = canvas.columns.saturating_sub(2 + LABEL_COLUMNS + 2 + 2 + count_columns + 8).max(8);
    let lines = buckets.iter().zip(figures).map(|(bucket, (count, share))| {
        let bar = canvas.bar(bucket.count, largest, bar_columns);
        let label = unit.show(bucket.from);
        format!("  {label:>LABEL_COLUMNS$}  {bar:bar_columns$}  {count:>count_columns$} {share:>7}")
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(weighted: &[(f64, u64)]) -> Distribution {
        let mut distribution = Distribution::default();
        for (value, count) in weighted {
            distribution.add(*value, *count);
        }
        distribution
    }

    #[test]
    fn buckets_widen_and_empty_ones_between_are_shown() {
        let sizes = distribution(&[(1.0, 8), (10.0, 4), (19.0, 4), (100.0, 1)]);
        let canvas = Canvas::new(Some("50"), true);
        assert_eq!(
            histogram(&sizes, Unit::Records, canvas),
            [
                "            1  ########################  8  47.1 %",
                "            2                            0   0.0 %",
                "            5                            0   0.0 %",
                "           10  ########################  8  47.1 %",
                "           20                            0   0.0 %",
                "           50                            0   0.0 %",
                "          100  ###                       1   5.9 %",
            ]
        );
        assert!(histogram(&distribution(&[]), Unit::Ms, canvas).is_empty());
    }

    #[test]
    fn bars_end_in_eighths_and_nothing_small_is_lost() {
        let times = distribution(&[(0.5, 1_000_000), (1_500.0, 530_000), (90_000.0, 1)]);
        let lines = histogram(&times, Unit::Ms, Canvas::new(Some("50"), false));
        assert_eq!(lines.len(), 17);
        assert!(lines[0].starts_with("         0 ms  ██"), "{}", lines[0]);
        assert!(lines[10].starts_with("          1 s  ████████▍ "), "{}", lines[10]);
        assert!(lines[16].starts_with("        1 min  ▏ ") && lines[16].ends_with("<0.1 %"), "{}", lines[16]);
        assert!(lines.iter().all(|line| line.chars().count() <= 50));
    }

    #[test]
    fn the_width_is_bounded_and_values_beyond_all_buckets_are_in_the_last() {
        for (columns, expected) in [(None, 80), (Some(""), 80), (Some("0"), 80), (Some("7"), 40), (Some("100000"), 160)]
        {
            assert_eq!(Canvas::new(columns, true).columns, expected);
        }
        let far = distribution(&[(1e15, u64::MAX)]);
        let found = buckets(&far, Unit::Ms);
        assert_eq!(found, [Bucket { from: 1_209_600_000.0, to: None, count: u64::MAX }]);
        let lines = histogram(&far, Unit::Ms, Canvas::new(None, true));
        assert!(lines[0].contains("14 d") && lines[0].contains("100.0 %"), "{lines:?}");
    }
}
