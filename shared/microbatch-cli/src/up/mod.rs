//! `microbatch up`: the stack of a template on this machine, until it is interrupted.
//!
//! Queues on an SQS server, tables in the embedded `DynamoDB`, and for each function an event source mapping with the
//! template's own settings, which runs the function's real binary. A function whose sources change is built and swapped.

mod log;
mod ministack;
pub(crate) mod running;
mod sources;
pub(crate) mod sqs;
mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sdk_sqs::Client;
use microbatch_local::dynamodb::{DynamoDbError, EmbeddedDynamoDb};
use microbatch_local::environment;
use microbatch_local::function::{FunctionSpec, LogSink};
use microbatch_local::mapping::{Mapping, MappingSpec, Observer};
use microbatch_local::package::{PackageError, Workspace};
use microbatch_local::tables::{self, Endpoint};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use self::log::LogFile;
use self::ministack::Server;
use self::running::{Claim, Part as Announced, Queues, Whereabouts};
use self::sources::Sources;
use self::sqs::Queue;
use self::view::View;
use crate::args::Up;
use crate::check::local::{self, LocalFunction, LocalStack};
use crate::exit::{Exit, Failure};
use crate::interrupt::interrupted;
use crate::operate::store::RECORD_SETTINGS;
use crate::target::Target;
use crate::{target, terminal};

/// The template when none is named.
const DEFAULT_TEMPLATE: &str = "infra/template.yaml";
/// Most processes of a function at once, whatever the template's concurrency is.
const PROCESSES_MAX: usize = 10;
/// How long a receive waits, and so a stop.
const RECEIVE_WAIT_S: u32 = 1;
/// How often depths and sources are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Runs the subcommand. It waits for signals itself: batches that run are to be finished.
pub(crate) async fn run(args: Up) -> Result<Exit, Failure> {
    let started = tokio::select! {
        started = Running::start(&args) => started,
        // Dropping what was started ends it.
        signal = interrupted() => return Ok(signal),
    };
    let mut running = started?;
    let ended = running.watch().await;
    // While it stops, another signal ends it at once.
    tokio::select! {
        () = running.stop() => ended.map(|()| Exit::Done),
        signal = interrupted() => Ok(signal),
    }
}

/// A function of the template, with what runs it.
struct Part {
    function: LocalFunction,
    target: Target,
    program: PathBuf,
    sources: Sources,
}

/// A function that is fed.
struct Fed {
    name: String,
    target: Target,
    spec: FunctionSpec,
    sources: Sources,
    mapping: Mapping,
    queues: Queues,
}

/// All that runs. Dropping it ends it at once.
struct Running {
    fed: Vec<Fed>,
    view: View,
    client: Client,
    release: bool,
    dynamodb: EmbeddedDynamoDb,
    server: Option<Server>,
    claim: Claim,
}

impl Running {
    async fn start(args: &Up) -> Result<Self, Failure> {
        let workspace = target::workspace().await;
        let root = workspace.as_ref().ok().map(|workspace| workspace.root.as_path());
        let stack = read_template(args, root)?;
        let chosen = choose(stack.functions, args, workspace.as_ref())?;
        let log = args.log.as_deref().map(LogFile::open).transpose()?;
        for note in &stack.notes {
            terminal::note(note);
        }
        let target_dir = running::target_dir(root);
        let folder = running::folder(args.state.as_deref(), target_dir.as_deref())?;
        // The database takes a state folder only if it is its own, and so comes first.
        let dynamodb = open_database(args.state.as_deref()).await?;
        let claim = Claim::take(&folder)?;

        let mut parts = Vec::new();
        for (function, target) in chosen {
            let program = target.build(args.release).await?;
            let mut sources = Sources::default();
            sources.update(&program);
            parts.push(Part { function, target, program, sources });
        }
        let endpoint = Endpoint::parse(&dynamodb.endpoint_url()).map_err(Failure::environment)?;
        tables::ensure(&endpoint, &stack.tables).await.map_err(Failure::environment)?;
        let tools = target_dir.unwrap_or_else(|| folder.clone()).join("tools");
        let (server, sqs_url) = start_sqs(args, &tools, &folder).await?;
        let client = sqs::client(&sqs_url);
        let queues = sqs::make(&client, &stack.queues).await?;

        let dead_letters = |part: &Part| {
            let queue = stack.queues.get(&part.function.queue)?;
            queue.dead_letters.as_ref().map(|(id, _)| id.as_str())
        };
        let shown: Vec<(String, bool)> =
            parts.iter().map(|part| (part.target.name().to_owned(), dead_letters(part).is_some())).collect();
        let view = View::new(&shown, args.verbose);
        let mut fed = Vec::new();
        for (row, part) in parts.into_iter().enumerate() {
            let env = variables(&part.function, &endpoint, &sqs_url, &queues);
            let dead_letters = dead_letters(&part);
            let sink = view.sink(row);
            let sink = log.as_ref().map_or_else(|| sink.clone(), |log| log.before(sink.clone(), &view));
            fed.push(part.feed(&client, env, &queues, dead_letters, (sink, view.observer(row))).await?);
        }
        let running = Self { fed, view, client, release: args.release, dynamodb, server, claim };
        running.announce(&sqs_url)?;
        Ok(running)
    }

