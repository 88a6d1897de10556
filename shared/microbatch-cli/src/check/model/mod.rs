//! What a template says of queues, functions and tables, and how they are joined. Each value is known, or says why not.

mod environment;
mod function;
mod mapping;
mod permissions;
mod queue;
mod queue_policy;
mod table;

use std::collections::{BTreeMap, BTreeSet};

pub(super) use self::environment::{Microbatch, NAMESPACE, PARK_QUEUE_URL, PARTITION, QUEUE_URL, TABLE};
pub(super) use self::function::Function;
pub(super) use self::mapping::Mapping;
pub(super) use self::queue::{Allowed, Queue, Redrive};
pub(super) use self::table::{KeyPart, Table};
use super::found::{Found, Gap};
use super::template::{SAM_FUNCTION, Template};
use super::value::{Value, Why};

pub(super) const QUEUE: &str = "AWS::SQS::Queue";
const FUNCTIONS: [&str; 2] = [SAM_FUNCTION, "AWS::Lambda::Function"];
const TABLES: [&str; 3] = ["AWS::DynamoDB::Table", "AWS::DynamoDB::GlobalTable", "AWS::Serverless::SimpleTable"];

/// What is deployed together, by logical ids.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) queues: BTreeMap<String, Queue>,
    pub(super) functions: BTreeMap<String, Function>,
    pub(super) tables: BTreeMap<String, Table>,
    pub(super) mappings: Vec<Mapping>,
    /// The queues with a mapping.
    pub(super) sources: BTreeSet<String>,
    /// The logical ids that are taken.
    pub(super) ids: BTreeSet<String>,
    /// What could not be looked into at all.
    pub(super) gaps: Vec<Gap>,
}

/// What a property names.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    /// A resource of this template, by its logical id.
    Here(String),
    /// Something else. Its name, as far as it is known, and why it cannot be looked into.
    Elsewhere { name: String, why: Why },
}

impl Target {
    /// The logical id; `what` is being named.
    pub(super) fn here(&self) -> Result<&str, Why> {
        match self {
            Self::Here(id) => Ok(id),
            Self::Elsewhere { why, .. } => Err(why.clone()),
        }
    }
}

/// Finds the resources that names, ARNs and URLs mean.
pub(super) struct Directory<'t> {
    template: &'t Template,
    queues: BTreeMap<String, String>,
    functions: BTreeMap<String, String>,
    tables: BTreeMap<String, String>,
}

impl<'t> Directory<'t> {
    fn new(template: &'t Template) -> Self {
        let mut directory =
            Self { template, queues: BTreeMap::new(), functions: BTreeMap::new(), tables: BTreeMap::new() };
        for resource in template.resources.values() {
            let (names, property) = match resource.kind.as_str() {
                QUEUE => (&mut directory.queues, "QueueName"),
                kind if FUNCTIONS.contains(&kind) => (&mut directory.functions, "FunctionName"),
                kind if TABLES.contains(&kind) => (&mut directory.tables, "TableName"),
                _ => continue,
            };
            if let Ok((name, _)) = Found::properties(template, resource).get(property).value.pattern() {
                names.entry(name).or_insert_with(|| resource.id.clone());
            }
            // As a name that Fn::Sub puts into an ARN or a URL.
            for attribute in ["", ".Arn", &format!(".{property}")] {
                names.insert(format!("${{{}{attribute}}}", resource.id), resource.id.clone());
            }
        }
        directory
    }

    pub(super) fn queue(&self, value: &Value) -> Result<Target, Why> {
        self.find(value, &[QUEUE], &self.queues, "queue")
    }

    pub(super) fn table(&self, value: &Value) -> Result<Target, Why> {
        self.find(value, &TABLES, &self.tables, "table")
    }

