//! `microbatch send`: messages for a function of the running stack.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use aws_smithy_types::base64;
use microbatch_aws::clock::SystemClock;
use microbatch_aws::sqs::{Attribute, OutgoingMessage, ProducerOptions, SendError, SendReceipt, SqsProducer};
use serde_json::Value;

use crate::args::Send;
use crate::exit::{Exit, Failure};
use crate::up::running::Part;
use crate::up::{running, sqs};
use crate::{target, terminal};

/// Bytes of a file: far over the 6 MB of an event.
const FILE_BYTES_MAX: u64 = 64 * 1_048_576;
/// Messages whose results are awaited later. Fewer than the producer holds, so that it never waits for us.
const RECEIPTS_MAX: usize = 500;

/// Runs the subcommand.
pub(crate) async fn run(args: Send) -> Result<Exit, Failure> {
    let workspace = target::workspace().await.ok();
    let target_dir = running::target_dir(workspace.as_ref().map(|workspace| workspace.root.as_path()));
    let stack = running::find(&running::folder(args.state.as_deref(), target_dir.as_deref())?)?;
    let Some(Part { queues, .. }) = stack.functions.get(&args.function) else {
        let names: Vec<&str> = stack.functions.keys().map(String::as_str).collect();
        let message = format!("the stack runs no function {}; it runs {}", args.function, names.join(", "));
        return Err(Failure::usage(message));
    };
    let file = args.file.clone();
    let reading = tokio::task::spawn_blocking(move || read(&file));
    let text = reading.await.unwrap_or_else(|_| Err(Failure::usage("the file cannot be read")))?;
    let messages = messages(&text).map_err(|what| Failure::usage(format!("{}: {what}", name_of(&args.file))))?;
    let count = args.count.and_then(|count| usize::try_from(count).ok()).unwrap_or(messages.len());

    let client = sqs::client(&stack.sqs);
    let (producer, driver) =
        SqsProducer::new(client, queues.source.clone(), ProducerOptions::default(), Arc::new(SystemClock));
    let sending = send(producer, messages.iter().cycle().take(count).cloned());
    let ((sent, failed), ()) = tokio::join!(sending, driver);
    terminal::line(&format!("{}: {sent} messages sent to {}", args.function, queues.source));
    match failed {
        None => Ok(Exit::Done),
        Some((number, error)) => {
            let message = format!("{} of {count} messages were not sent; message {number}: {error}", count - sent);
            let is_theirs = matches!(error, SendError::Invalid(_) | SendError::TooLarge { .. });
            Err(if is_theirs { Failure::usage(message) } else { Failure::environment(message) })
        }
    }
}

/// Sends messages in order. Gives how many arrived, and the first failure with the message's number, from 1.
async fn send(
    producer: SqsProducer,
    messages: impl Iterator<Item = OutgoingMessage>,
) -> (usize, Option<(usize, SendError)>) {
    let (mut sent, mut failed) = (0, None);
    let mut heard = |number: usize, result: Result<(), SendError>| match result {
        Ok(()) => sent += 1,
        Err(error) => drop(failed.get_or_insert((number, error))),
    };
    let mut receipts: VecDeque<(usize, SendReceipt)> = VecDeque::new();
    for (place, message) in messages.enumerate() {
        if receipts.len() >= RECEIPTS_MAX
            && let Some((number, receipt)) = receipts.pop_front()
        {
            heard(number, receipt.await.map(drop));
        }
        match producer.enqueue(message).await {
            Ok(receipt) => receipts.push_back((place + 1, receipt)),
            Err(error) => heard(place + 1, Err(error)),
        }
    }
    producer.close();
    for (number, receipt) in receipts {
        heard(number, receipt.await.map(drop));
    }
    (sent, failed)
}

