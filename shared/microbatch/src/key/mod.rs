//! Idempotency keys: what makes two messages the same work.
//!
//! The key is selected from the JSON as it was received, never from the re-serialised type, so that a new version of the
//! type does not change keys; or it is taken [from beside it](KeySource). It is brought to a
//! [canonical form](canonical), digested with SHA-256 and put behind the namespace: `namespace#hex`. A table that is
//! shared with Powertools for Python takes [its keys](KeyFormat) instead.

pub mod canonical;
mod error;
mod format;
mod number;
pub mod python_json;
mod rewrite;
mod scan;
mod selector;
mod source;

use std::{
    cell::Cell,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use self::format::push_hex;
pub use self::{
    error::{CanonicalError, KeyError},
    format::KeyFormat,
    selector::{Selector, SelectorError},
    source::{KeySource, KeySourceError},
};
use crate::{message::Message, record::Fingerprint};

/// An idempotency key as the store holds it: namespace, `#`, digest. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    text: Arc<str>,
    /// The last 64 bits of the digest, by which tables find it without reading the text; 0 where there is none.
    end: u64,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.end {
            0 => state.write(self.text.as_bytes()),
            end => state.write_u64(end),
        }
    }
}

impl Key {
    /// The key of the canonical text `selected` in `namespace`, in microbatch's own format.
    pub fn digest(namespace: &str, selected: &str) -> Self {
        Self::of_format(KeyFormat::Own, namespace, selected)
    }

    fn of_format(format: KeyFormat, namespace: &str, selected: &str) -> Self {
        Self::from_stored(written(|text| {
            text.push_str(namespace);
            text.push('#');
            format.push_digest(text, selected);
        }))
    }

