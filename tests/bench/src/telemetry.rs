//! The job `telemetry`: a batch that tells of itself, by metrics or by traces, against one that does not.

use microbatch_aws::lambda::BoxError;
use microbatch_local::environment::DEFAULT_TABLE;
use microbatch_local::tables::{Endpoint, TableSpec, ensure};

use crate::adapter::{Adapter, Sample, Setup};
use crate::args::{Telemetry, Told};
use crate::orders::Orders;
use crate::report::{Comparison, Report};
use crate::runs;
use crate::server::{Addresses, Server};

/// Runs the job.
pub(crate) async fn run(options: &Telemetry) -> Result<Report, BoxError> {
    let Telemetry { with, runs } = options;
    let (_server, Addresses { store, collector }) = Server::start(runs.latency_ms)?;
    let endpoint = Endpoint::parse(&format!("http://{store}"))?;
    ensure(&endpoint, &[TableSpec::idempotency(DEFAULT_TABLE)]).await?;
    let (told, name) = match with {
        Told::Metrics => (Setup { metrics: true, ..Setup::default() }, "metrics"),
        Told::Traces => (Setup { collector: Some(collector), ..Setup::default() }, "traces"),
    };
    let sides = [Adapter::new(store, told).await?, Adapter::new(store, Setup::default()).await?];
    let samples = runs::interleave(&sides, &runs.records, runs, &mut Orders::default()).await?;
    let comparisons = runs.records.iter().zip(&samples).flat_map(|(&records, samples)| {
        let figures = |figure: fn(&Sample) -> f64| samples.each_ref().map(|side| side.iter().map(figure).collect());
        [
            ("cpu", "CPU us/item", figures(|sample| sample.cpu_us_per_item)),
            ("wall", "wall ms/batch", figures(|sample| sample.wall_ms_per_batch)),
        ]
        .map(|(measure, label, figures)| Comparison {
            records,
            measure: format!("{measure}_{name}"),
            label,
            figures,
        })
    });
    let title = format!("telemetry: {name}, {} runs, each request delayed by {} ms", runs.count(), runs.latency_ms);
    Ok(Report { title, sides: [name, "none"], comparisons: comparisons.collect() })
}
