//! Event source mappings: batches, answers, filters, scaling.

use super::{Check, FINE, Joined, Judged, Problem, Rule, when};

const MAPPING_PAGE: &str = "Creating and configuring an Amazon SQS event source mapping (AWS Lambda Developer Guide)";
const ERRORS_PAGE: &str = "Handling errors for an SQS event source in Lambda (AWS Lambda Developer Guide)";
const SCALING_PAGE: &str = "Configuring scaling behavior for SQS event source mappings (AWS Lambda Developer Guide)";

pub(super) const RULES: &[Rule] = &[
    Rule { id: "MB005", page: MAPPING_PAGE, check: Check::Mapping(big_batch_without_window) },
    Rule { id: "MB006", page: MAPPING_PAGE, check: Check::Mapping(batch_size_out_of_range) },
    Rule { id: "MB007", page: MAPPING_PAGE, check: Check::Mapping(big_batch_of_fifo) },
    Rule { id: "MB008", page: MAPPING_PAGE, check: Check::Mapping(window_of_fifo) },
    Rule { id: "MB009", page: MAPPING_PAGE, check: Check::Mapping(window_out_of_range) },
    Rule { id: "MB010", page: ERRORS_PAGE, check: Check::Mapping(failures_not_reported) },
    Rule {
        id: "MB011",
        page: "Using event filtering with an Amazon SQS event source (AWS Lambda Developer Guide)",
        check: Check::Mapping(filter_deletes),
    },
    Rule { id: "MB012", page: SCALING_PAGE, check: Check::Mapping(maximum_concurrency_out_of_range) },
    Rule { id: "MB013", page: SCALING_PAGE, check: Check::Mapping(maximum_concurrency_and_pollers) },
    Rule { id: "MB014", page: SCALING_PAGE, check: Check::Mapping(reserved_concurrency) },
    Rule { id: "MB015", page: SCALING_PAGE, check: Check::Mapping(reserved_under_maximum_concurrency) },
    Rule {
        id: "MB016",
        page: "Configure Lambda function memory (AWS Lambda Developer Guide)",
        check: Check::Mapping(too_little_memory),
    },
    Rule {
        id: "MB017",
        page: "Capturing records of Lambda asynchronous invocations (AWS Lambda Developer Guide)",
        check: Check::Mapping(dead_letters_of_function),
    },
    Rule { id: "MB018", page: ERRORS_PAGE, check: Check::Mapping(destination_of_mapping) },
    Rule { id: "MB019", page: SCALING_PAGE, check: Check::Mapping(pollers_out_of_range) },
];

/// Messages of one request to a queue, and of a batch without a window.
const BATCH_OF_ONE_REQUEST: u64 = 10;
const BATCH_MAX: u64 = 10_000;
const WINDOW_MAX_S: u64 = 300;
const MAXIMUM_CONCURRENCY: std::ops::RangeInclusive<u64> = 2..=1_000;
const MINIMUM_POLLERS: std::ops::RangeInclusive<u64> = 2..=200;
const MAXIMUM_POLLERS: std::ops::RangeInclusive<u64> = 2..=2_000;

/// Memory for a full batch: the process and its environment, and a multiple of the event, which may be 6 MB: its text,
/// the decoded items, results and writes, and as much again for what the processor makes of them. A full event takes
/// process-orders 36 MB in all.
const MEMORY_BASE_MB: u64 = 64;
const MEMORY_PER_EVENT_MB: u64 = 16;
const EVENT_MAX_MB: u64 = 6;

fn big_batch_without_window(joined: &Joined<'_>) -> Judged {
    let mapping = joined.mapping;
    let (batch_size, window_s) = (mapping.batch_size.copied()?, mapping.window_s.copied()?);
    // A FIFO queue takes no window at all.
    let is_fifo = joined.is_fifo().unwrap_or(false);
    when(!is_fifo && batch_size > BATCH_OF_ONE_REQUEST && window_s == 0, || {
        let found = format!(
            "BatchSize is {batch_size} with no window: AWS refuses more than {BATCH_OF_ONE_REQUEST} without one"
        );
        Problem::error(&mapping.batch_size.place, found).fix(&mapping.place, "MaximumBatchingWindowInSeconds: 1")
    })
}

fn batch_size_out_of_range(joined: &Joined<'_>) -> Judged {
    let batch_size = &joined.mapping.batch_size;
    let size = batch_size.copied()?;
    when(!(1..=BATCH_MAX).contains(&size), || {
        let found = format!("BatchSize is {size}: AWS takes 1 to {BATCH_MAX}");
        Problem::error(&batch_size.place, found)
            .fix(&joined.mapping.place, format!("BatchSize: {}", size.clamp(1, BATCH_MAX)))
    })
}

