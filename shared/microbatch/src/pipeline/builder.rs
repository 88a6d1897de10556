//! Builds a pipeline: the user's part in code, the host's part from the environment.

use std::sync::{Arc, atomic::AtomicUsize};

use super::{
    Gates, Pipeline, Shared, Watches,
    cache::CompletedCache,
    calls::{RetryPlaces, SourceQueue},
    control::Control,
};
use crate::{
    clock::{Clock, Random},
    config::{Config, ConfigError, Options, Problem},
    control::Governor,
    decode::{Keying, MissingKey},
    envelope::Envelope,
    hooks::{Failure, Hooks, Success},
    key::{KeyFormat, KeyMaker, KeySource, Selector},
    processor::Processor,
    queue::Queue,
    store::Commit,
    telemetry::Recorder,
};

/// What a host brings: where records are kept, time, randomness, and who is told.
pub struct Host<S> {
    /// Keeps the records.
    pub store: S,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// For owner tokens and jitter.
    pub random: Arc<dyn Random>,
    /// Told of each batch.
    pub recorder: Arc<dyn Recorder>,
    /// Parks and delays messages. None: they are only reported.
    pub queue: Option<Arc<dyn Queue>>,
}

/// A pipeline in the making. Wrong settings are kept and reported together by [`PipelineBuilder::build`].
#[derive(Debug)]
pub struct PipelineBuilder<P> {
    processor: P,
    options: Options,
    key: Option<KeySource>,
    previous_key: Option<Selector>,
    fingerprint: Option<Selector>,
    key_format: KeyFormat,
    missing_key: MissingKey,
    hooks: Hooks,
    problems: Vec<Problem>,
}

impl<P: Processor> PipelineBuilder<P> {
    pub(super) fn new(processor: P) -> Self {
        Self {
            processor,
            options: Options::default(),
            key: None,
            previous_key: None,
            fingerprint: None,
            key_format: KeyFormat::default(),
            missing_key: MissingKey::default(),
            hooks: Hooks::default(),
            problems: Vec::new(),
        }
    }

    /// The part of the body that makes two messages the same work: a path such as `order_id`, or JMESPath. With an
    /// envelope, the part of what it holds. Required, unless [`key_from`](Self::key_from) names another place; of both the
    /// last counts.
    #[must_use]
    pub fn key(mut self, expression: &str) -> Self {
        self.key = self.selector("key", expression).map(KeySource::Body);
        self
    }

    /// What the queue receives its messages in: the payload of an SNS notification or an `EventBridge` event is the item. By
    /// default the body is. It is a setting that a host may change: what the environment says counts.
    #[must_use]
    pub fn envelope(mut self, envelope: Envelope) -> Self {
        self.options.envelope = envelope;
        self
    }

    /// Where what makes two messages the same work is found, if not in the body: see [`KeySource`] for what each place can
    /// tell apart.
    #[must_use]
    pub fn key_from(mut self, source: KeySource) -> Self {
        self.key = Some(source);
        self
    }

    /// The selector of an earlier version of the function, into the body or what its envelope holds. What that version has
    /// done, or is doing, is not done again. Keep it until the retention of its records is over. Costs one more read an
    /// item. To run both versions at once, as a canary does, give each the other's key as its previous one.
    #[must_use]
    pub fn previous_key(mut self, expression: &str) -> Self {
        self.previous_key = self.selector("previous_key", expression);
        self
    }

    /// How keys and fingerprints are written. By default in microbatch's own format; another one is for a table that is
    /// shared with what writes that format.
    #[must_use]
    pub fn key_format(mut self, format: KeyFormat) -> Self {
        self.key_format = format;
        self
    }

    /// What becomes of an item in which the key is missing, null or empty. By default it is rejected.
    #[must_use]
    pub fn on_missing_key(mut self, policy: MissingKey) -> Self {
        self.missing_key = policy;
        self
    }

    /// Works without idempotency: every delivery of a message runs, and the queue delivers at least once.
    #[must_use]
    pub fn without_idempotency(mut self) -> Self {
        self.options.idempotency = false;
        self
    }

    /// The part of the body that must not differ between two messages of one key; a message that differs in it is a
    /// conflict and never runs. By default nothing is compared.
    #[must_use]
    pub fn fingerprint(mut self, expression: &str) -> Self {
        self.fingerprint = self.selector("fingerprint", expression);
        self
    }

    /// Compares the whole body: two messages of one key must be equal, however they are spelled.
    #[must_use]
    pub fn fingerprint_body(mut self) -> Self {
        self.fingerprint = Some(Selector::whole_body());
        self
    }

