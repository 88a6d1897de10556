//! Conditions and updates in DynamoDB's expression language. Every name is aliased: several are reserved words.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use microbatch::record::{LEASE_END_RELEASED_MS, Owner, Record, Status, StoredResult};

use super::{
    layout::{Attribute, Layout},
    number, owner, status,
};

/// A condition, and for an update the change.
pub(super) struct Expression {
    /// What must hold.
    pub(super) text: String,
    /// What an update does; empty for a condition alone.
    pub(super) change: String,
    pub(super) names: HashMap<String, String>,
    /// None rather than empty, which DynamoDB refuses.
    pub(super) values: Option<HashMap<String, AttributeValue>>,
}

impl Expression {
    fn empty() -> Self {
        Self { text: String::new(), change: String::new(), names: HashMap::new(), values: None }
    }

    fn name(&mut self, layout: &Layout, attribute: Attribute) -> String {
        let alias = format!("#{attribute:?}");
        self.names.insert(alias.clone(), layout.name(attribute).to_owned());
        alias
    }

    fn value(&mut self, alias: &str, value: AttributeValue) -> String {
        let alias = format!(":{alias}");
        self.values.get_or_insert_with(HashMap::new).insert(alias.clone(), value);
        alias
    }

    fn and(&mut self, condition: &str) {
        if !self.text.is_empty() {
            self.text.push_str(" AND ");
        }
        self.text.push_str(condition);
    }

    /// Requires an attribute to have this value, or to be absent.
    fn require(&mut self, layout: &Layout, attribute: Attribute, value: Option<AttributeValue>) {
        let name = self.name(layout, attribute);
        let condition = match value {
            Some(value) => format!("{name} = {}", self.value(&format!("old_{attribute:?}"), value)),
            None => format!("attribute_not_exists({name})"),
        };
        self.and(&condition);
    }

    /// The record is still `old`, in everything a decision depends on and every change touches: each claim has its own
    /// owner, a release changes the lease end, a completion the status. Powertools' records have no owner; their writes
    /// change status, lease end or expiration.
    pub(super) fn unchanged(layout: &Layout, old: Option<&Record>) -> Self {
        let mut expression = Self::empty();
        let Some(old) = old else {
            let id = expression.name(layout, Attribute::Id);
            expression.and(&format!("attribute_not_exists({id})"));
            return expression;
        };
        expression.require(layout, Attribute::Status, Some(status(old.status)));
        expression.require(layout, Attribute::Owner, old.owner.as_ref().map(owner));
        expression.require(layout, Attribute::Attempt, old.attempt.map(number));
        expression.require(layout, Attribute::LeaseEnd, old.lease_end_ms.map(number));
        expression.require(layout, Attribute::Expiration, Some(number(old.retention_end_s)));
        expression
    }

    /// The key is this owner's and in progress (rule 3).
    fn held_by(layout: &Layout, holder: &Owner) -> Self {
        let mut expression = Self::empty();
        let (name, value) = (expression.name(layout, Attribute::Owner), expression.value("owner", owner(holder)));
        expression.and(&format!("{name} = {value}"));
        let (name, value) =
            (expression.name(layout, Attribute::Status), expression.value("held", status(Status::InProgress)));
        expression.and(&format!("{name} = {value}"));
        expression
    }

    /// Marks the key as done.
    pub(super) fn complete(layout: &Layout, holder: &Owner, result: &StoredResult, retention_end_s: u64) -> Self {
        let mut expression = Self::held_by(layout, holder);
        let mut change = String::from("SET ");
        let mut set = |attribute: Attribute, value: AttributeValue| {
            let alias = expression.name(layout, attribute);
            let value = expression.value(&format!("new_{attribute:?}"), value);
            if change.len() > "SET ".len() {
                change.push_str(", ");
            }
            change.extend([alias.as_str(), " = ", value.as_str()]);
        };
        set(Attribute::Status, status(Status::Completed));
        set(Attribute::Expiration, number(retention_end_s));
        match result {
            StoredResult::None => {}
            StoredResult::Kept(json) => set(Attribute::Data, AttributeValue::S(json.as_ref().to_owned())),
            StoredResult::NotKept => set(Attribute::DataNotKept, AttributeValue::Bool(true)),
        }
        expression.change = change;
        expression
    }

    /// Gives the key back at once.
    pub(super) fn release(layout: &Layout, holder: &Owner) -> Self {
        let mut expression = Self::held_by(layout, holder);
        let lease_end = expression.name(layout, Attribute::LeaseEnd);
        let released = expression.value("released", number(LEASE_END_RELEASED_MS));
        let (owner, validation) =
            (expression.name(layout, Attribute::Owner), expression.name(layout, Attribute::Validation));
        expression.change = format!("SET {lease_end} = {released} REMOVE {owner}, {validation}");
        expression
    }

    /// Gives the key back at a later time, never later than before.
    pub(super) fn defer(layout: &Layout, holder: &Owner, lease_end_ms: u64) -> Self {
        let mut expression = Self::held_by(layout, holder);
        let (name, value) =
            (expression.name(layout, Attribute::LeaseEnd), expression.value("until", number(lease_end_ms)));
        expression.and(&format!("{name} > {value}"));
        expression.change = format!("SET {name} = {value}");
        expression
    }
}
