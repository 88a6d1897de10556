//! How keys and fingerprints are written: microbatch's own format, and those of tables that others share.

use std::borrow::Cow;

use md5::Md5;
use sha2::{Digest, Sha256};

use super::{canonical, error::CanonicalError, python_json};

/// How keys and fingerprints are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KeyFormat {
    /// microbatch's own: SHA-256 of the [canonical form](canonical). A fingerprint names its selector, so that a changed
    /// one is not compared with what the old one left.
    #[default]
    Own,
    /// That of Powertools for AWS Lambda (Python) 3.37, for a table that both use: MD5 of the [text that Python
    /// makes](python_json).
    ///
    /// The namespace stands for what it puts before `#`: its `key_prefix`, or `{function}.{module}.{qualname}` of the
    /// decorated function. The key selector is its `event_key_jmespath`, below what it decodes there: `order_id` for its
    /// `powertools_json(body).order_id`. The fingerprint is its `payload_validation_jmespath`, likewise; both sides
    /// must have the same one, or neither any, since a changed one makes every record a conflict.
    ///
    /// Equal are the keys of payloads that it decodes from JSON. Those it makes of dataclasses, models and Python types, of
    /// the undecoded text of a body, or by another `hash_function`, are not; nor is a prefix with a `#` possible.
    /// Items of which Python would make something doubtful are refused ([`python_json`]), selectors that it may evaluate
    /// otherwise are too ([`Selector::check`](super::Selector::check)), and under JMESPath so are bodies with an integer
    /// beyond 64 bits.
    PowertoolsPython,
}

impl KeyFormat {
    /// The form of a JSON text that is digested.
    pub(super) fn rewrite(self, text: &str) -> Result<Cow<'_, str>, CanonicalError> {
        if is_plain_string(text) {
            return Ok(text.into());
        }
        match self {
            KeyFormat::Own => canonical::canonicalize(text).map(Cow::Owned),
            KeyFormat::PowertoolsPython => python_json::python_json(text).map(Cow::Owned),
        }
    }

    /// Appends the digest of text in that form, in hex.
    pub(super) fn push_digest(self, text: &mut String, selected: &str) {
        match self {
            KeyFormat::Own => push_hex::<32>(text, Sha256::digest(selected).into()),
            KeyFormat::PowertoolsPython => push_hex::<16>(text, Md5::digest(selected).into()),
        }
    }
}

/// Whether a JSON text is a string of printable ASCII without escapes, as ids are: every format writes it as it stands.
fn is_plain_string(text: &str) -> bool {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.is_some_and(|inner| inner.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'))
}

/// Appends bytes in lower-case hex.
pub(super) fn push_hex<const BYTES: usize>(text: &mut String, bytes: [u8; BYTES]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let pairs = bytes.map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    // At once: one character after the other takes as long as the digest itself.
    text.push_str(str::from_utf8(pairs.as_flattened()).expect("digits are ASCII"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_as_it_stands_is_what_every_format_writes() {
        for text in [r#""""#, r#""o-1""#, r#"" ~ '/{}[],:""#] {
            assert!(is_plain_string(text), "{text}");
            assert_eq!(canonical::canonicalize(text).as_deref(), Ok(text));
            assert_eq!(python_json::python_json(text).as_deref(), Ok(text));
        }
        for text in
            ["", "\"", "1", "o-1", "\"\u{7f}\"", "\"\u{e9}\"", "\"\t\"", r#""a\"b""#, r#""a"b""#, r#""\""#, r#" "a""#]
        {
            assert!(!is_plain_string(text), "{text}");
        }
    }
}
