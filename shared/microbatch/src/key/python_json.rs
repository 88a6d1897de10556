//! The text that Python makes of JSON by `json.dumps(json.loads(text), sort_keys=True)`, which Powertools digests.
//!
//! `, ` and `: ` between values, every character but printable ASCII escaped, names in order of code points, integers
//! digit by digit and never joined with floats (`100`, `100.0` and `1e2` are two values: `100` and `100.0`), floats by
//! Python's `repr`.
//!
//! Refused is what Python takes and JSON does not (`NaN`, `Infinity`, lone surrogates), what has no single meaning (a
//! name twice, of which Python keeps the last), and what Python rounds without a word (a float with more digits
//! than a double, or beyond all doubles): two numbers would become one key.

use std::fmt::Write;

use super::{
    error::CanonicalError,
    number::{Decimal, NumberKind, exact_double, number_kind},
    rewrite::{Style, rewrite},
};

/// Digits of the longest integer that Python reads (`sys.int_info.default_max_str_digits`).
const INTEGER_DIGITS_MAX: usize = 4_300;

/// The text that Python makes of a JSON text.
///
/// # Errors
/// When the text is no JSON, has no single meaning, or Python cannot be followed exactly.
pub fn python_json(text: &str) -> Result<String, CanonicalError> {
    rewrite::<PythonJson>(text)
}

/// The style of Python's `json.dumps`.
pub(super) struct PythonJson;

impl Style for PythonJson {
    const COMMA: &'static str = ", ";
    const COLON: &'static str = ": ";

    fn push_string(out: &mut String, _raw: &str, decoded: &str) {
        out.push('"');
        for character in decoded.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                ' '..='~' => out.push(character),
                other => push_escaped(out, other),
            }
        }
        out.push('"');
    }

    fn push_number(out: &mut String, word: &str) -> Result<(), CanonicalError> {
        match number_kind(word).ok_or(CanonicalError::NotJson)? {
            // Python's integers have no sign of zero; its floats have.
            NumberKind::Integer if word == "-0" => out.push('0'),
            NumberKind::Integer if word.trim_start_matches('-').len() > INTEGER_DIGITS_MAX => {
                return Err(CanonicalError::InexactNumber);
            }
            NumberKind::Integer => out.push_str(word),
            NumberKind::Float => {
                let (double, shortest) = exact_double(word)?;
                push_repr(out, double, &shortest);
            }
        }
        Ok(())
    }
}

/// A character as `\uXXXX`, one beyond the basic plane as its two surrogates.
fn push_escaped(out: &mut String, character: char) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        // Writing to a string cannot fail.
        let _ = write!(out, "\\u{unit:04x}");
    }
}

