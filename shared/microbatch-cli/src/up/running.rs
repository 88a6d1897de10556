//! How `microbatch send` and the operator's commands find the stack that `microbatch up` runs: a file that is there as long as it runs.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::exit::Failure;

const FILE: &str = "up.json";
/// Held by `up`. The system drops it with its process, however that ends.
const LOCK_FILE: &str = "up.lock";
/// The file that cargo leaves in the root of every target folder.
const TARGET_TAG: &str = "CACHEDIR.TAG";

/// Where the parts of a running stack are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    pub(crate) pid: u32,
    pub(crate) sqs: String,
    pub(crate) dynamodb: String,
    /// By the function's name.
    pub(crate) functions: BTreeMap<String, Part>,
}

/// A function of the stack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) queues: Queues,
    /// Its variables that say where in which table a record stands, and how keys are made.
    pub(crate) settings: BTreeMap<String, String>,
}

/// The URLs of a function's queues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Queues {
    pub(crate) source: String,
    pub(crate) dead_letters: Option<String>,
}

/// Cargo's target folder: the one that this program runs from, else that of the workspace.
pub(crate) fn target_dir(root: Option<&Path>) -> Option<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let own = program.ancestors().find(|folder| folder.join(TARGET_TAG).is_file()).map(Path::to_owned);
    own.or_else(|| Some(root?.join("target")))
}

/// The folder of the stack's file: the state folder, or one in the target folder.
pub(crate) fn folder(state: Option<&Path>, target_dir: Option<&Path>) -> Result<PathBuf, Failure> {
    match (state, target_dir) {
        (Some(state), _) => Ok(state.to_owned()),
        (None, Some(target_dir)) => Ok(target_dir.join("microbatch")),
        (None, None) => {
            Err(Failure::usage("no cargo workspace here, and so no target folder; name a folder by --state DIR"))
        }
    }
}

/// The right to run a stack in a folder; its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    folder: PathBuf,
    _lock: File,
}

impl Claim {
    /// Takes the folder, which is made if it does not exist; fails where another stack runs.
    pub(crate) fn take(folder: &Path) -> Result<Self, Failure> {
        let unusable = |error: io::Error| Failure::environment(format!("{} cannot be used: {error}", folder.display()));
        fs::create_dir_all(folder).map_err(unusable)?;
        let lock = open(folder).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder: folder.to_owned(), _lock: lock }),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
            Err(TryLockError::WouldBlock) => {
                let holder = read(folder).map_or_else(String::new, |stack| format!(" (process {})", stack.pid));
                Err(Failure::environment(format!(
                    "a stack of this folder runs already{holder}; stop it by Ctrl-C, or name another folder by --state DIR"
                )))
            }
        }
    }

    /// Tells others where the stack is.
    pub(crate) fn publish(&self, stack: &Whereabouts) -> Result<(), Failure> {
        let path = self.folder.join(FILE);
        let unusable = |error| Failure::environment(format!("{} cannot be written: {error}", path.display()));
        // Written beside and renamed: nobody reads half of it.
        let draft = path.with_extension("new");
        fs::write(&draft, stack.to_json().to_string()).and_then(|()| fs::rename(&draft, &path)).map_err(unusable)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // One that is left is known to be stale by its lock.
        let _ = fs::remove_file(self.folder.join(FILE));
    }
}

/// Finds the stack that runs in a folder.
pub(crate) fn find(folder: &Path) -> Result<Whereabouts, Failure> {
    let runs = File::open(folder.join(LOCK_FILE))
        .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)));
    read(folder).filter(|_| runs).ok_or_else(|| {
        let what = if runs { "the stack is still starting" } else { "no stack runs" };
        Failure::environment(format!(
            "{what} ({} looked at); start one by `microbatch up` (in a checkout `cargo local up`) and wait for its queues; if \
             it was given a --state DIR, give the same here",
            folder.join(FILE).display()
        ))
    })
}

fn open(folder: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(folder.join(LOCK_FILE))
}

fn read(folder: &Path) -> Option<Whereabouts> {
    Whereabouts::from_json(&serde_json::from_slice(&fs::read(folder.join(FILE)).ok()?).ok()?)
}

impl Whereabouts {
    fn to_json(&self) -> Value {
        let functions: serde_json::Map<String, Value> = self
            .functions
            .iter()
            .map(|(name, Part { queues, settings })| {
                let part = json!({"queue": queues.source, "dead_letters": queues.dead_letters, "settings": settings});
                (name.clone(), part)
            })
            .collect();
        json!({"pid": self.pid, "sqs": self.sqs, "dynamodb": self.dynamodb, "functions": functions})
    }

    fn from_json(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let part = |value: &Value| {
            let queues = Queues {
                source: value["queue"].as_str()?.to_owned(),
                dead_letters: value["dead_letters"].as_str().map(str::to_owned),
            };
            let settings = value["settings"].as_object().into_iter().flatten();
            let settings = settings.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
            Some(Part { queues, settings: settings.collect::<Option<_>>()? })
        };
        let functions = value["functions"].as_object()?.iter();
        Some(Self {
            pid: u32::try_from(value["pid"].as_u64()?).ok()?,
            sqs: text("sqs")?,
            dynamodb: text("dynamodb")?,
            functions: functions.map(|(name, value)| Some((name.clone(), part(value)?))).collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_found_while_it_runs_and_only_then() {
        let folder = std::env::temp_dir().join(format!("microbatch-running-{}", std::process::id()));
        let part = |dead_letters: Option<&str>| Part {
            queues: Queues { source: "http://s".to_owned(), dead_letters: dead_letters.map(str::to_owned) },
            settings: BTreeMap::from([("MICROBATCH_TABLE".to_owned(), "t".to_owned())]),
        };
        let stack = Whereabouts {
            pid: 7,
            sqs: "http://a".to_owned(),
            dynamodb: "http://b".to_owned(),
            functions: BTreeMap::from([("f".to_owned(), part(None)), ("g".to_owned(), part(Some("http://d")))]),
        };
        assert!(find(&folder).expect_err("nothing there").message.starts_with("no stack runs"));
        let claim = Claim::take(&folder).expect("it is free");
        assert!(find(&folder).expect_err("nothing told").message.starts_with("the stack is still starting"));
        claim.publish(&stack).expect("it can be written");
        assert_eq!(find(&folder).expect("it runs"), stack);
        assert!(Claim::take(&folder).expect_err("it is taken").message.contains("(process 7)"));
        drop(claim);
        // What a process that was killed leaves.
        fs::write(folder.join(FILE), stack.to_json().to_string()).expect("it can be written");
        assert!(find(&folder).expect_err("it is stale").message.starts_with("no stack runs"));
        fs::remove_dir_all(&folder).expect("it can be removed");
    }
}
