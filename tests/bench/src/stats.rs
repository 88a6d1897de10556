//! Medians, ratios, and how far figures spread.

/// The middle of some figures, and their ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Of these figures, at least one.
    pub(crate) fn of(figures: &[f64]) -> Self {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Self { median, min: sorted[0], max: sorted[sorted.len() - 1] }
    }

    /// The ratio of the medians, between the least and the greatest ratio of figures of the same run. What slows a whole run down
    /// does not show in those.
    pub(crate) fn of_ratios(ours: &[f64], theirs: &[f64]) -> Self {
        let in_runs = Self::of(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>());
        Self { median: Self::of(ours).median / Self::of(theirs).median, ..in_runs }
    }
}

/// The figure below which this part of them is: the nearest rank.
pub(crate) fn quantile(figures: &[f64], part: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = sorted.iter().enumerate().find(|(at, _)| float(at + 1) >= part * float(sorted.len()));
    at.map_or(f64::NAN, |(_, figure)| *figure)
}

/// A count, to divide by.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub(crate) fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        for (figures, median, min, max) in [
            (&[5.0][..], 5.0, 5.0, 5.0),
            (&[9.0, 1.0, 4.0], 4.0, 1.0, 9.0),
            (&[10.0, 2.0, 4.0, 1.0], 3.0, 1.0, 10.0),
            (&[2.0, 2.0, 100.0, 2.0], 2.0, 2.0, 100.0),
        ] {
            assert_eq!(Summary::of(figures), Summary { median, min, max }, "{figures:?}");
        }
    }

    #[test]
    fn a_quantile_is_the_figure_of_its_rank() {
        let figures: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (part, expected) in [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0)] {
            assert_eq!(quantile(&figures, part).total_cmp(&expected), std::cmp::Ordering::Equal, "{part}");
        }
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_ratio_is_that_of_the_medians_and_its_spread_that_of_the_runs() {
        // The second run was ten times slower for both.
        let summary = Summary::of_ratios(&[10.0, 100.0], &[40.0, 400.0]);
        assert_eq!(summary, Summary { median: 0.25, min: 0.25, max: 0.25 });
        let summary = Summary::of_ratios(&[1.0, 3.0, 9.0], &[2.0, 4.0, 3.0]);
        assert_eq!(summary, Summary { median: 1.0, min: 0.5, max: 3.0 });
    }
}
