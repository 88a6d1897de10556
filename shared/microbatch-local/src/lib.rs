//! Runs real function binaries on this machine.
//!
//! A function is a process of its own, as on Lambda. It talks to an in-process [Lambda Runtime API](runtime_api) and to a
//! `DynamoDB` that is [embedded](dynamodb) or reached by an endpoint URL. Nothing here knows the function's code: what is
//! learnt of it comes from its [log lines](items) and from its [response].

pub mod dynamodb;
pub mod environment;
pub mod event;
pub mod function;
pub mod interrupt;
pub mod items;
mod lines;
pub mod mapping;
pub mod package;
pub mod proxy;
pub mod response;
pub mod runtime_api;
pub mod tables;