    /// Is told of each message whose work is done, by this delivery or an earlier one, before the response leaves. It runs
    /// on the pipeline's thread and must not block; a panic of it is counted and changes nothing.
    #[must_use]
    pub fn on_success(mut self, hook: impl Fn(&Success<'_>) + Send + Sync + 'static) -> Self {
        self.hooks.success = Some(Box::new(hook));
        self
    }

    /// Is told of each message whose work is not done, with the processor's error; as [`on_success`](Self::on_success).
    #[must_use]
    pub fn on_failure(mut self, hook: impl Fn(&Failure<'_>) + Send + Sync + 'static) -> Self {
        self.hooks.failure = Some(Box::new(hook));
        self
    }

    /// Changes settings. A host applies what the environment says after this.
    #[must_use]
    pub fn options(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.options);
        self
    }

    /// Whether keys will be claimed.
    pub fn is_idempotent(&self) -> bool {
        self.options.idempotency
    }

    /// Checks all settings, so that a host can say what is wrong before it opens a connection.
    ///
    /// # Errors
    /// Every wrong setting at once.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.checked().map(|_| ())
    }

    /// Builds the pipeline on a host.
    ///
    /// # Errors
    /// Every wrong setting at once.
    pub fn build<S: Commit<P::Write>>(self, host: Host<S>) -> Result<Pipeline<P, S>, ConfigError> {
        let config = self.checked()?;
        let keying = self.keying(&config);
        let governor = Governor::new(config.governor);
        let shared = Shared {
            processor: Arc::new(self.processor),
            keying,
            completed: CompletedCache::new(config.completed_cache_entries, config.completed_cache_ms),
            gates: Gates::new(config.governor.concurrency, host.store.chunk_size()),
            control: (!governor.is_trivial()).then(|| Arc::new(Control::new(governor))),
            backoff: host.queue.as_ref().filter(|queue| queue.can_delay()).map(|_| config.backoff),
            queue: host.queue.map(SourceQueue),
            hooks: self.hooks,
            buffered_bytes: AtomicUsize::new(0),
            watches: Watches::default(),
            retry_places: RetryPlaces::default(),
            started_ms: host.clock.now_ms(),
            store: host.store,
            clock: host.clock,
            random: host.random,
            recorder: host.recorder,
            config,
        };
        Ok(Pipeline { shared: Arc::new(shared) })
    }

    fn keying(&self, config: &Config) -> Option<Keying> {
        let key = self.key.clone().filter(|_| config.idempotency)?;
        let previous = self.previous_key.clone();
        Some(Keying {
            current: KeyMaker::new(&config.namespace, key, self.fingerprint.clone()).with_format(self.key_format),
            previous: previous
                .map(|selector| KeyMaker::new(&config.namespace, selector, None).with_format(self.key_format)),
            missing: self.missing_key,
        })
    }

    fn checked(&self) -> Result<Config, ConfigError> {
        let mut problems = self.problems.clone();
        if self.key.is_none() && self.options.idempotency && !problems.iter().any(|problem| problem.setting == "key") {
            let what = "expected what makes two messages the same work, such as .key(\"order_id\") or .key_from(KeySource::MessageId), or .without_idempotency(); found none";
            problems.push(Problem { setting: "key", what: what.to_owned() });
        }
        let checked = self.key.as_ref().map_or(Ok(()), |source| source.check(self.key_format));
        problems.extend(checked.err().map(|error| Problem { setting: "key", what: error.to_string() }));
        let selectors = [("previous_key", &self.previous_key), ("fingerprint", &self.fingerprint)];
        for (setting, selector) in selectors {
            let checked = selector.as_ref().map_or(Ok(()), |selector| selector.check(self.key_format));
            problems.extend(checked.err().map(|error| Problem { setting, what: error.to_string() }));
        }
        problems.extend(self.sub_batch_problem());
        match self.options.validate() {
            Ok(config) if problems.is_empty() => return Ok(config),
            Ok(_) => {}
            Err(error) => problems.extend(error.problems),
        }
        Err(ConfigError { problems })
    }

    /// A sub-batch that can never fill would wait for its linger each time.
    fn sub_batch_problem(&self) -> Option<Problem> {
        let count_max = self.processor.sub_batches()?.count_max.get() as u64;
        let concurrency = self.options.concurrency;
        (count_max > concurrency).then(|| Problem {
            setting: "concurrency",
            what: format!(
                "expected at least the {count_max} items of a sub-batch, found {concurrency}; it counts items"
            ),
        })
    }

    fn selector(&mut self, setting: &'static str, expression: &str) -> Option<Selector> {
        Selector::parse(expression)
            .map_err(|error| self.problems.push(Problem { setting, what: error.to_string() }))
            .ok()
    }
}
