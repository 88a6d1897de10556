//! The pipeline from event to response, on a paused clock with the memory store.

mod deadline;
mod isolation;
mod keys;
mod limits;
mod policies;
mod store_failures;
mod support;
mod wire;
