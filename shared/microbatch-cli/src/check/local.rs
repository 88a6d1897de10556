//! What `microbatch up` takes from a template: queues, tables and functions as plain data, for a stack on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use microbatch_local::environment::LOCAL_REGION;
use microbatch_local::mapping::MappingInput;
use microbatch_local::tables::TableSpec;

use super::BYTE_ORDER_MARK;
use super::found::{Found, Gap, Place};
use super::model::{Mapping, QUEUE, Stack, Target};
use super::parse;
use super::template::{Resource, Template};

/// The stack's name here.
const STACK_NAME: &str = "local";
/// The account in local ARNs that only a variable holds; a queue's own ARN is asked of its server.
const ACCOUNT: &str = "000000000000";

/// What `SetQueueAttributes` knows under the same name, and makes sense on this machine: nothing of keys and policies.
const QUEUE_ATTRIBUTES: [&str; 9] = [
    "VisibilityTimeout",
    "MessageRetentionPeriod",
    "DelaySeconds",
    "ReceiveMessageWaitTimeSeconds",
    "MaximumMessageSize",
    "FifoQueue",
    "ContentBasedDeduplication",
    "DeduplicationScope",
    "FifoThroughputLimit",
];

/// The stack that a template describes, as far as it can be made on this machine.
#[derive(Debug)]
pub(crate) struct LocalStack {
    /// By logical id.
    pub(crate) queues: BTreeMap<String, LocalQueue>,
    pub(crate) tables: Vec<TableSpec>,
    pub(crate) functions: Vec<LocalFunction>,
    /// What is different here from the deployed stack.
    pub(crate) notes: Vec<String>,
}

/// A queue to be made.
#[derive(Debug, PartialEq)]
pub(crate) struct LocalQueue {
    pub(crate) name: String,
    pub(crate) attributes: BTreeMap<String, String>,
    /// The dead-letter queue's logical id, and after how many deliveries messages go there.
    pub(crate) dead_letters: Option<(String, u64)>,
}

/// A function that a queue feeds.
#[derive(Debug)]
pub(crate) struct LocalFunction {
    /// Its logical id.
    pub(crate) id: String,
    /// The names that its package may have, the likeliest first.
    pub(crate) packages: Vec<String>,
    /// The source queue's logical id.
    pub(crate) queue: String,
    pub(crate) mapping: MappingInput,
    pub(crate) timeout: Duration,
    pub(crate) env: BTreeMap<String, Text>,
}

/// A variable's value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Text {
    /// To the letter.
    Known(String),
    /// With placeholders, as `${Queue.Arn}`, that are known once the queues are there.
    Pattern(String),
}

impl Text {
    /// The value with every placeholder replaced; `known` are placeholders without `${` and `}`.
    pub(crate) fn fill(&self, known: &BTreeMap<String, String>) -> String {
        match self {
            Self::Known(text) => text.clone(),
            Self::Pattern(text) => {
                fill(text, |name| known.get(name).cloned()).unwrap_or_else(|missing| format!("${{{missing}}}"))
            }
        }
    }
}

/// Reads a template with these parameters.
///
/// # Errors
/// It is no template, or it holds something without which there is no stack: everything that is wrong, a line each.
pub(crate) fn read(path: &Path, parameters: &[(String, String)]) -> Result<LocalStack, String> {
    let file = path.display().to_string();
    let text = super::read(path).map_err(|error| error.located(&file))?;
    read_text(&file, &text, parameters)
}

fn read_text(file: &str, text: &str, parameters: &[(String, String)]) -> Result<LocalStack, String> {
    let parsed =
        parse::parse(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)).map_err(|error| error.located(file))?;
    let template = Template::read(&parsed.root, parameters).map_err(|what| format!("{file}: {what}"))?;
    if let Some((name, _)) = parameters.iter().find(|(name, _)| !template.parameters.contains_key(name)) {
        return Err(format!("{file} declares no parameter {name}"));
    }
    let stack = Stack::read(&template);
    let mut reader =
        Reader { template: &template, stack: &stack, names: names(&template), notes: Vec::new(), problems: Vec::new() };
    let queues = reader.queues();
    let tables = reader.tables();
    let functions = reader.functions();
    if functions.is_empty() && reader.problems.is_empty() {
        reader.problems.push("expected a function with an event source mapping from a queue, found none".to_owned());
    }
    if !reader.problems.is_empty() {
        let lines: Vec<String> = reader.problems.iter().map(|problem| format!("{file}: {problem}")).collect();
        return Err(lines.join("\n"));
    }
    Ok(LocalStack { queues, tables, functions, notes: reader.notes })
}

struct Reader<'t> {
    template: &'t Template,
    stack: &'t Stack,
    names: Names,
    notes: Vec<String>,
    problems: Vec<String>,
}

