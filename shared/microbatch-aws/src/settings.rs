//! Settings from the environment: every `MICROBATCH_*` variable, what it means, and what is wrong with it.

use std::fmt;

use microbatch::{FifoFailure, Options, TotalFailure, config::Problem, envelope::Envelope, transition::OnLapsedLease};

use crate::{
    dynamodb::{Layout, StoreCalls},
    metrics,
    sqs::queue_name,
    traces::{TraceSettings, TracedBatches},
};

/// A variable and what it means. The README's table is made of these.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// The variable's name.
    pub name: &'static str,
    /// What it sets, with range and default.
    pub meaning: &'static str,
}

const TABLE: &str = "MICROBATCH_TABLE";
const NAMESPACE: &str = "MICROBATCH_NAMESPACE";
const ON_LAPSED_LEASE: &str = "MICROBATCH_ON_LAPSED_LEASE";
const STORE_TIMEOUT_MS: &str = "MICROBATCH_STORE_TIMEOUT_MS";
const ITEM_LOG: &str = "MICROBATCH_ITEM_LOG";
const IDEMPOTENCY: &str = "MICROBATCH_IDEMPOTENCY";
const STORE_CALLS: &str = "MICROBATCH_STORE_CALLS";
const ATTRIBUTES: &str = "MICROBATCH_ATTRIBUTES";
const SORT_KEY: &str = "MICROBATCH_SORT_KEY";
const PARTITION: &str = "MICROBATCH_PARTITION";
const ENVELOPE: &str = "MICROBATCH_ENVELOPE";
const FIFO_FAILURE: &str = "MICROBATCH_FIFO_FAILURE";
const TOTAL_FAILURE: &str = "MICROBATCH_TOTAL_FAILURE";
const QUEUE_URL: &str = "MICROBATCH_QUEUE_URL";
const PARK_QUEUE_URL: &str = "MICROBATCH_PARK_QUEUE_URL";
const BACKOFF: &str = "MICROBATCH_BACKOFF";
const METRICS: &str = "MICROBATCH_METRICS";
const METRICS_NAMESPACE: &str = "MICROBATCH_METRICS_NAMESPACE";
const TRACES: &str = "MICROBATCH_TRACES";
const TRACE_ITEMS_MAX: &str = "MICROBATCH_TRACE_ITEMS_MAX";
const TRACE_FLUSH_MS: &str = "MICROBATCH_TRACE_FLUSH_MS";

/// The largest deadline margin, by [`Options`].
const DEADLINE_MARGIN_MS_MAX: u64 = 900_000;

/// Whole numbers: the variable, and the field of [`Options`] that it sets.
type Number = (Variable, fn(&mut Options) -> &mut u64);

