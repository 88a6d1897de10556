//! The Lambda Runtime API on the loopback: the public HTTP contract between Lambda and a function's process.
//!
//! One [`RuntimeApi`] serves one process. Invocations queue; the process takes them by a long poll, one or several at a
//! time, as its runtime likes. <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// What Lambda accepts as an event and as a response, in bytes: 6 MiB and a hundred.
pub const LAMBDA_PAYLOAD_LIMIT_BYTES: usize = 6 * 1024 * 1024 + 100;

/// The largest event taken here, in bytes. More than Lambda takes, so that a test may go beyond; bounded all the same.
pub const EVENT_LIMIT_BYTES: usize = 16 * 1024 * 1024;

/// How long a process may take from its start to the first poll; Lambda's own limit for the init phase.
pub const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Invocations that wait for a poll before [`RuntimeApi::invoke`] itself waits.
const QUEUE_LENGTH: usize = 64;

const ERROR_TYPE_HEADER: &str = "lambda-runtime-function-error-type";

/// What a function answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvocationResult {
    /// The bytes posted as the response, unchanged; at most [`LAMBDA_PAYLOAD_LIMIT_BYTES`].
    Response(Bytes),
    /// The invocation failed deliberately, or its response was too large.
    FunctionError(FunctionError),
}

/// An error object as a function posts it for an invocation or for its init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionError {
    /// `errorType`, or the type header where the body names none.
    pub error_type: String,
    /// `errorMessage`; empty where the body has none.
    pub message: String,
    /// The bytes as posted.
    pub raw: Bytes,
}

/// Why an invocation has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvokeError {
    /// The event is over [`EVENT_LIMIT_BYTES`].
    EventTooLarge {
        /// The event's size in bytes.
        bytes: usize,
    },
    /// The function did not ask for the event: its init hangs, or it hangs after an earlier invocation.
    NeverAsked {
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// The deadline passed without an answer.
    TimedOut {
        /// The invocation's time-out in milliseconds.
        timeout_ms: u64,
    },
    /// The API was stopped while the invocation was waiting.
    Stopped,
}

impl fmt::Display for InvokeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EventTooLarge { bytes } => {
                write!(
                    f,
                    "the event has {bytes} bytes; at most {EVENT_LIMIT_BYTES} are taken here, and {LAMBDA_PAYLOAD_LIMIT_BYTES} by Lambda"
                )
            }
            Self::NeverAsked { waited_ms } => {
                write!(
                    f,
                    "the function did not ask for the event within {waited_ms} ms ({} ms for an init, and its time-out): its init hangs, or its runtime never polls the Runtime API",
                    INIT_TIMEOUT.as_millis()
                )
            }
            Self::TimedOut { timeout_ms } => {
                write!(f, "the function gave no answer within its time-out of {timeout_ms} ms")
            }
            Self::Stopped => f.write_str("the Runtime API was stopped before the function answered"),
        }
    }
}

impl std::error::Error for InvokeError {}

/// The Runtime API of one function process. Dropping it stops the server.
#[derive(Debug)]
pub struct RuntimeApi {
    address: SocketAddr,
    queue: mpsc::Sender<Queued>,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    function_arn: HeaderValue,
    queue: tokio::sync::Mutex<mpsc::Receiver<Queued>>,
    waiting: Mutex<HashMap<String, oneshot::Sender<InvocationResult>>>,
    asked: AtomicBool,
    init_error: watch::Sender<Option<FunctionError>>,
}

#[derive(Debug)]
struct Queued {
    request_id: String,
    event: Bytes,
    timeout: Duration,
    taken: oneshot::Sender<Instant>,
    answer: oneshot::Sender<InvocationResult>,
}

