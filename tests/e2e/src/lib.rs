//! The harness of the end-to-end tests: what they install, build, start and read back.
//!
//! Behind the feature `harness`, so that the release build of the `scripted` function goes without all of it.
#![cfg(feature = "harness")]

pub mod events;
pub mod functions;
pub mod http;
pub mod install;
mod lock;
pub mod otlp;
pub mod paths;
pub mod process;
pub mod samples;
pub mod sqs;
pub mod stack;
pub mod tools;
