//! JSON's numbers, exactly: what a text says, and whether a double says the same.

use super::error::CanonicalError;

/// How a number is written. Python reads the two as different types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NumberKind {
    /// Digits alone.
    Integer,
    /// With a point or an exponent.
    Float,
}

/// What kind of number a word is by JSON's grammar; none when it is none.
pub(super) fn number_kind(word: &str) -> Option<NumberKind> {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = match word.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (word, None),
    };
    let mantissa = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let is_number = is_digits(whole)
        && (whole.len() == 1 || !whole.starts_with('0'))
        && fraction.is_none_or(is_digits)
        && exponent.is_none_or(|exponent| is_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)));
    let kind = if fraction.is_none() && exponent.is_none() { NumberKind::Integer } else { NumberKind::Float };
    is_number.then_some(kind)
}

/// The double that a number is, and the shortest decimal number that is read as that double.
///
/// Of two that are equally short and equally near, the one with an even last digit counts, as in Python and JavaScript.
/// Rust's own formatting takes the upper one; `serde_json`'s takes the even one. Its parser is not used: its doubles may be
/// one off in the last place, so that two numbers would become one, or one be refused.
///
/// # Errors
/// When the shortest number is another one than the text's: two such numbers would become one.
pub(super) fn exact_double(text: &str) -> Result<(f64, Decimal), CanonicalError> {
    let double: f64 = text.parse().map_err(|_| CanonicalError::NotJson)?;
    // None for what is beyond all doubles.
    let shortest = serde_json::Number::from_f64(double).and_then(|number| Decimal::read(&number.to_string()));
    match (Decimal::read(text), shortest) {
        (Some(read), Some(shortest)) if read == shortest => Ok((double, shortest)),
        _ => Err(CanonicalError::InexactNumber),
    }
}

/// A decimal number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    negative: bool,
    /// Without zeros at either end; none for zero, which has no sign.
    digits: String,
    /// The power of ten of the last digit.
    exponent: i64,
}

impl Decimal {
    /// Reads JSON's spelling of a number; none when its exponent is beyond 64 bits.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent: i64 = exponent.parse().ok()?;
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_end_matches('0');
        if significant.trim_start_matches('0').is_empty() {
            return Some(Self { negative: false, digits: String::new(), exponent: 0 });
        }
        let trailing = i64::try_from(digits.len() - significant.len()).ok()?;
        let exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(trailing)?;
        Some(Self { negative, digits: significant.trim_start_matches('0').to_owned(), exponent })
    }

    /// The digits, at least one, and the power of ten of the first.
    pub(super) fn scientific(&self) -> (&str, i64) {
        let digits = if self.digits.is_empty() { "0" } else { &self.digits };
        // As many digits as a text has: far below 63 bits.
        (digits, self.exponent + i64::try_from(digits.len() - 1).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_told_from_what_is_none() {
        for text in ["0", "-0", "7", "-10", "123456789012345678901234567890"] {
            assert_eq!(number_kind(text), Some(NumberKind::Integer), "{text}");
        }
        for text in ["0.0", "-0.5", "1e2", "1E+2", "10.01e-007"] {
            assert_eq!(number_kind(text), Some(NumberKind::Float), "{text}");
        }
        for text in ["", "-", "01", "-01", "1.", ".5", "+1", "1e", "1e+", "1.e1", "1e1.0", "--1", "0x1", "inf", "NaN"] {
            assert_eq!(number_kind(text), None, "{text}");
        }
    }

    #[test]
    fn a_double_is_the_nearest_one() {
        // Seventeen digits: a product of rounded factors misses such a double by one in the last place.
        for (text, digits, exponent) in [
            ("122.41941550000001", "12241941550000001", 2),
            ("1.7976931348623157e308", "17976931348623157", 308),
            ("2.2250738585072014e-308", "22250738585072014", -308),
            ("5e-324", "5", -324),
            ("-120.0", "12", 2),
            ("0.0", "0", 0),
            // Halfway between two numbers of 17 digits: 1763545288891275.25.
            ("1763545288891275.2", "17635452888912752", 15),
        ] {
            let (_, shortest) = exact_double(text).expect(text);
            assert_eq!(shortest.scientific(), (digits, exponent), "{text}");
        }
        for text in [
            "1e400",
            "-1e400",
            "1e-400",
            "0.1000000000000000055",
            "1763545288891275.3",
            "9007199254740993.0",
            "1e99999999999999999999",
        ] {
            assert_eq!(exact_double(text), Err(CanonicalError::InexactNumber), "{text}");
        }
    }
}
