//! Posts ledger entries from a FIFO queue, in order for each account, and keeps the accounts' balances.
//!
//! # What is committed
//! An entry is posted by one transaction: the entry is put where none has its id, the account's balance in the entry's
//! currency is changed by the amount, and the record of the message is completed. All three are there or none is, wherever a
//! process dies and however often a message is delivered. So at every moment a balance is the sum of its account's entries
//! in that currency, and an entry counts once. Nothing here talks to AWS: the processor returns its writes.
//!
//! What guards an entry, from the outside in:
//!
//! 1. The record: a redelivered entry is a duplicate and writes nothing. An entry id that is used again with other content
//!    is a conflict by its fingerprint, and never runs.
//! 2. The entry itself, for the time after the record's retention, and for entries posted under another namespace: the
//!    transaction is refused, as `entry_exists`. Whether it is the same entry or another under a used id is for a person to
//!    see: the ledger is right either way.
//! 3. The balance: a debit asks for a balance that covers it, in the transaction that takes it. Two debits at once cannot
//!    both be covered by the same money.
//!
//! # Order
//! The queue is a FIFO one and a message's group is its account: an entry whose group is another, or that has none, is
//! refused as `wrong_group`, since nothing would keep it in order with the others of its account. Different accounts are
//! worked on side by side. Under the policy `Block`, the default, an entry that fails keeps those behind it waiting: they
//! are reported unstarted until it is posted, or until the queue's redrive policy has moved it to the dead-letter queue. So
//! a debit that is not covered does not let a later one pass. What is redriven from there comes behind entries that were
//! sent later. Messages of a standard queue may have groups too, and the function cannot tell: balances are right there as
//! well, but entries overtake each other, and a debit may come before the credit that covers it.
//!
//! Sequence numbers in the entries would only repeat what the group promises; there are none. `last_entry` in a balance
//! names the newest entry.
//!
//! # Limits
//! An amount is a whole number of the currency's minor unit, negative for a debit, of at most
//! [`AMOUNT_MINOR_MAX`](entry::AMOUNT_MINOR_MAX) either way. A balance is a number of DynamoDB's, which is exact to 38
//! digits: it would take 10^23 entries to overflow it. It may exceed 64 bits: read it into a 128-bit integer. An account
//! has one balance a currency, each opened by its first entry, which must be a credit; which currencies there are is a
//! setting. An account's entries are posted one after the other: a claim and a transaction each.

pub mod config;
pub mod currency;
pub mod entry;
pub mod ledger;
pub mod process;
