//! Queues.

use super::super::found::{Found, Place, Setting};
use super::super::template::{Resource, Template};
use super::super::value::{Value, Why};
use super::queue_policy::TlsPolicies;
use super::{Directory, Target, has_fifo_name};

/// Defaults of the service ("`SetQueueAttributes`").
const VISIBILITY_DEFAULT_S: u64 = 30;
const RETENTION_DEFAULT_S: u64 = 345_600;

/// A queue.
#[derive(Debug)]
pub(in super::super) struct Queue {
    pub(in super::super) place: Place,
    pub(in super::super) is_fifo: Setting<bool>,
    pub(in super::super) visibility_s: Setting<u64>,
    pub(in super::super) retention_s: Setting<u64>,
    pub(in super::super) redrive: Setting<Option<Redrive>>,
    pub(in super::super) allowed: Setting<Allowed>,
    pub(in super::super) is_encrypted: Setting<bool>,
    pub(in super::super) is_tls_only: Setting<bool>,
    /// The logical id of the policy that names it.
    pub(in super::super) policy: Option<String>,
}

/// When messages go to which dead-letter queue.
#[derive(Debug)]
pub(in super::super) struct Redrive {
    pub(in super::super) target: Setting<Target>,
    pub(in super::super) max_receive_count: Setting<u64>,
}

/// Which queues may have this one as their dead-letter queue.
#[derive(Debug)]
pub(in super::super) enum Allowed {
    /// Every one of the account.
    All,
    None,
    These(Vec<Target>),
}

pub(super) fn read(template: &Template, resource: &Resource, directory: &Directory<'_>, tls: &TlsPolicies) -> Queue {
    let properties = Found::properties(template, resource);
    Queue {
        is_fifo: is_fifo(&properties),
        visibility_s: properties.get("VisibilityTimeout").number_or(VISIBILITY_DEFAULT_S),
        retention_s: properties.get("MessageRetentionPeriod").number_or(RETENTION_DEFAULT_S),
        redrive: redrive(&properties.get("RedrivePolicy"), directory),
        allowed: allowed(&properties.get("RedriveAllowPolicy"), directory),
        is_encrypted: is_encrypted(&properties),
        is_tls_only: Setting { value: tls.of(&resource.id), place: properties.place.clone(), is_set: true },
        policy: tls.naming(&resource.id).cloned(),
        place: properties.place,
    }
}

/// By its attribute, and by its name, which has to say so too.
fn is_fifo(properties: &Found<'_>) -> Setting<bool> {
    let name = properties.get("QueueName").value.pattern();
    if name.is_ok_and(|(name, _)| has_fifo_name(&name)) {
        return properties.get("FifoQueue").setting(Ok(true));
    }
    properties.get("FifoQueue").flag_or(false)
}

fn redrive(policy: &Found<'_>, directory: &Directory<'_>) -> Setting<Option<Redrive>> {
    let value = match &policy.value {
        Value::Absent => Ok(None),
        Value::Map(_) => {
            let target = policy.get("deadLetterTargetArn");
            let count = policy.get("maxReceiveCount");
            let max_receive_count = count.number();
            let max_receive_count = Setting {
                value: max_receive_count.value.and_then(|count| count.ok_or_else(|| "it is not set".to_owned())),
                place: max_receive_count.place,
                is_set: max_receive_count.is_set,
            };
            Ok(Some(Redrive { target: target.setting(directory.queue(&target.value)), max_receive_count }))
        }
        other => Err(no_mapping(other)),
    };
    policy.setting(value)
}

fn allowed(policy: &Found<'_>, directory: &Directory<'_>) -> Setting<Allowed> {
    let value = match &policy.value {
        Value::Absent => Ok(Allowed::All),
        Value::Map(_) => {
            policy.get("redrivePermission").value.exact().and_then(|permission| match permission.as_str() {
                "denyAll" => Ok(Allowed::None),
                "byQueue" => {
                    let sources = policy.get("sourceQueueArns").items().map_err(|gap| gap.why)?;
                    let sources: Result<_, _> = sources.iter().map(|source| directory.queue(&source.value)).collect();
                    Ok(Allowed::These(sources?))
                }
                _ => Ok(Allowed::All),
            })
        }
        other => Err(no_mapping(other)),
    };
    policy.setting(value)
}

fn no_mapping(value: &Value) -> Why {
    value.exact().err().unwrap_or_else(|| "expected a mapping, found text".to_owned())
}

/// A queue is encrypted with SQS's own key unless that is switched off ("Encryption at rest in Amazon SQS").
fn is_encrypted(properties: &Found<'_>) -> Setting<bool> {
    let managed = properties.get("SqsManagedSseEnabled");
    match properties.get("KmsMasterKeyId").value {
        Value::Absent => managed.flag_or(true),
        Value::Text(key) if key.is_empty() => managed.flag_or(true),
        Value::Unknown(why) => {
            let managed = managed.flag_or(true);
            if matches!(managed.value, Ok(true)) { managed } else { Setting { value: Err(why), ..managed } }
        }
        _ => managed.setting(Ok(true)),
    }
}
