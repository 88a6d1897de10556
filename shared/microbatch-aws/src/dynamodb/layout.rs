//! Where in a table a record stands: names of attributes, and the key.

use std::fmt;

use aws_sdk_dynamodb::types::AttributeValue;
use microbatch::Key;

use super::Item;

/// The attributes of a record. The default names are Powertools', plus `owner`, `attempt`, `tries`, `data_not_kept` and
/// `resolved`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// The partition key, a string: the idempotency key, or with a [composite key](Layout::composite_key) a constant.
    Id,
    /// `INPROGRESS` or `COMPLETED`.
    Status,
    /// When the record may be forgotten, in epoch seconds: the table's TTL attribute.
    Expiration,
    /// When the lease ends, in epoch milliseconds.
    LeaseEnd,
    /// The result, as JSON text.
    Data,
    /// The fingerprint.
    Validation,
    /// The claim's token.
    Owner,
    /// The fencing token.
    Attempt,
    /// How many claims there were.
    Tries,
    /// True when there was a result and it was not kept. Outside `data`, where a peer would read it as the result.
    DataNotKept,
    /// Who resolved the key by hand, and when, as JSON text. The next claim drops it.
    Resolved,
}

/// Every attribute with its default name, in the order in which they are declared.
const DEFAULTS: [(Attribute, &str); 11] = [
    (Attribute::Id, "id"),
    (Attribute::Status, "status"),
    (Attribute::Expiration, "expiration"),
    (Attribute::LeaseEnd, "in_progress_expiration"),
    (Attribute::Data, "data"),
    (Attribute::Validation, "validation"),
    (Attribute::Owner, "owner"),
    (Attribute::Attempt, "attempt"),
    (Attribute::Tries, "tries"),
    (Attribute::DataNotKept, "data_not_kept"),
    (Attribute::Resolved, "resolved"),
];

/// Names of the attributes, and whether the key has two parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    names: [String; DEFAULTS.len()],
    composite: Option<Composite>,
}

/// A key of two parts: a constant partition, and the idempotency key as the sort key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Composite {
    sort_attribute: String,
    partition: String,
}

/// A layout that a table cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutError(String);

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LayoutError {}

impl Default for Layout {
    fn default() -> Self {
        Self { names: DEFAULTS.map(|(_, name)| name.to_owned()), composite: None }
    }
}

impl Layout {
    /// The default layout with some attributes renamed: pairs of the default name and the table's.
    ///
    /// # Errors
    /// For an unknown attribute, a name that DynamoDB or PartiQL cannot take unquoted in a string, or one used twice.
    pub fn renamed<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, LayoutError> {
        let mut layout = Self::default();
        for (default, name) in pairs {
            let Some(position) = DEFAULTS.iter().position(|(_, known)| *known == default) else {
                let known = DEFAULTS.map(|(_, name)| name).join(", ");
                return Err(LayoutError(format!("expected one of the attributes {known}; found {default:?}")));
            };
            check_name(name)?;
            name.clone_into(&mut layout.names[position]);
        }
        layout.refuse_repeated()?;
        Ok(layout)
    }

    /// This layout in a table with a sort key: the partition key holds `partition` in every record, the sort key the
    /// idempotency key. One partition takes 1,000 writes a second: prefer a table with a plain key.
    ///
    /// # Errors
    /// As [`Layout::renamed`].
    pub fn composite_key(mut self, sort_attribute: &str, partition: &str) -> Result<Self, LayoutError> {
        check_name(sort_attribute)?;
        if partition.is_empty() {
            return Err(LayoutError("expected a value for the partition key; found none".to_owned()));
        }
        self.composite = Some(Composite { sort_attribute: sort_attribute.to_owned(), partition: partition.to_owned() });
        self.refuse_repeated()?;
        Ok(self)
    }

    fn refuse_repeated(&self) -> Result<(), LayoutError> {
        let mut names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        names.extend(self.composite.as_ref().map(|composite| composite.sort_attribute.as_str()));
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => {
                Err(LayoutError(format!("expected each attribute to have its own name; found {:?} twice", pair[0])))
            }
            None => Ok(()),
        }
    }

    /// The table's name for an attribute.
    pub fn name(&self, attribute: Attribute) -> &str {
        &self.names[attribute as usize]
    }

    /// The key attributes of a record, as names and values.
    pub(super) fn key<'a>(&'a self, key: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let id = self.name(Attribute::Id);
        let (partition, sort) = match &self.composite {
            None => ((id, key), None),
            Some(composite) => ((id, composite.partition.as_str()), Some((composite.sort_attribute.as_str(), key))),
        };
        [Some(partition), sort].into_iter().flatten()
    }

    /// The key attributes of a record, as an item.
    pub(super) fn key_item(&self, key: &str) -> Item {
        self.key(key).map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned()))).collect()
    }

    /// The idempotency key that an item stands under, if it has one.
    pub(super) fn key_of<'i>(&self, item: &'i Item) -> Option<&'i str> {
        let name = self.composite.as_ref().map_or(self.name(Attribute::Id), |composite| &composite.sort_attribute);
        item.get(name)?.as_s().ok().map(String::as_str)
    }

    /// Whether an item of this layout's table is the record of `key`.
    pub(super) fn is_record_of(&self, item: &Item, key: &Key) -> bool {
        self.key(key.as_str())
            .all(|(name, value)| item.get(name).and_then(|found| found.as_s().ok()).is_some_and(|found| found == value))
    }

    /// The names and types of the key, for a message that says how to make the table.
    pub(super) fn key_schema(&self) -> Vec<(&str, &'static str)> {
        let mut schema = vec![(self.name(Attribute::Id), "HASH")];
        schema.extend(self.composite.as_ref().map(|composite| (composite.sort_attribute.as_str(), "RANGE")));
        schema
    }
}

fn check_name(name: &str) -> Result<(), LayoutError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > 255 || !name.bytes().all(plain) {
        return Err(LayoutError(format!(
            "expected an attribute name of 1 to 255 letters, digits, '_', '-' or '.'; found {name:?}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_has_its_place() {
        for (position, (attribute, name)) in DEFAULTS.into_iter().enumerate() {
            assert_eq!((attribute as usize, Layout::default().name(attribute)), (position, name));
        }
    }

    #[test]
    fn attributes_can_be_renamed() {
        let layout = Layout::renamed([("expiration", "ttl"), ("id", "pk")]).expect("plain names");
        assert_eq!((layout.name(Attribute::Expiration), layout.name(Attribute::Id)), ("ttl", "pk"));
        let composite = layout.composite_key("sk", "idempotency").expect("plain names");
        assert_eq!(composite.key("k").collect::<Vec<_>>(), [("pk", "idempotency"), ("sk", "k")]);
        assert!(composite.is_record_of(&composite.key_item("k"), &Key::from_stored("k")));
        assert_eq!(composite.key_of(&composite.key_item("k")), Some("k"));
    }

    #[test]
    fn what_a_table_cannot_have_is_refused() {
        for (default, name) in [("expiry", "ttl"), ("data", ""), ("data", "a\"b"), ("data", "status")] {
            assert!(Layout::renamed([(default, name)]).is_err(), "{default}={name}");
        }
        assert!(Layout::default().composite_key("data", "p").is_err());
        assert!(Layout::default().composite_key("sk", "").is_err());
    }
}
