//! A processor that does what a script says, and remembers what it did.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use microbatch::{Done, ItemContext, NoWrites, ProcessError, Processor};
use serde::Deserialize;
use serde_json::{Map, Value};

/// What happens in one run of an item. Failures have the code `on_purpose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Act {
    /// It succeeds, after others had their turn.
    #[serde(alias = "")]
    Succeed,
    /// It succeeds after this time.
    Slow {
        /// In milliseconds.
        #[serde(default)]
        ms: u64,
    },
    /// It fails, and may be tried again.
    Fail,
    /// It fails for good.
    Permanent,
    /// It fails, and asks to be tried again no sooner than this.
    RetryAfter {
        /// In milliseconds.
        #[serde(default)]
        ms: u64,
    },
    /// It fails, and its effect may have happened.
    EffectUnknown,
    /// It never ends by itself.
    Hang,
    /// It panics at once.
    Panic,
    /// It panics after this time.
    PanicLate {
        /// In milliseconds.
        #[serde(default)]
        ms: u64,
    },
    /// It never ends by itself, and panics when it is cancelled.
    PanicInDrop,
    /// It keeps its thread until [`Seen::unblock`]: what a processor must never do.
    Block,
}

/// What happens in an item's first run, its second and so on. The last act is that of all further runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script(Vec<Act>);

impl Script {
    /// It fails this many times, and then succeeds.
    pub fn failing(times: usize) -> Self {
        let mut acts = vec![Act::Fail; times];
        acts.push(Act::Succeed);
        Self(acts)
    }

    fn act(&self, run: usize) -> Act {
        self.0.get(run - 1).or(self.0.last()).copied().unwrap_or(Act::Succeed)
    }
}

impl From<Act> for Script {
    fn from(act: Act) -> Self {
        Self(vec![act])
    }
}

impl<const N: usize> From<[Act; N]> for Script {
    fn from(acts: [Act; N]) -> Self {
        Self(acts.into())
    }
}

/// A processor that does what it is told: by the number of the call, by the item's name, by the item itself, or always.
///
/// For tests of what surrounds a processor: settings, hooks, a store, a host. Its result is the item's name.
///
/// ```
/// use microbatch::{Outcome::{Failed, Processed, Rejected}, Pipeline};
/// use microbatch_testkit::{TestPipeline, scripted::{Act, Script, Scripted}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let processor = Scripted::by("id").on("a", Script::failing(1)).on("b", Act::Permanent);
/// let seen = processor.seen();
/// let bench = TestPipeline::new(Pipeline::builder(processor).key("id"));
/// let batch = bench.send([r#"{"id":"a"}"#, r#"{"id":"b"}"#, r#"{"id":"c"}"#]).await;
/// assert_eq!(batch.outcomes(), [Failed, Rejected, Processed]);
/// assert_eq!(bench.redeliver().await.outcomes(), [Processed, Rejected]);
/// assert_eq!((seen.runs("a"), seen.runs("c"), seen.total()), (2, 1, 5));
/// # }
/// ```
#[derive(Debug)]
pub struct Scripted {
    field: Box<str>,
    by_call: HashMap<u64, Act>,
    by_name: HashMap<String, Script>,
    is_told: bool,
    otherwise: Act,
    seen: Arc<Seen>,
}

impl Scripted {
    /// Every item succeeds. A body must be an object; this field of it names the item: a string, or another value's JSON.
    pub fn by(field: &str) -> Self {
        Self {
            field: field.into(),
            by_call: HashMap::new(),
            by_name: HashMap::new(),
            is_told: false,
            otherwise: Act::Succeed,
            seen: Arc::default(),
        }
    }

    /// What happens in the runs of the item of this name.
    #[must_use]
    pub fn on(mut self, name: &str, script: impl Into<Script>) -> Self {
        self.by_name.insert(name.to_owned(), script.into());
        self
    }

    /// What happens in the nth call of the processor, counted from 1, whatever the item.
    #[must_use]
    pub fn on_call(mut self, nth: u64, act: Act) -> Self {
        self.by_call.insert(nth, act);
        self
    }

    /// Where nothing else is said, the item says it itself: in its field `act`, with the name of an [`Act`] such as `fail`,
    /// `panic_late` or `slow`, and in `ms` how long that takes. An unknown act is a permanent failure, `unknown_act`.
    #[must_use]
    pub fn as_told(mut self) -> Self {
        self.is_told = true;
        self
    }

    /// What happens where nothing else is said. Without it: success.
    #[must_use]
    pub fn otherwise(mut self, act: Act) -> Self {
        self.otherwise = act;
        self
    }

    /// What it did; stays when the processor is gone.
    pub fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen)
    }

    fn act(&self, item: Map<String, Value>, run: &Run<'_>) -> Result<Act, ProcessError> {
        if let Some(act) = self.by_call.get(&run.call) {
            return Ok(*act);
        }
        if let Some(script) = self.by_name.get(&run.name) {
            return Ok(script.act(run.nth));
        }
        if self.is_told && item.contains_key("act") {
            return Act::deserialize(Value::Object(item))
                .map_err(|error| ProcessError::permanent(error).code("unknown_act"));
        }
        Ok(self.otherwise)
    }
}

