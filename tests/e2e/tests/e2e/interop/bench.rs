//! Both sides on one table: Powertools in a Python process, microbatch in this one.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_dynamodb::Client;
use e2e::stack::{need, now_ms};
use e2e::tools::powertools_python;
use microbatch::key::KeyFormat;
use microbatch::pipeline::Host;
use microbatch::{Done, ItemContext, NoWrites, Options, Outcome, Pipeline, ProcessError, Processor, TotalFailure};
use microbatch_aws::DynamoDbStore;
use microbatch_aws::clock::SystemRandom;
use microbatch_aws::dynamodb::{Layout, StoreCalls};
use microbatch_local::dynamodb::EmbeddedDynamoDb;
use microbatch_local::environment;
use microbatch_local::tables::{Endpoint, TableSpec, ensure};
use microbatch_testkit::clock::TokioClock;
use microbatch_testkit::recorder::{KeepingRecorder, KeptReport};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::block_in_place;

/// What Powertools puts before `#`: function, module and name of the decorated function.
pub(crate) const PREFIX: &str = "interop.__main__.handler";
/// The function's name.
const FUNCTION_NAME: &str = "interop";

/// The table, with Powertools on it.
pub(crate) struct Bench {
    _dynamodb: EmbeddedDynamoDb,
    endpoint: Endpoint,
    client: Client,
    python: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    layout: TableLayout,
    tables: usize,
}

/// Where in a table the records stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableLayout {
    /// As by default.
    Default,
    /// With a sort key, and other names of the attributes.
    Composite,
}

/// What Powertools is asked to do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask<'a> {
    /// `event_key_jmespath`.
    pub(crate) key: &'a str,
    /// `payload_validation_jmespath`.
    pub(crate) validation: Option<&'a str>,
    /// How the handler ends: returns unless told to `fail`, `die` or `hold`.
    pub(crate) act: &'a str,
    /// The invocation's time left, in milliseconds; 30,000 unless told.
    pub(crate) remaining_ms: Option<i64>,
    /// Handle an SQS record that holds the payload as its body, with this key prefix.
    pub(crate) recipe: Option<&'a str>,
}

/// What Powertools did with a payload.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Handled {
    /// `ran`, `replayed`, or the name of an exception.
    pub(crate) outcome: String,
    /// How often the handler was called.
    pub(crate) runs: u64,
    /// What the caller got.
    pub(crate) result: Value,
    /// The key it stored the record under; none when it found no key.
    pub(crate) key: Option<String>,
    /// The hash of the payload that is validated; empty without validation.
    pub(crate) validation: Option<String>,
}

/// What is wrong with a key's selector where keys are written as Powertools writes them.
pub(crate) fn problem_with_key(key: &str) -> Option<String> {
    let builder = Pipeline::builder(Worker::new(Act::Return)).key(key).key_format(KeyFormat::PowertoolsPython);
    builder.validate().err().map(|error| error.to_string())
}

/// What Powertools' handlers return.
pub(crate) fn their_result() -> Value {
    json!({"by": "powertools", "numbers": [1, 2.5]})
}

/// What microbatch's processor returns.
pub(crate) fn our_result() -> Value {
    json!({"by": "microbatch", "numbers": [1, 2.5]})
}

impl Bench {
    /// Starts a DynamoDB with an empty table in the default layout, and Powertools.
    pub(crate) async fn start() -> Self {
        let dynamodb = need(EmbeddedDynamoDb::start(None).await);
        let endpoint = need(Endpoint::parse(&dynamodb.endpoint_url()));
        let mut command = Command::new(need(powertools_python()));
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/interop/powertools.py"))
            .env_clear()
            .envs(environment::inherited())
            .envs(environment::local(&dynamodb.endpoint_url(), true))
            .env("AWS_DEFAULT_REGION", environment::LOCAL_REGION)
            .env("AWS_LAMBDA_FUNCTION_NAME", FUNCTION_NAME)
            // It warns of items without a key, which tests send on purpose.
            .env("PYTHONWARNINGS", "ignore")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut python = need(command.spawn());
        let commands = python.stdin.take().expect("piped");
        let answers = BufReader::new(python.stdout.take().expect("piped"));
        let client = endpoint.client().await;
        let layout = TableLayout::Default;
        let mut bench = Self { _dynamodb: dynamodb, endpoint, client, python, commands, answers, layout, tables: 0 };
        bench.next_table(layout).await;
        bench
    }

