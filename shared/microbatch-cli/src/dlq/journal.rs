//! What a redrive has done, in a file: so that one that was interrupted goes on where it was.
//!
//! A line of JSON for each step. What is to be sent is on the disk before it is sent, what became of it directly after. Which of
//! two things happened where there is only the first line, nobody knows: that is all that can be sent twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use microbatch_aws::sqs::queue_name;
use serde_json::{Value, json};

use super::letter::Letter;
use super::sweep::HIDDEN;
use crate::exit::Failure;

/// How long a FIFO queue drops repetitions for, with a minute less for clocks and slow requests.
const DROPPED_MS: u64 = 240_000;

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was about to be sent at this time, and may have been.
    Intended { at_ms: u64 },
    /// It was sent, and is still to be deleted.
    Sent,
    /// It was sent and deleted.
    Deleted,
}

/// The file, and what it says.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    state: State,
    /// Whether it was there before.
    pub(crate) is_resumed: bool,
}

#[derive(Debug, Default)]
struct State {
    fates: BTreeMap<String, Fate>,
    /// The handle of a message's last receive, and when that was.
    handles: BTreeMap<String, (String, u64)>,
    /// The ids under which messages were sent.
    sent_as: BTreeSet<String>,
    finished: bool,
}

impl Journal {
    /// The unfinished journal of these queues in a folder, or a new one there.
    pub(crate) fn in_folder(folder: &Path, from: &str, to: &str, now_ms: u64) -> Result<Self, Failure> {
        let unusable = |error: io::Error| Failure::environment(format!("{} cannot be used: {error}", folder.display()));
        fs::create_dir_all(folder).map_err(unusable)?;
        let start = format!("{}-", queue_name(from));
        let files = fs::read_dir(folder).map_err(unusable)?.flatten().map(|entry| entry.path());
        let is_ours = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.starts_with(&start) && path.extension().is_some_and(|extension| extension == "jsonl")
        };
        let unfinished = |path: &PathBuf| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let state = read(&text, from, to).ok();
            state.is_some_and(|(state, length)| length > 0 && !state.finished)
        };
        let mut found: Vec<PathBuf> = files.filter(is_ours).filter(unfinished).collect();
        // The newest, by the time in its name.
        found.sort();
        Self::open(&found.pop().unwrap_or_else(|| folder.join(format!("{start}{now_ms}.jsonl"))), from, to)
    }

    /// The journal in a file, which is made if there is none.
    pub(crate) fn open(path: &Path, from: &str, to: &str) -> Result<Self, Failure> {
        let unusable =
            |error: io::Error| Failure::environment(format!("the journal {} cannot be used: {error}", path.display()));
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        // Who has a receipt handle can delete the message.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
            Err(TryLockError::WouldBlock) => {
                let message =
                    format!("another redrive is at work with the journal {}: wait for it, or stop it", path.display());
                return Err(Failure::environment(message));
            }
        }
        let text = fs::read_to_string(path).map_err(unusable)?;
        let (state, length) =
            read(&text, from, to).map_err(|what| Failure::usage(format!("the journal {}: {what}", path.display())))?;
        // A line that was cut off by a kill says nothing, and the next must not be joined to it.
        file.set_len(length as u64).and_then(|()| file.seek(SeekFrom::End(0))).map_err(unusable)?;
        let mut journal = Self { file, path: path.to_owned(), state, is_resumed: length > 0 };
        if !journal.is_resumed {
            journal.append(&json!({"v": 1, "from": from, "to": to}), true)?;
        }
        Ok(journal)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How far a message has come; none of which nothing is known.
    pub(crate) fn fate(&self, id: &str) -> Option<Fate> {
        self.state.fates.get(id).copied()
    }

    /// Whether a message is one that this redrive has sent, and that is back already: to send it again would have no end.
    pub(crate) fn is_back(&self, letter: &Letter) -> bool {
        let first_id = letter.why.reason().and_then(|reason| reason.message_id.as_ref());
        self.state.sent_as.contains(&letter.id) || first_id.is_some_and(|id| self.state.sent_as.contains(id))
    }

    /// How many messages were sent, whether deleted or not.
    pub(crate) fn sent(&self) -> usize {
        self.state.fates.values().filter(|fate| !matches!(fate, Fate::Intended { .. })).count()
    }

    /// Those that were sent and are still to be deleted, with the handles of their last receive.
    pub(crate) fn undeleted(&self) -> Vec<(String, String)> {
        let undeleted = self.state.fates.iter().filter(|(_, fate)| **fate == Fate::Sent);
        undeleted.filter_map(|(id, _)| Some((id.clone(), self.state.handles.get(id)?.0.clone()))).collect()
    }

    /// Handles of messages that the run before may have left hidden.
    pub(crate) fn hidden(&self, now_ms: u64) -> Vec<String> {
        let hidden_ms = u64::try_from(HIDDEN.as_millis()).unwrap_or(u64::MAX);
        let is_left = |id: &String| !matches!(self.fate(id), Some(Fate::Sent | Fate::Deleted));
        let recent = self.state.handles.iter().filter(|(_, (_, at_ms))| now_ms.saturating_sub(*at_ms) < hidden_ms);
        recent.filter(|(id, _)| is_left(id)).map(|(_, (handle, _))| handle.clone()).collect()
    }

    /// Whether a repetition of a message that may have been sent at that time would be dropped.
    pub(crate) fn is_dropped(at_ms: u64, now_ms: u64, fifo: bool) -> bool {
        fifo && now_ms.saturating_sub(at_ms) < DROPPED_MS
    }

    /// Notes what was received. Not worth a sync: should it be lost, messages are hidden for a while.
    pub(crate) fn received(&mut self, letters: &[Letter], now_ms: u64) -> Result<(), Failure> {
        let handles: Vec<Value> = letters.iter().map(|letter| json!([letter.id, letter.handle])).collect();
        for letter in letters {
            self.state.handles.insert(letter.id.clone(), (letter.handle.clone(), now_ms));
        }
        self.append(&json!({"received": handles, "at_ms": now_ms}), false)
    }

    /// Notes what is about to be sent.
    pub(crate) fn intend(&mut self, ids: &[&str], now_ms: u64) -> Result<(), Failure> {
        for id in ids {
            // What may have been sent before may still have been.
            let fate = Fate::Intended { at_ms: now_ms };
            let known = self.state.fates.entry((*id).to_owned()).or_insert(fate);
            if matches!(known, Fate::Intended { .. }) {
                *known = fate;
            }
        }
        self.append(&json!({"intent": ids, "at_ms": now_ms}), true)
    }

    /// Notes what became of it: sent, and under which id, or certainly not sent. Of the others nothing is known.
    pub(crate) fn answered(&mut self, sent: &[(&str, String)], unsent: &[&str]) -> Result<(), Failure> {
        for (id, sent_as) in sent {
            self.state.fates.insert((*id).to_owned(), Fate::Sent);
            self.state.sent_as.insert(sent_as.clone());
        }
        for id in unsent {
            self.state.fates.remove(*id);
        }
        self.append(&json!({"sent": sent, "unsent": unsent}), true)
    }

    /// Notes what was deleted.
    pub(crate) fn deleted(&mut self, ids: &[&str]) -> Result<(), Failure> {
        for id in ids {
            self.state.fates.insert((*id).to_owned(), Fate::Deleted);
            self.state.handles.remove(*id);
        }
        self.append(&json!({"deleted": ids}), false)
    }

    /// Notes that nothing is left to go on with. A file that says nothing of any message is removed.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        if self.state.fates.is_empty() {
            let _ = fs::remove_file(&self.path);
            return Ok(());
        }
        self.append(&json!({"finished": true}), true)
    }

    fn append(&mut self, line: &Value, sync: bool) -> Result<(), Failure> {
        let written = self.file.write_all(format!("{line}\n").as_bytes());
        let written = written.and_then(|()| if sync { self.file.sync_data() } else { Ok(()) });
        let path = self.path.display();
        written.map_err(|error| Failure::environment(format!("the journal {path} cannot be written: {error}")))
    }
}

