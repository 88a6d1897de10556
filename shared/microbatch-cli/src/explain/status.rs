//! A record in words: what it is, what the next delivery meets, and what to do. What is met is asked of the protocol itself.

use microbatch::decode::Identity;
use microbatch::record::{self, Owner, Record, StoredResult};
use microbatch::resolve::{Trace, TraceParts};
use microbatch::transition::{Answer, ClaimAnswer, ClaimRequest, OnLapsedLease, decide};
use microbatch::{FailureKind, Options, StoreError};
use serde_json::{Value, json};

use crate::dlq::letter::Letter;
use crate::operate::store::Found;
use crate::operate::times::{span, when, when_and_ago};
use crate::terminal::tame;

/// Longest text of a trace that is shown.
const TRACE_CHARS: usize = 100;

/// What is known of a key.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    key: String,
    state: State,
    record: Option<Record>,
    trace: Option<TraceParts>,
    /// Why the record cannot be read.
    unreadable: Option<String>,
    /// What a delivery meets under each policy; the configured one first.
    next: [(OnLapsedLease, ClaimAnswer); 2],
    compares: Compared,
    /// Whether a function parked the message for what is in it.
    is_refused: bool,
}

/// Whether the message says the same as the one that the record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    Same,
    Different,
    /// One of the two has no fingerprint that can be compared.
    Unknown,
}

/// Where a key stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unreadable,
    NeverClaimed,
    Expired,
    Live,
    Released,
    Lapsed,
    Completed,
}

impl State {
    fn of(record: Option<&Record>, now_ms: u64) -> Self {
        match record {
            None => Self::NeverClaimed,
            Some(record) if record.is_expired(now_ms) => Self::Expired,
            Some(record) if record.status == record::Status::Completed => Self::Completed,
            Some(record) if record.is_leased(now_ms) => Self::Live,
            Some(record) if record.is_released() => Self::Released,
            Some(_) => Self::Lapsed,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::NeverClaimed => "never_claimed",
            Self::Expired => "expired",
            Self::Live => "in_progress",
            Self::Released => "released",
            Self::Lapsed => "lapsed",
            Self::Completed => "completed",
        }
    }
}

impl Status {
    pub(crate) fn new(identity: &Identity, found: &Found, options: &Options, now_ms: u64) -> Self {
        let (record, trace, unreadable) = match found {
            Ok(found) => {
                let (record, trace) = found.clone().map_or((None, None), |(record, trace)| (Some(record), trace));
                (record, trace, None)
            }
            Err(error) => (None, None, Some(StoreError::to_string(error))),
        };
        let fingerprint = record.as_ref().and_then(|record| record.fingerprint.as_ref());
        let compares = match record::compare(fingerprint, identity.fingerprint.as_ref()) {
            record::Comparison::Different => Compared::Different,
            record::Comparison::Same if fingerprint.is_some() => Compared::Same,
            _ => Compared::Unknown,
        };
        let configured = options.on_lapsed_lease;
        let other = match configured {
            OnLapsedLease::Retry => OnLapsedLease::Park,
            OnLapsedLease::Park => OnLapsedLease::Retry,
        };
        let next = [configured, other].map(|policy| (policy, next(identity, record.as_ref(), policy, now_ms)));
        let state = if unreadable.is_some() { State::Unreadable } else { State::of(record.as_ref(), now_ms) };
        let trace = trace.as_ref().and_then(Trace::parts);
        Self {
            key: identity.key.as_str().to_owned(),
            state,
            record,
            trace,
            unreadable,
            next,
            compares,
            is_refused: false,
        }
    }

    /// The same of a message in a dead-letter queue, with why it is there.
    pub(crate) fn of(mut self, letter: &Letter) -> Self {
        let kind = letter.why.reason().map(|reason| reason.kind.as_str());
        self.is_refused = kind.is_some_and(|kind| {
            [FailureKind::Permanent, FailureKind::Undecodable].iter().any(|refused| refused.as_str() == kind)
        });
        self
    }

