//! The event that Lambda's event source mapping makes of messages that were received.

use serde_json::{Value, json};

use super::message::Delivery;

/// The event as JSON, as a function gets it ("Using Lambda with Amazon SQS"): attributes are strings, and a FIFO queue is
/// told by its ARN.
pub fn lambda_event(deliveries: &[Delivery], fifo: bool) -> String {
    let records: Vec<Value> = deliveries.iter().map(|delivery| record(delivery, fifo)).collect();
    json!({ "Records": records }).to_string()
}

fn record(delivery: &Delivery, fifo: bool) -> Value {
    let message = &*delivery.message;
    let mut attributes = json!({
        "ApproximateReceiveCount": delivery.receive_count.to_string(),
        "SentTimestamp": delivery.sent_ms.to_string(),
        "SenderId": "AROAEXAMPLEORDERS1234:order-intake-production",
        "ApproximateFirstReceiveTimestamp": delivery.first_received_ms.to_string(),
    });
    if let Some(group) = &message.group {
        attributes["MessageGroupId"] = group.as_str().into();
    }
    if let Some(trace) = &message.trace_header {
        attributes["AWSTraceHeader"] = trace.as_str().into();
    }
    if fifo {
        attributes["SequenceNumber"] = format!("188{:017}", delivery.sequence).into();
        // A sender that gives none has the queue make one of the body; here of the sequence number, which is as unique.
        let made = format!("content-{}", delivery.sequence);
        attributes["MessageDeduplicationId"] = message.deduplication_id.clone().unwrap_or(made).into();
    }
    // Text that is no JSON shows as it is: senders can only send what is valid, so the test is wrong.
    let sent = message
        .attributes
        .as_deref()
        .map_or_else(|| json!({}), |text| serde_json::from_str(text).unwrap_or_else(|_| text.into()));
    json!({
        "messageId": delivery.message_id,
        "receiptHandle": delivery.receipt_handle,
        "body": message.body,
        "attributes": attributes,
        "messageAttributes": sent,
        "eventSource": "aws:sqs",
        "eventSourceARN": source_arn(fifo),
        "awsRegion": "eu-west-1",
    })
}

fn source_arn(fifo: bool) -> &'static str {
    if fifo { "arn:aws:sqs:eu-west-1:123456789012:orders.fifo" } else { "arn:aws:sqs:eu-west-1:123456789012:orders" }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::queue::message::{NewMessage, Number};

    fn delivery() -> Delivery {
        let message = NewMessage { body: "{\"a\":1}".into(), group: Some("g".into()), ..NewMessage::default() };
        Delivery {
            number: Number(0),
            message_id: "id".into(),
            receipt_handle: "receive-1-2".into(),
            receive_count: 2,
            sent_ms: 1_000,
            first_received_ms: 1_500,
            sequence: 1,
            message: Arc::new(message),
        }
    }

    fn first_record(fifo: bool) -> Value {
        let event: Value = serde_json::from_str(&lambda_event(&[delivery()], fifo)).expect("JSON");
        event["Records"][0].clone()
    }

    #[test]
    fn attributes_are_strings_as_sqs_sends_them() {
        let record = first_record(true);
        let of = &record["attributes"];
        assert_eq!(of["ApproximateReceiveCount"], "2");
        assert_eq!((&of["SentTimestamp"], &of["ApproximateFirstReceiveTimestamp"]), (&"1000".into(), &"1500".into()));
        assert_eq!(of["SequenceNumber"], "18800000000000000001");
        assert_eq!((&of["MessageGroupId"], &of["MessageDeduplicationId"]), (&"g".into(), &"content-1".into()));
        assert_eq!((&record["body"], &record["receiptHandle"]), (&"{\"a\":1}".into(), &"receive-1-2".into()));
    }

    #[test]
    fn only_a_fifo_queue_has_an_order() {
        let (fifo, standard) = (first_record(true), first_record(false));
        assert_eq!(fifo["eventSourceARN"], "arn:aws:sqs:eu-west-1:123456789012:orders.fifo");
        assert_eq!(standard["eventSourceARN"], "arn:aws:sqs:eu-west-1:123456789012:orders");
        // A group on a standard queue is a tenant ("Amazon SQS fair queues").
        assert_eq!(standard["attributes"]["MessageGroupId"], "g");
        assert_eq!(standard["attributes"].get("SequenceNumber"), None);
    }
}