    /// A key read back from a store.
    pub fn from_stored(text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        let digits = text.len().checked_sub(16).and_then(|start| text.get(start..));
        let end = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default();
        Self { text, end }
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Key {
    // Namespace and digest: neither is payload, so a key may stand in an error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text of its own size. It is written where the thread writes all of them: a buffer for each would be an allocation each.
fn written(write: impl FnOnce(&mut String)) -> Arc<str> {
    thread_local!(static BUFFER: Cell<String> = const { Cell::new(String::new()) });
    BUFFER.with(|buffer| {
        let mut text = buffer.take();
        text.clear();
        write(&mut text);
        let written = text.as_str().into();
        buffer.set(text);
        written
    })
}

/// Makes keys and fingerprints of messages: by the pipeline's source of keys and its selectors.
#[derive(Debug, Clone)]
pub struct KeyMaker {
    namespace: Box<str>,
    format: KeyFormat,
    key: KeySource,
    fingerprint: Option<Fingerprinter>,
}

/// Makes fingerprints of what a selector selects.
#[derive(Debug, Clone)]
struct Fingerprinter {
    selector: Selector,
    /// Digest of the selector's expression: another selector makes other, incomparable fingerprints.
    scheme: [u8; 4],
}

impl Fingerprinter {
    fn new(selector: Selector) -> Self {
        let [first, second, third, fourth, ..] = <[u8; 32]>::from(Sha256::digest(selector.expression()));
        Self { selector, scheme: [first, second, third, fourth] }
    }

    fn make(&self, payload: &str, format: KeyFormat) -> Result<Fingerprint, KeyError> {
        let selected = self.selector.select(payload, format)?;
        Ok(Fingerprint::new(written(|text| {
            if format == KeyFormat::Own {
                // Powertools' have no scheme.
                push_hex(text, self.scheme);
                text.push(':');
            }
            format.push_digest(text, &selected);
        })))
    }
}

impl KeyMaker {
    /// A maker of keys in `namespace`, found at `key`, with a fingerprint of what `fingerprint` selects of the payload.
    pub fn new(namespace: &str, key: impl Into<KeySource>, fingerprint: Option<Selector>) -> Self {
        let fingerprint = fingerprint.map(Fingerprinter::new);
        Self { namespace: namespace.into(), format: KeyFormat::default(), key: key.into(), fingerprint }
    }

    /// The same, in another format. Source and selector have passed [`KeySource::check`] and [`Selector::check`] for it.
    #[must_use]
    pub fn with_format(mut self, format: KeyFormat) -> Self {
        self.format = format;
        self
    }

    /// The key and fingerprint of a payload by itself, which must be JSON text. A key from beside it is missing.
    ///
    /// # Errors
    /// [`KeyError`], when there is no unambiguous key.
    pub fn make(&self, payload: &str) -> Result<(Key, Option<Fingerprint>), KeyError> {
        self.make_of(None, payload)
    }

    /// The key and fingerprint of a message with its payload, which must be JSON text: its body, or what an envelope
    /// holds.
    ///
    /// # Errors
    /// [`KeyError`], when there is no unambiguous key.
    pub fn make_from(&self, message: &Message<'_>, payload: &str) -> Result<(Key, Option<Fingerprint>), KeyError> {
        self.make_of(Some(message), payload)
    }

    fn make_of(&self, message: Option<&Message<'_>>, payload: &str) -> Result<(Key, Option<Fingerprint>), KeyError> {
        let selected = self.key.select(message, payload, self.format)?;
        if matches!(&*selected, "null" | "\"\"") || scan::holds_only_null(&selected) {
            return Err(KeyError::Missing);
        }
        let key = Key::of_format(self.format, &self.namespace, &selected);
        let fingerprint = self.fingerprint.as_ref().map(|maker| maker.make(payload, self.format)).transpose()?;
        Ok((key, fingerprint))
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
        for body in [
            r"{}",
            r#"{"id":null}"#,
            r#"{"id":""}"#,
            r#"{"id":[]}"#,
            r#"{"id":{}}"#,
            r#"{"id":[null]}"#,
            r#"{"id2":1}"#,
            "7",
        ] {
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

    #[test]
    fn powertools_keys_are_its_own() {
        let maker = |key: &str, fingerprint: Option<&str>| {
            let fingerprint = fingerprint.map(|selector| Selector::parse(selector).expect("selector"));
            KeyMaker::new("fn.app.handler", Selector::parse(key).expect("selector"), fingerprint)
                .with_format(KeyFormat::PowertoolsPython)
        };
        // Both were computed by aws-lambda-powertools 3.37.0.
        let body = r#"{ "b": [1, 2.50, "caf\u00e9"], "a": {"z": null, "y": "\ud83d\ude00"} }"#;
        let (key, fingerprint) = maker("@", Some("a")).make(body).expect("a key");
        assert_eq!(key.as_str(), "fn.app.handler#a3318fdd88454bb8b487618c761bc7d6");
        assert_eq!(fingerprint.expect("configured").as_str(), "7b898badecb146817edc91a04d57704f");
        let (_, fingerprint) = maker("b", None).make(body).expect("a key");
        assert_eq!(fingerprint, None);
        // It digests what is missing as null.
        let (_, fingerprint) = maker("b", Some("none")).make(body).expect("a key");
        assert_eq!(fingerprint.expect("configured").as_str(), "37a6259cc0c1dae299a7866489dff0bd");
        assert_eq!(maker("[x, y]", None).make(body).err(), Some(KeyError::Missing));
    }

    #[test]
    fn powertools_keys_are_its_own_beside_the_body_too() {
        // MD5 of json.dumps("059f36b4-87a3-44ab-83d2-661975830a7d") and of json.dumps("12"), by Python.
        let event = r#"{"Records":[{"messageId":"059f36b4-87a3-44ab-83d2-661975830a7d",
            "messageAttributes":{"order":{"stringValue":"12","dataType":"Number"}}}]}"#;
        let messages = crate::message::split_event(event).expect("named");
        for (source, digest) in [
            (KeySource::MessageId, "068044a7927cd88524adc22442efbed9"),
            (KeySource::Attribute("order".into()), "d5d957647c0cded9f9c28aa4f0452267"),
        ] {
            let maker = KeyMaker::new("fn.app.handler", source, None).with_format(KeyFormat::PowertoolsPython);
            let (key, _) = maker.make_from(&messages[0], "{}").expect("a key");
            assert_eq!(key.as_str(), format!("fn.app.handler#{digest}"));
            assert_eq!(maker.make("{}").err(), Some(KeyError::Missing), "nothing beside a payload by itself");
        }
    }
}
