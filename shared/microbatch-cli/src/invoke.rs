//! `microbatch invoke`: one event, one function, one answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use microbatch_local::dynamodb::{DynamoDbError, EmbeddedDynamoDb};
use microbatch_local::environment::{self, DEFAULT_TABLE, TABLE_VARIABLE};
use microbatch_local::event::SqsEvent;
use microbatch_local::function::{Function, FunctionFailure, FunctionSpec, LogSink, LogStream, StartError};
use microbatch_local::items::{self, ItemReport, LogLine};
use microbatch_local::response;
use microbatch_local::runtime_api::InvocationResult;
use microbatch_local::tables::{self, Endpoint, TableSpec};

use crate::args::Invoke;
use crate::exit::{Exit, Failure};
use crate::input::Source;
use crate::report::Report;
use crate::target::Target;
use crate::{target, terminal};

/// Item reports kept of one run; a batch has 10,000 records at most.
const ITEMS_KEPT: usize = 100_000;

const BINARY_HINT: &str = "\nA binary given by its path comes without its package, which says what it needs: --env sets \
                           variables, --table makes tables.";

/// Runs the subcommand.
pub(crate) async fn run(args: Invoke) -> Result<Exit, Failure> {
    let workspace = target::workspace().await;
    let root = workspace.as_ref().ok().map(|workspace| workspace.root.as_path());
    let target = target::find(args.function.as_deref(), workspace.as_ref());
    // What is wrong with the event is told first; but the function's package may name the default.
    let default = target.as_ref().ok().and_then(|target| target.needs().event);
    let (bytes, event) = Source::new(args.event.as_deref(), default.as_deref(), root)?.read().await?;
    let target = target?;
    let program = target.build(args.release).await?;

    let database = Database::open(&args).await?;
    let env = prepare(&args, &target, &database.endpoint).await?;
    let spec = FunctionSpec { name: target.name().to_owned(), program, env };
    let log = Arc::new(Log::new(args.verbose));
    let function = Function::start(spec, sink(&log)).await.map_err(not_started)?;
    let answer = invoke(&function, bytes, args.timeout).await;
    // Stopped first, so that every line it printed has arrived.
    function.stop().await;
    database.close().await;
    conclude(&target, &function, &event, answer, &log)
}

/// A file that is no program was named as one.
fn not_started(error: StartError) -> Failure {
    match error {
        StartError::Spawn { .. } => Failure::usage(error),
        StartError::RuntimeApi(_) => Failure::environment(error),
    }
}

/// The `DynamoDB` of a run: its own, or another.
struct Database {
    embedded: Option<EmbeddedDynamoDb>,
    endpoint: Endpoint,
}

impl Database {
    async fn open(args: &Invoke) -> Result<Self, Failure> {
        if let Some(url) = &args.endpoint_url {
            return Ok(Self { embedded: None, endpoint: Endpoint::parse(url).map_err(Failure::usage)? });
        }
        let embedded = EmbeddedDynamoDb::start(args.state.as_deref()).await.map_err(|error| match error {
            DynamoDbError::NotState { .. } => Failure::usage(error),
            other => Failure::environment(other),
        })?;
        let endpoint = Endpoint::parse(&embedded.endpoint_url()).map_err(Failure::environment)?;
        Ok(Self { embedded: Some(embedded), endpoint })
    }

    async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}

/// Makes the tables and gathers the environment. What the command line says wins over the package, and that over the defaults.
async fn prepare(args: &Invoke, target: &Target, endpoint: &Endpoint) -> Result<BTreeMap<String, String>, Failure> {
    let needs = target.needs();
    let mut env = environment::local(endpoint.url(), endpoint.is_loopback());
    env.extend(needs.env);
    env.extend(args.env.iter().cloned());

    let own = env.get(TABLE_VARIABLE).map(TableSpec::idempotency);
    if own.as_ref().is_some_and(|table| table.name.is_empty()) {
        let message = format!("{TABLE_VARIABLE} is empty; name a table, or leave it out for the table {DEFAULT_TABLE}");
        return Err(Failure::usage(message));
    }
    let tables = own.into_iter().chain(needs.tables).chain(args.table.iter().cloned());
    let by_name: BTreeMap<String, TableSpec> = tables.map(|table| (table.name.clone(), table)).collect();
    let tables: Vec<TableSpec> = by_name.into_values().collect();
    tables::ensure(endpoint, &tables).await.map_err(Failure::environment)?;
    Ok(env)
}

