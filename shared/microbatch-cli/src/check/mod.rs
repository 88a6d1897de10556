//! `microbatch check`: what templates say, and what is wrong with it.
//!
//! Parsed, resolved as far as a template alone can be, read into a model in which every value is known or says why not,
//! and judged by rules that are functions of that model.

mod condition;
#[cfg(test)]
mod fixes;
mod found;
#[cfg(test)]
mod hostile;
pub(crate) mod local;
mod model;
mod node;
mod parameter;
mod parse;
mod report;
mod resolve;
mod rules;
mod skips;
mod template;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use self::found::{Gap, Place};
use self::model::Stack;
use self::parse::{Parsed, SyntaxError};
use self::report::{Checked, Finding, NotCheckable};
use self::rules::Severity;
use self::template::Template;
use crate::args::{Check, Format};
use crate::exit::{Exit, Failure};
use crate::terminal;

/// Bytes of a template: four times what `CloudFormation` takes, for comments.
const TEMPLATE_BYTES_MAX: u64 = 4 * 1_048_576;
/// The kinds of resources that rules look at. A nested stack without any has nothing for them.
const LOOKED_AT: [&str; 5] = ["AWS::DynamoDB::", "AWS::IAM::", "AWS::Lambda::", "AWS::SQS::", "AWS::Serverless::"];
/// Some editors begin a file with it.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Runs the subcommand.
pub(crate) fn run(args: &Check) -> Result<Exit, Failure> {
    let mut checked = Vec::new();
    let mut unreadable = Vec::new();
    let mut parameters = BTreeSet::new();
    for path in &args.templates {
        let name = path.display().to_string();
        match read(path).and_then(|text| check(&name, &text, &args.parameter)) {
            Ok((template, declared)) => {
                parameters.extend(declared);
                checked.push(template);
            }
            Err(error) => unreadable.push(error.located(&name)),
        }
    }
    if let Some((name, _)) = args.parameter.iter().find(|(name, _)| unreadable.is_empty() && !parameters.contains(name))
    {
        return Err(Failure::usage(format!("no template declares the parameter {name}")));
    }
    let text = match args.format {
        Format::Text => report::text(&checked),
        Format::Json => report::json(&checked),
    };
    terminal::output(text.as_bytes())
        .map_err(|error| Failure::environment(format!("standard output cannot be written: {error}")))?;
    if !unreadable.is_empty() {
        return Err(Failure::usage(unreadable.join("\n")));
    }
    let is_bad = |finding: &Finding| args.strict || finding.severity == Severity::Error;
    let found = checked.iter().flat_map(|template| &template.findings).any(is_bad);
    Ok(if found { Exit::MistakesFound } else { Exit::Done })
}

impl SyntaxError {
    fn whole(what: impl Into<String>) -> Self {
        Self { line: None, what: what.into() }
    }

    fn located(&self, file: &str) -> String {
        match self.line {
            Some(line) => format!("{file}:{line}: {}", self.what),
            None => format!("{file}: {}", self.what),
        }
    }
}

fn read(path: &Path) -> Result<String, SyntaxError> {
    let cannot = |error: io::Error| SyntaxError::whole(format!("cannot be read: {error}"));
    let file = File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    file.take(TEMPLATE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > TEMPLATE_BYTES_MAX {
        return Err(SyntaxError::whole(format!("expected at most {TEMPLATE_BYTES_MAX} bytes, found more")));
    }
    String::from_utf8(bytes).map_err(|_| SyntaxError::whole("expected YAML or JSON in UTF-8, found other bytes"))
}

/// Checks the text of a template. Gives also the parameters that it declares.
fn check(file: &str, text: &str, parameters: &[(String, String)]) -> Result<(Checked, Vec<String>), SyntaxError> {
    let parsed = parse::parse(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text))?;
    check_parsed(file, &parsed, parameters)
}

fn check_parsed(
    file: &str,
    Parsed { root, repeated_keys }: &Parsed,
    parameters: &[(String, String)],
) -> Result<(Checked, Vec<String>), SyntaxError> {
    let template = Template::read(root, parameters).map_err(SyntaxError::whole)?;
    let stack = Stack::read(&template);
    let mut findings = Vec::new();
    let mut gaps: BTreeMap<Gap, BTreeSet<&'static str>> = BTreeMap::new();
    for gap in opaque(file, &template).chain(stack.gaps.iter().cloned()) {
        gaps.insert(gap, BTreeSet::new());
    }
    for rule in rules::all() {
        for judged in rule.apply(&stack, repeated_keys) {
            match judged {
                Ok(problems) => findings.extend(problems.into_iter().map(|problem| Finding::new(rule, problem))),
                Err(gap) => {
                    gaps.entry(gap).or_default().insert(rule.id);
                }
            }
        }
    }
    let skipped = skips::take_skipped(&template, &mut findings);
    findings.sort_by(|left, right| (&left.place, left.rule).cmp(&(&right.place, right.rule)));
    findings.dedup_by(|left, right| left.is_same(right));
    let checked = Checked {
        file: file.to_owned(),
        functions: stack.functions.len(),
        mappings: stack.mappings.len(),
        findings,
        skipped,
        not_checkable: gaps.into_iter().map(|(gap, rules)| NotCheckable { gap, rules }).collect(),
    };
    Ok((checked, template.parameters.into_keys().collect()))
}

/// What the template holds and this check does not see.
fn opaque(file: &str, template: &Template) -> impl Iterator<Item = Gap> {
    let folder = Path::new(file).parent().unwrap_or(Path::new(""));
    let is_unseen = move |nested: &String| !holds_nothing(&folder.join(nested));
    let unseen = template.opaque.iter().filter(move |opaque| opaque.nested.as_ref().is_none_or(is_unseen));
    unseen.map(|opaque| Gap {
        place: Place { line: opaque.line, resource: opaque.name.clone(), path: String::new() },
        why: opaque.why.clone(),
    })
}

/// Whether the template of a nested stack is a file here, and no rule looks at anything in it: alarms, for example.
fn holds_nothing(path: &Path) -> bool {
    if !path.is_file() {
        return false;
    }
    let Ok(Parsed { root, .. }) = read(path).and_then(|text| parse::parse(text.trim_start_matches(BYTE_ORDER_MARK)))
    else {
        return false;
    };
    Template::read(&root, &[]).is_ok_and(|nested| {
        let mut kinds = nested.resources.values().map(|resource| resource.kind.as_str());
        let none_looked_at = kinds.all(|kind| LOOKED_AT.iter().all(|looked_at| !kind.starts_with(looked_at)));
        none_looked_at && nested.opaque.is_empty() && nested.left_out.is_empty()
    })
}
