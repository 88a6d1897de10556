//! Events for the `scripted` function.

use serde_json::{Value, json};

/// An SQS event with one message for each body. Message `n` has the id `m-n`.
pub fn event(bodies: &[Value]) -> String {
    let records: Vec<Value> = bodies.iter().enumerate().map(|(n, body)| record(&message_id(n), body)).collect();
    json!({"Records": records}).to_string()
}

/// A body that tells the function to do `act` with the key `id`.
pub fn body(id: &str, act: &str) -> Value {
    json!({"id": id, "act": act})
}

/// The id of an event's message `n`.
pub fn message_id(n: usize) -> String {
    format!("m-{n}")
}

fn record(message_id: &str, body: &Value) -> Value {
    json!({
        "messageId": message_id,
        "receiptHandle": format!("r-{message_id}"),
        "body": body.to_string(),
        "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1763900600550"},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:scripted",
        "awsRegion": "eu-west-1",
    })
}
