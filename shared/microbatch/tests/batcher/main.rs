//! The micro-batcher: its policy against a model, and the primitive on a paused clock.

mod bounds;
mod close;
mod faults;
mod flush;
mod model;
mod policy;
mod schedules;
mod support;
