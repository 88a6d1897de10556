//! The answer to an event: which messages failed.

use std::{collections::HashSet, fmt};

/// The ids of the messages that the queue shall deliver again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BatchResponse {
    failed_ids: Vec<String>,
}

/// A response that Lambda would read as the failure, or worse the success, of messages it does not mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseError {
    /// It names a message that was not received.
    UnknownId,
    /// It names a message twice, or out of the order in which they came.
    OutOfOrder,
    /// It has an empty id, which Lambda reads as "all failed".
    EmptyId,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResponseError::UnknownId => "the response names a message that was not received",
            ResponseError::OutOfOrder => "the response names a message twice or out of order",
            ResponseError::EmptyId => "the response has an empty id",
        })
    }
}

impl std::error::Error for ResponseError {}

impl BatchResponse {
    /// The response to messages in the order they came, each with whether it is acknowledged. An id that came twice is
    /// reported, once, if either of its messages failed.
    ///
    /// # Errors
    /// [`ResponseError`], when the result does not pass [`BatchResponse::check`]: a defect, or an empty id among those received.
    pub fn new<'a>(messages: impl Iterator<Item = (&'a str, bool)> + Clone) -> Result<Self, ResponseError> {
        let mut failed: HashSet<&str> =
            messages.clone().filter(|(_, acknowledged)| !acknowledged).map(|(id, _)| id).collect();
        if failed.is_empty() {
            return Ok(Self::default());
        }
        let failed_ids = messages.clone().filter(|(id, _)| failed.remove(id)).map(|(id, _)| id.to_owned()).collect();
        let response = Self { failed_ids };
        response.check(messages.map(|(id, _)| id))?;
        Ok(response)
    }

    /// Checks a response against the ids received: only those, each once, in order (P6).
    ///
    /// # Errors
    /// [`ResponseError`].
    pub fn check<'a>(&self, received: impl Iterator<Item = &'a str>) -> Result<(), ResponseError> {
        if self.failed_ids.iter().any(String::is_empty) {
            return Err(ResponseError::EmptyId);
        }
        let mut expected = self.failed_ids.iter().peekable();
        let mut known = HashSet::new();
        for id in received {
            if known.insert(id) {
                expected.next_if(|failed| *failed == id);
            }
        }
        match expected.next() {
            None => Ok(()),
            Some(failed) if known.contains(failed.as_str()) => Err(ResponseError::OutOfOrder),
            Some(_) => Err(ResponseError::UnknownId),
        }
    }

    /// The ids of the messages to deliver again, in the order they came.
    pub fn failed_ids(&self) -> &[String] {
        &self.failed_ids
    }

    /// Takes the ids out.
    pub fn into_failed_ids(self) -> Vec<String> {
        self.failed_ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(failed: &[&str]) -> BatchResponse {
        BatchResponse { failed_ids: failed.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn failures_stand_once_and_in_order() {
        let messages = [("a", false), ("b", true), ("a", true), ("c", false), ("c", false)];
        let response = BatchResponse::new(messages.into_iter()).expect("ids are there");
        assert_eq!(response.failed_ids(), ["a", "c"]);
        let twice = [("a", true), ("b", false), ("a", false)];
        assert_eq!(BatchResponse::new(twice.into_iter()).expect("ids are there").failed_ids(), ["a", "b"]);
    }

    #[test]
    fn an_id_that_failed_once_is_reported_even_if_its_other_copy_succeeded() {
        let response = BatchResponse::new([("a", true), ("a", false)].into_iter()).expect("ids are there");
        assert_eq!(response.failed_ids(), ["a"]);
    }

    #[test]
    fn a_wrong_response_is_recognised() {
        let received = || ["a", "b", "a", "c"].into_iter();
        assert_eq!(response(&["a", "c"]).check(received()), Ok(()));
        assert_eq!(response(&["c", "a"]).check(received()), Err(ResponseError::OutOfOrder));
        assert_eq!(response(&["a", "a"]).check(received()), Err(ResponseError::OutOfOrder));
        assert_eq!(response(&["d"]).check(received()), Err(ResponseError::UnknownId));
        assert_eq!(response(&[""]).check(received()), Err(ResponseError::EmptyId));
        assert_eq!(BatchResponse::new([("", false)].into_iter()), Err(ResponseError::EmptyId));
    }
}
