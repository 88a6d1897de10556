//! The job without a name: microbatch and its peers, each a function in a process of its own.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use microbatch_aws::lambda::BoxError;
use microbatch_local::proxy::{Call, Fault, Proxy};
use microbatch_local::tables::Endpoint;
use microbatch_testkit::events::{EVENT_BYTES_MAX, Envelope};
use tokio::task::block_in_place;

use crate::args::{Job, Runs, SideBySide};
use crate::latency::Latency;
use crate::orders::Orders;
use crate::plot::plot;
use crate::process::{Process, Tables};
use crate::report::{Compared, Comparison, Report, time_comparisons};
use crate::runs::{Sample, note_run};
use crate::same;
use crate::server::Server;
use crate::sides::{OURS, Side, Sides};
use crate::stats::{Summary, float};
use crate::{created, note, write_to};

/// The records of a sample, where one batch has fewer: as many batches are sent.
const SAMPLE_RECORDS_MIN: usize = 300;
const QUICK_SAMPLE_RECORDS_MIN: usize = 100;
/// The first batch that a new process gets.
const FIRST_RECORDS: NonZeroUsize = NonZeroUsize::new(10).expect("not zero");
/// Larger batches are measured in a third of the runs: a peer takes a minute for one of 10,000.
const ALL_RUNS_RECORDS_MAX: usize = 1_000;
/// Real records that fill an event.
const FULL_RECORDS: NonZeroUsize = NonZeroUsize::new(5_000).expect("not zero");
/// What of the payload's bytes the adapter may hold beside what `lambda_runtime` holds.
const PEAK_PAYLOADS: f64 = 1.5;
/// A further statement's time that no measure's name tells.
const USUAL_STATEMENT_US: u64 = 100;
const MIB: f64 = 1_048_576.0;

/// What all measurements share.
struct Bench<'o> {
    options: &'o SideBySide,
    sides: Sides,
    server: Server,
    endpoint: Endpoint,
    store: SocketAddr,
    orders: Orders,
    comparisons: Vec<Comparison>,
}

/// What one side gave, run by run; one list for each batch size.
type Figures = Vec<Vec<f64>>;

/// Runs the job.
pub(crate) async fn run(options: &SideBySide) -> Result<Report, BoxError> {
    let plot_file = options.plot.as_deref().map(|path| created("--plot", path));
    note("building the functions and installing the peers, where that was not done yet");
    let sides = block_in_place(|| Sides::prepare(&options.against))?;
    let latencies: Vec<_> = options.statements_us.iter().map(|&micros| options.latency(micros)).collect();
    let (server, addresses) = Server::start(&latencies)?;
    let endpoint = Endpoint::parse(&format!("http://{}", addresses.store))?;
    let store = addresses.store;
    let mut bench =
        Bench { options, sides, server, endpoint, store, orders: Orders::default(), comparisons: Vec::new() };
    for &job in &options.jobs {
        bench.job(job, &addresses.delayed).await?;
    }
    bench.peak_of_full_event().await?;
    let Bench { sides, comparisons, .. } = bench;
    let title =
        format!("side by side: {} runs, a third of them for batches over {ALL_RUNS_RECORDS_MAX}", options.runs.count());
    let report = Report { title, ours: OURS, versions: sides.versions(), comparisons };
    if let Some(file) = plot_file {
        write_to(file, &plot(&report, options.largest_usual()))?;
    }
    Ok(report)
}

impl SideBySide {
    fn latency(&self, statement_us: u64) -> Latency {
        Latency {
            request: Duration::from_millis(self.latency_ms),
            further_statement: Duration::from_micros(statement_us),
        }
    }

    /// The batch size that is measured behind a latency and drawn: the largest of up to 1,000, or the smallest.
    fn largest_usual(&self) -> NonZeroUsize {
        let records = || self.runs.records.iter().copied();
        let usual = records().filter(|records| records.get() <= ALL_RUNS_RECORDS_MAX).max();
        usual.or(records().min()).unwrap_or(FIRST_RECORDS)
    }
}

