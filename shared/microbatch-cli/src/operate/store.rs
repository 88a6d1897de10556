//! The idempotency table, and how keys are made, by the settings' own code.

use std::collections::BTreeMap;

use aws_sdk_sqs::types::Message;
use microbatch::decode::{DecodeError, Identity, Keying, MissingKey, identify};
use microbatch::key::{Key, KeyFormat, KeyMaker, KeySource, Selector};
use microbatch::message::split_event;
use microbatch::record::Record;
use microbatch::resolve::{Resolve, Trace};
use microbatch::{Options, StoreError};
use microbatch_aws::DynamoDbStore;
use microbatch_aws::sdk::{sdk_config, store_client};
use microbatch_aws::settings::{Settings, from_variables};
use microbatch_local::environment::TABLE_VARIABLE;
use microbatch_local::mapping::event::{EventSource, Received, event};
use microbatch_local::package::LocalNeeds;
use microbatch_local::tables::Endpoint;

use super::place::{self, Place};
use crate::args::{EnvelopeName, KeyFormatName, Places, Records};
use crate::exit::Failure;
use crate::up::running::Part;
use crate::{target, terminal};

const NAMESPACE: &str = "MICROBATCH_NAMESPACE";
/// Where no table is named, and no stack says it.
pub(crate) const WHICH_TABLE: &str = "which idempotency table? Name it by --table, or a function of the stack by --function; a stack that runs with --state DIR is \
     found by the same --state";

/// The variables that say where in which table a record stands, and how keys are made.
pub(crate) const RECORD_SETTINGS: [&str; 9] = [
    TABLE_VARIABLE,
    NAMESPACE,
    "MICROBATCH_ENVELOPE",
    "MICROBATCH_ATTRIBUTES",
    "MICROBATCH_SORT_KEY",
    "MICROBATCH_PARTITION",
    "MICROBATCH_ON_LAPSED_LEASE",
    "MICROBATCH_RETENTION_S",
    "MICROBATCH_BODY_BYTES_MAX",
];
/// Longest time for a request to the table.
const CALL_TIMEOUT_MS: u64 = 5_000;

/// The idempotency table with a function's settings.
pub(crate) struct Table {
    pub(crate) store: DynamoDbStore,
    pub(crate) name: String,
    pub(crate) options: Options,
}

/// What the table says of a key.
pub(crate) type Found = Result<Option<(Record, Option<Trace>)>, StoreError>;

impl Table {
    pub(crate) async fn read(&self, key: &Key) -> Found {
        self.store.read_resolved(key).await
    }
}

/// How the keys of messages are made.
pub(crate) struct Keys {
    keying: Keying,
    options: Options,
}

/// The function that is meant: the one named, or the one whose queue it is.
pub(crate) fn function<'a>(named: Option<&'a str>, place: Option<&'a Place>) -> Option<&'a str> {
    named.or_else(|| place?.function.as_ref().map(|(name, _)| name.as_str()))
}

