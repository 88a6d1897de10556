//! Rows: the readings of one device, metric and minute that are written together, and how they stand in the table.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    fmt,
};

use aws_sdk_dynamodb::types::AttributeValue;
use sha2::{Digest, Sha256};

use crate::reading::Reading;

/// The keys of the telemetry table: partition key and sort key, both strings.
pub const TABLE_KEYS: &str = "device_id,row_id";

/// The merge window in milliseconds: what is of one window may stand in one row.
pub const WINDOW_MS: u64 = 60_000;

/// Most readings in a row. One takes at most 60 bytes, an item of DynamoDB's 400 KB.
pub const READINGS_MAX: usize = 1_000;

/// Bytes of a row's digest: 128 bits are enough that no two sets of readings meet by chance.
const DIGEST_BYTES: usize = 16;

/// An item of the table.
pub type Item = HashMap<String, AttributeValue>;

/// A reading in a row, whose sequence number stands beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// When, in epoch milliseconds.
    pub at_ms: u64,
    /// How much.
    pub value: f64,
}

/// Readings of one device, metric and window.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    device_id: String,
    id: String,
    window_start_ms: u64,
    points: BTreeMap<u64, Point>,
}

/// Readings by their sequence numbers, each with its places in the sub-batch: several where it came several times.
type Placed = BTreeMap<u64, (Point, Vec<usize>)>;

/// What a sub-batch is compacted to.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Compaction {
    /// The rows.
    pub rows: Vec<Row>,
    /// For each row, the places of its readings in the sub-batch.
    pub members: Vec<Vec<usize>>,
    /// The places of readings whose sequence number another one in the sub-batch has. Equal keys are not worked on at
    /// once: there are none unless idempotency is off.
    pub taken: Vec<usize>,
}

/// Puts readings of one device, metric and window together. Each comes with its place in the sub-batch.
pub fn compact<'r>(readings: impl IntoIterator<Item = (usize, &'r Reading)>) -> Compaction {
    let mut windows: BTreeMap<(&str, &str, u64), Placed> = BTreeMap::new();
    let mut compaction = Compaction::default();
    for (place, reading) in readings {
        let window_start_ms = reading.at_ms - reading.at_ms % WINDOW_MS;
        let window = windows.entry((&reading.device_id, &reading.metric, window_start_ms)).or_default();
        // There are two zeros among doubles, and one in DynamoDB.
        let point = Point { at_ms: reading.at_ms, value: reading.value + 0.0 };
        let (first, places) = window.entry(reading.sequence).or_insert((point, Vec::new()));
        if *first == point { places.push(place) } else { compaction.taken.push(place) }
    }
    for ((device_id, metric, window_start_ms), placed) in windows {
        let mut placed = placed.into_iter().peekable();
        while placed.peek().is_some() {
            let (mut points, mut members) = (BTreeMap::new(), Vec::new());
            for (sequence, (point, places)) in placed.by_ref().take(READINGS_MAX) {
                points.insert(sequence, point);
                members.extend(places);
            }
            compaction.rows.push(Row::new(device_id, metric, window_start_ms, points));
            compaction.members.push(members);
        }
    }
    compaction
}

impl Row {
    fn new(device_id: &str, metric: &str, window_start_ms: u64, points: BTreeMap<u64, Point>) -> Self {
        let id = format!("{}{}", row_id_prefix(metric, window_start_ms), digest(&points));
        Self { device_id: device_id.to_owned(), id, window_start_ms, points }
    }

    /// The partition key's value.
    pub fn device_id(&self) -> &str {
        &self.device_id
    }

    /// The sort key's value.
    pub fn row_id(&self) -> &str {
        &self.id
    }

    /// The readings by their sequence numbers.
    pub fn points(&self) -> &BTreeMap<u64, Point> {
        &self.points
    }

    /// The row as it stands in the table.
    pub fn to_item(&self) -> Item {
        let readings = self.points.iter().map(|(sequence, point)| {
            let offset_ms = point.at_ms - self.window_start_ms;
            // The shortest digits that give this double again; the exponent spares zeros.
            let value = AttributeValue::N(format!("{:e}", point.value));
            (sequence.to_string(), AttributeValue::L(vec![number(offset_ms), value]))
        });
        HashMap::from([
            ("device_id".to_owned(), AttributeValue::S(self.device_id.clone())),
            ("row_id".to_owned(), AttributeValue::S(self.id.clone())),
            ("window_start_ms".to_owned(), number(self.window_start_ms)),
            ("readings".to_owned(), AttributeValue::M(readings.collect())),
        ])
    }

    /// Reads a row of the table.
    ///
    /// # Errors
    /// When the item is none that [`Row::to_item`] makes.
    pub fn from_item(item: &Item) -> Result<Self, BadRow> {
        let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned().ok_or(BadRow);
        let window_start_ms = item.get("window_start_ms").and_then(parse_number).ok_or(BadRow)?;
        let readings = item.get("readings").and_then(|value| value.as_m().ok()).ok_or(BadRow)?;
        let point = |(sequence, value): (&String, &AttributeValue)| {
            let [offset_ms, value] = value.as_l().ok()?.as_slice() else { return None };
            let at_ms = parse_number::<u64>(offset_ms)?.checked_add(window_start_ms)?;
            Some((sequence.parse().ok()?, Point { at_ms, value: parse_number(value)? }))
        };
        let points = readings.iter().map(point).collect::<Option<_>>().ok_or(BadRow)?;
        Ok(Self { device_id: text("device_id")?, id: text("row_id")?, window_start_ms, points })
    }
}

