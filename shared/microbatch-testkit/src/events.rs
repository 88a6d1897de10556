//! SQS events of any size, as Lambda's event source mapping sends them, full of valid orders.
//!
//! The orders are those of `functions/process-orders`. Everything is derived from the seed: the same [`EventSpec`] gives the
//! same bytes.

use std::{
    error::Error,
    fmt::{self, Write},
    num::NonZeroUsize,
};

use md5::{Digest, Md5};
use serde_json::Value;

/// The most bytes of an invocation's payload: 6 MB, metadata included (AWS Lambda's quota for synchronous invocations,
/// which the event source mapping obeys).
pub const EVENT_BYTES_MAX: usize = 6 * 1024 * 1024;

/// The length of a real receipt handle in characters, within the range that SQS sends today. SQS states only an upper
/// limit, of 1,024.
const RECEIPT_HANDLE_CHARS: usize = 412;

/// When the first message was sent, in epoch milliseconds; each following one is sent a millisecond later.
const FIRST_SENT_MS: u64 = 1_763_900_000_000;

/// What an event is to look like.
#[derive(Clone, Copy, Debug)]
pub struct EventSpec {
    /// How many messages.
    pub records: NonZeroUsize,
    /// What surrounds each body.
    pub envelope: Envelope,
    /// Each body is padded to at least this many bytes (before it is escaped as a JSON string); 0 leaves it as it is, at
    /// roughly 150 to 250.
    pub body_bytes: usize,
    /// Decides ids, handles and the orders' content.
    pub seed: u64,
    /// With a number of groups the queue is a FIFO one and messages take turns in the groups; without, a standard queue.
    pub fifo_groups: Option<NonZeroUsize>,
    /// The number in the first order's id (`o-1000` for 1,000); each following order has the next number.
    pub first_order: u64,
}

/// What surrounds a message's body in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// All the fields that AWS sends, at their real length: about 940 bytes before the body, so that some 5,000 records
    /// fit an event.
    Real,
    /// Short ids and handles and the fewest attributes, so that 10,000 records, the mapping's largest batch, fit an event.
    /// AWS never sends one like it.
    Short,
}

/// The event would exceed [`EVENT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTooLarge {
    /// The event's length in bytes where the generator gave up; the whole would be longer.
    pub bytes: usize,
    /// The limit in bytes.
    pub bytes_max: usize,
}

impl fmt::Display for EventTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the event exceeds {} bytes ({} when the generator stopped): ask for fewer records, smaller bodies or short envelopes",
            self.bytes_max, self.bytes
        )
    }
}

impl Error for EventTooLarge {}

/// Gives a whole SQS event as JSON, ready to be sent to a function. Message ids and order ids are all distinct.
pub fn generate(spec: &EventSpec) -> Result<String, EventTooLarge> {
    let mut random = SplitMix64(spec.seed);
    let mut event = String::from("{\"Records\":[");
    for index in 0..spec.records.get() {
        if index > 0 {
            event.push(',');
        }
        let number = index as u64;
        let body = order_body(spec.first_order.wrapping_add(number), spec.body_bytes, &mut random);
        match spec.envelope {
            Envelope::Real => push_real_record(&mut event, spec, number, &body, &mut random),
            Envelope::Short => push_short_record(&mut event, spec, number, &body),
        }
        check_size(&event)?;
    }
    event.push_str("]}");
    check_size(&event)?;
    Ok(event)
}

fn check_size(event: &str) -> Result<(), EventTooLarge> {
    if event.len() > EVENT_BYTES_MAX {
        return Err(EventTooLarge { bytes: event.len(), bytes_max: EVENT_BYTES_MAX });
    }
    Ok(())
}

/// A valid order as JSON text. `note`, a field the order type does not know, pads it.
fn order_body(number: u64, bytes_min: usize, random: &mut SplitMix64) -> String {
    let customer = random.below(10_000);
    let currency = random.pick(&["EUR", "GBP", "SEK", "USD"]);
    let mut lines = String::new();
    let mut total_minor = 0;
    for line in 0..=random.below(2) {
        let (sku, quantity, unit_price_minor) = (random.below(1_000), 1 + random.below(9), 1 + random.below(20_000));
        total_minor += quantity * unit_price_minor;
        let separator = if line == 0 { "" } else { "," };
        push(
            &mut lines,
            format_args!(
                "{separator}{{\"sku\":\"s-{sku}\",\"quantity\":{quantity},\"unit_price_minor\":{unit_price_minor}}}"
            ),
        );
    }
    let mut body = format!(
        "{{\"order_id\":\"o-{number}\",\"customer_id\":\"c-{customer}\",\"currency\":\"{currency}\",\
         \"lines\":[{lines}],\"total_minor\":{total_minor}"
    );
    let closed = body.len() + 1;
    if closed < bytes_min {
        let padding = bytes_min.saturating_sub(closed + ",\"note\":\"\"".len());
        push(&mut body, format_args!(",\"note\":\"{}\"", ".".repeat(padding)));
    }
    body.push('}');
    body
}

