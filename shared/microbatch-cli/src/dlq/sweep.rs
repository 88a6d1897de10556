//! Goes through a queue: receives what is there, hands out what is meant, and shows the rest again in the end.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, MessageSystemAttributeName,
};
use microbatch::queue::QUEUE_ENTRIES_MAX;

use super::letter::Letter;
use crate::args::Filter;
use crate::exit::Failure;
use crate::operate::place::{self, Place};
use crate::operate::stop::Stop;
use crate::operate::times;
use crate::terminal;
use crate::up::sqs::reason;

/// How long a message is hidden by a receive. So long it stays hidden where the command is killed.
pub(crate) const HIDDEN: Duration = Duration::from_mins(2);
/// How long a receive waits for messages: with none at all, SQS asks only some of its servers.
const WAIT_S: i32 = 1;
/// A queue is empty once it gave nothing this often in a row.
const EMPTY_MAX: u32 = 2;

/// Which messages are meant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    pub(crate) filter: Filter,
    /// Only these; empty for all.
    pub(crate) ids: HashSet<String>,
}

impl Selection {
    pub(crate) fn new(filter: &Filter, ids: &[String]) -> Self {
        Self { filter: filter.clone(), ids: ids.iter().cloned().collect() }
    }

    pub(crate) fn is_all(&self) -> bool {
        self.filter.is_empty() && self.ids.is_empty()
    }

    pub(crate) fn matches(&self, letter: &Letter, now_ms: u64) -> bool {
        (self.ids.is_empty() || self.ids.contains(&letter.id)) && self.filter.matches(letter, now_ms)
    }
}

/// What a sweep is to stop at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Most messages that are looked at.
    pub(crate) seen_max: usize,
    /// Whether messages that others have received are waited for: those of a command that was killed come back.
    pub(crate) waits_for_others: bool,
}

/// A queue while it is gone through. Ends by [`Sweep::finish`], whatever happened.
#[derive(Debug)]
pub(crate) struct Sweep<'a> {
    place: &'a Place,
    stop: &'a Stop,
    selection: &'a Selection,
    bounds: Bounds,
    /// The handles of messages that stay, by id.
    kept: BTreeMap<String, String>,
    seen: HashSet<String>,
    wanted_left: usize,
    empty: u32,
    /// Receives in a row that gave only messages seen before: their time of being hidden was over.
    stale: usize,
    waiting_since: Option<Instant>,
}

impl<'a> Sweep<'a> {
    pub(crate) fn new(place: &'a Place, stop: &'a Stop, selection: &'a Selection, bounds: Bounds) -> Self {
        Self {
            place,
            stop,
            selection,
            bounds,
            kept: BTreeMap::new(),
            seen: HashSet::new(),
            wanted_left: selection.ids.len(),
            empty: 0,
            stale: 0,
            waiting_since: None,
        }
    }

