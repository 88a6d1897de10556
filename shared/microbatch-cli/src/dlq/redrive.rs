//! `microbatch dlq redrive`: messages go back to the queue they came from.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use microbatch_aws::clock::SystemClock;
use microbatch_aws::sqs::{OutgoingMessage, ProducerOptions, SendError, SqsProducer, is_fifo, queue_name};

use super::journal::{Fate, Journal};
use super::letter::Letter;
use super::sweep::{Bounds, Looked, Selection, Sweep, delete, look, show_again};
use super::{by_code, messages, move_task};
use crate::args::Redrive;
use crate::exit::{Exit, Failure};
use crate::operate::ask::{ask, check};
use crate::operate::place::{self, Place};
use crate::operate::stop::Stop;
use crate::operate::times::now_ms;
use crate::terminal;
use crate::up::running;

/// Most messages that are looked at to find out where they came from, or to count before a question.
const LOOK_MAX: usize = 1_000;
/// How often progress is told where there is no terminal, and where there is one.
const PROGRESS: [Duration; 2] = [Duration::from_secs(10), Duration::from_millis(250)];
/// Ids that a summary names.
const IDS_SHOWN: usize = 20;

/// Where messages go.
struct Destination {
    url: String,
    /// Named by the operator: then every message goes there, wherever it came from.
    is_named: bool,
}

pub(super) async fn run(args: Redrive, stop: &Stop) -> Result<Exit, Failure> {
    check(args.yes || args.dry_run)?;
    let place = place::find(&args.letters.queue, &args.places).await?;
    let selection = Selection::new(&args.letters.filter, &args.letters.ids);
    let Some(to) = destination(&args, &place, stop).await? else {
        terminal::line(&format!("0 messages sent: {} is empty", place.name()));
        return Ok(Exit::Done);
    };
    let mut has_foreign = None;
    if args.dry_run || !args.yes {
        let looked = look(&place, stop, &selection, LOOK_MAX).await?;
        has_foreign = Some(!looked.letters.iter().all(|letter| to.takes(letter)));
        if let Some(exit) = stop.heard() {
            return Ok(exit);
        }
        let plan = plan(&place, &to, &looked).await;
        if args.dry_run {
            terminal::line(&format!("{plan}\nnothing was sent: this was a dry run"));
            return Ok(Exit::Done);
        }
        if looked.letters.is_empty() {
            terminal::line(&format!("{plan}; there is nothing to do"));
            return Ok(Exit::Done);
        }
        if !ask(&format!("{plan}\nSend them to {} and delete them from {}?", queue_name(&to.url), place.name()), stop)
            .await?
        {
            terminal::line("nothing was sent");
            return Ok(stop.heard().unwrap_or(Exit::Done));
        }
    }
    let journal = journal(&args, &place, &to)?;
    // A journal that has begun is gone on with: it knows what a task would send twice.
    let mut by_task = selection.is_all() && !args.one_by_one && !journal.is_resumed && !place.is_fifo();
    if by_task && !to.is_named {
        // A task asks no message where it came from.
        let has_foreign = match has_foreign {
            Some(has_foreign) => has_foreign,
            None => !look(&place, stop, &selection, LOOK_MAX).await?.letters.iter().all(|letter| to.takes(letter)),
        };
        by_task = !has_foreign;
    }
    if by_task && stop.heard().is_none() {
        let moved = move_task::run(&place, &to.url, args.rate.get(), stop).await;
        if !matches!(moved, Ok(None)) {
            // There is nothing in it.
            let _ = std::fs::remove_file(journal.path());
        }
        if let Some(exit) = moved? {
            return Ok(exit);
        }
        terminal::note("SQS has no message move tasks here: messages are received, sent and deleted one by one");
    }
    let mut work = Work::new(&place, &to, args.rate.get(), stop, journal);
    let outcome = work.run(&selection).await;
    work.end(outcome, stop)
}

