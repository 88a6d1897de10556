//! Intrinsic functions: what they give, as far as it is known without a deployment.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::node::{Kind, Node};
use super::template::Template;
use super::value::{Reference, Value, Why};

/// Text that functions put together. No property that is looked at is longer.
const TEXT_MAX: usize = 65_536;

impl Template {
    /// What a node gives. Items of a list and values of a mapping are left for their own turn.
    pub(super) fn resolve(&self, node: &Rc<Node>) -> Value {
        match &node.kind {
            Kind::Null => Value::Absent,
            Kind::Scalar(text) => literal(text),
            Kind::Sequence(items) => Value::List(items.clone()),
            Kind::Mapping(_) => match node.function() {
                Some((name, argument)) => self.call(name, argument),
                None => Value::Map(Rc::clone(node)),
            },
        }
    }

    fn call(&self, name: &str, argument: &Rc<Node>) -> Value {
        match name {
            "Ref" => argument.text().map_or_else(|| malformed(name), |id| self.reference(id)),
            "Fn::GetAtt" => self.attribute(argument),
            "Fn::Sub" => self.substitute(argument),
            "Fn::Join" => self.join(argument),
            "Fn::Select" => self.select(argument),
            "Fn::Split" => self.split(argument),
            "Fn::If" => self.choose(argument),
            "Fn::FindInMap" => self.find_in_map(argument),
            "Fn::ImportValue" => {
                let named = self.resolve(argument).pattern();
                let (export, _) = named.unwrap_or_else(|_| ("another stack".to_owned(), None));
                let why = format!("it is another stack's export, {export}");
                Value::Partial { text: format!("${{import {export}}}"), why }
            }
            "Fn::Transform" => Value::unknown("a macro, Fn::Transform, makes it"),
            "Fn::Base64" | "Fn::Cidr" | "Fn::GetAZs" | "Fn::Length" | "Fn::ToJsonString" | "Fn::GetStackOutput" => {
                Value::unknown(format!("{name} is not evaluated here"))
            }
            other => Value::unknown(format!("unknown intrinsic function {other}")),
        }
    }

    fn reference(&self, name: &str) -> Value {
        if name == "AWS::NoValue" {
            return Value::Absent;
        }
        if name.starts_with("AWS::") {
            return Value::Partial { text: format!("${{{name}}}"), why: format!("{name} is known once deployed") };
        }
        if let Some(parameter) = self.parameters.get(name) {
            return match parameter.list() {
                Some(items) => Value::List(items.map(text_node).collect()),
                None => parameter.value(),
            };
        }
        // SAM lets a function's alias and version be named so.
        let (id, attribute) = match name.split_once('.') {
            Some((id, attribute)) => (id, Some(attribute)),
            None => (name, None),
        };
        self.resource(id, attribute)
    }

    fn resource(&self, id: &str, attribute: Option<&str>) -> Value {
        if let Some(condition) = self.left_out.get(id) {
            return Value::unknown(format!("{id} is not made, by its condition {condition}"));
        }
        if !self.resources.contains_key(id) {
            return Value::unknown(format!("{id} is neither a parameter nor a resource that this check sees"));
        }
        Value::Reference(Reference { resource: id.to_owned(), attribute: attribute.map(str::to_owned) })
    }

    /// `!GetAtt Queue.Arn`, or the same as a list.
    fn attribute(&self, argument: &Rc<Node>) -> Value {
        let (id, attribute) = match (argument.text().and_then(|text| text.split_once('.')), argument.items()) {
            (Some((id, attribute)), _) => (id.to_owned(), attribute.to_owned()),
            (None, [id, attribute]) => match (id.text(), self.resolve(attribute).exact()) {
                (Some(id), Ok(attribute)) => (id.to_owned(), attribute),
                _ => return malformed("Fn::GetAtt"),
            },
            _ => return malformed("Fn::GetAtt"),
        };
        self.resource(&id, Some(&attribute))
    }

