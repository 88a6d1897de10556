//! Calls to the store and to the queue, tried again within bounds (P14).

use std::{future::Future, sync::Arc};

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use crate::{
    clock::{Clock, Random},
    queue::{DelayRequest, ParkRequest, Queue, QueueError},
    record::Owner,
    store::{Commit, Store, StoreError, StoreErrorKind},
    telemetry::{CallKind, CallLog, CallReport},
    transition::{ClaimAnswer, ClaimRequest, CompleteAnswer, CompleteRequest, ReleaseAnswer, ReleaseRequest},
};

/// How often a claim, a release, or a call to the queue is tried.
const TRIES_MAX: u32 = 3;
/// Wait before the second try; doubled for each further one.
const BACKOFF_BASE_MS: u64 = 25;
/// Longest wait between two tries.
const BACKOFF_MAX_MS: u64 = 1_000;

/// How many tries after the first are under way at once in the process, of each kind.
const RETRY_PLACES: usize = 8;

/// Room for tries after the first. Completions have their own, since their effects have happened, and so have calls to
/// the queue: one that hangs must not keep a key from being given back.
pub(super) struct RetryPlaces {
    completions: Semaphore,
    queue: Semaphore,
    others: Semaphore,
}

impl Default for RetryPlaces {
    fn default() -> Self {
        let places = || Semaphore::new(RETRY_PLACES);
        Self { completions: places(), queue: places(), others: places() }
    }
}

/// Why a call failed, as far as trying again goes.
pub(super) trait CallError: Clone + Send + Sync {
    /// Whether the same request may succeed when it is sent again.
    fn may_pass(&self) -> bool;

    /// Whether the request may have been applied all the same.
    fn may_be_applied(&self) -> bool;

    /// Another number of answers came than there were requests.
    fn wrong_count(expected: usize, found: usize) -> Self;
}

impl CallError for StoreError {
    fn may_pass(&self) -> bool {
        self.is_retryable()
    }

    fn may_be_applied(&self) -> bool {
        !matches!(self.kind(), StoreErrorKind::Throttled | StoreErrorKind::Refused)
    }

    fn wrong_count(expected: usize, found: usize) -> Self {
        StoreError::new(StoreErrorKind::Malformed, format!("expected {expected} answers from the store, found {found}"))
    }
}

impl CallError for QueueError {
    fn may_pass(&self) -> bool {
        self.is_retryable()
    }

    fn may_be_applied(&self) -> bool {
        self.is_retryable()
    }

    fn wrong_count(expected: usize, found: usize) -> Self {
        QueueError::lasting("queue_malformed", format!("expected {expected} answers from the queue, found {found}"))
    }
}

/// One kind of request to a store or a queue.
pub(super) trait Call<S> {
    type Answer: Send;
    type Error: CallError;

    /// What it is in reports.
    const KIND: CallKind;
    /// How often it is tried; none: until its time is over.
    const TRIES_MAX: Option<u32>;

    /// Where it waits before it is tried again.
    fn places(places: &RetryPlaces) -> &Semaphore {
        &places.others
    }

    fn send(
        store: &S,
        now_ms: u64,
        requests: &[Self],
    ) -> impl Future<Output = Vec<Result<Self::Answer, Self::Error>>> + Send
    where
        Self: Sized;
}

impl<S: Store> Call<S> for ClaimRequest {
    type Answer = ClaimAnswer;
    type Error = StoreError;
    const KIND: CallKind = CallKind::Claim;
    const TRIES_MAX: Option<u32> = Some(TRIES_MAX);

    fn send(
        store: &S,
        now_ms: u64,
        requests: &[Self],
    ) -> impl Future<Output = Vec<Result<ClaimAnswer, StoreError>>> + Send {
        store.claim(now_ms, requests)
    }
}

impl<S: Store> Call<S> for ReleaseRequest {
    type Answer = ReleaseAnswer;
    type Error = StoreError;
    const KIND: CallKind = CallKind::Release;
    const TRIES_MAX: Option<u32> = Some(TRIES_MAX);

