//! Numbers as people read them.

/// With a comma between each three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// To the nearest whole number, with commas; what is not negative only.
pub(crate) fn whole(number: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a double saturates")]
    let rounded = number.round() as u64;
    grouped(rounded)
}

/// To the nearest whole number, or to tenths where it is small.
pub(crate) fn short(number: f64) -> String {
    if number.fract() == 0.0 || number >= 99.95 { whole(number) } else { format!("{number:.1}") }
}

/// A duration in the unit that fits it.
pub(crate) fn duration(ms: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(86_400_000.0, "d"), (3_600_000.0, "h"), (60_000.0, "min"), (1_000.0, "s")];
    for (unit_ms, name) in UNITS {
        // A day and a half reads better in hours.
        if ms >= unit_ms * if name == "d" { 2.0 } else { 1.0 } {
            return format!("{} {name}", short(ms / unit_ms));
        }
    }
    format!("{} ms", short(ms))
}

/// A share in percent; none of nothing.
pub(crate) fn percent(part: f64, of: f64) -> String {
    match part / of * 100.0 {
        share if !share.is_finite() => "-".to_owned(),
        share if share > 0.0 && share < 0.05 => "<0.1 %".to_owned(),
        share => format!("{share:.1} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_rounded() {
        for (number, expected) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), expected);
        }
        for (number, expected) in [(3.0, "3"), (3.25, "3.2"), (99.96, "100"), (1_234.5, "1,235")] {
            assert_eq!(short(number), expected);
        }
    }

    #[test]
    fn durations_have_the_unit_that_fits() {
        for (ms, expected) in [
            (0.0, "0 ms"),
            (1.5, "1.5 ms"),
            (999.0, "999 ms"),
            (1_000.0, "1 s"),
            (90_000.0, "1.5 min"),
            (5_400_000.0, "1.5 h"),
            (129_600_000.0, "36 h"),
            (216_000_000.0, "2.5 d"),
        ] {
            assert_eq!(duration(ms), expected);
        }
    }

    #[test]
    fn shares_of_nothing_are_none() {
        assert_eq!(
            (percent(1.0, 8.0), percent(0.0, 0.0), percent(1.0, 1e9)),
            ("12.5 %".into(), "-".into(), "<0.1 %".into())
        );
    }
}
