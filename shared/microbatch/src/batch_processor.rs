//! Micro-batching of the work itself: the user's function gets several items at once and answers for each.

use std::{fmt, future::Future};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    batcher::Limits,
    clock::BoxFuture,
    error::ProcessError,
    processor::{Done, ItemContext, Processor, WriteRefused, judge_refused},
};

/// An item of a sub-batch, with what is known of its message.
#[derive(Debug)]
pub struct BatchItem<T> {
    /// The decoded body.
    pub item: T,
    /// The message it came in, its key and its attempt.
    pub cx: ItemContext,
}

/// What a batch processor answers for one item.
pub type ItemResult<O, W> = Result<Done<O, W>, ProcessError>;

/// What a batch processor answers for a sub-batch: for each item, in order, or one error for the whole.
pub type BatchResult<O, W> = Result<Vec<ItemResult<O, W>>, ProcessError>;

/// The user's async function for several items at once: one bulk write instead of many single ones.
///
/// Each item of a sub-batch was claimed by itself and gets its own outcome. Run it by [`InBatches`]:
///
/// ```
/// use std::num::NonZeroUsize;
/// use microbatch::{
///     BatchItem, BatchProcessor, InBatches, NoWrites, Pipeline, ProcessError, batch_processor::BatchResult, batcher::Limits,
/// };
///
/// #[derive(serde::Deserialize)]
/// struct Reading {
///     device: String,
/// }
///
/// struct Store;
///
/// impl BatchProcessor for Store {
///     type Item = Reading;
///     type Output = ();
///     type Write = NoWrites;
///
///     async fn process_batch(&self, batch: &[BatchItem<Reading>]) -> BatchResult<(), NoWrites> {
///         Ok(batch.iter().map(|entry| match entry.item.device.is_empty() {
///             true => Err(ProcessError::permanent(std::fmt::Error).code("no_device")),
///             false => Ok(().into()),
///         }).collect())
///     }
/// }
///
/// let at_most = |value| NonZeroUsize::new(value).expect("not 0");
/// let limits = Limits { count_max: at_most(50), bytes_max: at_most(1_048_576), linger_ms: 20 };
/// let builder = Pipeline::builder(InBatches::new(Store, limits)).key("device");
/// # builder.validate().expect("valid");
/// ```
pub trait BatchProcessor: Send + Sync + 'static {
    /// The type a message's body is decoded into.
    type Item: DeserializeOwned + Send + Sync + 'static;
    /// The result that is stored with each item's completion; `()` stores none.
    type Output: Serialize + Send + 'static;
    /// The store's own write type, committed with each item's completion, or [`NoWrites`](crate::NoWrites).
    type Write: Send + Sync + 'static;

    /// Does the work of a sub-batch: never empty, within the limits of [`InBatches`], and in itself in the order in which
    /// the messages came.
    ///
    /// Answers with one result an item, in order. A wrong number of results fails all of them, since none can be assigned.
    ///
    /// # Errors
    /// An error for the sub-batch as a whole is each item's error, unless [`InBatches::bisect`] looks for the culprit.
    fn process_batch(
        &self,
        batch: &[BatchItem<Self::Item>],
    ) -> impl Future<Output = BatchResult<Self::Output, Self::Write>> + Send;

    /// Judges a write that was refused when it was to be committed; see [`Processor::write_refused`].
    fn write_refused(&self, refused: WriteRefused) -> ProcessError {
        judge_refused(refused)
    }
}

/// Runs a [`BatchProcessor`]: collects claimed items into sub-batches.
///
/// A sub-batch starts when it is full by count or bytes, when its first item has waited for `linger_ms`, and at once when
/// no claim of its invocation is out, or waits for room, that could let another item join it. A `linger_ms` of 0 counts as
/// 20: what is under way already may join, and what is slow holds up nothing. The time-out of an item is that of its
/// sub-batch; a panic or a time-out fails the whole sub-batch, since its effects are not known one by one.
pub struct InBatches<B> {
    inner: B,
    limits: Limits,
    bisect: bool,
}

impl<B: BatchProcessor> InBatches<B> {
    /// Sub-batches within `limits`. Sizes are those of the bodies as JSON text, as they stand in the event; a body above
    /// `bytes_max` gets a sub-batch of its own. `count_max` must not be over the concurrency setting,
    /// which counts items: such a sub-batch would never fill.
    pub fn new(inner: B, limits: Limits) -> Self {
        Self { inner, limits, bisect: false }
    }

    /// Splits a sub-batch that failed as a whole in two, again and again, to find the items that make it fail: the others
    /// then succeed. The processor sees an item up to `log2(count) + 1` times in an invocation (P14), rounded up; a bulk
    /// failure of unknown effect is not split.
    #[must_use]
    pub fn bisect(mut self) -> Self {
        self.bisect = true;
        self
    }

    async fn attempt(&self, batch: &[BatchItem<B::Item>]) -> Vec<ItemResult<B::Output, B::Write>> {
        match self.inner.process_batch(batch).await {
            Ok(results) if results.len() == batch.len() => results,
            Ok(results) => {
                let wrong = WrongCount { expected: batch.len(), found: results.len() };
                // The work may have been done, for some or for all.
                all_failed(batch.len(), &ProcessError::transient(wrong).code("wrong_count").effect_unknown())
            }
            Err(error) if self.bisect && batch.len() > 1 && !error.is_effect_unknown() => {
                let (first, second) = batch.split_at(batch.len() / 2);
                let mut results = self.attempt_boxed(first).await;
                results.extend(self.attempt_boxed(second).await);
                results
            }
            Err(error) => all_failed(batch.len(), &error),
        }
    }

    /// The recursion's indirection.
    fn attempt_boxed<'a>(
        &'a self,
        batch: &'a [BatchItem<B::Item>],
    ) -> BoxFuture<'a, Vec<ItemResult<B::Output, B::Write>>> {
        Box::pin(self.attempt(batch))
    }
}

/// The processor did not answer each item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongCount {
    /// Items in the sub-batch.
    pub expected: usize,
    /// Results that came.
    pub found: usize,
}

impl fmt::Display for WrongCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected {} results from the batch processor, one an item in order; found {}",
            self.expected, self.found
        )
    }
}

impl std::error::Error for WrongCount {}

fn all_failed<O, W>(count: usize, error: &ProcessError) -> Vec<ItemResult<O, W>> {
    (0..count).map(|_| Err(error.same())).collect()
}

impl<B: BatchProcessor> Processor for InBatches<B> {
    type Item = B::Item;
    type Output = B::Output;
    type Write = B::Write;

    async fn process(&self, item: B::Item, cx: &ItemContext) -> ItemResult<B::Output, B::Write> {
        let batch = [BatchItem { item, cx: cx.clone() }];
        let result = self.attempt(&batch).await.pop();
        result.unwrap_or_else(|| Err(ProcessError::transient(WrongCount { expected: 1, found: 0 })))
    }

    fn write_refused(&self, refused: WriteRefused) -> ProcessError {
        self.inner.write_refused(refused)
    }

    fn sub_batches(&self) -> Option<Limits> {
        Some(self.limits)
    }

    async fn process_many(&self, items: Vec<BatchItem<B::Item>>) -> Vec<ItemResult<B::Output, B::Write>> {
        self.attempt(&items).await
    }
}

impl<B> fmt::Debug for InBatches<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InBatches").field("limits", &self.limits).field("bisect", &self.bisect).finish_non_exhaustive()
    }
}
