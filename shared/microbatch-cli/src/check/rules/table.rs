//! The idempotency table.

use std::collections::BTreeMap;

use microbatch_aws::dynamodb::Attribute;

use super::super::found::Gap;
use super::super::model::{Function, KeyPart, NAMESPACE, PARTITION, Stack, Table, Target};
use super::{Check, FINE, Judged, Ours, Problem, Rule, when};

const SORT_KEY: &str = "MICROBATCH_SORT_KEY";
const ATTRIBUTES: &str = "MICROBATCH_ATTRIBUTES";

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "MB050",
        page: "Global tables core concepts (Amazon DynamoDB Developer Guide)",
        check: Check::Function(is_global),
    },
    Rule {
        id: "MB051",
        page: "Using time to live (TTL) in DynamoDB (Amazon DynamoDB Developer Guide)",
        check: Check::Function(without_ttl),
    },
    Rule {
        id: "MB052",
        page: "Core components of Amazon DynamoDB (Amazon DynamoDB Developer Guide)",
        check: Check::Function(with_other_key),
    },
    Rule {
        id: "MB053",
        page: "Point-in-time backups for DynamoDB (Amazon DynamoDB Developer Guide)",
        check: Check::Function(without_recovery),
    },
    Rule { id: "MB054", page: "Settings (microbatch, README.md)", check: Check::Stack(share_keys) },
];

/// The table of a function that has idempotency on.
fn table<'s>(ours: &Ours<'s>) -> Result<Option<&'s Table>, Gap> {
    if !has_idempotency(ours)? {
        return Ok(None);
    }
    match ours.microbatch.table.get()? {
        None => Ok(None),
        Some(Target::Here(id)) => Ok(ours.stack.tables.get(id)),
        Some(Target::Elsewhere { why, .. }) => {
            Err(Gap { place: ours.microbatch.table.place.clone(), why: why.clone() })
        }
    }
}

fn has_idempotency(ours: &Ours<'_>) -> Result<bool, Gap> {
    ours.microbatch.option("MICROBATCH_IDEMPOTENCY", |options| options.idempotency)
}

fn is_global(ours: &Ours<'_>) -> Judged {
    let Some(table) = table(ours)? else { return FINE };
    let replicas = table.replicas.copied()?;
    when(replicas > 1, || {
        let found = format!(
            "it is the idempotency table of {}, in {replicas} regions: a conditional write in one knows nothing of another's, so that both \
             claim a key",
            ours.function.place.resource
        );
        let fix = "Replicas:\n  - Region: !Ref AWS::Region\n    PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true }";
        Problem::error(&table.replicas.place, found).fix(&table.place, fix)
    })
}

fn without_ttl(ours: &Ours<'_>) -> Judged {
    let Some(table) = table(ours)? else { return FINE };
    let wanted =
        ours.microbatch.setting(&[ATTRIBUTES], |settings| settings.layout.name(Attribute::Expiration).to_owned())?;
    let ttl = table.ttl.get()?;
    when(ttl.as_deref() != Some(wanted.as_str()), || {
        let found = match ttl {
            None => "it has no TTL".to_owned(),
            Some(other) => format!("its TTL is by {other}, and records expire by {wanted}"),
        };
        let found = format!("{found}: records of {} are never deleted", ours.function.place.resource);
        let problem = Problem::warning(&table.ttl.place, found);
        if table.is_simple {
            let fix = format!(
                "Type: AWS::DynamoDB::Table  # a simple table knows no TTL\n# with TimeToLiveSpecification: {{ AttributeName: {wanted}, Enabled: true }}"
            );
            return Problem { fix_in: table.place.resource.clone(), fix, ..problem };
        }
        problem.fix(&table.place, format!("TimeToLiveSpecification: {{ AttributeName: {wanted}, Enabled: true }}"))
    })
}

