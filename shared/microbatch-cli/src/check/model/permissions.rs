//! What a function's role may do, as far as the template says it.

use std::collections::BTreeMap;

use super::super::found::{Found, Gap, Place};
use super::super::template::Template;
use super::super::value::{Reference, Value, Why};
use super::{Directory, Target};

/// Managed policies whose permissions matter here, by the end of their ARN. They are for every resource.
const MANAGED: [(&str, &[&str]); 9] = [
    ("AdministratorAccess", &["*"]),
    ("PowerUserAccess", &["*"]),
    ("AmazonSQSFullAccess", &["sqs:*"]),
    ("AmazonDynamoDBFullAccess", &["dynamodb:*"]),
    ("AmazonDynamoDBFullAccess_v2", &["dynamodb:*"]),
    ("AWSLambdaSQSQueueExecutionRole", &["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]),
    ("AWSLambdaBasicExecutionRole", &[]),
    ("AWSLambdaVPCAccessExecutionRole", &[]),
    ("AWSXRayDaemonWriteAccess", &[]),
];

/// SAM's policy templates that concern queues and tables, with the parameter that names the resource. Others grant none
/// of what is asked here.
const TEMPLATES: [(&str, &str, &[&str]); 5] = [
    ("SQSSendMessagePolicy", "QueueName", &["sqs:SendMessage*"]),
    (
        "SQSPollerPolicy",
        "QueueName",
        &["sqs:ChangeMessageVisibility*", "sqs:DeleteMessage*", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"],
    ),
    (
        "DynamoDBCrudPolicy",
        "TableName",
        &[
            "dynamodb:GetItem",
            "dynamodb:DeleteItem",
            "dynamodb:PutItem",
            "dynamodb:Scan",
            "dynamodb:Query",
            "dynamodb:UpdateItem",
            "dynamodb:BatchWriteItem",
            "dynamodb:BatchGetItem",
            "dynamodb:DescribeTable",
            "dynamodb:ConditionCheckItem",
        ],
    ),
    ("DynamoDBWritePolicy", "TableName", &["dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:BatchWriteItem"]),
    (
        "DynamoDBReadPolicy",
        "TableName",
        &["dynamodb:GetItem", "dynamodb:Scan", "dynamodb:Query", "dynamodb:BatchGetItem", "dynamodb:DescribeTable"],
    ),
];

/// What a role may do.
#[derive(Debug)]
pub(in super::super) struct Permissions {
    /// Where they are set.
    pub(in super::super) place: Place,
    grants: Vec<Grant>,
    /// What may grant more, and is not known.
    unknown: Option<Gap>,
}

#[derive(Debug)]
struct Grant {
    actions: Vec<String>,
    scope: Scope,
}

#[derive(Debug, Clone, PartialEq)]
enum Scope {
    All,
    /// A queue or table, by its logical id.
    One(String),
    /// It may be any: a pattern, or a value that is not known.
    Unclear(Why),
}

impl Permissions {
    /// Whether an action on a resource of this template is allowed; an error when that is not known.
    pub(in super::super) fn allow(&self, action: &str, resource: &str) -> Result<bool, Gap> {
        let mut unclear = None;
        for grant in self.grants.iter().filter(|grant| grant.actions.iter().any(|pattern| matches(pattern, action))) {
            match &grant.scope {
                Scope::All => return Ok(true),
                Scope::One(id) if id == resource => return Ok(true),
                Scope::One(_) => {}
                Scope::Unclear(why) => unclear = Some(Gap { place: self.place.clone(), why: why.clone() }),
            }
        }
        match unclear.or_else(|| self.unknown.clone()) {
            Some(gap) => Err(gap),
            None => Ok(false),
        }
    }

    fn unclear(&mut self, gap: Gap) {
        self.unknown.get_or_insert(gap);
    }
}

/// Whether an action is of a pattern with `*` and `?`. Letter case does not count.
fn matches(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.as_bytes(), action.as_bytes());
    let (mut p, mut a) = (0, 0);
    // Where the last star was, and how far the action had been read: one more byte goes to that star.
    let mut star: Option<(usize, usize)> = None;
    while a < action.len() {
        if p < pattern.len() && (pattern[p] == b'?' || pattern[p].eq_ignore_ascii_case(&action[a])) {
            (p, a) = (p + 1, a + 1);
        } else if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, a));
            p += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, a) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// The policies that are resources of their own, by the role that they are attached to.
pub(super) struct RolePolicies<'t> {
    template: &'t Template,
    attached: BTreeMap<String, Vec<Found<'t>>>,
    /// A policy whose roles are not known.
    unknown: Option<Gap>,
}