fn read(path: &Path) -> Result<String, Failure> {
    let name = name_of(path);
    let mut bytes = Vec::new();
    let done = if path.as_os_str() == "-" {
        io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    done.map_err(|error| Failure::usage(format!("{name} cannot be read: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::usage(format!("{name}: expected at most {FILE_BYTES_MAX} bytes, found more")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{name}: expected JSON in UTF-8, found other bytes")))
}

fn name_of(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

/// The messages of an event, or of JSON lines.
fn messages(text: &str) -> Result<Vec<OutgoingMessage>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let messages = match serde_json::from_str::<Value>(text) {
        Ok(value) => match value.get("Records").and_then(Value::as_array) {
            Some(records) => {
                let numbered = records.iter().enumerate();
                numbered
                    .map(|(index, record)| message(record).map_err(|what| format!("record {index}: {what}")))
                    .collect()
            }
            None => Ok(vec![OutgoingMessage::new(text.trim())]),
        },
        Err(_) => lines(text),
    }?;
    if messages.is_empty() {
        return Err("expected an SQS event or JSON lines, found no message in it".to_owned());
    }
    Ok(messages)
}

fn lines(text: &str) -> Result<Vec<OutgoingMessage>, String> {
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let bodies =
        numbered.map(|(index, line)| match serde_json::from_str::<&serde_json::value::RawValue>(line.trim()) {
            Ok(_) => Ok(OutgoingMessage::new(line.trim())),
            // Of the reason only where: its text may hold some of the body.
            Err(error) => {
                let (line, column) = (index + 1, error.column());
                Err(format!(
                    "expected an SQS event, or a JSON body on each line; line {line} is no JSON from column {column} on"
                ))
            }
        });
    bodies.collect()
}

/// A record as Lambda gives it to a function, as a message to send.
fn message(record: &Value) -> Result<OutgoingMessage, String> {
    let body = record["body"].as_str().ok_or("expected a text in \"body\", found none")?;
    let mut message = OutgoingMessage::new(body);
    if let Some(group) = record["attributes"]["MessageGroupId"].as_str() {
        message = message.group(group);
    }
    for (name, value) in record["messageAttributes"].as_object().into_iter().flatten() {
        let attribute = attribute(value).ok_or_else(|| {
            format!(
                "the message attribute {name} cannot be read: expected a dataType with a stringValue or binaryValue"
            )
        })?;
        message = message.attribute(name, attribute);
    }
    Ok(message)
}

fn attribute(value: &Value) -> Option<Attribute> {
    let data_type = value["dataType"].as_str()?;
    let (kind, label) = match data_type.split_once('.') {
        Some((kind, label)) => (kind, Some(label)),
        None => (data_type, None),
    };
    let attribute = match kind {
        "String" => Attribute::string(value["stringValue"].as_str()?),
        "Number" => Attribute::number(value["stringValue"].as_str()?),
        "Binary" => Attribute::binary(base64::decode(value["binaryValue"].as_str()?).ok()?),
        _ => return None,
    };
    Some(match label {
        Some(label) => attribute.label(label),
        None => attribute,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_records_of_an_event_become_messages_with_group_and_attributes() {
        let event = json!({"Records": [{
            "body": "{\"a\": 1}",
            "attributes": {"MessageGroupId": "g", "MessageDeduplicationId": "d"},
            "messageAttributes": {
                "kind": {"dataType": "String.x", "stringValue": "refund"},
                "raw": {"dataType": "Binary", "binaryValue": "AP8="},
                "n": {"dataType": "Number", "stringValue": "7"},
            },
        }, {"body": "not JSON"}]});
        let expected = OutgoingMessage::new("{\"a\": 1}")
            .group("g")
            .attribute("kind", Attribute::string("refund").label("x"))
            .attribute("n", Attribute::number(7))
            .attribute("raw", Attribute::binary([0, 255]));
        assert!(messages(&event.to_string()).expect("two") == [expected, OutgoingMessage::new("not JSON")]);
    }

    #[test]
    fn anything_else_is_a_body_a_line() {
        let bodies = |text: &str| messages(text).expect("bodies");
        assert!(
            bodies("{\"a\":1}\n\n {\"a\":2} \n")
                == [OutgoingMessage::new("{\"a\":1}"), OutgoingMessage::new("{\"a\":2}")]
        );
        assert!(bodies("{\n  \"a\": 1\n}\n") == [OutgoingMessage::new("{\n  \"a\": 1\n}")]);
    }

    #[test]
    fn what_is_neither_says_where_and_shows_no_text() {
        for (text, expected) in [
            ("{}\n{canary\n", "line 2 is no JSON"),
            ("", "found no message"),
            (r#"{"Records": []}"#, "found no message"),
            (r#"{"Records": [{"Body": "canary"}]}"#, "record 0: expected a text in \"body\""),
            (
                r#"{"Records": [{"body": "b", "messageAttributes": {"a": {"dataType": "List"}}}]}"#,
                "attribute a cannot be read",
            ),
        ] {
            let error = messages(text).expect_err(text);
            assert!(error.contains(expected) && !error.contains("canary"), "{error}");
        }
    }
}
