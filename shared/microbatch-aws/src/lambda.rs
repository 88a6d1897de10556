//! The Lambda host: a pipeline under the Lambda runtime.

use std::{
    error::Error,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Arc,
};

use aws_lambda_events::sqs::SqsBatchResponse;
use futures_util::FutureExt;
use lambda_runtime::{Diagnostic, LambdaEvent, run_concurrent, service_fn};
use microbatch::{
    Clock, Commit, Invocation, Options, Pipeline, PipelineBuilder, Processor, Queue,
    pipeline::{Host, RunError},
};
use serde_json::value::RawValue;
use tokio::runtime::Builder;

use crate::{
    clock::{SystemClock, SystemRandom},
    dynamodb::DynamoDbStore,
    logging::{self, LogRecorder},
    metrics::{MetricsRecorder, MetricsSettings},
    sdk,
    settings::{self, Queues, Settings},
    sqs::SqsQueue,
    traces::{TraceRecorder, Tracer},
    watchdog,
};

/// Memory that buys one vCPU, by Lambda's documentation.
const MB_PER_VCPU: u64 = 1_769;

/// Longest time for one request to a queue: it is sent shortly before the response, and tried again.
const QUEUE_TIMEOUT_MS: u64 = 1_000;

/// What the response itself takes, in which nothing is exported any more.
const RESPONSE_MS: u64 = 100;

/// The name of a panic outside of all that is contained.
const PANICKED: &str = "Panicked";
const PANICKED_IN_INIT: &str = "the function panicked in its init; the log says where";

/// The function could not start. What was wrong is in the log and was told to Lambda.
pub struct InitFailed(());

impl fmt::Debug for InitFailed {
    // `main` prints this after the log line that says what was wrong.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the function could not start; the log says why")
    }
}

impl fmt::Display for InitFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Error for InitFailed {}

/// Any error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The environment variable by which Lambda says how many invocations it runs at once in an instance.
const MAX_CONCURRENCY: &str = "AWS_LAMBDA_MAX_CONCURRENCY";
/// The environment variable by which it says how much memory the function has.
const MEMORY_MB: &str = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE";

