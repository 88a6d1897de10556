//! Where a queue is: in the stack that runs here, at an endpoint, or on AWS.

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::{Credentials, ProvideCredentials, Region, SharedCredentialsProvider};
use aws_sdk_sqs::types::QueueAttributeName;
use microbatch_aws::sdk::{sdk_config, sqs_client};
use microbatch_aws::sqs::{is_fifo, queue_name};
use microbatch_local::environment::LOCAL_REGION;
use microbatch_local::tables::Endpoint;

use crate::args::Places;
use crate::exit::Failure;
use crate::up::running::{self, Part, Whereabouts};
use crate::up::sqs::{self, reason};
use crate::{target, terminal};

/// Longest time for a request. A receive waits for a second in it.
const CALL_TIMEOUT_MS: u64 = 10_000;

/// SQS, reached in two ways.
#[derive(Debug, Clone)]
pub(crate) struct Sqs {
    /// Tries a request again that may succeed then.
    pub(crate) client: Client,
    /// Makes one try: for what counts its tries itself.
    pub(crate) once: Client,
}

impl Sqs {
    fn new(config: &SdkConfig) -> Self {
        let once = sqs_client(config, CALL_TIMEOUT_MS);
        let again = once.config().to_builder().retry_config(RetryConfig::standard()).build();
        Self { client: Client::from_conf(again), once }
    }
}

/// A dead-letter queue, and what is known of it from where it was found.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) sqs: Sqs,
    pub(crate) url: String,
    /// The function of the running stack, by its name.
    pub(crate) function: Option<(String, Part)>,
}

impl Place {
    /// The queue's name.
    pub(crate) fn name(&self) -> &str {
        queue_name(&self.url)
    }

    pub(crate) fn is_fifo(&self) -> bool {
        is_fifo(&self.url)
    }

    /// Another queue of the same SQS, by its name, URL or ARN.
    pub(crate) async fn queue(&self, queue: &str) -> Result<String, Failure> {
        url_of(&self.sqs.client, queue).await
    }
}

/// Finds a dead-letter queue, and says where it is.
pub(crate) async fn find(queue: &str, places: &Places) -> Result<Place, Failure> {
    let queue = queue.trim();
    if queue.is_empty() {
        return Err(Failure::usage("which queue? Name a function of the running stack, or a queue by its name or URL"));
    }
    let endpoint = endpoint(places, "AWS_ENDPOINT_URL_SQS");
    let stack = stack(places).await?;
    let place = match (endpoint, stack) {
        (Some(endpoint), _) => at_endpoint(queue, &endpoint).await?,
        (None, Some(stack)) => match in_stack(queue, &stack)? {
            Some(place) => place,
            None => elsewhere(queue, Some(&stack)).await?,
        },
        (None, None) => elsewhere(queue, None).await?,
    };
    terminal::line(&format!("queue {} at {}", place.name(), site(&place)));
    Ok(place)
}

/// The endpoint that is asked for, by option or variable.
pub(crate) fn endpoint(places: &Places, variable: &str) -> Option<String> {
    let mut variables = [variable, "AWS_ENDPOINT_URL"].into_iter();
    let set = |name| std::env::var(name).ok().filter(|url| !url.trim().is_empty());
    places.endpoint_url.clone().or_else(|| variables.find_map(set))
}

/// The stack that runs here, if one does; one that a folder was named for must.
pub(crate) async fn stack(places: &Places) -> Result<Option<Whereabouts>, Failure> {
    let workspace = target::workspace().await.ok();
    let target_dir = running::target_dir(workspace.as_ref().map(|workspace| workspace.root.as_path()));
    let found =
        running::folder(places.state.as_deref(), target_dir.as_deref()).and_then(|folder| running::find(&folder));
    match found {
        Ok(stack) => Ok(Some(stack)),
        Err(failure) if places.state.is_some() => Err(failure),
        Err(_) => Ok(None),
    }
}

/// A function's dead-letter queue in the stack, or any of its queues by name or URL.
fn in_stack(queue: &str, stack: &Whereabouts) -> Result<Option<Place>, Failure> {
    let sqs = || Sqs::new(&local_config(&stack.sqs));
    let place = |url: &str, name: &str, part: &Part| Place {
        sqs: sqs(),
        url: url.to_owned(),
        function: Some((name.to_owned(), part.clone())),
    };
    if let Some((name, part)) = stack.functions.get_key_value(queue) {
        let url =
            part.queues.dead_letters.as_deref().ok_or_else(|| {
                Failure::usage(format!("the queue of {queue} has no dead-letter queue in the template"))
            })?;
        return Ok(Some(place(url, name, part)));
    }
    let found = stack.functions.iter().find_map(|(name, part)| {
        let url = part.queues.dead_letters.as_deref().filter(|url| *url == queue || queue_name(url) == queue)?;
        Some(place(url, name, part))
    });
    let is_source = |part: &Part| part.queues.source == queue || queue_name(&part.queues.source) == queue;
    if let Some((name, _)) = stack.functions.iter().find(|(_, part)| is_source(part)) {
        let message = format!(
            "{queue} is the source queue of {name}, whose workers are at it; name {name} for its dead-letter queue"
        );
        return Err(Failure::usage(message));
    }
    Ok(found)
}

async fn at_endpoint(queue: &str, url: &str) -> Result<Place, Failure> {
    let endpoint = Endpoint::parse(url).map_err(Failure::usage)?;
    let config = if endpoint.is_loopback() {
        local_config(url)
    } else {
        let mut config = sdk_config().await.into_builder();
        config.set_endpoint_url(Some(url.to_owned()));
        checked(config.build()).await?
    };
    named(queue, Sqs::new(&config)).await
}