    fn substitute(&self, argument: &Rc<Node>) -> Value {
        let (pattern, variables) = match argument.items() {
            [] => (argument, None),
            [pattern] => (pattern, None),
            [pattern, variables, ..] => (pattern, Some(variables)),
        };
        let Some(pattern) = pattern.text() else { return malformed("Fn::Sub") };
        let variables: BTreeMap<&str, Value> = variables
            .iter()
            .flat_map(|variables| variables.entries())
            .map(|entry| (entry.key.as_str(), self.resolve(&entry.value)))
            .collect();
        let value_of = |name: &str| variables.get(name).cloned().unwrap_or_else(|| self.reference(name));
        let mut text = Text::default();
        let mut rest = pattern;
        while let Some(start) = rest.find("${") {
            let Some(length) = rest[start..].find('}') else { break };
            text.push_str(&rest[..start]);
            let name = &rest[start + 2..start + length];
            match name.strip_prefix('!') {
                Some(literal) => text.push_str(&format!("${{{literal}}}")),
                None => text.push(&value_of(name.trim()), name.trim()),
            }
            rest = &rest[start + length + 1..];
            if text.is_too_long() {
                break;
            }
        }
        text.push_str(rest);
        text.finish()
    }

    fn join(&self, argument: &Rc<Node>) -> Value {
        let [delimiter, items] = argument.items() else { return malformed("Fn::Join") };
        let Some(delimiter) = delimiter.text().or_else(|| matches!(delimiter.kind, Kind::Null).then_some("")) else {
            return malformed("Fn::Join");
        };
        let items = match self.resolve(items) {
            Value::List(items) => items,
            Value::Unknown(why) => return Value::Unknown(why),
            _ => return malformed("Fn::Join"),
        };
        let mut text = Text::default();
        let values = items.iter().map(|item| self.resolve(item)).filter(|value| *value != Value::Absent);
        for (position, value) in values.enumerate() {
            if position > 0 {
                text.push_str(delimiter);
            }
            text.push(&value, "item");
            if text.is_too_long() {
                break;
            }
        }
        text.finish()
    }

    fn select(&self, argument: &Rc<Node>) -> Value {
        let [index, items] = argument.items() else { return malformed("Fn::Select") };
        let index = self.resolve(index).exact().ok().and_then(|index| index.parse::<usize>().ok());
        match (index, self.resolve(items)) {
            (Some(index), Value::List(items)) => {
                items.get(index).map_or_else(|| malformed("Fn::Select"), |item| self.resolve(item))
            }
            (_, Value::Unknown(why)) => Value::Unknown(why),
            _ => malformed("Fn::Select"),
        }
    }

    fn split(&self, argument: &Rc<Node>) -> Value {
        let [delimiter, source] = argument.items() else { return malformed("Fn::Split") };
        match (delimiter.text().filter(|delimiter| !delimiter.is_empty()), self.resolve(source).exact()) {
            (Some(delimiter), Ok(source)) => Value::List(source.split(delimiter).map(text_node).collect()),
            (_, Err(why)) => Value::Unknown(why),
            (None, _) => malformed("Fn::Split"),
        }
    }

    fn choose(&self, argument: &Rc<Node>) -> Value {
        let [condition, then, otherwise] = argument.items() else { return malformed("Fn::If") };
        let Some(name) = condition.text() else { return malformed("Fn::If") };
        match self.condition(name) {
            Some(true) => self.resolve(then),
            Some(false) => self.resolve(otherwise),
            None => Value::unknown(format!("whether the condition {name} holds is not known without a deployment")),
        }
    }