    /// All that is known, a line for each part.
    pub(crate) fn lines(&self, now_ms: u64) -> Vec<String> {
        let mut parts = vec![("key", self.key.clone()), ("status", self.words(now_ms))];
        if let Some(record) = &self.record {
            parts.extend(record_parts(record, now_ms));
        }
        if let Some(TraceParts { to, at_ms, by, was, .. }) = &self.trace {
            let (to, by, was) = (tame(to, TRACE_CHARS), tame(by, TRACE_CHARS), tame(was, TRACE_CHARS));
            parts.push(("resolved", format!("as {to} by {by}, {}; before: {was}", when_and_ago(*at_ms, now_ms))));
        }
        if self.unreadable.is_none() {
            parts.push(("next", self.next_words(now_ms)));
        }
        parts.push(("do", self.advice(now_ms)));
        parts.into_iter().map(|(name, text)| format!("{name:<12}{text}")).collect()
    }

    /// The status in one line, for a list.
    pub(crate) fn words(&self, now_ms: u64) -> String {
        let end = |what: &str| {
            let end_ms = self.record.as_ref().and_then(|record| record.lease_end_ms);
            end_ms.map_or_else(|| what.to_owned(), |end_ms| format!("{what} {}", when_and_ago(end_ms, now_ms)))
        };
        match self.state {
            State::Unreadable => format!("unreadable: {}", self.unreadable.as_deref().unwrap_or_default()),
            State::NeverClaimed => "never claimed, or forgotten: there is no record".to_owned(),
            State::Expired => "expired: its retention is over, and it counts as absent".to_owned(),
            State::Live => end("in progress, and its claim is live: the lease ends"),
            State::Released => "released: its work was given back, and anyone may begin it".to_owned(),
            State::Lapsed => end("lapsed: its holder vanished without a word; the lease ended"),
            State::Completed => "completed: its work is done".to_owned(),
        }
    }

    fn next_words(&self, now_ms: u64) -> String {
        let [(policy, first), (other, second)] = &self.next;
        let first_words = self.answer_words(first, now_ms);
        if std::mem::discriminant(first) == std::mem::discriminant(second) {
            return first_words;
        }
        format!(
            "{first_words} (on_lapsed_lease={}); with {}: {}",
            policy_name(*policy),
            policy_name(*other),
            self.answer_words(second, now_ms)
        )
    }

    fn answer_words(&self, answer: &ClaimAnswer, now_ms: u64) -> String {
        match answer {
            ClaimAnswer::Claimed(claimed) if self.is_refused => {
                format!("runs as try {}, if the function accepts it by now", claimed.tries)
            }
            ClaimAnswer::Claimed(claimed) => format!("runs, as try {}", claimed.tries),
            ClaimAnswer::Duplicate { .. } if self.compares == Compared::Same => {
                "is a Duplicate: the same work is done; it is acknowledged and runs nothing".to_owned()
            }
            ClaimAnswer::Duplicate { .. } => {
                "is a Duplicate: the work of this key is done (whether of the same content was not compared)".to_owned()
            }
            ClaimAnswer::Conflict => "is a Conflict: this key stands for other content; it never runs".to_owned(),
            ClaimAnswer::Busy { until_ms } => {
                format!("is Busy until {}, and is delivered again", when_and_ago(*until_ms, now_ms))
            }
            ClaimAnswer::Vanished => "is Rejected: work whose holder vanished is left to an operator".to_owned(),
        }
    }