    /// A function, its alias or its version.
    pub(super) fn function(&self, value: &Value) -> Result<Target, Why> {
        let mut value = value.clone();
        // An alias of a version of a function: no chain is longer.
        for _ in 0..3 {
            let Value::Reference(reference) = &value else { break };
            let resource = self.template.resources.get(&reference.resource);
            let Some(resource) = resource
                .filter(|resource| matches!(resource.kind.as_str(), "AWS::Lambda::Alias" | "AWS::Lambda::Version"))
            else {
                break;
            };
            value = Found::properties(self.template, resource).get("FunctionName").value;
        }
        self.find(&value, &FUNCTIONS, &self.functions, "function")
    }

    fn find(&self, value: &Value, kinds: &[&str], names: &BTreeMap<String, String>, what: &str) -> Result<Target, Why> {
        if let Value::Reference(reference) = value {
            let kind = self.template.resources.get(&reference.resource).map_or("", |resource| &resource.kind);
            return Ok(if kinds.contains(&kind) {
                Target::Here(reference.resource.clone())
            } else {
                let why = format!("{} is no {what} but of type {kind}", reference.resource);
                Target::Elsewhere { name: reference.placeholder(), why }
            });
        }
        let (text, why) = value.pattern()?;
        // Of an ARN or a URL the last part is the name; of a function's it may be an alias.
        if let Some(id) = parts(&text).into_iter().rev().take(2).find_map(|part| names.get(part)) {
            return Ok(Target::Here(id.clone()));
        }
        let why = why.filter(|_| may_be_any(&text));
        let why = why.unwrap_or_else(|| format!("the {what} {text} is not in this template"));
        Ok(Target::Elsewhere { name: text, why })
    }
}

/// Whether a queue of this name, ARN or URL is FIFO.
pub(super) fn has_fifo_name(name: &str) -> bool {
    name.strip_suffix(".fifo").is_some()
}

/// Whether a name, as far as it is known, may be any: what AWS fills in is the same in all names.
pub(super) fn may_be_any(name: &str) -> bool {
    name.replace("${AWS::", "").contains("${") || name.contains("{{resolve:")
}

/// The parts of an ARN or a URL. Placeholders, as `${AWS::Region}`, are left whole.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut in_placeholder) = (Vec::new(), 0, false);
    for (position, character) in text.char_indices() {
        match character {
            '{' if text[..position].ends_with('$') => in_placeholder = true,
            '}' => in_placeholder = false,
            ':' | '/' if !in_placeholder => {
                parts.push(&text[start..position]);
                start = position + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

impl Stack {
    pub(super) fn read(template: &Template) -> Self {
        let directory = Directory::new(template);
        let of = |kinds: &'static [&'static str]| {
            template.resources.values().filter(move |resource| kinds.contains(&resource.kind.as_str()))
        };
        let tls = queue_policy::TlsPolicies::read(template, &directory);
        let grants = permissions::RolePolicies::read(template);
        let invoke_configs = function::invoke_configs(template, &directory);
        let mut mappings = Vec::new();
        let mut gaps = Vec::new();
        for resource in of(&FUNCTIONS) {
            mapping::of_events(template, resource, &directory, &mut mappings, &mut gaps);
        }
        for resource in of(&["AWS::Lambda::EventSourceMapping"]) {
            mappings.extend(mapping::of_resource(template, resource, &directory));
        }
        let queue = |resource| queue::read(template, resource, &directory, &tls);
        let function = |resource| function::read(template, resource, &directory, &grants, &invoke_configs);
        Self {
            queues: of(&[QUEUE]).map(|resource| (resource.id.clone(), queue(resource))).collect(),
            functions: of(&FUNCTIONS).map(|resource| (resource.id.clone(), function(resource))).collect(),
            tables: of(&TABLES).map(|resource| (resource.id.clone(), table::read(template, resource))).collect(),
            sources: sources(&mappings),
            mappings,
            ids: template.resources.keys().chain(template.left_out.keys()).cloned().collect(),
            gaps,
        }
    }
}

fn sources(mappings: &[Mapping]) -> BTreeSet<String> {
    let queue = |mapping: &Mapping| match &mapping.queue.value {
        Ok(Target::Here(id)) => Some(id.clone()),
        _ => None,
    };
    mappings.iter().filter_map(queue).collect()
}