fn big_batch_of_fifo(joined: &Joined<'_>) -> Judged {
    let batch_size = &joined.mapping.batch_size;
    let size = batch_size.copied()?;
    when(size > BATCH_OF_ONE_REQUEST && joined.is_fifo()?, || {
        let found = format!("BatchSize is {size} on a FIFO queue: AWS takes at most {BATCH_OF_ONE_REQUEST}");
        Problem::error(&batch_size.place, found)
            .fix(&joined.mapping.place, format!("BatchSize: {BATCH_OF_ONE_REQUEST}"))
    })
}

fn window_of_fifo(joined: &Joined<'_>) -> Judged {
    let window = &joined.mapping.window_s;
    let window_s = window.copied()?;
    when(window_s > 0 && joined.is_fifo()?, || {
        let found = format!("MaximumBatchingWindowInSeconds is {window_s} on a FIFO queue: AWS takes none");
        Problem::error(&window.place, found).fix(&joined.mapping.place, "MaximumBatchingWindowInSeconds: 0")
    })
}

fn window_out_of_range(joined: &Joined<'_>) -> Judged {
    let window = &joined.mapping.window_s;
    let window_s = window.copied()?;
    when(window_s > WINDOW_MAX_S, || {
        let found = format!("MaximumBatchingWindowInSeconds is {window_s}: AWS takes 0 to {WINDOW_MAX_S}");
        Problem::error(&window.place, found)
            .fix(&joined.mapping.place, format!("MaximumBatchingWindowInSeconds: {WINDOW_MAX_S}"))
    })
}

fn failures_not_reported(joined: &Joined<'_>) -> Judged {
    let mapping = joined.mapping;
    let is_ours = joined.ours().is_ok_and(|ours| ours.is_some());
    when(!mapping.reports_failures.copied()?, || {
        let problem = if is_ours {
            let found = "FunctionResponseTypes lacks ReportBatchItemFailures: Lambda ignores which messages failed, and deletes them";
            Problem::error(&mapping.reports_failures.place, found.to_owned())
        } else {
            let found =
                "FunctionResponseTypes lacks ReportBatchItemFailures: one failed message brings its whole batch back";
            Problem::warning(&mapping.reports_failures.place, found.to_owned())
        };
        problem.fix(&mapping.place, "FunctionResponseTypes: [ReportBatchItemFailures]")
    })
}

fn filter_deletes(joined: &Joined<'_>) -> Judged {
    let filters = &joined.mapping.filters;
    let count = filters.copied()?;
    when(count > 0, || {
        let patterns =
            if count == 1 { "the filter pattern".to_owned() } else { format!("any of the {count} filter patterns") };
        let found =
            format!("Lambda deletes messages that do not match {patterns}: they are neither processed nor kept");
        let fix = "FilterCriteria: !Ref AWS::NoValue\n# or keep it, and say so in the resource's Metadata:\n\
                   #   microbatch: { skip: [{ id: MB011, comment: WHY }] }";
        Problem::warning(&filters.place, found).fix(&joined.mapping.place, fix)
    })
}

fn maximum_concurrency_out_of_range(joined: &Joined<'_>) -> Judged {
    let maximum = &joined.mapping.maximum_concurrency;
    let Some(found) = maximum.copied()?.filter(|value| !MAXIMUM_CONCURRENCY.contains(value)) else { return FINE };
    let (min, max) = (MAXIMUM_CONCURRENCY.start(), MAXIMUM_CONCURRENCY.end());
    let fix = format!("ScalingConfig: {{ MaximumConcurrency: {} }}", found.clamp(*min, *max));
    let found = format!("MaximumConcurrency is {found}: AWS takes {min} to {max}");
    Ok(vec![Problem::error(&maximum.place, found).fix(&joined.mapping.place, fix)])
}

fn maximum_concurrency_and_pollers(joined: &Joined<'_>) -> Judged {
    let mapping = joined.mapping;
    let has_maximum = mapping.maximum_concurrency.copied()?.is_some();
    when(has_maximum && mapping.is_provisioned.copied()?, || {
        let found = "MaximumConcurrency and ProvisionedPollerConfig are both set: AWS takes one of them; MaximumPollers x 10 is the limit \
                     of provisioned ones";
        Problem::error(&mapping.maximum_concurrency.place, found.to_owned())
            .fix(&mapping.place, "ScalingConfig: !Ref AWS::NoValue")
    })
}

fn reserved_concurrency(joined: &Joined<'_>) -> Judged {
    let (mapping, function) = (joined.mapping, joined.function()?);
    let Some(reserved) = function.reserved_concurrency.copied()? else { return FINE };
    let is_limited = mapping.maximum_concurrency.copied()?.is_some() || mapping.is_provisioned.copied()?;
    when(!is_limited, || {
        let found = format!(
            "ReservedConcurrentExecutions is {reserved} and the mapping has no MaximumConcurrency: batches over it are throttled after they \
             were received, and messages that no function has seen become dead letters"
        );
        let (min, max) = (*MAXIMUM_CONCURRENCY.start(), *MAXIMUM_CONCURRENCY.end());
        let mut fix = format!("ScalingConfig: {{ MaximumConcurrency: {} }}", reserved.clamp(min, max));
        // A reservation under the limit would be the next mistake.
        if reserved < min {
            let id = &function.place.resource;
            fix +=
                &format!("\n# and in {id}.Properties, as {min} is the least:\n#   ReservedConcurrentExecutions: {min}");
        }
        Problem::warning(&function.reserved_concurrency.place, found).fix(&mapping.place, fix)
    })
}