impl Runs {
    /// How many runs are measured at a batch size.
    fn count_at(&self, records: NonZeroUsize) -> u16 {
        if records.get() > ALL_RUNS_RECORDS_MAX { self.count().div_ceil(3) } else { self.count() }
    }
}

impl Bench<'_> {
    async fn job(&mut self, job: Job, delayed: &[SocketAddr]) -> Result<(), BoxError> {
        let sides = self.sides.of_job(job);
        self.make_tables(&sides, job).await?;
        note(&format!("job {}: do all sides do the same?", job.name()));
        same::check(&sides, job, &self.endpoint, self.store).await?;
        self.zips(&sides, job)?;
        self.requests(&sides, job).await?;
        note(&format!("job {}: new processes", job.name()));
        self.new_processes(&sides, job).await?;
        note(&format!("job {}: warm processes", job.name()));
        let batch_sizes = self.options.runs.records.clone();
        self.warm(&sides, job, self.store, &batch_sizes, "").await?;
        let concurrent: Vec<_> = sides.into_iter().filter(|side| side.name != "python").collect();
        for (&store, statement_us) in delayed.iter().zip(&self.options.statements_us) {
            let latency_ms = self.options.latency_ms;
            note(&format!("job {}: {latency_ms} ms a request, {statement_us} us a further statement", job.name()));
            let suffix = if *statement_us == USUAL_STATEMENT_US { String::new() } else { format!("_{statement_us}us") };
            let suffix = format!("_{latency_ms}ms{suffix}");
            self.warm(&concurrent, job, store, &[self.options.largest_usual()], &suffix).await?;
        }
        Ok(())
    }

    async fn make_tables(&self, sides: &[Side], job: Job) -> Result<(), BoxError> {
        for side in sides {
            Tables::of(side, job).ensure(&self.endpoint).await?;
        }
        Ok(())
    }

    /// Empties the store and makes the tables anew: it takes longer for each request the more records it holds, and for each
    /// transaction the more of them it has seen in ten minutes, and that is no side's doing.
    async fn renew_tables(&mut self, sides: &[Side], job: Job) -> Result<(), BoxError> {
        block_in_place(|| self.server.clear())?;
        self.make_tables(sides, job).await
    }

    /// Adds a measure of ours against each peer's; `figures` are the sides', ours first.
    fn compare(
        &mut self,
        sides: &[Side],
        measure: &str,
        label: &'static str,
        records: Option<NonZeroUsize>,
        figures: &[Vec<f64>],
        compared: Compared,
    ) {
        let Some((ours, theirs)) = figures.split_first() else { return };
        for (peer, theirs) in sides[1..].iter().zip(theirs) {
            let figures = [ours.clone(), theirs.clone()];
            let (peer, measure) = (peer.name, measure.to_owned());
            self.comparisons.push(Comparison { peer, records, measure, label, figures, compared });
        }
    }

    fn zips(&mut self, sides: &[Side], job: Job) -> Result<(), BoxError> {
        let mebibytes: Vec<_> =
            sides.iter().map(|side| Ok(vec![side.zip_bytes()? / MIB])).collect::<Result<_, BoxError>>()?;
        self.compare(sides, &format!("zip{}", job.suffix()), "zip MiB", None, &mebibytes, Compared::Medians);
        Ok(())
    }

    /// Counted by a proxy before the store. It takes time, so this is apart from what is timed.
    async fn requests(&mut self, sides: &[Side], job: Job) -> Result<(), BoxError> {
        let batch_sizes = self.options.runs.records.iter().filter(|records| records.get() <= ALL_RUNS_RECORDS_MAX);
        let batch_sizes: Vec<_> = batch_sizes.copied().collect();
        let mut figures: Vec<Figures> = vec![Figures::new(); batch_sizes.len()];
        for side in sides {
            let proxy = Proxy::start(self.store, |_: &Call<'_>| Fault::Pass).await?;
            let process = Process::start(side, job, proxy.address()).await?;
            // What the init asks for is not an item's.
            process.process(self.orders.event(FIRST_RECORDS, Envelope::Real)?).await?;
            for (&records, figures) in batch_sizes.iter().zip(&mut figures) {
                let before = proxy.calls().len();
                process.process(self.orders.event(records, Envelope::Real)?).await?;
                figures.push(vec![float(proxy.calls().len() - before) / float(records.get())]);
            }
            process.stop().await;
        }
        for (records, figures) in batch_sizes.into_iter().zip(figures) {
            let measure = format!("requests{}", job.suffix());
            self.compare(sides, &measure, "requests/item", Some(records), &figures, Compared::Medians);
        }
        Ok(())
    }

    /// Cold start to the first response, and the peak resident size after a large batch.
    async fn new_processes(&mut self, sides: &[Side], job: Job) -> Result<(), BoxError> {
        let options = self.options;
        let records = options.largest_usual();
        let runs = &options.runs;
        let mut figures: [Figures; 3] = std::array::from_fn(|_| vec![Vec::new(); sides.len()]);
        for run in 0..=runs.count() {
            self.renew_tables(sides, job).await?;
            for position in in_turn(sides.len(), run) {
                let side = &sides[position];
                let event = self.orders.event(FIRST_RECORDS, Envelope::Real)?;
                let process = Process::start(side, job, self.store).await?;
                process.process(event).await?;
                let cold_ms = process.age_ms();
                let cold_cpu_ms = process.cpu_time().await?.as_secs_f64() * 1e3;
                process.process(self.orders.event(records, Envelope::Real)?).await?;
                let peak_mib = process.peak_mib()?;
                process.stop().await;
                if run > 0 {
                    let found = [cold_ms, cold_cpu_ms, peak_mib];
                    figures.iter_mut().zip(found).for_each(|(figures, figure)| figures[position].push(figure));
                }
            }
            note_run(run, runs);
        }
        let suffix = job.suffix();
        let [cold, cold_cpu, peak] = &figures;
        self.compare(sides, &format!("cold{suffix}"), "cold ms", None, cold, Compared::Medians);
        self.compare(sides, &format!("cold_cpu{suffix}"), "cold CPU ms", None, cold_cpu, Compared::Medians);
        self.compare(sides, &format!("rss{suffix}"), "peak MiB", Some(records), peak, Compared::Medians);
        Ok(())
    }

    /// Processor and wall time of processes that have run for a while.
    async fn warm(
        &mut self,
        sides: &[Side],
        job: Job,
        store: SocketAddr,
        batch_sizes: &[NonZeroUsize],
        suffix: &str,
    ) -> Result<(), BoxError> {
        let options = self.options;
        let runs = &options.runs;
        self.renew_tables(sides, job).await?;
        let mut processes = Vec::new();
        for side in sides {
            processes.push(Process::start(side, job, store).await?);
        }
        let sample_records_min = if runs.quick { QUICK_SAMPLE_RECORDS_MIN } else { SAMPLE_RECORDS_MIN };
        let mut samples: Vec<Vec<Vec<Sample>>> = vec![vec![Vec::new(); sides.len()]; batch_sizes.len()];
        let mut walls_ms: Vec<Figures> = vec![vec![Vec::new(); sides.len()]; batch_sizes.len()];
        for run in 0..=runs.count() {
            for (at, &records) in batch_sizes.iter().enumerate().filter(|(_, records)| run <= runs.count_at(**records))
            {
                for position in in_turn(sides.len(), run) {
                    let batches = self.orders.real_batches(records, sample_records_min)?;
                    let measured = processes[position].measure(batches).await?;
                    if run > 0 {
                        samples[at][position].push(measured.sample);
                        walls_ms[at][position].extend(measured.walls_ms);
                    }
                }
            }
            // After a run, when each has long ended its init, which looks for its table.
            self.renew_tables(sides, job).await?;
            note_run(run, runs);
        }
        for process in processes {
            process.stop().await;
        }
        let suffix = format!("{}{suffix}", job.suffix());
        for ((&records, samples), walls_ms) in batch_sizes.iter().zip(samples).zip(walls_ms) {
            let Some((ours, theirs)) = samples.split_first() else { continue };
            for (peer, theirs) in sides[1..].iter().zip(theirs) {
                let pair = [ours.clone(), theirs.clone()];
                self.comparisons.extend(time_comparisons(peer.name, records, &suffix, &pair));
            }
            for (name, label, part) in [("p50", "p50 ms/batch", 0.5), ("p99", "p99 ms/batch", 0.99)] {
                let measure = format!("{name}{suffix}");
                self.compare(sides, &measure, label, Some(records), &walls_ms, Compared::Quantiles(part));
            }
        }
        Ok(())
    }

    /// What a full event takes at its peak, against what takes it and does nothing.
    async fn peak_of_full_event(&mut self) -> Result<(), BoxError> {
        note("peak resident size on a full event");
        let job = Job::Pure;
        let ours = self.sides.of_job(job).swap_remove(0);
        let sides = [ours, self.sides.noop()];
        let options = self.options;
        let runs = &options.runs;
        let mut figures: Figures = vec![Vec::new(); sides.len()];
        let mut payload_bytes = 0;
        for run in 0..=runs.count() {
            self.renew_tables(&sides, job).await?;
            for position in in_turn(sides.len(), run) {
                let side = &sides[position];
                let process = Process::start(side, job, self.store).await?;
                let event = self.orders.event(FULL_RECORDS, Envelope::Real)?;
                payload_bytes = event.len();
                process.process(event).await?;
                if run > 0 {
                    figures[position].push(process.peak_mib()?);
                }
                process.stop().await;
            }
            note_run(run, runs);
        }
        let payload_mib = float(payload_bytes) / MIB;
        let noop = Summary::of(&figures[1]);
        note(&format!(
            "a full event has {payload_mib:.2} MiB of {:.2}; doing nothing with it takes {:.2} at the peak",
            float(EVENT_BYTES_MAX) / MIB,
            noop.median
        ));
        self.compare(&sides, "rss_full", "peak MiB", Some(FULL_RECORDS), &figures, Compared::Medians);
        let allowed: Vec<f64> = figures[1].iter().map(|noop| noop + PEAK_PAYLOADS * payload_mib).collect();
        let [ours, _] = &figures[..] else { return Ok(()) };
        self.comparisons.push(Comparison {
            peer: "allowance",
            records: Some(FULL_RECORDS),
            measure: "rss_full".to_owned(),
            label: "peak MiB",
            figures: [ours.clone(), allowed],
            compared: Compared::Medians,
        });
        Ok(())
    }
}

/// The sides' places: another one first in each run, and backwards in every other round of runs, so that none always follows the
/// same.
fn in_turn(sides: usize, run: u16) -> impl Iterator<Item = usize> {
    let (round, first) = (usize::from(run) / sides, usize::from(run) % sides);
    (0..sides)
        .map(move |position| if round.is_multiple_of(2) { first + position } else { first + sides - position })
        .map(move |place| place % sides)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_has_its_turn_at_each_place() {
        for sides in [2_u16, 4, 5] {
            let runs: Vec<Vec<usize>> = (0..2 * sides).map(|run| in_turn(usize::from(sides), run).collect()).collect();
            for place in 0..usize::from(sides) {
                for side in 0..usize::from(sides) {
                    assert_eq!(runs.iter().filter(|run| run[place] == side).count(), 2, "{sides} sides: {runs:?}");
                }
            }
        }
    }

    #[test]
    fn no_side_always_follows_the_same() {
        let forwards: Vec<usize> = in_turn(3, 1).collect();
        let backwards: Vec<usize> = in_turn(3, 4).collect();
        assert_eq!((forwards, backwards), (vec![1, 2, 0], vec![1, 0, 2]));
    }
}