    /// From now on both sides use a new, empty table.
    pub(crate) async fn next_table(&mut self, layout: TableLayout) {
        self.tables += 1;
        self.layout = layout;
        let keys = match layout {
            TableLayout::Default => "id",
            TableLayout::Composite => "pk,sk",
        };
        need(ensure(&self.endpoint, &[need(TableSpec::from_keys(&self.table(), keys))]).await);
    }

    fn table(&self) -> String {
        format!("table-{}", self.tables)
    }

    /// Lets Powertools handle one payload.
    pub(crate) fn handle(&mut self, ask: &Ask<'_>, body: &str) -> Handled {
        self.handle_all(ask, &[body]).remove(0)
    }

    /// Lets Powertools handle payloads one after another.
    pub(crate) fn handle_all(&mut self, ask: &Ask<'_>, bodies: &[&str]) -> Vec<Handled> {
        self.tell(&self.command(ask, bodies));
        self.handled()
    }

    /// Lets Powertools handle a payload and hold in the middle, until [`Bench::end`].
    pub(crate) fn begin(&mut self, ask: &Ask<'_>, body: &str) {
        self.tell(&self.command(&Ask { act: "hold", ..ask.clone() }, &[body]));
        assert_eq!(self.answer()["outcome"], "started");
    }

    /// Ends what [`Bench::begin`] began.
    pub(crate) fn end(&mut self, act: &str) -> Handled {
        self.tell(&json!({"act": act}));
        self.handled().remove(0)
    }

    fn command(&self, ask: &Ask<'_>, bodies: &[&str]) -> Value {
        let layout = match self.layout {
            TableLayout::Default => json!({}),
            TableLayout::Composite => json!({
                "key_attr": "pk", "sort_key_attr": "sk", "expiry_attr": "ttl", "in_progress_expiry_attr": "lease",
                "status_attr": "state", "data_attr": "result", "validation_key_attr": "hash",
            }),
        };
        json!({
            "table": self.table(),
            "layout": layout,
            "key": ask.key,
            "validation": ask.validation,
            "act": ask.act,
            "result": their_result(),
            "remaining_ms": ask.remaining_ms.unwrap_or(30_000),
            "recipe": ask.recipe,
            "bodies": bodies,
        })
    }

    fn tell(&mut self, command: &Value) {
        need(block_in_place(|| writeln!(self.commands, "{command}")));
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        // The server it talks to runs on this runtime: it goes on while this thread waits.
        need(block_in_place(|| self.answers.read_line(&mut line)));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: Powertools' process said {line:?}"))
    }

    fn handled(&mut self) -> Vec<Handled> {
        let answer = self.answer();
        assert_eq!(answer["outcome"], "done", "{answer}");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let handled = answer["handled"].as_array().expect("a list").iter().map(|one| Handled {
            outcome: text(&one["outcome"]).expect("a text"),
            runs: one["runs"].as_u64().expect("a number"),
            result: one["result"].clone(),
            key: text(&one["stored"]["key"]),
            validation: text(&one["stored"]["validation"]),
        });
        handled.collect()
    }

    /// microbatch on the table, with keys as Powertools writes them.
    pub(crate) fn microbatch(&self, settings: &Ours<'_>) -> Microbatch {
        let worker = Worker::new(settings.act);
        let recorder = Arc::new(KeepingRecorder::default());
        let host = Host {
            queue: None,
            store: self.store(settings.calls),
            clock: Arc::new(TokioClock::starting_at(now_ms().saturating_add_signed(settings.clock_ahead_ms))),
            random: Arc::new(SystemRandom),
            recorder: Arc::clone(&recorder) as _,
        };
        let builder = Pipeline::builder(worker.clone()).key(settings.key).key_format(KeyFormat::PowertoolsPython);
        let builder = match settings.validation {
            Some(validation) => builder.fingerprint(validation),
            None => builder,
        };
        let namespace = settings.prefix.unwrap_or(PREFIX).to_owned();
        let change = |options: &mut Options| {
            options.namespace = namespace;
            // Its one message's outcome is asked for, also where it failed.
            options.total_failure = TotalFailure::Report;
        };
        let pipeline = need(builder.options(change).build(host));
        Microbatch { pipeline, worker, recorder }
    }

