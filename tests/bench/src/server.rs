//! The store and a collector of traces in a process of their own, so that their processor time is not the adapter's: this
//! program, run again.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use microbatch_aws::lambda::BoxError;
use microbatch_local::dynamodb::EmbeddedDynamoDb;
use microbatch_local::proxy::{Call, Fault, Proxy};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

/// The other process. It ends when this is dropped, and when this process ends.
#[derive(Debug)]
pub(crate) struct Server(Child);

/// Where the other process listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// The store, which delays each request as was asked.
    pub(crate) store: SocketAddr,
    /// Takes traces by OTLP over HTTP, and drops them.
    pub(crate) collector: SocketAddr,
}

impl Server {
    /// Starts it, with a store that delays each request by `latency_ms`.
    pub(crate) fn start(latency_ms: u64) -> Result<(Self, Addresses), BoxError> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", &latency_ms.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = Self(command.spawn()?);
        let stdout = server.0.stdout.take().ok_or("the store's process has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let mut said = line.split_whitespace().map_while(|address| address.parse().ok());
        let (Some(store), Some(collector)) = (said.next(), said.next()) else {
            return Err("the store's process did not say where it listens".into());
        };
        Ok((server, Addresses { store, collector }))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing to lose, and both calls fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The other process's part: says where it listens, and goes on until standard input ends.
pub(crate) async fn serve(latency_ms: u64) -> Result<(), BoxError> {
    let dynamodb = EmbeddedDynamoDb::start(None).await?;
    let delay = Duration::from_millis(latency_ms);
    let proxy = Proxy::start(dynamodb.address(), move |_: &Call<'_>| Fault::Delay(delay)).await?;
    // A proxy costs time too: without a delay, nothing stands before the store.
    let address = if delay.is_zero() { dynamodb.address() } else { proxy.address() };
    let collector = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    writeln!(io::stdout(), "{address} {}", collector.local_addr()?)?;
    tokio::spawn(collect(collector));
    spawn_blocking(|| io::stdin().lock().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

/// Takes what is posted, and drops it.
async fn collect(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(|request: Request<Incoming>| async {
            request.into_body().collect().await?;
            Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new()))
        });
        // A connection ends when its client does.
        tokio::spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await });
    }
}
