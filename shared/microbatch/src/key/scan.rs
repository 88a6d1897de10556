//! Reads JSON text byte by byte, without values in between: what a digest is made of must be the text as it came.

use std::borrow::Cow;

use super::error::CanonicalError;
use crate::{marks::before_special, message::decode_str};

/// The text of the member `name` of the object that `text` holds; none when it is no object or has no such member.
///
/// # Errors
/// When the name stands twice, or the text is no JSON as far as it was read.
pub(super) fn find_member<'t>(text: &'t str, name: &str) -> Result<Option<&'t str>, CanonicalError> {
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

/// Whether the text is a list or an object that holds nothing, or nothing but null.
pub(super) fn holds_only_null(text: &str) -> bool {
    let mut scan = Scanner::new(text);
    let close = match scan.peek() {
        Some(b'{') => b'}',
        Some(b'[') => b']',
        _ => return false,
    };
    scan.at += 1;
    let mut first = true;
    while let Ok(true) = scan.next_element(close, &mut first) {
        if (close == b'}' && scan.name().is_err()) || scan.skip_value() != Ok("null") {
            return false;
        }
    }
    true
}

/// Reads JSON text. Never recurses, never panics on any text.
pub(super) struct Scanner<'t> {
    text: &'t str,
    /// How many bytes were read.
    pub(super) at: usize,
}

impl<'t> Scanner<'t> {
    /// At the start of a text.
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    /// Whether all of the text was read.
    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    /// The byte that is read next.
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Passes over white space.
    pub(super) fn skip_space(&mut self) {
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
    pub(super) fn next_element(&mut self, close: u8, first: &mut bool) -> Result<bool, CanonicalError> {
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
    pub(super) fn name(&mut self) -> Result<(&'t str, Cow<'t, str>), CanonicalError> {
        let raw = self.string()?;
        let decoded = decode_str(raw).ok_or(CanonicalError::NotJson)?;
        self.expect(b':')?;
        self.skip_space();
        Ok((raw, decoded))
    }

    /// A string with its quotes, not decoded.
    pub(super) fn string(&mut self) -> Result<&'t str, CanonicalError> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return Err(CanonicalError::NotJson);
        }
        self.at += 1;
        loop {
            let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
            self.at += before_special(rest);
            match self.peek() {
                Some(b'"') => break,
                // Whatever is escaped ends nothing.
                Some(b'\\') => self.at += 2,
                _ => return Err(CanonicalError::NotJson),
            }
        }
        self.at += 1;
        Ok(&self.text[start..self.at])
    }

    /// The bytes of a number or a literal.
    pub(super) fn word(&mut self) -> &'t str {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_without_reading_into_others() {
        let text = r#"{ "x" : {"a":[1,"}"]} , "a" : {"b": 2} }"#;
        assert_eq!(find_member(text, "a"), Ok(Some(r#"{"b": 2}"#)));
        assert_eq!(find_member(text, "x"), Ok(Some(r#"{"a":[1,"}"]}"#)));
        assert_eq!(find_member(text, "b"), Ok(None));
        assert_eq!(find_member("[1]", "a"), Ok(None));
        assert_eq!(find_member(r#"{"a""#, "a"), Err(CanonicalError::NotJson));
    }

    #[test]
    fn what_holds_only_null_is_told_from_what_looks_like_it() {
        for text in ["[]", "{}", "[null]", "[null, null]", r#"{"a":null}"#, r#"{"a": null, "b,c": null}"#] {
            assert!(holds_only_null(text), "{text}");
        }
        for text in ["null", "[[]]", "[null,0]", r#"["null"]"#, r#"{"a":null,"b":{}}"#, r#"{"null":1}"#, "0", "\"\""] {
            assert!(!holds_only_null(text), "{text}");
        }
    }
}
