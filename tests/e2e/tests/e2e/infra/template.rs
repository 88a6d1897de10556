//! The template with parameters put in, and its values as `CloudFormation` would resolve them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use e2e::paths::workspace_root;
use e2e::stack::need;
use e2e::tools::sam_cli_bin;
use microbatch_local::environment;
use serde_json::{Map, Value};

const REGION: &str = environment::LOCAL_REGION;

/// A function of the template.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit {
    /// What the names of its resources and parameters begin with.
    pub(crate) prefix: &'static str,
    /// Its package, binary, namespace, and the end of its names.
    pub(crate) name: &'static str,
    /// Whether its queue keeps order.
    pub(crate) fifo: bool,
}

/// All functions of the template.
pub(crate) const UNITS: [Unit; 3] = [
    Unit { prefix: "ProcessOrders", name: "process-orders", fifo: false },
    Unit { prefix: "IngestTelemetry", name: "ingest-telemetry", fifo: false },
    Unit { prefix: "PostLedger", name: "post-ledger", fifo: true },
];

impl Unit {
    /// The logical id of one of its resources, or the name of one of its parameters.
    pub(crate) fn id(&self, of: &str) -> String {
        format!("{}{of}", self.prefix)
    }
}

/// Where the templates are.
pub(crate) fn infra() -> PathBuf {
    workspace_root().join("infra")
}

/// A command without the caller's environment, with an AWS identity that is good for nothing.
pub(crate) fn quiet(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command
        .env_clear()
        .envs(environment::inherited())
        .envs([("AWS_ACCESS_KEY_ID", "local"), ("AWS_SECRET_ACCESS_KEY", "local"), ("AWS_DEFAULT_REGION", REGION)])
        .envs([("AWS_EC2_METADATA_DISABLED", "true"), ("SAM_CLI_TELEMETRY", "0"), ("PYTHONIOENCODING", "utf-8")])
        // Neither settings of the user's nor traces in the home folder.
        .env("HOME", e2e::paths::target_dir().join("e2e"))
        .current_dir(infra());
    command
}

/// What a command printed; the end of the test where it fails.
#[track_caller]
pub(crate) fn output_of(command: &mut Command) -> Vec<u8> {
    let output = need(command.output());
    let said = || [output.stdout.as_slice(), &output.stderr].concat();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&said()));
    output.stdout
}

/// A template of `infra` as it is written, read once.
fn body(name: &str) -> Value {
    static BODIES: Mutex<BTreeMap<String, Value>> = Mutex::new(BTreeMap::new());
    let mut bodies = BODIES.lock().unwrap_or_else(PoisonError::into_inner);
    let read = || {
        python("read.py", |command| {
            command.args(["template", name]);
        })
    };
    bodies.entry(name.to_owned()).or_insert_with(read).clone()
}

/// What `read.py` or `stack.py` printed.
#[track_caller]
pub(crate) fn python(script: &str, set_up: impl FnOnce(&mut Command)) -> Value {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/infra");
    let mut command = quiet(need(sam_cli_bin()).join("python"));
    set_up(command.arg(scripts.join(script)));
    need(serde_json::from_slice(&output_of(&mut command)))
}

/// The template, or one that was made of it.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    body: Value,
    parameters: BTreeMap<String, String>,
    stack: String,
    account: String,
}

impl Template {
    /// `infra/template.yaml` with its defaults.
    pub(crate) fn read() -> Self {
        Self::of(&body("template.yaml"))
    }

    /// Another template of `infra`; what has no default must be among the parameters.
    pub(crate) fn of_file(name: &str, parameters: &[(&str, &str)]) -> Self {
        let template = Self::of(&body(name)).with(parameters);
        for (parameter, declared) in map(&template.body["Parameters"]) {
            let given = parameters.iter().any(|(name, _)| name == parameter);
            assert!(given || !declared["Default"].is_null(), "{name} needs {parameter}");
        }
        template
    }

