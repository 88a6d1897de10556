//! The store in a process of its own, so that its processor time is not the adapter's: this program, run again.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use microbatch_aws::lambda::BoxError;
use microbatch_local::dynamodb::EmbeddedDynamoDb;
use microbatch_local::proxy::{Call, Fault, Proxy};
use tokio::task::spawn_blocking;

/// The other process. It ends when this is dropped, and when this process ends.
#[derive(Debug)]
pub(crate) struct Server(Child);

impl Server {
    /// Starts it, and gives the address at which it takes requests, each of which it delays by `latency_ms`.
    pub(crate) fn start(latency_ms: u64) -> Result<(Self, SocketAddr), BoxError> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", &latency_ms.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = Self(command.spawn()?);
        let stdout = server.0.stdout.take().ok_or("the store's process has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse().map_err(|_| "the store's process did not say where it listens")?;
        Ok((server, address))
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
    writeln!(io::stdout(), "{address}")?;
    spawn_blocking(|| io::stdin().lock().read_to_end(&mut Vec::new())).await??;
    Ok(())
}