/// What the row ids of a metric and window begin with: a reader's query asks for these. Starts have 13 digits, so that the
/// ids of a metric are in the order of time.
pub fn row_id_prefix(metric: &str, window_start_ms: u64) -> String {
    format!("{metric}#{window_start_ms:013}#")
}

/// Tells two sets of readings apart, of one metric and window.
fn digest(points: &BTreeMap<u64, Point>) -> String {
    let mut digest = Sha256::new();
    for (sequence, point) in points {
        for part in [*sequence, point.at_ms, point.value.to_bits()] {
            digest.update(part.to_be_bytes());
        }
    }
    digest.finalize().iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn parse_number<N: std::str::FromStr>(value: &AttributeValue) -> Option<N> {
    value.as_n().ok()?.parse().ok()
}

/// An item of the table is no row of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRow;

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected device_id and row_id (S), window_start_ms (N) and readings (a map to lists of two numbers)",
        )
    }
}

impl Error for BadRow {}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: u64 = 1_763_899_980_000;

    fn reading(device: &str, metric: &str, offset_ms: u64, sequence: u64, value: f64) -> Reading {
        let (device_id, metric) = (device.to_owned(), metric.to_owned());
        Reading { device_id, metric, at_ms: START_MS + offset_ms, value, sequence }
    }

    fn compacted(readings: &[Reading]) -> Compaction {
        compact(readings.iter().enumerate())
    }

    #[test]
    fn readings_of_one_device_metric_and_minute_become_one_row() {
        let readings = [
            reading("a", "t", 0, 1, 1.0),
            reading("b", "t", 0, 1, 1.0),
            reading("a", "t", WINDOW_MS - 1, 2, 2.0),
            reading("a", "t", WINDOW_MS, 3, 3.0),
            reading("a", "u", 0, 1, 4.0),
        ];
        let Compaction { rows, members, taken } = compacted(&readings);
        assert_eq!(members, [vec![0, 2], vec![3], vec![4], vec![1]]);
        assert!(taken.is_empty());
        let prefix = format!("t#{START_MS}#");
        assert!(rows[0].row_id().strip_prefix(&prefix).is_some_and(|digest| digest.len() == 2 * DIGEST_BYTES));
        assert_eq!((rows[3].device_id(), rows[2].row_id().starts_with("u#")), ("b", true));
        assert_eq!(rows[0].points()[&2], Point { at_ms: START_MS + WINDOW_MS - 1, value: 2.0 });
    }

    #[test]
    fn the_same_readings_make_the_same_row_and_others_another() {
        let all = [reading("a", "t", 0, 1, 1.0), reading("a", "t", 1, 2, 2.0), reading("a", "t", 2, 3, 3.0)];
        let row_of = |readings: &[Reading]| compacted(readings).rows.remove(0);
        let mut backwards = all.clone();
        backwards.reverse();
        assert_eq!(row_of(&all), row_of(&backwards));
        let others = [
            row_of(&all[..2]),
            row_of(&all[1..]),
            row_of(&[reading("a", "t", 0, 1, 1.5), all[1].clone(), all[2].clone()]),
        ];
        assert!(others.iter().all(|other| other.row_id() != row_of(&all).row_id()));
    }

    #[test]
    fn a_reading_that_comes_twice_stands_once_and_another_of_its_number_not_at_all() {
        let readings = [
            reading("a", "t", 0, 1, 0.0),
            reading("a", "t", 0, 1, -0.0),
            reading("a", "t", 0, 1, 2.0),
            reading("a", "t", 5, 1, 0.0),
        ];
        let Compaction { rows, members, taken } = compacted(&readings);
        assert_eq!((rows.len(), members, taken), (1, vec![vec![0, 1]], vec![2, 3]));
        assert_eq!(rows[0].points().len(), 1);
    }

    #[test]
    fn a_row_is_bounded() {
        let readings: Vec<_> = (0..2_500).map(|n| reading("a", "t", n % 60_000, n, 1.0)).collect();
        let Compaction { rows, members, .. } = compacted(&readings);
        assert_eq!(rows.iter().map(|row| row.points().len()).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        assert_eq!(members.concat(), (0..2_500).collect::<Vec<_>>());
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let values = [0.0, 0.1 + 0.2, -1e100, 1e-100, f64::from(i32::MAX), 1.0 / 3.0];
        let readings: Vec<_> = (0..).zip(values).map(|(n, value)| reading("a", "t", n, u64::MAX - n, value)).collect();
        let row = compacted(&readings).rows.remove(0);
        assert_eq!(Row::from_item(&row.to_item()), Ok(row.clone()));
        for name in ["device_id", "row_id", "window_start_ms", "readings"] {
            let mut item = row.to_item();
            item.insert(name.to_owned(), AttributeValue::Bool(true));
            assert_eq!(Row::from_item(&item), Err(BadRow), "{name}");
        }
    }
}
