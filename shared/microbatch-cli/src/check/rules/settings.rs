//! `MICROBATCH_*` variables by themselves, as the settings' own code judges them.

#![expect(clippy::unnecessary_wraps, reason = "rules have one type")]

use microbatch::config::Problem as SettingProblem;
use microbatch_aws::settings;

use super::super::model::{PARK_QUEUE_URL, QUEUE_URL, TABLE, Target};
use super::{Check, Judged, Ours, Problem, Rule};

const SETTINGS_PAGE: &str = "Settings (microbatch, README.md)";

pub(super) const RULES: &[Rule] = &[
    Rule { id: "MB030", page: SETTINGS_PAGE, check: Check::Function(unknown_variables) },
    Rule { id: "MB031", page: SETTINGS_PAGE, check: Check::Function(wrong_values) },
    Rule { id: "MB032", page: SETTINGS_PAGE, check: Check::Function(missing_variables) },
    Rule { id: "MB033", page: SETTINGS_PAGE, check: Check::Function(budget_does_not_fit) },
];

/// What the settings call a variable that they do not know.
const UNKNOWN: &str = "unknown variable";
/// Letters by which a misspelt name may differ from the one that was meant.
const MISSPELT_MAX: usize = 4;

fn unknown_variables(ours: &Ours<'_>) -> Judged {
    let microbatch = ours.microbatch;
    let unknown = microbatch.problems.iter().filter(|problem| problem.setting == UNKNOWN);
    let problem = |problem: &SettingProblem| {
        let name = problem.what.split(';').next().unwrap_or_default();
        let near = settings::variables()
            .map(|known| (distance(name, known.name), known.name))
            .min()
            .filter(|(distance, _)| *distance <= MISSPELT_MAX);
        let fix = match near {
            Some((_, near)) => format!("{near}: {}", quoted(microbatch.text(name).unwrap_or("VALUE"))),
            None => format!("# without {name}"),
        };
        let found = format!("{name} is no setting: the function does not start");
        Problem::error(&microbatch.place_of(name), found).fix(&microbatch.place, fix)
    };
    Ok(unknown.map(problem).collect())
}

fn wrong_values(ours: &Ours<'_>) -> Judged {
    let microbatch = ours.microbatch;
    let wrong = microbatch.problems.iter().filter(|problem| microbatch.is_set(problem.setting));
    let problem = |problem: &SettingProblem| {
        let name = problem.setting;
        let found = format!("{name}: {}: the function does not start", problem.what);
        let fix = format!("{}{name}: {}", meaning(name), mended(&problem.what));
        Problem::error(&microbatch.place_of(name), found).fix(&microbatch.place, fix)
    };
    Ok(wrong.map(problem).collect())
}

fn missing_variables(ours: &Ours<'_>) -> Judged {
    let microbatch = ours.microbatch;
    let missing =
        microbatch.problems.iter().filter(|problem| problem.setting != UNKNOWN && !microbatch.is_set(problem.setting));
    let problem = |problem: &SettingProblem| {
        let name = problem.setting;
        let found = format!("{name}: {}: the function does not start", problem.what);
        let fix = format!("{}{name}: {}", meaning(name), value_for(name, ours));
        Problem::error(&microbatch.place_of(name), found).fix(&microbatch.place, fix)
    };
    Ok(missing.map(problem).collect())
}

fn budget_does_not_fit(ours: &Ours<'_>) -> Judged {
    let microbatch = ours.microbatch;
    let Some(error) = microbatch.backoff_error else { return Ok(Vec::new()) };
    let name = "MICROBATCH_OUTAGE_BUDGET_S";
    let found = format!("{name}: {error}: the function does not start");
    let fix = format!(
        "{name}: '{}'\n# or, with the queue's maxReceiveCount as high\nMICROBATCH_MAX_RECEIVE_COUNT: '{}'",
        error.outage_budget_max_s(),
        error.max_receive_count_min()
    );
    Ok(vec![Problem::error(&microbatch.place_of(name), found).fix(&microbatch.place, fix)])
}

/// A variable's meaning as a comment.
fn meaning(name: &str) -> String {
    let variable = settings::variables().find(|variable| variable.name == name);
    variable.map(|variable| format!("# {}\n", variable.meaning)).unwrap_or_default()
}

/// A value that the settings would take, by what they say of the one found: the nearest bound, `on` for the boolean that
/// YAML makes of it.
fn mended(what: &str) -> String {
    let found = what.rsplit("found ").next().unwrap_or_default().trim_matches('"');
    let range = what.strip_prefix("expected ").and_then(|what| what.split(", found").next()?.split_once(" to "));
    if let Some((min, max)) = range
        && let (Ok(min), Ok(max), Ok(found)) = (min.parse::<u64>(), max.parse::<u64>(), found.parse::<u64>())
    {
        return quoted(&found.clamp(min, max).to_string());
    }
    match found {
        "true" if what.contains("one of on, off") => quoted("on"),
        "false" if what.contains("one of on, off") => quoted("off"),
        _ => "VALUE".to_owned(),
    }
}

/// What a variable would be set to, by what the function is joined to.
fn value_for(name: &str, ours: &Ours<'_>) -> String {
    let id = &ours.function.place.resource;
    let mapped = ours
        .stack
        .mappings
        .iter()
        .find(|mapping| matches!(&mapping.function.value, Ok(Target::Here(function)) if function == id));
    let queue = mapped.and_then(|mapping| match &mapping.queue.value {
        Ok(Target::Here(queue)) => ours.stack.queues.get(queue),
        _ => None,
    });
    let value = match name {
        TABLE => ours.stack.tables.values().next().map(|table| &table.place.resource),
        QUEUE_URL => queue.map(|queue| &queue.place.resource),
        PARK_QUEUE_URL => queue
            .and_then(|queue| super::dead_letter_queue(ours.stack, queue).ok().flatten())
            .map(|dead_letters| &dead_letters.place.resource),
        _ => None,
    };
    value.map_or_else(|| "VALUE".to_owned(), |id| format!("!Ref {id}"))
}

/// Text in quotes: without, YAML makes numbers and booleans of some.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// How many letters have to be changed, added or taken away (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    // Names are short; a long one is no misspelling of any.
    if left.len().abs_diff(right.len()) > MISSPELT_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (position, l) in left.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], position + 1);
        for (column, r) in right.bytes().enumerate() {
            let changed = diagonal + usize::from(l != r);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_mended_by_what_was_expected() {
        assert_eq!(mended("expected 1 to 10000, found 0"), "'1'");
        assert_eq!(mended("expected 10 to 60000, found 99999"), "'60000'");
        assert_eq!(mended("expected one of on, off, found \"true\""), "'on'");
        assert_eq!(mended("expected a whole number, found \"10s\""), "VALUE");
    }

    #[test]
    fn distances_are_of_levenshtein() {
        assert_eq!(distance("MICROBATCH_CONCURENCY", "MICROBATCH_CONCURRENCY"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("a", "abcdefgh"), usize::MAX);
    }
}
