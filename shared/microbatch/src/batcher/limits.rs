//! How big a batch may get, and how much may be under way.

use std::num::NonZeroUsize;

/// Limits of one batch. It is sent as soon as it reaches any of them.
///
/// `SendMessageBatch` of SQS takes ten entries of 1 MiB together; here a message waits at most 20 ms for others:
///
/// ```
/// use std::num::NonZeroUsize;
/// use microbatch::batcher::Limits;
///
/// let sqs = Limits {
///     count_max: NonZeroUsize::new(10).expect("not 0"),
///     bytes_max: NonZeroUsize::new(1_048_576).expect("not 0"),
///     linger_ms: 20,
/// };
/// # assert_eq!(sqs.linger_ms, 20);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most entries in a batch.
    pub count_max: NonZeroUsize,
    /// Most bytes in a batch, by the sizes that its entries are given in with. An entry above it fits no batch.
    pub bytes_max: NonZeroUsize,
    /// Longest time, in milliseconds, that an entry waits for others to fill its batch. 0: there is no such time; an entry
    /// waits for others only while a batch before it is in flight.
    pub linger_ms: u64,
}

/// How much a [`Batcher`](super::Batcher) holds at once (P11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most entries waiting or in flight. Those beyond wait with their submitter. The bytes held are at most this many times
    /// [`Limits::bytes_max`].
    pub entries_max: NonZeroUsize,
    /// Most batches in the sink at once.
    pub batches_in_flight_max: NonZeroUsize,
}