    fn advice(&self, now_ms: u64) -> String {
        let resolve = format!("microbatch resolve '{}'", self.key);
        match (self.state, self.compares) {
            (State::Unreadable, _) => "look at the item in the table: it is of another version, or no record at all".to_owned(),
            (State::NeverClaimed | State::Expired | State::Released, _) if self.is_refused => {
                "mend the function or its sender first, then redrive: as it was, the function parks it again".to_owned()
            }
            (State::NeverClaimed | State::Expired | State::Released, _) => "redrive the message: it runs".to_owned(),
            (State::Live, _) => {
                let end_ms = self.record.as_ref().and_then(|record| record.lease_end_ms);
                let wait = end_ms.map_or_else(String::new, |end_ms| format!(" {}", span(end_ms.saturating_sub(now_ms))));
                format!("wait{wait} until the lease ends, and look again: its work may be going on")
            }
            (State::Lapsed | State::Completed, Compared::Different) => {
                "find out why the sender used one key for two things; this message never runs under it: purge it, or send it \
                 anew under another key"
                    .to_owned()
            }
            (State::Lapsed, _) => format!(
                "find out whether the effect of this attempt happened. If it did: {resolve} --completed. If not, or if it may \
                 happen twice: {resolve} --retry, then redrive the message"
            ),
            (State::Completed, _) => format!(
                "nothing: a message of this key may be purged. Only if the work is known to be undone: {resolve} --retry \
                 --undo-completed"
            ),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let record = self.record.as_ref();
        let result_bytes = record.and_then(|record| match &record.result {
            StoredResult::Kept(json) => Some(json.len()),
            StoredResult::None | StoredResult::NotKept => None,
        });
        let trace = self.trace.as_ref();
        let next: serde_json::Map<String, Value> = self
            .next
            .iter()
            .map(|(policy, answer)| (policy_name(*policy).to_owned(), answer_name(answer).into()))
            .collect();
        json!({
            "key": self.key,
            "status": self.state.name(),
            "error": self.unreadable,
            "owner": record.and_then(|record| record.owner.as_ref()).map(Owner::as_str),
            "attempt": record.and_then(|record| record.attempt),
            "tries": record.map(|record| record.tries),
            "lease_end_ms": record.and_then(|record| record.lease_end_ms),
            "retention_end_s": record.map(|record| record.retention_end_s),
            "has_fingerprint": record.map(|record| record.fingerprint.is_some()),
            "result_bytes": result_bytes,
            "resolved": trace.map(|parts| json!({"to": parts.to, "at_ms": parts.at_ms, "by": parts.by, "was": parts.was})),
            "next": if self.unreadable.is_some() { Value::Null } else { next.into() },
        })
    }
}

/// What a delivery of the message would meet now: nothing is written.
fn next(identity: &Identity, record: Option<&Record>, on_lapsed_lease: OnLapsedLease, now_ms: u64) -> ClaimAnswer {
    let claim = ClaimRequest {
        key: identity.key.clone(),
        // Nobody's: a claim's own token is a random one.
        owner: Owner::new(""),
        fingerprint: identity.fingerprint.clone(),
        lease_end_ms: now_ms,
        retention_end_s: now_ms / 1_000,
        on_lapsed_lease,
    };
    match decide(record, (&claim).into(), now_ms).answer {
        Answer::Claim(answer) => answer,
        other => unreachable!("a claim was answered by {other:?}"),
    }
}

fn record_parts(record: &Record, now_ms: u64) -> Vec<(&'static str, String)> {
    let mut parts = Vec::new();
    if let Some(owner) = &record.owner {
        parts.push(("owner", tame(owner.as_str(), TRACE_CHARS)));
    }
    if let Some(attempt) = record.attempt {
        // It is the time of the claim, or one more than the attempt before.
        parts.push((
            "attempt",
            format!("{attempt}, claimed about {}; claims so far: {}", when_and_ago(attempt, now_ms), record.tries),
        ));
    }
    parts.push(("kept until", when(record.retention_end_s.saturating_mul(1_000))));
    let fingerprint = record.fingerprint.as_ref().map(|text| text.as_str().len());
    parts.push(("fingerprint", fingerprint.map_or_else(|| "none".to_owned(), |bytes| format!("{bytes} bytes"))));
    parts.push((
        "result",
        match &record.result {
            StoredResult::None => "none".to_owned(),
            StoredResult::Kept(json) => format!("{} bytes", json.len()),
            StoredResult::NotKept => "there was one, or may have been one; it was not kept".to_owned(),
        },
    ));
    parts
}

fn policy_name(policy: OnLapsedLease) -> &'static str {
    match policy {
        OnLapsedLease::Retry => "retry",
        OnLapsedLease::Park => "park",
    }
}

fn answer_name(answer: &ClaimAnswer) -> &'static str {
    match answer {
        ClaimAnswer::Claimed(_) => "runs",
        ClaimAnswer::Duplicate { .. } => "duplicate",
        ClaimAnswer::Conflict => "conflict",
        ClaimAnswer::Busy { .. } => "busy",
        ClaimAnswer::Vanished => "vanished",
    }
}

