//! Templates that were cut, mixed up and lied in: whatever they are, the check answers.

use std::rc::Rc;

use proptest::prelude::*;

use super::node::{Entry, Kind, Node};
use super::parse::{Parsed, parse};
use super::report::{json, text};
use super::{check, check_parsed};

const TEMPLATES: [&str; 4] = [
    include_str!("../../tests/check/good.yaml"),
    include_str!("../../tests/check/shapes/processed.json"),
    include_str!("../../tests/check/shapes/unknown.yaml"),
    include_str!("../../../../infra/template.yaml"),
];

/// What is put somewhere into a template's text.
const SPLINTERS: [&str; 22] = [
    "!Ref",
    "!Sub ${",
    "!GetAtt .",
    "Fn::If:",
    "<<: *a",
    "&a",
    "*a",
    "{",
    "}",
    "[",
    "]",
    "- ",
    ": ",
    "? ",
    "\t",
    "\u{0}",
    "|",
    "'",
    "\"",
    "---\n",
    "18446744073709551616",
    "Fn::Transform: x\n",
];

/// What stands in the place of a value.
const VALUES: [&str; 20] = [
    "~",
    "[]",
    "{}",
    "[[]]",
    "-1",
    "18446744073709551615",
    "18446744073709551616",
    "1.5",
    "on",
    "''",
    "x.fifo",
    "!Ref AWS::NoValue",
    "!Ref Nothing",
    "!GetAtt OrdersQueue.Arn",
    "!If [Nothing, 1, 2]",
    "!FindInMap [a]",
    "!Select [9, [1]]",
    "!Join [',', !Ref Window]",
    "!Frobnicate { a: [1] }",
    "{ Fn::Transform: { Name: x } }",
];

fn answers(file: &str) {
    if let Ok((checked, _)) = check("t", file, &[]) {
        let checked = [checked];
        assert!(!text(&checked).is_empty() && !json(&checked).is_empty());
    }
}

/// The `position`-th value replaced by `with`, counted through the whole tree.
fn replaced(node: &Rc<Node>, position: &mut usize, with: &Rc<Node>) -> Rc<Node> {
    if *position == 0 {
        *position = usize::MAX;
        return Rc::clone(with);
    }
    *position = position.saturating_sub(1);
    let kind = match &node.kind {
        Kind::Sequence(items) => Kind::Sequence(items.iter().map(|item| replaced(item, position, with)).collect()),
        Kind::Mapping(entries) => {
            let entry = |entry: &Entry| Entry { value: replaced(&entry.value, position, with), ..entry.clone() };
            Kind::Mapping(entries.iter().map(entry).collect())
        }
        _ => return Rc::clone(node),
    };
    Rc::new(Node::new(node.line, kind))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cut_and_spliced_text_is_answered(
        which in 0..TEMPLATES.len(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..200, 0..SPLINTERS.len()), 1..6),
    ) {
        let mut characters: Vec<char> = TEMPLATES[which].chars().collect();
        for (at, length, splinter) in cuts {
            let start = at.index(characters.len() + 1);
            let end = characters.len().min(start + length % 97);
            characters.splice(start..end, SPLINTERS[splinter].chars());
        }
        answers(&characters.into_iter().collect::<String>());
    }

    #[test]
    fn values_of_any_shape_are_answered(
        which in 0..TEMPLATES.len(),
        places in prop::collection::vec((any::<prop::sample::Index>(), 0..VALUES.len()), 1..8),
    ) {
        let Parsed { mut root, repeated_keys } = parse(TEMPLATES[which]).expect("YAML");
        for (at, value) in places {
            let with = parse(VALUES[value]).expect("YAML").root;
            root = replaced(&root, &mut at.index(root.size), &with);
        }
        if let Ok((checked, _)) = check_parsed("t", &Parsed { root, repeated_keys }, &[]) {
            let checked = [checked];
            assert!(!text(&checked).is_empty() && !json(&checked).is_empty());
        }
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,300}") {
        answers(&text);
        answers(&format!("Resources: {text}"));
    }
}

#[test]
fn every_value_of_a_template_may_be_anything() {
    let root = parse(TEMPLATES[0]).expect("YAML").root;
    let values: Vec<_> = VALUES.iter().map(|value| parse(value).expect("YAML").root).collect();
    for position in 0..root.size {
        for with in &values {
            let root = replaced(&root, &mut { position }, with);
            let _ = check_parsed("t", &Parsed { root, repeated_keys: Vec::new() }, &[]);
        }
    }
}

/// Many of everything, each of which asks for the others: what grows faster than the template would take minutes.
#[test]
fn a_template_full_of_resources_takes_no_long_time() {
    let mut template = "Resources:\n".to_owned();
    for n in 0..1_500 {
        template += &format!(
            "  Q{n}: {{Type: AWS::SQS::Queue, Properties: {{RedrivePolicy: {{deadLetterTargetArn: !GetAtt Q0.Arn, maxReceiveCount: 3}}}}}}\n  \
             F{n}: {{Type: AWS::Serverless::Function, Properties: {{Role: !GetAtt R.Arn, Environment: {{Variables: {{MICROBATCH_TABLE: t, \
             MICROBATCH_X{n}: 1}}}}, Events: {{E: {{Type: SQS, Properties: {{Queue: !GetAtt Q{n}.Arn}}}}}}}}}}\n  \
             P{n}: {{Type: AWS::SQS::QueuePolicy, Properties: {{Queues: [!Ref Q{n}], PolicyDocument: {{Statement: []}}}}}}\n"
        );
    }
    template += "  R: {Type: AWS::IAM::Role, Properties: {Policies: []}}\n";
    answers(&template);
}
