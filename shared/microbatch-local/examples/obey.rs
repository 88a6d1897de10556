//! A function for tests that does what the messages say, without any runtime crate: what it posts is posted byte for byte.
//!
//! A body is `{"n": 7}` and maybe one instruction: `"fails": 2` reports the message the first two times it is received,
//! `"slow_ms": 50` takes so long, `"respond": "text"` posts that text, `"error": true` posts an error, `"exit": true` ends the process
//! and `"hang": true` never answers. On a FIFO queue the rest of a failed message's group is reported. Each batch is told of in a line
//! `{"batch": [0, 1], "processed": [0]}`, of the bodies' numbers, before the answer is posted.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

type BoxError = Box<dyn std::error::Error>;

fn main() -> Result<(), BoxError> {
    let address = std::env::var("AWS_LAMBDA_RUNTIME_API")?;
    loop {
        let (request_id, event) = next(&address)?;
        let (kind, answer) = obey(&event)?;
        post(&address, &format!("/2018-06-01/runtime/invocation/{request_id}/{kind}"), &answer)?;
    }
}

/// Does what the event's messages say. Returns the last part of the path to post to, and what to post.
fn obey(event: &Value) -> Result<(&'static str, String), BoxError> {
    let records = event["Records"].as_array().ok_or("expected records")?;
    let (mut numbers, mut processed, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    let mut failed_groups = HashSet::new();
    let mut response = None;
    let mut error = false;
    for record in records {
        let body: Value = serde_json::from_str(record["body"].as_str().ok_or("expected a body")?)?;
        numbers.push(body["n"].clone());
        std::thread::sleep(Duration::from_millis(body["slow_ms"].as_u64().unwrap_or(0)));
        response = response.or_else(|| body["respond"].as_str().map(str::to_owned));
        error |= body["error"] == true;
        if body["exit"] == true {
            std::process::exit(7);
        }
        if body["hang"] == true {
            loop {
                std::thread::park();
            }
        }
        let count = record["attributes"]["ApproximateReceiveCount"].as_str().unwrap_or("1");
        let fails = body["fails"].as_u64().unwrap_or(0) >= count.parse()?;
        let fifo = record["eventSourceARN"].as_str().is_some_and(|arn| arn.strip_suffix(".fifo").is_some());
        let group = record["attributes"]["MessageGroupId"].as_str().unwrap_or_default();
        if fails || fifo && failed_groups.contains(group) {
            failed_groups.insert(group);
            failures.push(json!({"itemIdentifier": record["messageId"]}));
        } else {
            processed.push(body["n"].clone());
        }
    }
    writeln!(std::io::stdout(), "{}", json!({"batch": numbers, "processed": processed}))?;
    if error {
        return Ok(("error", json!({"errorType": "Told", "errorMessage": "told to fail"}).to_string()));
    }
    Ok(("response", response.unwrap_or_else(|| json!({"batchItemFailures": failures}).to_string())))
}

/// Asks for an event.
fn next(address: &str) -> Result<(String, Value), BoxError> {
    let request =
        format!("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let (headers, body) = call(address, request.as_bytes())?;
    let id = headers.iter().find_map(|line| line.strip_prefix("lambda-runtime-aws-request-id: "));
    Ok((id.ok_or("expected a request id")?.to_owned(), serde_json::from_slice(&body)?))
}

fn post(address: &str, path: &str, body: &str) -> Result<(), BoxError> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    call(address, request.as_bytes()).map(drop)
}

/// A request on a connection of its own. Returns the answer's head, line by line, and its body.
fn call(address: &str, request: &[u8]) -> Result<(Vec<String>, Vec<u8>), BoxError> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(request)?;
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let mut body = Vec::new();
    reader.read_to_end(&mut body)?;
    Ok((head, body))
}