    /// A template of `infra` as it is written.
    pub(crate) fn read_file(name: &str) -> Value {
        body(name)
    }

    /// The same after the SAM transform, with these parameters.
    pub(crate) fn transformed(parameters: &[(&str, &str)]) -> Self {
        let pairs = parameters.iter().map(|(name, value)| format!("{name}={value}"));
        let body = python("read.py", |command| {
            command.args(["transform", "template.yaml"]).args(pairs);
        });
        Self::of(&body).with(parameters)
    }

    fn of(body: &Value) -> Self {
        let mut parameters = BTreeMap::new();
        for (name, parameter) in map(&body["Parameters"]) {
            parameters.insert(name.clone(), text(&parameter["Default"]));
        }
        Self { body: body.clone(), parameters, stack: "stack".to_owned(), account: "123456789012".to_owned() }
    }

    /// The same as a stack of this name in this account.
    pub(crate) fn deployed(self, stack: &str, account: &str) -> Self {
        Self { stack: stack.to_owned(), account: account.to_owned(), ..self }
    }

    /// The same with other parameters.
    pub(crate) fn with(mut self, parameters: &[(&str, &str)]) -> Self {
        for (name, value) in parameters {
            let old = self.parameters.insert((*name).to_owned(), (*value).to_owned());
            assert!(old.is_some(), "the template has no parameter {name}");
        }
        self
    }

    /// The template as it is written.
    pub(crate) fn body(&self) -> &Value {
        &self.body
    }

    /// A parameter's value.
    pub(crate) fn parameter(&self, name: &str) -> &str {
        &self.parameters[name]
    }

    /// The logical ids of the resources of a type that are made with these parameters.
    pub(crate) fn ids(&self, of_type: &str) -> Vec<&str> {
        let resources = map(&self.body["Resources"]).iter();
        let made = resources.filter(|(_, resource)| {
            resource["Type"] == of_type && resource["Condition"].as_str().is_none_or(|name| self.condition(name))
        });
        made.map(|(id, _)| id.as_str()).collect()
    }

    /// A resource's properties, resolved.
    pub(crate) fn properties(&self, id: &str) -> Value {
        let resource = &self.body["Resources"][id];
        assert!(resource.is_object(), "the template has no resource {id}");
        self.resolve(&resource["Properties"]).unwrap_or_default()
    }

    /// A function's variables, with those that all functions share.
    pub(crate) fn variables(&self, unit: Unit) -> BTreeMap<String, String> {
        let shared = &self.body["Globals"]["Function"]["Environment"]["Variables"];
        let own = &self.body["Resources"][unit.id("Function")]["Properties"]["Environment"]["Variables"];
        let all = map(shared).iter().chain(map(own));
        all.map(|(name, value)| (name.clone(), text(&self.resolve(value).unwrap_or_default()))).collect()
    }

    /// A value with its intrinsic functions resolved; none for `AWS::NoValue`.
    pub(crate) fn resolve(&self, value: &Value) -> Option<Value> {
        match value {
            Value::Array(list) => Some(list.iter().filter_map(|value| self.resolve(value)).collect()),
            Value::Object(object) => match intrinsic(object) {
                Some((function, argument)) => self.call(function, argument),
                None => {
                    Some(object.iter().filter_map(|(name, value)| Some((name.clone(), self.resolve(value)?))).collect())
                }
            },
            plain => Some(plain.clone()),
        }
    }

