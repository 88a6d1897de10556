//! The rules: each a small function of what the template says, with the page that it comes from.

mod backoff;
mod mapping;
mod parking;
mod permissions;
mod queue;
mod settings;
mod table;
mod timing;

use super::found::{Gap, Place};
use super::model::{Function, Mapping, Microbatch, Queue, Redrive, Stack, Target};
use super::parse::RepeatedKey;

/// A rule.
pub(super) struct Rule {
    pub(super) id: &'static str,
    /// The page of AWS's documentation, or of microbatch's, that says so.
    pub(super) page: &'static str,
    check: Check,
}

/// What a rule looks at, one by one.
enum Check {
    Mapping(fn(&Joined<'_>) -> Judged),
    Queue(fn(&Stack, &Queue) -> Judged),
    /// Functions that use microbatch.
    Function(fn(&Ours<'_>) -> Judged),
    /// All of it.
    Stack(fn(&Stack) -> Vec<Judged>),
    /// The keys that stand twice.
    Keys,
}

/// What a rule found, or the value that it would have to know.
type Judged = Result<Vec<Problem>, Gap>;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// AWS refuses it, the function does not start, messages are lost or run twice, or healthy ones become dead letters.
    Error,
    /// It protects less than it could, or does not do what it looks like. It may be meant.
    Warning,
}

/// A mistake.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) place: Place,
    pub(super) severity: Severity,
    /// What was found, with its values, and what it does.
    pub(super) found: String,
    /// Where the fix belongs.
    pub(super) fix_in: String,
    /// The fix, as YAML.
    pub(super) fix: String,
}

impl Problem {
    fn error(place: &Place, found: String) -> Self {
        Self { place: place.clone(), severity: Severity::Error, found, fix_in: String::new(), fix: String::new() }
    }

    fn warning(place: &Place, found: String) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, found) }
    }

    /// The fix is to have this in the properties that `place` is of.
    fn fix(self, place: &Place, yaml: impl Into<String>) -> Self {
        let Place { resource, path, .. } = place;
        let dot = if path.is_empty() { "" } else { "." };
        Self { fix_in: format!("{resource}.Properties{dot}{path}"), fix: yaml.into(), ..self }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "rules have one type")]
fn when(is_wrong: bool, problem: impl FnOnce() -> Problem) -> Judged {
    Ok(if is_wrong { vec![problem()] } else { Vec::new() })
}

/// Nothing to find fault with.
const FINE: Judged = Ok(Vec::new());

/// Every rule, by number.
pub(super) fn all() -> impl Iterator<Item = &'static Rule> {
    [
        timing::RULES,
        mapping::RULES,
        queue::RULES,
        settings::RULES,
        backoff::RULES,
        parking::RULES,
        permissions::RULES,
        table::RULES,
        TEXT,
    ]
    .into_iter()
    .flatten()
}

const TEXT: &[Rule] =
    &[Rule { id: "MB060", page: "CloudFormation template format (AWS CloudFormation User Guide)", check: Check::Keys }];

impl Rule {
    /// Applies the rule to everything it looks at.
    pub(super) fn apply(&self, stack: &Stack, keys: &[RepeatedKey]) -> Vec<Judged> {
        match self.check {
            Check::Mapping(check) => {
                let judge = |mapping| {
                    let problems = check(&Joined { stack, mapping })?;
                    Ok(problems.into_iter().map(|problem| fitting(mapping, problem)).collect())
                };
                stack.mappings.iter().map(judge).collect()
            }
            Check::Queue(check) => stack.queues.values().map(|queue| check(stack, queue)).collect(),
            Check::Function(check) => {
                let judge = |function| match ours(stack, function) {
                    Ok(Some(ours)) => check(&ours),
                    Ok(None) => FINE,
                    Err(gap) => Err(gap),
                };
                stack.functions.values().map(judge).collect()
            }
            Check::Stack(check) => check(stack),
            Check::Keys => keys.iter().map(|key| Ok(vec![repeated(key)])).collect(),
        }
    }
}

/// A problem with a fix that its mapping can have: a topic's event takes a batch size and nothing else.
fn fitting(mapping: &Mapping, problem: Problem) -> Problem {
    let is_its_own = problem.fix_in == format!("{}.Properties.{}", mapping.place.resource, mapping.place.path);
    if !mapping.is_of_topic || !is_its_own || problem.fix.starts_with("BatchSize:") {
        return problem;
    }
    let fix = format!(
        "# SqsSubscription cannot say it: subscribe the queue by AWS::SNS::Subscription,\n\
         # and have an event of Type SQS instead, with these properties:\n{}",
        problem.fix
    );
    Problem { fix_in: format!("{}.Properties.Events", mapping.place.resource), fix, ..problem }
}

