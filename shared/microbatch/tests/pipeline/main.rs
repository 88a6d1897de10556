//! The pipeline from event to response, on a paused clock with the memory store.

mod deadline;
mod envelopes;
mod fifo;
mod hooks;
mod isolation;
mod keys;
mod limits;
mod overload;
mod policies;
mod reported;
mod requeue;
mod retries;
mod rig;
mod store_failures;
mod sub_batches;
mod support;
mod total_failure;
mod turns;
mod watched;
mod wire;
