//! The sections of a template: parameters, mappings, conditions, resources; SAM's `Globals` are part of its functions.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::condition::Judgement;
use super::node::{Entry, Kind, Node};
use super::parameter::Parameter;
use super::value::Why;

/// A SAM function.
pub(super) const SAM_FUNCTION: &str = "AWS::Serverless::Function";

/// A template with the values that its parameters have in this check.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) parameters: BTreeMap<String, Parameter>,
    pub(super) mappings: Option<Rc<Node>>,
    pub(super) conditions: BTreeMap<String, Rc<Node>>,
    /// What becomes of conditions, each looked at once.
    pub(super) judged: RefCell<BTreeMap<String, Judgement>>,
    /// The resources that are made, by logical id.
    pub(super) resources: BTreeMap<String, Resource>,
    /// The resources that are not made, by their conditions.
    pub(super) left_out: BTreeMap<String, String>,
    /// What stands among the resources and is none that can be looked into.
    pub(super) opaque: Vec<Opaque>,
}

/// A resource.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) id: String,
    pub(super) line: usize,
    /// Its type, as `AWS::SQS::Queue`.
    pub(super) kind: String,
    pub(super) properties: Option<Rc<Node>>,
    pub(super) metadata: Option<Rc<Node>>,
}

/// Something whose resources this check does not see.
#[derive(Debug)]
pub(super) struct Opaque {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) why: Why,
    /// The template of a nested stack, where it is named.
    pub(super) nested: Option<String>,
}

impl Template {
    /// Takes a template apart; `given` are the parameters' values from the command line.
    ///
    /// # Errors
    /// It is no template, or a parameter does not allow its value.
    pub(super) fn read(root: &Node, given: &[(String, String)]) -> Result<Self, String> {
        let section = |name: &str| root.get(name).map(|entry| Rc::clone(&entry.value));
        let resources = section("Resources").filter(|resources| matches!(resources.kind, Kind::Mapping(_)));
        let Some(resources) = resources else {
            return Err("expected a CloudFormation or SAM template, found no Resources in it".to_owned());
        };
        let mut parameters = BTreeMap::new();
        for Entry { key, value, .. } in section("Parameters").iter().flat_map(|section| section.entries()) {
            // As with other options, the last one counts.
            let given = given.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
            parameters.insert(key.clone(), Parameter::read(key, value, given)?);
        }
        let conditions = section("Conditions");
        let conditions = conditions.iter().flat_map(|section| section.entries());
        let mut template = Self {
            parameters,
            mappings: section("Mappings"),
            conditions: conditions.map(|entry| (entry.key.clone(), Rc::clone(&entry.value))).collect(),
            judged: RefCell::default(),
            resources: BTreeMap::new(),
            left_out: BTreeMap::new(),
            opaque: Vec::new(),
        };
        let globals = section("Globals").and_then(|globals| Some(Rc::clone(&globals.get("Function")?.value)));
        for entry in resources.entries() {
            template.add_resource(entry, globals.as_ref());
        }
        Ok(template)
    }

    fn add_resource(&mut self, entry: &Entry, globals: Option<&Rc<Node>>) {
        let Entry { key: id, line, value } = entry;
        let field = |name: &str| value.get(name).map(|entry| Rc::clone(&entry.value));
        let kind = field("Type").and_then(|kind| kind.text().map(str::to_owned)).unwrap_or_default();
        let why = match kind.as_str() {
            _ if id.starts_with("Fn::") => {
                Some(format!("{id} is not expanded here; check the processed template of the deployed stack"))
            }
            "AWS::CloudFormation::Stack" | "AWS::Serverless::Application" => {
                Some("a nested stack; check its own template".to_owned())
            }
            kind if kind.ends_with("::MODULE") => {
                Some(format!("{kind} is not expanded here; check the processed template of the deployed stack"))
            }
            _ => None,
        };
        if let Some(why) = why {
            let property = |name: &str| field("Properties")?.get(name)?.value.text().map(str::to_owned);
            let nested = property("TemplateURL").or_else(|| property("Location"));
            self.opaque.push(Opaque { name: id.clone(), line: *line, why, nested });
            return;
        }
        let condition = field("Condition").and_then(|condition| condition.text().map(str::to_owned));
        // One that may or may not be made is looked at as if it were.
        if let Some(condition) = condition.filter(|condition| self.condition(condition) == Some(false)) {
            self.left_out.insert(id.clone(), condition);
            return;
        }
        let mut properties = field("Properties");
        if kind == SAM_FUNCTION
            && let Some(globals) = globals
        {
            properties = Some(match properties {
                Some(own) => merged(globals, &own),
                None => Rc::clone(globals),
            });
        }
        let resource = Resource { id: id.clone(), line: *line, kind, properties, metadata: field("Metadata") };
        self.resources.insert(id.clone(), resource);
    }
}

/// `Globals` under a function's own properties: mappings are merged, lists put behind the global ones, all else is the
/// function's ("Globals section of the AWS SAM template").
fn merged(global: &Rc<Node>, own: &Rc<Node>) -> Rc<Node> {
    let kind = match (&global.kind, &own.kind) {
        _ if global.function().is_some() || own.function().is_some() => return Rc::clone(own),
        (Kind::Mapping(global), Kind::Mapping(entries)) => {
            let mut all: Vec<Entry> = entries
                .iter()
                .map(|entry| match global.iter().find(|global| global.key == entry.key) {
                    Some(global) => Entry { value: merged(&global.value, &entry.value), ..entry.clone() },
                    None => entry.clone(),
                })
                .collect();
            all.extend(global.iter().filter(|global| own.get(&global.key).is_none()).cloned());
            Kind::Mapping(all)
        }
        (Kind::Sequence(global), Kind::Sequence(items)) => {
            Kind::Sequence(global.iter().chain(items).cloned().collect())
        }
        _ => return Rc::clone(own),
    };
    Rc::new(Node::new(own.line, kind))
}