fn repeated(key: &RepeatedKey) -> Problem {
    let RepeatedKey { key, first_line, line } = key;
    let place = Place { line: *line, resource: key.clone(), path: String::new() };
    let found = format!("the key {key} stands here and on line {first_line}: only one of them counts");
    let problem = Problem::error(&place, found);
    Problem { fix_in: format!("line {first_line} or {line}"), fix: format!("# keep one {key}"), ..problem }
}

/// A mapping with what it joins.
struct Joined<'s> {
    stack: &'s Stack,
    mapping: &'s Mapping,
}

impl<'s> Joined<'s> {
    fn queue(&self) -> Result<&'s Queue, Gap> {
        let setting = &self.mapping.queue;
        let id = setting.get()?.here().map_err(|why| Gap { place: setting.place.clone(), why })?;
        self.stack.queues.get(id).ok_or_else(|| not_here(&setting.place))
    }

    /// Whether the queue is FIFO, which also the name of one elsewhere says.
    fn is_fifo(&self) -> Result<bool, Gap> {
        match self.mapping.queue.get()? {
            Target::Here(_) => self.queue()?.is_fifo.copied(),
            Target::Elsewhere { name, .. } if super::model::has_fifo_name(name) => Ok(true),
            // By its ARN a queue of another template is none, unless its end is what is not known.
            Target::Elsewhere { name, .. } if name.contains(':') && !name.ends_with('}') => Ok(false),
            Target::Elsewhere { why, .. } => Err(Gap { place: self.mapping.queue.place.clone(), why: why.clone() }),
        }
    }

    fn function(&self) -> Result<&'s Function, Gap> {
        let setting = &self.mapping.function;
        let id = setting.get()?.here().map_err(|why| Gap { place: setting.place.clone(), why })?;
        self.stack.functions.get(id).ok_or_else(|| not_here(&setting.place))
    }

    /// The function, if it uses microbatch.
    fn ours(&self) -> Result<Option<Ours<'s>>, Gap> {
        ours(self.stack, self.function()?)
    }
}

fn not_here(place: &Place) -> Gap {
    Gap { place: place.clone(), why: "it is not in this template".to_owned() }
}

/// A function that uses microbatch.
struct Ours<'s> {
    stack: &'s Stack,
    function: &'s Function,
    microbatch: &'s Microbatch,
}

fn ours<'s>(stack: &'s Stack, function: &'s Function) -> Result<Option<Ours<'s>>, Gap> {
    Ok(function.microbatch.get()?.as_ref().map(|microbatch| Ours { stack, function, microbatch }))
}

/// The redrive policy of a queue.
fn redrive(queue: &Queue) -> Result<Option<&Redrive>, Gap> {
    Ok(queue.redrive.get()?.as_ref())
}

/// The dead-letter queue of a queue, where it is in this template.
fn dead_letter_queue<'s>(stack: &'s Stack, queue: &Queue) -> Result<Option<&'s Queue>, Gap> {
    let Some(redrive) = redrive(queue)? else { return Ok(None) };
    let target = &redrive.target;
    let id = target.get()?.here().map_err(|why| Gap { place: target.place.clone(), why })?;
    stack.queues.get(id).map(Some).ok_or_else(|| not_here(&target.place))
}

/// Seconds, and what they are in days or hours.
fn seconds(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3_600) {
        (1, _) if seconds.is_multiple_of(86_400) => format!("{seconds} s (1 day)"),
        (days, _) if days > 0 && seconds.is_multiple_of(86_400) => format!("{seconds} s ({days} days)"),
        (_, 1) if seconds.is_multiple_of(3_600) => format!("{seconds} s (1 hour)"),
        (_, hours) if hours > 0 && seconds.is_multiple_of(3_600) => format!("{seconds} s ({hours} hours)"),
        _ => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_numbers_of_their_own_in_order() {
        let ids: Vec<&str> = all().map(|rule| rule.id).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
        assert!(ids.len() >= 25);
    }

    #[test]
    fn seconds_are_told_in_days_too() {
        assert_eq!(
            [seconds(181), seconds(3_600), seconds(86_400), seconds(345_600)],
            ["181 s", "3600 s (1 hour)", "86400 s (1 day)", "345600 s (4 days)"]
        );
    }
}
