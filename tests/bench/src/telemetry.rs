//! The job `telemetry`: a batch that tells of itself, by metrics or by traces, against one that does not.

use microbatch_aws::lambda::BoxError;
use microbatch_local::environment::DEFAULT_TABLE;
use microbatch_local::tables::{Endpoint, TableSpec, ensure};

use crate::adapter::{Adapter, Setup};
use crate::args::{Telemetry, Told};
use crate::report::{Report, time_comparisons};
use crate::runs;
use crate::server::Server;

/// Runs the job.
pub(crate) async fn run(options: &Telemetry) -> Result<Report, BoxError> {
    let Telemetry { with, runs, delay } = options;
    let (_server, addresses) = Server::start(delay.latency().as_slice())?;
    let endpoint = Endpoint::parse(&format!("http://{}", addresses.store))?;
    ensure(&endpoint, &[TableSpec::idempotency(DEFAULT_TABLE)]).await?;
    let store = addresses.delayed.first().copied().unwrap_or(addresses.store);
    let (told, name) = match with {
        Told::Metrics => (Setup { metrics: true, ..Setup::default() }, "metrics"),
        Told::Traces => (Setup { collector: Some(addresses.collector), ..Setup::default() }, "traces"),
    };
    let (ours, theirs) = (Adapter::new(store, told).await?, Adapter::new(store, Setup::default()).await?);
    let samples = runs::interleave(&ours, &theirs, runs).await?;
    let suffix = format!("_{name}");
    let sizes = runs.records.iter().zip(&samples);
    let comparisons =
        sizes.flat_map(|(&records, samples)| time_comparisons("none", records, &suffix, samples)).collect();
    let title = format!("telemetry: {name}, {} runs, each request delayed by {} ms", runs.count(), delay.latency_ms);
    Ok(Report { title, ours: name, versions: Vec::new(), comparisons })
}