fn with_other_key(ours: &Ours<'_>) -> Judged {
    let Some(table) = table(ours)? else { return FINE };
    let id =
        ours.microbatch.setting(&[ATTRIBUTES, SORT_KEY], |settings| settings.layout.name(Attribute::Id).to_owned())?;
    let sort = ours.microbatch.text(SORT_KEY).map(str::to_owned);
    let part = |name: String, role: &str| KeyPart { name, role: role.to_owned(), kind: "S".to_owned() };
    let wanted: Vec<KeyPart> = std::iter::once(part(id, "HASH")).chain(sort.map(|name| part(name, "RANGE"))).collect();
    let key = table.key.get()?;
    when(*key != wanted, || {
        let told = |key: &[KeyPart]| {
            let parts: Vec<String> =
                key.iter().map(|KeyPart { name, role, kind }| format!("{name} {kind} {role}")).collect();
            parts.join(", ")
        };
        let found = format!(
            "its key is {}, and {} needs {}: the function does not start",
            told(key),
            ours.function.place.resource,
            told(&wanted)
        );
        let definitions: Vec<String> =
            wanted.iter().map(|part| format!("  - {{ AttributeName: {}, AttributeType: S }}\n", part.name)).collect();
        let schema: Vec<String> = wanted
            .iter()
            .map(|part| format!("\n  - {{ AttributeName: {}, KeyType: {} }}", part.name, part.role))
            .collect();
        let fix = format!("AttributeDefinitions:\n{}KeySchema:{}", definitions.concat(), schema.concat());
        Problem::error(&table.key.place, found).fix(&table.place, fix)
    })
}

fn without_recovery(ours: &Ours<'_>) -> Judged {
    let Some(table) = table(ours)? else { return FINE };
    when(!table.has_recovery.copied()?, || {
        let found = format!(
            "it is the idempotency table of {}, without point-in-time recovery: when it is lost, redeliveries run again",
            ours.function.place.resource
        );
        let fix = "PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true }";
        let problem = Problem::warning(&table.has_recovery.place, found);
        if table.is_global {
            let problem = problem.fix(&table.replicas.place, fix);
            return Problem { fix_in: format!("{}, in each entry", problem.fix_in), ..problem };
        }
        problem.fix(&table.place, fix)
    })
}

fn share_keys(stack: &Stack) -> Vec<Judged> {
    let mut owners: BTreeMap<Keys, &Function> = BTreeMap::new();
    let mut judge = |function| -> Judged {
        let Some(ours) = super::ours(stack, function)? else { return FINE };
        if !has_idempotency(&ours)? {
            return FINE;
        }
        let keys = keys(&ours)?;
        let namespace = keys.namespace.clone();
        let Some(owner) = owners.get(&keys) else {
            owners.insert(keys, function);
            return FINE;
        };
        let (id, owner) = (&function.place.resource, &owner.place.resource);
        let found = format!(
            "its idempotency table and namespace, {namespace}, are also those of {owner}: the same key in both is one, and only one of \
             them runs"
        );
        let problem = Problem::error(&ours.microbatch.place_of(NAMESPACE), found);
        Ok(vec![problem.fix(&ours.microbatch.place, format!("{NAMESPACE}: {id}"))])
    };
    stack.functions.values().map(&mut judge).collect()
}

/// What a function's keys differ from another's by.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Keys {
    table: String,
    namespace: String,
    partition: String,
}

fn keys(ours: &Ours<'_>) -> Result<Keys, Gap> {
    let microbatch = ours.microbatch;
    let table = match microbatch.table.get()? {
        Some(Target::Here(id)) => id.clone(),
        Some(Target::Elsewhere { name, .. }) => name.clone(),
        None => return Err(Gap { place: microbatch.table.place.clone(), why: "it is not set".to_owned() }),
    };
    let namespace = microbatch.option(NAMESPACE, |options| options.namespace.clone())?;
    let partition = microbatch.text(SORT_KEY).map(|_| microbatch.text(PARTITION).unwrap_or(&ours.function.name));
    Ok(Keys { table, namespace, partition: partition.unwrap_or_default().to_owned() })
}
