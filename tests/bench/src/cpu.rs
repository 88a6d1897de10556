//! The processor time of this process.

use std::{fs, io, time::Duration};

use microbatch_aws::lambda::BoxError;
use tokio::time::sleep;

/// A thread that runs on is accounted at the next clock tick, 10 ms later at most; one that stops, at once.
const ACCOUNTED_AFTER: Duration = Duration::from_millis(15);

/// What this process's threads have used, once all of it is accounted. In nanoseconds, where `/proc/self/stat` has ticks.
pub(crate) async fn time() -> Result<Duration, BoxError> {
    // By then the workers have stopped, and so has this thread.
    sleep(ACCOUNTED_AFTER).await;
    let time = threads_time();
    Ok(time.map_err(|error| format!("/proc/self/task/*/schedstat, which Linux has, cannot be read: {error}"))?)
}

fn threads_time() -> io::Result<Duration> {
    let mut total = Duration::ZERO;
    for thread in fs::read_dir("/proc/self/task")? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        // Time on a processor, time waiting for one, number of slices (Documentation/scheduler/sched-stats.rst).
        let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok());
        total += nanoseconds.map(Duration::from_nanos).ok_or_else(|| io::Error::other("expected numbers"))?;
    }
    Ok(total)
}
