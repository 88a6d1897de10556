//! From the text of a template to [`Node`]s. JSON is YAML here.
//!
//! Templates come from anywhere: the parser's events are collected without recursion, and depth, size and what aliases
//! expand to are bounded.

use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle, Tag};

use super::node::{Entry, Kind, Node};

/// Nesting of a template. Real ones have a third of it; what walks over nodes may recurse.
const DEPTH_MAX: usize = 64;
/// Values of a template with aliases expanded. The largest template that `CloudFormation` takes, 1 MB, has fewer.
const SIZE_MAX: usize = 500_000;
const YAML_TAGS: &str = "tag:yaml.org,2002:";

/// A template's data.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) root: Rc<Node>,
    pub(super) repeated_keys: Vec<RepeatedKey>,
}

/// A key that stands twice in a mapping. The last one wins, as in the parsers of SAM and the AWS CLI.
#[derive(Debug, PartialEq)]
pub(super) struct RepeatedKey {
    pub(super) key: String,
    pub(super) first_line: usize,
    pub(super) line: usize,
}

/// Why a text is no template.
#[derive(Debug, PartialEq)]
pub(super) struct SyntaxError {
    pub(super) line: Option<usize>,
    pub(super) what: String,
}

impl SyntaxError {
    fn new(line: usize, what: impl Into<String>) -> Self {
        Self { line: Some(line), what: what.into() }
    }
}

/// Parses a text.
pub(super) fn parse(text: &str) -> Result<Parsed, SyntaxError> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| SyntaxError::new(error.marker().line(), error.info()))?;
        builder.add(event, span.start.line())?;
    }
    let root = builder.root.ok_or(SyntaxError { line: None, what: "expected a template, found nothing".to_owned() })?;
    Ok(Parsed { root, repeated_keys: builder.repeated_keys })
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
    repeated_keys: Vec<RepeatedKey>,
}

/// A sequence or mapping whose end has not come yet.
struct Open {
    line: usize,
    anchor: usize,
    tag: Tagged,
    content: Content,
}

enum Content {
    Sequence(Vec<Rc<Node>>),
    Mapping(OpenMapping),
}

#[derive(Default)]
struct OpenMapping {
    entries: Vec<Entry>,
    positions: HashMap<String, usize>,
    key: Option<Key>,
    merged: Vec<Rc<Node>>,
}

struct Key {
    text: String,
    line: usize,
    /// `<<`, whose value's entries become this mapping's.
    is_merge: bool,
}

/// What a tag makes of its value.
enum Tagged {
    /// Nothing: by its looks a plain scalar may be null or a boolean.
    Plain,
    Text,
    /// The short form of an intrinsic function, by its long name.
    Function(String),
}