/// What placeholders are known to become, and which will be known later.
struct Names {
    known: BTreeMap<String, String>,
    later: BTreeSet<String>,
}

impl<'t> Reader<'t> {
    fn properties(&self, id: &str) -> Option<Found<'t>> {
        Some(Found::properties(self.template, self.template.resources.get(id)?))
    }

    fn queues(&mut self) -> BTreeMap<String, LocalQueue> {
        let mut queues = BTreeMap::new();
        for (id, queue) in &self.stack.queues {
            let Some(properties) = self.properties(id) else { continue };
            let name = self.names.known.get(&format!("{id}.QueueName")).cloned().unwrap_or_else(|| id.clone());
            let (mut attributes, mut notes) = (BTreeMap::new(), Vec::new());
            for attribute in QUEUE_ATTRIBUTES {
                let found = properties.get(attribute);
                match found.value.exact() {
                    _ if found.is_absent() => {}
                    // A standard queue is one that does not say so at all.
                    Ok(text) if text == "false" => {}
                    Ok(text) => drop(attributes.insert(attribute.to_owned(), text)),
                    Err(why) => notes.push(format!("{} is left at its default: {why}", found.place)),
                }
            }
            let dead_letters = self.needed(queue.redrive.get()).and_then(|redrive| {
                let redrive = redrive.as_ref()?;
                let target = self.needed(redrive.target.get().and_then(|target| here(target, &redrive.target.place)));
                target.zip(self.needed(redrive.max_receive_count.copied()))
            });
            queues.insert(id.clone(), LocalQueue { name, attributes, dead_letters });
            self.notes.extend(notes);
        }
        queues
    }

    fn tables(&mut self) -> Vec<TableSpec> {
        let mut tables = Vec::new();
        for (id, table) in &self.stack.tables {
            let Some(key) = self.needed(table.key.get()) else { continue };
            let part = |role: &str| key.iter().find(|part| part.role == role);
            if let Some(part) = key.iter().find(|part| part.kind != "S") {
                let (name, kind) = (&part.name, &part.kind);
                self.problems.push(format!("{id}: expected keys that are strings, found {name} of type {kind}"));
                continue;
            }
            let Some(partition) = part("HASH") else {
                self.problems.push(format!("{id}: expected a partition key, found none"));
                continue;
            };
            tables.push(TableSpec {
                name: self.names.known.get(id).cloned().unwrap_or_else(|| id.clone()),
                partition_key: partition.name.clone(),
                sort_key: part("RANGE").map(|part| part.name.clone()),
            });
        }
        tables
    }

    fn functions(&mut self) -> Vec<LocalFunction> {
        let mut functions: Vec<LocalFunction> = Vec::new();
        for mapping in &self.stack.mappings {
            let function = self.needed(mapping.function.get().and_then(|target| here(target, &mapping.function.place)));
            let queue = self.needed(mapping.queue.get().and_then(|target| here(target, &mapping.queue.place)));
            let (Some(function), Some(queue)) = (function, queue) else { continue };
            if functions.iter().any(|known| known.id == function) {
                self.notes.push(format!("{function} has several queues; only the first one feeds it here"));
                continue;
            }
            functions.extend(self.function(&function, queue, mapping));
        }
        functions
    }

    fn function(&mut self, id: &str, queue: String, mapping: &Mapping) -> Option<LocalFunction> {
        let resource = self.template.resources.get(id)?;
        let timeout_s = self.needed(self.stack.functions.get(id)?.timeout_s.copied());
        let input = self.mapping(mapping);
        let env = self.env(id);
        Some(LocalFunction {
            id: id.to_owned(),
            packages: packages(self.template, resource),
            queue,
            mapping: input?,
            timeout: Duration::from_secs(timeout_s?),
            env,
        })
    }

    fn mapping(&mut self, mapping: &Mapping) -> Option<MappingInput> {
        if mapping.filters.copied().is_ok_and(|filters| filters > 0) {
            self.notes.push(format!("{}: its filter is not applied here; every message is delivered", mapping.place));
        }
        if mapping.is_provisioned.copied() == Ok(true) {
            self.notes.push(format!("{}: no pollers are provisioned here", mapping.place));
        }
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Some(MappingInput {
            batch_size: signed(self.needed(mapping.batch_size.copied())?),
            window_s: signed(self.needed(mapping.window_s.copied())?),
            concurrency_max: self.needed(mapping.maximum_concurrency.copied())?.map(signed),
            reports_item_failures: self.needed(mapping.reports_failures.copied())?,
        })
    }

    fn env(&mut self, function: &str) -> BTreeMap<String, Text> {
        let Some(properties) = self.properties(function) else { return BTreeMap::new() };
        let entries = properties.get("Environment").get("Variables").entries();
        let (mut env, mut notes) = (BTreeMap::new(), Vec::new());
        for (name, found) in entries.unwrap_or_default() {
            if found.is_absent() {
                continue;
            }
            let text = found.value.pattern().and_then(|(text, why)| match why {
                None => Ok(Text::Known(text)),
                Some(why) => self.names.resolve(&text).map_err(|_| why),
            });
            match text {
                Ok(text) => drop(env.insert(name, text)),
                Err(why) => notes.push(format!("the variable {name} of {function} is not set here: {why}")),
            }
        }
        self.notes.extend(notes);
        env
    }

    /// The value, or a problem.
    fn needed<T>(&mut self, value: Result<T, Gap>) -> Option<T> {
        value.map_err(|gap| self.problems.push(format!("{}: {}", gap.place, gap.why))).ok()
    }
}