fn reserved_under_maximum_concurrency(joined: &Joined<'_>) -> Judged {
    let (mapping, function) = (joined.mapping, joined.function()?);
    let Some(reserved) = function.reserved_concurrency.copied()? else { return FINE };
    let Some(maximum) = mapping.maximum_concurrency.copied()? else { return FINE };
    when(reserved < maximum, || {
        let found = format!(
            "ReservedConcurrentExecutions is {reserved}, less than the mapping's MaximumConcurrency, {maximum}: the mapping's own batches are \
             throttled"
        );
        let fix = format!("ReservedConcurrentExecutions: {maximum}");
        Problem::warning(&function.reserved_concurrency.place, found).fix(&function.place, fix)
    })
}

fn too_little_memory(joined: &Joined<'_>) -> Judged {
    let Some(ours) = joined.ours()? else { return FINE };
    let batch_size = joined.mapping.batch_size.copied()?;
    let memory = &ours.function.memory_mb;
    let memory_mb = memory.copied()?;
    let wanted_mb = MEMORY_BASE_MB + MEMORY_PER_EVENT_MB * EVENT_MAX_MB;
    // Up to ten messages are rarely that big.
    when(batch_size > BATCH_OF_ONE_REQUEST && memory_mb < wanted_mb, || {
        let found = format!(
            "MemorySize is {memory_mb} MB, and a batch of up to {batch_size} may be an event of {EVENT_MAX_MB} MB: expected \
             {MEMORY_BASE_MB} + {MEMORY_PER_EVENT_MB} x {EVENT_MAX_MB} = {wanted_mb} MB at least"
        );
        Problem::warning(&memory.place, found).fix(&ours.function.place, "MemorySize: 256")
    })
}

fn dead_letters_of_function(joined: &Joined<'_>) -> Judged {
    let function = joined.function()?;
    let problem = |place| {
        let found = "it is for asynchronous invocations: a mapping invokes synchronously, so nothing of the queue ever comes here";
        let problem = Problem::warning(place, found.to_owned());
        match joined.queue() {
            Ok(queue) => {
                let fix = "RedrivePolicy: { deadLetterTargetArn: !GetAtt DEAD_LETTER_QUEUE.Arn, maxReceiveCount: 10 }";
                problem.fix(&queue.place, fix)
            }
            Err(_) => problem.fix(place, "# the dead-letter queue belongs into the source queue's RedrivePolicy"),
        }
    };
    Ok(function.async_failures.iter().map(problem).collect())
}

fn destination_of_mapping(joined: &Joined<'_>) -> Judged {
    let destination = &joined.mapping.has_destination;
    when(destination.copied()?, || {
        let found = "DestinationConfig.OnFailure is not for queues: AWS takes it for streams only";
        let problem = Problem::error(&destination.place, found.to_owned());
        problem.fix(&joined.mapping.place, "DestinationConfig: !Ref AWS::NoValue")
    })
}

fn pollers_out_of_range(joined: &Joined<'_>) -> Judged {
    let mapping = joined.mapping;
    let (least, most) = (mapping.minimum_pollers.copied()?, mapping.maximum_pollers.copied()?);
    let outside = |name: &str, value: Option<u64>, range: &std::ops::RangeInclusive<u64>| {
        let value = value.filter(|value| !range.contains(value))?;
        Some(format!("{name} is {value}: AWS takes {} to {}", range.start(), range.end()))
    };
    let (place, found) = if let Some(found) = outside("MinimumPollers", least, &MINIMUM_POLLERS) {
        (&mapping.minimum_pollers.place, found)
    } else if let Some(found) = outside("MaximumPollers", most, &MAXIMUM_POLLERS) {
        (&mapping.maximum_pollers.place, found)
    } else if let (Some(least), Some(most)) = (least, most)
        && least > most
    {
        let found = format!("MinimumPollers is {least}, more than MaximumPollers, {most}: AWS refuses it");
        (&mapping.minimum_pollers.place, found)
    } else {
        return FINE;
    };
    let least = least.map(|value| value.clamp(*MINIMUM_POLLERS.start(), *MINIMUM_POLLERS.end()));
    let most = most.map(|value| value.clamp(*MAXIMUM_POLLERS.start(), *MAXIMUM_POLLERS.end()).max(least.unwrap_or(0)));
    let set = |name: &str, value: Option<u64>| value.map(|value| format!("{name}: {value}"));
    let set: Vec<String> = [set("MinimumPollers", least), set("MaximumPollers", most)].into_iter().flatten().collect();
    let fix = format!("ProvisionedPollerConfig: {{ {} }}", set.join(", "));
    Ok(vec![Problem::error(place, found).fix(&mapping.place, fix)])
}
