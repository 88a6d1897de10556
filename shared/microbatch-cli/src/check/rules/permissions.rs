//! What the function's role must allow for its settings.

use microbatch_aws::dynamodb::StoreCalls;

use super::super::found::Gap;
use super::super::model::Target;
use super::{Check, FINE, Joined, Judged, Ours, Problem, Rule, Severity, parking, when};

const SQS_PAGE: &str = "Amazon SQS API permissions: Actions and resource reference (Amazon SQS Developer Guide)";

pub(super) const RULES: &[Rule] = &[
    Rule { id: "MB042", page: SQS_PAGE, check: Check::Mapping(may_not_delay) },
    Rule { id: "MB043", page: SQS_PAGE, check: Check::Mapping(may_not_park) },
    Rule {
        id: "MB044",
        page: "IAM security policies with PartiQL for DynamoDB (Amazon DynamoDB Developer Guide)",
        check: Check::Function(may_not_use_table),
    },
    Rule {
        id: "MB045",
        page: "IAM security policies with PartiQL for DynamoDB (Amazon DynamoDB Developer Guide)",
        check: Check::Function(may_not_complete_in_batches),
    },
];

/// The action of a delay. That the queue's attributes may be read too is only needed for a check at the start.
const DELAY: &str = "sqs:ChangeMessageVisibility";
const PARK: &str = "sqs:SendMessage";
/// The actions of claims, completions and releases; a test compares them with infra/policies.
const TABLE_SINGLE: [&str; 3] = ["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"];
const TABLE_BATCHED: [&str; 2] = ["dynamodb:BatchGetItem", "dynamodb:PartiQLInsert"];
/// What completions in batches need besides. Those with writes are transactions of their own; a template does not tell
/// whether a processor hands them over.
const COMPLETE_BATCHED: &str = "dynamodb:PartiQLUpdate";

fn statement(actions: &str, arn: &str) -> String {
    format!("- Effect: Allow\n  Action: {actions}\n  Resource: !GetAtt {arn}.Arn")
}

fn may_not_delay(joined: &Joined<'_>) -> Judged {
    let Some(ours) = joined.ours()? else { return FINE };
    if !ours.microbatch.delays()? {
        return FINE;
    }
    let queue = &joined.queue()?.place.resource;
    let permissions = &ours.function.permissions;
    when(!permissions.allow(DELAY, queue)?, || {
        let found = format!(
            "MICROBATCH_BACKOFF is on, and the role of {} may not use {DELAY} on {queue}: failed messages are not delayed",
            ours.function.place.resource
        );
        statement_missing(&ours, found, statement(DELAY, queue))
    })
}

fn may_not_park(joined: &Joined<'_>) -> Judged {
    let Some(ours) = joined.ours()? else { return FINE };
    if !parking::is_parking(joined, &ours)? {
        return FINE;
    }
    let Some(park) = parking::park(&ours)? else { return FINE };
    let queue = &park.place.resource;
    // To park there is a mistake of its own.
    if park.place == joined.queue()?.place {
        return FINE;
    }
    when(!ours.function.permissions.allow(PARK, queue)?, || {
        let found = format!(
            "MICROBATCH_PARK_QUEUE_URL is set, and the role of {} may not use {PARK} on {queue}: nothing is parked",
            ours.function.place.resource
        );
        statement_missing(&ours, found, statement(PARK, queue))
    })
}

/// The idempotency table, where it is of this template, and how it is called.
fn table_calls<'s>(ours: &Ours<'s>) -> Result<Option<(&'s str, StoreCalls)>, Gap> {
    if !ours.microbatch.option("MICROBATCH_IDEMPOTENCY", |options| options.idempotency)? {
        return Ok(None);
    }
    let Some(Target::Here(table)) = ours.microbatch.table.get()? else { return Ok(None) };
    let calls = ours.microbatch.setting(&["MICROBATCH_STORE_CALLS"], |settings| settings.store_calls)?;
    Ok(Some((table, calls)))
}

fn may_not_use_table(ours: &Ours<'_>) -> Judged {
    let Some((table, calls)) = table_calls(ours)? else { return FINE };
    let batched: &[&str] = if calls == StoreCalls::Batched { &TABLE_BATCHED } else { &[] };
    let mut missing = Vec::new();
    for action in batched.iter().chain(&TABLE_SINGLE) {
        if !ours.function.permissions.allow(action, table)? {
            missing.push(*action);
        }
    }
    missing.sort_unstable();
    when(!missing.is_empty(), || {
        let missing = missing.join(", ");
        let found = format!(
            "the role of {} may not use {missing} on {table}: no message is processed",
            ours.function.place.resource
        );
        statement_missing(ours, found, statement(&format!("[{missing}]"), table))
    })
}

fn may_not_complete_in_batches(ours: &Ours<'_>) -> Judged {
    let Some((table, StoreCalls::Batched)) = table_calls(ours)? else { return FINE };
    when(!ours.function.permissions.allow(COMPLETE_BATCHED, table)?, || {
        let found = format!(
            "the role of {} may not use {COMPLETE_BATCHED} on {table}: completions without writes cannot be recorded in batches; not \
             needed where every item hands over writes",
            ours.function.place.resource
        );
        let problem = statement_missing(ours, found, statement(COMPLETE_BATCHED, table));
        Problem { severity: Severity::Warning, ..problem }
    })
}

fn statement_missing(ours: &Ours<'_>, found: String, statement: String) -> Problem {
    let place = &ours.function.permissions.place;
    let problem = Problem::error(place, found).fix(place, statement);
    Problem { fix_in: format!("{}, as a statement of its policy", problem.fix_in), ..problem }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_actions_are_those_of_the_policies() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra/policies");
        for (file, actions) in [
            ("backoff.json", vec![DELAY]),
            ("park-queue.json", vec![PARK]),
            ("idempotency-table.json", [&TABLE_BATCHED[..], &TABLE_SINGLE].concat()),
        ] {
            let text = fs::read_to_string(root.join(file)).expect(file);
            let policy: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let mut allowed: Vec<&str> = policy["Statement"][0]["Action"]
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(|action| action.as_str())
                .collect();
            allowed.retain(|action| *action != "sqs:GetQueueAttributes");
            let mut actions = actions;
            actions.sort_unstable();
            assert_eq!(allowed, actions, "{file}");
        }
    }
}
