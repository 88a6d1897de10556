//! Moving a whole queue by SQS itself: a message move task, where the service has them.

use std::time::Duration;

use aws_sdk_sqs::error::ProvideErrorMetadata;
use microbatch_aws::sqs::queue_name;

use crate::exit::{Exit, Failure};
use crate::operate::place::Place;
use crate::operate::stop::Stop;
use crate::terminal;
use crate::up::sqs::{arn, reason};

/// Most messages a second that a task takes.
const RATE_MAX: u32 = 500;
/// How often its progress is asked for.
const POLL: Duration = Duration::from_secs(2);
/// What servers answer that have no such tasks, or none for this queue.
const UNSUPPORTED: [&str; 9] = [
    "UnsupportedOperation",
    "AWS.SimpleQueueService.UnsupportedOperation",
    "InvalidAction",
    "AWS.SimpleQueueService.InvalidAction",
    "UnknownOperationException",
    "UnknownOperation",
    "UnknownAction",
    "InternalFailure",
    "NotImplemented",
];

/// Moves all messages; none where the service cannot.
pub(super) async fn run(place: &Place, to: &str, rate: u32, stop: &Stop) -> Result<Option<Exit>, Failure> {
    let client = &place.sqs.client;
    let failed = |what: &str, why: &str| Failure::environment(format!("the message move task {what}: {why}"));
    let from_arn = arn(client, &place.url).await.map_err(|why| failed("cannot be started", &why))?;
    let to_arn = arn(client, to).await.map_err(|why| failed("cannot be started", &why))?;
    let request = client
        .start_message_move_task()
        .source_arn(&from_arn)
        .destination_arn(to_arn)
        .max_number_of_messages_per_second(i32::try_from(rate.min(RATE_MAX)).unwrap_or(1));
    let handle = match request.send().await {
        Ok(started) => started.task_handle,
        Err(error) if error.code().is_some_and(|code| UNSUPPORTED.contains(&code)) => return Ok(None),
        Err(error) => {
            let hint = "; --one-by-one does without";
            return Err(failed("cannot be started", &format!("{}{hint}", reason(&error))));
        }
    };
    let (from, to) = (place.name(), queue_name(to));
    terminal::line(&format!(
        "SQS moves all messages of {from} to {to} by a message move task, {} a second",
        rate.min(RATE_MAX)
    ));
    loop {
        stop.sleep(POLL).await;
        if let Some(exit) = stop.heard() {
            let cancelled = client.cancel_message_move_task().set_task_handle(handle).send().await;
            cancelled.map_err(|error| failed("cannot be cancelled, and goes on", &reason(&error)))?;
            terminal::line("the task is cancelled; the same command moves the rest");
            return Ok(Some(exit));
        }
        let listed = client.list_message_move_tasks().source_arn(&from_arn).max_results(1).send().await;
        let listed = listed.map_err(|error| failed("cannot be watched, and goes on", &reason(&error)))?;
        let Some(task) = listed.results().first() else { continue };
        let moved = task.approximate_number_of_messages_moved();
        let of = task.approximate_number_of_messages_to_move().map_or_else(String::new, |of| format!(" of about {of}"));
        terminal::line(&format!("moved about {moved}{of}"));
        match task.status() {
            Some("COMPLETED") => return Ok(Some(Exit::Done)),
            Some(status @ ("FAILED" | "CANCELLED")) => {
                let why = task.failure_reason().unwrap_or("SQS does not say why");
                return Err(failed(&format!("ended as {status}"), &terminal::tame(why, 200)));
            }
            _ => {}
        }
    }
}
