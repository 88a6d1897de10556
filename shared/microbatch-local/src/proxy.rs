//! A reverse proxy before a DynamoDB endpoint, which counts the calls and makes some of them fail.
//!
//! A [`Script`] decides, call by call: a call may be refused, applied and not answered, throttled, or made to wait. Its hooks
//! run while a call is at a known point, before it is applied or after, and are the place to kill a process at that point.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue, TRANSFER_ENCODING};
use hyper::http::{request, uri};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// DynamoDB takes requests of up to 16 MiB.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One call of the DynamoDB API, as a script sees it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// How many calls came before it since the proxy started or got its script; 0 for the first.
    pub index: usize,
    /// The operation, as `X-Amz-Target` names it: `PutItem`, `TransactWriteItems` ...
    pub operation: &'a str,
    /// How many calls of the same operation came before it; 0 for the first.
    pub nth_of_operation: usize,
    /// The tables that the request names, each once.
    pub tables: &'a [String],
    /// The request's body.
    pub body: &'a [u8],
}

/// What is to happen to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing: it is forwarded and answered.
    #[default]
    Pass,
    /// It is forwarded after this time.
    Delay(Duration),
    /// Not forwarded; answered with DynamoDB's `ThrottlingException`.
    Throttle,
    /// Not forwarded; answered with DynamoDB's `InternalServerError`.
    Error500,
    /// Not forwarded; answered with this status and body.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The body, as DynamoDB would send it.
        body: &'static str,
    },
    /// Not forwarded; the connection is closed without an answer.
    Refuse,
    /// Forwarded and applied; then the connection is closed without an answer.
    DropAnswer,
    /// Not forwarded and never answered, until the client gives up.
    HangBefore,
    /// Forwarded and applied, but never answered, until the client gives up.
    HangAfter,
}

/// Decides what happens to each call. A closure `Fn(&Call<'_>) -> Fault` is one.
pub trait Script: Send + Sync + 'static {
    /// What is to happen to this call.
    fn fault(&self, call: &Call<'_>) -> Fault;

    /// Runs when the call has arrived and is not applied. It blocks the call, and may block the thread.
    fn before(&self, _call: &Call<'_>) {}

    /// Runs when the call has been applied and is not answered. It blocks the call, and may block the thread.
    fn after(&self, _call: &Call<'_>) {}
}

impl<F: Fn(&Call<'_>) -> Fault + Send + Sync + 'static> Script for F {
    fn fault(&self, call: &Call<'_>) -> Fault {
        self(call)
    }
}

/// A call that the proxy has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedCall {
    /// The operation, as `X-Amz-Target` names it.
    pub operation: String,
    /// The tables that the request named, each once.
    pub tables: Vec<String>,
    /// What the script made of it.
    pub fault: Fault,
    /// The HTTP status of the endpoint's answer; none while there is none, and when the call was not forwarded.
    pub status: Option<u16>,
}

/// A proxy that listens on a free port of 127.0.0.1 until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<Infallible>,
}

struct Shared {
    target: uri::Authority,
    client: Client<HttpConnector, Full<Bytes>>,
    state: Mutex<State>,
}

struct State {
    script: Arc<dyn Script>,
    /// Calls before the present script was set: their places in `calls` stay theirs.
    script_since: usize,
    count_by_operation: HashMap<String, usize>,
    calls: Vec<RecordedCall>,
}

/// The connection is to be closed without an answer.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed without an answer")
    }
}

impl std::error::Error for Closed {}

impl Proxy {
    /// Starts to listen, before the DynamoDB endpoint at `target`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(target: SocketAddr, script: impl Script) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let target = uri::Authority::try_from(target.to_string()).map_err(io::Error::other)?;
        let shared = Arc::new(Shared {
            target,
            client: Client::builder(TokioExecutor::new()).build_http(),
            state: Mutex::new(State {
                script: Arc::new(script),
                script_since: 0,
                count_by_operation: HashMap::new(),
                calls: Vec::new(),
            }),
        });
        let server = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The value of `AWS_ENDPOINT_URL_DYNAMODB`.
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Gives calls that arrive from now on another script, which counts them from 0. What was recorded stays.
    pub fn set_script(&self, script: impl Script) {
        let mut state = self.shared.state();
        state.script = Arc::new(script);
        state.script_since = state.calls.len();
        state.count_by_operation.clear();
    }

    /// Every call so far, in the order of arrival.
    pub fn calls(&self) -> Vec<RecordedCall> {
        self.shared.state().calls.clone()
    }

    /// How many calls of this operation there were so far.
    pub fn count(&self, operation: &str) -> usize {
        self.shared.state().calls.iter().filter(|call| call.operation == operation).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // With the task goes its set of connections, and with each of these the call that hangs in it.
        self.server.abort();
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No critical section can leave the state half written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        // An error concerns the one connection that could not be taken.
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream, Arc::clone(&shared)));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Small answers must not wait for an acknowledgement; without it only the timing differs.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
    // It ends with an error where a fault closed the connection, or the client went away.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Closed> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|_| Closed)?.to_bytes();
    let operation = operation(&parts);
    let tables = tables(&body);
    let (script, place, call) = shared.admit(&operation, &tables, &body);
    let fault = script.fault(&call);
    shared.state().calls[place].fault = fault;
    script.before(&call);
    match fault {
        Fault::Pass | Fault::DropAnswer | Fault::HangAfter => {}
        Fault::Delay(delay) => tokio::time::sleep(delay).await,
        Fault::Throttle => return Ok(throttled()),
        Fault::Error500 => return Ok(failed()),
        Fault::Answer { status, body } => return Ok(error(StatusCode::from_u16(status).map_err(|_| Closed)?, body)),
        Fault::Refuse => return Err(Closed),
        Fault::HangBefore => std::future::pending().await,
    }
    let answer = shared.forward(parts, body.clone()).await?;
    shared.state().calls[place].status = Some(answer.status().as_u16());
    script.after(&call);
    match fault {
        Fault::DropAnswer => Err(Closed),
        Fault::HangAfter => std::future::pending().await,
        _ => Ok(answer),
    }
}

