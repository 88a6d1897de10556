//! Idempotency keys: what makes two messages the same work.
//!
//! The key is selected from the JSON as it was received, never from the re-serialised type, so that a new version of the
//! type does not change keys. It is brought to a [canonical form](canonical), digested with SHA-256 and put behind the
//! namespace: `namespace#hex`.

pub mod canonical;
mod selector;

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

use self::canonical::CanonicalError;
pub use self::selector::{Selector, SelectorError};
use crate::record::Fingerprint;

/// An idempotency key as the store holds it: namespace, `#`, digest. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of the canonical text `selected` in `namespace`.
    pub fn digest(namespace: &str, selected: &str) -> Self {
        let mut text = String::with_capacity(namespace.len() + 1 + 64);
        text.push_str(namespace);
        text.push('#');
        push_hex(&mut text, &Sha256::digest(selected));
        Self(text.into())
    }

    /// A key read back from a store.
    pub fn from_stored(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    // Namespace and digest: neither is payload, so a key may stand in an error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why no key can be made of an item. The item is rejected; no other item is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// Nothing is selected, or null, or an empty string, list or object: such a key would make unrelated work the same.
    Missing,
    /// The text has no single meaning.
    Ambiguous(CanonicalError),
    /// The selector could not be evaluated on this item.
    Selection,
}

impl KeyError {
    /// The error's code, for logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            KeyError::Missing => "missing_key",
            KeyError::Ambiguous(error) => error.code(),
            KeyError::Selection => "key_selection_failed",
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
        }
    }
}

impl std::error::Error for KeyError {}

/// Makes keys and fingerprints of bodies, by the pipeline's selectors.
#[derive(Debug, Clone)]
pub struct KeyMaker {
    namespace: Box<str>,
    key: Selector,
    fingerprint: Option<(Selector, Box<str>)>,
}

impl KeyMaker {
    /// A maker of keys in `namespace`, selected by `key`, with a fingerprint of what `fingerprint` selects.
    pub fn new(namespace: &str, key: Selector, fingerprint: Option<Selector>) -> Self {
        let fingerprint = fingerprint.map(|selector| {
            // Another selector makes other, incomparable fingerprints: its digest is the scheme.
            let mut scheme = String::new();
            push_hex(&mut scheme, &Sha256::digest(selector.expression())[..4]);
            (selector, scheme.into_boxed_str())
        });
        Self { namespace: namespace.into(), key, fingerprint }
    }

    /// The key and fingerprint of a body, which must be JSON text.
    ///
    /// # Errors
    /// [`KeyError`], when there is no unambiguous key.
    pub fn make(&self, body: &str) -> Result<(Key, Option<Fingerprint>), KeyError> {
        let selected = self.key.select(body)?;
        if matches!(&*selected, "null" | "\"\"" | "[]" | "{}") {
            return Err(KeyError::Missing);
        }
        let key = Key::digest(&self.namespace, &selected);
        let Some((selector, scheme)) = &self.fingerprint else { return Ok((key, None)) };
        let selected = selector.select(body)?;
        let mut text = String::with_capacity(scheme.len() + 1 + 64);
        text.push_str(scheme);
        text.push(':');
        push_hex(&mut text, &Sha256::digest(&*selected));
        Ok((key, Some(Fingerprint::new(text))))
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker(key: &str) -> KeyMaker {
        KeyMaker::new("orders", Selector::parse(key).expect("selector"), Some(Selector::whole_body()))
    }

    #[test]
    fn spelling_does_not_change_a_key() {
        let make = |body: &str| maker("o.id").make(body).expect("a key");
        let plain = make(r#"{"o":{"id":"a/b"},"n":100}"#);
        assert_eq!(plain, make("{ \"n\" : 1e2,\n\"o\":{\"id\":\"a\\u002fb\"} }"));
        assert!(plain.0.as_str().starts_with("orders#"));
        assert_eq!(plain.0.as_str().len(), "orders#".len() + 64);
    }

    #[test]
    fn the_digest_is_that_of_the_canonical_text() {
        // sha256 of the four bytes "o-1" with its quotes, by any other tool.
        let (key, _) = maker("id").make(r#"{"id":"o-1"}"#).expect("a key");
        assert_eq!(key, Key::digest("orders", "\"o-1\""));
    }

    #[test]
    fn a_path_and_its_jmespath_make_the_same_key() {
        let body = r#"{"o":{"id":12},"x":[1,2.50]}"#;
        let by = |selector: &str| maker(selector).make(body).expect("a key").0;
        assert_eq!(by("o.id"), by("o.id | @"));
        assert_eq!(by("x"), by("[x] | [0]"));
    }

    #[test]
    fn what_would_make_unrelated_work_the_same_is_missing() {
        for body in
            [r"{}", r#"{"id":null}"#, r#"{"id":""}"#, r#"{"id":[]}"#, r#"{"id":{}}"#, r#"{"id2":1}"#, "[1]", "7"]
        {
            for selector in ["id", "id | @"] {
                assert_eq!(maker(selector).make(body).err(), Some(KeyError::Missing), "{selector} of {body}");
            }
        }
        assert!(maker("id").make(r#"{"id":0}"#).is_ok());
        assert_eq!(maker("[a, b]").make(r#"{"id":1}"#).err(), Some(KeyError::Missing), "all parts are null");
        assert!(maker("[a, b]").make(r#"{"a":1}"#).is_ok());
    }

    #[test]
    fn two_big_numbers_never_become_one_key() {
        for body in [r#"{"id":100000000000000000001}"#, r#"{"id":0.1000000000000000000001}"#] {
            for selector in ["id", "id | @"] {
                assert_eq!(
                    maker(selector).make(body).err(),
                    Some(KeyError::Ambiguous(CanonicalError::InexactNumber)),
                    "{selector} of {body}"
                );
            }
        }
        assert_ne!(
            maker("id").make(r#"{"id":18446744073709551615}"#).expect("u64").0,
            maker("id").make(r#"{"id":18446744073709551614}"#).expect("u64").0
        );
    }

    #[test]
    fn a_repeated_name_on_the_way_is_ambiguous() {
        let twice = KeyError::Ambiguous(CanonicalError::RepeatedName);
        assert_eq!(maker("id").make(r#"{"id":1,"\u0069d":2}"#).err(), Some(twice.clone()));
        assert_eq!(maker("a.id").make(r#"{"a":{"id":1},"a":{"id":1}}"#).err(), Some(twice.clone()));
        assert_eq!(maker("id | @").make(r#"{"id":1,"x":{"y":1,"y":1}}"#).err(), Some(twice));
    }

    #[test]
    fn another_fingerprint_selector_is_another_scheme() {
        let of = |selector: &str| {
            let maker = KeyMaker::new(
                "n",
                Selector::parse("id").expect("path"),
                Some(Selector::parse(selector).expect("path")),
            );
            maker.make(r#"{"id":1,"a":1,"b":1}"#).expect("a key").1.expect("a fingerprint")
        };
        assert_ne!(of("a").scheme(), of("b").scheme());
        assert_eq!(of("a").scheme().len(), 8);
    }
}
