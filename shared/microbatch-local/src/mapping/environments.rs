//! The function's processes: one invocation at a time in each, as on Lambda; the one used last is used next.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;

use crate::function::{Function, FunctionFailure, FunctionSpec, LogSink, StartError};
use crate::runtime_api::{FunctionError, InvocationResult};

/// What an invocation brought.
#[derive(Debug)]
pub(super) enum Answer {
    /// The function's response.
    Response(Bytes),
    /// An error that it posted.
    Error(FunctionError),
    /// Neither: the process died or was killed.
    Failure(FunctionFailure),
    /// There was no process.
    NotStarted(StartError),
}

/// Processes that are started as they are needed. All are killed when this is dropped.
pub(super) struct Environments {
    timeout: Duration,
    sink: LogSink,
    pool: Mutex<Pool>,
}

struct Pool {
    spec: FunctionSpec,
    /// Counts the changes of `spec`: a process of an older one is not used again.
    version: u64,
    idle: Vec<Function>,
    /// The ids of the processes that an invocation runs in.
    busy: BTreeSet<u32>,
}

impl Environments {
    /// No process yet. An invocation may take `timeout`.
    pub(super) fn new(spec: FunctionSpec, timeout: Duration, sink: LogSink) -> Self {
        Self { timeout, sink, pool: Mutex::new(Pool { spec, version: 0, idle: Vec::new(), busy: BTreeSet::new() }) }
    }

    /// Runs another function, or another build of it, from the next invocation on.
    pub(super) fn deploy(&self, spec: FunctionSpec) {
        let idle = {
            let mut pool = self.pool();
            pool.spec = spec;
            pool.version += 1;
            std::mem::take(&mut pool.idle)
        };
        drop(idle);
    }

    /// Invokes the function in an idle process, or in a new one. A process that did not answer is not used again.
    pub(super) async fn invoke(&self, event: Bytes) -> Answer {
        let (version, function) = match self.take().await {
            Ok(taken) => taken,
            Err(error) => return Answer::NotStarted(error),
        };
        let id = function.process_id();
        self.pool().busy.extend(id);
        let answer = function.invoke(event, self.timeout).await;
        if let Some(id) = id {
            self.pool().busy.remove(&id);
        }
        match answer {
            Ok(InvocationResult::Response(response)) => {
                self.give_back(version, function);
                Answer::Response(response)
            }
            Ok(InvocationResult::FunctionError(error)) => {
                self.give_back(version, function);
                Answer::Error(error)
            }
            Err(failure) => Answer::Failure(failure),
        }
    }

    /// The ids of the processes, idle or not.
    pub(super) fn process_ids(&self) -> Vec<u32> {
        let pool = self.pool();
        pool.busy.iter().copied().chain(pool.idle.iter().filter_map(Function::process_id)).collect()
    }

    /// Ends the processes that are idle, and waits for the last of their output.
    pub(super) async fn stop(&self) {
        let idle = std::mem::take(&mut self.pool().idle);
        for function in idle {
            function.stop().await;
        }
    }

    async fn take(&self) -> Result<(u64, Function), StartError> {
        let (version, spec) = {
            let mut pool = self.pool();
            while let Some(function) = pool.idle.pop() {
                // One that ended while nothing ran in it is of no use.
                if function.exit_status().is_none() {
                    return Ok((pool.version, function));
                }
            }
            (pool.version, pool.spec.clone())
        };
        Ok((version, Function::start(spec, self.sink.clone()).await?))
    }

    fn give_back(&self, version: u64, function: Function) {
        let mut pool = self.pool();
        if pool.version == version {
            pool.idle.push(function);
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        // Each section changes it as a whole.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
