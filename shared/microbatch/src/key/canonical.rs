//! The canonical form of JSON text, so that one value has one digest however it was spelled.
//!
//! Object members stand in byte order of their names, strings are escaped only where JSON demands it, there is no white
//! space, and a number has one spelling: an integer that fits 64 bits in plain digits (also when it was written `1e2` or
//! `100.0`), any other in the shortest scientific form that reads back as the same double. Text without a single meaning
//! is refused: a name that stands twice in an object, and a number that a double cannot hold, since two such numbers
//! would become one.

use std::{borrow::Cow, fmt};

use crate::message::decode_str;

/// Nesting that is accepted, `serde_json`'s own limit.
const DEPTH_MAX: usize = 128;

/// Why a text has no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CanonicalError {
    /// The text is not JSON.
    NotJson,
    /// A name stands twice in one object.
    RepeatedName,
    /// A number that neither 64 bits of integer nor a double hold exactly.
    InexactNumber,
    /// Nested deeper than 128 levels.
    TooDeep,
}

impl CanonicalError {
    /// The error's code, for logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            CanonicalError::NotJson => "not_json",
            CanonicalError::RepeatedName => "repeated_name",
            CanonicalError::InexactNumber => "inexact_number",
            CanonicalError::TooDeep => "too_deep",
        }
    }
}

impl fmt::Display for CanonicalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CanonicalError::NotJson => "expected JSON text",
            CanonicalError::RepeatedName => "expected each name once in an object, found one twice",
            CanonicalError::InexactNumber => {
                "expected numbers that a double or 64 bits of integer hold exactly, found another"
            }
            CanonicalError::TooDeep => "expected at most 128 levels of nesting, found more",
        })
    }
}

impl std::error::Error for CanonicalError {}

/// The canonical form of a JSON text.
///
/// # Errors
/// When the text is no JSON or has no single meaning.
pub fn canonicalize(text: &str) -> Result<String, CanonicalError> {
    let mut writer = Writer { scan: Scanner::new(text), out: String::with_capacity(text.len()), members: Vec::new() };
    writer.value(0)?;
    writer.scan.skip_space();
    if writer.scan.at == text.len() { Ok(writer.out) } else { Err(CanonicalError::NotJson) }
}

/// The text of the member `name` of the object that `text` holds; none when it is no object or has no such member.
///
/// # Errors
/// When the name stands twice, or the text is no JSON as far as it was read.
pub fn find_member<'t>(text: &'t str, name: &str) -> Result<Option<&'t str>, CanonicalError> {
    let mut scan = Scanner::new(text);
    scan.skip_space();
    if scan.peek() != Some(b'{') {
        return Ok(None);
    }
    scan.at += 1;
    let mut found = None;
    let mut first = true;
    while scan.next_element(b'}', &mut first)? {
        let (_, member) = scan.name()?;
        let value = scan.skip_value()?;
        if member == name && found.replace(value).is_some() {
            return Err(CanonicalError::RepeatedName);
        }
    }
    Ok(found)
}

/// Reads JSON text byte by byte. Never recurses, never panics on any text.
struct Scanner<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Scanner<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), CanonicalError> {
        self.skip_space();
        if self.peek() != Some(byte) {
            return Err(CanonicalError::NotJson);
        }
        self.at += 1;
        Ok(())
    }

    /// Steps to the next element of a list or object, over its comma; false at the closing byte, which is consumed.
    fn next_element(&mut self, close: u8, first: &mut bool) -> Result<bool, CanonicalError> {
        self.skip_space();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(false);
        }
        if !std::mem::take(first) {
            self.expect(b',')?;
            self.skip_space();
        }
        Ok(true)
    }

    /// A member's name, raw and decoded, and the colon behind it.
    fn name(&mut self) -> Result<(&'t str, Cow<'t, str>), CanonicalError> {
        let raw = self.string()?;
        let decoded = decode_str(raw).ok_or(CanonicalError::NotJson)?;
        self.expect(b':')?;
        self.skip_space();
        Ok((raw, decoded))
    }

    /// A string with its quotes, not decoded.
    fn string(&mut self) -> Result<&'t str, CanonicalError> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return Err(CanonicalError::NotJson);
        }
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(byte) if byte >= 0x20 => self.at += 1,
                _ => return Err(CanonicalError::NotJson),
            }
        }
        self.at += 1;
        Ok(&self.text[start..self.at])
    }

    /// The bytes of a number or a literal.
    fn word(&mut self) -> &'t str {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'-' | b'.')) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    /// Passes over one value, checking no more than where it ends.
    fn skip_value(&mut self) -> Result<&'t str, CanonicalError> {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(b',' | b':' | b' ' | b'\t' | b'\n' | b'\r') if depth > 0 => self.at += 1,
                _ if self.word().is_empty() => return Err(CanonicalError::NotJson),
                _ => {}
            }
            if depth == 0 {
                return Ok(&self.text[start..self.at]);
            }
        }
    }
}

/// Writes the canonical form while reading.
struct Writer<'t> {
    scan: Scanner<'t>,
    out: String,
    /// Members of all objects that are open, a stack: name, and where `"name":value` stands in `out`.
    members: Vec<(Cow<'t, str>, usize, usize)>,
}