/// What a journal says, and the length of what can be read of it.
fn read(text: &str, from: &str, to: &str) -> Result<(State, usize), String> {
    let mut state = State::default();
    let mut length = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if !line.ends_with('\n') {
            break;
        }
        let value: Value = serde_json::from_str(line).map_err(|_| {
            format!("line {} is no JSON; it is not a journal, or damaged: name another file", number + 1)
        })?;
        if number == 0 {
            check_header(&value, from, to)?;
        } else {
            state.apply(&value);
        }
        length += line.len();
    }
    Ok((state, length))
}

fn check_header(header: &Value, from: &str, to: &str) -> Result<(), String> {
    let text = |name: &str| header[name].as_str().unwrap_or_default();
    if header["v"] != 1 {
        return Err("it is no journal of a redrive, or one of another version; name another file".to_owned());
    }
    if (text("from"), text("to")) != (from, to) {
        return Err(format!(
            "it is of a redrive from {} to {}, not of this one from {} to {}; name another file",
            queue_name(text("from")),
            queue_name(text("to")),
            queue_name(from),
            queue_name(to)
        ));
    }
    Ok(())
}

impl State {
    fn apply(&mut self, line: &Value) {
        // A run that goes on after the end of one before.
        self.finished = line["finished"] == true;
        let at_ms = line["at_ms"].as_u64().unwrap_or_default();
        let ids = |name: &str| -> BTreeSet<String> {
            line[name].as_array().into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)).collect()
        };
        for pair in line["received"].as_array().into_iter().flatten() {
            if let (Some(id), Some(handle)) = (pair[0].as_str(), pair[1].as_str()) {
                self.handles.insert(id.to_owned(), (handle.to_owned(), at_ms));
            }
        }
        for id in ids("intent") {
            self.fates.insert(id, Fate::Intended { at_ms });
        }
        for pair in line["sent"].as_array().into_iter().flatten() {
            if let (Some(id), Some(sent_as)) = (pair[0].as_str(), pair[1].as_str()) {
                self.fates.insert(id.to_owned(), Fate::Sent);
                self.sent_as.insert(sent_as.to_owned());
            }
        }
        for id in ids("unsent") {
            self.fates.remove(&id);
        }
        for id in ids("deleted") {
            self.handles.remove(&id);
            self.fates.insert(id, Fate::Deleted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::letter::tests::{PARKED, letter};
    use super::*;

    const FROM: &str = "http://h/0/orders-dlq";
    const TO: &str = "http://h/0/orders";

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("microbatch-journal-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn fates(journal: &Journal) -> Vec<Option<Fate>> {
        ["a", "b", "c", "d"].map(|id| journal.fate(id)).to_vec()
    }

    #[test]
    fn what_was_noted_is_known_again() {
        let folder = Folder::new("again");
        let mut journal = Journal::in_folder(&folder.0, FROM, TO, 1).expect("a folder");
        assert!(!journal.is_resumed);
        let letters = ["a", "b", "c", "d"].map(|id| letter(id, None, 0));
        journal.received(&letters, 5).expect("written");
        journal.intend(&["a", "b", "c", "d"], 6).expect("written");
        journal.answered(&[("a", "a-2".to_owned()), ("b", "m-0".to_owned())], &["d"]).expect("written");
        journal.deleted(&["b"]).expect("written");
        let expected = vec![Some(Fate::Sent), Some(Fate::Deleted), Some(Fate::Intended { at_ms: 6 }), None];
        assert_eq!(fates(&journal), expected);
        assert!(
            Journal::in_folder(&folder.0, FROM, TO, 2).expect_err("it is locked").message.contains("another redrive")
        );
        let path = journal.path().to_owned();
        drop(journal);

        // Killed in the middle of a line.
        let mut file = File::options().append(true).open(&path).expect("it is there");
        file.write_all(b"{\"sent\": [\"c\"").expect("written");
        drop(file);
        let mut journal = Journal::in_folder(&folder.0, FROM, TO, 2).expect("it goes on");
        assert!(journal.is_resumed && journal.path() == path);
        assert_eq!((fates(&journal), journal.sent()), (expected, 2));
        assert_eq!(journal.undeleted(), [("a".to_owned(), "r".to_owned())]);
        // Moved by the redrive policy it keeps its id, parked it names it.
        assert!(journal.is_back(&letter("a-2", None, 0)) && journal.is_back(&letter("x", Some(PARKED), 0)));
        assert!(!journal.is_back(&letter("a", None, 0)));
        assert_eq!(journal.hidden(6).len(), 2, "c and d");
        assert_eq!(journal.hidden(u64::MAX), [""; 0], "they are visible by now");
        journal.answered(&[("c", "c-2".to_owned())], &[]).expect("written");
        journal.finish().expect("written");
        drop(journal);
        let journal = Journal::in_folder(&folder.0, FROM, TO, 3).expect("a new one");
        assert!(!journal.is_resumed && journal.path() != path);
        drop(journal);
        assert_eq!(Journal::open(&path, FROM, TO).expect("by its name").fate("c"), Some(Fate::Sent));
    }

    #[test]
    fn what_is_no_journal_of_these_queues_is_refused() {
        let folder = Folder::new("refused");
        fs::create_dir_all(&folder.0).expect("a folder");
        let path = folder.0.join("j");
        for (text, words) in [
            ("no JSON\n", "line 1 is no JSON"),
            ("{\"a\": 1}\n", "no journal of a redrive"),
            ("{\"v\":1,\"from\":\"http://h/0/x-dlq\",\"to\":\"http://h/0/x\"}\n", "from x-dlq to x, not of this one"),
            (
                "{\"v\":1,\"from\":\"http://h/0/orders-dlq\",\"to\":\"http://h/0/orders\"}\ncanary\n",
                "line 2 is no JSON",
            ),
        ] {
            fs::write(&path, text).expect("written");
            let failure = Journal::open(&path, FROM, TO).expect_err(text);
            assert!(failure.message.contains(words) && !failure.message.contains("canary"), "{}", failure.message);
        }
        let failure = Journal::open(&folder.0, FROM, TO).expect_err("a folder");
        assert!(failure.message.contains("cannot be used"));
    }

    #[test]
    fn only_a_fifo_queue_drops_a_repetition_and_not_for_ever() {
        assert!(Journal::is_dropped(0, DROPPED_MS - 1, true));
        assert!(!Journal::is_dropped(0, DROPPED_MS, true));
        assert!(!Journal::is_dropped(0, 0, false));
    }
}
