//! Queues and their dead-letter queues.

use super::super::found::Gap;
use super::super::model::{Allowed, Queue, Stack, Target, has_fifo_name, may_be_any};
use super::{Check, FINE, Judged, Problem, Rule, dead_letter_queue, redrive, seconds, when};

const DLQ_PAGE: &str = "Using dead-letter queues in Amazon SQS (Amazon SQS Developer Guide)";
const MAPPING_PAGE: &str = "Creating and configuring an Amazon SQS event source mapping (AWS Lambda Developer Guide)";

pub(super) const RULES: &[Rule] = &[
    Rule { id: "MB020", page: DLQ_PAGE, check: Check::Queue(no_dead_letter_queue) },
    Rule { id: "MB021", page: MAPPING_PAGE, check: Check::Queue(few_deliveries) },
    Rule { id: "MB022", page: DLQ_PAGE, check: Check::Queue(dead_letter_queue_of_other_kind) },
    Rule {
        id: "MB023",
        page: "Setting-up dead-letter queue retention in Amazon SQS (Amazon SQS Developer Guide)",
        check: Check::Queue(dead_letters_expire_early),
    },
    Rule { id: "MB024", page: DLQ_PAGE, check: Check::Queue(anyones_dead_letter_queue) },
    Rule { id: "MB025", page: DLQ_PAGE, check: Check::Queue(refused_by_dead_letter_queue) },
    Rule {
        id: "MB026",
        page: "Amazon SQS security best practices (Amazon SQS Developer Guide)",
        check: Check::Queue(not_tls_only),
    },
    Rule {
        id: "MB027",
        page: "Encryption at rest in Amazon SQS (Amazon SQS Developer Guide)",
        check: Check::Queue(not_encrypted),
    },
];

/// Fewest deliveries, by the page; and what microbatch's templates have.
const DELIVERIES_MIN: u64 = 5;
const DELIVERIES_USUAL: u64 = 10;
/// Longest retention of a queue.
const RETENTION_MAX_S: u64 = 1_209_600;

fn no_dead_letter_queue(stack: &Stack, queue: &Queue) -> Judged {
    let id = &queue.place.resource;
    let is_source = stack.sources.contains(id);
    // A function that looks at dead letters is usual, and a dead-letter queue of those is not.
    let is_redrive_target = |other: &Queue| {
        let redrive = other.redrive.value.as_ref().ok().and_then(Option::as_ref);
        redrive.is_some_and(|redrive| matches!(&redrive.target.value, Ok(Target::Here(target)) if target == id))
    };
    let is_dead_letter_queue = stack.queues.values().any(is_redrive_target);
    when(is_source && !is_dead_letter_queue && redrive(queue)?.is_none(), || {
        let found =
            "it has no RedrivePolicy: a message that cannot be processed comes back until it expires, and is lost";
        let fix = format!(
            "RedrivePolicy: {{ deadLetterTargetArn: !GetAtt DEAD_LETTER_QUEUE.Arn, maxReceiveCount: {DELIVERIES_USUAL} }}"
        );
        Problem::error(&queue.place, found.to_owned()).fix(&queue.place, fix)
    })
}

fn few_deliveries(stack: &Stack, queue: &Queue) -> Judged {
    if !stack.sources.contains(&queue.place.resource) {
        return FINE;
    }
    let Some(redrive) = redrive(queue)? else { return FINE };
    let count = redrive.max_receive_count.copied()?;
    when(count < DELIVERIES_MIN, || {
        let found = format!(
            "maxReceiveCount is {count}, less than {DELIVERIES_MIN}: throttled batches use up deliveries too, and healthy messages become \
             dead letters"
        );
        Problem::error(&redrive.max_receive_count.place, found)
            .fix(&queue.redrive.place, format!("maxReceiveCount: {DELIVERIES_USUAL}"))
    })
}

fn kind(is_fifo: bool) -> &'static str {
    if is_fifo { "a FIFO queue" } else { "a standard queue" }
}

fn dead_letter_queue_of_other_kind(stack: &Stack, queue: &Queue) -> Judged {
    let Some(redrive) = redrive(queue)? else { return FINE };
    let own = queue.is_fifo.copied()?;
    let (name, other) = match redrive.target.get()? {
        Target::Elsewhere { name, .. } if has_fifo_name(name) => (name.as_str(), true),
        _ => match dead_letter_queue(stack, queue)? {
            Some(dead_letters) => (dead_letters.place.resource.as_str(), dead_letters.is_fifo.copied()?),
            None => return FINE,
        },
    };
    when(own != other, || {
        let found = format!("{name} is {}, and this is {}: AWS refuses the redrive policy", kind(other), kind(own));
        let fix = if own { "FifoQueue: true" } else { "FifoQueue: !Ref AWS::NoValue" };
        let problem = Problem::error(&redrive.target.place, found);
        Problem { fix_in: format!("{name}.Properties"), fix: fix.to_owned(), ..problem }
    })
}