/// A float as Python's `repr` has it: with a point from 1e-4 up to 1e16, else with an exponent of two digits at least.
fn push_repr(out: &mut String, double: f64, shortest: &Decimal) {
    let (digits, exponent) = shortest.scientific();
    if double.is_sign_negative() {
        out.push('-');
    }
    match exponent {
        0..16 => {
            // Never out of range: 1 to 16.
            let whole = usize::try_from(exponent + 1).unwrap_or_default();
            let padded = format!("{digits:0<whole$}");
            let (whole, fraction) = padded.split_at(whole);
            out.extend([whole, ".", if fraction.is_empty() { "0" } else { fraction }]);
        }
        -4..0 => {
            out.push_str("0.");
            out.extend((exponent + 1..0).map(|_| '0'));
            out.push_str(digits);
        }
        _ => {
            let (first, rest) = digits.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            // Writing to a string cannot fail.
            let _ = write!(out, "{first}{point}{rest}e{exponent:+03}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_written_as_python_writes_them() {
        // The right side was printed by Python 3.11: json.dumps(json.loads(left), sort_keys=True).
        for (text, python) in [
            (r#"{"b":[1,null,true],"a":{}}"#, r#"{"a": {}, "b": [1, null, true]}"#),
            (r#"[ [ ] , "" , {"x" : "\/"} ]"#, r#"[[], "", {"x": "/"}]"#),
            ("\"caf\u{e9} \u{20ac} \u{1f600}\"", r#""caf\u00e9 \u20ac \ud83d\ude00""#),
            (r#""\ud83d\ude00\u0041""#, r#""\ud83d\ude00A""#),
            (r#""\b\f\n\r\t\u0000\u001f\"\\""#, r#""\b\f\n\r\t\u0000\u001f\"\\""#),
            ("\"\u{7f}\u{2028}\"", r#""\u007f\u2028""#),
            // Code points, not UTF-16 units: there the surrogates of the last would stand before the second.
            (
                "{\"\u{1f600}\":1,\"\u{ffff}\":2,\"\u{e9}\":3,\"Z\":4,\"a\":5,\"\":6}",
                r#"{"": 6, "Z": 4, "a": 5, "\u00e9": 3, "\uffff": 2, "\ud83d\ude00": 1}"#,
            ),
        ] {
            assert_eq!(python_json(text).as_deref(), Ok(python), "{text}");
        }
    }

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        for (text, python) in [
            ("100", "100"),
            ("100.0", "100.0"),
            ("1e2", "100.0"),
            ("-0", "0"),
            ("-0.0", "-0.0"),
            ("0e0", "0.0"),
            ("1.50", "1.5"),
            ("0.30000000000000004", "0.30000000000000004"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("0.00012", "0.00012"),
            ("-0.125", "-0.125"),
            ("123456789012345.6", "123456789012345.6"),
            // Halfway between two numbers of 17 digits: the even one.
            ("1763545288891275.2", "1763545288891275.2"),
            ("9007199254740992.0", "9007199254740992.0"),
            ("1e16", "1e+16"),
            ("12345678901234568e1", "1.2345678901234568e+17"),
            ("1E-7", "1e-07"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
            ("5e-324", "5e-324"),
            ("18446744073709551617", "18446744073709551617"),
            ("-100000000000000000000000000000001", "-100000000000000000000000000000001"),
        ] {
            assert_eq!(python_json(text).as_deref(), Ok(python), "{text}");
        }
    }

    #[test]
    fn what_python_takes_and_cannot_be_followed_is_refused() {
        for (text, error) in [
            ("NaN", CanonicalError::NotJson),
            ("-Infinity", CanonicalError::NotJson),
            (r#""\ud800""#, CanonicalError::NotJson),
            (r#"{"a":1,"\u0061":1}"#, CanonicalError::RepeatedName),
            ("1e400", CanonicalError::InexactNumber),
            ("1e-400", CanonicalError::InexactNumber),
            ("0.1000000000000000055", CanonicalError::InexactNumber),
        ] {
            assert_eq!(python_json(text), Err(error), "{text}");
        }
        let digits = |count| "9".repeat(count);
        assert_eq!(python_json(&digits(4_300)), Ok(digits(4_300)));
        assert_eq!(python_json(&format!("-{}", digits(4_300))), Ok(format!("-{}", digits(4_300))));
        assert_eq!(python_json(&digits(4_301)), Err(CanonicalError::InexactNumber));
    }

    proptest! {
        /// What was written reads back as the same value, and is written the same again.
        #[test]
        fn a_float_survives(bits: u64) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            let written = python_json(&serde_json::Value::from(double).to_string()).expect("its shortest form");
            prop_assert_eq!(written.parse::<f64>().expect("a number").to_bits(), bits);
            prop_assert_eq!(python_json(&written), Ok(written.clone()));
        }

        #[test]
        fn a_string_is_ascii_and_survives(text: String) {
            let written = python_json(&serde_json::Value::from(text.as_str()).to_string()).expect("a string");
            prop_assert!(written.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(serde_json::from_str::<String>(&written).expect("JSON"), text);
        }
    }
}