const NUMBERS: &[Number] = &[
    (
        Variable {
            name: "MICROBATCH_CONCURRENCY",
            meaning: "Most items at once in the process. 1 to 10,000; default 64.",
        },
        |options| &mut options.concurrency,
    ),
    (
        Variable {
            name: "MICROBATCH_CONCURRENCY_MIN",
            meaning: "The least that the limit above is lowered to while the dependency fails or is slow. 1 to MICROBATCH_CONCURRENCY; \
                      default: the limit is fixed.",
        },
        |options| options.concurrency_min.get_or_insert(1),
    ),
    (
        Variable {
            name: "MICROBATCH_STARTS_PER_S",
            meaning: "Most items that start in a second, in the process. 0 to 1,000,000; default 0, no limit.",
        },
        |options| &mut options.starts_per_s,
    ),
    (
        Variable {
            name: "MICROBATCH_BREAKER_FAILURE_PERCENT",
            meaning: "Share of transient failures and time-outs at which nothing starts any more. 0 to 100; default 0, never.",
        },
        |options| &mut options.breaker_failure_percent,
    ),
    (
        Variable {
            name: "MICROBATCH_BREAKER_WINDOW",
            meaning: "How many of the last results that share is taken of. 5 to 1,000; default 20.",
        },
        |options| &mut options.breaker_window,
    ),
    (
        Variable {
            name: "MICROBATCH_BREAKER_OPEN_MS",
            meaning: "How long nothing starts then, before one item is let through. 100 to 900,000; default 30,000.",
        },
        |options| &mut options.breaker_open_ms,
    ),
    (
        Variable {
            name: "MICROBATCH_OUTAGE_BUDGET_S",
            meaning: "With MICROBATCH_BACKOFF, how long a dependency may be down without a healthy message reaching the dead-letter \
                      queue. 1 to 345,600; default 3,600.",
        },
        |options| &mut options.outage_budget_s,
    ),
    (
        Variable {
            name: "MICROBATCH_MAX_RECEIVE_COUNT",
            meaning: "The maxReceiveCount of the queue's redrive policy. 2 to 1,000; default 10.",
        },
        |options| &mut options.max_receive_count,
    ),
    (
        Variable {
            name: "MICROBATCH_SHARDS",
            meaning: "Tasks that items are spread over, for several vCPUs. 1 to 64; default: one for each 1,769 MB of memory.",
        },
        |options| options.shards.get_or_insert(1),
    ),
    (
        Variable {
            name: "MICROBATCH_ITEM_TIMEOUT_MS",
            meaning: "Longest time for one item. 1 to 900,000; default 10,000.",
        },
        |options| &mut options.item_timeout_ms,
    ),
    (
        Variable {
            name: "MICROBATCH_TIMEOUT_MS",
            meaning: "Time for an invocation whose deadline is not announced. 1 to 900,000; default 30,000.",
        },
        |options| &mut options.timeout_ms,
    ),
    (
        Variable {
            name: "MICROBATCH_DEADLINE_MARGIN_MS",
            meaning: "How long before the deadline the response has left. 0 to 900,000; default 500.",
        },
        |options| &mut options.deadline_margin_ms,
    ),
    (
        Variable {
            name: "MICROBATCH_SETTLE_MS",
            meaning: "Time before the response to complete and release claims, when nothing runs. 1 to 900,000; default 500.",
        },
        |options| &mut options.settle_ms,
    ),
    (
        Variable {
            name: "MICROBATCH_EFFECT_TIMEOUT_MS",
            meaning: "After this time a request that the processor sent can have no more effect: the time-out of its own \
                      clients. 0 to 900,000; default 5,000.",
        },
        |options| &mut options.effect_timeout_ms,
    ),
    (
        Variable {
            name: "MICROBATCH_CLOCK_SKEW_MS",
            meaning: "How far clocks may disagree. 0 to 60,000; default 1,000.",
        },
        |options| &mut options.clock_skew_ms,
    ),
    (
        Variable {
            name: "MICROBATCH_KILL_GRACE_MS",
            meaning: "How long a killed invocation may still run. 0 to 60,000; default 1,000.",
        },
        |options| &mut options.kill_grace_ms,
    ),
    (
        Variable {
            name: "MICROBATCH_RETENTION_S",
            meaning: "How long a record is kept: at least twice the source queue's retention plus the dead-letter queue's. \
                      60 to 31,536,000; default 1,900,800 (22 days).",
        },
        |options| &mut options.retention_s,
    ),
    (
        Variable {
            name: "MICROBATCH_BODY_BYTES_MAX",
            meaning: "Largest body that is decoded. 1 to 1,048,576, which is the default.",
        },
        |options| &mut options.body_bytes_max,
    ),
    (
        Variable {
            name: "MICROBATCH_RESULT_BYTES_MAX",
            meaning: "Largest result that is stored, as JSON; a larger one is replayed as \"not kept\". 0 to 262,144; default 1,024.",
        },
        |options| &mut options.result_bytes_max,
    ),
    (
        Variable {
            name: "MICROBATCH_COMPLETED_CACHE_ENTRIES",
            meaning: "How many completed keys the process remembers, so that their redelivery costs no request. 0 to 1,000,000; \
                      default 0, off.",
        },
        |options| &mut options.completed_cache_entries,
    ),
    (
        Variable {
            name: "MICROBATCH_COMPLETED_CACHE_MS",
            meaning: "How long it remembers them; so long may a corrected record stay unseen. 1 to 60,000, which is the default.",
        },
        |options| &mut options.completed_cache_ms,
    ),
];

