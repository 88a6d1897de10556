//! Records as items, by a [`Layout`].

use aws_sdk_dynamodb::types::AttributeValue;
use microbatch::{
    Key, StoreError,
    record::{Fingerprint, Owner, Record, Status, StoredResult},
    store::StoreErrorKind,
};

use super::{
    Item,
    layout::{Attribute, Layout},
    number, owner, status,
};

/// The item that holds a record.
pub(super) fn write_record(layout: &Layout, key: &Key, record: &Record) -> Item {
    let mut item = layout.key_item(key.as_str());
    let mut set = |attribute: Attribute, value: Option<AttributeValue>| {
        if let Some(value) = value {
            item.insert(layout.name(attribute).to_owned(), value);
        }
    };
    set(Attribute::Status, Some(status(record.status)));
    set(Attribute::Expiration, Some(number(record.retention_end_s)));
    set(Attribute::LeaseEnd, record.lease_end_ms.map(number));
    set(Attribute::Owner, record.owner.as_ref().map(owner));
    set(Attribute::Attempt, record.attempt.map(number));
    set(Attribute::Tries, Some(number(record.tries)));
    set(Attribute::Validation, record.fingerprint.as_ref().map(|text| AttributeValue::S(text.as_str().to_owned())));
    match &record.result {
        StoredResult::None => {}
        StoredResult::Kept(json) => set(Attribute::Data, Some(AttributeValue::S(json.as_ref().to_owned()))),
        StoredResult::NotKept => set(Attribute::DataNotKept, Some(AttributeValue::Bool(true))),
    }
    item
}

/// The record that an item holds, ours or one that Powertools wrote.
///
/// # Errors
/// `Malformed`, when the item is not such a record. It is never guessed at, and never a duplicate.
pub(super) fn read_record(layout: &Layout, item: &Item) -> Result<Record, StoreError> {
    let reader = Reader { layout, item };
    let status_text = reader.text(Attribute::Status)?.ok_or_else(|| reader.malformed(Attribute::Status, "a status"))?;
    let result = match reader.get(Attribute::Data) {
        Some(AttributeValue::S(json)) => StoredResult::Kept(json.as_str().into()),
        // Powertools for TypeScript stores a native value, not JSON text: the work is done, its result is not ours to replay.
        Some(_) => StoredResult::NotKept,
        None if reader.get(Attribute::DataNotKept).is_some() => StoredResult::NotKept,
        None => StoredResult::None,
    };
    Ok(Record {
        status: Status::parse(status_text)
            .ok_or_else(|| reader.malformed(Attribute::Status, "INPROGRESS or COMPLETED"))?,
        owner: reader.text(Attribute::Owner)?.map(Owner::new),
        attempt: reader.number(Attribute::Attempt)?,
        tries: reader.number(Attribute::Tries)?.unwrap_or(0),
        lease_end_ms: reader.number(Attribute::LeaseEnd)?,
        retention_end_s: reader
            .number(Attribute::Expiration)?
            .ok_or_else(|| reader.malformed(Attribute::Expiration, "epoch seconds"))?,
        fingerprint: reader.text(Attribute::Validation)?.filter(|text| !text.is_empty()).map(Fingerprint::new),
        result,
    })
}

struct Reader<'a> {
    layout: &'a Layout,
    item: &'a Item,
}

impl<'a> Reader<'a> {
    fn get(&self, attribute: Attribute) -> Option<&'a AttributeValue> {
        self.item.get(self.layout.name(attribute))
    }

    fn text(&self, attribute: Attribute) -> Result<Option<&'a str>, StoreError> {
        match self.get(attribute) {
            None | Some(AttributeValue::Null(_)) => Ok(None),
            Some(AttributeValue::S(text)) => Ok(Some(text)),
            Some(_) => Err(self.malformed(attribute, "a string")),
        }
    }

    fn number(&self, attribute: Attribute) -> Result<Option<u64>, StoreError> {
        match self.get(attribute) {
            None | Some(AttributeValue::Null(_)) => Ok(None),
            Some(AttributeValue::N(text)) => {
                text.parse().map(Some).map_err(|_| self.malformed(attribute, "a whole number that is not negative"))
            }
            Some(_) => Err(self.malformed(attribute, "a number")),
        }
    }

    /// Names the record by its key, which is a digest, and the attribute, never its value.
    fn malformed(&self, attribute: Attribute, expected: &str) -> StoreError {
        let (key, name) = (self.layout.key_of(self.item).unwrap_or("(no key)"), self.layout.name(attribute));
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
            assert_eq!(
                read_record(&Layout::default(), &write_record(&Layout::default(), &Key::from_stored("n#k"), &record)),
                Ok(record)
            );
        }
    }

    #[test]
    fn what_is_no_record_names_its_key_and_is_no_duplicate() {
        let good = write_record(&Layout::default(), &Key::from_stored("n#k"), &record(StoredResult::None));
        let layout = Layout::default();
        let cases: [(Attribute, Option<AttributeValue>); 5] = [
            (Attribute::Status, None),
            (Attribute::Status, Some(AttributeValue::S("DONE".into()))),
            (Attribute::Expiration, None),
            (Attribute::LeaseEnd, Some(AttributeValue::S("9".into()))),
            (Attribute::Attempt, Some(AttributeValue::N("-1".into()))),
        ];
        for (attribute, value) in cases {
            let name = layout.name(attribute);
            let mut item = good.clone();
            item.remove(name);
            item.extend(value.map(|value| (name.to_owned(), value)));
            let error = read_record(&Layout::default(), &item).expect_err(name);
            assert_eq!(error.kind(), StoreErrorKind::Malformed, "{name}");
            assert!(error.to_string().contains("n#k") && error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_native_value_is_not_replayed() {
        let mut item = write_record(&Layout::default(), &Key::from_stored("n#k"), &record(StoredResult::None));
        item.insert("data".into(), AttributeValue::M(Item::new()));
        assert_eq!(read_record(&Layout::default(), &item).map(|record| record.result), Ok(StoredResult::NotKept));
    }
}
