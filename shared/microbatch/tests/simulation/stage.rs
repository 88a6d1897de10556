//! Processors that do what the schedule says, and note what they see.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use microbatch::{
    BatchItem, BatchProcessor, Clock, Done, ItemContext, Key, MemoryStore, NoWrites, ProcessError, Processor,
    key::canonical::canonicalize, record::Status,
};
use microbatch_testkit::{
    clock::TokioClock,
    queue::{NewMessage, Number, SimulatedQueue, What},
};
use serde::Deserialize;

use crate::schedule::{Act, Body, Mail, Setup};

/// What a processor does with the nth run of a message at this time, in place of the message's acts.
pub(crate) type Behaviour = dyn Fn(Number, usize, u64) -> Act + Send + Sync;

/// What the processors of a world share.
pub(crate) struct Stage {
    pub(crate) queue: SimulatedQueue,
    pub(crate) store: MemoryStore,
    clock: TokioClock,
    setup: Setup,
    pub(crate) mails: Vec<Mail>,
    keys: Vec<Key>,
    /// None: messages' own acts.
    behaviour: Option<Box<Behaviour>>,
    seen: Mutex<Seen>,
    /// Whether order within a group counts now.
    pub(crate) ordered: AtomicBool,
}

/// What was seen.
#[derive(Default)]
struct Seen {
    /// How often each message was started.
    runs: Vec<usize>,
    /// Messages that had their effect.
    effects: HashSet<Number>,
    /// Deliveries, by message id and receive count, that a processor is at work on.
    active: HashSet<(String, u32)>,
    violations: Vec<String>,
}