const OTHERS: &[Variable] = &[
    Variable { name: TABLE, meaning: "The idempotency table's name. Required." },
    Variable {
        name: NAMESPACE,
        meaning: "What precedes # in every key; functions that share a table need different ones. Default: the function's name.",
    },
    Variable {
        name: ON_LAPSED_LEASE,
        meaning: "What becomes of work whose holder vanished: retry or park. Default retry.",
    },
    Variable {
        name: ENVELOPE,
        meaning: "What the body wraps its payload in: none, sns (without raw delivery) or eventbridge. Default none.",
    },
    Variable {
        name: QUEUE_URL,
        meaning: "The source queue's URL. Required with MICROBATCH_BACKOFF or MICROBATCH_PARK_QUEUE_URL.",
    },
    Variable {
        name: PARK_QUEUE_URL,
        meaning: "The queue that rejected messages are sent to at once, with the reason. Default: they are left to the redrive policy.",
    },
    Variable {
        name: BACKOFF,
        meaning: "on or off. On, failed messages are delayed: longer with each delivery, busy ones at least until their holder's lease ends. \
                  Default off.",
    },
    Variable {
        name: FIFO_FAILURE,
        meaning: "What a rejected message does to its group on a FIFO queue: block, or park_and_continue, which gives the order up. \
                  Default block.",
    },
    Variable {
        name: TOTAL_FAILURE,
        meaning: "What an invocation answers of which nothing is done: error, which slows the mapping down, report, or auto: error on \
                  standard queues. Default auto.",
    },
    Variable {
        name: STORE_TIMEOUT_MS,
        meaning: "Longest time for one request to the idempotency table. 10 to 60,000; default 1,000.",
    },
    Variable { name: ITEM_LOG, meaning: "Which items get a log line: failures, all or none. Default failures." },
    Variable {
        name: METRICS,
        meaning: "on or off. On, each batch writes a line of metrics in CloudWatch's embedded metric format. Default on.",
    },
    Variable {
        name: METRICS_NAMESPACE,
        meaning: "The namespace of those metrics: 1 to 255 letters, digits and . - _ / #, not starting with AWS/. Default microbatch.",
    },
    Variable {
        name: TRACES,
        meaning: "Which batches are traced and exported by OTLP: off, sampled (as X-Ray decides of the invocation) or all. Default off.",
    },
    Variable {
        name: TRACE_ITEMS_MAX,
        meaning: "Most spans in a batch of items that did not fail; those that failed have theirs always. 0 to 10,000; default 100.",
    },
    Variable {
        name: TRACE_FLUSH_MS,
        meaning: "Longest time for the export before the response leaves; MICROBATCH_DEADLINE_MARGIN_MS grows by it. 10 to 10,000; \
                  default 500.",
    },
    Variable {
        name: IDEMPOTENCY,
        meaning: "on or off. Off, nothing is claimed and every delivery of a message runs. Default on.",
    },
    Variable {
        name: STORE_CALLS,
        meaning: "How claims and completions are sent: batched, 25 to a request, or single. Default batched.",
    },
    Variable {
        name: ATTRIBUTES,
        meaning: "Other names for the record's attributes, as expiration=ttl,status=state. Default none.",
    },
    Variable {
        name: SORT_KEY,
        meaning: "The sort key that holds the idempotency key, in a table whose key has two parts. Default none.",
    },
    Variable {
        name: PARTITION,
        meaning: "The partition key's value beside MICROBATCH_SORT_KEY. Default idempotency# and the function's name, as in Powertools.",
    },
];

