//! The job `calls`: claims and completions 25 to a request, against one to a request.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use microbatch_aws::dynamodb::StoreCalls;
use microbatch_aws::lambda::BoxError;
use microbatch_local::environment::DEFAULT_TABLE;
use microbatch_local::proxy::{Call, Fault, Proxy};
use microbatch_local::tables::{Endpoint, TableSpec, ensure};

use crate::adapter::{Adapter, Sample, Setup};
use crate::args::Calls;
use crate::orders::Orders;
use crate::report::{Comparison, Report};
use crate::runs;
use crate::server::{Addresses, Server};
use crate::stats::float;

const SIDES: [StoreCalls; 2] = [StoreCalls::Batched, StoreCalls::Single];

/// What was found at one batch size, for each of [`SIDES`].
struct Case {
    records: NonZeroUsize,
    requests_per_item: [f64; 2],
    samples: [Vec<Sample>; 2],
}

/// Runs the job.
pub(crate) async fn run(options: &Calls) -> Result<Report, BoxError> {
    let (_server, Addresses { store, .. }) = Server::start(options.runs.latency_ms)?;
    let endpoint = Endpoint::parse(&format!("http://{store}"))?;
    ensure(&endpoint, &[TableSpec::idempotency(DEFAULT_TABLE)]).await?;
    let mut orders = Orders::default();
    let mut cases = Vec::new();
    for &records in &options.runs.records {
        let requests_per_item = requests_per_item(store, records, &mut orders).await?;
        cases.push(Case { records, requests_per_item, samples: Default::default() });
    }
    let adapters = [
        Adapter::new(store, Setup { calls: SIDES[0], ..Setup::default() }).await?,
        Adapter::new(store, Setup { calls: SIDES[1], ..Setup::default() }).await?,
    ];
    let sizes: Vec<NonZeroUsize> = cases.iter().map(|case| case.records).collect();
    let samples = runs::interleave(&adapters, &sizes, &options.runs, &mut orders).await?;
    for (case, samples) in cases.iter_mut().zip(samples) {
        case.samples = samples;
    }
    Ok(report(options, &cases))
}

/// Counted by a proxy before the store. It takes time, so this is apart from what is timed.
async fn requests_per_item(
    store: SocketAddr,
    records: NonZeroUsize,
    orders: &mut Orders,
) -> Result<[f64; 2], BoxError> {
    let mut requests_per_item = [0.0; 2];
    for (calls, counted) in SIDES.into_iter().zip(&mut requests_per_item) {
        let proxy = Proxy::start(store, |_: &Call<'_>| Fault::Pass).await?;
        let batches = orders.batches(records)?;
        let items = float(batches.items);
        Adapter::new(proxy.address(), Setup { calls, ..Setup::default() }).await?.run(batches).await?;
        *counted = float(proxy.calls().len()) / items;
    }
    Ok(requests_per_item)
}

fn report(options: &Calls, cases: &[Case]) -> Report {
    let latency_ms = options.runs.latency_ms;
    let suffix = if latency_ms == 0 { String::new() } else { format!("_{latency_ms}ms") };
    let comparisons = cases.iter().flat_map(|case| {
        let of_samples =
            |figure: fn(&Sample) -> f64| case.samples.each_ref().map(|side| side.iter().map(figure).collect());
        let measures = [
            ("requests", "requests/item", case.requests_per_item.map(|requests| vec![requests])),
            ("cpu", "CPU us/item", of_samples(|sample| sample.cpu_us_per_item)),
            ("wall", "wall ms/batch", of_samples(|sample| sample.wall_ms_per_batch)),
        ];
        let records = case.records;
        measures.map(|(name, label, figures)| Comparison {
            records,
            measure: format!("{name}{suffix}"),
            label,
            figures,
        })
    });
    let title = format!("calls: {} runs, each request delayed by {latency_ms} ms", options.runs.count());
    Report { title, sides: ["batched", "single"], comparisons: comparisons.collect() }
}
