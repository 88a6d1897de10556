//! The record layout: Powertools', plus `owner`, `attempt`, `tries` and `data_not_kept`.

use aws_sdk_dynamodb::types::AttributeValue;
use microbatch::{
    Key, StoreError,
    record::{Fingerprint, Owner, Record, Status, StoredResult},
    store::StoreErrorKind,
};

use super::{Item, number, owner, status};

/// Names of the attributes.
pub(super) mod attribute {
    /// The partition key, a string: the idempotency key.
    pub(crate) const ID: &str = "id";
    /// `INPROGRESS` or `COMPLETED`.
    pub(crate) const STATUS: &str = "status";
    /// When the record may be forgotten, in epoch seconds: the table's TTL attribute.
    pub(crate) const EXPIRATION: &str = "expiration";
    /// When the lease ends, in epoch milliseconds.
    pub(crate) const LEASE_END: &str = "in_progress_expiration";
    /// The result, as JSON text.
    pub(crate) const DATA: &str = "data";
    /// The fingerprint.
    pub(crate) const VALIDATION: &str = "validation";
    /// The claim's token.
    pub(crate) const OWNER: &str = "owner";
    /// The fencing token.
    pub(crate) const ATTEMPT: &str = "attempt";
    /// How many claims there were.
    pub(crate) const TRIES: &str = "tries";
    /// True when there was a result and it was not kept. Outside `data`, where a peer would read it as the result.
    pub(crate) const DATA_NOT_KEPT: &str = "data_not_kept";
}

/// The item that holds a record.
pub(super) fn write_record(key: &Key, record: &Record) -> Item {
    let mut item = Item::with_capacity(10);
    let mut set = |name: &str, value: Option<AttributeValue>| {
        if let Some(value) = value {
            item.insert(name.to_owned(), value);
        }
    };
    set(attribute::ID, Some(AttributeValue::S(key.as_str().to_owned())));
    set(attribute::STATUS, Some(status(record.status)));
    set(attribute::EXPIRATION, Some(number(record.retention_end_s)));
    set(attribute::LEASE_END, record.lease_end_ms.map(number));
    set(attribute::OWNER, record.owner.as_ref().map(owner));
    set(attribute::ATTEMPT, record.attempt.map(number));
    set(attribute::TRIES, Some(number(record.tries)));
    set(attribute::VALIDATION, record.fingerprint.as_ref().map(|text| AttributeValue::S(text.as_str().to_owned())));
    match &record.result {
        StoredResult::None => {}
        StoredResult::Kept(json) => set(attribute::DATA, Some(AttributeValue::S(json.as_ref().to_owned()))),
        StoredResult::NotKept => set(attribute::DATA_NOT_KEPT, Some(AttributeValue::Bool(true))),
    }
    item
}

/// The record that an item holds, ours or one that Powertools wrote.
///
/// # Errors
/// `Malformed`, when the item is not such a record. It is never guessed at, and never a duplicate.
pub(super) fn read_record(item: &Item) -> Result<Record, StoreError> {
    let reader = Reader(item);
    let status_text = reader.text(attribute::STATUS)?.ok_or_else(|| reader.malformed(attribute::STATUS, "a status"))?;
    let result = match item.get(attribute::DATA) {
        Some(AttributeValue::S(json)) => StoredResult::Kept(json.as_str().into()),
        // Powertools for TypeScript stores a native value, not JSON text: the work is done, its result is not ours to replay.
        Some(_) => StoredResult::NotKept,
        None if item.contains_key(attribute::DATA_NOT_KEPT) => StoredResult::NotKept,
        None => StoredResult::None,
    };
    Ok(Record {
        status: Status::parse(status_text)
            .ok_or_else(|| reader.malformed(attribute::STATUS, "INPROGRESS or COMPLETED"))?,
        owner: reader.text(attribute::OWNER)?.map(Owner::new),
        attempt: reader.number(attribute::ATTEMPT)?,
        tries: reader.number(attribute::TRIES)?.unwrap_or(0),
        lease_end_ms: reader.number(attribute::LEASE_END)?,
        retention_end_s: reader
            .number(attribute::EXPIRATION)?
            .ok_or_else(|| reader.malformed(attribute::EXPIRATION, "epoch seconds"))?,
        fingerprint: reader.text(attribute::VALIDATION)?.filter(|text| !text.is_empty()).map(Fingerprint::new),
        result,
    })
}

struct Reader<'a>(&'a Item);

impl<'a> Reader<'a> {
    fn text(&self, name: &'static str) -> Result<Option<&'a str>, StoreError> {
        match self.0.get(name) {
            None | Some(AttributeValue::Null(_)) => Ok(None),
            Some(AttributeValue::S(text)) => Ok(Some(text)),
            Some(_) => Err(self.malformed(name, "a string")),
        }
    }

    fn number(&self, name: &'static str) -> Result<Option<u64>, StoreError> {
        match self.0.get(name) {
            None | Some(AttributeValue::Null(_)) => Ok(None),
            Some(AttributeValue::N(text)) => {
                text.parse().map(Some).map_err(|_| self.malformed(name, "a whole number that is not negative"))
            }
            Some(_) => Err(self.malformed(name, "a number")),
        }
    }

    /// Names the record by its key, which is a digest, and the attribute, never its value.
    fn malformed(&self, name: &str, expected: &str) -> StoreError {
        let key = match self.0.get(attribute::ID) {
            Some(AttributeValue::S(key)) => key.as_str(),
            _ => "(no key)",
        };
        StoreError::new(StoreErrorKind::Malformed, format!("record {key}: expected {name} to be {expected}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(result: StoredResult) -> Record {
        Record {
            status: Status::Completed,
            owner: Some(Owner::new("o-1")),
            attempt: Some(7),
            tries: 2,
            lease_end_ms: Some(9),
            retention_end_s: 11,
            fingerprint: Some(Fingerprint::new("ab:cd")),
            result,
        }
    }

    #[test]
    fn a_record_survives_the_table() {
        for result in [StoredResult::None, StoredResult::NotKept, StoredResult::Kept("{\"a\": 1}".into())] {
            let record = record(result);
            assert_eq!(read_record(&write_record(&Key::from_stored("n#k"), &record)), Ok(record));
        }
    }

    #[test]
    fn what_is_no_record_names_its_key_and_is_no_duplicate() {
        let good = write_record(&Key::from_stored("n#k"), &record(StoredResult::None));
        let cases: [(&str, Option<AttributeValue>); 5] = [
            (attribute::STATUS, None),
            (attribute::STATUS, Some(AttributeValue::S("DONE".into()))),
            (attribute::EXPIRATION, None),
            (attribute::LEASE_END, Some(AttributeValue::S("9".into()))),
            (attribute::ATTEMPT, Some(AttributeValue::N("-1".into()))),
        ];
        for (name, value) in cases {
            let mut item = good.clone();
            item.remove(name);
            item.extend(value.map(|value| (name.to_owned(), value)));
            let error = read_record(&item).expect_err(name);
            assert_eq!(error.kind(), StoreErrorKind::Malformed, "{name}");
            assert!(error.to_string().contains("n#k") && error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_native_value_is_not_replayed() {
        let mut item = write_record(&Key::from_stored("n#k"), &record(StoredResult::None));
        item.insert(attribute::DATA.into(), AttributeValue::M(Item::new()));
        assert_eq!(read_record(&item).map(|record| record.result), Ok(StoredResult::NotKept));
    }
}