impl RuntimeApi {
    /// Starts to listen on a free port of 127.0.0.1. `function_arn` is what each invocation names as the invoked function.
    ///
    /// # Errors
    /// When no port can be bound, or the ARN cannot stand in a header.
    pub async fn start(function_arn: &str) -> io::Result<Self> {
        let function_arn = HeaderValue::from_str(function_arn).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "the function's ARN has characters that a header cannot carry")
        })?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (queue, receiver) = mpsc::channel(QUEUE_LENGTH);
        let shared = Arc::new(Shared {
            function_arn,
            queue: tokio::sync::Mutex::new(receiver),
            waiting: Mutex::default(),
            asked: AtomicBool::new(false),
            init_error: watch::Sender::new(None),
        });
        let router = router(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            // It ends with an error for no cause that exists: axum's accept loop retries by itself.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, queue, shared, server })
    }

    /// Where the API listens: the value of `AWS_LAMBDA_RUNTIME_API`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the process has asked for an event yet, which means that its init is over.
    pub fn asked(&self) -> bool {
        self.shared.asked.load(Ordering::Acquire)
    }

    /// The error that the process posted as its init's, if it did.
    pub fn init_error(&self) -> Option<FunctionError> {
        self.shared.init_error.borrow().clone()
    }

    /// Waits until the process posts an init error; for ever if it never does.
    pub async fn init_failed(&self) -> FunctionError {
        let mut updates = self.shared.init_error.subscribe();
        match updates.wait_for(Option::is_some).await.map(|error| error.clone()) {
            Ok(Some(error)) => error,
            _ => std::future::pending().await,
        }
    }

    /// Hands an event to the process and waits for its answer.
    ///
    /// The deadline is `timeout` after the moment the process takes the event. Before that it may wait for
    /// [`INIT_TIMEOUT`] and one more `timeout`, in which an earlier invocation can end. Several may be in flight.
    /// A late answer is refused; to kill a process that missed its deadline is the caller's part.
    pub async fn invoke(&self, event: Bytes, timeout: Duration) -> Result<InvocationResult, InvokeError> {
        if event.len() > EVENT_LIMIT_BYTES {
            return Err(InvokeError::EventTooLarge { bytes: event.len() });
        }
        let request_id = Uuid::now_v7().to_string();
        let (answer, answered) = oneshot::channel();
        let (taken, taken_at) = oneshot::channel();
        let _forget = ForgetOnDrop { shared: &self.shared, request_id: &request_id };
        let queued = Queued { request_id: request_id.clone(), event, timeout, taken, answer };

        let patience = INIT_TIMEOUT + timeout;
        let pick_up = async {
            self.queue.send(queued).await.map_err(|_| InvokeError::Stopped)?;
            taken_at.await.map_err(|_| InvokeError::Stopped)
        };
        let taken_at = timeout_at(Instant::now() + patience, pick_up)
            .await
            .map_err(|_| InvokeError::NeverAsked { waited_ms: whole_ms(patience) })??;
        timeout_at(taken_at + timeout, answered)
            .await
            .map_err(|_| InvokeError::TimedOut { timeout_ms: whole_ms(timeout) })?
            .map_err(|_| InvokeError::Stopped)
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An invocation that nobody waits for any more must not be answered.
struct ForgetOnDrop<'a> {
    shared: &'a Shared,
    request_id: &'a str,
}

