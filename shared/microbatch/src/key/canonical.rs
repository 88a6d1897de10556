//! The canonical form of JSON text, so that one value has one digest however it was spelled.
//!
//! Object members stand in byte order of their names, strings are escaped only where JSON demands it, there is no white
//! space, and a number has one spelling: an integer that fits 64 bits in plain digits (also when it was written `1e2` or
//! `100.0`), any other in the shortest scientific form that reads back as the same double. Text without a single meaning
//! is refused: a name that stands twice in an object, and a number that a double cannot hold, since two such numbers
//! would become one.

use std::fmt::Write;

use super::{
    error::CanonicalError,
    number::{Decimal, NumberKind, exact_double, number_kind},
    rewrite::{Style, rewrite},
};

/// The canonical form of a JSON text.
///
/// # Errors
/// When the text is no JSON or has no single meaning.
pub fn canonicalize(text: &str) -> Result<String, CanonicalError> {
    rewrite::<Canonical>(text)
}

/// microbatch's own style.
pub(super) struct Canonical;

impl Style for Canonical {
    const COMMA: &'static str = ",";
    const COLON: &'static str = ":";

    /// With the fewest escapes. A string without escapes stands as it is: JSON allows no bare control bytes.
    fn push_string(out: &mut String, raw: &str, decoded: &str) {
        // What has no escapes was borrowed: it is as long as the text between the quotes.
        if decoded.len() + 2 == raw.len() {
            out.push_str(raw);
        } else {
            out.push_str(&serde_json::Value::from(decoded).to_string());
        }
    }

    fn push_number(out: &mut String, word: &str) -> Result<(), CanonicalError> {
        let kind = number_kind(word).ok_or(CanonicalError::NotJson)?;
        if kind == NumberKind::Integer && fits_64_bits(word) {
            out.push_str(if word == "-0" { "0" } else { word });
            return Ok(());
        }
        let (double, shortest) = exact_double(word)?;
        let sign = if double.is_sign_negative() { "-" } else { "" };
        // An integer has one spelling whether or not it was written with a point or an exponent. Above 2^64 the
        // shortest form serves, and integers written in digits come out of the same branch.
        let plain = format!("{double:.0}");
        match Decimal::read(&plain) == Decimal::read(word) {
            true if plain == "-0" => out.push('0'),
            true if fits_64_bits(&plain) => out.push_str(&plain),
            _ => push_scientific(out, sign, shortest.scientific()),
        }
        Ok(())
    }
}

fn push_scientific(out: &mut String, sign: &str, (digits, exponent): (&str, i64)) {
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    // Writing to a string cannot fail.
    let _ = write!(out, "{sign}{first}{point}{rest}e{exponent}");
}

fn fits_64_bits(digits: &str) -> bool {
    digits.parse::<u64>().is_ok() || digits.parse::<i64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_one_form() {
        for (text, canonical) in [
            (r#" { "b" : 1 , "a" : [ true , null ] } "#, r#"{"a":[true,null],"b":1}"#),
            (r#"{"z":{"y":1,"x":2},"a":{}}"#, r#"{"a":{},"z":{"x":2,"y":1}}"#),
            (r#""\u0041\/\n\u00e9""#, "\"A/\\n\u{e9}\""),
            (r#"{"\u00e9":1,"z":2}"#, "{\"z\":2,\"\u{e9}\":1}"),
            ("[[],{},\"\"]", "[[],{},\"\"]"),
            ("[\"[\",1]", "[\"[\",1]"),
            ("{\"a\":\"{\",\"b\":\"}\"}", "{\"a\":\"{\",\"b\":\"}\"}"),
        ] {
            assert_eq!(canonicalize(text).as_deref(), Ok(canonical), "{text}");
        }
    }

    #[test]
    fn one_number_has_one_spelling() {
        for (text, canonical) in [
            ("100", "100"),
            ("1e2", "100"),
            ("100.0", "100"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("0e9", "0"),
            ("-7", "-7"),
            ("1.50", "1.5e0"),
            ("122.41941550000001", "1.2241941550000001e2"),
            ("1763545288891275.2", "1.7635452888912752e15"),
            ("1.7976931348623157e308", "1.7976931348623157e308"),
            ("0.1", "1e-1"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("1e19", "10000000000000000000"),
            ("10000000000000000000000", "1e22"),
            ("1e22", "1e22"),
        ] {
            assert_eq!(canonicalize(text).as_deref(), Ok(canonical), "{text}");
        }
    }

    #[test]
    fn a_number_that_does_not_round_trip_is_refused() {
        for text in [
            "18446744073709551617",
            "100000000000000000001",
            "0.10000000000000000001",
            "1e400",
            "-1e400",
            "1e-400",
            "9007199254740993.0",
        ] {
            assert_eq!(canonicalize(text), Err(CanonicalError::InexactNumber), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "[1",
            "[1,]",
            "[,1]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "nul",
            "NaN",
            "inf",
            "infinity",
            "\"",
            "\"\\",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\u{1}\"",
            "1 2",
            "[1]]",
            "}",
            "{\"a\":1,}",
            "--1",
        ] {
            assert_eq!(canonicalize(text), Err(CanonicalError::NotJson), "{text}");
        }
    }

    #[test]
    fn repeated_names_and_deep_nesting_are_refused() {
        assert_eq!(canonicalize(r#"{"a":1,"b":2,"\u0061":3}"#), Err(CanonicalError::RepeatedName));
        assert_eq!(canonicalize(r#"{"a":1,"a":1}"#), Err(CanonicalError::RepeatedName));
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(canonicalize(&nested(128)).is_ok());
        assert_eq!(canonicalize(&nested(1_000_000)), Err(CanonicalError::TooDeep));
    }
}
