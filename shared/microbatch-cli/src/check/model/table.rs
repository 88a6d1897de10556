//! Tables.

use super::super::found::{Found, Place, Setting};
use super::super::template::{Resource, Template};
use super::super::value::Why;

/// A table.
#[derive(Debug)]
pub(in super::super) struct Table {
    pub(in super::super) place: Place,
    pub(in super::super) is_global: bool,
    /// The regions it is in.
    pub(in super::super) replicas: Setting<usize>,
    /// The attribute by which items expire.
    pub(in super::super) ttl: Setting<Option<String>>,
    pub(in super::super) key: Setting<Vec<KeyPart>>,
    pub(in super::super) has_recovery: Setting<bool>,
    /// Whether its kind of resource knows no TTL at all.
    pub(in super::super) is_simple: bool,
}

/// A part of a table's key.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct KeyPart {
    pub(in super::super) name: String,
    /// `HASH` or `RANGE`.
    pub(in super::super) role: String,
    /// `S`, `N` or `B`.
    pub(in super::super) kind: String,
}

pub(super) fn read(template: &Template, resource: &Resource) -> Table {
    let properties = Found::properties(template, resource);
    let is_simple = resource.kind == "AWS::Serverless::SimpleTable";
    let key = if is_simple { simple_key(&properties.get("PrimaryKey")) } else { key(&properties) };
    let is_global = resource.kind == "AWS::DynamoDB::GlobalTable";
    let replicas = properties.get("Replicas");
    Table {
        replicas: match replicas.items() {
            Ok(items) if is_global => replicas.setting(Ok(items.len())),
            Err(gap) if is_global => replicas.setting(Err(gap.why)),
            _ => replicas.setting(Ok(1)),
        },
        ttl: ttl(&properties.get("TimeToLiveSpecification")),
        key,
        has_recovery: if is_global { recovery_of_all(&replicas) } else { recovery(&properties) },
        is_simple,
        is_global,
        place: properties.place,
    }
}

fn ttl(specification: &Found<'_>) -> Setting<Option<String>> {
    let attribute = || -> Result<Option<String>, Why> {
        if specification.is_absent() || !specification.get("Enabled").flag_or(false).value? {
            return Ok(None);
        }
        specification.get("AttributeName").value.exact().map(Some)
    };
    specification.setting(attribute())
}

fn key(properties: &Found<'_>) -> Setting<Vec<KeyPart>> {
    let schema = properties.get("KeySchema");
    let parts = || -> Result<Vec<KeyPart>, Why> {
        let text = |found: &Found<'_>, key: &str| found.get(key).value.exact();
        let mut kinds = Vec::new();
        for attribute in properties.get("AttributeDefinitions").items().map_err(|gap| gap.why)? {
            kinds.push((text(&attribute, "AttributeName")?, text(&attribute, "AttributeType")?));
        }
        let mut parts = Vec::new();
        for part in schema.items().map_err(|gap| gap.why)? {
            let name = text(&part, "AttributeName")?;
            let kind = kinds.iter().find(|(known, _)| *known == name).map(|(_, kind)| kind.clone());
            parts.push(KeyPart { role: text(&part, "KeyType")?, kind: kind.unwrap_or_default(), name });
        }
        Ok(parts)
    };
    schema.setting(parts())
}

/// SAM's simple tables have `id`, a string, unless they say otherwise.
fn simple_key(primary: &Found<'_>) -> Setting<Vec<KeyPart>> {
    let part = || -> Result<Vec<KeyPart>, Why> {
        let text = |key: &str, default: &str| {
            let found = primary.get(key);
            if found.is_absent() { Ok(default.to_owned()) } else { found.value.exact() }
        };
        let kind = text("Type", "String")?.chars().take(1).collect();
        Ok(vec![KeyPart { name: text("Name", "id")?, role: "HASH".to_owned(), kind }])
    };
    primary.setting(part())
}

fn recovery(properties: &Found<'_>) -> Setting<bool> {
    properties.get("PointInTimeRecoverySpecification").get("PointInTimeRecoveryEnabled").flag_or(false)
}

fn recovery_of_all(replicas: &Found<'_>) -> Setting<bool> {
    let all = || -> Result<bool, Why> {
        for replica in replicas.items().map_err(|gap| gap.why)? {
            if !recovery(&replica).value? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    replicas.setting(all())
}
