//! End-to-end tests: the binaries that cargo-lambda builds, under a Lambda Runtime API and on a real DynamoDB server.
//!
//! One test binary, so that all share one build of the functions and a machine links once.

mod big;
mod canary;
mod command;
mod concurrent;
mod conformance;
mod crash;
mod dlq;
mod infra;
mod init;
mod interop;
mod isolation;
mod ledger;
mod loop_ministack;
mod loop_orders;
mod loop_ours;
mod missing_id;
mod observed;
mod packages;
mod permissions;
mod queues;
mod redrive;
mod rie;
mod sqs_park;
mod sqs_producer;
mod store_failing;
mod telemetry;
mod tools;
mod twice;
mod up;
mod watch;
