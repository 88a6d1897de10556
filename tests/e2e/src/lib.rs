//! The harness of the end-to-end tests: what they install, build, start and read back.
//!
//! Behind the feature `harness`, so that the release build of the `scripted` function goes without all of it. What installs and
//! builds is behind `tools`, which the benchmark takes alone.
#![cfg(feature = "tools")]

#[cfg(feature = "harness")]
pub mod events;
pub mod functions;
#[cfg(feature = "harness")]
pub mod http;
pub mod install;
mod lock;
#[cfg(feature = "harness")]
pub mod otlp;
pub mod paths;
pub mod process;
#[cfg(feature = "harness")]
pub mod samples;
#[cfg(feature = "harness")]
pub mod sqs;
#[cfg(feature = "harness")]
pub mod stack;
pub mod tools;