    /// The messages of the next receive that are meant: at most ten, and perhaps none. None at the end: nothing more comes,
    /// the bound is met, or the command is to stop.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Letter>>, Failure> {
        if self.stop.heard().is_some() || self.seen.len() >= self.bounds.seen_max {
            return Ok(None);
        }
        if !self.selection.ids.is_empty() && self.wanted_left == 0 {
            return Ok(None);
        }
        let room = self.bounds.seen_max - self.seen.len();
        let letters = receive(self.place, room.min(QUEUE_ENTRIES_MAX)).await?;
        if letters.is_empty() {
            self.empty += 1;
            let is_over = self.empty >= EMPTY_MAX && !self.others_hold_some().await;
            return Ok((!is_over).then(Vec::new));
        }
        self.empty = 0;
        let mut meant = Vec::new();
        let mut has_new = false;
        let now_ms = times::now_ms();
        for letter in letters {
            let is_new = self.seen.insert(letter.id.clone());
            has_new |= is_new;
            if is_new && self.selection.ids.contains(&letter.id) {
                self.wanted_left -= 1;
            }
            // What was kept once stays, with its new handle.
            if self.selection.matches(&letter, now_ms) && !self.kept.contains_key(&letter.id) {
                meant.push(letter);
            } else {
                self.keep(&letter);
            }
        }
        self.stale = if has_new || !meant.is_empty() { 0 } else { self.stale + 1 };
        let is_over = self.stale * QUEUE_ENTRIES_MAX > self.kept.len() + QUEUE_ENTRIES_MAX;
        Ok((!is_over).then_some(meant))
    }

    /// Leaves a message in the queue.
    pub(crate) fn keep(&mut self, letter: &Letter) {
        self.kept.insert(letter.id.clone(), letter.handle.clone());
    }

    /// How many different messages came.
    pub(crate) fn seen(&self) -> usize {
        self.seen.len()
    }

    /// Of the ids that were asked for, how many did not come.
    pub(crate) fn missing(&self) -> usize {
        self.wanted_left
    }

    /// Shows again what stays. Says so where that fails.
    pub(crate) async fn finish(self) {
        let handles: Vec<String> = self.kept.into_values().collect();
        let failed = show_again(&self.place.sqs.client, &self.place.url, &handles).await;
        if failed > 0 {
            let hidden = times::span(millis(HIDDEN));
            terminal::note(&format!("{failed} messages could not be shown again at once: they are within {hidden}"));
        }
    }

    /// Whether messages are hidden that are not ours, and it is worth to wait for them.
    async fn others_hold_some(&mut self) -> bool {
        if !self.bounds.waits_for_others {
            return false;
        }
        let in_flight = place::depth(self.place).await.map_or(0, |depth| depth.in_flight);
        if in_flight <= self.kept.len() as u64 {
            return false;
        }
        let since = *self.waiting_since.get_or_insert_with(|| {
            let others = in_flight - self.kept.len() as u64;
            let longest = times::span(millis(HIDDEN));
            terminal::note(&format!(
                "{others} messages are hidden, received by someone else: waiting up to {longest} for them"
            ));
            Instant::now()
        });
        since.elapsed() <= HIDDEN + Duration::from_secs(5)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a look gave: the messages are visible again.
#[derive(Debug)]
pub(crate) struct Looked {
    /// Those that are meant.
    pub(crate) letters: Vec<Letter>,
    /// How many there were of any kind.
    pub(crate) seen: usize,
    /// Ids that were asked for and did not come.
    pub(crate) missing: usize,
}

/// Looks at a queue's messages, and shows them again.
pub(crate) async fn look(
    place: &Place,
    stop: &Stop,
    selection: &Selection,
    seen_max: usize,
) -> Result<Looked, Failure> {
    let bounds = Bounds { seen_max, waits_for_others: false };
    let mut sweep = Sweep::new(place, stop, selection, bounds);
    let mut letters = Vec::new();
    let outcome = loop {
        match sweep.next().await {
            Ok(Some(meant)) => {
                for letter in &meant {
                    sweep.keep(letter);
                }
                letters.extend(meant);
            }
            Ok(None) => break Ok(()),
            Err(failure) => break Err(failure),
        }
    };
    let (seen, missing) = (sweep.seen(), sweep.missing());
    sweep.finish().await;
    outcome.map(|()| Looked { letters, seen, missing })
}

async fn receive(place: &Place, count: usize) -> Result<Vec<Letter>, Failure> {
    let request = place
        .sqs
        .client
        .receive_message()
        .queue_url(&place.url)
        .max_number_of_messages(i32::try_from(count).unwrap_or(1))
        .visibility_timeout(i32::try_from(HIDDEN.as_secs()).unwrap_or(60))
        .wait_time_seconds(WAIT_S)
        .message_attribute_names("All")
        .message_system_attribute_names(MessageSystemAttributeName::All);
    let failed = |why: &str| Failure::environment(format!("messages of {} cannot be received: {why}", place.name()));
    let answer = request.send().await.map_err(|error| failed(&reason(&error)))?;
    Ok(answer.messages.unwrap_or_default().into_iter().filter_map(Letter::new).collect())
}

/// Makes messages visible. Gives how many were not: they are, once their time is over.
pub(crate) async fn show_again(client: &Client, url: &str, handles: &[String]) -> usize {
    let mut failed = 0;
    for handles in handles.chunks(QUEUE_ENTRIES_MAX) {
        let entry = |(id, handle): (usize, &String)| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(id.to_string());
            entry.receipt_handle(handle).visibility_timeout(0).build()
        };
        let Ok(entries) = handles.iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>() else {
            failed += handles.len();
            continue;
        };
        let request = client.change_message_visibility_batch().queue_url(url).set_entries(Some(entries));
        failed += request.send().await.map_or(handles.len(), |answer| handles.len() - answer.successful().len());
    }
    failed
}

/// Deletes messages by their handles. Gives for each whether it is gone for certain.
pub(crate) async fn delete(client: &Client, url: &str, handles: &[&str]) -> Vec<bool> {
    let mut deleted = Vec::with_capacity(handles.len());
    for handles in handles.chunks(QUEUE_ENTRIES_MAX) {
        let entry = |(id, handle): (usize, &&str)| {
            DeleteMessageBatchRequestEntry::builder().id(id.to_string()).receipt_handle(*handle).build()
        };
        let entries = handles.iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>().unwrap_or_default();
        let request = client.delete_message_batch().queue_url(url).set_entries(Some(entries));
        let successful: HashSet<String> = match request.send().await {
            Ok(answer) => answer.successful.into_iter().map(|entry| entry.id).collect(),
            Err(_) => HashSet::new(),
        };
        deleted.extend((0..handles.len()).map(|id| successful.contains(&id.to_string())));
    }
    deleted
}
