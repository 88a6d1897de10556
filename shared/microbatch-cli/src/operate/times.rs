//! Times in words, and ages as options give them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

/// Units of an age, and their seconds, the largest first.
const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
/// Longest age that is taken: longer than any queue keeps a message.
const AGE_MAX_S: u64 = 366 * 86_400;

/// The time of this machine, in epoch milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Reads an age such as `30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let read = || {
        let (unit, unit_s) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
        let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        let seconds = number.checked_mul(*unit_s).filter(|seconds| *seconds <= AGE_MAX_S)?;
        Some(Duration::from_secs(seconds))
    };
    read().ok_or_else(|| "expected a number and a unit of time, such as 90s, 30m, 2h or 3d".to_owned())
}

/// A point in time, in UTC to the second.
pub(crate) fn when(at_ms: u64) -> String {
    let seconds = i64::try_from(at_ms / 1_000).unwrap_or(i64::MAX);
    let text = DateTime::from_secs(seconds).fmt(Format::DateTime);
    text.map_or_else(|_| format!("{at_ms} ms"), |text| text.replace('T', " "))
}

/// A point in time and how far it is from now.
pub(crate) fn when_and_ago(at_ms: u64, now_ms: u64) -> String {
    format!("{} ({})", when(at_ms), distance(at_ms, now_ms))
}

/// How far a point in time is from now.
pub(crate) fn distance(at_ms: u64, now_ms: u64) -> String {
    if at_ms > now_ms { format!("in {}", span(at_ms - now_ms)) } else { format!("{} ago", span(now_ms - at_ms)) }
}

/// A length of time, by its largest unit.
pub(crate) fn span(span_ms: u64) -> String {
    let seconds = span_ms / 1_000;
    let (unit, unit_s) = UNITS.into_iter().find(|(_, unit_s)| seconds >= 2 * unit_s).unwrap_or(("s", 1));
    let unit = if unit == "m" { "min" } else { unit };
    format!("{} {unit}", seconds / unit_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_number_with_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1_800), ("2h", 7_200), ("3d", 259_200), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "30", "m", "-1m", "1.5h", "2w", "30 min", "99999999999d", "1000d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_told_in_utc_and_by_their_distance() {
        assert_eq!(when(1_764_000_000_123), "2025-11-24 16:00:00Z");
        assert_eq!(when_and_ago(1_764_000_000_000, 1_764_000_090_000), "2025-11-24 16:00:00Z (90 s ago)");
        assert_eq!(distance(1_764_007_200_000, 1_764_000_000_000), "in 2 h");
        assert_eq!((span(0).as_str(), span(125_000).as_str(), span(3 * 86_400_000).as_str()), ("0 s", "2 min", "3 d"));
    }

    #[test]
    fn a_time_beyond_all_calendars_is_told_too() {
        assert!(!when(u64::MAX).is_empty());
    }
}
