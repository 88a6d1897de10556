//! The reading as it stands in a message's body, and what makes one valid.

use std::{error::Error, fmt};

use serde::Deserialize;

/// The longest device id in bytes. A DynamoDB partition key may have 2,048.
pub const DEVICE_ID_BYTES_MAX: usize = 128;

/// The longest name of a metric in bytes. It is a part of a sort key, which may have 1,024.
pub const METRIC_BYTES_MAX: usize = 64;

/// The earliest time of a reading: 9 September 2001, from when on epoch milliseconds have the 13 digits that they stand
/// with in sort keys. What is earlier is in seconds, or of a device that does not know the time.
pub const AT_MS_MIN: u64 = 1_000_000_000_000;

/// How far a reading may be ahead of the function's clock, in milliseconds: devices' clocks go wrong.
pub const AHEAD_MS_MAX: u64 = 5 * 60 * 1_000;

/// The largest value either way. DynamoDB's numbers reach to 10^125, and a sum of values stays a double.
pub const VALUE_MAX: f64 = 1e100;

/// The smallest value either way, but 0. DynamoDB's numbers reach down to 10^-130.
pub const VALUE_MIN: f64 = 1e-100;

/// A reading of a device: what a message's body holds. Fields it does not name are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Reading {
    /// The device.
    pub device_id: String,
    /// What was measured: letters, digits and `. _ - /`.
    pub metric: String,
    /// When, in epoch milliseconds.
    pub at_ms: u64,
    /// How much, in the metric's own unit.
    pub value: f64,
    /// Counts the device's readings of this metric; no number is used twice.
    pub sequence: u64,
}

impl Reading {
    /// Checks everything that can be checked without looking anything up. The first rule broken is reported, in the
    /// order of [`ReadingError`]'s variants.
    pub fn validate(&self, now_ms: u64) -> Result<(), ReadingError> {
        if self.device_id.trim().is_empty() {
            return Err(ReadingError::BlankDeviceId);
        }
        if self.device_id.len() > DEVICE_ID_BYTES_MAX {
            return Err(ReadingError::DeviceIdTooLong { bytes: self.device_id.len() });
        }
        let in_metric = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        if !(1..=METRIC_BYTES_MAX).contains(&self.metric.len()) || !self.metric.bytes().all(in_metric) {
            return Err(ReadingError::BadMetric);
        }
        if self.at_ms < AT_MS_MIN {
            return Err(ReadingError::TimeTooEarly);
        }
        if self.at_ms > now_ms.saturating_add(AHEAD_MS_MAX) {
            return Err(ReadingError::TimeInFuture);
        }
        let size = self.value.abs();
        if size != 0.0 && !(VALUE_MIN..=VALUE_MAX).contains(&size) {
            return Err(ReadingError::ValueOutOfRange);
        }
        Ok(())
    }
}

/// Why a reading is invalid. It is rejected and stays so. No variant holds text of the reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadingError {
    /// The device id is empty or white space only.
    BlankDeviceId,
    /// The device id is longer than [`DEVICE_ID_BYTES_MAX`].
    DeviceIdTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// The metric is empty, longer than [`METRIC_BYTES_MAX`], or has other characters than letters, digits and `. _ - /`.
    BadMetric,
    /// The time is before [`AT_MS_MIN`].
    TimeTooEarly,
    /// The time is more than [`AHEAD_MS_MAX`] ahead.
    TimeInFuture,
    /// The value is larger than [`VALUE_MAX`], or closer to 0 than [`VALUE_MIN`], or not a number.
    ValueOutOfRange,
}

impl ReadingError {
    /// A short stable name for logs and dashboards.
    pub const fn code(self) -> &'static str {
        match self {
            Self::BlankDeviceId => "blank_device_id",
            Self::DeviceIdTooLong { .. } => "device_id_too_long",
            Self::BadMetric => "bad_metric",
            Self::TimeTooEarly => "time_too_early",
            Self::TimeInFuture => "time_in_future",
            Self::ValueOutOfRange => "value_out_of_range",
        }
    }
}