/// Opens the table; none where nothing says which.
pub(crate) async fn open(records: &Records, places: &Places, place: Option<&Place>) -> Result<Option<Table>, Failure> {
    let stack = place::stack(places).await?;
    let function = function(records.function.as_deref(), place);
    // An endpoint that is asked for is not the stack's, and the stack's settings are not for it.
    let endpoint = place::endpoint(places, "AWS_ENDPOINT_URL_DYNAMODB");
    let in_stack = place.is_none_or(|place| place.function.is_some()) && endpoint.is_none();
    let stack = stack.filter(|_| in_stack);
    // By its name, or by the namespace that it was given.
    let is_namespace = |part: &&Part, name: &str| part.settings.get(NAMESPACE).is_some_and(|text| text == name);
    let part = function.and_then(|name| {
        let functions = &stack.as_ref()?.functions;
        functions.get(name).or_else(|| functions.values().find(|part| is_namespace(part, name)))
    });
    // A table of the stack is not looked for on AWS, nor one of AWS in the stack.
    let stack = stack.as_ref().filter(|_| part.is_some() || place.is_some());
    let mut variables = match part {
        Some(part) => part.settings.clone(),
        None => own_variables(),
    };
    let options = [
        (TABLE_VARIABLE, records.table.clone()),
        (NAMESPACE, records.namespace.clone()),
        ("MICROBATCH_ENVELOPE", records.envelope.map(|name| envelope_setting(name).to_owned())),
        ("AWS_LAMBDA_FUNCTION_NAME", function.map(str::to_owned)),
    ];
    variables.extend(options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    if !variables.contains_key(TABLE_VARIABLE) {
        return Ok(None);
    }
    let mut options = Options::default();
    let settings = from_variables(&mut options, variables).map_err(Failure::usage)?;
    let endpoint = endpoint.or_else(|| stack.map(|stack| stack.dynamodb.clone()));
    let (store, at) = connect(&settings, endpoint).await?;
    terminal::line(&format!("table {} at {at}", settings.table));
    Ok(Some(Table { store, name: settings.table, options }))
}

async fn connect(settings: &Settings, endpoint: Option<String>) -> Result<(DynamoDbStore, String), Failure> {
    let (client, at) = if let Some(url) = endpoint {
        let endpoint = Endpoint::parse(&url).map_err(Failure::usage)?;
        (endpoint.client().await, url)
    } else {
        let config = place::checked(sdk_config().await).await?;
        let region = config.region().map_or_else(String::new, |region| format!("AWS, {}", region.as_ref()));
        (store_client(&config, CALL_TIMEOUT_MS), region)
    };
    Ok((DynamoDbStore::new(client, &settings.table).layout(settings.layout.clone()), at))
}

/// The variables of this process that concern records.
fn own_variables() -> BTreeMap<String, String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    RECORD_SETTINGS.iter().filter_map(|name| Some(((*name).to_owned(), set(name)?))).collect()
}

fn envelope_setting(name: EnvelopeName) -> &'static str {
    match name {
        EnvelopeName::None => "none",
        EnvelopeName::Sns => "sns",
        EnvelopeName::Eventbridge => "eventbridge",
    }
}

/// How keys are made, by the options and what the function's package says; else what is missing.
pub(crate) async fn keys(
    records: &Records,
    place: Option<&Place>,
    options: &Options,
) -> Result<Result<Keys, String>, Failure> {
    let needs = match function(records.function.as_deref(), place) {
        Some(name) => package(name).await,
        None => LocalNeeds::default(),
    };
    let source = match (&records.key, &records.key_from) {
        (Some(key), _) => Some(KeySource::Body(selector("--key", key)?)),
        (None, Some(source)) => Some(key_source(source)?),
        (None, None) => match &needs.key {
            Some(key) => Some(KeySource::Body(selector("key in [package.metadata.microbatch]", key)?)),
            None => None,
        },
    };
    let Some(source) = source else {
        let what =
            "how its key is made is not known: say it by --key or --key-from, or name the function by --function";
        return Ok(Err(what.to_owned()));
    };
    if options.namespace.is_empty() {
        let what = "the namespace of its key is not known: say it by --namespace, or name the function by --function";
        return Ok(Err(what.to_owned()));
    }
    let format = match records.key_format {
        KeyFormatName::Own => KeyFormat::Own,
        KeyFormatName::PowertoolsPython => KeyFormat::PowertoolsPython,
    };
    source.check(format).map_err(Failure::usage)?;
    let fingerprint = match records.fingerprint.as_ref().or(needs.fingerprint.as_ref()) {
        Some(expression) => Some(selector("--fingerprint", expression)?),
        None => None,
    };
    let current = KeyMaker::new(&options.namespace, source, fingerprint).with_format(format);
    let keying = Keying { current, previous: None, missing: MissingKey::Reject };
    Ok(Ok(Keys { keying, options: options.clone() }))
}

