//! What the operator's commands share: where things are, times in words, questions, and an end that leaves nothing half done.

pub(crate) mod ask;
pub(crate) mod place;
pub(crate) mod stop;
pub(crate) mod store;
pub(crate) mod times;
