//! From a message's body to the user's type: one record at a time, bounded before it is parsed, unwrapped before it is
//! decoded.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeOwned, IgnoredAny};

use crate::{
    envelope::{Envelope, EnvelopeError},
    key::{Key, KeyError, KeyMaker},
    message::{Message, decode_str},
    panics::{Panicked, contain},
    record::Fingerprint,
};

/// Why a message cannot become an item. It concerns this message alone: it is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// There is no body, or it is no string.
    NoBody,
    /// The body is larger than `body_bytes_max`.
    TooLarge {
        /// Its size, as it stands in the event.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The body is not the envelope that was set.
    BadEnvelope(EnvelopeError),
    /// The payload does not decode into the processor's type. Nothing of its text is kept.
    Undecodable {
        /// Where in the payload it failed, from 1; 0 when the type refused the value as a whole.
        line: usize,
        /// Where it failed, from 1.
        column: usize,
    },
    /// The type's own code panicked.
    Panicked,
    /// No unambiguous key.
    Key(KeyError),
}

impl DecodeError {
    /// The error's code, for logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            DecodeError::NoBody => "no_body",
            DecodeError::TooLarge { .. } => "body_too_large",
            DecodeError::BadEnvelope(_) => "bad_envelope",
            DecodeError::Undecodable { .. } => "undecodable",
            DecodeError::Panicked => "decode_panicked",
            DecodeError::Key(error) => error.code(),
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::NoBody => f.write_str("expected a body, a JSON string; found none"),
            DecodeError::TooLarge { bytes, bytes_max } => {
                write!(f, "expected a body of at most {bytes_max} bytes, found {bytes}")
            }
            DecodeError::BadEnvelope(error) => error.fmt(f),
            DecodeError::Undecodable { line, column } => {
                write!(f, "expected JSON of the item's type; it fails at line {line}, column {column}")
            }
            DecodeError::Panicked => f.write_str("the item type's own decoding panicked"),
            DecodeError::Key(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DecodeError {}

/// What identifies the work of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What makes two messages the same work.
    pub key: Key,
    /// What must not differ between them.
    pub fingerprint: Option<Fingerprint>,
    /// The key that an earlier version of the function made of it, where that is still looked at (rule 15).
    pub previous: Option<Key>,
}

/// An item with what identifies it; nothing does when it runs without idempotency.
#[derive(Debug)]
pub struct Decoded<T> {
    /// The user's value.
    pub item: T,
    /// Its key and fingerprint.
    pub identity: Option<Identity>,
}

/// What becomes of an item without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingKey {
    /// It is rejected.
    #[default]
    Reject,
    /// It runs without idempotency: every delivery of it runs again.
    RunWithout,
}

/// How items are identified.
#[derive(Debug, Clone)]
pub struct Keying {
    /// Makes the keys.
    pub current: KeyMaker,
    /// Makes the keys of an earlier version, of payloads alone.
    pub previous: Option<KeyMaker>,
    /// What becomes of an item without one.
    pub missing: MissingKey,
}

impl Keying {
    fn identify(&self, message: &Message<'_>, payload: &str) -> Result<Option<Identity>, KeyError> {
        match self.current.make_from(message, payload) {
            Ok((key, fingerprint)) => {
                // Where the earlier version found no key it ran nothing.
                let previous = self.previous.as_ref().and_then(|previous| previous.make(payload).ok());
                // An item whose key has not changed has only one.
                let previous = previous.map(|(previous, _)| previous).filter(|previous| *previous != key);
                Ok(Some(Identity { key, fingerprint, previous }))
            }
            Err(KeyError::Missing) if self.missing == MissingKey::RunWithout => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Decodes a message: body, payload, item, and identity where `keying` asks for one.
///
/// `body_bytes_max` bounds the body, envelope included.
///
/// # Errors
/// [`DecodeError`]. No bytes make it panic, nor does a panic of the type's own code pass (P6, P7).
pub fn decode<T: DeserializeOwned>(
    message: &Message<'_>,
    envelope: Envelope,
    keying: Option<&Keying>,
    body_bytes_max: usize,
) -> Result<Decoded<T>, DecodeError> {
    let body = body_text(message, body_bytes_max)?;
    let payload = envelope.payload(&body).map_err(DecodeError::BadEnvelope)?;
    let item = contain(|| serde_json::from_str(&payload))
        .map_err(|Panicked| DecodeError::Panicked)?
        .map_err(|error| DecodeError::Undecodable { line: error.line(), column: error.column() })?;
    // Contained as well: an evaluator of expressions is a large piece of foreign code.
    let of_payload = || keying.map(|keying| keying.identify(message, &payload)).transpose();
    let identity = contain(of_payload).unwrap_or(Err(KeyError::Selection)).map_err(DecodeError::Key)?.flatten();
    Ok(Decoded { item, identity })
}

/// What identifies a message's work, whatever its type is; none where it runs without idempotency. For tools that look at
/// messages: a function's own type may refuse what this takes.
///
/// # Errors
/// [`DecodeError`], as [`decode`].
pub fn identify(
    message: &Message<'_>,
    envelope: Envelope,
    keying: &Keying,
    body_bytes_max: usize,
) -> Result<Option<Identity>, DecodeError> {
    decode::<IgnoredAny>(message, envelope, Some(keying), body_bytes_max).map(|decoded| decoded.identity)
}

fn body_text<'e>(message: &Message<'e>, bytes_max: usize) -> Result<Cow<'e, str>, DecodeError> {
    let raw = message.body.ok_or(DecodeError::NoBody)?.get();
    // Six bytes of an event (\u0041) can stand for one of the body: decoded only if it can still fit.
    let bytes = raw.len().saturating_sub(2);
    if bytes / 6 > bytes_max {
        return Err(DecodeError::TooLarge { bytes, bytes_max });
    }
    let body = decode_str(raw).ok_or(DecodeError::NoBody)?;
    if body.len() > bytes_max {
        return Err(DecodeError::TooLarge { bytes: body.len(), bytes_max });
    }
    Ok(body)
}