/// The queue to send to. What the operator names wins; what must be guessed must be one alone. None where there is nothing
/// to send, and nothing to guess it by.
async fn destination(args: &Redrive, place: &Place, stop: &Stop) -> Result<Option<Destination>, Failure> {
    let (url, is_named) = match (&args.to, &place.function) {
        (Some(to), Some((name, part))) if to == name => (part.queues.source.clone(), true),
        (Some(to), _) => (place.queue(to).await?, true),
        (None, Some((_, part))) => (part.queues.source.clone(), false),
        (None, None) => match guess(place, stop).await? {
            Some(url) => (url, false),
            None => return Ok(None),
        },
    };
    let same = |one: &str, other: &str| one.trim_end_matches('/') == other.trim_end_matches('/');
    if same(&url, &place.url) {
        let name = place.name();
        return Err(Failure::usage(format!("{name} is the dead-letter queue itself: name another queue by --to")));
    }
    if is_fifo(&url) != place.is_fifo() {
        let kind = |url: &str| if is_fifo(url) { "a FIFO queue" } else { "a standard queue" };
        let (from, to) = (place.name(), queue_name(&url));
        let (from_kind, to_kind) = (kind(&place.url), kind(&url));
        return Err(Failure::usage(format!(
            "{from} is {from_kind} and {to} is {to_kind}: name a queue of the same kind by --to"
        )));
    }
    Ok(Some(Destination { url, is_named }))
}

/// The one queue whose redrive policy names this one; else the one that all reasons name. None of an empty queue.
async fn guess(place: &Place, stop: &Stop) -> Result<Option<String>, Failure> {
    let request = place.sqs.client.list_dead_letter_source_queues().queue_url(&place.url);
    let sources = request.send().await.map(|answer| answer.queue_urls).unwrap_or_default();
    match sources.as_slice() {
        [source] => return Ok(Some(source.clone())),
        [] => {}
        several => {
            let names: Vec<&str> = several.iter().map(|url| queue_name(url)).collect();
            let names = names.join(", ");
            let name = place.name();
            return Err(Failure::usage(format!("{name} is the dead-letter queue of {names}: say which by --to QUEUE")));
        }
    }
    let looked = look(place, stop, &Selection::default(), LOOK_MAX).await?;
    let mut queues: Vec<&str> =
        looked.letters.iter().filter_map(|letter| letter.why.reason()?.queue.as_deref()).collect();
    queues.sort_unstable();
    queues.dedup();
    match queues.as_slice() {
        [queue] => place.queue(queue).await.map(Some),
        [] if looked.seen == 0 => Ok(None),
        [] => {
            let name = place.name();
            Err(Failure::usage(format!(
                "nothing says where the messages of {name} came from: name the queue by --to QUEUE"
            )))
        }
        several => {
            let names: Vec<&str> = several.iter().filter_map(|arn| arn.rsplit(':').next()).collect();
            let names = names.join(", ");
            Err(Failure::usage(format!("the messages came from {names}: say where they go by --to QUEUE")))
        }
    }
}

/// What would be sent.
async fn plan(place: &Place, to: &Destination, looked: &Looked) -> String {
    let count = looked.letters.len();
    let codes = if count > 0 { format!(" ({})", by_code(&looked.letters)) } else { String::new() };
    let depth = place::depth(place).await.map(|depth| depth.waiting + depth.in_flight);
    let about = depth.map_or_else(String::new, |depth| format!(" of about {depth}"));
    let mut plan = format!("{} to {}{codes}; looked at {}{about}", messages(count), queue_name(&to.url), looked.seen);
    if looked.missing > 0 {
        plan.push_str(&format!("; {} of the ids that were asked for did not come", looked.missing));
    }
    let others = looked.letters.iter().filter(|letter| !to.takes(letter)).count();
    if others > 0 {
        plan.push_str(&format!(
            "; {} came from another queue and would stay: --to QUEUE sends them too",
            messages(others)
        ));
    }
    plan
}

impl Destination {
    /// Whether a message belongs there: one that came from elsewhere goes only where the operator says so.
    fn takes(&self, letter: &Letter) -> bool {
        let from = letter.why.reason().and_then(|reason| reason.queue.as_deref()?.rsplit(':').next());
        self.is_named || from.is_none_or(|from| from == queue_name(&self.url))
    }
}

fn journal(args: &Redrive, place: &Place, to: &Destination) -> Result<Journal, Failure> {
    let journal = match &args.journal {
        Some(path) => Journal::open(path, &place.url, &to.url)?,
        None => Journal::in_folder(&journal_folder(args, place)?, &place.url, &to.url, now_ms())?,
    };
    let path = journal.path().display();
    if journal.is_resumed {
        let sent = messages(journal.sent());
        terminal::line(&format!("goes on with the journal {path}: {sent} were sent before"));
    } else {
        terminal::line(&format!("journal {path}"));
    }
    Ok(journal)
}

