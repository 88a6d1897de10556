//! What a function's answer says about its batch.
//!
//! The rules are those of "Handling errors for an SQS event source in Lambda" in AWS's Lambda guide. Where the guide is silent,
//! the choice is ours: an object without `batchItemFailures` is a success, as an empty one is (and noted: it is seldom meant
//! so), and what is no such response at all (text, a number, a list) is a failure, as invalid JSON is.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde_json::value::RawValue;

use crate::event::{kind, shortened};

/// How many of a response's own keys are named.
const KEYS_SHOWN: usize = 3;

/// What becomes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All messages are deleted.
    Success {
        /// Something that its author should know.
        note: Option<Note>,
    },
    /// These places of the batch, in order, stay in the queue, and all others are deleted.
    Partial {
        /// The places, from 0, at least one.
        failed: Vec<usize>,
    },
    /// Nothing is deleted.
    Failure(ResponseFault),
}

/// What is wrong with a response. Never shows more of it than names of keys, and an id that is not the event's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseFault {
    /// Not JSON.
    NotJson {
        /// Its size in bytes.
        bytes: usize,
    },
    /// JSON of another form than `{"batchItemFailures": [{"itemIdentifier": "..."}]}`.
    OtherForm {
        /// What it is instead.
        found: String,
    },
    /// An id that the event does not hold.
    UnknownId {
        /// The entry's place, from 0.
        index: usize,
        /// The id, shortened.
        id: String,
    },
}

impl fmt::Display for ResponseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the whole batch counts as failed: ")?;
        match self {
            Self::NotJson { bytes } => write!(f, "expected a JSON response, found {bytes} bytes that are none"),
            Self::OtherForm { found } => {
                write!(f, "expected {{\"batchItemFailures\": [{{\"itemIdentifier\": \"...\"}}]}}, found {found}")
            }
            Self::UnknownId { index, id } => {
                write!(f, "expected ids of the event, found \"{id}\" in batchItemFailures[{index}]")
            }
        }
    }
}

/// What is a success by the rules, but hardly meant so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The response is an object with other keys.
    NoSuchKey {
        /// Some of its keys, shortened.
        keys: String,
    },
    /// It reports failures, which are deleted all the same.
    Ignored,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchKey { keys } => write!(
                f,
                "the response has no batchItemFailures (its keys: {keys}), so that the whole batch counts as done and is deleted"
            ),
            Self::Ignored => f.write_str(
                "the response reports failures, and they are deleted: the mapping's FunctionResponseTypes lacks \
                 ReportBatchItemFailures",
            ),
        }
    }
}

/// Judges the response to a batch of these message ids, in the batch's order. A function that gave no response (it erred,
/// timed out, died) leaves nothing to judge: nothing is deleted.
pub fn judge(response: &[u8], message_ids: &[&str], reports_item_failures: bool) -> Verdict {
    let verdict = judge_reporting(response, message_ids);
    match verdict {
        _ if reports_item_failures => verdict,
        Verdict::Partial { .. } => Verdict::Success { note: Some(Note::Ignored) },
        // Whatever it is, nobody looks at it.
        Verdict::Success { .. } | Verdict::Failure(_) => Verdict::Success { note: None },
    }
}

fn judge_reporting(response: &[u8], message_ids: &[&str]) -> Verdict {
    let reported = match reported_ids(response) {
        Ok(Reported { ids, note }) if ids.is_empty() => return Verdict::Success { note },
        Ok(Reported { ids, .. }) => ids,
        Err(fault) => return Verdict::Failure(fault),
    };
    let known: HashSet<&str> = message_ids.iter().copied().collect();
    if let Some((index, id)) = reported.iter().enumerate().find(|(_, id)| !known.contains(id.as_str())) {
        return Verdict::Failure(ResponseFault::UnknownId { index, id: shortened(id) });
    }
    let reported: HashSet<&str> = reported.iter().map(String::as_str).collect();
    let failed = (0..message_ids.len()).filter(|&place| reported.contains(message_ids[place])).collect();
    Verdict::Partial { failed }
}

struct Reported {
    ids: Vec<String>,
    note: Option<Note>,
}

const NONE: Reported = Reported { ids: Vec::new(), note: None };

