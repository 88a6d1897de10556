//! A template as it is written: plain data with line numbers, its intrinsic functions still in it.

use std::rc::Rc;

/// A value, and where it stands.
#[derive(Debug, PartialEq)]
pub(super) struct Node {
    /// The line it starts on, counted from 1.
    pub(super) line: usize,
    /// Its levels, itself included.
    pub(super) depth: usize,
    /// The values in it with aliases expanded, itself included.
    pub(super) size: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    /// Text, a number or a boolean; `CloudFormation` turns each into the others as a property needs it.
    Scalar(String),
    Sequence(Vec<Rc<Node>>),
    Mapping(Vec<Entry>),
}

/// A key of a mapping and its value.
#[derive(Debug, PartialEq, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) value: Rc<Node>,
}

impl Node {
    pub(super) fn new(line: usize, kind: Kind) -> Self {
        let (mut depth, mut size) = (0, 0_usize);
        let mut count = |child: &Rc<Node>| {
            depth = depth.max(child.depth);
            size = size.saturating_add(child.size);
        };
        match &kind {
            Kind::Null | Kind::Scalar(_) => {}
            Kind::Sequence(items) => items.iter().for_each(&mut count),
            Kind::Mapping(entries) => entries.iter().for_each(|entry| count(&entry.value)),
        }
        Self { line, depth: depth + 1, size: size.saturating_add(1), kind }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn items(&self) -> &[Rc<Node>] {
        match &self.kind {
            Kind::Sequence(items) => items,
            _ => &[],
        }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Mapping(entries) => entries,
            _ => &[],
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The only entry of a mapping that has one.
    pub(super) fn only_entry(&self) -> Option<&Entry> {
        match self.entries() {
            [entry] => Some(entry),
            _ => None,
        }
    }

    /// The intrinsic function that this is a call of, with its argument.
    pub(super) fn function(&self) -> Option<(&str, &Rc<Node>)> {
        let entry = self.only_entry()?;
        let is_function = entry.key == "Ref" || entry.key.starts_with("Fn::") || entry.key.starts_with("!<");
        is_function.then_some((entry.key.as_str(), &entry.value))
    }
}
