//! The processor time of a process, with all threads that it has or had.

use std::time::Duration;

use microbatch_aws::lambda::BoxError;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use tokio::time::sleep;

/// A thread that runs on is accounted at the next clock tick, 10 ms later at most; one that stops, at once.
const ACCOUNTED_AFTER: Duration = Duration::from_millis(15);

/// What this process has used.
pub(crate) async fn own_time() -> Result<Duration, BoxError> {
    time_of(std::process::id()).await
}

/// What a process has used, once all of it is accounted: by then it has stopped, if it has nothing to do.
pub(crate) async fn time_of(process_id: u32) -> Result<Duration, BoxError> {
    sleep(ACCOUNTED_AFTER).await;
    let time = || -> nix::Result<Duration> {
        let process_id = Pid::from_raw(i32::try_from(process_id).map_err(|_| nix::Error::ESRCH)?);
        Ok(clock_getcpuclockid(process_id)?.now()?.into())
    };
    Ok(time().map_err(|error| format!("the processor time of process {process_id} cannot be read: {error}"))?)
}

#[cfg(test)]
mod tests {
    use nix::time::ClockId;

    use super::*;

    #[tokio::test]
    async fn work_takes_processor_time_and_waiting_does_not() {
        let before = own_time().await.expect("a clock");
        let idle = own_time().await.expect("a clock");
        let mut sum = 0_u64;
        while time_now() < idle + Duration::from_millis(50) {
            sum = sum.wrapping_add(std::hint::black_box(sum) | 1);
        }
        let worked = own_time().await.expect("a clock");
        assert!(worked >= idle + Duration::from_millis(50), "{worked:?} after {idle:?}");
        assert!(idle >= before, "{idle:?} after {before:?}");
    }

    fn time_now() -> Duration {
        ClockId::CLOCK_PROCESS_CPUTIME_ID.now().expect("a clock").into()
    }
}
