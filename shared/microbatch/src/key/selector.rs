//! Selects a part of a JSON text: plain paths by our own scanner, everything else by JMESPath.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use jmespath::{
    Rcvar, Variable,
    ast::{Ast, Comparator},
};

use super::{
    error::{CanonicalError, KeyError},
    format::KeyFormat,
    number::{NumberKind, exact_double, number_kind},
    scan::{Scanner, find_member},
};
use crate::message::decode_str;

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

    /// Checks that keys of this format can be made by this selector: in the formats of others, only what both sides
    /// evaluate alike. That is everything in microbatch's own, and elsewhere paths, indices, slices, lists, hashes, pipes,
    /// `&&`, `||`, `!`, string literals and filters by `==` or `!=` with a string literal.
    ///
    /// # Errors
    /// When the expression has another part.
    pub fn check(&self, format: KeyFormat) -> Result<(), SelectorError> {
        let Kind::JmesPath(expression) = &self.kind else { return Ok(()) };
        match format {
            KeyFormat::Own => find_inexact(expression.as_ast()).map_or(Ok(()), |name| {
                let reason = format!("{name}() computes in doubles, in which two big numbers become one");
                Err(SelectorError { expression: self.expression.clone(), reason })
            }),
            KeyFormat::PowertoolsPython => find_diverging(expression.as_ast()).map_or(Ok(()), |part| {
                let reason = format!("Powertools for Python may evaluate {part} to something else");
                Err(SelectorError { expression: self.expression.clone(), reason })
            }),
        }
    }

    /// Selects from a JSON text, in the form that the format digests; `null` when nothing is there.
    ///
    /// # Errors
    /// [`KeyError`], when the text has no single meaning or the expression fails on it.
    pub fn select<'b>(&self, body: &'b str, format: KeyFormat) -> Result<Cow<'b, str>, KeyError> {
        match &self.kind {
            Kind::WholeBody => Ok(format.rewrite(body)?),
            Kind::Path(path) => {
                let mut value = body;
                for name in path {
                    match find_member(value, name)? {
                        Some(member) => value = member,
                        None => return Ok("null".into()),
                    }
                }
                Ok(format.rewrite(value)?)
            }
            Kind::JmesPath(expression) => {
                // What has no single meaning is refused beforehand, anywhere in the body.
                let value = to_variable(&mut Scanner::new(&format.rewrite(body)?))?;
                let selected = expression.search(value).map_err(|_| KeyError::Selection)?;
                let text = serde_json::to_string(&*selected).map_err(|_| KeyError::Selection)?;
                Ok(format.rewrite(&text)?.into_owned().into())
            }
        }
    }
}

/// The value that JMESPath works on, of text that was rewritten and so is JSON of bounded depth.
///
/// Not by `serde_json`, whose doubles may be one off in the last place.
fn to_variable(scan: &mut Scanner<'_>) -> Result<Variable, CanonicalError> {
    let mut first = true;
    match scan.peek() {
        Some(b'{') => {
            scan.at += 1;
            let mut members = BTreeMap::new();
            while scan.next_element(b'}', &mut first)? {
                let (_, name) = scan.name()?;
                members.insert(name.into_owned(), Rcvar::new(to_variable(scan)?));
            }
            Ok(Variable::Object(members))
        }
        Some(b'[') => {
            scan.at += 1;
            let mut elements = Vec::new();
            while scan.next_element(b']', &mut first)? {
                elements.push(Rcvar::new(to_variable(scan)?));
            }
            Ok(Variable::Array(elements))
        }
        Some(b'"') => {
            let text = decode_str(scan.string()?).ok_or(CanonicalError::NotJson)?;
            Ok(Variable::String(text.into_owned()))
        }
        _ => match scan.word() {
            "null" => Ok(Variable::Null),
            "true" => Ok(Variable::Bool(true)),
            "false" => Ok(Variable::Bool(false)),
            word => to_number(word).map(Variable::Number),
        },
    }
}

/// JMESPath has 64 bits for an integer, in every format.
fn to_number(word: &str) -> Result<serde_json::Number, CanonicalError> {
    let number = match number_kind(word).ok_or(CanonicalError::NotJson)? {
        NumberKind::Integer => {
            word.parse::<u64>().map(Into::into).or_else(|_| word.parse::<i64>().map(Into::into)).ok()
        }
        NumberKind::Float => serde_json::Number::from_f64(exact_double(word)?.0),
    };
    number.ok_or(CanonicalError::InexactNumber)
}