impl Builder {
    fn add(&mut self, event: Event<'_>, line: usize) -> Result<(), SyntaxError> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(SyntaxError::new(line, "expected one document, found another"))
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag.as_deref(), line),
            Event::SequenceStart(_, anchor, tag) => {
                self.start(Content::Sequence(Vec::new()), anchor, tag.as_deref(), line)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.start(Content::Mapping(OpenMapping::default()), anchor, tag.as_deref(), line)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| SyntaxError::new(line, "an alias stands inside what it names"))?;
                match (self.awaits_key(), node.text()) {
                    (false, _) => self.put(node),
                    (true, Some(text)) => self.put_key(Key { text: text.to_owned(), line, is_merge: false }),
                    (true, None) => return Err(no_key(line)),
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn awaits_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Mapping(OpenMapping { key: None, .. }), .. }))
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        line: usize,
    ) -> Result<(), SyntaxError> {
        let is_plain = style == ScalarStyle::Plain;
        if self.awaits_key() {
            self.anchor(anchor, &Rc::new(Node::new(line, Kind::Scalar(text.to_owned()))));
            self.put_key(Key { text: text.to_owned(), line, is_merge: is_plain && text == "<<" });
            return Ok(());
        }
        let tag = tagged(tag);
        let kind = if is_plain && matches!(tag, Tagged::Plain) { plain(text) } else { Kind::Scalar(text.to_owned()) };
        self.complete(Node::new(line, kind), tag, anchor)
    }

    fn start(&mut self, content: Content, anchor: usize, tag: Option<&Tag>, line: usize) -> Result<(), SyntaxError> {
        if self.awaits_key() {
            return Err(no_key(line));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(too_deep(line));
        }
        self.open.push(Open { line, anchor, tag: tagged(tag), content });
        Ok(())
    }

    fn end(&mut self) -> Result<(), SyntaxError> {
        let Some(Open { line, anchor, tag, content }) = self.open.pop() else { return Ok(()) };
        let kind = match content {
            Content::Sequence(items) => Kind::Sequence(items),
            Content::Mapping(mapping) => Kind::Mapping(mapping.merged()),
        };
        self.complete(Node::new(line, kind), tag, anchor)
    }

    fn complete(&mut self, node: Node, tag: Tagged, anchor: usize) -> Result<(), SyntaxError> {
        let line = node.line;
        let node = match tag {
            Tagged::Plain | Tagged::Text => node,
            Tagged::Function(key) => Node::new(line, Kind::Mapping(vec![Entry { key, line, value: Rc::new(node) }])),
        };
        if node.depth > DEPTH_MAX {
            return Err(too_deep(line));
        }
        if node.size > SIZE_MAX {
            let what = format!("expected at most {SIZE_MAX} values with aliases expanded, found more");
            return Err(SyntaxError::new(line, what));
        }
        let node = Rc::new(node);
        self.anchor(anchor, &node);
        self.put(node);
        Ok(())
    }

    fn anchor(&mut self, anchor: usize, node: &Rc<Node>) {
        // 0 is none.
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(node));
        }
    }

    fn put_key(&mut self, key: Key) {
        if let Some(Open { content: Content::Mapping(mapping), .. }) = self.open.last_mut() {
            mapping.key = Some(key);
        }
    }

    fn put(&mut self, node: Rc<Node>) {
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::Sequence(items)) => items.push(node),
            Some(Content::Mapping(mapping)) => {
                self.repeated_keys.extend(mapping.key.take().and_then(|key| mapping.put(key, node)));
            }
        }
    }
}

impl OpenMapping {
    fn put(&mut self, key: Key, value: Rc<Node>) -> Option<RepeatedKey> {
        let Key { text, line, is_merge } = key;
        if is_merge {
            self.merged.push(value);
            return None;
        }
        let entry = Entry { key: text.clone(), line, value };
        if let Some(&position) = self.positions.get(&text) {
            let first_line = std::mem::replace(&mut self.entries[position], entry).line;
            return Some(RepeatedKey { key: text, first_line, line });
        }
        self.positions.insert(text, self.entries.len());
        self.entries.push(entry);
        None
    }

    /// The entries, and behind them those of `<<` whose keys are not here.
    fn merged(mut self) -> Vec<Entry> {
        for value in std::mem::take(&mut self.merged) {
            let sources = match &value.kind {
                Kind::Sequence(items) => items.as_slice(),
                _ => std::slice::from_ref(&value),
            };
            for entry in sources.iter().flat_map(|source| source.entries()) {
                if !self.positions.contains_key(&entry.key) {
                    self.positions.insert(entry.key.clone(), self.entries.len());
                    self.entries.push(entry.clone());
                }
            }
        }
        self.entries
    }
}

fn no_key(line: usize) -> SyntaxError {
    SyntaxError::new(line, "expected a key that is text, found a list or mapping")
}

fn too_deep(line: usize) -> SyntaxError {
    SyntaxError::new(line, format!("expected at most {DEPTH_MAX} levels of nesting, found more"))
}

fn tagged(tag: Option<&Tag>) -> Tagged {
    match tag.map(|tag| (tag.handle(), tag.suffix())) {
        Some((YAML_TAGS, "str") | ("!", "")) => Tagged::Text,
        None | Some((YAML_TAGS, _)) => Tagged::Plain,
        Some(("!", name @ ("Ref" | "Condition"))) => Tagged::Function(name.to_owned()),
        Some(("!", name)) => Tagged::Function(format!("Fn::{name}")),
        Some((handle, suffix)) => Tagged::Function(format!("!<{handle}{suffix}>")),
    }
}