impl fmt::Display for ReadingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BlankDeviceId => f.write_str("device_id is blank: an id needs a visible character"),
            Self::DeviceIdTooLong { bytes } => {
                write!(f, "device_id has {bytes} bytes: an id has at most {DEVICE_ID_BYTES_MAX}")
            }
            Self::BadMetric => write!(
                f,
                "metric is no name: expected 1 to {METRIC_BYTES_MAX} letters, digits, dots, slashes, dashes or underscores"
            ),
            Self::TimeTooEarly => {
                write!(f, "at_ms is below {AT_MS_MIN}, in 2001: expected milliseconds since the start of 1970")
            }
            Self::TimeInFuture => write!(f, "at_ms is more than {AHEAD_MS_MAX} ms ahead of the clock here"),
            Self::ValueOutOfRange => {
                write!(f, "value is out of range: expected 0, or {VALUE_MIN:e} to {VALUE_MAX:e} either way")
            }
        }
    }
}

impl Error for ReadingError {}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_763_900_000_000;

    fn reading() -> Reading {
        Reading {
            device_id: "pump-7".to_owned(),
            metric: "oil/temperature".to_owned(),
            at_ms: NOW_MS,
            value: 81.5,
            sequence: 1,
        }
    }

    fn check(change: impl FnOnce(&mut Reading)) -> Result<(), &'static str> {
        let mut reading = reading();
        change(&mut reading);
        reading.validate(NOW_MS).map_err(ReadingError::code)
    }

    #[test]
    fn good_readings_are_valid_up_to_the_limits() {
        for value in [0.0, -0.0, 1e100, -1e100, 1e-100, -1e-100, f64::from(i32::MIN), 0.1] {
            assert_eq!(check(|r| r.value = value), Ok(()), "{value}");
        }
        for at_ms in [AT_MS_MIN, NOW_MS + AHEAD_MS_MAX] {
            assert_eq!(check(|r| r.at_ms = at_ms), Ok(()), "{at_ms}");
        }
        assert_eq!(check(|r| r.sequence = u64::MAX), Ok(()));
        assert_eq!(check(|r| r.device_id = "d".repeat(DEVICE_ID_BYTES_MAX)), Ok(()));
        assert_eq!(check(|r| r.metric = "m".repeat(METRIC_BYTES_MAX)), Ok(()));
    }

    #[test]
    fn each_rule_has_its_code() {
        assert_eq!(check(|r| r.device_id = " \t".to_owned()), Err("blank_device_id"));
        assert_eq!(check(|r| r.device_id = "d".repeat(DEVICE_ID_BYTES_MAX + 1)), Err("device_id_too_long"));
        for metric in ["", "a b", "a#b", "µ", &"m".repeat(METRIC_BYTES_MAX + 1)] {
            assert_eq!(check(|r| r.metric = metric.to_owned()), Err("bad_metric"), "{metric}");
        }
        for at_ms in [0, NOW_MS / 1_000, AT_MS_MIN - 1] {
            assert_eq!(check(|r| r.at_ms = at_ms), Err("time_too_early"), "{at_ms}");
        }
        for at_ms in [NOW_MS + AHEAD_MS_MAX + 1, u64::MAX] {
            assert_eq!(check(|r| r.at_ms = at_ms), Err("time_in_future"), "{at_ms}");
        }
        for value in [1.1e100, -1.1e100, f64::MAX, 0.9e-100, f64::MIN_POSITIVE, f64::NAN, f64::INFINITY] {
            assert_eq!(check(|r| r.value = value), Err("value_out_of_range"), "{value}");
        }
    }

    #[test]
    fn errors_show_no_text_of_the_reading() {
        let mut reading = reading();
        reading.device_id = "secret".repeat(100);
        let error = reading.validate(NOW_MS).expect_err("too long");
        assert!(!format!("{error} {error:?}").contains("secret"));
    }

    #[test]
    fn bodies_are_read_strictly() {
        let body = |at_ms: &str, value: &str, sequence: &str| {
            format!(r#"{{"device_id":"d","metric":"m","at_ms":{at_ms},"value":{value},"sequence":{sequence},"new":1}}"#)
        };
        let read = |body: &str| serde_json::from_str::<Reading>(body);
        for value in ["1", "-1.5e-7", "0"] {
            assert!(read(&body("1763900000000", value, "18446744073709551615")).is_ok(), "{value}");
        }
        for (at_ms, value, sequence) in [
            ("\"2025-11-23T12:00:00Z\"", "1", "1"),
            ("1763900000000.5", "1", "1"),
            ("-1", "1", "1"),
            ("1763900000000", "\"1\"", "1"),
            ("1763900000000", "NaN", "1"),
            ("1763900000000", "1e400", "1"),
            ("1763900000000", "null", "1"),
            ("1763900000000", "1", "-1"),
            ("1763900000000", "1", "1.0"),
        ] {
            let body = body(at_ms, value, sequence);
            assert!(read(&body).is_err(), "{body}");
        }
    }
}