impl<'t> RolePolicies<'t> {
    pub(super) fn read(template: &'t Template) -> Self {
        let mut policies = Self { template, attached: BTreeMap::new(), unknown: None };
        for resource in template.resources.values() {
            let roles = match resource.kind.as_str() {
                "AWS::IAM::Policy" | "AWS::IAM::ManagedPolicy" => "Roles",
                "AWS::IAM::RolePolicy" => "RoleName",
                _ => continue,
            };
            let properties = Found::properties(template, resource);
            match properties.get(roles).items() {
                Ok(roles) => {
                    for role in roles {
                        if let Value::Reference(Reference { resource, .. }) = role.value {
                            policies.attached.entry(resource).or_default().push(properties.get("PolicyDocument"));
                        }
                    }
                }
                Err(gap) => policies.unknown = Some(gap),
            }
        }
        policies
    }

    /// What a function may do, by its role, or by the policies that SAM makes a role of.
    pub(super) fn of_function(&self, properties: &Found<'_>, is_sam: bool, directory: &Directory<'_>) -> Permissions {
        let role = properties.get("Role");
        let mut permissions = Permissions { place: role.place.clone(), grants: Vec::new(), unknown: None };
        if is_sam && role.is_absent() {
            let policies = properties.get("Policies");
            permissions.place = policies.place.clone();
            self.add_sam_policies(&policies, directory, &mut permissions);
            return permissions;
        }
        permissions.unknown.clone_from(&self.unknown);
        match &role.value {
            Value::Reference(reference) if self.is_role(&reference.resource) => {
                self.add_role(&reference.resource, directory, &mut permissions);
            }
            other => {
                let why = match other.pattern() {
                    Err(why) | Ok((_, Some(why))) => why,
                    Ok((_, None)) => "the role is not in this template".to_owned(),
                };
                permissions.unclear(role.gap(why));
            }
        }
        permissions
    }

    fn is_role(&self, id: &str) -> bool {
        self.template.resources.get(id).is_some_and(|resource| resource.kind == "AWS::IAM::Role")
    }

    fn add_role(&self, id: &str, directory: &Directory<'_>, permissions: &mut Permissions) {
        let Some(role) = self.template.resources.get(id) else { return };
        let properties = Found::properties(self.template, role);
        permissions.place = properties.place.below("Policies", role.line);
        match properties.get("Policies").items() {
            Ok(policies) => {
                permissions.place = properties.get("Policies").place;
                for policy in policies {
                    add_document(&policy.get("PolicyDocument"), directory, permissions);
                }
            }
            Err(gap) => permissions.unclear(gap),
        }
        match properties.get("ManagedPolicyArns").items() {
            Ok(policies) => policies.iter().for_each(|policy| self.add_managed(policy, directory, permissions)),
            Err(gap) => permissions.unclear(gap),
        }
        for document in self.attached.get(id).into_iter().flatten() {
            add_document(document, directory, permissions);
        }
    }

    /// A managed policy: one of this template, or one of AWS's.
    fn add_managed(&self, policy: &Found<'_>, directory: &Directory<'_>, permissions: &mut Permissions) {
        if let Value::Reference(reference) = &policy.value
            && let Some(resource) = self.template.resources.get(&reference.resource)
        {
            return add_document(
                &Found::properties(self.template, resource).get("PolicyDocument"),
                directory,
                permissions,
            );
        }
        let name = policy.value.pattern().map(|(arn, _)| arn.rsplit('/').next().unwrap_or_default().to_owned());
        match name.map(|name| MANAGED.iter().find(|(known, _)| *known == name)) {
            Ok(Some((_, actions))) => permissions.grants.push(grant(actions, Scope::All)),
            Ok(None) => permissions.unclear(policy.gap("what this managed policy allows is not known here")),
            Err(why) => permissions.unclear(policy.gap(why)),
        }
    }

