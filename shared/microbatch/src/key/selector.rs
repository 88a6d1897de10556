//! Selects a part of a JSON text: plain paths by our own scanner, everything else by JMESPath.

use std::{borrow::Cow, fmt};

use super::{
    KeyError,
    canonical::{self, CanonicalError},
};

/// Which part of a body is meant: a plain path such as `detail.order_id`, or any [JMESPath](https://jmespath.org)
/// expression such as `[customer_id, lines[].sku]`.
///
/// A plain path is read straight from the text and costs a tenth of JMESPath; both select the same.
#[derive(Clone)]
pub struct Selector {
    expression: Box<str>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    WholeBody,
    Path(Box<[Box<str>]>),
    JmesPath(Box<jmespath::Expression<'static>>),
}

/// A selector that is neither a plain path nor JMESPath.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorError {
    expression: Box<str>,
    reason: String,
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expression, reason } = self;
        write!(f, "expected a path such as order_id or a JMESPath expression, found {expression:?}: {reason}")
    }
}

impl std::error::Error for SelectorError {}

impl Selector {
    /// Everything.
    pub fn whole_body() -> Self {
        Self { expression: "@".into(), kind: Kind::WholeBody }
    }

    /// Reads a selector.
    ///
    /// # Errors
    /// When the expression is no JMESPath.
    pub fn parse(expression: &str) -> Result<Self, SelectorError> {
        let expression = expression.trim();
        let kind = if expression == "@" {
            Kind::WholeBody
        } else if expression.split('.').all(is_identifier) {
            Kind::Path(expression.split('.').map(Box::from).collect())
        } else {
            let compiled = jmespath::compile(expression).map_err(|error| SelectorError {
                expression: expression.into(),
                reason: error.to_string().lines().next().unwrap_or_default().to_owned(),
            })?;
            Kind::JmesPath(Box::new(compiled))
        };
        Ok(Self { expression: expression.into(), kind })
    }

    /// The expression as it was given.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// Selects from a JSON text, in canonical form; `null` when nothing is there.
    ///
    /// # Errors
    /// [`KeyError`], when the text has no single meaning or the expression fails on it.
    pub fn select(&self, body: &str) -> Result<String, KeyError> {
        match &self.kind {
            Kind::WholeBody => Ok(canonical::canonicalize(body)?),
            Kind::Path(path) => {
                let mut value = body;
                for name in path {
                    match canonical::find_member(value, name)? {
                        Some(member) => value = member,
                        None => return Ok("null".to_owned()),
                    }
                }
                Ok(canonical::canonicalize(value)?)
            }
            Kind::JmesPath(expression) => select_jmespath(expression, body),
        }
    }
}

/// JMESPath works on parsed values, which hold a number as a float and of a repeated name the last: what such a value
/// cannot hold is refused beforehand, anywhere in the body.
fn select_jmespath(expression: &jmespath::Expression<'_>, body: &str) -> Result<String, KeyError> {
    let checked = canonical::canonicalize(body)?;
    let value = jmespath::Variable::from_json(&checked).map_err(|_| CanonicalError::NotJson)?;
    let selected = expression.search(value).map_err(|_| KeyError::Selection)?;
    if all_null(&selected) {
        return Ok("null".to_owned());
    }
    let text = serde_json::to_string(&*selected).map_err(|_| KeyError::Selection)?;
    Ok(canonical::canonicalize(&text)?)
}

/// Whether a multi-select found none of its parts: `[a, b]` of an object without either is `[null, null]`.
fn all_null(selected: &jmespath::Variable) -> bool {
    match selected {
        jmespath::Variable::Array(parts) => !parts.is_empty() && parts.iter().all(|part| part.is_null()),
        jmespath::Variable::Object(parts) => !parts.is_empty() && parts.values().all(|part| part.is_null()),
        other => other.is_null(),
    }
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expression: Cow<'_, str> = (&*self.expression).into();
        f.debug_tuple("Selector").field(&expression).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_expression_says_what_is_expected() {
        let error = Selector::parse("order[").expect_err("unfinished");
        assert!(
            error
                .to_string()
                .starts_with("expected a path such as order_id or a JMESPath expression, found \"order[\": ")
        );
        assert!(Selector::parse("").is_err());
    }
}