/// What the function's package says, where this is its workspace.
async fn package(name: &str) -> LocalNeeds {
    let Ok(workspace) = target::workspace().await else { return LocalNeeds::default() };
    workspace.function(name).map(|function| function.needs).unwrap_or_default()
}

fn selector(option: &str, expression: &str) -> Result<Selector, Failure> {
    Selector::parse(expression).map_err(|error| Failure::usage(format!("{option}: {error}")))
}

fn key_source(text: &str) -> Result<KeySource, Failure> {
    match (text, text.strip_prefix("attribute:")) {
        ("message-id", _) => Ok(KeySource::MessageId),
        ("deduplication-id", _) => Ok(KeySource::DeduplicationId),
        (_, Some(name)) => Ok(KeySource::Attribute(name.to_owned())),
        _ => Err(Failure::usage("--key-from: expected message-id, deduplication-id or attribute:NAME")),
    }
}

impl Keys {
    /// The key and fingerprint of a message, made as the function makes them.
    pub(crate) fn identify(&self, message: &Message) -> Result<Option<Identity>, String> {
        let received = Received::new(message, &EventSource::new("")).map_err(|error| error.to_string())?;
        let event = event(&[received]);
        let text = std::str::from_utf8(&event).map_err(|_| "the message is no text".to_owned())?;
        let messages = split_event(text).map_err(|error| error.to_string())?;
        let Some(message) = messages.first() else { return Err("the message cannot be read".to_owned()) };
        let bytes_max = usize::try_from(self.options.body_bytes_max).unwrap_or(usize::MAX);
        let identity = identify(message, self.options.envelope, &self.keying, bytes_max);
        identity.map_err(|error: DecodeError| format!("{error} ({})", error.code()))
    }
}

#[cfg(test)]
mod tests {
    use microbatch::Envelope;

    use super::*;

    fn keys(source: KeySource, envelope: Envelope) -> Keys {
        let options = Options { namespace: "orders".to_owned(), envelope, ..Options::default() };
        let current = KeyMaker::new("orders", source, Some(Selector::whole_body()));
        Keys { keying: Keying { current, previous: None, missing: MissingKey::Reject }, options }
    }

    fn message(body: &str) -> Message {
        Message::builder().message_id("m-1").receipt_handle("r").body(body).build()
    }

    #[test]
    fn keys_are_those_of_the_core() {
        let order = KeySource::Body(Selector::parse("order_id").expect("a selector"));
        let plain = keys(order.clone(), Envelope::None).identify(&message(r#"{"order_id": "o-1"}"#));
        assert_eq!(plain.expect("a key").expect("one").key, Key::digest("orders", "\"o-1\""));
        let wrapped = message(r#"{"Type": "Notification", "Message": "{\"order_id\": \"o-1\"}"}"#);
        let wrapped = keys(order, Envelope::Sns).identify(&wrapped).expect("a key").expect("one");
        assert_eq!(wrapped.key, Key::digest("orders", "\"o-1\""));
        let by_id = keys(KeySource::MessageId, Envelope::None).identify(&message("{}")).expect("a key").expect("one");
        assert_eq!(by_id.key, Key::digest("orders", "\"m-1\""));
    }

    #[test]
    fn p13_a_message_without_a_key_says_why_and_shows_nothing() {
        let order = KeySource::Body(Selector::parse("order_id").expect("a selector"));
        for body in ["canary", "{\"canary\": 1}", "", "{\"order_id\": [\"canary\", ", "\u{0}canary"] {
            let error = keys(order.clone(), Envelope::None).identify(&message(body)).expect_err(body);
            assert!(!error.contains("canary") && !error.is_empty(), "{error}");
        }
    }

    #[test]
    fn key_sources_are_read_by_name() {
        assert!(matches!(key_source("message-id"), Ok(KeySource::MessageId)));
        assert!(matches!(key_source("attribute:a"), Ok(KeySource::Attribute(name)) if name == "a"));
        assert!(key_source("body").is_err());
    }
}