/// A scalar without quotes, read as YAML 1.1 does, which is what `CloudFormation` and SAM speak: `on` is true.
fn plain(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Kind::Scalar("true".to_owned()),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Kind::Scalar("false".to_owned()),
        _ => Kind::Scalar(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'n>(node: &'n Node, path: &[&str]) -> &'n Node {
        path.iter().fold(node, |node, key| &node.get(key).unwrap_or_else(|| panic!("no {key} in {node:?}")).value)
    }

    #[test]
    fn short_forms_are_long_ones() {
        let parsed = parse("a: !GetAtt B.Arn\nb: !If [C, !Ref D, on]\nc: !Condition E\nd: !Frob 1\n").expect("YAML");
        assert_eq!(entry(&parsed.root, &["a"]).function().map(|(name, _)| name), Some("Fn::GetAtt"));
        let (name, argument) = entry(&parsed.root, &["b"]).function().expect("a function");
        assert_eq!((name, argument.items().len(), argument.items()[2].text()), ("Fn::If", 3, Some("true")));
        assert_eq!(argument.items()[1].function().map(|(name, value)| (name, value.text())), Some(("Ref", Some("D"))));
        assert_eq!(entry(&parsed.root, &["c"]).only_entry().map(|entry| entry.key.as_str()), Some("Condition"));
        assert_eq!(entry(&parsed.root, &["d"]).function().map(|(name, _)| name), Some("Fn::Frob"));
    }

    #[test]
    fn scalars_are_read_as_yaml_1_1() {
        let parsed = parse("[on, 'on', !!str on, ~, 0x10, \"\"]").expect("YAML");
        let texts: Vec<_> = parsed.root.items().iter().map(|item| item.text()).collect();
        assert_eq!(texts, [Some("true"), Some("on"), Some("on"), None, Some("0x10"), Some("")]);
    }

    #[test]
    fn json_is_read_with_its_own_escapes_and_tabs() {
        let parsed = parse("{\n\t\"a\":\t{\"b\" : \"\\ud83d\\ude00\\/\"},\n\t\"c\":null\n}").expect("JSON");
        assert_eq!(entry(&parsed.root, &["a", "b"]).text(), Some("😀/"));
        assert_eq!(entry(&parsed.root, &["a"]).line, 2);
    }

    #[test]
    fn aliases_and_merges_are_expanded() {
        let parsed = parse("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}]}\n'<<': 5\n").expect("YAML");
        assert_eq!(entry(&parsed.root, &["b", "x"]).text(), Some("1"));
        assert_eq!(entry(&parsed.root, &["b", "y"]).text(), Some("3"));
        assert_eq!(entry(&parsed.root, &["c", "z"]).text(), Some("4"));
        assert_eq!(entry(&parsed.root, &["<<"]).text(), Some("5"));
    }

    #[test]
    fn of_a_key_that_stands_twice_the_last_counts_and_both_are_named() {
        let parsed = parse("a: 1\nb: 2\na: 3\n").expect("YAML");
        assert_eq!(entry(&parsed.root, &["a"]).text(), Some("3"));
        assert_eq!(parsed.repeated_keys, [RepeatedKey { key: "a".to_owned(), first_line: 1, line: 3 }]);
    }

    #[test]
    fn what_is_no_template_is_refused_in_bounded_time() {
        let bomb: String = (1..40).map(|n| format!("a{n}: &a{n} [*a{p}, *a{p}]\n", p = n - 1)).collect();
        let deep: String = (1..70).map(|n| format!("a{n}: &a{n} [[[*a{}]]]\n", n - 1)).collect();
        for (name, text) in [
            ("nothing", String::new()),
            ("a comment", "# nothing\n".to_owned()),
            ("a bomb of aliases", format!("a0: &a0 x\n{bomb}")),
            ("aliases that nest", format!("a0: &a0 x\n{deep}")),
            ("an alias in itself", "a: &a [*a]".to_owned()),
            ("an unknown alias", "a: *b".to_owned()),
            ("two documents", "a: 1\n---\nb: 2\n".to_owned()),
            ("a key that is a list", "? [a]\n: b\n".to_owned()),
            ("brackets", "[".repeat(1_000_000)),
            ("braces", "{a: ".repeat(200_000)),
            ("dashes", "- ".repeat(500_000)),
            ("bytes", "\u{0}\u{1}\u{7f}".to_owned()),
            ("a brace and a document", "{---".to_owned()),
        ] {
            assert!(parse(&text).is_err(), "{name}");
        }
    }
}
