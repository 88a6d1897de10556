//! Takes orders from a queue and writes each to the orders table.
//!
//! An order that is invalid is a permanent failure. One that amends an order which is not there yet is a transient one.
//! Everything but [`orders::DynamoDbOrders`] runs without AWS.

pub mod config;
mod currency;
pub mod order;
pub mod orders;
pub mod process;