    fn send(
        store: &S,
        now_ms: u64,
        requests: &[Self],
    ) -> impl Future<Output = Vec<Result<ReleaseAnswer, StoreError>>> + Send {
        store.release(now_ms, requests)
    }
}

impl<S: Commit<W>, W: Send + Sync> Call<S> for CompleteRequest<W> {
    type Answer = CompleteAnswer;
    type Error = StoreError;
    const KIND: CallKind = CallKind::Complete;
    /// The effect has happened: only the deadline ends it (rule 4).
    const TRIES_MAX: Option<u32> = None;

    fn places(places: &RetryPlaces) -> &Semaphore {
        &places.completions
    }

    fn send(
        store: &S,
        now_ms: u64,
        requests: &[Self],
    ) -> impl Future<Output = Vec<Result<CompleteAnswer, StoreError>>> + Send {
        store.complete(now_ms, requests)
    }
}

/// The writes of an item that runs without idempotency.
pub(super) struct UnkeyedWrite<W> {
    /// Names the try, so that a retry is recognised.
    pub(super) token: Owner,
    pub(super) writes: Vec<W>,
}

impl<S: Commit<W>, W: Send + Sync> Call<S> for UnkeyedWrite<W> {
    type Answer = CompleteAnswer;
    type Error = StoreError;
    const KIND: CallKind = CallKind::Complete;
    /// As a completion: an earlier try may have been applied.
    const TRIES_MAX: Option<u32> = None;

    fn places(places: &RetryPlaces) -> &Semaphore {
        &places.completions
    }

    async fn send(store: &S, _now_ms: u64, requests: &[Self]) -> Vec<Result<CompleteAnswer, StoreError>> {
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            answers.push(store.write(&request.token, &request.writes).await);
        }
        answers
    }
}

/// The queue that the host brought. A type of its own: the compiler cannot see through a trait object's lifetime that a call
/// is `Send`.
pub(super) struct SourceQueue(pub(super) Arc<dyn Queue>);

impl Call<SourceQueue> for ParkRequest {
    type Answer = ();
    type Error = QueueError;
    const KIND: CallKind = CallKind::Park;
    const TRIES_MAX: Option<u32> = Some(TRIES_MAX);

    fn places(places: &RetryPlaces) -> &Semaphore {
        &places.queue
    }

    async fn send(queue: &SourceQueue, _now_ms: u64, requests: &[Self]) -> Vec<Result<(), QueueError>> {
        queue.0.park(requests).await
    }
}

impl Call<SourceQueue> for DelayRequest {
    type Answer = ();
    type Error = QueueError;
    const KIND: CallKind = CallKind::Delay;
    const TRIES_MAX: Option<u32> = Some(TRIES_MAX);

    fn places(places: &RetryPlaces) -> &Semaphore {
        &places.queue
    }

    async fn send(queue: &SourceQueue, _now_ms: u64, requests: &[Self]) -> Vec<Result<(), QueueError>> {
        queue.0.delay(requests).await
    }
}

/// What the first try of several requests came to, by their positions.
pub(super) struct Tried<R, A, E> {
    /// Those that have their answer.
    pub(super) answered: Vec<(usize, Result<A, E>)>,
    /// Those to try again, each by itself: none holds up the others' answers (P7).
    pub(super) again: Vec<(usize, R, E)>,
}

/// What is needed to make a call, and to make it again.
#[derive(Clone, Copy)]
pub(super) struct Caller<'c> {
    pub(super) clock: &'c dyn Clock,
    pub(super) random: &'c dyn Random,
    pub(super) places: &'c RetryPlaces,
    pub(super) log: &'c CallLog,
}