/// The first part of an expression that JMESPath for Python may evaluate otherwise than ours: it keeps an object's members
/// as they came where ours sorts them, its functions give integers where ours give floats, and it compares numbers and
/// booleans by rules of its own.
fn find_diverging(ast: &Ast) -> Option<&'static str> {
    match ast {
        Ast::Identity { .. } | Ast::Field { .. } | Ast::Index { .. } | Ast::Slice { .. } => None,
        Ast::Literal { .. } if is_plain_text(ast) => None,
        Ast::Literal { .. } => Some("a literal that is no plain string"),
        Ast::Function { .. } | Ast::Expref { .. } => Some("a function"),
        Ast::ObjectValues { .. } => Some("the values of an object (.*)"),
        Ast::Comparison { comparator: Comparator::Equal | Comparator::NotEqual, lhs, rhs, .. }
            if is_plain_text(lhs) || is_plain_text(rhs) =>
        {
            find_diverging(lhs).or_else(|| find_diverging(rhs))
        }
        Ast::Comparison { .. } => Some("a comparison other than == or != with a string"),
        Ast::Not { node, .. } | Ast::Flatten { node, .. } => find_diverging(node),
        Ast::Condition { predicate: one, then: other, .. }
        | Ast::Projection { lhs: one, rhs: other, .. }
        | Ast::And { lhs: one, rhs: other, .. }
        | Ast::Or { lhs: one, rhs: other, .. }
        | Ast::Subexpr { lhs: one, rhs: other, .. } => find_diverging(one).or_else(|| find_diverging(other)),
        Ast::MultiList { elements, .. } => elements.iter().find_map(find_diverging),
        Ast::MultiHash { elements, .. } => elements.iter().find_map(|element| find_diverging(&element.value)),
    }
}

/// The first function of an expression whose result is a double however exact its argument was.
fn find_inexact(ast: &Ast) -> Option<&str> {
    match ast {
        Ast::Function { name, .. } if ["abs", "avg", "ceil", "floor", "sum", "to_number"].contains(&name.as_str()) => {
            Some(name)
        }
        Ast::Function { args: parts, .. } | Ast::MultiList { elements: parts, .. } => {
            parts.iter().find_map(find_inexact)
        }
        Ast::MultiHash { elements, .. } => elements.iter().find_map(|element| find_inexact(&element.value)),
        Ast::Expref { ast: node, .. }
        | Ast::Not { node, .. }
        | Ast::Flatten { node, .. }
        | Ast::ObjectValues { node, .. } => find_inexact(node),
        Ast::Comparison { lhs: one, rhs: other, .. }
        | Ast::Condition { predicate: one, then: other, .. }
        | Ast::Projection { lhs: one, rhs: other, .. }
        | Ast::And { lhs: one, rhs: other, .. }
        | Ast::Or { lhs: one, rhs: other, .. }
        | Ast::Subexpr { lhs: one, rhs: other, .. } => find_inexact(one).or_else(|| find_inexact(other)),
        Ast::Identity { .. } | Ast::Field { .. } | Ast::Index { .. } | Ast::Slice { .. } | Ast::Literal { .. } => None,
    }
}

/// Escapes in literals are read differently, too.
fn is_plain_text(ast: &Ast) -> bool {
    matches!(ast, Ast::Literal { value, .. } if value.as_string().is_some_and(|text| !text.contains('\\')))
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

    #[test]
    fn what_python_may_evaluate_otherwise_is_refused_in_its_format() {
        let check = |expression: &str| {
            let selector = Selector::parse(expression).expect(expression);
            selector.check(KeyFormat::Own).expect("all of JMESPath");
            selector.check(KeyFormat::PowertoolsPython)
        };
        for expression in [
            "@",
            "order.id",
            "[a, b.c[0], d[-1].e]",
            "{one: a || b, two: !c}",
            "lines[].sku | [:2]",
            "lines[?kind == 'book' && sku].sku",
            "lines[?'a' != kind]",
            "['v1', id]",
        ] {
            assert_eq!(check(expression), Ok(()), "{expression}");
        }
        for (expression, part) in [
            ("keys(@)", "a function"),
            ("[id, length(lines)]", "a function"),
            ("lines.*.sku", "the values of an object"),
            ("lines[?price > `1`]", "a comparison"),
            ("lines[?price == `1`]", "a comparison"),
            ("[`1.0`, id]", "a literal"),
            (r"['a\b', id]", "a literal"),
            ("sort_by(lines, &sku)", "a function"),
        ] {
            let error = check(expression).expect_err(expression).to_string();
            assert!(error.contains(part), "{expression}: {error}");
        }
    }

    #[test]
    fn a_double_keeps_its_last_place_through_jmespath() {
        let select = |expression: &str, format| {
            Selector::parse(expression).expect("selector").select(r#"{"a":122.41941550000001}"#, format)
        };
        for format in [KeyFormat::Own, KeyFormat::PowertoolsPython] {
            assert_eq!(select("a | @", format), select("a", format));
        }
        assert_eq!(select("a", KeyFormat::PowertoolsPython).as_deref(), Ok("122.41941550000001"));
    }

    #[test]
    fn what_computes_in_doubles_is_refused() {
        for expression in ["abs(id)", "sum([id])", "[a, floor(b.c)]", "{k: to_number(id)}", "xs[?ceil(@) > `1`]"] {
            let selector = Selector::parse(expression).expect("JMESPath");
            let error = selector.check(KeyFormat::Own).expect_err(expression);
            assert!(error.to_string().contains("two big numbers"), "{error}");
        }
        let fine = Selector::parse("join('-', [a, b])").expect("JMESPath");
        assert_eq!(fine.check(KeyFormat::Own), Ok(()));
    }
}