/// The whole of a function's `main`: [`run_with`], on a runtime that fits the function's memory.
///
/// Memory that buys up to one vCPU, 1,769 MB, gets one thread. On more of them, as `#[tokio::main]` has it, each request would
/// pass from the pipeline's thread to that of its connection and back, a good part of what a small batch costs. Where there is
/// more, or Lambda runs several invocations at once, each core gets a thread. Code that blocks belongs in tokio's
/// `spawn_blocking`, which works on either: on one thread, connections and time-outs stand still meanwhile, `block_in_place`
/// panics, and code that blocks until another task is done waits for ever.
///
/// ```no_run
/// use microbatch::{Pipeline, Processor};
/// use microbatch_aws::lambda;
/// # struct Book;
/// # impl Processor for Book {
/// #     type Item = String;
/// #     type Output = ();
/// #     type Write = microbatch::NoWrites;
/// #     async fn process(
/// #         &self, _: String, _: &microbatch::ItemContext,
/// #     ) -> Result<microbatch::Done<()>, microbatch::ProcessError> {
/// #         Ok(().into())
/// #     }
/// # }
///
/// fn main() -> Result<(), lambda::BoxError> {
///     lambda::main(async { Ok(Pipeline::builder(Book).key("payment_id")) })
/// }
/// ```
///
/// # Errors
/// As [`run_with`], and when the runtime cannot start.
pub fn main<P: Processor>(
    make: impl Future<Output = Result<PipelineBuilder<P>, BoxError>> + Send + 'static,
) -> Result<(), BoxError>
where
    DynamoDbStore: Commit<P::Write>,
{
    let one_thread = fits_one_thread(number_from_env(MEMORY_MB), number_from_env(MAX_CONCURRENCY));
    let mut runtime = if one_thread { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    let runtime = runtime.enable_all().build()?;
    // A task, which gets its turn behind the connections' tasks that an answer has woken: what a runtime blocks on comes before
    // them, and would find a request's time over whose answer is there.
    let ended = runtime.block_on(async { tokio::spawn(run_with(make)).await });
    ended.unwrap_or_else(|error| resume_unwind(error.into_panic()))
}

/// Whether one thread is enough for a function: it has up to one vCPU, and one invocation at once. Unknown memory may be any.
fn fits_one_thread(memory_mb: Option<u64>, invocations_max: Option<u64>) -> bool {
    memory_mb.is_some_and(|memory_mb| memory_mb <= MB_PER_VCPU) && invocations_max.unwrap_or(1) <= 1
}

/// Runs a pipeline as a Lambda function on the caller's runtime, until Lambda ends the process. [`main`] brings one that fits.
///
/// Store, clock and settings come from the environment: [`settings::variables`] lists what is read. What is wrong there,
/// in the builder or with the table is logged and reported to Lambda, all of it at once, before any event is taken.
///
/// # Errors
/// When the function cannot start, or the Runtime API is lost.
pub async fn run<P: Processor>(builder: PipelineBuilder<P>) -> Result<(), BoxError>
where
    DynamoDbStore: Commit<P::Write>,
{
    run_with(async { Ok(builder) }).await
}

/// [`run`] for a pipeline whose making can fail: an error of `make` is reported as a failed init too.
///
/// # Errors
/// As [`run`].
pub async fn run_with<P: Processor>(
    make: impl Future<Output = Result<PipelineBuilder<P>, BoxError>>,
) -> Result<(), BoxError>
where
    DynamoDbStore: Commit<P::Write>,
{
    logging::init();
    // Boxed: its state is large, and would otherwise stand in every user's `main`. Caught: what a panic says stays unsaid.
    let started = AssertUnwindSafe(Box::pin(start(make))).catch_unwind().await;
    match started.unwrap_or_else(|_| Err(PANICKED_IN_INIT.into())) {
        Ok(Started { pipeline, tracer }) => {
            watchdog::spawn(pipeline.clone());
            serve(pipeline, tracer).await
        }
        Err(error) => {
            let message = error.to_string();
            tracing::error!(target: "microbatch::init", message);
            report_init_error(message).await;
            Err(InitFailed(()).into())
        }
    }
}

/// A function that can take events.
struct Started<P> {
    pipeline: Pipeline<P, DynamoDbStore>,
    tracer: Option<Arc<Tracer>>,
}

async fn start<P: Processor>(
    make: impl Future<Output = Result<PipelineBuilder<P>, BoxError>>,
) -> Result<Started<P>, BoxError>
where
    DynamoDbStore: Commit<P::Write>,
{
    if runtime_api().is_none() {
        let hint = "AWS_LAMBDA_RUNTIME_API is not set, or is no address: this program is a Lambda function, which Lambda starts; \
                    on your machine run it by cargo local or cargo lambda watch";
        return Err(hint.into());
    }
    let sdk = sdk::sdk_config().await;
    let Configured { builder, settings, mut problems } = configure(make.await);
    let queue = settings.as_ref().and_then(|settings| settings.queues.as_ref()).map(|queues| sqs_queue(&sdk, queues));
    let (Some(builder), Some(settings), true) = (builder, settings, problems.is_empty()) else {
        problems.extend(queue_problems(queue.as_ref()).await);
        return Err(problems.join("; ").into());
    };
    let client = sdk::store_client(&sdk, settings.store_timeout_ms);
    let store = DynamoDbStore::new(client, settings.table).layout(settings.layout).calls(settings.store_calls);
    let table_problem = async {
        // Without idempotency the table is only needed for the processor's own transactions.
        if builder.is_idempotent() { store.warm_up().await.err() } else { None }
    };
    let (table_problem, queue_problems) = tokio::join!(table_problem, queue_problems(queue.as_ref()));
    problems.extend(table_problem.map(|error| error.to_string()));
    problems.extend(queue_problems);
    let tracer = settings.traces.map(Tracer::from_env).transpose().unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    if !problems.is_empty() {
        return Err(problems.join("; ").into());
    }
    let metrics =
        settings.metrics_namespace.map(|namespace| MetricsRecorder::new(MetricsSettings::from_env(namespace)));
    let tracer = tracer.map(Arc::new);
    let span_recorder = tracer.as_ref().map(|tracer| TraceRecorder(Arc::clone(tracer)));
    let host = Host {
        store,
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        recorder: Arc::new((LogRecorder { item_log: settings.item_log }, (metrics, span_recorder))),
        queue: queue.map(|queue| Arc::new(queue) as Arc<dyn Queue>),
    };
    Ok(Started { pipeline: builder.build(host)?, tracer })
}

/// A function's settings, and what is wrong with them.
struct Configured<P> {
    builder: Option<PipelineBuilder<P>>,
    settings: Option<Settings>,
    problems: Vec<String>,
}

/// Applies the environment to the builder. What the user's code, the environment and the builder have against it comes
/// out together.
fn configure<P: Processor>(made: Result<PipelineBuilder<P>, BoxError>) -> Configured<P> {
    let mut settings = None;
    let mut problems = Vec::new();
    let builder = match made {
        Ok(builder) => Some(builder.options(|options| {
            options.shards.get_or_insert(vcpus());
            settings = Some(settings::from_env(options));
        })),
        Err(error) => {
            problems.push(error.to_string());
            settings = Some(settings::from_env(&mut Options::default()));
            None
        }
    };
    let mut known: Vec<String> = Vec::new();
    let settings = settings.and_then(|settings| match settings {
        Ok(settings) => Some(settings),
        Err(error) => {
            problems.push(error.to_string());
            // Wrong options are among the settings' problems already.
            known = error.problems.into_iter().map(|problem| problem.what).collect();
            error.settings.map(|settings| *settings)
        }
    });
    if let Some(Err(error)) = builder.as_ref().map(PipelineBuilder::validate) {
        let others = error.problems.into_iter().filter(|problem| !known.contains(&problem.what));
        problems.extend(others.map(|problem| format!("{}: {}", problem.setting, problem.what)));
    }
    Configured { builder, settings, problems }
}

fn sqs_queue(sdk: &aws_config::SdkConfig, queues: &Queues) -> SqsQueue {
    let queue = SqsQueue::new(sdk::sqs_client(sdk, QUEUE_TIMEOUT_MS), &queues.source_url).delays(queues.backoff);
    match &queues.park_url {
        Some(park_url) => queue.park_in(park_url),
        None => queue,
    }
}

/// What is definitely wrong with the queues.
async fn queue_problems(queue: Option<&SqsQueue>) -> Vec<String> {
    let checked = match queue {
        Some(queue) => queue.check().await,
        None => Ok(()),
    };
    let problems = checked.err().unwrap_or_default();
    problems.into_iter().map(|problem| format!("{}: {}", problem.setting, problem.what)).collect()
}

/// As many shards as the function's memory buys vCPUs.
fn vcpus() -> u64 {
    number_from_env(MEMORY_MB).map_or(1, |memory_mb| memory_mb / MB_PER_VCPU).clamp(1, 64)
}

fn number_from_env(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

async fn serve<P: Processor>(pipeline: Pipeline<P, DynamoDbStore>, tracer: Option<Arc<Tracer>>) -> Result<(), BoxError>
where
    DynamoDbStore: Commit<P::Write>,
{
    run_concurrent(service_fn(move |event: LambdaEvent<Box<RawValue>>| {
        let (pipeline, tracer) = (pipeline.clone(), tracer.clone());
        async move {
            let LambdaEvent { payload, context, .. } = event;
            let received_ms = SystemClock.now_ms();
            let trace =
                tracer.as_ref().and_then(|tracer| tracer.begin(context.xray_trace_id.as_deref(), &SystemRandom));
            let (event, batch_id) = (payload.get(), &*context.request_id);
            let deadline_ms = Some(context.deadline);
            let invocation = Invocation { event, batch_id, deadline_ms, trace: trace.map(|trace| trace.own) };
            let answer = answer(&pipeline, invocation).await;
            if let (Some(tracer), Some(trace)) = (&tracer, &trace) {
                let deadline_ms = pipeline.resolve_deadline_ms(Some(context.deadline), received_ms);
                tracer.flush(trace, deadline_ms.saturating_sub(RESPONSE_MS), SystemClock.now_ms()).await;
            }
            answer
        }
    }))
    .await
}

/// What the invocation answers.
async fn answer<P: Processor>(
    pipeline: &Pipeline<P, DynamoDbStore>,
    invocation: Invocation<'_>,
) -> Result<SqsBatchResponse, Diagnostic>
where
    DynamoDbStore: Commit<P::Write>,
{
    let received_ms = SystemClock.now_ms();
    // Caught here, since the runtime would log and post what a panic says.
    let Ok(finished) = AssertUnwindSafe(pipeline.invoke(invocation)).catch_unwind().await else {
        pipeline.record_refused(&invocation, received_ms, PANICKED);
        return Err(panicked());
    };
    match finished {
        Ok(response) => Ok(lambda_response(response.into_failed_ids())),
        Err(error) => {
            tracing::error!(target: "microbatch::batch", batch_id = invocation.batch_id, %error, "batch failed");
            Err(diagnostic(&error))
        }
    }
}

fn lambda_response(failed_ids: Vec<String>) -> SqsBatchResponse {
    let mut response = SqsBatchResponse::default();
    response.set_failures(failed_ids);
    response
}

fn diagnostic(error: &RunError) -> Diagnostic {
    Diagnostic { error_type: error.name().to_owned(), error_message: error.to_string() }
}

/// A panic outside of all that is contained. Where it happened is in the log.
fn panicked() -> Diagnostic {
    Diagnostic {
        error_type: PANICKED.to_owned(),
        error_message: "the batch panicked and is delivered again; the log says where".to_owned(),
    }
}

/// Tells Lambda why the function did not start; the console then shows it. That it could not be told changes nothing.
async fn report_init_error(message: String) {
    let Some(endpoint) = runtime_api() else { return };
    let diagnostic = Diagnostic { error_type: "InitFailed".to_owned(), error_message: message };
    let Ok(body) = serde_json::to_vec(&diagnostic) else { return };
    let request = http::Request::post("/2018-06-01/runtime/init/error")
        .header("lambda-runtime-function-error-type", "InitFailed")
        .body(lambda_runtime_api_client::body::Body::from(body));
    let Ok(request) = request else { return };
    let client = lambda_runtime_api_client::PooledClient::builder().with_endpoint(endpoint).build();
    let told = tokio::time::timeout(std::time::Duration::from_secs(1), client.call(request)).await;
    if !matches!(told, Ok(Ok(_))) {
        tracing::warn!(target: "microbatch::init", "Lambda could not be told of the failed init");
    }
}

/// Where the Runtime API is: Lambda gives host and port, `cargo lambda watch` a whole URL with a path. None when it is
/// neither.
fn runtime_api() -> Option<http::Uri> {
    let address = std::env::var("AWS_LAMBDA_RUNTIME_API").ok()?;
    let url = if address.contains("://") { address } else { format!("http://{address}") };
    url.parse().ok().filter(|url: &http::Uri| url.authority().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_is_for_functions_of_one_vcpu_and_one_invocation() {
        for (memory_mb, invocations_max, expected) in [
            (Some(128), None, true),
            (Some(1_769), Some(1), true),
            (Some(1_770), None, false),
            (Some(512), Some(2), false),
            (None, None, false),
        ] {
            let found = fits_one_thread(memory_mb, invocations_max);
            assert_eq!(found, expected, "{memory_mb:?} MB, {invocations_max:?} at once");
        }
    }
}
