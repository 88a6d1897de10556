//! The job `calls`: claims and completions 25 to a request, against one to a request.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use microbatch_aws::dynamodb::StoreCalls;
use microbatch_aws::lambda::BoxError;
use microbatch_local::environment::DEFAULT_TABLE;
use microbatch_local::proxy::{Call, Fault, Proxy};
use microbatch_local::tables::{Endpoint, TableSpec, ensure};

use crate::adapter::{Adapter, Setup};
use crate::args::Calls;
use crate::orders::Orders;
use crate::report::{Compared, Comparison, Report, time_comparisons};
use crate::runs;
use crate::server::Server;
use crate::stats::float;

const SIDES: [StoreCalls; 2] = [StoreCalls::Batched, StoreCalls::Single];
const PEER: &str = "single";
/// Records whose requests are counted, where one batch has fewer.
const COUNTED_RECORDS_MIN: usize = 1_000;

/// Runs the job.
pub(crate) async fn run(options: &Calls) -> Result<Report, BoxError> {
    let Calls { runs, delay } = options;
    let (_server, addresses) = Server::start(delay.latency().as_slice())?;
    let endpoint = Endpoint::parse(&format!("http://{}", addresses.store))?;
    ensure(&endpoint, &[TableSpec::idempotency(DEFAULT_TABLE)]).await?;
    let store = addresses.delayed.first().copied().unwrap_or(addresses.store);
    let latency_ms = delay.latency_ms;
    let suffix = if latency_ms == 0 { String::new() } else { format!("_{latency_ms}ms") };
    let ours = Adapter::new(store, Setup { calls: SIDES[0], ..Setup::default() }).await?;
    let theirs = Adapter::new(store, Setup { calls: SIDES[1], ..Setup::default() }).await?;
    let samples = runs::interleave(&ours, &theirs, runs).await?;
    let mut comparisons = Vec::new();
    // None that a timed run has seen.
    let mut orders = Orders::apart();
    for (&records, samples) in runs.records.iter().zip(&samples) {
        let figures = requests_per_item(addresses.store, &mut orders, records).await?.map(|requests| vec![requests]);
        let (measure, label) = (format!("requests{suffix}"), "requests/item");
        comparisons.push(Comparison {
            peer: PEER,
            records: Some(records),
            measure,
            label,
            figures,
            compared: Compared::Medians,
        });
        comparisons.extend(time_comparisons(PEER, records, &suffix, samples));
    }
    let title = format!("calls: {} runs, each request delayed by {latency_ms} ms", runs.count());
    Ok(Report { title, ours: "batched", versions: Vec::new(), comparisons })
}

/// Counted by a proxy before the store. It takes time, so this is apart from what is timed.
async fn requests_per_item(
    store: SocketAddr,
    orders: &mut Orders,
    records: NonZeroUsize,
) -> Result<[f64; 2], BoxError> {
    let mut requests_per_item = [0.0; 2];
    for (calls, counted) in SIDES.into_iter().zip(&mut requests_per_item) {
        let proxy = Proxy::start(store, |_: &Call<'_>| Fault::Pass).await?;
        let batches = orders.batches(records, COUNTED_RECORDS_MIN)?;
        let items = float(batches.items);
        Adapter::new(proxy.address(), Setup { calls, ..Setup::default() }).await?.run(batches).await?;
        *counted = float(proxy.calls().len()) / items;
    }
    Ok(requests_per_item)
}
