//! A function's process: started with a clean environment, watched, killed when its time is over.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use tokio::io::AsyncRead;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::environment;
use crate::items;
use crate::lines::read_lines;
use crate::runtime_api::{FunctionError, InvocationResult, InvokeError, RuntimeApi};

/// How many of the last lines of each stream are kept for an error message.
const TAIL_LINES: usize = 20;

/// How long a process that posted an init error may take to exit by itself.
const INIT_ERROR_GRACE: Duration = Duration::from_secs(2);

/// How long after a process's end its pipes may stay open: a child of its own may hold them. Long enough to read what they
/// hold, short enough to go unnoticed.
const PIPE_GRACE: Duration = Duration::from_millis(500);

/// A stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Receives every line that a function prints, without its line end. Called from the tasks that read the pipes: a slow sink
/// slows the function.
pub type LogSink = Arc<dyn Fn(LogStream, &str) + Send + Sync>;

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionSpec {
    /// The function's name, as its environment and ARN show it.
    pub name: String,
    /// The binary.
    pub program: PathBuf,
    /// Variables beside those of the Runtime API; see [`environment`].
    pub env: BTreeMap<String, String>,
}

/// The process could not be started.
#[derive(Debug)]
pub enum StartError {
    /// The Runtime API could not listen.
    RuntimeApi(std::io::Error),
    /// The binary could not be executed.
    Spawn {
        /// The binary.
        program: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RuntimeApi(error) => write!(f, "the Lambda Runtime API cannot listen on 127.0.0.1: {error}"),
            Self::Spawn { program, error } => {
                write!(
                    f,
                    "{} cannot be started: {error}; expected an executable built for this machine",
                    program.display()
                )
            }
        }
    }
}

impl std::error::Error for StartError {}

/// When in its life a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before it asked for an event.
    Init,
    /// Afterwards.
    Invocation,
}

/// Why an invocation brought neither a response nor a function error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FunctionFailure {
    /// The process posted an init error.
    Init(FunctionError),
    /// The process ended.
    Died {
        /// How: by an exit code or a signal.
        status: ExitStatus,
        /// When.
        phase: Phase,
    },
    /// No answer in time (the process was killed, as Lambda does), or the event was refused.
    Invoke(InvokeError),
}

impl fmt::Display for FunctionFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init(error) => write!(f, "the function failed in its init: {}: {}", error.error_type, error.message),
            Self::Died { status, phase: Phase::Init } => {
                write!(f, "the function died before it asked for an event ({status})")
            }
            Self::Died { status, phase: Phase::Invocation } => {
                write!(f, "the function died before it answered ({status})")
            }
            Self::Invoke(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FunctionFailure {}

/// A running function: one process with a Runtime API of its own. The process is killed when this is dropped.
pub struct Function {
    spec: FunctionSpec,
    sink: LogSink,
    process: Process,
}

struct Process {
    api: RuntimeApi,
    id: Option<u32>,
    /// Raised or dropped, it kills the process.
    kill: watch::Sender<bool>,
    /// Set once the process has ended and the last of its output is with the sink.
    exited: watch::Receiver<Option<ExitStatus>>,
    tails: Arc<Tails>,
}

impl Function {
    /// Starts the process. It does not wait for the init: that is part of the first invocation.
    pub async fn start(spec: FunctionSpec, sink: LogSink) -> Result<Self, StartError> {
        let process = Process::start(&spec, &sink).await?;
        Ok(Self { spec, sink, process })
    }

    /// Hands an event to the function and waits for the answer, at most `timeout` from the moment the function takes it.
    ///
    /// A process that misses the deadline is killed before this returns, and with it every other invocation in flight; so is
    /// one that failed in its init. [`Function::restart`] brings a new one.
    pub async fn invoke(&self, event: Bytes, timeout: Duration) -> Result<InvocationResult, FunctionFailure> {
        let process = &self.process;
        let failure = tokio::select! {
            // An answer that was posted before the end counts.
            biased;
            result = process.api.invoke(event, timeout) => match result {
                Ok(result) => return Ok(result),
                Err(error @ InvokeError::EventTooLarge { .. }) => return Err(FunctionFailure::Invoke(error)),
                Err(error) => FunctionFailure::Invoke(error),
            },
            error = process.api.init_failed() => {
                let _ = tokio::time::timeout(INIT_ERROR_GRACE, process.exit_status()).await;
                FunctionFailure::Init(error)
            }
            status = process.exit_status() => match process.api.init_error() {
                Some(error) => FunctionFailure::Init(error),
                None => FunctionFailure::Died { status, phase: process.phase() },
            },
        };
        process.stop().await;
        Err(failure)
    }

    /// Kills the process, waits for its end, and for the last of its output to reach the sink.
    pub async fn stop(&self) -> Option<ExitStatus> {
        self.process.stop().await
    }

    /// Stops the process, if it still runs, and starts a new one with a Runtime API of its own.
    pub async fn restart(&mut self) -> Result<(), StartError> {
        self.stop().await;
        self.process = Process::start(&self.spec, &self.sink).await?;
        Ok(())
    }

    /// How the process ended; `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.process.exited.borrow()
    }

    /// The process's id; `None` if it had ended before it could be read.
    pub fn process_id(&self) -> Option<u32> {
        self.process.id
    }

    /// The peak resident size so far in KiB, while the process is alive; `None` afterwards and where there is no `/proc`.
    pub fn peak_resident_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id?)).ok()?;
        vm_hwm_kib(&status)
    }

    /// The last lines that the process printed on a stream, at most twenty, oldest first. Lines that report items are left out.
    pub fn last_lines(&self, stream: LogStream) -> Vec<String> {
        self.process.tails.of(stream).iter().cloned().collect()
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function")
            .field("spec", &self.spec)
            .field("process_id", &self.process.id)
            .finish_non_exhaustive()
    }
}