/// Beside the stack's own files; for other queues where programs keep their state, which no `cargo clean` removes.
fn journal_folder(args: &Redrive, place: &Place) -> Result<PathBuf, Failure> {
    if place.function.is_some() {
        let target_dir = running::target_dir(None);
        if let Ok(folder) = running::folder(args.places.state.as_deref(), target_dir.as_deref()) {
            return Ok(folder.join("redrive"));
        }
    }
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    let state =
        state.ok_or_else(|| Failure::usage("there is no HOME to keep a journal in; name a file by --journal FILE"))?;
    Ok(state.join("microbatch/redrive"))
}

/// A redrive at work.
struct Work<'a> {
    place: &'a Place,
    to: &'a Destination,
    rate: u32,
    stop: &'a Stop,
    journal: Journal,
    counts: Counts,
    started: Instant,
    told: Instant,
}

/// What came of it.
#[derive(Debug, Default)]
struct Counts {
    sent: usize,
    deleted: usize,
    /// Sent before, by a run that was interrupted, and only deleted now.
    only_deleted: usize,
    /// Sent, and not deleted.
    undeleted: usize,
    /// Not sent, by code.
    unsent: BTreeMap<&'static str, usize>,
    /// An error of one of those.
    example: Option<SendError>,
    /// Nobody knows whether they were sent.
    unknown: Vec<String>,
    /// Sent although they may have been sent before.
    doubled: Vec<String>,
    /// They came from another queue, and no destination was named.
    foreign: usize,
    /// They were sent by this redrive, and are here again.
    back: usize,
    missing: usize,
    seen: usize,
}

impl<'a> Work<'a> {
    fn new(place: &'a Place, to: &'a Destination, rate: u32, stop: &'a Stop, journal: Journal) -> Self {
        let started = Instant::now();
        Self { place, to, rate, stop, journal, counts: Counts::default(), started, told: started }
    }

    async fn run(&mut self, selection: &Selection) -> Result<(), Failure> {
        self.take_up().await?;
        let (producer, driver) = SqsProducer::new(
            self.place.sqs.once.clone(),
            &self.to.url,
            ProducerOptions::default(),
            Arc::new(SystemClock),
        );
        let driver = tokio::spawn(driver);
        let bounds = Bounds { seen_max: usize::MAX, waits_for_others: true };
        let mut sweep = Sweep::new(self.place, self.stop, selection, bounds);
        let outcome = loop {
            let letters = match sweep.next().await {
                Ok(Some(letters)) => letters,
                Ok(None) => break Ok(()),
                Err(failure) => break Err(failure),
            };
            if letters.is_empty() {
                continue;
            }
            // To its end, also when a signal comes: what was sent is to be deleted.
            if let Err(failure) = self.batch(&letters, &mut sweep, &producer).await {
                for letter in &letters {
                    sweep.keep(letter);
                }
                break Err(failure);
            }
            self.tell(false);
            self.pause().await;
        };
        (self.counts.seen, self.counts.missing) = (sweep.seen(), sweep.missing());
        producer.close();
        sweep.finish().await;
        let _ = driver.await;
        self.tell(true);
        outcome
    }

    /// Does first what a run before left undone.
    async fn take_up(&mut self) -> Result<(), Failure> {
        if !self.journal.is_resumed {
            return Ok(());
        }
        let undeleted = self.journal.undeleted();
        let handles: Vec<&str> = undeleted.iter().map(|(_, handle)| handle.as_str()).collect();
        // A handle may be too old: then the message comes again, and is deleted then.
        let gone = delete(&self.place.sqs.client, &self.place.url, &handles).await;
        let gone: Vec<&str> =
            undeleted.iter().zip(gone).filter(|(_, gone)| *gone).map(|((id, _), _)| id.as_str()).collect();
        self.counts.only_deleted += gone.len();
        self.counts.deleted += gone.len();
        self.journal.deleted(&gone)?;
        show_again(&self.place.sqs.client, &self.place.url, &self.journal.hidden(now_ms())).await;
        Ok(())
    }