    /// Says where everything is: on standard error, and in the stack's file.
    fn announce(&self, sqs_url: &str) -> Result<(), Failure> {
        let dynamodb = self.dynamodb.endpoint_url();
        terminal::line(&format!("SQS       {sqs_url}\nDynamoDB  {dynamodb}"));
        for fed in &self.fed {
            let settings = fed.mapping.settings();
            let window_s = settings.window().as_secs();
            let at_once = settings.concurrency_max().map_or(PROCESSES_MAX, |most| most.min(PROCESSES_MAX));
            let batches = format!("batches of up to {}, window {window_s} s, {at_once} at once", settings.batch_size());
            terminal::line(&format!("{}  {batches}", fed.name));
            terminal::line(&format!("  queue         {}", fed.queues.source));
            if let Some(url) = &fed.queues.dead_letters {
                terminal::line(&format!("  dead letters  {url}"));
            }
        }
        let announced = |fed: &Fed| {
            let settings = RECORD_SETTINGS.iter().filter_map(|name| fed.spec.env.get_key_value(*name));
            let settings = settings.map(|(name, value)| (name.clone(), value.clone())).collect();
            Announced { queues: fed.queues.clone(), settings }
        };
        let functions = self.fed.iter().map(|fed| (fed.name.clone(), announced(fed))).collect();
        let pid = std::process::id();
        self.claim.publish(&Whereabouts { pid, sqs: sqs_url.to_owned(), dynamodb, functions })?;
        let first = self.fed.first().map_or("FUNCTION", |fed| fed.name.as_str());
        terminal::line(&format!("Send messages by: microbatch send {first} FILE. Ctrl-C stops all of it."));
        Ok(())
    }

