//! The error a processor answers with, and how any error becomes one.

use std::{any::type_name, error::Error as StdError, fmt, sync::Arc, time::Duration};

/// What kind of failure befell a message. A processor's own are the first two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The item is tried again by redelivery.
    Transient,
    /// Trying again cannot help: the item is rejected.
    Permanent,
    /// The body is no item, or has no key.
    Undecodable,
    /// Its key was used for other content.
    Conflict,
    /// Another claim holds its key.
    Busy,
    /// It was not tried, or cut short before it had started.
    Abandoned,
}

impl FailureKind {
    /// The kind's name, for logs, metrics and dead-letter queues.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Transient => "transient",
            FailureKind::Permanent => "permanent",
            FailureKind::Undecodable => "undecodable",
            FailureKind::Conflict => "conflict",
            FailureKind::Busy => "busy",
            FailureKind::Abandoned => "abandoned",
        }
    }
}

/// Why a processor failed.
///
/// Any `std::error::Error` becomes a transient one by `?`. It is itself no `std::error::Error`, which is what lets `?`
/// convert every other error; to send one through a function that returns a boxed error, use
/// [`ProcessError::into_error`], and its kind is found again.
///
/// microbatch logs the type name and the code of an error, never its text (P13).
///
/// ```
/// use microbatch::ProcessError;
/// use std::time::Duration;
///
/// fn charge(amount: &str) -> Result<u64, ProcessError> {
///     let amount: u64 = amount.parse().map_err(ProcessError::permanent)?; // a typo stays a typo
///     let rate = std::fs::read("rates.json")?; // may be there next time: transient
///     Ok(amount * rate.len() as u64)
/// }
///
/// assert!(charge("ten").unwrap_err().is_permanent());
/// let busy = ProcessError::transient(std::io::Error::other("busy")).retry_after(Duration::from_secs(5));
/// assert_eq!(busy.retry_after_hint(), Some(Duration::from_secs(5)));
/// ```
pub struct ProcessError {
    /// Shared, since the error of a sub-batch is that of each of its items.
    source: Arc<dyn StdError + Send + Sync>,
    type_name: &'static str,
    verdict: Verdict,
}

/// What is known of a failure beside its cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Verdict {
    kind: FailureKind,
    code: Option<&'static str>,
    retry_after: Option<Duration>,
    effect_unknown: bool,
}

impl Verdict {
    const fn of(kind: FailureKind) -> Self {
        Self { kind, code: None, retry_after: None, effect_unknown: false }
    }
}

