//! A function's process: what it takes to start, and what its batches cost.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use microbatch_aws::lambda::BoxError;
use microbatch_local::environment::{self, TABLE_VARIABLE};
use microbatch_local::function::{Function, FunctionSpec, LogSink, LogStream};
use microbatch_local::runtime_api::InvocationResult;
use microbatch_local::tables::{Endpoint, TableSpec, ensure};
use serde_json::Value;

use crate::args::Job;
use crate::cpu;
use crate::orders::Batches;
use crate::runs::Sample;
use crate::sides::Side;
use crate::stats::float;

/// A machine with other work to do shall slow a run down, not end it; and 10,000 records take the slowest peer a minute.
const INVOCATION_TIMEOUT: Duration = Duration::from_mins(5);
const STORE_TIMEOUT_MS: &str = "10000";

/// The tables of a function.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    pub(crate) idempotency: String,
    pub(crate) orders: String,
}

impl Tables {
    /// The tables of a function for a job.
    pub(crate) fn of(side: &Side, job: Job) -> Self {
        let idempotency = format!("{}-{}", side.name, job.name());
        Self { orders: format!("{idempotency}-orders"), idempotency }
    }

    /// Makes them, where they are not there yet.
    pub(crate) async fn ensure(&self, endpoint: &Endpoint) -> Result<(), BoxError> {
        let specs = [TableSpec::idempotency(&self.idempotency), TableSpec::from_keys(&self.orders, "order_id")?];
        Ok(ensure(endpoint, &specs).await?)
    }
}

/// A function that runs.
pub(crate) struct Process {
    name: &'static str,
    function: Function,
    started: Instant,
}

/// What some batches took.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) sample: Sample,
    /// Each batch's time from the event to the response, in milliseconds.
    pub(crate) walls_ms: Vec<f64>,
}

impl Process {
    /// Starts a function on the store, where its tables are. It does not wait for the init.
    pub(crate) async fn start(side: &Side, job: Job, store: SocketAddr) -> Result<Self, BoxError> {
        let tables = Tables::of(side, job);
        let mut env = environment::local(&format!("http://{store}"), true);
        let own = [
            ("JOB", job.name()),
            ("IDEMPOTENCY_TABLE", &tables.idempotency),
            (TABLE_VARIABLE, &tables.idempotency),
            ("ORDERS_TABLE", &tables.orders),
            // As on Lambda, where nobody has set it.
            ("MICROBATCH_ITEM_LOG", "failures"),
            ("MICROBATCH_STORE_TIMEOUT_MS", STORE_TIMEOUT_MS),
        ];
        env.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let spec = FunctionSpec { name: side.name.to_owned(), program: side.bootstrap.clone(), env };
        let silent: LogSink = Arc::new(|_: LogStream, _: &str| {});
        let started = Instant::now();
        Ok(Self { name: side.name, function: Function::start(spec, silent).await?, started })
    }

    /// How long ago it was started, in milliseconds.
    pub(crate) fn age_ms(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1e3
    }

    /// Sends an event and gives the ids that the response reports.
    pub(crate) async fn send(&self, event: String) -> Result<BTreeSet<String>, BoxError> {
        let failed = |what: String| {
            let said = self.function.last_lines(LogStream::Stderr).join("\n");
            let printed = self.function.last_lines(LogStream::Stdout).join("\n");
            format!("{}: {what}; its last lines:\n{said}\n{printed}", self.name)
        };
        match self.function.invoke(event.into(), INVOCATION_TIMEOUT).await {
            Ok(InvocationResult::Response(response)) => reported_ids(&response),
            Ok(InvocationResult::FunctionError(error)) => {
                Err(failed(format!("{}: {}", error.error_type, error.message)).into())
            }
            Err(error) => Err(failed(error.to_string()).into()),
        }
    }

    /// Sends an event in which no message may fail.
    pub(crate) async fn process(&self, event: String) -> Result<(), BoxError> {
        let failures = self.send(event).await?;
        if !failures.is_empty() {
            return Err(format!("{}: expected no failures, found {}", self.name, failures.len()).into());
        }
        Ok(())
    }

    /// Sends batches, one after the other, and measures what they cost.
    pub(crate) async fn measure(&self, batches: Batches) -> Result<Measured, BoxError> {
        let items = batches.items;
        let cpu_before = self.cpu_time().await?;
        let mut walls: Vec<Duration> = Vec::with_capacity(batches.events.len());
        for event in batches.events {
            let started = Instant::now();
            self.process(event).await?;
            walls.push(started.elapsed());
        }
        let cpu = self.cpu_time().await?.saturating_sub(cpu_before);
        let sample = Sample::new(cpu, items, walls.iter().sum(), walls.len());
        let walls_ms = walls.iter().map(|wall| wall.as_secs_f64() * 1e3).collect();
        Ok(Measured { sample, walls_ms })
    }

    /// Its processor time, once it has nothing to do.
    pub(crate) async fn cpu_time(&self) -> Result<Duration, BoxError> {
        cpu::time_of(self.function.process_id().ok_or("the process has no id")?).await
    }

    /// The largest resident size that it had, in MiB.
    pub(crate) fn peak_mib(&self) -> Result<f64, BoxError> {
        let kib = self.function.peak_resident_kib().ok_or_else(|| format!("{}: no peak resident size", self.name))?;
        Ok(float(usize::try_from(kib)?) / 1024.0)
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        self.function.stop().await;
    }
}

fn reported_ids(response: &[u8]) -> Result<BTreeSet<String>, BoxError> {
    let response: Value = serde_json::from_slice(response)?;
    let failures = response["batchItemFailures"].as_array().ok_or("a response has no batchItemFailures")?;
    let id = |failure: &Value| failure["itemIdentifier"].as_str().map(str::to_owned).ok_or("a failure has no id");
    Ok(failures.iter().map(id).collect::<Result<_, _>>()?)
}
