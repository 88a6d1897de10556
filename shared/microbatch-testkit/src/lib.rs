//! Clocks, stores and recorders to test microbatch and what is built on it.

pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod events;
pub mod fault;
pub mod recorder;
