//! A network before the store: what a request waits, and what waits with it.
//!
//! It costs little itself: one connection to the store for each of the client's, and no look at the request beyond its length and
//! the number of its statements.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use microbatch::Random;
use microbatch_aws::clock::SystemRandom;
use microbatch_aws::lambda::BoxError;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::sleep;

/// One statement in this many is slow ...
const SLOW_ONE_IN: u64 = 100;
/// ... and takes this many times as long.
const SLOW_FACTOR: u32 = 10;
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What a request takes longer than on the loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Latency {
    /// Each statement takes this time, or ten times as much: one in a hundred, drawn for each. A request waits for the slowest
    /// of its statements.
    pub(crate) request: Duration,
    /// And for each statement after the first, this time longer.
    pub(crate) further_statement: Duration,
}

impl Latency {
    /// What a request of so many statements takes, `slow` saying of each whether it is a slow one.
    fn of(self, statements: u32, slow: impl FnMut() -> bool) -> Duration {
        let mut draws = std::iter::repeat_with(slow).take(statements as usize);
        let slowest = if draws.any(|slow| slow) { self.request * SLOW_FACTOR } else { self.request };
        slowest + self.further_statement * statements.saturating_sub(1)
    }

    /// Listens before the store at `target`, until this process ends.
    pub(crate) async fn listen(self, target: SocketAddr) -> Result<SocketAddr, BoxError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            loop {
                tokio::spawn(self.serve(accepted(&listener).await, target));
            }
        });
        Ok(address)
    }

    /// Serves a connection until its client, or the store, closes it.
    async fn serve(self, client: TcpStream, target: SocketAddr) -> Result<(), BoxError> {
        let store = TcpStream::connect(target).await?;
        client.set_nodelay(true)?;
        store.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(store)).await?;
        tokio::spawn(connection);
        let sender = Mutex::new(sender);
        let service = service_fn(|request| self.pass(request, &sender));
        Ok(http1::Builder::new().serve_connection(TokioIo::new(client), service).await?)
    }

    async fn pass(
        self,
        request: Request<Incoming>,
        store: &Mutex<SendRequest<Full<Bytes>>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        sleep(self.of(statements(&body), || SystemRandom.below(SLOW_ONE_IN) == 0)).await;
        store.lock().await.send_request(Request::from_parts(parts, Full::new(body))).await
    }
}

/// The next connection. None can be accepted while there are too many, which passes.
pub(crate) async fn accepted(listener: &TcpListener) -> TcpStream {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            return stream;
        }
        sleep(ACCEPT_PAUSE).await;
    }
}

/// How many records a request reads or writes, as far as it names them one by one: statements of a batch, items of a
/// transaction. Any other request has one.
fn statements(body: &[u8]) -> u32 {
    let count = |name: &[u8]| body.windows(name.len()).filter(|window| *window == name).count();
    let found = count(br#""Statement":"#).max(count(br#""TableName":"#));
    u32::try_from(found).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: Latency =
        Latency { request: Duration::from_millis(4), further_statement: Duration::from_micros(100) };

    #[test]
    fn a_request_waits_for_the_slowest_of_its_statements() {
        assert_eq!(LATENCY.of(1, || false), Duration::from_millis(4));
        assert_eq!(LATENCY.of(1, || true), Duration::from_millis(40));
        assert_eq!(LATENCY.of(25, || false), Duration::from_micros(4_000 + 24 * 100));
        let mut nth = 0;
        let last_is_slow = || {
            nth += 1;
            nth == 25
        };
        assert_eq!(LATENCY.of(25, last_is_slow), Duration::from_micros(40_000 + 24 * 100));
    }

    #[test]
    fn a_batch_has_as_many_statements_as_it_names() {
        for (body, expected) in [
            (r#"{"TableName":"t","Key":{}}"#, 1),
            (r#"{"Statements":[{"Statement":"a"},{"Statement":"b"}]}"#, 2),
            (r#"{"TransactItems":[{"Put":{"TableName":"a"}},{"Update":{"TableName":"b"}}]}"#, 2),
            (r#"{"RequestItems":{"t":{"Keys":[{},{}]}}}"#, 1),
        ] {
            assert_eq!(statements(body.as_bytes()), expected, "{body}");
        }
    }
}
