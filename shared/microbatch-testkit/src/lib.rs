//! Clocks, stores, queues, processors and recorders to test microbatch and what is built on it.
//!
//! [`TestPipeline`] is where to start: it tries a processor in memory.

pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod emf;
pub mod events;
pub mod fault;
pub mod queue;
pub mod recorder;
pub mod scripted;
pub mod try_it;

pub use self::try_it::{TestPipeline, message};