/// Sends requests once.
pub(super) async fn try_once<S: Sync, R: Call<S> + Send + Sync>(
    target: &S,
    caller: Caller<'_>,
    requests: Vec<R>,
) -> Tried<R, R::Answer, R::Error> {
    let answers = send_once(target, caller, &requests).await;
    let mut tried = Tried { answered: Vec::with_capacity(requests.len()), again: Vec::new() };
    for (position, (request, answer)) in requests.into_iter().zip(answers).enumerate() {
        match answer {
            Err(error) if error.may_pass() => tried.again.push((position, request, error)),
            answer => tried.answered.push((position, answer)),
        }
    }
    tried
}

/// Sends a request again that has `failed` in a way that may pass, until it is answered, its tries are used up, or it is
/// `give_up_ms`.
///
/// Such tries share a few places in the process: a store that is throttling gets a trickle, however many calls it has
/// refused.
pub(super) async fn try_again<S: Sync, R: Call<S> + Send + Sync>(
    target: &S,
    caller: Caller<'_>,
    request: R,
    mut failed: R::Error,
    give_up_ms: u64,
) -> Result<R::Answer, R::Error> {
    let clock = caller.clock;
    let requests = [request];
    for tried in 1_u32.. {
        let resume_ms = clock.now_ms().saturating_add(backoff_ms(tried, caller.random));
        if R::TRIES_MAX.is_some_and(|max| tried >= max) || resume_ms >= give_up_ms {
            break;
        }
        clock.sleep_until(resume_ms).await;
        // The semaphores are never closed: without a permit there would be no limit, and nothing worse.
        let _place = R::places(caller.places).acquire().await;
        if clock.now_ms() >= give_up_ms {
            break;
        }
        match send_once(target, caller, &requests).await.pop() {
            Some(Err(error)) => {
                // Of two errors the one counts after which the request may have been applied: an earlier try that timed
                // out is not made undone by a later one that was throttled.
                let passes = error.may_pass();
                if !failed.may_be_applied() {
                    failed = error;
                }
                if !passes {
                    break;
                }
            }
            Some(Ok(answer)) => return Ok(answer),
            None => break,
        }
    }
    Err(failed)
}

/// Sends requests, and again what failed in a way that may pass. One answer a request, in order.
pub(super) async fn send_with_retries<S: Sync, R: Call<S> + Send + Sync>(
    target: &S,
    caller: Caller<'_>,
    requests: Vec<R>,
    give_up_ms: u64,
) -> Vec<Result<R::Answer, R::Error>> {
    let Tried { mut answered, again } = try_once(target, caller, requests).await;
    let retries = again.into_iter().map(|(position, request, error)| async move {
        (position, try_again(target, caller, request, error, give_up_ms).await)
    });
    answered.extend(join_all(retries).await);
    answered.sort_unstable_by_key(|(position, _)| *position);
    answered.into_iter().map(|(_, answer)| answer).collect()
}

async fn send_once<S: Sync, R: Call<S> + Sync>(
    target: &S,
    caller: Caller<'_>,
    requests: &[R],
) -> Vec<Result<R::Answer, R::Error>> {
    let started_ms = caller.clock.now_ms();
    let answers = R::send(target, started_ms, requests).await;
    let (expected, found) = (requests.len(), answers.len());
    let answers = if found == expected {
        answers
    } else {
        requests.iter().map(|_| Err(R::Error::wrong_count(expected, found))).collect()
    };
    let errors = answers.iter().filter(|answer| answer.is_err()).count();
    let ended_ms = caller.clock.now_ms();
    caller.log.push(CallReport { kind: R::KIND, started_ms, ended_ms, entries: expected, errors });
    answers
}

/// Half of the wait is certain, half is random, so that workers that failed together do not come back together.
fn backoff_ms(tried: u32, random: &dyn Random) -> u64 {
    let full_ms = BACKOFF_BASE_MS.saturating_mul(1 << tried.min(10)).min(BACKOFF_MAX_MS);
    full_ms / 2 + random.below(full_ms / 2 + 1)
}