impl Processor for Scripted {
    type Item = Map<String, Value>;
    type Output = String;
    type Write = NoWrites;

    async fn process(&self, item: Map<String, Value>, cx: &ItemContext) -> Result<Done<String>, ProcessError> {
        let name = match item.get(&*self.field) {
            Some(Value::String(name)) => name.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let mut run = self.seen.start(name, &cx.message_id);
        let act = self.act(item, &run);
        let result = match act {
            Ok(act) => perform(act, &self.seen).await,
            Err(error) => Err(error),
        };
        run.ending = if result.is_ok() { Ending::Succeeded } else { Ending::Failed };
        result.map(|()| Done::new(run.name.clone()))
    }
}

async fn perform(act: Act, seen: &Seen) -> Result<(), ProcessError> {
    let failure = || ProcessError::transient(OnPurpose).code("on_purpose");
    match act {
        Act::Succeed => tokio::task::yield_now().await,
        Act::Slow { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
        Act::Fail => return Err(failure()),
        Act::Permanent => return Err(ProcessError::permanent(OnPurpose).code("on_purpose")),
        Act::RetryAfter { ms } => return Err(failure().retry_after(Duration::from_millis(ms))),
        Act::EffectUnknown => return Err(failure().effect_unknown()),
        Act::Hang => std::future::pending().await,
        Act::Panic => panic!("on purpose"),
        Act::PanicLate { ms } => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            panic!("on purpose");
        }
        Act::PanicInDrop => {
            let _bomb = PanicOnDrop;
            std::future::pending::<()>().await;
        }
        Act::Block => seen.block(),
    }
    Ok(())
}

/// The error of a scripted failure.
#[derive(Debug)]
struct OnPurpose;

impl std::fmt::Display for OnPurpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("on purpose")
    }
}

impl std::error::Error for OnPurpose {}

struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}

/// Something that a [`Scripted`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The item's name.
    pub name: String,
    /// The queue's id of its message.
    pub message_id: Box<str>,
    /// Which run of the item, from 1.
    pub run: usize,
    /// None: it started.
    pub ending: Option<Ending>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// It returned a result.
    Succeeded,
    /// It returned an error.
    Failed,
    /// It panicked.
    Panicked,
    /// It was dropped before it ended.
    Cancelled,
}

/// What a [`Scripted`] did.
#[derive(Debug, Default)]
pub struct Seen {
    state: Mutex<State>,
    unblocked: Condvar,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    runs: HashMap<String, usize>,
    calls: u64,
    at_once: usize,
    at_once_max: usize,
    is_unblocked: bool,
}

impl Seen {
    /// How often the item of this name was run.
    pub fn runs(&self, name: &str) -> usize {
        self.state().runs.get(name).copied().unwrap_or(0)
    }

    /// How often any item was run.
    pub fn total(&self) -> usize {
        self.state().runs.values().sum()
    }

    /// The most that ran at once.
    pub fn at_once_max(&self) -> usize {
        self.state().at_once_max
    }

    /// How many run now.
    pub fn at_once(&self) -> usize {
        self.state().at_once
    }

    /// Every start and every end, in order.
    pub fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }

    /// The names of the items, in the order in which they started.
    pub fn starts(&self) -> Vec<String> {
        let state = self.state();
        state.events.iter().filter(|event| event.ending.is_none()).map(|event| event.name.clone()).collect()
    }

    /// The names of the items and how their runs ended, in the order in which they did.
    pub fn ends(&self) -> Vec<(String, Ending)> {
        let state = self.state();
        state.events.iter().filter_map(|event| Some((event.name.clone(), event.ending?))).collect()
    }

    /// Lets all [`Act::Block`] go on, also those to come.
    pub fn unblock(&self) {
        self.state().is_unblocked = true;
        self.unblocked.notify_all();
    }

    fn block(&self) {
        let blocked = self.unblocked.wait_while(self.state(), |state| !state.is_unblocked);
        drop(blocked.unwrap_or_else(PoisonError::into_inner));
    }

    fn start(&self, name: String, message_id: &str) -> Run<'_> {
        let mut state = self.state();
        state.calls += 1;
        let call = state.calls;
        let runs = state.runs.entry(name.clone()).or_default();
        *runs += 1;
        let nth = *runs;
        state.at_once += 1;
        state.at_once_max = state.at_once_max.max(state.at_once);
        let event = Event { name: name.clone(), message_id: message_id.into(), run: nth, ending: None };
        state.events.push(event);
        Run { seen: self, name, message_id: message_id.into(), nth, call, ending: Ending::Cancelled }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole: a panic elsewhere leaves no half of one behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run under way. However it ends, its end is noted.
struct Run<'a> {
    seen: &'a Seen,
    name: String,
    message_id: Box<str>,
    nth: usize,
    call: u64,
    ending: Ending,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let ending = if std::thread::panicking() { Ending::Panicked } else { self.ending };
        let mut state = self.seen.state();
        state.at_once -= 1;
        state.events.push(Event {
            name: self.name.clone(),
            message_id: self.message_id.clone(),
            run: self.nth,
            ending: Some(ending),
        });
    }
}
