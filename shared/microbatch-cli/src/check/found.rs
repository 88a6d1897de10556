//! Properties as they are looked up: each with its place, so that what is wrong or not known can be pointed at.

use std::fmt;
use std::rc::Rc;

use super::node::Node;
use super::template::{Resource, Template};
use super::value::{Value, Why};

/// Where something stands in a template.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The line, counted from 1.
    pub(super) line: usize,
    /// The logical id of the resource.
    pub(super) resource: String,
    /// The path below `Properties`.
    pub(super) path: String,
}

impl Place {
    /// A place below this one.
    pub(super) fn below(&self, key: &str, line: usize) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { line, resource: self.resource.clone(), path }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource)?;
        if !self.path.is_empty() {
            write!(f, ".{}", self.path)?;
        }
        Ok(())
    }
}

/// A value that is not known, and why: what needs it cannot be checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Gap {
    pub(super) place: Place,
    pub(super) why: Why,
}

/// A setting of a resource: known, or not.
#[derive(Debug, Clone)]
pub(super) struct Setting<T> {
    pub(super) value: Result<T, Why>,
    /// Where it is set, or where it would be.
    pub(super) place: Place,
    /// Whether the template sets it; else it is the service's default.
    pub(super) is_set: bool,
}

impl<T> Setting<T> {
    /// The value, or what cannot be checked without it.
    pub(super) fn get(&self) -> Result<&T, Gap> {
        self.value.as_ref().map_err(|why| Gap { place: self.place.clone(), why: why.clone() })
    }

    pub(super) fn map<U>(self, map: impl FnOnce(T) -> U) -> Setting<U> {
        Setting { value: self.value.map(map), place: self.place, is_set: self.is_set }
    }
}

impl<T: Copy> Setting<T> {
    pub(super) fn copied(&self) -> Result<T, Gap> {
        self.get().copied()
    }
}

/// A resolved value and its place.
#[derive(Debug, Clone)]
pub(super) struct Found<'t> {
    pub(super) template: &'t Template,
    pub(super) value: Value,
    pub(super) place: Place,
}

impl<'t> Found<'t> {
    /// The properties of a resource.
    pub(super) fn properties(template: &'t Template, resource: &Resource) -> Self {
        let place = Place { line: resource.line, resource: resource.id.clone(), path: String::new() };
        let value = resource.properties.as_ref().map_or(Value::Absent, |node| template.resolve(node));
        Self { template, value, place }
    }

    fn at(&self, node: &Rc<Node>, key: &str, line: usize) -> Self {
        Self { template: self.template, value: self.template.resolve(node), place: self.place.below(key, line) }
    }

    /// The value under a key; absent where there is none.
    pub(super) fn get(&self, key: &str) -> Self {
        let value = match &self.value {
            Value::Map(node) => {
                if let Some(entry) = node.get(key) {
                    return self.at(&entry.value, key, entry.line);
                }
                if node.get("Fn::Transform").is_some() {
                    Value::unknown("a macro, Fn::Transform, may set it")
                } else {
                    Value::Absent
                }
            }
            Value::Absent => Value::Absent,
            Value::Unknown(why) | Value::Partial { why, .. } => Value::Unknown(why.clone()),
            Value::Text(_) | Value::List(_) | Value::Reference(_) => {
                Value::unknown(format!("expected a mapping in {}, found something else", self.place))
            }
        };
        Self { template: self.template, value, place: self.place.below(key, self.place.line) }
    }

    /// Every key with its value.
    pub(super) fn entries(&self) -> Result<Vec<(String, Self)>, Gap> {
        match &self.value {
            Value::Absent => Ok(Vec::new()),
            Value::Map(node) if node.get("Fn::Transform").is_none() => {
                let found =
                    |entry: &super::node::Entry| (entry.key.clone(), self.at(&entry.value, &entry.key, entry.line));
                Ok(node.entries().iter().map(found).collect())
            }
            Value::Map(_) => Err(self.gap("a macro, Fn::Transform, adds to it")),
            Value::Unknown(why) | Value::Partial { why, .. } => Err(self.gap(why)),
            _ => Err(self.gap("expected a mapping, found something else")),
        }
    }

    /// The items of a list, those that are not there left out. A value that is no list is a list of it alone, as in
    /// policies.
    pub(super) fn items(&self) -> Result<Vec<Self>, Gap> {
        match &self.value {
            Value::Absent => Ok(Vec::new()),
            Value::List(nodes) => {
                let found = nodes.iter().enumerate().map(|(position, node)| {
                    // Items of functions' results have no line of their own.
                    let line = if node.line == 0 { self.place.line } else { node.line };
                    self.at(node, &position.to_string(), line)
                });
                Ok(found.filter(|item| item.value != Value::Absent).collect())
            }
            Value::Unknown(why) => Err(self.gap(why)),
            Value::Text(_) | Value::Partial { .. } | Value::Map(_) | Value::Reference(_) => Ok(vec![self.clone()]),
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        self.value == Value::Absent
    }

    pub(super) fn gap(&self, why: impl Into<String>) -> Gap {
        Gap { place: self.place.clone(), why: why.into() }
    }

    pub(super) fn setting<T>(&self, value: Result<T, Why>) -> Setting<T> {
        Setting { value, place: self.place.clone(), is_set: !self.is_absent() }
    }

    /// A whole number, if it is set.
    pub(super) fn number(&self) -> Setting<Option<u64>> {
        if self.is_absent() {
            return self.setting(Ok(None));
        }
        self.setting(self.value.exact().and_then(|text| match text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(format!("expected a whole number, found {text:?}")),
        }))
    }

    /// A whole number, or the service's default.
    pub(super) fn number_or(&self, default: u64) -> Setting<u64> {
        self.number().map(|number| number.unwrap_or(default))
    }

    /// A boolean, or the service's default.
    pub(super) fn flag_or(&self, default: bool) -> Setting<bool> {
        if self.is_absent() {
            return self.setting(Ok(default));
        }
        self.setting(self.value.exact().and_then(|text| match text.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("expected true or false, found {text:?}")),
        }))
    }
}