impl Writer<'_> {
    fn value(&mut self, depth: usize) -> Result<(), CanonicalError> {
        if depth > DEPTH_MAX {
            return Err(CanonicalError::TooDeep);
        }
        self.scan.skip_space();
        match self.scan.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string(),
            _ => self.word(),
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), CanonicalError> {
        self.scan.at += 1;
        self.out.push('[');
        let mut first = true;
        while self.scan.next_element(b']', &mut first)? {
            self.separate('[');
            self.value(depth + 1)?;
        }
        self.out.push(']');
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), CanonicalError> {
        self.scan.at += 1;
        self.out.push('{');
        let (base, out_base) = (self.members.len(), self.out.len());
        let (mut first, mut in_order) = (true, true);
        while self.scan.next_element(b'}', &mut first)? {
            self.separate('{');
            let start = self.out.len();
            let (raw, name) = self.scan.name()?;
            push_string(&mut self.out, raw, &name);
            self.out.push(':');
            self.value(depth + 1)?;
            in_order = in_order && self.members[base..].last().is_none_or(|(last, _, _)| *last < name);
            self.members.push((name, start, self.out.len()));
        }
        if !in_order {
            self.sort_members(base, out_base)?;
        }
        self.members.truncate(base);
        self.out.push('}');
        Ok(())
    }

    /// Puts the members of the innermost object, written as they came, into order.
    fn sort_members(&mut self, base: usize, out_base: usize) -> Result<(), CanonicalError> {
        let members = &mut self.members[base..];
        members.sort_by(|(one, _, _), (other, _, _)| one.cmp(other));
        if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(CanonicalError::RepeatedName);
        }
        let mut sorted = String::with_capacity(self.out.len() - out_base);
        for (_, start, end) in &*members {
            if !sorted.is_empty() {
                sorted.push(',');
            }
            sorted.push_str(&self.out[*start..*end]);
        }
        self.out.truncate(out_base);
        self.out.push_str(&sorted);
        Ok(())
    }

    /// A comma, unless this is the first element after `open`. No value ends in an opening bracket.
    fn separate(&mut self, open: char) {
        if !self.out.ends_with(open) {
            self.out.push(',');
        }
    }

    fn string(&mut self) -> Result<(), CanonicalError> {
        let raw = self.scan.string()?;
        let decoded = decode_str(raw).ok_or(CanonicalError::NotJson)?;
        push_string(&mut self.out, raw, &decoded);
        Ok(())
    }

    fn word(&mut self) -> Result<(), CanonicalError> {
        match self.scan.word() {
            word @ ("true" | "false" | "null") => self.out.push_str(word),
            word => push_number(&mut self.out, word)?,
        }
        Ok(())
    }
}

/// Writes a string with the fewest escapes. One without escapes stands as it is: JSON allows no bare control bytes.
fn push_string(out: &mut String, raw: &str, decoded: &str) {
    // What has no escapes was borrowed: it is as long as the text between the quotes.
    if decoded.len() + 2 == raw.len() {
        out.push_str(raw);
    } else {
        out.push_str(&serde_json::Value::from(decoded).to_string());
    }
}

fn push_number(out: &mut String, text: &str) -> Result<(), CanonicalError> {
    // serde_json knows JSON's grammar for numbers (no leading zeros, digits on both sides of the point).
    let number: serde_json::Number = serde_json::from_str(text).map_err(|_| number_error(text))?;
    if number.is_u64() || (number.is_i64() && text != "-0") {
        out.push_str(text);
        return Ok(());
    }
    let double = number.as_f64().ok_or(CanonicalError::InexactNumber)?;
    let shortest = format!("{double:e}");
    if Decimal::read(text) != Decimal::read(&shortest) {
        return Err(CanonicalError::InexactNumber);
    }
    // An integer has one spelling whether or not it was written with a point or an exponent. Above 2^64 the shortest
    // form serves, and integers written in digits come out of the same branch.
    let plain = format!("{double:.0}");
    let exact = Decimal::read(&plain) == Decimal::read(text);
    match plain.parse::<i128>() {
        Ok(0) if exact => out.push('0'),
        Ok(integer) if exact && fits_64_bits(integer) => out.push_str(&plain),
        _ => out.push_str(&shortest),
    }
    Ok(())
}

fn fits_64_bits(integer: i128) -> bool {
    u64::try_from(integer).is_ok() || i64::try_from(integer).is_ok()
}

/// `serde_json` refuses a number beyond the doubles as it refuses letters; tell them apart for the reader.
fn number_error(text: &str) -> CanonicalError {
    if text.parse::<f64>().is_ok_and(f64::is_infinite) && text.ends_with(|last: char| last.is_ascii_digit()) {
        CanonicalError::InexactNumber
    } else {
        CanonicalError::NotJson
    }
}

/// A decimal number as digits without zeros at either end, and the power of ten behind them.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// Reads JSON's spelling of a number; none when its exponent is beyond all doubles.
    fn read(text: &str) -> Option<Self> {
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

    #[test]
    fn a_member_is_found_without_reading_into_others() {
        let text = r#"{ "x" : {"a":[1,"}"]} , "a" : {"b": 2} }"#;
        assert_eq!(find_member(text, "a"), Ok(Some(r#"{"b": 2}"#)));
        assert_eq!(find_member(text, "x"), Ok(Some(r#"{"a":[1,"}"]}"#)));
        assert_eq!(find_member(text, "b"), Ok(None));
        assert_eq!(find_member("[1]", "a"), Ok(None));
        assert_eq!(find_member(r#"{"a""#, "a"), Err(CanonicalError::NotJson));
    }
}