    fn call(&self, function: &str, argument: &Value) -> Option<Value> {
        let all = || argument.as_array().map(Vec::as_slice).unwrap_or_default();
        let resolved = |at: usize| text(&self.resolve(&all()[at]).unwrap_or_default());
        Some(match function {
            "Ref" if argument == "AWS::NoValue" => return None,
            "Ref" => self.reference(&text(argument)).into(),
            "Fn::GetAtt" => self.attribute(&text(&all()[0]), &text(&all()[1])).into(),
            "Fn::Sub" => match all() {
                [pattern, variables] => self.substitute(&text(pattern), map(variables)).into(),
                _ => self.substitute(&text(argument), &Map::new()).into(),
            },
            "Fn::FindInMap" => self.body["Mappings"][resolved(0)][resolved(1)][resolved(2)].clone(),
            "Fn::If" => return self.resolve(&all()[if self.condition(&text(&all()[0])) { 1 } else { 2 }]),
            "Fn::Equals" => (resolved(0) == resolved(1)).into(),
            "Fn::Not" => (resolved(0) != "true").into(),
            "Fn::And" => (0..all().len()).all(|at| resolved(at) == "true").into(),
            other => panic!("the tests do not know {other}"),
        })
    }

    fn condition(&self, name: &str) -> bool {
        let condition = &self.body["Conditions"][name];
        assert!(condition.is_object(), "the template has no condition {name}");
        self.resolve(condition) == Some(Value::Bool(true))
    }

    fn reference(&self, name: &str) -> String {
        if let Some(value) = self.parameters.get(name) {
            return value.clone();
        }
        let property = |of: &str| text(&self.properties(name)[of]);
        match self.body["Resources"][name]["Type"].as_str() {
            Some("AWS::SQS::Queue") => {
                format!("https://sqs.{REGION}.amazonaws.com/{}/{}", self.account, property("QueueName"))
            }
            Some("AWS::Logs::LogGroup") => property("LogGroupName"),
            Some("AWS::Serverless::Function" | "AWS::Lambda::Function") => property("FunctionName"),
            // Without a name of its own an alarm gets one that begins like its logical id.
            Some("AWS::CloudWatch::Alarm" | "AWS::CloudWatch::CompositeAlarm")
                if self.body["Resources"][name]["Properties"]["AlarmName"].is_object() =>
            {
                property("AlarmName")
            }
            Some("AWS::Lambda::Alias") => format!("{}:{}", property("FunctionName"), property("Name")),
            _ => match name {
                "AWS::StackName" => self.stack.clone(),
                "AWS::Region" => REGION.to_owned(),
                "AWS::AccountId" => self.account.clone(),
                "AWS::Partition" => "aws".to_owned(),
                other => other.to_owned(),
            },
        }
    }

    fn attribute(&self, id: &str, attribute: &str) -> String {
        match (self.body["Resources"][id]["Type"].as_str(), attribute) {
            (Some("AWS::SQS::Queue"), "Arn") => {
                format!("arn:aws:sqs:{REGION}:{}:{}", self.account, text(&self.properties(id)["QueueName"]))
            }
            (Some("AWS::SQS::Queue"), "QueueName") => text(&self.properties(id)["QueueName"]),
            _ => format!("{id}.{attribute}"),
        }
    }

    fn substitute(&self, pattern: &str, variables: &Map<String, Value>) -> String {
        let value = |name: &str| match variables.get(name) {
            Some(variable) => text(&self.resolve(variable).unwrap_or_default()),
            None => self.reference(name),
        };
        let mut parts = pattern.split("${");
        let mut substituted = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}').expect("a closed placeholder");
            substituted.push_str(&value(name));
            substituted.push_str(rest);
        }
        substituted
    }
}

/// The one function that an object is the call of.
fn intrinsic(object: &Map<String, Value>) -> Option<(&str, &Value)> {
    let (name, argument) = object.iter().next().filter(|_| object.len() == 1)?;
    (name == "Ref" || name.starts_with("Fn::")).then_some((name, argument))
}

/// An object's entries.
#[track_caller]
pub(crate) fn map(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("expected an object, found {value}"))
}

/// A list's entries.
#[track_caller]
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("expected a list, found {value}"))
}

/// A string, or a number or truth value as one, as `CloudFormation` does not tell them apart.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A number, or a string that holds one.
#[track_caller]
pub(crate) fn number(value: &Value) -> u64 {
    text(value).parse().unwrap_or_else(|_| panic!("expected a number, found {value}"))
}
