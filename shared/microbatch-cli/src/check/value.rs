//! What is known of a value once intrinsic functions are resolved.

use std::rc::Rc;

use super::node::Node;

/// Why a value is not known.
pub(super) type Why = String;

/// A value of a template, as far as it is known without a deployment.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Not set, or set to `AWS::NoValue`.
    Absent,
    /// Text, a number or a boolean, known to the letter.
    Text(String),
    /// Text with parts that a deployment fills in, each written as `${Name}`. Two of the same text are the same.
    Partial {
        text: String,
        why: Why,
    },
    /// A list. Its items are not resolved yet.
    List(Vec<Rc<Node>>),
    /// A mapping. Its values are not resolved yet.
    Map(Rc<Node>),
    /// A resource of this template, or an attribute of one.
    Reference(Reference),
    Unknown(Why),
}

/// `Ref` or `Fn::GetAtt` of a resource.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reference {
    /// Its logical id.
    pub(super) resource: String,
    /// The attribute; none for `Ref`.
    pub(super) attribute: Option<String>,
}

impl Reference {
    /// As `Fn::Sub` writes it.
    pub(super) fn placeholder(&self) -> String {
        match &self.attribute {
            None => format!("${{{}}}", self.resource),
            Some(attribute) => format!("${{{}.{attribute}}}", self.resource),
        }
    }
}

impl Value {
    pub(super) fn unknown(why: impl Into<String>) -> Self {
        Self::Unknown(why.into())
    }

    /// The text, parts that a deployment fills in written as `${Name}`, and why it is not known to the letter.
    pub(super) fn pattern(&self) -> Result<(String, Option<Why>), Why> {
        match self {
            Self::Text(text) => Ok((text.clone(), None)),
            Self::Partial { text, why } => Ok((text.clone(), Some(why.clone()))),
            Self::Reference(reference) => {
                Ok((reference.placeholder(), Some(format!("{} is known once deployed", reference.resource))))
            }
            Self::Absent => Err("expected a value, found none".to_owned()),
            Self::List(_) | Self::Map(_) => Err("expected text, found a list or mapping".to_owned()),
            Self::Unknown(why) => Err(why.clone()),
        }
    }

    /// The text, if it is known to the letter.
    pub(super) fn exact(&self) -> Result<String, Why> {
        match self.pattern()? {
            (text, None) => Ok(text),
            (_, Some(why)) => Err(why),
        }
    }
}