    /// Sends and deletes the messages of one receive.
    async fn batch(
        &mut self,
        letters: &[Letter],
        sweep: &mut Sweep<'_>,
        producer: &SqsProducer,
    ) -> Result<(), Failure> {
        self.journal.received(letters, now_ms())?;
        let (sent_before, open): (Vec<&Letter>, Vec<&Letter>) = letters
            .iter()
            .partition(|letter| matches!(self.journal.fate(&letter.id), Some(Fate::Sent | Fate::Deleted)));
        let (back, open): (Vec<&Letter>, Vec<&Letter>) =
            open.into_iter().partition(|letter| self.journal.is_back(letter));
        for letter in &back {
            sweep.keep(letter);
        }
        self.counts.back += back.len();
        let (to_send, foreign): (Vec<&Letter>, Vec<&Letter>) =
            open.into_iter().partition(|letter| self.to.takes(letter));
        for letter in &foreign {
            sweep.keep(letter);
        }
        self.counts.foreign += foreign.len();

        let sent = self.send(&to_send, sweep, producer).await?;
        self.counts.only_deleted += sent_before.len();
        let nothing_sent = !to_send.is_empty() && sent.is_empty();
        self.delete(sent_before.into_iter().chain(sent).collect(), sweep).await?;
        match self.counts.example.as_ref().filter(|_| nothing_sent) {
            // A queue that takes nothing: the rest would fare no better.
            Some(error) => Err(Failure::environment(format!("{} takes no message: {error}", queue_name(&self.to.url)))),
            None => Ok(()),
        }
    }