impl Stage {
    pub(crate) fn new(
        setup: Setup,
        mails: &[Mail],
        behaviour: Option<Box<Behaviour>>,
        queue: SimulatedQueue,
        store: MemoryStore,
        clock: TokioClock,
    ) -> Self {
        let seen = Seen { runs: vec![0; mails.len()], ..Seen::default() };
        Self {
            queue,
            store,
            clock,
            setup,
            mails: mails.to_vec(),
            keys: mails.iter().map(|mail| key_of(mail.key)).collect(),
            behaviour,
            seen: Mutex::new(seen),
            ordered: AtomicBool::new(setup.fifo),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic under the lock")
    }

    /// Notes that something happened that must not.
    pub(crate) fn violated(&self, what: String) {
        self.seen().violations.push(what);
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.seen().violations.clone()
    }

    pub(crate) fn is_at_work_on(&self, message_id: &str, receive_count: u32) -> bool {
        self.seen().active.contains(&(message_id.to_owned(), receive_count))
    }

    /// Whether the work of a message is done: its record says so. Of messages that must be equal and are not, only of that
    /// which had its effect.
    pub(crate) fn is_done(&self, number: Number) -> bool {
        let is_complete = || {
            let record = self.store.get(&self.keys[number.0]);
            record.is_some_and(|record| record.status == Status::Completed)
        };
        self.mails[number.0].body != Body::Undecodable
            && is_complete()
            && (!self.setup.fingerprint || self.seen().effects.contains(&number))
    }

    /// Whether the work of every message that can be done is. Who is the same work as a hopeless one shares its outcome.
    pub(crate) fn all_done(&self) -> bool {
        let is_hopeless = |key| self.mails.iter().any(|mail| mail.key == key && mail.body == Body::Hopeless);
        let mut mails = self.mails.iter().enumerate();
        mails.all(|(number, mail)| {
            mail.body == Body::Undecodable || is_hopeless(mail.key) || self.is_done(Number(number))
        })
    }

    /// Works on an item.
    async fn perform(&self, item: &Item, cx: &ItemContext) -> Result<Done<()>, ProcessError> {
        let _active = Active::new(self, cx);
        let number = Number(item.n);
        let act = self.start(number);
        let fail = || ProcessError::transient(std::fmt::Error);
        match act {
            Act::Succeed { after_ms } => {
                wait(after_ms).await;
                self.effect(number, 0);
                Ok(().into())
            }
            Act::Fail { after_ms } => {
                wait(after_ms).await;
                Err(fail())
            }
            Act::FailWithHint { retry_after_s } => Err(fail().retry_after(Duration::from_secs(retry_after_s))),
            Act::Reject { after_ms } => {
                wait(after_ms).await;
                Err(ProcessError::permanent(std::fmt::Error))
            }
            Act::FailUnknown { effect_after_ms } => {
                self.effect(number, effect_after_ms);
                Err(fail().effect_unknown())
            }
            Act::Panic { effect_after_ms } => {
                self.send(number, effect_after_ms);
                tokio::task::yield_now().await;
                // Not by `panic!`: the hook would print every one.
                std::panic::resume_unwind(Box::new("scripted"))
            }
            Act::Hang { effect_after_ms } => {
                self.send(number, effect_after_ms);
                std::future::pending().await
            }
        }
    }

    fn start(&self, number: Number) -> Act {
        self.check_order(number);
        let now_ms = self.clock.now_ms();
        self.queue.model().note(now_ms, number, What::Started);
        let mut seen = self.seen();
        let nth = seen.runs[number.0];
        seen.runs[number.0] += 1;
        if let Some(behaviour) = &self.behaviour {
            return behaviour(number, nth, now_ms);
        }
        let mail = &self.mails[number.0];
        let last = if mail.body == Body::Hopeless { Act::Reject { after_ms: 0 } } else { Act::Succeed { after_ms: 0 } };
        mail.acts.get(nth).copied().unwrap_or(last)
    }

    /// P16: whoever stands before it in its group is done, was parked, or has left the source queue.
    fn check_order(&self, number: Number) {
        if !self.ordered.load(Ordering::Relaxed) {
            return;
        }
        let group = self.mails[number.0].group;
        for (earlier, mail) in self.mails[..number.0].iter().enumerate() {
            let earlier = Number(earlier);
            if mail.group != group || self.is_done(earlier) {
                continue;
            }
            let whereabouts = self.queue.model().whereabouts(earlier);
            if whereabouts.source > 0 && whereabouts.dead == 0 {
                self.violated(format!("P16: {number} was started, {earlier} of its group is not done"));
            }
        }
    }

    /// Sends a request whose answer does not come.
    fn send(&self, number: Number, effect_after_ms: Option<u64>) {
        if let Some(after_ms) = effect_after_ms {
            self.effect(number, after_ms);
        }
    }

    fn effect(&self, number: Number, after_ms: u64) {
        self.seen().effects.insert(number);
        self.queue.model().note(self.clock.now_ms() + after_ms, number, What::Effect);
    }
}

/// Waits; for no time it gives the others their turn.
async fn wait(ms: u64) {
    if ms == 0 {
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// Says that a processor is at work on a delivery, until it is dropped.
struct Active<'s>(&'s Stage, (String, u32));

impl<'s> Active<'s> {
    fn new(stage: &'s Stage, cx: &ItemContext) -> Self {
        let delivery = (cx.message_id.to_string(), cx.receive_count);
        if !stage.seen().active.insert(delivery.clone()) {
            stage.violated(format!("P14: receive {} of {} is processed twice at once", delivery.1, delivery.0));
        }
        Self(stage, delivery)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.seen().active.remove(&self.1);
    }
}

// --- messages and processors --------------------------------------------------------------------------------------

/// A decoded body.
#[derive(Deserialize)]
pub(crate) struct Item {
    n: usize,
    #[serde(rename = "key")]
    _key: String,
}

/// The message of a mail, as its producer sends it.
pub(crate) fn new_message(number: Number, mail: &Mail, fifo: bool) -> NewMessage {
    let number = number.0;
    let body = match mail.body {
        Body::Good | Body::Hopeless => format!(r#"{{"n":{number},"key":"k{}"}}"#, mail.key),
        Body::Undecodable => format!("\u{1F4E6}\t\"{number}\\"),
    };
    let attributes = r#"{"sender":{"stringValue":"\u00e9\"","dataType":"String"}}"#;
    NewMessage {
        body,
        group: fifo.then(|| format!("g{}", mail.group)),
        deduplication_id: None,
        trace_header: number.is_multiple_of(2).then(|| format!("Root=1-{number:08x}-0")),
        attributes: number.is_multiple_of(3).then(|| attributes.to_owned()),
    }
}

/// The key of such a message.
fn key_of(key: usize) -> Key {
    Key::digest("test", &canonicalize(&format!("\"k{key}\"")).expect("a string"))
}

/// Processes items one by one.
pub(crate) struct Scripted(pub(crate) Arc<Stage>);

impl Processor for Scripted {
    type Item = Item;
    type Output = ();
    type Write = NoWrites;

    async fn process(&self, item: Item, cx: &ItemContext) -> Result<Done<()>, ProcessError> {
        self.0.perform(&item, cx).await
    }
}

/// Processes the items of a sub-batch at once; who panics or hangs does so for all.
pub(crate) struct ScriptedBatch(pub(crate) Arc<Stage>);

impl BatchProcessor for ScriptedBatch {
    type Item = Item;
    type Output = ();
    type Write = NoWrites;

    async fn process_batch(
        &self,
        batch: &[BatchItem<Item>],
    ) -> Result<Vec<Result<Done<()>, ProcessError>>, ProcessError> {
        Ok(join_all(batch.iter().map(|entry| self.0.perform(&entry.item, &entry.cx))).await)
    }
}