fn here(target: &Target, place: &Place) -> Result<String, Gap> {
    target.here().map(str::to_owned).map_err(|why| Gap { place: place.clone(), why })
}

impl Names {
    /// The text with what is known filled in; an error names what never will be.
    fn resolve(&self, pattern: &str) -> Result<Text, String> {
        let mut is_complete = true;
        let text = fill(pattern, |name| {
            self.known.get(name).cloned().or_else(|| {
                is_complete &= !self.later.contains(name);
                self.later.contains(name).then(|| format!("${{{name}}}"))
            })
        })?;
        Ok(if is_complete { Text::Known(text) } else { Text::Pattern(text) })
    }
}

/// The names of everything, and what the machine stands in for.
fn names(template: &Template) -> Names {
    let pseudo = [
        ("AWS::StackName", STACK_NAME),
        ("AWS::Region", LOCAL_REGION),
        ("AWS::AccountId", ACCOUNT),
        ("AWS::Partition", "aws"),
        ("AWS::URLSuffix", "amazonaws.com"),
    ];
    let pseudo = pseudo.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut names = Names { known: BTreeMap::from(pseudo), later: BTreeSet::new() };
    let mut own = Vec::new();
    for resource in template.resources.values() {
        let property = match resource.kind.as_str() {
            QUEUE => "QueueName",
            kind if kind.ends_with("Function") => "FunctionName",
            kind if kind.starts_with("AWS::DynamoDB::") || kind.ends_with("::SimpleTable") => "TableName",
            _ => continue,
        };
        let properties = Found::properties(template, resource);
        let given = properties.get(property).value.pattern().ok();
        let given = given.and_then(|(text, _)| fill(&text, |name| names.known.get(name).cloned()).ok());
        let is_fifo =
            resource.kind == QUEUE && properties.get("FifoQueue").value.exact().is_ok_and(|fifo| fifo == "true");
        let suffix = if is_fifo { ".fifo" } else { "" };
        own.push((resource, property, given.unwrap_or_else(|| format!("{}{suffix}", resource.id))));
    }
    for (resource, property, name) in own {
        let id = &resource.id;
        names.known.insert(format!("{id}.{property}"), name.clone());
        if resource.kind == QUEUE {
            names.later.extend([id.clone(), format!("{id}.QueueUrl"), format!("{id}.Arn")]);
        } else {
            names.known.insert(id.clone(), name);
        }
    }
    names
}

/// The names that a function's package may have: its binary's, its folder's, its own.
fn packages(template: &Template, resource: &Resource) -> Vec<String> {
    let properties = Found::properties(template, resource);
    let metadata = resource.metadata.as_ref().and_then(|metadata| metadata.get("BuildProperties"));
    let binary = metadata.and_then(|build| build.value.get("Binary")?.value.text().map(str::to_owned));
    let folder = properties.get("CodeUri").value.exact().ok();
    let folder = folder.and_then(|uri| uri.trim_end_matches('/').rsplit('/').next().map(str::to_owned));
    let name = properties.get("FunctionName").value.pattern().ok();
    let name = name.and_then(|(text, _)| fill(&text, |_| Some(String::new())).ok());
    let name = name.map(|name| name.trim_matches(['-', '_']).to_owned());
    let mut names: Vec<String> = [binary, folder, name].into_iter().flatten().filter(|name| !name.is_empty()).collect();
    names.dedup();
    names
}

