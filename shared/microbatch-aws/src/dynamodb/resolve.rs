//! Resolving a key by hand: one conditional write on the very record that the operator was shown.

use aws_sdk_dynamodb::types::AttributeValue;
use microbatch::{
    Key, StoreError,
    record::Record,
    resolve::{self, Resolve, ResolveAnswer, ResolveRequest, Trace},
};

use super::{
    DynamoDbStore, Item,
    error::store_error,
    item::{read_record, write_record},
    layout::Attribute,
};

impl Resolve for DynamoDbStore {
    async fn read_resolved(&self, key: &Key) -> Result<Option<(Record, Option<Trace>)>, StoreError> {
        let item = self.get_item(key.as_str()).await.map_err(|error| store_error("GetItem", &error))?;
        item.map(|item| Ok((read_record(&self.layout, &item)?, self.trace(&item)))).transpose()
    }

    async fn resolve(&self, now_ms: u64, request: &ResolveRequest) -> Result<ResolveAnswer, StoreError> {
        let ResolveRequest { key, shown, to, retention_end_s, trace } = request;
        let record = match resolve::decide(shown.as_ref(), *to, *retention_end_s, now_ms) {
            Ok(record) => record,
            Err(untouched) => return Ok(ResolveAnswer::Untouched(untouched)),
        };
        let mut item = write_record(&self.layout, key, &record);
        let text = AttributeValue::S(trace.as_str().to_owned());
        item.insert(self.layout.name(Attribute::Resolved).to_owned(), text);
        let Err(refused) = self.put(item, shown.as_ref()).await? else { return Ok(ResolveAnswer::Written(record)) };
        // A client that tries again meets its own write: its trace says so.
        let found = match refused.0 {
            Some(item) => self.trace(&item),
            None => self.read_resolved(key).await?.and_then(|(_, trace)| trace),
        };
        Ok(if found.as_ref() == Some(trace) { ResolveAnswer::Written(record) } else { ResolveAnswer::Changed })
    }
}

impl DynamoDbStore {
    fn trace(&self, item: &Item) -> Option<Trace> {
        let text = item.get(self.layout.name(Attribute::Resolved))?.as_s().ok()?;
        Some(Trace::from_stored(text.as_str()))
    }
}