    /// SAM's `Policies`: names of managed policies, policy templates and documents.
    fn add_sam_policies(&self, policies: &Found<'_>, directory: &Directory<'_>, permissions: &mut Permissions) {
        let items = match policies.items() {
            Ok(items) => items,
            Err(gap) => return permissions.unclear(gap),
        };
        for policy in items {
            let Value::Map(node) = &policy.value else {
                self.add_managed(&policy, directory, permissions);
                continue;
            };
            if node.get("Statement").is_some() {
                add_document(&policy, directory, permissions);
                continue;
            }
            let name = node.only_entry().map_or("", |entry| entry.key.as_str());
            if let Some((_, parameter, actions)) = TEMPLATES.iter().find(|(known, ..)| *known == name) {
                let resource = policy.get(name).get(parameter);
                let scopes = scopes(&resource.value, directory).into_iter();
                permissions.grants.extend(scopes.map(|scope| grant(actions, scope)));
            }
        }
    }
}

fn grant(actions: &[&str], scope: Scope) -> Grant {
    Grant { actions: actions.iter().map(|&action| action.to_owned()).collect(), scope }
}

fn add_document(document: &Found<'_>, directory: &Directory<'_>, permissions: &mut Permissions) {
    let statements = match document.get("Statement").items() {
        Ok(statements) => statements,
        Err(gap) => return permissions.unclear(gap),
    };
    for statement in statements {
        if let Err(gap) = add_statement(&statement, directory, permissions) {
            permissions.unclear(gap);
        }
    }
}

fn add_statement(statement: &Found<'_>, directory: &Directory<'_>, permissions: &mut Permissions) -> Result<(), Gap> {
    if let Value::Unknown(why) = &statement.value {
        return Err(statement.gap(why));
    }
    let effect = statement.get("Effect");
    // A denial is not looked into: what is denied on purpose is no mistake to find.
    if effect.value.exact().map_err(|why| effect.gap(why))? != "Allow" {
        return Ok(());
    }
    for key in ["NotAction", "NotResource"] {
        if !statement.get(key).is_absent() {
            return Err(statement.gap(format!("a statement with {key} is not evaluated here")));
        }
    }
    let mut actions = Vec::new();
    for action in statement.get("Action").items()? {
        actions.push(action.value.exact().map_err(|why| action.gap(why))?);
    }
    for resource in statement.get("Resource").items()? {
        let scopes = scopes(&resource.value, directory).into_iter();
        permissions.grants.extend(scopes.map(|scope| Grant { actions: actions.clone(), scope }));
    }
    Ok(())
}

/// What a statement's resource covers of this template's queues and tables; nothing when it is certainly something else.
fn scopes(resource: &Value, directory: &Directory<'_>) -> Vec<Scope> {
    if matches!(resource, Value::Text(text) if text == "*") {
        return vec![Scope::All];
    }
    // A queue and a table may have the same name.
    let targets =
        [directory.queue(resource), directory.table(resource)].into_iter().filter_map(|target| match target {
            Ok(Target::Here(id)) => Some(Scope::One(id)),
            _ => None,
        });
    let targets: Vec<Scope> = targets.collect();
    if !targets.is_empty() || matches!(resource, Value::Reference(_)) {
        return targets;
    }
    match resource.pattern() {
        Err(why) => vec![Scope::Unclear(why)],
        Ok((text, why)) if super::parts(&text).last().is_some_and(|last| last.contains(['*', '$'])) => {
            vec![Scope::Unclear(why.unwrap_or_else(|| format!("whether {text} covers it is not evaluated here")))]
        }
        Ok(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn actions_match_patterns_as_in_iam() {
        for (pattern, action, expected) in [
            ("*", "sqs:SendMessage", true),
            ("SQS:*", "sqs:SendMessage", true),
            ("sqs:Send*", "sqs:SendMessage", true),
            ("sqs:*Message*", "sqs:SendMessage", true),
            ("sqs:SendMessag?", "sqs:SendMessage", true),
            ("sqs:Send", "sqs:SendMessage", false),
            ("sqs:*Queue", "sqs:SendMessage", false),
            ("", "sqs:SendMessage", false),
        ] {
            assert_eq!(matches(pattern, action), expected, "{pattern}");
        }
    }
}