/// Where neither an endpoint nor the stack says: by its URL, or on AWS.
async fn elsewhere(queue: &str, stack: Option<&Whereabouts>) -> Result<Place, Failure> {
    if let Ok(endpoint) = Endpoint::parse(queue)
        && endpoint.is_loopback()
    {
        let end = queue.find("://").map_or(0, |at| at + 3);
        let site = queue[end..].find('/').map_or(queue, |at| &queue[..end + at]);
        return named(queue, Sqs::new(&local_config(site))).await;
    }
    let config = checked(sdk_config().await).await.map_err(|mut failure| {
        let names = stack.map(|stack| stack.functions.keys().map(String::as_str).collect::<Vec<_>>().join(", "));
        let hint = names.map_or_else(
            || {
                "no stack of `microbatch up` is found (one that runs with --state DIR is by the same --state)"
                    .to_owned()
            },
            |names| format!("the stack that runs here has the functions {names}"),
        );
        failure.message = format!("{hint}, and {}", failure.message);
        failure
    })?;
    named(queue, Sqs::new(&config)).await
}

async fn named(queue: &str, sqs: Sqs) -> Result<Place, Failure> {
    let url = url_of(&sqs.client, queue).await?;
    Ok(Place { sqs, url, function: None })
}

/// A queue's URL, by its name, ARN, or the URL itself.
async fn url_of(client: &Client, queue: &str) -> Result<String, Failure> {
    if queue.contains("://") {
        // That it exists is seen now, not in the middle of the work.
        let request = client.get_queue_attributes().queue_url(queue).attribute_names(QueueAttributeName::QueueArn);
        let asked = request.send().await.map_err(|error| not_found(queue_name(queue), &reason(&error)));
        return asked.map(|_| queue.to_owned());
    }
    let (name, account) = match queue.strip_prefix("arn:") {
        Some(rest) => (queue.rsplit(':').next().unwrap_or_default(), rest.split(':').nth(3)),
        None => (queue, None),
    };
    // The account of a stand-in's ARN is its own.
    let account = account.filter(|account| !account.is_empty() && account.bytes().any(|digit| digit != b'0'));
    let request = client.get_queue_url().queue_name(name).set_queue_owner_aws_account_id(account.map(str::to_owned));
    let answer = request.send().await.map_err(|error| not_found(name, &reason(&error)))?;
    answer.queue_url.ok_or_else(|| not_found(name, "the answer has no URL"))
}

fn not_found(name: &str, why: &str) -> Failure {
    Failure::environment(format!("the queue {name} cannot be reached: {why}"))
}

/// A configuration for this machine, with dummy keys: whatever the user's profile says is not for it.
pub(crate) fn local_config(endpoint_url: &str) -> SdkConfig {
    let keys = Credentials::new("local", "local", None, None, "local");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint_url)
        .region(Region::new(LOCAL_REGION))
        .credentials_provider(SharedCredentialsProvider::new(keys))
        .build()
}

/// Looked at before the first request, whose error would name every place that was tried.
pub(crate) async fn checked(config: SdkConfig) -> Result<SdkConfig, Failure> {
    if config.region().is_none() {
        return Err(Failure::usage("no AWS region is set: set AWS_REGION or AWS_PROFILE, or name an --endpoint-url"));
    }
    let found = match config.credentials_provider() {
        Some(provider) => provider.provide_credentials().await.is_ok(),
        None => false,
    };
    if !found {
        let message = "no AWS credentials were found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
                       name an --endpoint-url";
        return Err(Failure::usage(message));
    }
    Ok(config)
}

/// Scheme and host of a queue's URL: what tells the stack, a stand-in and AWS's regions apart. Never a user in it.
fn site(place: &Place) -> String {
    let after = place.url.split_once("://").map_or("", |(_, rest)| rest);
    let host = after.split('/').next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let what = if place.function.is_some() { ", the stack of this machine" } else { "" };
    format!("{host}{what}")
}

/// How many messages a queue holds, as SQS estimates it.
pub(crate) async fn depth(place: &Place) -> Option<sqs::Depth> {
    sqs::depth(&place.sqs.client, &place.url).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::up::running::Queues;

    fn stack() -> Whereabouts {
        let part = |source: &str, dead_letters: Option<&str>| Part {
            queues: Queues { source: source.to_owned(), dead_letters: dead_letters.map(str::to_owned) },
            settings: BTreeMap::new(),
        };
        Whereabouts {
            pid: 1,
            sqs: "http://127.0.0.1:1".to_owned(),
            dynamodb: "http://127.0.0.1:2".to_owned(),
            functions: BTreeMap::from([
                ("orders".to_owned(), part("http://127.0.0.1:1/0/q", Some("http://127.0.0.1:1/0/q-dlq"))),
                ("other".to_owned(), part("http://127.0.0.1:1/0/p", None)),
            ]),
        }
    }

    #[test]
    fn a_queue_of_the_stack_is_found_by_function_name_and_url() {
        for queue in ["orders", "q-dlq", "http://127.0.0.1:1/0/q-dlq"] {
            let place = in_stack(queue, &stack()).expect("it may be used").expect("it is there");
            assert_eq!(
                (place.name(), place.function.as_ref().map(|(name, _)| name.clone())),
                ("q-dlq", Some("orders".to_owned()))
            );
        }
        assert!(in_stack("elsewhere", &stack()).expect("not in the stack").is_none());
    }

    #[test]
    fn a_source_queue_and_a_function_without_dead_letters_are_refused() {
        for (queue, words) in [("q", "is the source queue of orders"), ("other", "no dead-letter queue")] {
            let failure = in_stack(queue, &stack()).expect_err(queue);
            assert!(failure.message.contains(words), "{}", failure.message);
        }
    }
}
