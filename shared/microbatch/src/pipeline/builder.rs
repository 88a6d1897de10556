//! Builds a pipeline: the user's part in code, the host's part from the environment.

use std::sync::Arc;

use super::{Gates, Pipeline, Shared, Watches, cache::CompletedCache, calls::RetryPlaces};
use crate::{
    clock::{Clock, Random},
    config::{Config, ConfigError, Options, Problem},
    decode::{Keying, MissingKey},
    key::{KeyFormat, KeyMaker, Selector},
    processor::Processor,
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
}

/// A pipeline in the making. Wrong settings are kept and reported together by [`PipelineBuilder::build`].
#[derive(Debug)]
pub struct PipelineBuilder<P> {
    processor: P,
    options: Options,
    key: Option<Selector>,
    previous_key: Option<Selector>,
    fingerprint: Option<Selector>,
    key_format: KeyFormat,
    missing_key: MissingKey,
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
            problems: Vec::new(),
        }
    }

    /// The part of the body that makes two messages the same work: a path such as `order_id`, or JMESPath. Required.
    #[must_use]
    pub fn key(mut self, expression: &str) -> Self {
        self.key = self.selector("key", expression);
        self
    }

    /// The selector of an earlier version of the function. What that version has done, or is doing, is not done again.
    /// Keep it until the retention of its records is over. Costs one more read an item. To run both versions at once, as a
    /// canary does, give each the other's key as its previous one.
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
        let shared = Shared {
            processor: Arc::new(self.processor),
            keying,
            completed: CompletedCache::new(config.completed_cache_entries, config.completed_cache_ms),
            gates: Gates::new(config.concurrency, host.store.chunk_size()),
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
            let what = "expected the part of the body that makes two messages the same work, such as .key(\"order_id\"), or .without_idempotency(); found none";
            problems.push(Problem { setting: "key", what: what.to_owned() });
        }
        let selectors = [("key", &self.key), ("previous_key", &self.previous_key), ("fingerprint", &self.fingerprint)];
        for (setting, selector) in selectors {
            let checked = selector.as_ref().map_or(Ok(()), |selector| selector.check(self.key_format));
            problems.extend(checked.err().map(|error| Problem { setting, what: error.to_string() }));
        }
        match self.options.validate() {
            Ok(config) if problems.is_empty() => return Ok(config),
            Ok(_) => {}
            Err(error) => problems.extend(error.problems),
        }
        Err(ConfigError { problems })
    }

    fn selector(&mut self, setting: &'static str, expression: &str) -> Option<Selector> {
        Selector::parse(expression)
            .map_err(|error| self.problems.push(Problem { setting, what: error.to_string() }))
            .ok()
    }
}