/// The record's fields in the order AWS sends them.
fn push_real_record(event: &mut String, spec: &EventSpec, number: u64, body: &str, random: &mut SplitMix64) {
    let sent_ms = FIRST_SENT_MS.saturating_add(number);
    push(
        event,
        format_args!("{{\"messageId\":\"{}\",\"receiptHandle\":\"{}\",\"body\":", uuid(random), receipt_handle(random)),
    );
    push(event, format_args!("{}", Value::from(body)));
    push(
        event,
        format_args!(
            ",\"attributes\":{{\"ApproximateReceiveCount\":\"1\",\
             \"AWSTraceHeader\":\"Root=1-{:08x}-{:08x}{:016x};Parent={:016x};Sampled=1\",\
             \"SentTimestamp\":\"{sent_ms}\",",
            sent_ms / 1_000,
            random.next() >> 32,
            random.next(),
            random.next(),
        ),
    );
    if let Some(groups) = spec.fifo_groups {
        let deduplication = [random.next(), random.next(), random.next(), random.next()];
        push(
            event,
            format_args!(
                "\"SequenceNumber\":\"188{number:017}\",\"MessageGroupId\":\"group-{}\",\
                 \"MessageDeduplicationId\":\"{:016x}{:016x}{:016x}{:016x}\",",
                group(number, groups),
                deduplication[0],
                deduplication[1],
                deduplication[2],
                deduplication[3],
            ),
        );
    }
    push(
        event,
        format_args!(
            "\"SenderId\":\"AROAEXAMPLEORDERS1234:order-intake-production\",\
             \"ApproximateFirstReceiveTimestamp\":\"{}\"}},\"messageAttributes\":{{}},\"md5OfBody\":\"{}\",",
            sent_ms.saturating_add(12),
            md5_hex(body),
        ),
    );
    push_source(event, spec);
}

fn push_short_record(event: &mut String, spec: &EventSpec, number: u64, body: &str) {
    push(event, format_args!("{{\"messageId\":\"m-{number}\",\"receiptHandle\":\"r-{number}\",\"body\":"));
    push(event, format_args!("{}", Value::from(body)));
    push(event, format_args!(",\"attributes\":{{\"ApproximateReceiveCount\":\"1\""));
    if let Some(groups) = spec.fifo_groups {
        push(
            event,
            format_args!(",\"MessageGroupId\":\"g-{}\",\"SequenceNumber\":\"{number}\"", group(number, groups)),
        );
    }
    event.push_str("},\"messageAttributes\":{},");
    push_source(event, spec);
}

fn push_source(event: &mut String, spec: &EventSpec) {
    let suffix = if spec.fifo_groups.is_some() { ".fifo" } else { "" };
    push(
        event,
        format_args!(
            "\"eventSource\":\"aws:sqs\",\"eventSourceARN\":\"arn:aws:sqs:eu-west-1:123456789012:orders{suffix}\",\
             \"awsRegion\":\"eu-west-1\"}}"
        ),
    );
}

fn group(number: u64, groups: NonZeroUsize) -> u64 {
    number % groups.get() as u64
}

/// A version 4 UUID, the form of SQS's message ids.
fn uuid(random: &mut SplitMix64) -> String {
    let (high, low) = (random.next(), random.next());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff,
    )
}

/// Base64 text of a real handle's length that begins as they do.
fn receipt_handle(random: &mut SplitMix64) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut handle = String::with_capacity(RECEIPT_HANDLE_CHARS);
    handle.push_str("AQEB");
    while handle.len() < RECEIPT_HANDLE_CHARS {
        handle.push(char::from(random.pick(ALPHABET)));
    }
    handle
}

fn md5_hex(body: &str) -> String {
    let mut hex = String::with_capacity(32);
    for byte in Md5::digest(body) {
        push(&mut hex, format_args!("{byte:02x}"));
    }
    hex
}

fn push(text: &mut String, arguments: fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a String does not fail");
}