impl Process {
    async fn start(spec: &FunctionSpec, sink: &LogSink) -> Result<Self, StartError> {
        let api = RuntimeApi::start(&environment::function_arn(&spec.name)).await.map_err(StartError::RuntimeApi)?;
        let mut command = Command::new(&spec.program);
        command
            .env_clear()
            .envs(environment::inherited())
            .envs(environment::runtime(&spec.name, api.address()))
            .envs(&spec.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // A group of its own: a terminal's Ctrl-C is for whoever runs the function, who lets it finish.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| StartError::Spawn { program: spec.program.clone(), error })?;
        let tails = Arc::new(Tails::default());
        let stdout = forward(child.stdout.take(), LogStream::Stdout, Arc::clone(&tails), Arc::clone(sink));
        let stderr = forward(child.stderr.take(), LogStream::Stderr, Arc::clone(&tails), Arc::clone(sink));
        let pipes = tokio::spawn(async move {
            tokio::join!(stdout, stderr);
        });
        let id = child.id();
        let (kill, killed) = watch::channel(false);
        let (exit, exited) = watch::channel(None);
        tokio::spawn(watch_over(child, pipes, killed, exit));
        Ok(Self { api, id, kill, exited, tails })
    }

    async fn exit_status(&self) -> ExitStatus {
        let mut exited = self.exited.clone();
        match exited.wait_for(Option::is_some).await.map(|status| *status) {
            Ok(Some(status)) => status,
            // The watching task ends without a status only when the whole runtime does.
            _ => std::future::pending().await,
        }
    }

    fn phase(&self) -> Phase {
        if self.api.asked() { Phase::Invocation } else { Phase::Init }
    }

    async fn stop(&self) -> Option<ExitStatus> {
        self.kill.send_replace(true);
        self.exited.clone().wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }
}

/// Owns the child until its end, so that waiting and killing need no lock.
async fn watch_over(
    mut child: Child,
    pipes: JoinHandle<()>,
    mut killed: watch::Receiver<bool>,
    exit: watch::Sender<Option<ExitStatus>>,
) {
    let by_itself = tokio::select! {
        status = child.wait() => status.ok(),
        // An error means that the function was dropped: that kills as well.
        _ = killed.wait_for(|&killed| killed) => None,
    };
    let status = if by_itself.is_some() {
        by_itself
    } else {
        // It fails only if the process has ended already.
        let _ = child.start_kill();
        child.wait().await.ok()
    };
    let abort = pipes.abort_handle();
    if timeout(PIPE_GRACE, pipes).await.is_err() {
        abort.abort();
    }
    exit.send_replace(status);
}

async fn forward<R: AsyncRead + Unpin>(pipe: Option<R>, stream: LogStream, tails: Arc<Tails>, sink: LogSink) {
    if let Some(pipe) = pipe {
        read_lines(pipe, |line| {
            tails.keep(stream, line);
            sink(stream, line);
        })
        .await;
    }
}

#[derive(Default)]
struct Tails {
    stdout: Mutex<VecDeque<String>>,
    stderr: Mutex<VecDeque<String>>,
}

impl Tails {
    fn of(&self, stream: LogStream) -> MutexGuard<'_, VecDeque<String>> {
        let tail = match stream {
            LogStream::Stdout => &self.stdout,
            LogStream::Stderr => &self.stderr,
        };
        tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, stream: LogStream, line: &str) {
        if line.trim().is_empty() || items::parse(line) != items::LogLine::Other {
            return;
        }
        let mut tail = self.of(stream);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line.to_owned());
    }
}

/// The `VmHWM` line of `/proc/PID/status`; proc(5) gives it in kB of 1,024 bytes.
fn vm_hwm_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_proc() {
        assert_eq!(vm_hwm_kib("Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t   17344 kB\n"), Some(17_344));
        assert_eq!(vm_hwm_kib("Name:\tx\n"), None);
    }

    #[test]
    fn the_tail_is_bounded_and_without_item_lines() {
        let tails = Tails::default();
        for n in 0..50 {
            tails.keep(LogStream::Stderr, &format!("line {n}"));
            tails.keep(LogStream::Stdout, r#"{"target":"microbatch::item","index":0,"outcome":"Processed"}"#);
        }
        assert_eq!(tails.of(LogStream::Stderr).len(), TAIL_LINES);
        assert_eq!(tails.of(LogStream::Stderr).back().map(String::as_str), Some("line 49"));
        assert!(tails.of(LogStream::Stdout).is_empty());
    }
}