/// What an invocation brought, and what it cost.
struct Answer {
    result: Result<InvocationResult, FunctionFailure>,
    elapsed: Duration,
    peak_kib: Option<u64>,
}

async fn invoke(function: &Function, event: Vec<u8>, timeout: Duration) -> Answer {
    let start = Instant::now();
    let result = function.invoke(event.into(), timeout).await;
    Answer { result, elapsed: start.elapsed(), peak_kib: function.peak_resident_kib() }
}

fn conclude(
    target: &Target,
    function: &Function,
    event: &SqsEvent,
    answer: Answer,
    log: &Log,
) -> Result<Exit, Failure> {
    let (items, other_lines) = log.taken();
    let mut report = Report::new(event, items, answer.elapsed, answer.peak_kib);
    report.other_lines = other_lines;
    match answer.result {
        Ok(InvocationResult::Response(bytes)) => {
            let reported = response::check(&bytes, event);
            print_answer(&bytes)?;
            report.reported = reported.as_ref().ok().cloned();
            report.print();
            let reported = reported.map_err(|problem| Failure {
                exit: Exit::Nonsense,
                message: format!("the function answered nonsense: {problem}"),
            })?;
            Ok(if reported.is_empty() { Exit::Done } else { Exit::ItemsReported })
        }
        Ok(InvocationResult::FunctionError(error)) => {
            print_answer(&error.raw)?;
            report.print();
            let message = format!("the function answered with an error: {}: {}", error.error_type, error.message);
            Err(Failure { exit: Exit::FunctionError, message })
        }
        Err(failure) => {
            report.print();
            let more = match (&failure, target) {
                (FunctionFailure::Init(error), Target::Binary { .. }) if !error.message.is_empty() => BINARY_HINT,
                // It has said why; what it printed besides says the same.
                (FunctionFailure::Init(error), _) if !error.message.is_empty() => "",
                _ => &last_words(function, log.verbose),
            };
            let message = format!("{failure}{more}");
            Err(Failure { exit: Exit::FunctionDied, message })
        }
    }
}

fn print_answer(bytes: &[u8]) -> Result<(), Failure> {
    terminal::output(bytes).map_err(|error| Failure::environment(format!("standard output cannot be written: {error}")))
}

/// The last lines of a function that did not answer, unless they have been shown.
fn last_words(function: &Function, shown: bool) -> String {
    if shown {
        return String::new();
    }
    let named = [(LogStream::Stderr, "standard error"), (LogStream::Stdout, "standard output")];
    let found = named
        .map(|(stream, name)| (name, function.last_lines(stream)))
        .into_iter()
        .find(|(_, lines)| !lines.is_empty());
    let Some((name, lines)) = found else {
        return "\nIt printed nothing.".to_owned();
    };
    let lines: Vec<String> = lines.iter().map(|line| format!("\n  {}", terminal::tame(line, 2_000))).collect();
    format!("\nThe last lines of its {name}:{}", lines.concat())
}

/// What the function printed.
struct Log {
    verbose: bool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    items: Vec<ItemReport>,
    other_lines: usize,
}

impl Log {
    fn new(verbose: bool) -> Self {
        Self { verbose, seen: Mutex::default() }
    }

    fn add(&self, line: &str) {
        if self.verbose {
            terminal::line(line);
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match items::parse(line) {
            LogLine::Item(item) if seen.items.len() < ITEMS_KEPT => seen.items.push(item),
            LogLine::Item(_) | LogLine::Batch | LogLine::Metrics => {}
            LogLine::Other => {
                seen.other_lines += usize::from(!self.verbose && !line.trim().is_empty());
            }
        }
    }

    /// The items reported, and how many lines were printed that nobody has seen.
    fn taken(&self) -> (Vec<ItemReport>, usize) {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        (seen.items, seen.other_lines)
    }
}

fn sink(log: &Arc<Log>) -> LogSink {
    let log = Arc::clone(log);
    Arc::new(move |_, line| log.add(line))
}
