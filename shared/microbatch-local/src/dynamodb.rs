//! A `DynamoDB` inside this process: dynoxide, in memory or in a folder.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dynoxide::Database;
use dynoxide::server::serve_with_shutdown;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The database's file in a state folder.
const DATABASE_FILE: &str = "dynamodb.sqlite";
/// The lock in a state folder. The system drops it with its process, however that ends.
const LOCK_FILE: &str = "lock";

/// How long [`EmbeddedDynamoDb::stop`] waits for requests that are still running.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Why there is no `DynamoDB`.
#[derive(Debug)]
pub enum DynamoDbError {
    /// The state folder, or a file in it, cannot be used.
    State {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// The path is a file, or a folder of other things, where a lock and a database would be litter.
    NotState {
        /// The path.
        path: PathBuf,
    },
    /// Another process uses the state folder.
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The other process's id, if it could be read.
        holder: Option<u32>,
    },
    /// The database does not open.
    Open {
        /// Where it is; `None` in memory.
        path: Option<PathBuf>,
        /// The database's reason.
        reason: String,
    },
    /// No port on the loopback.
    Listen(io::Error),
}

impl fmt::Display for DynamoDbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State { path, error } => {
                write!(
                    f,
                    "{} cannot be used to keep the tables: {error}; expected a folder that can be written to",
                    path.display()
                )
            }
            Self::NotState { path } => {
                let what = if path.is_dir() { "holds files, but no tables of an earlier run" } else { "is no folder" };
                write!(
                    f,
                    "{} {what}; expected a state folder, an empty folder, or a name that is still free",
                    path.display()
                )
            }
            Self::Locked { folder, holder } => {
                write!(f, "the tables in {} are in use by another run", folder.display())?;
                if let Some(holder) = holder {
                    write!(f, " (process {holder})")?;
                }
                f.write_str("; wait for its end, or name another folder")
            }
            Self::Open { path: Some(path), reason } => write!(
                f,
                "{} does not open as a DynamoDB of an earlier run: {reason}; remove the file to start anew",
                path.display()
            ),
            Self::Open { path: None, reason } => {
                write!(f, "the DynamoDB in memory does not open: {reason}")
            }
            Self::Listen(error) => write!(f, "the DynamoDB cannot listen on 127.0.0.1: {error}"),
        }
    }
}

impl std::error::Error for DynamoDbError {}

/// A `DynamoDB` that listens on a free port of 127.0.0.1 until it is stopped or dropped.
pub struct EmbeddedDynamoDb {
    address: SocketAddr,
    database: Database,
    shutdown: Option<oneshot::Sender<()>>,
    server: JoinHandle<Result<(), String>>,
    lock: Option<File>,
}

impl fmt::Debug for EmbeddedDynamoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedDynamoDb").field("address", &self.address).finish_non_exhaustive()
    }
}

impl EmbeddedDynamoDb {
    /// Starts one in memory, or with its tables kept in the folder `state`, which is made if it does not exist, and
    /// refused if it is no such folder and not empty.
    pub async fn start(state: Option<&Path>) -> Result<Self, DynamoDbError> {
        let (database, lock) = match state {
            None => (
                Database::memory().map_err(|error| DynamoDbError::Open { path: None, reason: error.to_string() })?,
                None,
            ),
            Some(folder) => {
                let lock = lock_folder(folder)?;
                (open(&folder.join(DATABASE_FILE))?, Some(lock))
            }
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(DynamoDbError::Listen)?;
        let address = listener.local_addr().map_err(DynamoDbError::Listen)?;
        let (shutdown, stopped) = oneshot::channel();
        let server = tokio::spawn(serve_with_shutdown(listener, database.clone(), async {
            // Sent or dropped: both end the server.
            let _ = stopped.await;
        }));
        Ok(Self { address, database, shutdown: Some(shutdown), server, lock })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The value of `AWS_ENDPOINT_URL_DYNAMODB`.
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Forgets all tables, and the tokens of transactions, which it would otherwise keep for ten minutes and look through at each.
    ///
    /// # Errors
    /// When the system's folder for temporary files cannot be written to, or an empty database there does not open.
    pub fn clear(&self) -> Result<(), DynamoDbError> {
        // Its port is nobody else's.
        let folder = std::env::temp_dir().join(format!("microbatch-empty-{}", self.address.port()));
        std::fs::create_dir(&folder).map_err(|error| DynamoDbError::State { path: folder.clone(), error })?;
        let path = folder.join(DATABASE_FILE);
        let file = path.to_string_lossy();
        let cleared = Database::memory()
            .and_then(|empty| empty.vacuum_into(&file))
            .and_then(|()| self.database.restore_from(&file))
            .map_err(|error| DynamoDbError::Open { path: Some(path.clone()), reason: error.to_string() });
        // What stays there is only litter.
        let _ = std::fs::remove_dir_all(&folder);
        cleared
    }

    /// Stops it and frees the state folder. Requests that still run get two seconds.
    pub async fn stop(mut self) {
        drop(self.shutdown.take());
        // What is committed is on disk already; a request cut off is one that nobody waits for.
        let _ = timeout(STOP_GRACE, &mut self.server).await;
        drop(self.lock.take());
    }
}

fn open(path: &Path) -> Result<Database, DynamoDbError> {
    let failed = |reason: String| DynamoDbError::Open { path: Some(path.to_owned()), reason };
    let text = path.to_str().ok_or_else(|| failed("its path is no UTF-8".to_owned()))?;
    Database::new(text).map_err(|error| failed(error.to_string()))
}

/// Whether the folder is missing, empty, or of an earlier run. A run that ended early leaves a lock alone.
fn is_free_or_ours(folder: &Path) -> io::Result<bool> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(false),
        Err(error) => return Err(error),
    };
    let names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    Ok(names.iter().any(|name| name == DATABASE_FILE) || names.iter().all(|name| name == LOCK_FILE))
}

fn lock_folder(folder: &Path) -> Result<File, DynamoDbError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| DynamoDbError::State { path, error }
    };
    if !is_free_or_ours(folder).map_err(failed(folder))? {
        return Err(DynamoDbError::NotState { path: folder.to_owned() });
    }
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    let path = folder.join(LOCK_FILE);
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only for the message: a holder that cannot be read is left out.
            let _ = file.read_to_string(&mut holder);
            return Err(DynamoDbError::Locked { folder: folder.to_owned(), holder: holder.trim().parse().ok() });
        }
        Err(TryLockError::Error(error)) => return Err(failed(&path)(error)),
    }
    file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(failed(&path))?;
    Ok(file)
}
