//! The event source mapping: its rules in simulations, and the whole of it with real processes on a small SQS API.

mod driver;
mod planner;
mod simulation;
mod sqs;