    fn find_in_map(&self, argument: &Rc<Node>) -> Value {
        let [map, first, second, options @ ..] = argument.items() else { return malformed("Fn::FindInMap") };
        let mut found = self.mappings.as_ref();
        let mut keys = Vec::new();
        for key in [map, first, second] {
            let key = match self.resolve(key).exact() {
                Ok(key) => key,
                Err(why) => return Value::Unknown(why),
            };
            found = found.and_then(|node| node.get(&key)).map(|entry| &entry.value);
            keys.push(key);
        }
        let default = options.first().and_then(|options| options.get("DefaultValue"));
        match (found, default) {
            // Functions are not allowed here, and resolving them could go round in circles.
            (Some(found), _) if is_plain(found) => self.resolve(found),
            (None, Some(default)) => self.resolve(&default.value),
            _ => Value::unknown(format!("there is no plain value in Mappings under {}", keys.join(", "))),
        }
    }
}

/// Text that is put together from known and unknown parts.
#[derive(Default)]
struct Text {
    written: String,
    why: Option<Why>,
    parts: usize,
    /// The value itself, should it be the only part.
    only: Option<Value>,
}

impl Text {
    fn push_str(&mut self, text: &str) {
        if !text.is_empty() {
            self.written.push_str(text);
            self.parts += 1;
        }
    }

    fn push(&mut self, value: &Value, name: &str) {
        self.parts += 1;
        match value.pattern() {
            Ok((text, why)) => {
                self.written.push_str(&text);
                self.explain(why);
            }
            Err(why) => {
                self.written.push_str(&format!("${{{name}}}"));
                self.explain(Some(why));
            }
        }
        self.only = Some(value.clone());
    }

    /// Keeps the first reason, and a better one than that of what AWS itself fills in.
    fn explain(&mut self, why: Option<Why>) {
        if self.why.as_ref().is_none_or(|known| known.starts_with("AWS::")) {
            self.why = why.or(self.why.take());
        }
    }

    fn is_too_long(&self) -> bool {
        self.written.len() > TEXT_MAX
    }

    fn finish(self) -> Value {
        match self {
            Self { parts: 1, only: Some(value), .. } => value,
            text if text.is_too_long() => Value::unknown(format!("it is longer than {TEXT_MAX} bytes")),
            Self { written, why: None, .. } => literal(&written),
            Self { written, why: Some(why), .. } => Value::Partial { text: written, why },
        }
    }
}

/// Whether a value of `Mappings` is text, or a list of it.
fn is_plain(node: &Node) -> bool {
    match &node.kind {
        Kind::Scalar(_) => true,
        Kind::Sequence(items) => items.iter().all(|item| item.text().is_some()),
        Kind::Null | Kind::Mapping(_) => false,
    }
}

/// Text as it stands, unless it names a value that is fetched when deployed.
fn literal(text: &str) -> Value {
    if text.contains("{{resolve:") {
        let why = "it is a dynamic reference, fetched when deployed".to_owned();
        return Value::Partial { text: text.to_owned(), why };
    }
    Value::Text(text.to_owned())
}

fn text_node(text: &str) -> Rc<Node> {
    Rc::new(Node::new(0, Kind::Scalar(text.to_owned())))
}