/// Every variable that is read.
pub fn variables() -> impl Iterator<Item = Variable> {
    OTHERS.iter().copied().chain(NUMBERS.iter().map(|(variable, _)| *variable))
}

/// Which items get a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemLog {
    /// Those that were not acknowledged.
    Failures,
    /// All.
    All,
    /// None.
    None,
}

/// What the environment says beside [`Options`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The idempotency table's name.
    pub table: String,
    /// Longest time for one request to it, in milliseconds.
    pub store_timeout_ms: u64,
    /// Which items get a log line.
    pub item_log: ItemLog,
    /// The metrics' namespace; none: there are no metrics.
    pub metrics_namespace: Option<String>,
    /// Which batches are traced; none: none is.
    pub traces: Option<TraceSettings>,
    /// How claims and completions are sent.
    pub store_calls: StoreCalls,
    /// Where in the table a record stands.
    pub layout: Layout,
    /// The queues, where messages are parked or delayed.
    pub queues: Option<Queues>,
}

/// The queues that are asked for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queues {
    /// The source queue's URL.
    pub source_url: String,
    /// Where rejected messages are sent.
    pub park_url: Option<String>,
    /// Whether failed messages are delayed.
    pub backoff: bool,
}

/// Everything that is wrong with the environment, at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// The problems, at least one.
    pub problems: Vec<Problem>,
    /// What could be read all the same, to look for more problems with it.
    pub settings: Option<Box<Settings>>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the environment is not right")?;
        for (index, problem) in self.problems.iter().enumerate() {
            write!(f, "{} {}: {}", if index == 0 { ":" } else { ";" }, problem.setting, problem.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsError {}

/// Reads the process's environment: changes `options` by what it says there, and returns the rest.
///
/// # Errors
/// Every missing, wrong or unknown variable at once; `options` is then partly changed.
pub fn from_env(options: &mut Options) -> Result<Settings, SettingsError> {
    let microbatch = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let name = name.into_string().ok()?;
        (name.starts_with("MICROBATCH_") || name == "AWS_LAMBDA_FUNCTION_NAME")
            .then(|| (name, value.to_string_lossy().into_owned()))
    };
    from_variables(options, std::env::vars_os().filter_map(microbatch))
}

/// [`from_env`] on given variables.
///
/// # Errors
/// As [`from_env`].
pub fn from_variables(
    options: &mut Options,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, SettingsError> {
    let mut reader = Reader { variables: variables.into_iter().collect(), problems: Vec::new() };
    options.namespace = reader
        .text(NAMESPACE)
        .or_else(|| (!options.namespace.is_empty()).then(|| options.namespace.clone()))
        .or_else(|| reader.text("AWS_LAMBDA_FUNCTION_NAME"))
        .unwrap_or_default();
    for (variable, field) in NUMBERS {
        if let Some(number) = reader.number(variable.name, 0..=u64::MAX) {
            *field(options) = number;
        }
    }
    if let Some(policy) =
        reader.choice(ON_LAPSED_LEASE, &[("retry", OnLapsedLease::Retry), ("park", OnLapsedLease::Park)])
    {
        options.on_lapsed_lease = policy;
    }
    if let Some(on) = reader.choice(IDEMPOTENCY, &[("on", true), ("off", false)]) {
        options.idempotency = on;
    }
    let envelopes = [("none", Envelope::None), ("sns", Envelope::Sns), ("eventbridge", Envelope::EventBridge)];
    if let Some(envelope) = reader.choice(ENVELOPE, &envelopes) {
        options.envelope = envelope;
    }
    let policies = [("block", FifoFailure::Block), ("park_and_continue", FifoFailure::ParkAndContinue)];
    if let Some(policy) = reader.choice(FIFO_FAILURE, &policies) {
        options.fifo_failure = policy;
    }
    let policies = [("auto", TotalFailure::Auto), ("error", TotalFailure::Error), ("report", TotalFailure::Report)];
    if let Some(policy) = reader.choice(TOTAL_FAILURE, &policies) {
        options.total_failure = policy;
    }
    let calls = [("batched", StoreCalls::Batched), ("single", StoreCalls::Single)];
    let log = [("failures", ItemLog::Failures), ("all", ItemLog::All), ("none", ItemLog::None)];
    let settings = Settings {
        table: reader.required_text(TABLE, "the idempotency table's name"),
        store_timeout_ms: reader.number(STORE_TIMEOUT_MS, 10..=60_000).unwrap_or(1_000),
        item_log: reader.choice(ITEM_LOG, &log).unwrap_or(ItemLog::Failures),
        metrics_namespace: reader.metrics_namespace(),
        traces: reader.traces(),
        store_calls: reader.choice(STORE_CALLS, &calls).unwrap_or_default(),
        layout: reader.layout(),
        queues: reader.queues(options.fifo_failure),
    };
    reader.refuse_wrong_options(options);
    if let Some(traces) = &settings.traces {
        // The export comes between the pipeline's answer and the response: the pipeline answers so much sooner.
        options.deadline_margin_ms =
            options.deadline_margin_ms.saturating_add(traces.flush_ms).min(DEADLINE_MARGIN_MS_MAX);
    }
    reader.refuse_unknown();
    if reader.problems.is_empty() {
        return Ok(settings);
    }
    Err(SettingsError { problems: reader.problems, settings: Some(Box::new(settings)) })
}

struct Reader {
    variables: Vec<(String, String)>,
    problems: Vec<Problem>,
}

impl Reader {
    fn text(&self, name: &str) -> Option<String> {
        let (_, value) = self.variables.iter().find(|(known, _)| known == name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn required_text(&mut self, name: &'static str, meaning: &str) -> String {
        self.text(name).unwrap_or_else(|| {
            self.problem(name, format!("not set; set it to {meaning}"));
            String::new()
        })
    }

    fn number(&mut self, name: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let text = self.text(name)?;
        match text.parse() {
            Ok(number) if range.contains(&number) => return Some(number),
            Ok(number) => {
                self.problem(name, format!("expected {} to {}, found {number}", range.start(), range.end()));
            }
            Err(_) => self.problem(name, format!("expected a whole number, found {text:?}")),
        }
        None
    }

    fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(name)?;
        let found = choices.iter().find(|(choice, _)| text.eq_ignore_ascii_case(choice));
        if found.is_none() {
            let choices: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
            self.problem(name, format!("expected one of {}, found {text:?}", choices.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    fn layout(&mut self) -> Layout {
        let renamed = self.text(ATTRIBUTES).unwrap_or_default();
        let pairs = renamed.split(',').map(str::trim).filter(|pair| !pair.is_empty());
        let pairs: Vec<_> = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
        let layout = Layout::renamed(pairs.iter().map(|(ours, theirs)| (ours.trim(), theirs.trim())));
        let layout = layout.unwrap_or_else(|error| {
            self.problem(ATTRIBUTES, error.to_string());
            Layout::default()
        });
        let partition = self.text(PARTITION);
        match (self.text(SORT_KEY), partition) {
            (None, None) => layout,
            (None, Some(_)) => {
                self.problem(PARTITION, format!("set without {SORT_KEY}, which it goes with"));
                layout
            }
            (Some(sort_key), partition) => {
                let function = self.text("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default();
                let partition = partition.unwrap_or_else(|| format!("idempotency#{function}"));
                layout.composite_key(&sort_key, &partition).unwrap_or_else(|error| {
                    self.problem(SORT_KEY, error.to_string());
                    Layout::default()
                })
            }
        }
    }

    fn queues(&mut self, fifo_failure: FifoFailure) -> Option<Queues> {
        let backoff = self.choice(BACKOFF, &[("on", true), ("off", false)]).unwrap_or(false);
        let park_url = self.queue_url(PARK_QUEUE_URL);
        if fifo_failure == FifoFailure::ParkAndContinue && park_url.is_none() {
            self.problem(
                PARK_QUEUE_URL,
                format!("not set; {FIFO_FAILURE} is park_and_continue, which needs a queue to park in"),
            );
        }
        let source_url = self.queue_url(QUEUE_URL);
        if !backoff && park_url.is_none() {
            return None;
        }
        let Some(source_url) = source_url else {
            if self.text(QUEUE_URL).is_none() {
                let reason = if backoff { BACKOFF } else { PARK_QUEUE_URL };
                self.problem(QUEUE_URL, format!("not set; {reason} needs the source queue's URL"));
            }
            return None;
        };
        Some(Queues { source_url, park_url, backoff })
    }

    fn metrics_namespace(&mut self) -> Option<String> {
        let on = self.choice(METRICS, &[("on", true), ("off", false)]).unwrap_or(true);
        let namespace = self.text(METRICS_NAMESPACE).unwrap_or_else(|| metrics::NAMESPACE.to_owned());
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_/#".contains(&byte);
        if namespace.len() > 255 || !namespace.bytes().all(is_allowed) || namespace.starts_with("AWS/") {
            let expected = "expected 1 to 255 letters, digits and . - _ / #, not starting with AWS/";
            self.problem(METRICS_NAMESPACE, expected.to_owned());
        }
        on.then_some(namespace)
    }

    fn traces(&mut self) -> Option<TraceSettings> {
        let which = [("off", None), ("sampled", Some(TracedBatches::Sampled)), ("all", Some(TracedBatches::All))];
        let which = self.choice(TRACES, &which).flatten();
        let items_max = self.number(TRACE_ITEMS_MAX, 0..=10_000).unwrap_or(100);
        let flush_ms = self.number(TRACE_FLUSH_MS, 10..=10_000).unwrap_or(500);
        let items_max = usize::try_from(items_max).unwrap_or(usize::MAX);
        which.map(|which| TraceSettings { which, items_max, flush_ms })
    }

    fn queue_url(&mut self, name: &'static str) -> Option<String> {
        let url = self.text(name)?;
        let is_url = url.starts_with("https://") || url.starts_with("http://");
        if !is_url || queue_name(&url).is_empty() {
            self.problem(name, "expected a queue's URL, https://..., not its name or ARN".to_owned());
            return None;
        }
        Some(url)
    }

    /// Ranges are [`Options`]' own; here their problems get the variables' names.
    fn refuse_wrong_options(&mut self, options: &Options) {
        let Err(error) = options.validate() else { return };
        for problem in error.problems {
            let variable = format!("MICROBATCH_{}", problem.setting.to_ascii_uppercase());
            let name = variables().map(|known| known.name).find(|known| *known == variable).unwrap_or(problem.setting);
            self.problem(name, problem.what);
        }
    }

    fn refuse_unknown(&mut self) {
        let unknown: Vec<String> = self
            .variables
            .iter()
            .map(|(name, _)| name.clone())
            .filter(|name| name.starts_with("MICROBATCH_") && variables().all(|known| known.name != name))
            .collect();
        for name in unknown {
            self.problem("unknown variable", format!("{name}; the settings are listed in the README"));
        }
    }

    fn problem(&mut self, setting: &'static str, what: String) {
        self.problems.push(Problem { setting, what });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Options, Result<Settings, SettingsError>) {
        let mut options = Options::default();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = from_variables(&mut options, variables);
        (options, settings)
    }

    #[test]
    fn the_environment_changes_options() {
        let (options, settings) = read(&[
            ("MICROBATCH_TABLE", "idempotency"),
            ("AWS_LAMBDA_FUNCTION_NAME", "orders"),
            ("MICROBATCH_CONCURRENCY", " 8 "),
            ("MICROBATCH_ON_LAPSED_LEASE", "Park"),
        ]);
        assert_eq!(settings.expect("valid").table, "idempotency");
        assert_eq!((options.namespace.as_str(), options.concurrency), ("orders", 8));
        assert_eq!(options.on_lapsed_lease, OnLapsedLease::Park);
    }

    #[test]
    fn everything_wrong_is_said_at_once_with_what_to_set() {
        let (_, settings) = read(&[
            ("MICROBATCH_CONCURRENCY", "0"),
            ("MICROBATCH_ITEM_TIMEOUT_MS", "10s"),
            ("MICROBATCH_ITEM_LOG", "some"),
            ("MICROBATCH_CONCURENCY", "8"),
        ]);
        assert_eq!(
            settings.expect_err("five are wrong").to_string(),
            "the environment is not right: MICROBATCH_ITEM_TIMEOUT_MS: expected a whole number, found \"10s\"; \
             MICROBATCH_TABLE: not set; set it to the idempotency table's name; \
             MICROBATCH_ITEM_LOG: expected one of failures, all, none, found \"some\"; \
             MICROBATCH_CONCURRENCY: expected 1 to 10000, found 0; \
             unknown variable: MICROBATCH_CONCURENCY; the settings are listed in the README"
        );
    }

    #[test]
    fn a_layout_is_read_and_what_is_wrong_with_it_said() {
        let table = ("MICROBATCH_TABLE", "t");
        let (_, settings) =
            read(&[table, ("MICROBATCH_ATTRIBUTES", "expiration=ttl, id = pk"), ("MICROBATCH_SORT_KEY", "sk")]);
        let layout = Layout::renamed([("expiration", "ttl"), ("id", "pk")])
            .and_then(|layout| layout.composite_key("sk", "idempotency#"));
        assert_eq!(Ok(settings.expect("valid").layout), layout);
        for wrong in [
            ("MICROBATCH_ATTRIBUTES", "ttl"),
            ("MICROBATCH_ATTRIBUTES", "expiration=status"),
            ("MICROBATCH_PARTITION", "p"),
        ] {
            let (_, settings) = read(&[table, wrong]);
            assert!(settings.expect_err("wrong").to_string().contains(wrong.0), "{wrong:?}");
        }
    }

    #[test]
    fn the_queues_are_read_where_they_are_used() {
        let table = ("MICROBATCH_TABLE", "t");
        let source = ("MICROBATCH_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/orders");
        let park = ("MICROBATCH_PARK_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/orders-dlq");
        let queues = |variables: &[_]| read(variables).1.expect("valid").queues;
        assert_eq!(queues(&[table]), None);
        assert_eq!(queues(&[table, source]), None, "nothing is asked of it");
        let both = queues(&[table, source, park, ("MICROBATCH_BACKOFF", "on")]).expect("used");
        assert_eq!((both.source_url.as_str(), both.park_url.as_deref(), both.backoff), (source.1, Some(park.1), true));
        assert!(!queues(&[table, source, park]).expect("used").backoff);
    }

    #[test]
    fn wrong_queues_and_policies_are_all_said_at_once() {
        let (_, settings) = read(&[
            ("MICROBATCH_TABLE", "t"),
            ("MICROBATCH_CONCURRENCY", "0"),
            ("MICROBATCH_CONCURRENCY_MIN", "9"),
            ("MICROBATCH_BACKOFF", "on"),
            ("MICROBATCH_FIFO_FAILURE", "park_and_continue"),
            ("MICROBATCH_TOTAL_FAILURE", "never"),
            ("MICROBATCH_MAX_RECEIVE_COUNT", "1"),
            ("MICROBATCH_DLQ", "x"),
        ]);
        let message = settings.expect_err("wrong").to_string();
        for part in [
            "MICROBATCH_PARK_QUEUE_URL: not set; MICROBATCH_FIFO_FAILURE is park_and_continue",
            "MICROBATCH_QUEUE_URL: not set; MICROBATCH_BACKOFF needs",
            "MICROBATCH_CONCURRENCY: expected 1 to 10000, found 0",
            "MICROBATCH_CONCURRENCY_MIN: expected at most concurrency, 0; found 9",
            "MICROBATCH_TOTAL_FAILURE: expected one of auto, error, report",
            "MICROBATCH_MAX_RECEIVE_COUNT: expected 2 to 1000, found 1",
            "unknown variable: MICROBATCH_DLQ",
        ] {
            assert!(message.contains(part), "{part}\n{message}");
        }
        let arn = ("MICROBATCH_PARK_QUEUE_URL", "arn:aws:sqs:eu-west-1:123456789012:dlq");
        let (_, settings) = read(&[("MICROBATCH_TABLE", "t"), arn]);
        assert!(settings.expect_err("no URL").to_string().contains("not its name or ARN"));
    }

    #[test]
    fn metrics_are_on_and_their_namespace_is_cloudwatchs() {
        let table = ("MICROBATCH_TABLE", "t");
        let namespace = |variables: &[_]| read(variables).1.expect("valid").metrics_namespace;
        assert_eq!(namespace(&[table]).as_deref(), Some("microbatch"));
        assert_eq!(
            namespace(&[table, ("MICROBATCH_METRICS_NAMESPACE", "Shop/Orders")]).as_deref(),
            Some("Shop/Orders")
        );
        assert_eq!(namespace(&[table, ("MICROBATCH_METRICS", "off")]), None);
        for wrong in ["AWS/Lambda", "a\"b", ":a", "a b", &"x".repeat(256)] {
            let (_, settings) = read(&[table, ("MICROBATCH_METRICS_NAMESPACE", wrong)]);
            assert!(
                settings.expect_err("wrong").to_string().contains("MICROBATCH_METRICS_NAMESPACE: expected"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_traces_need_of_the_time_is_taken_from_the_items() {
        let table = ("MICROBATCH_TABLE", "t");
        let (untraced, settings) = read(&[table, ("MICROBATCH_TRACES", "off")]);
        assert_eq!(settings.expect("valid").traces, None);
        let (traced, settings) = read(&[table, ("MICROBATCH_TRACES", "sampled"), ("MICROBATCH_TRACE_FLUSH_MS", "200")]);
        let expected = TraceSettings { which: TracedBatches::Sampled, items_max: 100, flush_ms: 200 };
        assert_eq!(settings.expect("valid").traces, Some(expected));
        assert_eq!(traced.deadline_margin_ms, untraced.deadline_margin_ms + 200);
    }

    #[test]
    fn backoffs_that_cannot_span_the_outage_budget_are_refused() {
        let budget = ("MICROBATCH_OUTAGE_BUDGET_S", "345600");
        let (_, settings) = read(&[("MICROBATCH_TABLE", "t"), budget, ("MICROBATCH_MAX_RECEIVE_COUNT", "3")]);
        let message = settings.expect_err("3 deliveries do not span 4 days").to_string();
        assert!(message.contains("MICROBATCH_OUTAGE_BUDGET_S: "), "{message}");
    }

    #[test]
    fn every_option_has_its_variable() {
        // A problem of any option must be told by the variable's name.
        let wrong = Options {
            namespace: "#".into(),
            concurrency: 0,
            concurrency_min: Some(0),
            starts_per_s: u64::MAX,
            breaker_failure_percent: 101,
            breaker_window: 0,
            breaker_open_ms: 0,
            outage_budget_s: 0,
            max_receive_count: 0,
            ..Options::default()
        };
        for problem in wrong.validate().expect_err("wrong").problems {
            let variable = format!("MICROBATCH_{}", problem.setting.to_ascii_uppercase());
            assert!(variables().any(|known| known.name == variable), "{variable}");
        }
        assert_eq!(variables().count(), NUMBERS.len() + OTHERS.len());
    }
}
