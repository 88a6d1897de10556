//! What a reader makes of rows: each reading once, whichever rows it stands in.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use crate::row::{Point, Row};

/// What is to be said of a number of readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many there are, at least one.
    pub count: u64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// All values together, added in the order of the sequence numbers: the same readings have the same sum to the last bit.
    pub sum: f64,
    /// The latest reading; of several at that time the one with the highest sequence number.
    pub last: Point,
    /// How many sequence numbers stand for two readings: the device has used them twice. The earlier reading was taken, and
    /// of two at one time that with the smaller value.
    pub disputed: u64,
}

/// Sums up rows of one device and metric, of one window or of several. None when there are no readings.
pub fn summary<'r>(rows: impl IntoIterator<Item = &'r Row>) -> Option<Summary> {
    let mut union: BTreeMap<u64, Point> = BTreeMap::new();
    let mut disputed = BTreeSet::new();
    for (sequence, point) in rows.into_iter().flat_map(Row::points) {
        match union.entry(*sequence) {
            Entry::Vacant(entry) => {
                entry.insert(*point);
            }
            Entry::Occupied(entry) if entry.get() == point => {}
            Entry::Occupied(mut entry) => {
                disputed.insert(*sequence);
                let taken = entry.get();
                let order = point.at_ms.cmp(&taken.at_ms).then(point.value.total_cmp(&taken.value));
                if order.is_lt() {
                    entry.insert(*point);
                }
            }
        }
    }
    let mut points = union.into_values();
    let first = points.next()?;
    let of_first = Summary {
        count: 1,
        min: first.value,
        max: first.value,
        sum: first.value,
        last: first,
        disputed: disputed.len() as u64,
    };
    Some(points.fold(of_first, |so_far, point| Summary {
        count: so_far.count + 1,
        min: so_far.min.min(point.value),
        max: so_far.max.max(point.value),
        sum: so_far.sum + point.value,
        last: if point.at_ms >= so_far.last.at_ms { point } else { so_far.last },
        disputed: so_far.disputed,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{reading::Reading, row::compact};

    const START_MS: u64 = 1_763_899_980_000;

    fn row(readings: &[(u64, u64, f64)]) -> Row {
        let readings: Vec<_> = readings
            .iter()
            .map(|&(sequence, offset_ms, value)| Reading {
                device_id: "a".to_owned(),
                metric: "t".to_owned(),
                at_ms: START_MS + offset_ms,
                value,
                sequence,
            })
            .collect();
        compact(readings.iter().enumerate()).rows.remove(0)
    }

    #[test]
    fn rows_that_overlap_are_their_union() {
        let rows = [
            row(&[(1, 0, 5.0), (2, 10, -1.0), (3, 10, 2.0)]),
            row(&[(2, 10, -1.0), (4, 9, 7.0)]),
            row(&[(3, 10, 2.0)]),
        ];
        let expected = Summary {
            count: 4,
            min: -1.0,
            max: 7.0,
            sum: 13.0,
            last: Point { at_ms: START_MS + 10, value: 2.0 },
            disputed: 0,
        };
        assert_eq!(summary(&rows), Some(expected));
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn how_readings_are_spread_over_rows_does_not_show_in_the_last_bit() {
        let (one, two, three) = ((1, 0, 0.1), (2, 1, 0.2), (3, 2, 0.3));
        let together = summary(&[row(&[one, two, three])]);
        assert_eq!(summary(&[row(&[three]), row(&[two, one])]), together);
        assert_eq!(summary(&[row(&[three, one]), row(&[two]), row(&[one])]), together);
    }

    #[test]
    fn a_number_that_was_used_twice_is_counted_and_the_earlier_reading_taken() {
        let earlier = row(&[(1, 0, 9.0), (2, 0, 1.0)]);
        let later = row(&[(1, 5, 2.0)]);
        let smaller = row(&[(1, 0, 3.0)]);
        for rows in [[&earlier, &later, &smaller], [&later, &smaller, &earlier], [&smaller, &earlier, &later]] {
            let summary = summary(rows).expect("readings");
            assert_eq!((summary.count, summary.sum, summary.disputed), (2, 4.0, 1));
        }
    }
}