impl Shared {
    fn admit<'a>(
        &self,
        operation: &'a str,
        tables: &'a [String],
        body: &'a [u8],
    ) -> (Arc<dyn Script>, usize, Call<'a>) {
        let mut state = self.state();
        let place = state.calls.len();
        let count = state.count_by_operation.entry(operation.to_owned()).or_default();
        let nth_of_operation = *count;
        *count += 1;
        state.calls.push(RecordedCall {
            operation: operation.to_owned(),
            tables: tables.to_vec(),
            fault: Fault::Pass,
            status: None,
        });
        let index = place - state.script_since;
        (Arc::clone(&state.script), place, Call { index, operation, nth_of_operation, tables, body })
    }

    async fn forward(&self, mut parts: request::Parts, body: Bytes) -> Result<Response<Full<Bytes>>, Closed> {
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
        parts.uri = Uri::builder()
            .scheme(uri::Scheme::HTTP)
            .authority(self.target.clone())
            .path_and_query(path)
            .build()
            .map_err(|_| Closed)?;
        parts.headers.remove(CONNECTION);
        parts.headers.remove(TRANSFER_ENCODING);
        // An endpoint that does not answer looks to the client as it would without the proxy.
        let answer = self.client.request(Request::from_parts(parts, Full::new(body))).await.map_err(|_| Closed)?;
        let (mut parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
        parts.headers.remove(CONNECTION);
        parts.headers.remove(TRANSFER_ENCODING);
        Ok(Response::from_parts(parts, Full::new(body)))
    }
}

/// `X-Amz-Target` is `DynamoDB_20120810.PutItem`; empty where there is none.
fn operation(parts: &request::Parts) -> String {
    let target = parts.headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    target.rsplit('.').next().unwrap_or_default().to_owned()
}

/// The tables that a request names, each once, in the order of first mention.
fn tables(body: &[u8]) -> Vec<String> {
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    collect_tables(&request, &mut found);
    let mut tables: Vec<String> = Vec::new();
    for table in found {
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    tables
}

fn collect_tables(request: &Value, found: &mut Vec<String>) {
    let text = |name: &str| request.get(name).and_then(Value::as_str);
    found.extend(text("TableName").map(str::to_owned));
    found.extend(text("Statement").and_then(statement_table).map(str::to_owned));
    if let Some(items) = request.get("RequestItems").and_then(Value::as_object) {
        found.extend(items.keys().cloned());
    }
    for list in ["Statements", "TransactStatements"] {
        for statement in request.get(list).and_then(Value::as_array).into_iter().flatten() {
            collect_tables(statement, found);
        }
    }
    for item in request.get("TransactItems").and_then(Value::as_array).into_iter().flatten() {
        for action in item.as_object().into_iter().flat_map(|item| item.values()) {
            collect_tables(action, found);
        }
    }
}

/// The table of a `PartiQL` statement: what follows INTO, FROM or UPDATE.
fn statement_table(statement: &str) -> Option<&str> {
    let mut words = statement.split_whitespace();
    words.find(|word| ["INTO", "FROM", "UPDATE"].iter().any(|keyword| word.eq_ignore_ascii_case(keyword)))?;
    let name = words.next()?;
    // Quoted, it may be followed by a quoted index.
    name.strip_prefix('"').map_or(Some(name), |quoted| quoted.split('"').next())
}

fn throttled() -> Response<Full<Bytes>> {
    error(
        StatusCode::BAD_REQUEST,
        r#"{"__type":"com.amazon.coral.availability#ThrottlingException","message":"Rate exceeded"}"#,
    )
}

fn failed() -> Response<Full<Bytes>> {
    error(
        StatusCode::INTERNAL_SERVER_ERROR,
        r#"{"__type":"com.amazonaws.dynamodb.v20120810#InternalServerError","message":"Internal server error"}"#,
    )
}

fn error(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *answer.status_mut() = status;
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/x-amz-json-1.0"));
    answer.headers_mut().insert("x-amzn-requestid", HeaderValue::from_static("PROXY"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_every_form_of_request_are_found() {
        for (body, expected) in [
            (r#"{"TableName":"a","Item":{"TableName":{"S":"x"}}}"#, &["a"][..]),
            (
                r#"{"TransactItems":[{"Put":{"TableName":"a"}},{"Update":{"TableName":"b"}},{"Put":{"TableName":"a"}}]}"#,
                &["a", "b"],
            ),
            (r#"{"RequestItems":{"a":{"Keys":[]},"b":{"Keys":[]}}}"#, &["a", "b"]),
            (
                r#"{"Statements":[{"Statement":"INSERT INTO \"a-1\" VALUE {'id': ?}"},{"Statement":"update b SET x = ?"}]}"#,
                &["a-1", "b"],
            ),
            (r#"{"Statement":"SELECT * FROM \"a\".\"index\" WHERE id = ?"}"#, &["a"]),
            ("{}", &[]),
            ("no json", &[]),
        ] {
            assert_eq!(tables(body.as_bytes()), expected, "{body}");
        }
    }
}