/// Replaces every `${Name}`; an error is the first name that has no value.
fn fill(pattern: &str, mut value: impl FnMut(&str) -> Option<String>) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = pattern;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        let name = &rest[start + 2..start + length];
        text.push_str(&rest[..start]);
        text.push_str(&value(name).ok_or_else(|| name.to_owned())?);
        rest = &rest[start + length + 1..];
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(parameters: &[(&str, &str)]) -> Result<LocalStack, String> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../infra/template.yaml");
        let text = std::fs::read_to_string(file).expect("the template");
        let parameters: Vec<_> =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        read_text("template.yaml", &text, &parameters)
    }

    #[test]
    fn our_template_is_a_stack() {
        let stack = ours(&[]).expect("a stack");
        assert_eq!(stack.notes, Vec::<String>::new());
        assert_eq!(stack.queues.len(), 6);
        let queue = &stack.queues["ProcessOrdersQueue"];
        assert_eq!(queue.name, "local-process-orders");
        assert_eq!(queue.attributes["VisibilityTimeout"], "181");
        assert_eq!(queue.dead_letters, Some(("ProcessOrdersDeadLetterQueue".to_owned(), 10)));
        let fifo = &stack.queues["PostLedgerQueue"];
        assert_eq!((fifo.name.as_str(), fifo.attributes["FifoQueue"].as_str()), ("local-post-ledger.fifo", "true"));
        let tables: Vec<_> =
            stack.tables.iter().map(|table| (table.name.as_str(), table.partition_key.as_str())).collect();
        assert!(
            tables.contains(&("IdempotencyTable", "id")) && tables.contains(&("OrdersTable", "order_id")),
            "{tables:?}"
        );
    }

    #[test]
    fn functions_have_the_templates_settings_and_variables() {
        let stack = ours(&[("ProcessOrdersBatchSize", "1000"), ("ProcessOrdersBatchWindow", "2")]).expect("a stack");
        let orders =
            stack.functions.iter().find(|function| function.id == "ProcessOrdersFunction").expect("it is there");
        assert_eq!(orders.packages, ["process-orders"]);
        assert_eq!((orders.queue.as_str(), orders.timeout), ("ProcessOrdersQueue", Duration::from_secs(30)));
        let expected =
            MappingInput { batch_size: 1_000, window_s: 2, concurrency_max: Some(50), reports_item_failures: true };
        assert_eq!(orders.mapping, expected);
        assert_eq!(orders.env["ORDERS_TABLE"], Text::Known("OrdersTable".to_owned()));
        assert_eq!(orders.env["MICROBATCH_BACKOFF"], Text::Known("on".to_owned()));
        assert_eq!(orders.env["MICROBATCH_QUEUE_URL"], Text::Pattern("${ProcessOrdersQueue}".to_owned()));
        let known = BTreeMap::from([("ProcessOrdersQueue".to_owned(), "http://q".to_owned())]);
        assert_eq!(orders.env["MICROBATCH_QUEUE_URL"].fill(&known), "http://q");
    }

    #[test]
    fn what_cannot_be_made_here_is_a_note_and_what_is_needed_a_problem() {
        let template = "
Parameters: {Size: {Type: Number}}
Resources:
  Q: {Type: AWS::SQS::Queue, Properties: {RedrivePolicy: {deadLetterTargetArn: !GetAtt D.Arn, maxReceiveCount: 3}}}
  D: {Type: AWS::SQS::Queue}
  T: {Type: AWS::SNS::Topic}
  F:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: ./functions/f/
      Environment: {Variables: {TOPIC: !Ref T, ARN: !Sub 'x-${Q.Arn}', STACK: !Sub '${AWS::StackName}/a'}}
      Events: {E: {Type: SQS, Properties: {Queue: !GetAtt Q.Arn, BatchSize: !Ref Size}}}
";
        let wrong = read_text("t", template, &[]).expect_err("no batch size");
        assert!(wrong.contains("BatchSize") && wrong.contains("--parameter Size=VALUE"), "{wrong}");
        let stack = read_text("t", template, &[("Size".to_owned(), "5".to_owned())]).expect("a stack");
        let function = &stack.functions[0];
        assert_eq!((function.packages.as_slice(), function.mapping.batch_size), (&["f".to_owned()][..], 5));
        assert_eq!(function.env["ARN"], Text::Pattern("x-${Q.Arn}".to_owned()));
        assert_eq!(function.env["STACK"], Text::Known("local/a".to_owned()));
        assert!(stack.notes.len() == 1 && stack.notes[0].contains("TOPIC"), "{:?}", stack.notes);
        assert_eq!(stack.queues["Q"].name, "Q");
    }

    #[test]
    fn what_is_no_stack_says_why() {
        let none = read_text("t", "Resources: {Q: {Type: AWS::SQS::Queue}}", &[]).expect_err("no function");
        assert!(none.contains("expected a function"), "{none}");
        let unknown = ours(&[("Nope", "1")]).expect_err("no such parameter");
        assert!(unknown.contains("no parameter Nope"), "{unknown}");
        assert!(read_text("t", "a: [", &[]).expect_err("no YAML").starts_with("t:"));
    }
}
