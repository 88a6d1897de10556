//! Builds a pipeline: the user's part in code, the host's part from the environment.

use std::sync::Arc;

use super::{Gates, Pipeline, Shared, Watches};
use crate::{
    clock::{Clock, Random},
    config::{Config, ConfigError, Options, Problem},
    key::{KeyMaker, Selector},
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
    fingerprint: Option<Selector>,
    problems: Vec<Problem>,
}

impl<P: Processor> PipelineBuilder<P> {
    pub(super) fn new(processor: P) -> Self {
        Self { processor, options: Options::default(), key: None, fingerprint: None, problems: Vec::new() }
    }

    /// The part of the body that makes two messages the same work: a path such as `order_id`, or JMESPath. Required.
    #[must_use]
    pub fn key(mut self, expression: &str) -> Self {
        self.key = self.selector("key", expression);
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
        let (key, config) = self.checked()?;
        let shared = Shared {
            processor: Arc::new(self.processor),
            keys: KeyMaker::new(&config.namespace, key, self.fingerprint),
            gates: Gates::new(config.concurrency, host.store.chunk_size()),
            watches: Watches::default(),
            started_ms: host.clock.now_ms(),
            store: host.store,
            clock: host.clock,
            random: host.random,
            recorder: host.recorder,
            config,
        };
        Ok(Pipeline { shared: Arc::new(shared) })
    }

    fn checked(&self) -> Result<(Selector, Config), ConfigError> {
        let mut problems = self.problems.clone();
        if self.key.is_none() && !problems.iter().any(|problem| problem.setting == "key") {
            let what = "expected the part of the body that makes two messages the same work, such as .key(\"order_id\"); found none";
            problems.push(Problem { setting: "key", what: what.to_owned() });
        }
        match (self.options.validate(), &self.key) {
            (Ok(config), Some(key)) if problems.is_empty() => return Ok((key.clone(), config)),
            (Ok(_), _) => {}
            (Err(error), _) => problems.extend(error.problems),
        }
        Err(ConfigError { problems })
    }

    fn selector(&mut self, setting: &'static str, expression: &str) -> Option<Selector> {
        Selector::parse(expression)
            .map_err(|error| self.problems.push(Problem { setting, what: error.to_string() }))
            .ok()
    }
}
