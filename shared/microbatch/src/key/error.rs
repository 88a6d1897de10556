//! Why no key can be made of an item.

use std::fmt;

/// Why a text has no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CanonicalError {
    /// The text is not JSON.
    NotJson,
    /// A name stands twice in one object.
    RepeatedName,
    /// A number that the key's format cannot hold exactly: no double, or an integer beyond the format's range.
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
                "expected numbers that the key's format holds exactly (doubles, integers within its range), found another"
            }
            CanonicalError::TooDeep => "expected at most 128 levels of nesting, found more",
        })
    }
}

impl std::error::Error for CanonicalError {}

/// Why no key can be made of an item. The item is rejected; no other item is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// Nothing is selected, or null, or an empty string, or a list or object that holds nothing but null: such a key would
    /// make unrelated work the same.
    Missing,
    /// The text has no single meaning.
    Ambiguous(CanonicalError),
    /// The selector could not be evaluated on this item.
    Selection,
    /// The message attribute that holds the key is there, and no text can be read from it. Never taken for a missing one:
    /// a sender's mistake would run without idempotency where missing keys may.
    BadAttribute {
        /// What it is instead: a type or a missing field, never a value.
        found: &'static str,
    },
}

impl KeyError {
    /// The error's code, for logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            KeyError::Missing => "missing_key",
            KeyError::Ambiguous(error) => error.code(),
            KeyError::Selection => "key_selection_failed",
            KeyError::BadAttribute { .. } => "bad_key_attribute",
        }
    }
}

impl From<CanonicalError> for KeyError {
    fn from(error: CanonicalError) -> Self {
        KeyError::Ambiguous(error)
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Missing => {
                f.write_str("expected a value to select as the idempotency key; found none, null or empty")
            }
            KeyError::Ambiguous(error) => error.fmt(f),
            KeyError::Selection => f.write_str("the key selector could not be evaluated on this item"),
            KeyError::BadAttribute { found } => write!(
                f,
                "expected the key's message attribute as an object with a dataType of String or Number and a stringValue; \
                 found {found}"
            ),
        }
    }
}

impl std::error::Error for KeyError {}
