//! Checks a function's response by the rules of Lambda's SQS event source mapping.
//!
//! Complete success: nothing, null, an empty object, or null or empty `batchItemFailures`. An id that the event does not hold, an
//! empty id or a wrong key makes Lambda take the whole batch as failed, so here it is an error that says so.
//! <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde_json::value::RawValue;

use crate::event::{SqsEvent, kind, shortened};

/// Why a response is not the answer to a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseProblem {
    /// Not JSON.
    NotJson {
        /// The response's size in bytes.
        bytes: usize,
    },
    /// JSON, but not of the form `{"batchItemFailures": [{"itemIdentifier": "..."}]}`.
    NotBatchResponse {
        /// What it is instead.
        found: String,
    },
    /// A reported id that the event does not hold.
    UnknownId {
        /// The entry's place in `batchItemFailures`, from 0.
        index: usize,
        /// The id, shortened.
        id: String,
    },
    /// An id reported more often than the event holds it.
    RepeatedId {
        /// The id, shortened.
        id: String,
    },
}

impl fmt::Display for ResponseProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson { bytes } => write!(f, "its response of {bytes} bytes is not JSON")?,
            Self::NotBatchResponse { found } => {
                write!(f, "expected {{\"batchItemFailures\": [{{\"itemIdentifier\": \"...\"}}]}}; found {found}")?;
            }
            Self::UnknownId { index, id } => {
                write!(f, "batchItemFailures[{index}] names \"{id}\", a message id that the event does not hold")?;
            }
            Self::RepeatedId { id } => {
                write!(f, "batchItemFailures names \"{id}\" more often than the event holds it")?;
            }
        }
        f.write_str(". Lambda would take the whole batch as failed")
    }
}

impl std::error::Error for ResponseProblem {}

/// Returns the reported message ids, in the response's order.
pub fn check(response: &[u8], event: &SqsEvent) -> Result<Vec<String>, ResponseProblem> {
    let text = std::str::from_utf8(response).map_err(|_| ResponseProblem::NotJson { bytes: response.len() })?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let whole: &RawValue =
        serde_json::from_str(text).map_err(|_| ResponseProblem::NotJson { bytes: response.len() })?;
    let reported = reported_ids(whole).map_err(|found| ResponseProblem::NotBatchResponse { found })?;
    let mut held: HashMap<&str, usize> = HashMap::new();
    for id in event.message_ids.iter().flatten() {
        *held.entry(id).or_default() += 1;
    }
    for (index, id) in reported.iter().enumerate() {
        match held.get_mut(id.as_str()) {
            None => {
                return Err(ResponseProblem::UnknownId { index, id: shortened(id) });
            }
            Some(0) => return Err(ResponseProblem::RepeatedId { id: shortened(id) }),
            Some(left) => *left -= 1,
        }
    }
    Ok(reported)
}

fn reported_ids(whole: &RawValue) -> Result<Vec<String>, String> {
    if whole.get() == "null" {
        return Ok(Vec::new());
    }
    let top: BTreeMap<String, &RawValue> = serde_json::from_str(whole.get()).map_err(|_| kind(whole).to_owned())?;
    let Some(failures) = top.get("batchItemFailures") else {
        let keys: Vec<String> = top.keys().take(3).map(|key| shortened(key)).collect();
        return if keys.is_empty() { Ok(Vec::new()) } else { Err(format!("an object with keys: {}", keys.join(", "))) };
    };
    if failures.get() == "null" {
        return Ok(Vec::new());
    }
    let failures: Vec<&RawValue> =
        serde_json::from_str(failures.get()).map_err(|_| format!("batchItemFailures that is {}", kind(failures)))?;
    failures.iter().enumerate().map(|(index, failure)| item_identifier(index, failure)).collect()
}

fn item_identifier(index: usize, failure: &RawValue) -> Result<String, String> {
    let entry: BTreeMap<String, &RawValue> = serde_json::from_str(failure.get())
        .map_err(|_| format!("batchItemFailures[{index}] that is {}", kind(failure)))?;
    let Some(id) = entry.get("itemIdentifier") else {
        return Err(format!("batchItemFailures[{index}] without an itemIdentifier"));
    };
    match serde_json::from_str::<String>(id.get()) {
        Ok(id) if id.is_empty() => Err(format!("batchItemFailures[{index}] with an empty itemIdentifier")),
        Ok(id) => Ok(id),
        Err(_) => Err(format!("batchItemFailures[{index}] whose itemIdentifier is {}", kind(id))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> SqsEvent {
        SqsEvent { message_ids: vec![Some("a".to_owned()), Some("b".to_owned()), None, Some("b".to_owned())] }
    }

    #[test]
    fn complete_success_has_many_forms() {
        for response in ["", " \n", "null", "{}", r#"{"batchItemFailures":null}"#, r#"{"batchItemFailures":[]}"#] {
            assert_eq!(check(response.as_bytes(), &event()), Ok(Vec::new()), "{response}");
        }
    }

    #[test]
    fn reported_ids_come_in_order() {
        let response =
            br#"{"batchItemFailures":[{"itemIdentifier":"b"},{"itemIdentifier":"a"},{"itemIdentifier":"b"}]}"#;
        assert_eq!(check(response, &event()), Ok(vec!["b".to_owned(), "a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn nonsense_is_named() {
        for (response, words) in [
            ("oops", "4 bytes is not JSON"),
            ("\"done\"", "found a string"),
            ("[]", "found an array"),
            (r#"{"statusCode":200}"#, "an object with keys: statusCode"),
            (r#"{"batchItemFailures":{}}"#, "batchItemFailures that is an object"),
            (r#"{"batchItemFailures":["a"]}"#, "batchItemFailures[0] that is a string"),
            (r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#, "an empty itemIdentifier"),
            (r#"{"batchItemFailures":[{"itemIdentifier":null}]}"#, "itemIdentifier is null"),
            (r#"{"batchItemFailures":[{"ItemIdentifier":"a"}]}"#, "without an itemIdentifier"),
            (r#"{"batchItemFailures":[{"itemIdentifier":"z"}]}"#, "names \"z\""),
            (r#"{"batchItemFailures":[{"itemIdentifier":"a"},{"itemIdentifier":"a"}]}"#, "more often"),
        ] {
            let problem = check(response.as_bytes(), &event()).expect_err(response).to_string();
            assert!(problem.contains(words), "{response}: {problem}");
        }
    }
}
