//! Points in time, as the command line and log lines write them.

use std::time::Duration;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use microbatch::clock::Clock;
use microbatch_aws::clock::SystemClock;

const EXPECTED: &str = "expected a time such as 2026-11-28, 2026-11-28T21:00:00Z or 2h (that long ago; s, m, h or d)";

/// Parses an option's value, in epoch milliseconds.
pub(crate) fn argument(text: &str) -> Result<u64, String> {
    parse(text, SystemClock.now_ms()).ok_or_else(|| EXPECTED.to_owned())
}

fn parse(text: &str, now_ms: u64) -> Option<u64> {
    if let Some(ago) = ago(text) {
        return now_ms.checked_sub(u64::try_from(ago.as_millis()).ok()?);
    }
    // A date alone is its first moment; without a zone UTC is meant.
    timestamp(text).or_else(|| timestamp(&format!("{text}Z"))).or_else(|| timestamp(&format!("{text}T00:00:00Z")))
}

/// A duration as `90m`.
fn ago(text: &str) -> Option<Duration> {
    let (number, seconds) = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))?;
    number.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

/// A time with its zone, as RFC 3339 writes it.
pub(crate) fn timestamp(text: &str) -> Option<u64> {
    let parsed = DateTime::from_str(text, Format::DateTimeWithOffset).ok()?;
    parsed.to_millis().ok().and_then(|ms| u64::try_from(ms).ok())
}

/// To the second, in UTC.
pub(crate) fn shown(epoch_ms: u64) -> String {
    let seconds = i64::try_from(epoch_ms / 1_000).unwrap_or(i64::MAX);
    DateTime::from_secs(seconds).fmt(Format::DateTime).unwrap_or_else(|_| format!("{epoch_ms} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_795_867_200_000;

    #[test]
    fn times_are_read_and_shown() {
        assert_eq!(shown(NOON), "2026-11-28T12:00:00Z");
        for (text, expected) in [
            ("2026-11-28T12:00:00Z", NOON),
            ("2026-11-28T12:00:00.250Z", NOON + 250),
            ("2026-11-28T13:00:00+01:00", NOON),
            ("2026-11-28T12:00:00", NOON),
            ("2026-11-28", NOON - 43_200_000),
            ("90m", NOON - 5_400_000),
            ("2d", NOON - 172_800_000),
        ] {
            assert_eq!(parse(text, NOON), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "h", "-1h", "yesterday", "2026-13-01", "99999999999999999999d", "99999999999d", "12:00"] {
            assert_eq!(parse(text, NOON), None, "{text}");
        }
    }
}