    fn store(&self, calls: StoreCalls) -> DynamoDbStore {
        let store = DynamoDbStore::new(self.client.clone(), self.table()).calls(calls);
        if self.layout == TableLayout::Default {
            return store;
        }
        let names = [
            ("id", "pk"),
            ("expiration", "ttl"),
            ("in_progress_expiration", "lease"),
            ("status", "state"),
            ("data", "result"),
            ("validation", "hash"),
        ];
        // The partition's value is Powertools' default.
        let layout = Layout::renamed(names).and_then(|layout| layout.composite_key("sk", "idempotency#interop"));
        store.layout(need(layout))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.python.kill();
        let _ = self.python.wait();
    }
}

/// How microbatch is set up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ours<'a> {
    /// The key's selector.
    pub(crate) key: &'a str,
    /// The fingerprint's selector.
    pub(crate) validation: Option<&'a str>,
    /// What precedes `#`, if not [`PREFIX`].
    pub(crate) prefix: Option<&'a str>,
    /// How the processor ends.
    pub(crate) act: Act,
    /// How far its clock is ahead of Powertools'.
    pub(crate) clock_ahead_ms: i64,
    /// How claims and completions are sent.
    pub(crate) calls: StoreCalls,
}

/// How the processor ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Act {
    /// It returns its result.
    #[default]
    Return,
    /// It fails, and another try may help.
    Fail,
    /// It holds until [`Microbatch::go_on`], and returns its result then.
    Hold,
}

/// microbatch on the table.
#[derive(Clone)]
pub(crate) struct Microbatch {
    pipeline: Pipeline<Worker, DynamoDbStore>,
    worker: Worker,
    recorder: Arc<KeepingRecorder>,
}

#[derive(Clone)]
struct Worker {
    act: Act,
    runs: Arc<AtomicUsize>,
    started: Arc<Semaphore>,
    go_on: Arc<Semaphore>,
}

impl Worker {
    fn new(act: Act) -> Self {
        Self { act, runs: Arc::default(), started: Arc::new(Semaphore::new(0)), go_on: Arc::new(Semaphore::new(0)) }
    }
}

impl Processor for Worker {
    type Item = IgnoredAny;
    type Output = Value;
    type Write = NoWrites;

    async fn process(&self, _item: IgnoredAny, _cx: &ItemContext) -> Result<Done<Value>, ProcessError> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.started.add_permits(1);
        match self.act {
            Act::Return => {}
            Act::Fail => return Err(ProcessError::transient(std::fmt::Error)),
            Act::Hold => self.go_on.acquire().await.expect("never closed").forget(),
        }
        Ok(Done::new(our_result()))
    }
}

impl Microbatch {
    /// Sends one message with this body, and gives its outcome.
    pub(crate) async fn outcome(&self, body: &str) -> Outcome {
        self.send(&[body]).await.items[0].outcome
    }

    /// Sends a batch of messages with these bodies.
    pub(crate) async fn send(&self, bodies: &[&str]) -> KeptReport {
        let records: Vec<Value> =
            bodies.iter().enumerate().map(|(n, body)| json!({"messageId": format!("m-{n}"), "body": body})).collect();
        need(self.pipeline.run(&json!({"Records": records}).to_string(), "batch", None).await);
        self.recorder.last()
    }

    /// How often the processor was called.
    pub(crate) fn runs(&self) -> usize {
        self.worker.runs.load(Ordering::SeqCst)
    }

    /// Waits until the processor has been called.
    pub(crate) async fn started(&self) {
        self.worker.started.acquire().await.expect("never closed").forget();
    }

    /// Lets a processor that holds return.
    pub(crate) fn go_on(&self) {
        self.worker.go_on.add_permits(1);
    }
}