    /// Sends messages in order. Gives those that were sent for certain.
    async fn send<'l>(
        &mut self,
        letters: &[&'l Letter],
        sweep: &mut Sweep<'_>,
        producer: &SqsProducer,
    ) -> Result<Vec<&'l Letter>, Failure> {
        if letters.is_empty() {
            return Ok(Vec::new());
        }
        let now_ms = now_ms();
        let fifo = self.place.is_fifo();
        let mut maybe_doubled = Vec::new();
        for letter in letters {
            if let Some(Fate::Intended { at_ms }) = self.journal.fate(&letter.id)
                && !Journal::is_dropped(at_ms, now_ms, fifo)
            {
                maybe_doubled.push(letter.id.clone());
            }
        }
        let ids: Vec<&str> = letters.iter().map(|letter| letter.id.as_str()).collect();
        self.journal.intend(&ids, now_ms)?;
        let mut receipts = Vec::with_capacity(letters.len());
        for letter in letters {
            receipts.push(match OutgoingMessage::again(&letter.message, fifo) {
                Ok(message) => producer.enqueue(message).await,
                Err(problem) => Err(SendError::Invalid(problem)),
            });
        }
        let (mut sent, mut sent_as, mut unsent) = (Vec::new(), Vec::new(), Vec::new());
        for (letter, receipt) in letters.iter().copied().zip(receipts) {
            let result = match receipt {
                Ok(receipt) => receipt.await,
                Err(error) => Err(error),
            };
            match result {
                Ok(as_new) => {
                    sent.push(letter);
                    sent_as.push((letter.id.as_str(), as_new.message_id));
                }
                Err(error) => {
                    sweep.keep(letter);
                    if error.may_be_sent() {
                        self.counts.unknown.push(letter.id.clone());
                    } else {
                        unsent.push(letter.id.as_str());
                        *self.counts.unsent.entry(error.code()).or_default() += 1;
                    }
                    self.counts.example.get_or_insert(error);
                }
            }
        }
        // What may have been sent before stays so, although this time it was not.
        unsent.retain(|id| !maybe_doubled.iter().any(|doubled| doubled == id));
        self.journal.answered(&sent_as, &unsent)?;
        self.counts.sent += sent.len();
        self.counts.doubled.extend(maybe_doubled.into_iter().filter(|id| sent_as.iter().any(|(sent, _)| sent == id)));
        Ok(sent)
    }

    async fn delete(&mut self, letters: Vec<&Letter>, sweep: &mut Sweep<'_>) -> Result<(), Failure> {
        let handles: Vec<&str> = letters.iter().map(|letter| letter.handle.as_str()).collect();
        let gone = delete(&self.place.sqs.client, &self.place.url, &handles).await;
        let (gone, left): (Vec<_>, Vec<_>) = letters.into_iter().zip(gone).partition(|(_, gone)| *gone);
        let ids: Vec<&str> = gone.iter().map(|(letter, _)| letter.id.as_str()).collect();
        self.counts.deleted += ids.len();
        self.counts.undeleted += left.len();
        for (letter, _) in &left {
            sweep.keep(letter);
        }
        self.journal.deleted(&ids)
    }

    /// Waits until the rate allows more.
    async fn pause(&self) {
        let due = Duration::from_secs_f64(to_f64(self.counts.sent) / f64::from(self.rate));
        self.stop.sleep(due.saturating_sub(self.started.elapsed())).await;
    }

    fn tell(&mut self, is_last: bool) {
        let is_terminal = std::io::stderr().is_terminal();
        if is_last || self.told.elapsed() < PROGRESS[usize::from(is_terminal)] {
            if is_last && is_terminal {
                terminal::line("");
            }
            return;
        }
        self.told = Instant::now();
        let rate = to_f64(self.counts.sent) / self.started.elapsed().as_secs_f64().max(0.001);
        let text = format!("sent {}, deleted {}, {rate:.0} a second", self.counts.sent, self.counts.deleted);
        if is_terminal { terminal::progress(&text) } else { terminal::line(&text) }
    }

    /// Says what was done and what is left.
    fn end(mut self, outcome: Result<(), Failure>, stop: &Stop) -> Result<Exit, Failure> {
        let path = self.journal.path().display().to_string();
        for line in self.counts.lines(queue_name(&self.to.url)) {
            terminal::line(&line);
        }
        outcome.map_err(|mut failure| {
            failure.message.push_str(&format!("; the same command goes on from the journal {path}"));
            failure
        })?;
        if let Some(exit) = stop.heard() {
            terminal::line(&format!("interrupted: the same command goes on from the journal {path}"));
            return Ok(exit);
        }
        let unsent: usize = self.counts.unsent.values().sum();
        if unsent + self.counts.undeleted + self.counts.unknown.len() > 0 {
            let example =
                self.counts.example.take().map_or_else(String::new, |error| format!("; one of them: {error}"));
            let what = format!("not all messages were sent and deleted{example}");
            return Err(Failure::environment(format!(
                "{what}; the same command tries the rest, from the journal {path}"
            )));
        }
        self.journal.finish()?;
        if self.counts.missing > 0 {
            let missing = self.counts.missing;
            return Err(Failure::usage(format!("{missing} of the ids that were asked for did not come")));
        }
        Ok(Exit::Done)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of messages are far below 2^52")]
fn to_f64(count: usize) -> f64 {
    count as f64
}

impl Counts {
    fn lines(&self, to: &str) -> Vec<String> {
        let mut lines =
            vec![format!("{} sent to {to}, {} deleted, of {} looked at", messages(self.sent), self.deleted, self.seen)];
        if self.only_deleted > 0 {
            lines.push(format!("{} were sent before and only deleted now", messages(self.only_deleted)));
        }
        if !self.doubled.is_empty() {
            let ids = some(&self.doubled);
            lines.push(format!(
                "{} may be there twice: a send before this run was never answered. The function's idempotency table \
                 recognises the second: {ids}",
                messages(self.doubled.len())
            ));
        }
        if !self.unknown.is_empty() {
            let ids = some(&self.unknown);
            let count = messages(self.unknown.len());
            lines.push(format!("{count} may have been sent, no answer came, and they are still here: {ids}"));
        }
        for (code, count) in &self.unsent {
            lines.push(format!("{} were not sent ({code}) and are still here", messages(*count)));
        }
        if self.undeleted > 0 {
            let count = messages(self.undeleted);
            lines.push(format!("{count} were sent and could not be deleted: the next run only deletes them"));
        }
        if self.foreign > 0 {
            let count = messages(self.foreign);
            lines.push(format!("{count} came from another queue than {to} and stay: --to QUEUE sends them"));
        }
        if self.back > 0 {
            let count = messages(self.back);
            lines.push(format!(
                "{count} came back already and stay: the function refuses them still; mend it or the sender first, then \
                 redrive again"
            ));
        }
        if self.sent == 0 && self.seen > 0 && lines.len() == 1 {
            lines.push("no message is as asked for; `dlq list` shows the codes".to_owned());
        }
        lines
    }
}

/// Ids, or the first of many.
fn some(ids: &[String]) -> String {
    let shown = ids.iter().take(IDS_SHOWN).map(String::as_str).collect::<Vec<_>>().join(" ");
    let more = ids.len().saturating_sub(IDS_SHOWN);
    if more > 0 { format!("{shown} and {more} more (the journal names all)") } else { shown }
}
