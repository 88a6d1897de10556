//! What a user writes: a [`Processor`] for one item, and what it may answer.

use std::{fmt, future::Future, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    batch_processor::{BatchItem, ItemResult},
    batcher::Limits,
    clock::Clock,
    error::ProcessError,
    key::Key,
    trace::TraceParent,
};

/// The user's async function for one item.
///
/// The method is declared with its future's `Send` bound; an implementation writes plain `async fn`.
///
/// What runs inside the returned future can be cancelled: it is dropped when the item's time is over or the
/// invocation's deadline is near. Work that must not be cut in two belongs in [`Done::with_writes`] (committed together
/// with the completion) or behind the sink's own idempotency, with [`ItemContext::idempotency_key`] passed downstream.
/// Work that blocks the thread, and tasks it spawns itself, are outside what microbatch can bound.
///
/// ```
/// use microbatch::{Done, ItemContext, NoWrites, ProcessError, Processor};
///
/// #[derive(serde::Deserialize)]
/// struct Order {
///     order_id: String,
/// }
///
/// struct PrintOrder;
///
/// impl Processor for PrintOrder {
///     type Item = Order;
///     type Output = ();
///     type Write = NoWrites;
///
///     async fn process(&self, order: Order, _cx: &ItemContext) -> Result<Done<()>, ProcessError> {
///         if order.order_id.len() > 64 {
///             return Err(ProcessError::permanent(std::io::Error::other("order id too long")));
///         }
///         Ok(().into())
///     }
/// }
/// ```
pub trait Processor: Send + Sync + 'static {
    /// The type a message's body is decoded into.
    type Item: DeserializeOwned + Send + 'static;
    /// The result that is stored with the completion and replayed to duplicates; `()` stores none.
    type Output: Serialize + Send + 'static;
    /// The store's own write type, committed with the completion, or [`NoWrites`].
    type Write: Send + Sync + 'static;

    /// Does the work for one item.
    ///
    /// # Errors
    /// A [`ProcessError`] says whether trying again can help; `?` on any error makes a transient one.
    fn process(
        &self,
        item: Self::Item,
        cx: &ItemContext,
    ) -> impl Future<Output = Result<Done<Self::Output, Self::Write>, ProcessError>> + Send;

    /// Judges a write of this processor's that was refused when it was to be committed: a condition of its own did not
    /// hold, or the store cannot take it. Nothing was written and the item is not done.
    ///
    /// By default a condition that did not hold is transient, with the code `write_condition_failed`, and what the store
    /// cannot take is permanent, with the code `write_invalid`.
    fn write_refused(&self, refused: WriteRefused) -> ProcessError {
        judge_refused(refused)
    }

    /// How large the sub-batches are that items are processed in. None: one by one. Only [`InBatches`] has any.
    ///
    /// [`InBatches`]: crate::InBatches
    #[doc(hidden)]
    fn sub_batches(&self) -> Option<Limits> {
        None
    }

    /// Does the work of a sub-batch, and answers each item in order.
    #[doc(hidden)]
    fn process_many(
        &self,
        items: Vec<BatchItem<Self::Item>>,
    ) -> impl Future<Output = Vec<ItemResult<Self::Output, Self::Write>>> + Send {
        async move {
            let mut results = Vec::with_capacity(items.len());
            for BatchItem { item, cx } in items {
                results.push(self.process(item, &cx).await);
            }
            results
        }
    }
}

/// What a refused write means, unless the processor says otherwise.
pub(crate) fn judge_refused(refused: WriteRefused) -> ProcessError {
    match refused.reason {
        WriteRefusal::Condition => ProcessError::transient(refused).code("write_condition_failed"),
        WriteRefusal::Invalid => ProcessError::permanent(refused).code("write_invalid"),
    }
}

/// Why a write was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriteRefusal {
    /// Its condition did not hold.
    Condition,
    /// The store cannot take it: too many writes, too large, malformed, or to the record itself.
    Invalid,
}