fn dead_letters_expire_early(stack: &Stack, queue: &Queue) -> Judged {
    let Some(dead_letters) = dead_letter_queue(stack, queue)? else { return FINE };
    let (own_s, theirs_s) = (queue.retention_s.copied()?, dead_letters.retention_s.copied()?);
    when(theirs_s <= own_s, || {
        let why = match queue.is_fifo.value {
            Ok(true) => "dead letters are gone before anyone has looked",
            _ => "a dead letter keeps its time of sending, and may be gone at once",
        };
        let found = format!(
            "MessageRetentionPeriod is {}, not over that of {}, {}: {why}",
            seconds(theirs_s),
            queue.place.resource,
            seconds(own_s)
        );
        Problem::error(&dead_letters.retention_s.place, found)
            .fix(&dead_letters.place, format!("MessageRetentionPeriod: {RETENTION_MAX_S}"))
    })
}

/// The part of a fix that names the queues whose dead-letter queue it is.
fn allow(source: &str) -> String {
    format!(
        "RedriveAllowPolicy:\n  redrivePermission: byQueue\n  # If that makes a circle, put the ARN together by !Sub from \
         the queue's name.\n  sourceQueueArns: [!GetAtt {source}.Arn]"
    )
}

fn anyones_dead_letter_queue(stack: &Stack, queue: &Queue) -> Judged {
    let Some(dead_letters) = dead_letter_queue(stack, queue)? else { return FINE };
    when(matches!(dead_letters.allowed.get()?, Allowed::All), || {
        let source = &queue.place.resource;
        let found =
            format!("it is the dead-letter queue of {source}, and every queue of the account may send letters here");
        Problem::warning(&dead_letters.allowed.place, found).fix(&dead_letters.place, allow(source))
    })
}

fn refused_by_dead_letter_queue(stack: &Stack, queue: &Queue) -> Judged {
    let Some(dead_letters) = dead_letter_queue(stack, queue)? else { return FINE };
    let source = &queue.place.resource;
    let is_refused = match dead_letters.allowed.get()? {
        Allowed::All => false,
        Allowed::None => true,
        Allowed::These(sources) => {
            let is_here = sources.iter().any(|target| matches!(target, Target::Here(id) if id == source));
            let unclear = sources.iter().find_map(|target| match target {
                Target::Elsewhere { name, why } if may_be_any(name) => Some(why.clone()),
                _ => None,
            });
            match unclear {
                Some(why) if !is_here => return Err(Gap { place: dead_letters.allowed.place.clone(), why }),
                _ => !is_here,
            }
        }
    };
    when(is_refused, || {
        let found = format!("it is the dead-letter queue of {source}, which its RedriveAllowPolicy does not allow");
        Problem::error(&dead_letters.allowed.place, found).fix(&dead_letters.place, allow(source))
    })
}

fn not_tls_only(stack: &Stack, queue: &Queue) -> Judged {
    when(!queue.is_tls_only.copied()?, || {
        let id = &queue.place.resource;
        let problem = Problem::warning(&queue.place, "no queue policy denies requests without TLS".to_owned());
        let statement = [
            "- Effect: Deny",
            "  Principal: '*'",
            "  Action: sqs:*",
            &format!("  Resource: !GetAtt {id}.Arn"),
            "  Condition: { Bool: { aws:SecureTransport: 'false' } }",
        ];
        // A queue has one policy: a second resource would take the place of what the first allows.
        if let Some(policy) = &queue.policy {
            let fix_in = format!("{policy}.Properties.PolicyDocument.Statement");
            return Problem { fix_in, fix: statement.join("\n"), ..problem };
        }
        let fix = format!(
            "{}:\n  Type: AWS::SQS::QueuePolicy\n  Properties:\n    Queues: [!Ref {id}]\n    PolicyDocument:\n      \
             Version: '2012-10-17'\n      Statement:\n        {}",
            free_id(stack, &format!("{id}Policy")),
            statement.join("\n        ")
        );
        Problem { fix_in: "Resources".to_owned(), fix, ..problem }
    })
}

/// A logical id that no resource has: this one, or with a number behind it.
fn free_id(stack: &Stack, wanted: &str) -> String {
    let numbered = (2_u32..).map(|number| format!("{wanted}{number}"));
    let mut ids = std::iter::once(wanted.to_owned()).chain(numbered);
    ids.find(|id| !stack.ids.contains(id)).unwrap_or_else(|| wanted.to_owned())
}

fn not_encrypted(_: &Stack, queue: &Queue) -> Judged {
    when(!queue.is_encrypted.copied()?, || {
        let found = "SqsManagedSseEnabled is false and there is no KmsMasterKeyId: messages are not encrypted at rest";
        Problem::warning(&queue.is_encrypted.place, found.to_owned()).fix(&queue.place, "SqsManagedSseEnabled: true")
    })
}