impl Drop for ForgetOnDrop<'_> {
    fn drop(&mut self) {
        self.shared.waiting().remove(self.request_id);
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<InvocationResult>>> {
        // Every critical section is a single map operation: a poisoned map is still a whole one.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request_id: &str, result: InvocationResult) -> Response<Body> {
        let waiting = self.waiting().remove(request_id);
        if waiting.is_some_and(|waiting| waiting.send(result).is_ok()) {
            return accepted();
        }
        refused(StatusCode::BAD_REQUEST, "InvalidRequestID", "no invocation of this id is waiting for an answer")
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{request_id}/response", post(response))
        .route("/2018-06-01/runtime/invocation/{request_id}/error", post(invocation_error))
        .route("/2018-06-01/runtime/init/error", post(init_error))
        .layer(DefaultBodyLimit::max(LAMBDA_PAYLOAD_LIMIT_BYTES))
        .with_state(shared)
}

async fn next(State(shared): State<Arc<Shared>>) -> Response<Body> {
    shared.asked.store(true, Ordering::Release);
    loop {
        let Some(queued) = shared.queue.lock().await.recv().await else {
            return refused(StatusCode::INTERNAL_SERVER_ERROR, "Stopped", "the Runtime API is stopping");
        };
        let deadline_ms = epoch_ms().saturating_add(whole_ms(queued.timeout));
        shared.waiting().insert(queued.request_id.clone(), queued.answer);
        if queued.taken.send(Instant::now()).is_err() {
            // Its caller has gone while it was in the queue.
            shared.waiting().remove(&queued.request_id);
            continue;
        }
        return invocation(&shared.function_arn, &queued.request_id, deadline_ms, queued.event);
    }
}

fn invocation(arn: &HeaderValue, request_id: &str, deadline_ms: u64, event: Bytes) -> Response<Body> {
    let mut answer = Response::new(Body::from(event));
    let headers = answer.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("lambda-runtime-deadline-ms", HeaderValue::from(deadline_ms));
    headers.insert("lambda-runtime-invoked-function-arn", arn.clone());
    for (name, value) in [
        ("lambda-runtime-aws-request-id", request_id.to_owned()),
        ("lambda-runtime-trace-id", trace_header(deadline_ms)),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    answer
}

async fn response(
    State(shared): State<Arc<Shared>>,
    Path(request_id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Response<Body> {
    match body {
        Ok(bytes) => shared.answer(&request_id, InvocationResult::Response(bytes)),
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            // Lambda's own type and wording for it.
            let message = format!(
                "Response payload size exceeded maximum allowed payload size ({LAMBDA_PAYLOAD_LIMIT_BYTES} bytes)."
            );
            let raw = json!({"errorType": "Function.ResponseSizeTooLarge", "errorMessage": message}).to_string();
            let error =
                FunctionError { error_type: "Function.ResponseSizeTooLarge".to_owned(), message, raw: raw.into() };
            let message = error.message.clone();
            shared.answer(&request_id, InvocationResult::FunctionError(error));
            refused(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message)
        }
        Err(_) => refused(StatusCode::BAD_REQUEST, "InvalidRequest", "the response's body could not be read"),
    }
}

async fn invocation_error(
    State(shared): State<Arc<Shared>>,
    Path(request_id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response<Body> {
    let error = function_error(&headers, body.unwrap_or_default());
    shared.answer(&request_id, InvocationResult::FunctionError(error))
}

async fn init_error(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response<Body> {
    let error = function_error(&headers, body.unwrap_or_default());
    shared.init_error.send_replace(Some(error));
    accepted()
}

fn function_error(headers: &HeaderMap, raw: Bytes) -> FunctionError {
    let object: Value = serde_json::from_slice(&raw).unwrap_or_default();
    let text = |name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
    let from_header = || headers.get(ERROR_TYPE_HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    FunctionError {
        error_type: text("errorType").or_else(from_header).unwrap_or_else(|| "Unhandled".to_owned()),
        message: text("errorMessage").unwrap_or_default(),
        raw,
    }
}

fn accepted() -> Response<Body> {
    json_answer(StatusCode::ACCEPTED, &json!({"status": "OK"}))
}

fn refused(status: StatusCode, error_type: &str, message: &str) -> Response<Body> {
    json_answer(status, &json!({"errorType": error_type, "errorMessage": message}))
}

fn json_answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut answer = Response::new(Body::from(body.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    answer
}

/// X-Ray's header with a fresh root, not sampled: there is no X-Ray here.
fn trace_header(now_ms: u64) -> String {
    let random = Uuid::now_v7().simple().to_string();
    let seconds = now_ms / 1_000;
    // The last 16 hex digits of a version 7 UUID are random but for two bits; the first 8 are a coarse clock.
    format!("Root=1-{seconds:08x}-{}{};Parent={};Sampled=0", &random[..8], &random[16..], &random[16..])
}

/// A duration in whole milliseconds, capped at `u64::MAX`.
pub(crate) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn epoch_ms() -> u64 {
    // A clock before 1970 gives 0, which a function must take as an unknown deadline.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, whole_ms)
}