/// A write of a processor's that was refused when it was to be committed with the completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WriteRefused {
    /// Which of the writes, from 0; also 0 where the store does not say which.
    pub index: usize,
    /// Why.
    pub reason: WriteRefusal,
}

impl fmt::Display for WriteRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.reason {
            WriteRefusal::Condition => "its condition did not hold",
            WriteRefusal::Invalid => "the store cannot take it",
        };
        write!(f, "write {} was refused: {reason}; nothing was written", self.index)
    }
}

impl std::error::Error for WriteRefused {}

/// The write type of processors that leave no writes to the store. It has no values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoWrites {}

/// What a processor answers when its item is done: the output, and the writes to commit with the completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done<O, W = NoWrites> {
    output: O,
    writes: Vec<W>,
}

impl<O, W> Done<O, W> {
    /// Done, with this result and nothing left to write.
    pub fn new(output: O) -> Self {
        Self { output, writes: Vec::new() }
    }

    /// Done once these writes and the completion are committed, together or not at all.
    pub fn with_writes(output: O, writes: Vec<W>) -> Self {
        Self { output, writes }
    }

    /// The result.
    pub fn output(&self) -> &O {
        &self.output
    }

    /// The writes to commit with the completion.
    pub fn writes(&self) -> &[W] {
        &self.writes
    }

    /// Takes the answer apart: the result and the writes.
    pub fn into_parts(self) -> (O, Vec<W>) {
        (self.output, self.writes)
    }
}

impl<O, W> From<O> for Done<O, W> {
    fn from(output: O) -> Self {
        Self::new(output)
    }
}

/// What a processor may know of the message its item came in.
///
/// Strings are the message's own; none of them is logged by microbatch except the message id.
#[derive(Clone)]
pub struct ItemContext {
    /// Position of the message in its batch, from 0.
    pub index: usize,
    /// The queue's id of the message.
    pub message_id: Box<str>,
    /// How often the queue has delivered the message, this time included; 1 when the queue did not say.
    pub receive_count: u32,
    /// The message group, where the queue has one: an ordered group on a FIFO queue, a tenant on a fair one.
    pub group: Option<Box<str>>,
    /// The sender's trace, as in the message's `AWSTraceHeader`.
    pub trace_header: Option<Box<str>>,
    /// The fencing token: of two attempts at one key the later has the higher number. 0 without idempotency.
    pub attempt: u64,
    /// The item's own span, where the batch is traced: the parent of what the processor sends. Displayed, it is W3C's
    /// `traceparent`.
    pub trace: Option<TraceParent>,
    pub(crate) key: Option<Key>,
    pub(crate) ends_at_ms: u64,
    pub(crate) clock: Arc<dyn Clock>,
}

impl ItemContext {
    /// The idempotency key, to pass to a downstream that dedupes by key; none when idempotency is off.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.key.as_ref().map(Key::as_str)
    }

    /// Milliseconds until this item is cancelled: its own time-out, or the invocation's end if that comes first.
    pub fn time_left_ms(&self) -> u64 {
        self.ends_at_ms.saturating_sub(self.clock.now_ms())
    }

    /// A context to test a processor with: message id `test-message`, first delivery, attempt 1, a minute left.
    pub fn for_tests(clock: Arc<dyn Clock>) -> Self {
        Self {
            index: 0,
            message_id: "test-message".into(),
            receive_count: 1,
            group: None,
            trace_header: None,
            attempt: 1,
            trace: None,
            key: Some(Key::from_stored("test#key")),
            ends_at_ms: clock.now_ms().saturating_add(60_000),
            clock,
        }
    }
}

impl fmt::Debug for ItemContext {
    // The group, the trace and the key are the sender's text, and debug output ends in logs (P13).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemContext")
            .field("index", &self.index)
            .field("message_id", &self.message_id)
            .field("receive_count", &self.receive_count)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
