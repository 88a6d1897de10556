//! SQS: parking messages and delaying them ([`SqsQueue`]), and sending many ([`SqsProducer`]).
//!
//! Both make one try a request: their client has its retries off ([`crate::sdk::sqs_client`]). A message counts as sent only
//! where the answer names that very entry as successful; an entry that the answer does not name has failed.

mod again;
mod answer;
mod attribute;
mod check;
mod delivery;
mod error;
#[cfg(test)]
mod fake_queue;
mod message;
mod order;
mod park;
mod producer;
mod queue;
mod rules;
#[cfg(test)]
mod schedules;
mod send_error;

pub use self::{
    answer::Sent,
    attribute::Attribute,
    message::OutgoingMessage,
    park::REASON_ATTRIBUTE,
    producer::{ProducerDriver, ProducerOptions, SendReceipt, SqsProducer},
    queue::SqsQueue,
    rules::{is_fifo, queue_name},
    send_error::{InvalidMessage, SendError},
};
