//! Takes readings of devices from a queue, in batches of up to 10,000, and writes them compacted and in bulk.
//!
//! # What is written
//! Items are claimed one by one and worked on in sub-batches of up to 1,000. The readings of a sub-batch that are of one
//! device, one metric and one minute become one row: a map from sequence number to time and value. Rows are put by
//! `BatchWriteItem`, 25 to a request. A hundred readings of a device in a minute cost a few write units instead of a hundred.
//!
//! | Attribute | |
//! |---|---|
//! | `device_id` (S) | partition key |
//! | `row_id` (S) | sort key: metric, `#`, start of the minute in epoch milliseconds, `#`, digest of the readings in the row |
//! | `window_start_ms` (N) | the start of the minute |
//! | `readings` (M) | for each sequence number (as text): a list of two numbers, milliseconds since the start, and the value |
//!
//! # How it is read
//! Query the device for row ids that begin with `metric#start#`, take the *union* of the rows by sequence number, and count,
//! sum or pick the last of that: [`summary`] does, and says what the words mean. Rows hold readings and not sums, since
//! the sums of two rows that share a reading cannot be put right.
//!
//! # Why nothing is lost or counted twice
//! Delivery is at least once, and `BatchWriteItem` puts without a condition. Two things could go wrong, and cannot:
//!
//! - *A put overwrites another's readings.* A row's key holds the digest of the very readings in it. Two puts to one key put
//!   the same row, so that a put may be repeated, arrive late, or overtake another. What differs has keys that differ.
//! - *A reading is in two rows.* A process may die after a put and before its items are completed, or the put's answer may be
//!   lost. The readings are delivered again, grouped with others, and stand in another row too. In the union they are the
//!   same reading. This is all that a retry costs: some bytes, until someone rewrites the rows of old minutes.
//!
//! A reading is only acknowledged once a row that holds it is in the table, and rows are never deleted or changed. So the
//! union of the rows is every acknowledged reading, each once; `tests/at_least_once.rs` shows it for random deliveries,
//! duplicates, faults and deaths, with the idempotency table and without. What that table adds: a redelivery of what is done
//! costs no put, and another value under a used sequence number is a conflict.
//!
//! # When a write fails
//! Rows that DynamoDB leaves unprocessed, and requests that are throttled or not answered, are sent again after a growing,
//! random delay, within the time that the sub-batch has. Rows that are still not written fail exactly the readings in
//! them, as transient. A row that DynamoDB refuses is found by splitting its request, and its readings are rejected. All
//! readings of other rows are acknowledged.
//!
//! # Limits
//! - A device counts its readings of a metric by `sequence`, and never uses a number twice. One that starts again at 0 after
//!   a restart needs another id, or its restarts in the upper digits: else its new readings are conflicts, and rejected. A
//!   number's record is not kept for ever (22 days), nor does it know what was written for a claim that was given back: then
//!   a second reading of the number and minute gets in, and a reader's summary counts the number as disputed.
//! - A value is a double between 10^-100 and 10^100 either way, or 0; a time is in epoch milliseconds, and at most five
//!   minutes ahead of the function's clock.
//! - Late readings are fine: they become rows of their minute whenever they come.
//! - The minute is a part of the key. Another length needs another table.
//! - All readings of a device are in one partition, which takes 1,000 write units a second.

pub mod bulk;
pub mod config;
pub mod process;
pub mod reading;
pub mod row;
pub mod summary;
pub mod table;
