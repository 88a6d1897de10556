//! Which queues refuse requests without TLS.

use std::collections::BTreeMap;

use super::super::found::Found;
use super::super::template::Template;
use super::super::value::{Value, Why};
use super::{Directory, Target};

/// What the queue policies of a template say of TLS.
pub(super) struct TlsPolicies {
    /// Of each queue that a policy is for: whether it demands TLS, or why that is not known.
    of: BTreeMap<String, Result<bool, Why>>,
    /// Of each queue that a policy is for: the first such policy, by its logical id.
    policies: BTreeMap<String, String>,
    /// A policy whose queues are not known: it may be for any.
    unknown: Option<Why>,
}

impl TlsPolicies {
    pub(super) fn read(template: &Template, directory: &Directory<'_>) -> Self {
        let mut policies = Self { of: BTreeMap::new(), policies: BTreeMap::new(), unknown: None };
        for resource in template.resources.values() {
            let queues = match resource.kind.as_str() {
                "AWS::SQS::QueuePolicy" => "Queues",
                "AWS::SQS::QueueInlinePolicy" => "Queue",
                _ => continue,
            };
            let properties = Found::properties(template, resource);
            let demands_tls = demands_tls(&properties.get("PolicyDocument").get("Statement"));
            let queues = match properties.get(queues).items() {
                Ok(queues) => queues,
                Err(gap) => {
                    policies.unknown = Some(gap.why);
                    continue;
                }
            };
            for queue in queues {
                match directory.queue(&queue.value) {
                    Ok(Target::Here(id)) => {
                        policies.policies.entry(id.clone()).or_insert_with(|| resource.id.clone());
                        policies.add(id, demands_tls.clone());
                    }
                    Ok(Target::Elsewhere { .. }) => {}
                    Err(why) => policies.unknown = Some(why),
                }
            }
        }
        policies
    }

    fn add(&mut self, queue: String, demands_tls: Result<bool, Why>) {
        let known = self.of.entry(queue).or_insert(Ok(false));
        // One policy that demands it is enough; one that is not known may.
        if *known != Ok(true) && demands_tls != Ok(false) {
            *known = demands_tls;
        }
    }

    /// The policy that names a queue: of two, SQS has the one that was applied last.
    pub(super) fn naming(&self, queue: &str) -> Option<&String> {
        self.policies.get(queue)
    }

    /// Whether a queue refuses requests without TLS.
    pub(super) fn of(&self, queue: &str) -> Result<bool, Why> {
        match (self.of.get(queue), &self.unknown) {
            (Some(Ok(true)), _) => Ok(true),
            (Some(Err(why)), _) | (_, Some(why)) => Err(why.clone()),
            _ => Ok(false),
        }
    }
}

fn demands_tls(statements: &Found<'_>) -> Result<bool, Why> {
    let mut unknown = None;
    for statement in statements.items().map_err(|gap| gap.why)? {
        match denies_plain(&statement) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(why) => unknown = Some(why),
        }
    }
    unknown.map_or(Ok(false), Err)
}

/// Whether a statement denies everyone everything that comes without TLS.
fn denies_plain(statement: &Found<'_>) -> Result<bool, Why> {
    if let Value::Unknown(why) = &statement.value {
        return Err(why.clone());
    }
    if statement.get("Effect").value.exact()? != "Deny" {
        return Ok(false);
    }
    let actions = statement.get("Action").items().map_err(|gap| gap.why)?;
    let all = actions
        .iter()
        .any(|action| action.value.exact().is_ok_and(|action| action == "*" || action.eq_ignore_ascii_case("sqs:*")));
    Ok(all && is_everyone(&statement.get("Principal"))? && is_without_tls(&statement.get("Condition"))?)
}

fn is_everyone(principal: &Found<'_>) -> Result<bool, Why> {
    let principal = if matches!(principal.value, Value::Map(_)) { principal.get("AWS") } else { principal.clone() };
    let principals = principal.items().map_err(|gap| gap.why)?;
    Ok(principals.iter().any(|principal| principal.value.exact().is_ok_and(|principal| principal == "*")))
}

fn is_without_tls(condition: &Found<'_>) -> Result<bool, Why> {
    let operators = condition.entries().map_err(|gap| gap.why)?;
    // With a second condition it denies less than all that comes without TLS.
    let [(operator, keys)] = operators.as_slice() else { return Ok(false) };
    let keys = keys.entries().map_err(|gap| gap.why)?;
    let [(key, wanted)] = keys.as_slice() else { return Ok(false) };
    let is_tls = key.eq_ignore_ascii_case("aws:SecureTransport");
    let wanted = wanted.items().map_err(|gap| gap.why)?;
    let is_false = wanted.iter().any(|wanted| wanted.value.exact().is_ok_and(|wanted| wanted == "false"));
    Ok(matches!(operator.as_str(), "Bool" | "BoolIfExists" | "StringEquals") && is_tls && is_false)
}