fn reported_ids(response: &[u8]) -> Result<Reported, ResponseFault> {
    let not_json = || ResponseFault::NotJson { bytes: response.len() };
    let text = std::str::from_utf8(response).map_err(|_| not_json())?;
    if text.trim().is_empty() {
        return Ok(NONE);
    }
    let whole: &RawValue = serde_json::from_str(text).map_err(|_| not_json())?;
    if whole.get() == "null" {
        return Ok(NONE);
    }
    let other_form = |found: String| ResponseFault::OtherForm { found };
    let top: BTreeMap<String, &RawValue> =
        serde_json::from_str(whole.get()).map_err(|_| other_form(kind(whole).to_owned()))?;
    let Some(failures) = top.get("batchItemFailures") else {
        let keys: Vec<String> = top.keys().take(KEYS_SHOWN).map(|key| shortened(key)).collect();
        let note = (!keys.is_empty()).then(|| Note::NoSuchKey { keys: keys.join(", ") });
        return Ok(Reported { note, ..NONE });
    };
    if failures.get() == "null" {
        return Ok(NONE);
    }
    let failures: Vec<&RawValue> = serde_json::from_str(failures.get())
        .map_err(|_| other_form(format!("batchItemFailures that is {}", kind(failures))))?;
    let ids = failures.iter().enumerate().map(|(index, failure)| item_identifier(index, failure).map_err(other_form));
    Ok(Reported { ids: ids.collect::<Result<_, _>>()?, ..NONE })
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
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const IDS: [&str; 4] = ["a", "b", "c", "b"];
    const SUCCESS: Verdict = Verdict::Success { note: None };

    fn reporting(response: &str) -> Verdict {
        judge(response.as_bytes(), &IDS, true)
    }

    #[test]
    fn complete_success_has_many_forms() {
        for response in
            ["", " \n", "null", " null ", "{}", r#"{"batchItemFailures":null}"#, r#"{"batchItemFailures":[]}"#]
        {
            assert_eq!(reporting(response), SUCCESS, "{response}");
        }
    }

    #[test]
    fn what_is_reported_stays_in_the_batchs_order_and_repeated_ids_are_fine() {
        for (response, failed) in [
            (r#"{"batchItemFailures":[{"itemIdentifier":"c"},{"itemIdentifier":"a"}]}"#, vec![0, 2]),
            (r#"{"batchItemFailures":[{"itemIdentifier":"a"},{"itemIdentifier":"a"}]}"#, vec![0]),
            (r#"{"batchItemFailures":[{"itemIdentifier":"b"}],"more":1}"#, vec![1, 3]),
            (r#"{"batchItemFailures":[{"itemIdentifier":"a","reason":"x"}]}"#, vec![0]),
            (r#"{"batchItemFailures":[{"itemIdentifier":"\u0061"}]}"#, vec![0]),
        ] {
            assert_eq!(reporting(response), Verdict::Partial { failed }, "{response}");
        }
    }

    #[test]
    fn complete_failure_has_many_forms() {
        for (response, words) in [
            ("oops", "found 4 bytes that are none"),
            (r#"{"batchItemFailures":[]"#, "that are none"),
            ("{}{}", "that are none"),
            (r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#, "an empty itemIdentifier"),
            (r#"{"batchItemFailures":[{"itemIdentifier":null}]}"#, "itemIdentifier is null"),
            (r#"{"batchItemFailures":[{"itemIdentifier":7}]}"#, "itemIdentifier is a number"),
            (r#"{"batchItemFailures":[{"ItemIdentifier":"a"}]}"#, "without an itemIdentifier"),
            (
                r#"{"batchItemFailures":[{"itemIdentifier":"a"},{"itemIdentifier":"z"}]}"#,
                "\"z\" in batchItemFailures[1]",
            ),
            (r#"{"batchItemFailures":[{"itemIdentifier":"a"},{"itemIdentifier":""}]}"#, "an empty itemIdentifier"),
            (r#"{"batchItemFailures":["a"]}"#, "batchItemFailures[0] that is a string"),
            (r#"{"batchItemFailures":"a"}"#, "batchItemFailures that is a string"),
            (r#"{"batchItemFailures":{}}"#, "batchItemFailures that is an object"),
            (r#""done""#, "found a string"),
            ("[]", "found an array"),
            ("0", "found a number"),
        ] {
            let Verdict::Failure(fault) = reporting(response) else { panic!("{response}") };
            assert!(fault.to_string().contains(words), "{response}: {fault}");
        }
        assert!(matches!(judge(b"\xff", &IDS, true), Verdict::Failure(_)));
    }

    #[test]
    fn an_object_without_the_key_is_a_success_and_noted() {
        for response in [r#"{"statusCode":200}"#, r#"{"BatchItemFailures":[{"itemIdentifier":"a"}]}"#] {
            let Verdict::Success { note: Some(note) } = reporting(response) else { panic!("{response}") };
            assert!(note.to_string().contains("no batchItemFailures"), "{note}");
        }
    }

    #[test]
    fn a_mapping_that_does_not_look_deletes_everything() {
        for response in ["", "null", "oops", "7", r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#] {
            assert_eq!(judge(response.as_bytes(), &IDS, false), SUCCESS, "{response}");
        }
        let reported = br#"{"batchItemFailures":[{"itemIdentifier":"a"}]}"#;
        assert_eq!(judge(reported, &IDS, false), Verdict::Success { note: Some(Note::Ignored) });
    }

    proptest! {
        /// A message is deleted if and only if it is not reported, and a response that names anything else deletes none.
        #[test]
        fn exactly_the_reported_ones_stay(
            batch in proptest::collection::vec("[a-f]", 0..12), reported in proptest::collection::vec("[a-g]", 0..8),
        ) {
            let ids: Vec<&str> = batch.iter().map(String::as_str).collect();
            let failures: Vec<_> = reported.iter().map(|id| json!({"itemIdentifier": id})).collect();
            let response = json!({"batchItemFailures": failures}).to_string();
            let staying: Vec<usize> = (0..ids.len()).filter(|&place| reported.contains(&batch[place])).collect();
            let expected = if reported.is_empty() {
                SUCCESS
            } else if let Some(index) = reported.iter().position(|id| !batch.contains(id)) {
                let fault = ResponseFault::UnknownId { index, id: reported[index].clone() };
                Verdict::Failure(fault)
            } else {
                Verdict::Partial { failed: staying }
            };
            prop_assert_eq!(judge(response.as_bytes(), &ids, true), expected);
        }

        /// No bytes make it panic, and none that are no response delete a part of a batch.
        #[test]
        fn any_bytes_are_judged(response in proptest::collection::vec(any::<u8>(), 0..40)) {
            let verdict = judge(&response, &IDS, true);
            let partial = matches!(verdict, Verdict::Partial { .. });
            prop_assert!(!partial);
        }
    }
}
