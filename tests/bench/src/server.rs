//! The store and a collector of traces in a process of their own, so that their processor time is not the adapter's: this
//! program, run again.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use microbatch_aws::lambda::BoxError;
use microbatch_local::dynamodb::EmbeddedDynamoDb;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

use crate::latency::{Latency, accepted};

/// What the other process says when it has emptied the store.
const CLEARED: &str = "cleared";

/// The other process. It ends when this is dropped, and when this process ends.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Where the other process listens.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    /// The store.
    pub(crate) store: SocketAddr,
    /// Takes traces by OTLP over HTTP, and drops them.
    pub(crate) collector: SocketAddr,
    /// The store behind each of the latencies that were asked for.
    pub(crate) delayed: Vec<SocketAddr>,
}

impl Server {
    /// Starts it, with the store behind each of these latencies too.
    pub(crate) fn start(latencies: &[Latency]) -> Result<(Self, Addresses), BoxError> {
        let mut command = Command::new(std::env::current_exe()?);
        let micros = latencies.iter().flat_map(|latency| [latency.request, latency.further_statement]);
        command.arg("serve").args(micros.map(|time| time.as_micros().to_string()));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) =
            process.stdin.take().zip(process.stdout.take()).ok_or("the store's process has no pipes")?;
        let mut server = Self { process, input, output: BufReader::new(output) };
        let line = server.line()?;
        let mut said = line.split_whitespace().map_while(|address| address.parse().ok());
        let (Some(store), Some(collector), delayed) = (said.next(), said.next(), said.collect::<Vec<_>>()) else {
            return Err("the store's process did not say where it listens".into());
        };
        if delayed.len() != latencies.len() {
            return Err("the store's process does not listen behind each latency".into());
        }
        Ok((server, Addresses { store, collector, delayed }))
    }

    /// Empties the store: no tables, no tokens of transactions. Blocks until that is done.
    pub(crate) fn clear(&mut self) -> Result<(), BoxError> {
        writeln!(self.input)?;
        match self.line()?.trim_end() {
            CLEARED => Ok(()),
            _ => Err("the store was not emptied".into()),
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing to lose, and both calls fail only where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The other process's part: says where it listens, and empties the store at each line of standard input until that ends. `micros`
/// are the latencies' two times in turn.
pub(crate) async fn serve(micros: &[u64]) -> Result<(), BoxError> {
    let dynamodb = EmbeddedDynamoDb::start(None).await?;
    let collector = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut addresses = vec![dynamodb.address().to_string(), collector.local_addr()?.to_string()];
    for times in micros.chunks_exact(2) {
        let latency =
            Latency { request: Duration::from_micros(times[0]), further_statement: Duration::from_micros(times[1]) };
        addresses.push(latency.listen(dynamodb.address()).await?.to_string());
    }
    writeln!(io::stdout(), "{}", addresses.join(" "))?;
    tokio::spawn(collect(collector));
    spawn_blocking(move || {
        for line in io::stdin().lock().lines() {
            line?;
            dynamodb.clear()?;
            writeln!(io::stdout(), "{CLEARED}")?;
        }
        Ok(())
    })
    .await?
}

/// Takes what is posted, and drops it.
async fn collect(listener: TcpListener) {
    loop {
        let stream = accepted(&listener).await;
        let service = service_fn(|request: Request<Incoming>| async {
            request.into_body().collect().await?;
            Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new()))
        });
        // A connection ends when its client does.
        tokio::spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await });
    }
}
