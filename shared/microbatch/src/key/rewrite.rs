//! Rewrites JSON text in a style that gives each value one form.

use std::{borrow::Cow, marker::PhantomData};

use super::{error::CanonicalError, scan::Scanner};
use crate::message::decode_str;

/// Nesting that is accepted, `serde_json`'s own limit.
const DEPTH_MAX: usize = 128;

/// How values are written. Members stand in order of their names' code points in every style.
pub(super) trait Style {
    /// Between two elements or members.
    const COMMA: &'static str;
    /// Between a name and its value.
    const COLON: &'static str;

    /// Writes a string: `raw` as it came, with quotes and escapes, `decoded` without.
    fn push_string(out: &mut String, raw: &str, decoded: &str);

    /// Writes a word that is no literal: a number, if it is JSON at all.
    ///
    /// # Errors
    /// When it is no number, or one that the style cannot write exactly.
    fn push_number(out: &mut String, word: &str) -> Result<(), CanonicalError>;
}

/// A JSON text in another style.
///
/// # Errors
/// When the text is no JSON or has no single meaning.
pub(super) fn rewrite<S: Style>(text: &str) -> Result<String, CanonicalError> {
    let out = String::with_capacity(text.len());
    let mut writer = Writer::<S> { scan: Scanner::new(text), out, members: Vec::new(), style: PhantomData };
    writer.value(0)?;
    writer.scan.skip_space();
    if writer.scan.is_at_end() { Ok(writer.out) } else { Err(CanonicalError::NotJson) }
}

/// Writes while reading.
struct Writer<'t, S> {
    scan: Scanner<'t>,
    out: String,
    /// Members of all objects that are open, a stack: name, and where name and value stand in `out`.
    members: Vec<(Cow<'t, str>, usize, usize)>,
    style: PhantomData<S>,
}

impl<S: Style> Writer<'_, S> {
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
            S::push_string(&mut self.out, raw, &name);
            self.out.push_str(S::COLON);
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
                sorted.push_str(S::COMMA);
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
            self.out.push_str(S::COMMA);
        }
    }

    fn string(&mut self) -> Result<(), CanonicalError> {
        let raw = self.scan.string()?;
        let decoded = decode_str(raw).ok_or(CanonicalError::NotJson)?;
        S::push_string(&mut self.out, raw, &decoded);
        Ok(())
    }

    fn word(&mut self) -> Result<(), CanonicalError> {
        match self.scan.word() {
            word @ ("true" | "false" | "null") => self.out.push_str(word),
            word => S::push_number(&mut self.out, word)?,
        }
        Ok(())
    }
}