fn malformed(name: &str) -> Value {
    Value::unknown(format!("{name} is not used as CloudFormation knows it"))
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    const TEMPLATE: &str = "
Parameters:
  Stage: {Type: String, Default: dev}
  Size: {Type: Number}
  Ids: {Type: CommaDelimitedList, Default: 'a, b'}
  Secret: {Type: 'AWS::SSM::Parameter::Value<String>', Default: /a/b}
Mappings:
  Limits: {dev: {Batch: 10, List: [x, y], Map: {Ref: Stage}}}
Conditions:
  IsDev: !Equals [!Ref Stage, dev]
  IsProd: !Not [!Condition IsDev]
  IsHere: !Equals [!Ref AWS::Region, eu-west-1]
  Here: !Or [!Condition IsHere, !Condition IsDev]
  Loop: !Not [!Condition Loop]
Resources:
  Q: {Type: AWS::SQS::Queue}
  Gone: {Type: AWS::SQS::Queue, Condition: IsProd}
";

    fn resolved(expression: &str) -> Value {
        let root = parse(TEMPLATE).expect("YAML").root;
        let template = Template::read(&root, &[]).expect("a template");
        template.resolve(&parse(expression).expect("YAML").root)
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn what_is_known_is_resolved() {
        for (expression, expected) in [
            ("!Ref Stage", text("dev")),
            (
                "!Sub '${Stage}-${!Stage}-${x}'",
                Value::Partial {
                    text: "dev-${Stage}-${x}".to_owned(),
                    why: "x is neither a parameter nor a resource that this check sees".to_owned(),
                },
            ),
            ("!Sub ['${a}-${Stage}', {a: !Join ['', [b, !Ref Stage]]}]", text("bdev-dev")),
            ("!FindInMap [Limits, !Ref Stage, Batch]", text("10")),
            ("!Select [1, !Ref Ids]", text("b")),
            ("!Select ['0', !Split ['-', !Sub 'x-${Stage}']]", text("x")),
            ("!If [IsDev, 1, 2]", text("1")),
            ("!If [IsProd, 1, !Ref AWS::NoValue]", Value::Absent),
            ("!If [Here, 1, 2]", text("1")),
            ("Fn::Join: [',', [a, !If [IsProd, b, !Ref AWS::NoValue], c]]", text("a,c")),
        ] {
            assert_eq!(resolved(expression), expected, "{expression}");
        }
    }

    #[test]
    fn resources_are_references() {
        let queue = |attribute: Option<&str>| {
            Value::Reference(Reference { resource: "Q".to_owned(), attribute: attribute.map(str::to_owned) })
        };
        for expression in ["!GetAtt Q.Arn", "!GetAtt [Q, Arn]", "!Sub '${Q.Arn}'", "!Join ['', [!GetAtt Q.Arn]]"] {
            assert_eq!(resolved(expression), queue(Some("Arn")), "{expression}");
        }
        assert_eq!(resolved("!Ref Q"), queue(None));
        let Value::Partial { text, .. } = resolved("!Sub 'arn:aws:sqs:${AWS::Region}:1:${Q.QueueName}'") else {
            panic!("partly known")
        };
        assert_eq!(text, "arn:aws:sqs:${AWS::Region}:1:${Q.QueueName}");
    }

    #[test]
    fn what_is_not_known_says_why() {
        for (expression, why) in [
            ("!Ref Size", "parameter Size has no default; give it by --parameter Size=VALUE"),
            ("!Ref Secret", "names a value of Systems Manager"),
            ("!Ref Gone", "Gone is not made, by its condition IsProd"),
            ("!If [IsHere, 1, 2]", "whether the condition IsHere holds is not known"),
            ("!If [Loop, 1, 2]", "whether the condition Loop holds is not known"),
            ("!ImportValue x", "another stack's export, x"),
            ("!Frobnicate x", "unknown intrinsic function Fn::Frobnicate"),
            ("!FindInMap [Limits, prod, Batch]", "no plain value in Mappings under Limits, prod, Batch"),
            ("!FindInMap [Limits, dev, Map]", "no plain value in Mappings"),
            ("'{{resolve:ssm:/a}}'", "a dynamic reference"),
            ("!Sub [[a]]", "Fn::Sub is not used as CloudFormation knows it"),
        ] {
            let found = resolved(expression).exact().expect_err(expression);
            assert!(found.contains(why), "{expression}: {found}");
        }
    }

    #[test]
    fn conditions_that_multiply_are_looked_at_once() {
        let mut template = "Resources: {}\nConditions:\n  C0: !Equals [a, a]\n".to_owned();
        for level in 1..45 {
            template += &format!("  C{level}: !And [!Condition C{l}, !Condition C{l}]\n", l = level - 1);
        }
        let root = parse(&template).expect("YAML").root;
        let template = Template::read(&root, &[]).expect("a template");
        assert_eq!(template.condition("C44"), Some(true));
    }
}