    /// Shows what happens and rebuilds what changes, until a signal comes; an error tells what ended before.
    async fn watch(&mut self) -> Result<(), Failure> {
        let places: Vec<(usize, Queues)> = self.fed.iter().map(|fed| fed.queues.clone()).enumerate().collect();
        let ended = async {
            match &mut self.server {
                Some(server) => server.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupted() => Ok(()),
            failure = ended => Err(failure),
            () = show(&self.view, &self.client, &places) => Ok(()),
            () = rebuild(&mut self.fed, &self.view, self.release) => Ok(()),
        }
    }

    /// Finishes the batches that run, then ends everything.
    async fn stop(self) {
        let Self { fed, view, client, dynamodb, server, claim, .. } = self;
        view.set_paused(true);
        view.print("Stopping: batches that run are finished. Ctrl-C again stops at once.");
        let places: Vec<(usize, Queues)> = fed.iter().map(|fed| fed.queues.clone()).enumerate().collect();
        let mut stopping: JoinSet<()> = JoinSet::new();
        for fed in fed {
            stopping.spawn(async move {
                fed.mapping.stop().await;
            });
        }
        while stopping.join_next().await.is_some() {}
        look(&view, &client, &places).await;
        view.finish();
        dynamodb.stop().await;
        drop((server, claim));
        terminal::line("Stopped.");
    }
}

impl Part {
    /// Starts the mapping that feeds it.
    async fn feed(
        self,
        client: &Client,
        env: BTreeMap<String, String>,
        queues: &BTreeMap<String, Queue>,
        dead_letters: Option<&str>,
        (sink, observer): (LogSink, Observer),
    ) -> Result<Fed, Failure> {
        let name = self.target.name().to_owned();
        let url = |id: &str| queues.get(id).map(|queue| queue.url.clone());
        let source = url(&self.function.queue).unwrap_or_default();
        let spec = FunctionSpec { name: name.clone(), program: self.program, env };
        let mapping = MappingSpec {
            queue_url: source.clone(),
            settings: self.function.mapping,
            function: spec.clone(),
            function_timeout: self.function.timeout,
            environments_max: Some(PROCESSES_MAX),
            receive_wait_s: RECEIVE_WAIT_S,
        };
        let mapping = Mapping::start(client, mapping, sink, observer).await;
        let mapping = mapping.map_err(|error| Failure::usage(format!("{name}: {error}")))?;
        let queues = Queues { source, dead_letters: dead_letters.and_then(url) };
        Ok(Fed { name, target: self.target, spec, sources: self.sources, mapping, queues })
    }
}

fn read_template(args: &Up, root: Option<&Path>) -> Result<LocalStack, Failure> {
    let path = match (&args.template, root) {
        (Some(path), _) => path.clone(),
        (None, Some(root)) => root.join(DEFAULT_TEMPLATE),
        (None, None) => return Err(Failure::usage("no cargo workspace here; name a template by --template FILE")),
    };
    local::read(&path, &args.parameter).map_err(Failure::usage)
}

/// The functions to run, each with what runs it.
fn choose(
    functions: Vec<LocalFunction>,
    args: &Up,
    workspace: Result<&Workspace, &PackageError>,
) -> Result<Vec<(LocalFunction, Target)>, Failure> {
    let mut chosen: Vec<(LocalFunction, Target)> = Vec::new();
    let mut all = Vec::new();
    for function in functions {
        let is_package = |name: &&String| workspace.is_ok_and(|workspace| workspace.contains(name));
        let package = function.packages.iter().find(is_package).or(function.packages.first());
        let Some(name) = package.cloned() else { continue };
        all.push(name.clone());
        if !args.function.is_empty() && !args.function.contains(&name) {
            continue;
        }
        let binary = args.binary.iter().rev().find(|(of, _)| *of == name);
        let target = match binary {
            Some((_, path)) => target::binary_named(&name, Path::new(path))?,
            None => target::find(Some(&name), workspace)?,
        };
        chosen.push((function, target));
    }
    let named = args.function.iter().chain(args.binary.iter().map(|(name, _)| name));
    if let Some(unknown) = named.into_iter().find(|name| !all.contains(name)) {
        let all = all.join(", ");
        return Err(Failure::usage(format!("the template has no function {unknown} that a queue feeds; it has {all}")));
    }
    Ok(chosen)
}

async fn open_database(state: Option<&Path>) -> Result<EmbeddedDynamoDb, Failure> {
    EmbeddedDynamoDb::start(state).await.map_err(|error| match error {
        DynamoDbError::NotState { .. } => Failure::usage(error),
        other => Failure::environment(other),
    })
}

/// The SQS server, if it is ours, and its URL.
async fn start_sqs(args: &Up, tools: &Path, folder: &Path) -> Result<(Option<Server>, String), Failure> {
    if let Some(url) = &args.sqs_endpoint_url {
        let endpoint = Endpoint::parse(url).map_err(Failure::usage)?;
        if !endpoint.is_loopback() {
            let message =
                format!("{url} is not on this machine: queues are made only here; expected http://127.0.0.1:PORT");
            return Err(Failure::usage(message));
        }
        return Ok((None, url.clone()));
    }
    let program = ministack::install(tools).await?;
    let server = Server::start(&program, args.port, folder.join("sqs.log")).await?;
    let url = server.endpoint_url.clone();
    Ok((Some(server), url))
}

/// A function's environment: the template's variables over those of every local run.
fn variables(
    function: &LocalFunction,
    dynamodb: &Endpoint,
    sqs_url: &str,
    queues: &BTreeMap<String, Queue>,
) -> BTreeMap<String, String> {
    let known: BTreeMap<String, String> = queues
        .iter()
        .flat_map(|(id, Queue { url, arn })| {
            [(id.clone(), url.clone()), (format!("{id}.QueueUrl"), url.clone()), (format!("{id}.Arn"), arn.clone())]
        })
        .collect();
    let mut env = environment::local(dynamodb.url(), dynamodb.is_loopback());
    env.insert("AWS_ENDPOINT_URL_SQS".to_owned(), sqs_url.to_owned());
    env.extend(function.env.iter().map(|(name, text)| (name.clone(), text.fill(&known))));
    env
}

/// Shows the queues' depths, for ever.
async fn show(view: &View, client: &Client, places: &[(usize, Queues)]) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        look(view, client, places).await;
        view.show();
    }
}

async fn look(view: &View, client: &Client, places: &[(usize, Queues)]) {
    for (row, queues) in places {
        let source = sqs::depth(client, &queues.source).await;
        let dead_letters = match &queues.dead_letters {
            Some(url) => sqs::depth(client, url).await,
            None => None,
        };
        view.set_depths(*row, source, dead_letters);
    }
}

/// Builds functions whose sources change and swaps them, for ever. A build that fails leaves the old one at work.
async fn rebuild(fed: &mut [Fed], view: &View, release: bool) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting = vec![false; fed.len()];
    loop {
        ticks.tick().await;
        for (fed, is_waiting) in fed.iter_mut().zip(&mut waiting) {
            // Only built once nothing changed for a tick: an editor may write several files.
            if fed.sources.changed() {
                *is_waiting = true;
            } else if std::mem::take(is_waiting) {
                fed.rebuild(view, release).await;
            }
        }
    }
}

impl Fed {
    async fn rebuild(&mut self, view: &View, release: bool) {
        let name = &self.name;
        view.print(&format!("{name}: its sources changed, building"));
        // Cargo writes to the terminal itself.
        view.set_paused(true);
        let built = self.target.build(release).await;
        view.set_paused(false);
        match built {
            Ok(program) => {
                self.sources.update(&program);
                self.spec.program = program;
                self.mapping.deploy(self.spec.clone());
                view.print(&format!("{name}: the new build runs from the next batch on"));
            }
            Err(failure) => {
                self.sources.add_unnoted();
                let words = failure.message;
                view.print(&format!("{name}: {words}; the build before stays at work, until the next change"));
            }
        }
    }
}
