//! Event source mappings from queues: SAM's events, and resources of their own.

use super::super::found::{Found, Gap, Place, Setting};
use super::super::template::{Resource, SAM_FUNCTION, Template};
use super::super::value::{Reference, Value};
use super::{Directory, QUEUE, Target};

/// Default of the service ("`CreateEventSourceMapping`").
const BATCH_SIZE_DEFAULT: u64 = 10;

/// What the ARNs of other event sources hold, and what only their mappings set.
const OTHER_SOURCES: [&str; 6] = [":kinesis:", ":dynamodb:", ":kafka:", ":mq:", ":rds:", ":docdb-elastic:"];
const OTHER_SETTINGS: [&str; 5] =
    ["StartingPosition", "SelfManagedEventSource", "Topics", "AmazonManagedKafkaEventSourceConfig", "Queues"];

/// A mapping from a queue to a function.
#[derive(Debug)]
pub(in super::super) struct Mapping {
    /// Where its properties stand.
    pub(in super::super) place: Place,
    pub(in super::super) function: Setting<Target>,
    pub(in super::super) queue: Setting<Target>,
    pub(in super::super) batch_size: Setting<u64>,
    pub(in super::super) window_s: Setting<u64>,
    /// Whether the function's answer says which messages failed.
    pub(in super::super) reports_failures: Setting<bool>,
    /// How many filter patterns there are.
    pub(in super::super) filters: Setting<usize>,
    pub(in super::super) maximum_concurrency: Setting<Option<u64>>,
    /// Whether pollers are provisioned.
    pub(in super::super) is_provisioned: Setting<bool>,
    pub(in super::super) minimum_pollers: Setting<Option<u64>>,
    pub(in super::super) maximum_pollers: Setting<Option<u64>>,
    /// Whether failed batches have a destination of their own.
    pub(in super::super) has_destination: Setting<bool>,
    /// Whether SAM makes it of a topic's event, which knows no more than a queue and a batch size.
    pub(in super::super) is_of_topic: bool,
}

/// The events of a SAM function that are from queues.
pub(super) fn of_events(
    template: &Template,
    function: &Resource,
    directory: &Directory<'_>,
    mappings: &mut Vec<Mapping>,
    gaps: &mut Vec<Gap>,
) {
    if function.kind != SAM_FUNCTION {
        return;
    }
    let events = match Found::properties(template, function).get("Events").entries() {
        Ok(events) => events,
        Err(gap) => return gaps.push(gap),
    };
    let of = |event: &Found<'_>| {
        let itself = Reference { resource: function.id.clone(), attribute: None };
        event.setting(directory.function(&Value::Reference(itself)))
    };
    for (_, event) in events {
        match event.get("Type").value.exact().as_deref() {
            Ok("SQS") => {
                let properties = event.get("Properties");
                let queue = properties.get("Queue");
                mappings.push(read(&properties, of(&event), &queue, directory));
            }
            Ok("SNS") => match of_topic(&event, of(&event), directory) {
                Ok(mapping) => mappings.extend(mapping),
                Err(gap) => gaps.push(gap),
            },
            Ok(_) => {}
            Err(why) => gaps.push(event.get("Type").gap(why)),
        }
    }
}

/// The mapping that SAM makes when a topic's event goes by way of a queue ("SNS", `SqsSubscription`).
fn of_topic(event: &Found<'_>, function: Setting<Target>, directory: &Directory<'_>) -> Result<Option<Mapping>, Gap> {
    let subscription = event.get("Properties").get("SqsSubscription");
    if matches!(subscription.value, Value::Map(_)) {
        let mapping = read(&subscription, function, &subscription.get("QueueArn"), directory);
        return Ok(Some(Mapping { is_of_topic: true, ..mapping }));
    }
    let is_made = subscription.flag_or(false).value.map_err(|why| subscription.gap(why))?;
    if is_made {
        return Err(
            subscription.gap("SAM makes a queue and its mapping; check the processed template of the deployed stack")
        );
    }
    Ok(None)
}

/// A resource of its own, unless its source is no queue.
pub(super) fn of_resource(template: &Template, resource: &Resource, directory: &Directory<'_>) -> Option<Mapping> {
    let properties = Found::properties(template, resource);
    let source = properties.get("EventSourceArn");
    let is_other = match &source.value {
        Value::Reference(reference) => {
            template.resources.get(&reference.resource).is_some_and(|resource| resource.kind != QUEUE)
        }
        Value::Text(text) | Value::Partial { text, .. } => OTHER_SOURCES.iter().any(|other| text.contains(other)),
        _ => false,
    };
    let is_set = |setting: &str| !matches!(properties.get(setting).value, Value::Absent | Value::Unknown(_));
    if is_other || OTHER_SETTINGS.iter().any(|setting| is_set(setting)) {
        return None;
    }
    let function = properties.get("FunctionName");
    let function = function.setting(directory.function(&function.value));
    Some(read(&properties, function, &source, directory))
}

fn read(properties: &Found<'_>, function: Setting<Target>, queue: &Found<'_>, directory: &Directory<'_>) -> Mapping {
    let provisioned = properties.get("ProvisionedPollerConfig");
    let destination = properties.get("DestinationConfig").get("OnFailure");
    Mapping {
        function,
        queue: queue.setting(directory.queue(&queue.value)),
        batch_size: properties.get("BatchSize").number_or(BATCH_SIZE_DEFAULT),
        window_s: properties.get("MaximumBatchingWindowInSeconds").number_or(0),
        reports_failures: reports_failures(&properties.get("FunctionResponseTypes")),
        filters: filters(&properties.get("FilterCriteria").get("Filters")),
        maximum_concurrency: properties.get("ScalingConfig").get("MaximumConcurrency").number(),
        is_provisioned: is_present(&provisioned),
        minimum_pollers: provisioned.get("MinimumPollers").number(),
        maximum_pollers: provisioned.get("MaximumPollers").number(),
        is_of_topic: false,
        has_destination: is_present(&destination),
        place: properties.place.clone(),
    }
}

fn reports_failures(types: &Found<'_>) -> Setting<bool> {
    let value = types.items().map_err(|gap| gap.why).and_then(|types| {
        let mut unknown = None;
        for kind in types {
            match kind.value.exact() {
                Ok(kind) if kind == "ReportBatchItemFailures" => return Ok(true),
                Ok(_) => {}
                Err(why) => unknown = Some(why),
            }
        }
        unknown.map_or(Ok(false), Err)
    });
    types.setting(value)
}

fn filters(filters: &Found<'_>) -> Setting<usize> {
    filters.setting(filters.items().map(|filters| filters.len()).map_err(|gap| gap.why))
}

fn is_present(found: &Found<'_>) -> Setting<bool> {
    found.setting(match &found.value {
        Value::Absent => Ok(false),
        Value::Unknown(why) => Err(why.clone()),
        _ => Ok(true),
    })
}
