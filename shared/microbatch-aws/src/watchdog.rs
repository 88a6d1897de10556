//! Warns of items that block their thread, which nothing can cancel.

use std::{thread, time::Duration};

use microbatch::{Commit, Pipeline, Processor};

/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long an item may keep its thread before it is named, in milliseconds.
const BLOCKING_MS: u64 = 500;

/// Looks at the pipeline from a thread of its own, as long as the process lives. Without a thread to be had, nobody is
/// warned, and nothing else is lost.
pub(crate) fn spawn<P: Processor, S: Commit<P::Write>>(pipeline: Pipeline<P, S>) {
    let watch = move || {
        let mut named = Vec::new();
        loop {
            thread::sleep(INTERVAL);
            let blocking = pipeline.blocking(BLOCKING_MS);
            for item in blocking.iter().filter(|item| !named.contains(*item)) {
                tracing::warn!(
                    target: "microbatch::watchdog",
                    batch_id = &*item.batch_id,
                    index = item.index,
                    blocking_ms = BLOCKING_MS,
                    "an item keeps its thread: it can be neither cancelled nor timed out, and others wait behind it; \
                     await instead, or use spawn_blocking"
                );
            }
            named = blocking;
        }
    };
    let _thread = thread::Builder::new().name("microbatch-watchdog".into()).stack_size(64 * 1024).spawn(watch);
}
