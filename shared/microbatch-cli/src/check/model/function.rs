//! Functions.

use std::collections::BTreeMap;

use super::super::found::{Found, Place, Setting};
use super::super::template::{Resource, SAM_FUNCTION, Template};
use super::permissions::{Permissions, RolePolicies};
use super::{Directory, Microbatch, Target, environment};

/// Defaults of the service ("`CreateFunction`").
const TIMEOUT_DEFAULT_S: u64 = 3;
const MEMORY_DEFAULT_MB: u64 = 128;

/// A function.
#[derive(Debug)]
pub(in super::super) struct Function {
    pub(in super::super) place: Place,
    pub(in super::super) timeout_s: Setting<u64>,
    pub(in super::super) memory_mb: Setting<u64>,
    pub(in super::super) reserved_concurrency: Setting<Option<u64>>,
    /// Its name, as far as it is known.
    pub(in super::super) name: String,
    /// Its settings, if it uses microbatch.
    pub(in super::super) microbatch: Setting<Option<Microbatch>>,
    /// Where failed asynchronous invocations are sent somewhere.
    pub(in super::super) async_failures: Vec<Place>,
    pub(in super::super) permissions: Permissions,
}

pub(super) fn read(
    template: &Template,
    resource: &Resource,
    directory: &Directory<'_>,
    policies: &RolePolicies<'_>,
    invoke_configs: &BTreeMap<String, Vec<Place>>,
) -> Function {
    let properties = Found::properties(template, resource);
    let name = properties.get("FunctionName").value.pattern();
    let name = name.map_or_else(|_| format!("${{{}}}", resource.id), |(name, _)| name);
    let variables = properties.get("Environment").get("Variables");
    Function {
        timeout_s: properties.get("Timeout").number_or(TIMEOUT_DEFAULT_S),
        memory_mb: properties.get("MemorySize").number_or(MEMORY_DEFAULT_MB),
        reserved_concurrency: properties.get("ReservedConcurrentExecutions").number(),
        microbatch: environment::read(&variables, &name, directory),
        async_failures: async_failures(&properties, invoke_configs.get(&resource.id)),
        permissions: policies.of_function(&properties, resource.kind == SAM_FUNCTION, directory),
        name,
        place: properties.place,
    }
}

fn async_failures(properties: &Found<'_>, configs: Option<&Vec<Place>>) -> Vec<Place> {
    let own = [
        properties.get("DeadLetterConfig").get("TargetArn"),
        properties.get("DeadLetterQueue").get("TargetArn"),
        properties.get("EventInvokeConfig").get("DestinationConfig").get("OnFailure"),
    ];
    let own = own.into_iter().filter(|found| !found.is_absent()).map(|found| found.place);
    own.chain(configs.into_iter().flatten().cloned()).collect()
}

/// The resources that say where failed asynchronous invocations go, by function.
pub(super) fn invoke_configs(template: &Template, directory: &Directory<'_>) -> BTreeMap<String, Vec<Place>> {
    let mut configs: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for resource in template.resources.values().filter(|resource| resource.kind == "AWS::Lambda::EventInvokeConfig") {
        let properties = Found::properties(template, resource);
        let on_failure = properties.get("DestinationConfig").get("OnFailure");
        let function = directory.function(&properties.get("FunctionName").value);
        if let (false, Ok(Target::Here(id))) = (on_failure.is_absent(), function) {
            configs.entry(id).or_default().push(on_failure.place);
        }
    }
    configs
}
