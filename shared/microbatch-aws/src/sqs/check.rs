//! Whether the queues are there and of one kind, looked at before the first message.

use aws_sdk_sqs::{
    error::{ProvideErrorMetadata, SdkError},
    operation::get_queue_attributes::GetQueueAttributesError,
    types::QueueAttributeName,
};
use microbatch::config::Problem;

use super::{
    error::short_code,
    queue::SqsQueue,
    rules::{is_fifo, queue_name},
};

/// The setting that a problem with the source queue is told of.
const SOURCE: &str = "MICROBATCH_QUEUE_URL";
/// The setting that a problem with the park queue is told of.
const PARK: &str = "MICROBATCH_PARK_QUEUE_URL";

/// What is known of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// There is one.
    There { fifo: bool },
    /// There is none, or none that this role may see.
    Missing,
    /// It may not be read, or was not: that says nothing.
    Unknown,
}

impl SqsQueue {
    /// Looks whether the park queue exists and is FIFO exactly if the source queue is, and for delays whether the source
    /// queue exists.
    ///
    /// That attributes may not be read is logged as a warning, since they are needed for nothing else; a failure that may
    /// pass is ignored.
    ///
    /// # Errors
    /// Everything that is definitely wrong, at once, each named after the setting of the Lambda host.
    pub async fn check(&self) -> Result<(), Vec<Problem>> {
        let source = async { if self.delays { self.find(&self.source_url).await } else { Found::Unknown } };
        let park = async {
            match &self.park_url {
                Some(url) => self.find(url).await,
                None => Found::Unknown,
            }
        };
        let (source, park) = tokio::join!(source, park);
        let problems = problems(&self.source_url, source, self.park_url.as_deref().map(|url| (url, park)));
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    async fn find(&self, url: &str) -> Found {
        // All of them: to ask a standard queue for FifoQueue alone is an error.
        let request = self.client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
        match request.send().await {
            Ok(output) => {
                let fifo = output.attributes().and_then(|all| all.get(&QueueAttributeName::FifoQueue));
                Found::There { fifo: fifo.is_some_and(|fifo| fifo == "true") }
            }
            Err(error) => found_by_error(queue_name(url), &error),
        }
    }
}

fn found_by_error(name: &str, error: &SdkError<GetQueueAttributesError>) -> Found {
    let Some(code) = error.as_service_error().and_then(ProvideErrorMetadata::code) else { return Found::Unknown };
    match short_code(code) {
        "NonExistentQueue" | "QueueDoesNotExist" | "InvalidAddress" => Found::Missing,
        "AccessDenied" | "AccessDeniedException" => {
            tracing::warn!(
                target: "microbatch::init",
                queue = name,
                "the queue was not checked: the function's role lacks sqs:GetQueueAttributes on it"
            );
            Found::Unknown
        }
        _ => Found::Unknown,
    }
}

fn problems(source_url: &str, source: Found, park: Option<(&str, Found)>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let source_fifo = match source {
        Found::There { fifo } => fifo,
        _ => is_fifo(source_url),
    };
    if source == Found::Missing {
        problems.push(missing(SOURCE, source_url, source_fifo));
    }
    let Some((park_url, park)) = park else { return problems };
    let (source_name, park_name) = (queue_name(source_url), queue_name(park_url));
    if park_url == source_url {
        let what =
            format!("expected another queue than {SOURCE}, found the same, {park_name:?}: name its dead-letter queue");
        problems.push(Problem { setting: PARK, what });
        return problems;
    }
    if park == Found::Missing {
        problems.push(missing(PARK, park_url, source_fifo));
    }
    let park_fifo = match park {
        Found::There { fifo } => fifo,
        _ => is_fifo(park_url),
    };
    if park_fifo != source_fifo {
        let kind = |fifo| if fifo { "a FIFO queue" } else { "a standard queue" };
        let what = format!(
            "expected {} like {source_name:?}, found that {park_name:?} is {}: SQS wants a dead-letter queue to be of its \
             source's kind",
            kind(source_fifo),
            kind(park_fifo)
        );
        problems.push(Problem { setting: PARK, what });
    }
    problems
}

fn missing(setting: &'static str, url: &str, fifo: bool) -> Problem {
    let name = queue_name(url);
    let attributes = if fifo { " --attributes FifoQueue=true" } else { "" };
    let what = format!(
        "names the queue {name:?}, which does not exist in the client's region, or is not this role's to see; create it: \
         aws sqs create-queue --queue-name {name}{attributes}"
    );
    Problem { setting, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDARD: Found = Found::There { fifo: false };
    const FIFO: Found = Found::There { fifo: true };

    fn told(source: (&str, Found), park: (&str, Found)) -> Vec<String> {
        let problems = problems(source.0, source.1, Some(park));
        problems.into_iter().map(|problem| format!("{}: {}", problem.setting, problem.what)).collect()
    }

    #[test]
    fn queues_of_one_kind_that_are_there_or_not_looked_at_are_right() {
        for (source, park) in [
            (("q/a", STANDARD), ("q/b", STANDARD)),
            (("q/a", Found::Unknown), ("q/b", Found::Unknown)),
            (("q/a.fifo", FIFO), ("q/b.fifo", FIFO)),
            (("q/a.fifo", Found::Unknown), ("q/b.fifo", FIFO)),
        ] {
            assert_eq!(told(source, park), [""; 0]);
        }
        assert!(problems("q/a", Found::Unknown, None).is_empty());
    }

    #[test]
    fn a_missing_queue_of_the_wrong_kind_is_told_with_both() {
        let told =
            told(("http://user:secret@h/1/a.fifo", Found::Missing), ("http://user:secret@h/1/b", Found::Missing));
        assert_eq!(told.len(), 3, "{told:#?}");
        assert!(told[0].starts_with("MICROBATCH_QUEUE_URL: names the queue \"a.fifo\""));
        assert!(told[1].starts_with("MICROBATCH_PARK_QUEUE_URL: names the queue \"b\""));
        assert!(told[1].ends_with("aws sqs create-queue --queue-name b --attributes FifoQueue=true"));
        assert!(told[2].contains("expected a FIFO queue like \"a.fifo\", found that \"b\" is a standard queue"));
        assert!(told.iter().all(|told| !told.contains("secret")), "P13: {told:#?}");
    }

    #[test]
    fn what_a_queue_says_counts_more_than_its_name() {
        assert_eq!(told(("q/a", Found::Unknown), ("q/b", FIFO)).len(), 1);
        assert_eq!(told(("q/a", FIFO), ("q/b", STANDARD)).len(), 1);
    }

    #[test]
    fn a_queue_is_not_its_own_dead_letter_queue() {
        let told = told(("q/a", STANDARD), ("q/a", STANDARD));
        assert!(told.len() == 1 && told[0].contains("found the same, \"a\""), "{told:#?}");
    }
}