#[cfg(test)]
mod tests {
    use microbatch::Key;
    use microbatch::record::Fingerprint;
    use microbatch::resolve::Resolution;
    use microbatch::store::StoreErrorKind;

    use super::*;

    const NOW_MS: u64 = 1_764_000_000_000;

    fn identity(fingerprint: Option<&str>) -> Identity {
        Identity { key: Key::from_stored("orders#k"), fingerprint: fingerprint.map(Fingerprint::new), previous: None }
    }

    fn record(status: record::Status, lease_end_ms: u64) -> Record {
        Record {
            status,
            owner: Some(Owner::new("o-1")),
            attempt: Some(NOW_MS - 60_000),
            tries: 3,
            lease_end_ms: Some(lease_end_ms),
            retention_end_s: NOW_MS / 1_000 + 60,
            fingerprint: Some(Fingerprint::new("v1:a")),
            result: StoredResult::Kept("\"canary\"".into()),
        }
    }

    fn told(record: Option<Record>, fingerprint: Option<&str>) -> String {
        let found = Ok(record.map(|record| (record, None)));
        let status = Status::new(&identity(fingerprint), &found, &Options::default(), NOW_MS);
        let text = status.lines(NOW_MS).join("\n");
        assert!(!text.contains("canary") && !status.to_json().to_string().contains("canary"), "P13: {text}");
        text
    }

    #[test]
    fn each_state_is_told_with_what_comes_next_and_what_to_do() {
        let (progress, completed) = (record::Status::InProgress, record::Status::Completed);
        let expired = Record { retention_end_s: 1, ..record(completed, 1) };
        for (found, fingerprint, parts) in [
            (None, None, ["never claimed", "runs, as try 1", "redrive"]),
            (Some(expired), None, ["expired", "runs, as try 4", "redrive"]),
            (Some(record(progress, NOW_MS + 35_000)), None, ["live", "Busy until", "wait 35 s"]),
            (Some(record(progress, 1)), None, ["released", "runs, as try 4", "redrive"]),
            (Some(record(progress, NOW_MS - 5_000)), None, ["lapsed", "with park: is Rejected", "--completed"]),
            (Some(record(progress, NOW_MS - 5_000)), Some("v1:b"), ["lapsed", "Conflict", "purge"]),
            (Some(record(completed, 1)), Some("v1:a"), ["completed", "the same work is done", "nothing"]),
            (Some(record(completed, 1)), None, ["completed", "not compared", "--undo-completed"]),
            (Some(record(completed, 1)), Some("v1:b"), ["completed", "Conflict", "one key for two things"]),
        ] {
            let text = told(found, fingerprint);
            assert!(parts.iter().all(|part| text.contains(part)), "{parts:?}\n{text}");
        }
    }

    #[test]
    fn sizes_are_told_and_contents_are_not() {
        let text = told(Some(record(record::Status::Completed, 1)), None);
        for part in ["owner       o-1", "claims so far: 3", "result      8 bytes", "fingerprint 4 bytes", "(60 s ago)"]
        {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn a_record_that_cannot_be_read_says_why() {
        let found = Err(StoreError::new(StoreErrorKind::Malformed, "record orders#k: expected status"));
        let status = Status::new(&identity(None), &found, &Options::default(), NOW_MS);
        let text = status.lines(NOW_MS).join("\n");
        assert!(text.contains("unreadable: the record cannot be read") && !text.contains("next"), "{text}");
        assert_eq!(status.to_json()["status"], "unreadable");
    }

    #[test]
    fn who_resolved_it_is_told() {
        let lapsed = record(record::Status::InProgress, NOW_MS - 1);
        let trace = Trace::new(Resolution::Completed, NOW_MS, "maria\u{1b}[31m", Some(&lapsed));
        let found = Ok(Some((record(record::Status::Completed, 1), Some(trace))));
        let status = Status::new(&identity(None), &found, &Options::default(), NOW_MS);
        let text = status.lines(NOW_MS).join("\n");
        assert!(text.contains("resolved    as completed by maria?[31m"), "{text}");
    }
}