/// Steele, Lea and Flood's `SplitMix64`: small, fast and good enough for test data; no security.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to below `limit`. The slight bias of the remainder does not matter here.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let index = usize::try_from(self.below(choices.len() as u64));
        choices[index.expect("less than a length")]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const SPEC: EventSpec = EventSpec {
        records: count(50),
        envelope: Envelope::Real,
        body_bytes: 0,
        seed: 7,
        fifo_groups: None,
        first_order: 1_000,
    };

    const fn count(records: usize) -> NonZeroUsize {
        NonZeroUsize::new(records).expect("not zero")
    }

    fn records(event: &str) -> Vec<Value> {
        let event: Value = serde_json::from_str(event).expect("an event is JSON");
        event["Records"].as_array().expect("Records is a list").clone()
    }

    fn text<'a>(record: &'a Value, field: &str) -> &'a str {
        record[field].as_str().unwrap_or_else(|| panic!("{field} is a string"))
    }

    fn body(record: &Value) -> Value {
        serde_json::from_str(text(record, "body")).expect("a body is JSON")
    }

    #[test]
    fn five_thousand_real_records_fit() {
        let event = generate(&EventSpec { records: count(5_000), ..SPEC }).expect("fits");
        assert!(event.len() > EVENT_BYTES_MAX * 9 / 10, "{} bytes: nearly full", event.len());
        assert_eq!(records(&event).len(), 5_000);
    }

    #[test]
    fn ten_thousand_short_records_fit() {
        let spec = EventSpec { records: count(10_000), envelope: Envelope::Short, ..SPEC };
        assert_eq!(records(&generate(&spec).expect("fits")).len(), 10_000);
        let fifo = EventSpec { fifo_groups: Some(count(100)), ..spec };
        assert_eq!(records(&generate(&fifo).expect("fits")).len(), 10_000);
    }

    #[test]
    fn a_real_envelope_has_its_real_length() {
        for record in records(&generate(&SPEC).expect("fits")) {
            let escaped = serde_json::to_string(&record["body"]).expect("a string");
            let envelope_bytes = record.to_string().len() - (escaped.len() - 2);
            assert!((900..=980).contains(&envelope_bytes), "{envelope_bytes}");
        }
    }

    #[test]
    fn an_event_over_the_limit_is_refused() {
        let error = generate(&EventSpec { records: count(7), body_bytes: 1024 * 1024, ..SPEC }).expect_err("7 MB");
        assert_eq!(error.bytes_max, EVENT_BYTES_MAX);
        assert!(error.bytes > EVENT_BYTES_MAX);
    }

    #[test]
    fn equal_specs_give_equal_events_and_seeds_differ() {
        assert_eq!(generate(&SPEC), generate(&SPEC));
        assert_ne!(generate(&SPEC), generate(&EventSpec { seed: 8, ..SPEC }));
    }

    #[test]
    fn ids_are_distinct() {
        for envelope in [Envelope::Real, Envelope::Short] {
            let records = records(&generate(&EventSpec { records: count(500), envelope, ..SPEC }).expect("fits"));
            let messages: HashSet<_> = records.iter().map(|record| text(record, "messageId")).collect();
            let handles: HashSet<_> = records.iter().map(|record| text(record, "receiptHandle")).collect();
            let orders: HashSet<_> = records.iter().map(|record| body(record)["order_id"].to_string()).collect();
            assert_eq!((messages.len(), handles.len(), orders.len()), (500, 500, 500));
            assert_eq!(body(&records[0])["order_id"], "o-1000");
        }
    }

    #[test]
    fn orders_are_valid() {
        for record in records(&generate(&SPEC).expect("fits")) {
            let order = body(&record);
            let lines = order["lines"].as_array().expect("lines");
            let number = |value: &Value| value.as_u64().expect("a whole number");
            let total: u64 =
                lines.iter().map(|line| number(&line["quantity"]) * number(&line["unit_price_minor"])).sum();
            assert!(!lines.is_empty());
            assert_eq!(number(&order["total_minor"]), total);
        }
    }

    #[test]
    fn bodies_are_padded_and_no_more_than_needed() {
        for record in records(&generate(&EventSpec { body_bytes: 600, ..SPEC }).expect("fits")) {
            assert_eq!(text(&record, "body").len(), 600);
            body(&record);
        }
        for record in records(&generate(&EventSpec { body_bytes: 180, ..SPEC }).expect("fits")) {
            assert!(text(&record, "body").len() >= 180);
            body(&record);
        }
    }

    #[test]
    fn fifo_messages_take_turns_in_their_groups() {
        let spec = EventSpec { fifo_groups: Some(count(3)), ..SPEC };
        let records = records(&generate(&spec).expect("fits"));
        let groups: Vec<_> = records[..4].iter().map(|record| text(&record["attributes"], "MessageGroupId")).collect();
        assert_eq!(groups, ["group-0", "group-1", "group-2", "group-0"]);
        let sequence: Vec<_> = records.iter().map(|record| text(&record["attributes"], "SequenceNumber")).collect();
        assert!(sequence.is_sorted_by(|a, b| a < b));
        assert!(text(&records[0], "eventSourceARN").ends_with(":orders.fifo"));
    }

    #[test]
    fn the_digest_is_that_of_the_body() {
        assert_eq!(md5_hex(""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(md5_hex("hello world"), "5eb63bbbe01eeed093cb22bb8f5acdc3");
        let records = records(&generate(&SPEC).expect("fits"));
        assert_eq!(text(&records[0], "md5OfBody"), md5_hex(text(&records[0], "body")));
    }
}