impl ProcessError {
    /// The item failed and may succeed when it is tried again.
    pub fn transient<E: StdError + Send + Sync + 'static>(error: E) -> Self {
        Self { source: Arc::new(error), type_name: type_name::<E>(), verdict: Verdict::of(FailureKind::Transient) }
    }

    /// The item failed and trying it again cannot help: it is rejected.
    pub fn permanent<E: StdError + Send + Sync + 'static>(error: E) -> Self {
        Self { source: Arc::new(error), type_name: type_name::<E>(), verdict: Verdict::of(FailureKind::Permanent) }
    }

    /// A transient error from a boxed one (`anyhow::Error` converts into a box with `.into()`).
    pub fn from_boxed(error: Box<dyn StdError + Send + Sync>) -> Self {
        let verdict = find_verdict(&*error).unwrap_or(Verdict::of(FailureKind::Transient));
        Self { source: error.into(), type_name: "boxed error", verdict }
    }

    /// Names the failure for logs, metrics and dead-letter queues. A short constant such as `card_declined`.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.verdict.code = Some(code);
        self
    }

    /// Asks for the next try no sooner than after this time (at most 12 hours, the queue's limit).
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.verdict.retry_after = Some(delay);
        self
    }

    /// Says that the effect may have happened (a request was sent, no answer came). The key then stays held until a
    /// request in flight can no longer arrive, and is never run again where the policy for lapsed leases is to park.
    #[must_use]
    pub fn effect_unknown(mut self) -> Self {
        self.verdict.effect_unknown = true;
        self
    }

    /// Turns this into a `std::error::Error` that carries the verdict through other error types.
    pub fn into_error(self) -> ClassifiedError {
        ClassifiedError(self)
    }

    /// The same failure once more, for another item of the sub-batch that it befell.
    pub(crate) fn same(&self) -> Self {
        Self { source: Arc::clone(&self.source), type_name: self.type_name, verdict: self.verdict }
    }

    /// Whether trying again can help: Transient or Permanent.
    pub fn kind(&self) -> FailureKind {
        self.verdict.kind
    }

    /// Whether the failure is permanent.
    pub fn is_permanent(&self) -> bool {
        self.verdict.kind == FailureKind::Permanent
    }

    /// The failure's code, if it was given one.
    pub fn failure_code(&self) -> Option<&'static str> {
        self.verdict.code
    }

    /// The delay asked for before the next try.
    pub fn retry_after_hint(&self) -> Option<Duration> {
        self.verdict.retry_after
    }

    /// Whether the effect may have happened.
    pub fn is_effect_unknown(&self) -> bool {
        self.verdict.effect_unknown
    }

    /// The type of the error, for logs: a type's name holds no payload.
    pub fn type_name(&self) -> &'static str {
        self.type_name
    }

    /// The error itself. Its text may hold payload: it is for the user's own code, not for logs.
    pub fn source(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.source
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for ProcessError {
    fn from(error: E) -> Self {
        let verdict = find_verdict(&error).unwrap_or(Verdict::of(FailureKind::Transient));
        Self { source: Arc::new(error), type_name: type_name::<E>(), verdict }
    }
}

/// Looks for a verdict given further down, so that a wrapper does not turn a permanent failure into a transient one.
fn find_verdict(error: &(dyn StdError + 'static)) -> Option<Verdict> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(classified) = error.downcast_ref::<ClassifiedError>() {
            return Some(classified.0.verdict);
        }
        next = error.source();
    }
    None
}

impl fmt::Debug for ProcessError {
    // Not the source: its text may hold payload, and debug output ends in logs (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessError")
            .field("type_name", &self.type_name)
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.verdict.kind.as_str();
        write!(f, "{kind} failure {} ({})", self.verdict.code.unwrap_or("without a code"), self.type_name)
    }
}

/// A [`ProcessError`] as a `std::error::Error`, so that it can travel inside other error types.
#[derive(Debug)]
pub struct ClassifiedError(ProcessError);

impl fmt::Display for ClassifiedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for ClassifiedError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Wrapper(ClassifiedError);

    impl fmt::Display for Wrapper {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("wrapped")
        }
    }

    impl StdError for Wrapper {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn any_error_is_transient_by_default() {
        let failed: Result<(), ProcessError> = (|| {
            String::from_utf8(vec![0xff])?;
            Ok(())
        })();
        let error = failed.expect_err("not UTF-8");
        assert_eq!(error.kind(), FailureKind::Transient);
        assert_eq!(error.type_name(), "alloc::string::FromUtf8Error");
    }

    #[test]
    fn a_verdict_survives_a_wrapper_and_a_box() {
        let inner = || ProcessError::permanent(fmt::Error).code("card_declined").effect_unknown().into_error();
        for error in [ProcessError::from(Wrapper(inner())), ProcessError::from_boxed(Box::new(Wrapper(inner())))] {
            assert!(error.is_permanent());
            assert!(error.is_effect_unknown());
            assert_eq!(error.failure_code(), Some("card_declined"));
        }
    }

    #[test]
    fn neither_display_nor_debug_shows_the_text() {
        let error = ProcessError::transient(std::io::Error::other("card 4111")).code("refused");
        assert!(!format!("{error} {error:?} {:?}", error.verdict).contains("4111"));
        assert_eq!(error.to_string(), "transient failure refused (std::io::error::Error)");
    }
}
