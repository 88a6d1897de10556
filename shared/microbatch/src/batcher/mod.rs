//! The micro-batcher: small units of work collected until a count, a byte size or an age is reached, then sent as one.
//!
//! [`Collector`] is the policy: pure, without a clock or a future. [`Batcher`] is the primitive over it: many submitters, one
//! [`Driver`] that sends their entries in batches and gives each submitter its own entry's result. What is waiting or in
//! flight is bounded by [`Bounds`] (P11): when there is no room, submitters wait.
//!
//! The driver is a plain future and makes no task of its own. Poll it beside the submitters, as here, or spawn it. It ends
//! once the batcher is closed, or its last handle dropped, and every entry has its result.
//!
//! ```
//! use std::{num::NonZeroUsize, sync::Arc};
//!
//! use microbatch::batcher::{Batch, Batcher, BatcherError, Bounds, Limits};
//! # use microbatch_testkit::clock::TokioClock as WallClock;
//!
//! const fn at_most(value: usize) -> NonZeroUsize {
//!     NonZeroUsize::new(value).expect("not 0")
//! }
//!
//! /// One request for all of them, one answer for each.
//! async fn send(batch: Batch<String>) -> Vec<usize> {
//!     batch.entries.iter().map(String::len).collect()
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BatcherError<String>> {
//! let limits = Limits { count_max: at_most(10), bytes_max: at_most(1_048_576), linger_ms: 0 };
//! let bounds = Bounds { entries_max: at_most(100), batches_in_flight_max: at_most(2) };
//! let (batcher, driver) = Batcher::new(limits, bounds, Arc::new(WallClock::default()), String::len, send);
//! let work = async {
//!     let (one, two) = tokio::try_join!(batcher.submit("one".into()), batcher.submit("three".into()))?;
//!     batcher.close();
//!     Ok((one, two))
//! };
//! let (lengths, ()) = tokio::join!(work, driver);
//! assert_eq!(lengths?, (3, 5));
//! # Ok(())
//! # }
//! ```

mod collector;
mod driver;
mod error;
mod handle;
mod limits;

pub use self::{
    collector::{Batch, Collector, EntryTooLarge, FlushReason, Pushed},
    driver::Driver,
    error::BatcherError,
    handle::{Batcher, Receipt},
    limits::{Bounds, Limits},
};
