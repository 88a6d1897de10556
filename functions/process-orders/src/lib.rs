//! Takes orders from a queue and writes each to the orders table.
//!
//! An order that is invalid is a permanent failure. One that amends an order which is not there yet is a transient one.
//! Nothing here talks to AWS: the processor returns its writes, and they are committed with the completion or not at all.

pub mod config;
mod currency;
pub mod order;
pub mod orders;
pub mod process;
