//! A function's `MICROBATCH_*` variables, read by the settings' own code.

use std::collections::BTreeMap;

use microbatch::Options;
use microbatch::config::Problem;
use microbatch::control::{Backoff, BackoffError};
use microbatch_aws::settings::{self, Settings};

use super::super::found::{Found, Gap, Place, Setting};
use super::super::value::{Value, Why};
use super::{Directory, QUEUE, Target};

pub(in super::super) const TABLE: &str = "MICROBATCH_TABLE";
pub(in super::super) const NAMESPACE: &str = "MICROBATCH_NAMESPACE";
pub(in super::super) const QUEUE_URL: &str = "MICROBATCH_QUEUE_URL";
pub(in super::super) const PARK_QUEUE_URL: &str = "MICROBATCH_PARK_QUEUE_URL";
pub(in super::super) const PARTITION: &str = "MICROBATCH_PARTITION";
const BACKOFF: &str = "MICROBATCH_BACKOFF";
/// What Lambda sets, and some settings default to.
const FUNCTION_NAME: &str = "AWS_LAMBDA_FUNCTION_NAME";

/// What a function that uses microbatch is set to.
#[derive(Debug)]
pub(in super::super) struct Microbatch {
    /// Where the variables stand.
    pub(in super::super) place: Place,
    /// The settings of the pipeline. What is not known or wrong has its default here; [`Microbatch::option`] says so.
    options: Options,
    settings: Option<Box<Settings>>,
    /// What is wrong with the variables.
    pub(in super::super) problems: Vec<Problem>,
    /// That the delays between deliveries cannot span the outage budget.
    pub(in super::super) backoff_error: Option<BackoffError>,
    variables: BTreeMap<String, Variable>,
    pub(in super::super) table: Setting<Option<Target>>,
    /// The source queue, as the variables name it.
    pub(in super::super) queue: Setting<Option<Target>>,
    /// Where rejected messages are parked.
    pub(in super::super) park: Setting<Option<Target>>,
}

#[derive(Debug)]
struct Variable {
    place: Place,
    /// As it is given to the settings. References are names that look like what they become.
    text: Result<String, Why>,
}

/// Reads a function's variables; none where it has none of ours.
pub(super) fn read(variables: &Found<'_>, function: &str, directory: &Directory<'_>) -> Setting<Option<Microbatch>> {
    let entries = match variables.entries() {
        Ok(entries) => entries,
        Err(gap) => return variables.setting(Err(gap.why)),
    };
    let ours: Vec<_> = entries
        .into_iter()
        .filter(|(name, value)| name.starts_with("MICROBATCH_") && value.value != Value::Absent)
        .collect();
    if ours.is_empty() {
        return variables.setting(Ok(None));
    }
    let target =
        |name: &str, find: &dyn Fn(&Value) -> Result<Target, Why>| match ours.iter().find(|(known, _)| known == name) {
            Some((_, found)) => found.setting(find(&found.value).map(Some)),
            None => Setting { value: Ok(None), place: variables.place.clone(), is_set: false },
        };
    let table = target(TABLE, &|value| directory.table(value));
    let queue = target(QUEUE_URL, &|value| directory.queue(value));
    let park = target(PARK_QUEUE_URL, &|value| directory.queue(value));
    let texts = ours.into_iter().map(|(name, found)| {
        let text = text_of(&name, &found);
        (name, Variable { place: found.place, text })
    });
    let texts: BTreeMap<String, Variable> = texts.collect();
    let mut microbatch = Microbatch {
        place: variables.place.clone(),
        options: Options::default(),
        settings: None,
        problems: Vec::new(),
        backoff_error: None,
        variables: texts,
        table,
        queue,
        park,
    };
    microbatch.apply(function);
    variables.setting(Ok(Some(microbatch)))
}

/// A variable's value as the settings are to see it.
fn text_of(name: &str, found: &Found<'_>) -> Result<String, Why> {
    if let Value::Reference(reference) = &found.value {
        let is_queue = found.template.resources.get(&reference.resource).is_some_and(|resource| resource.kind == QUEUE);
        let id = &reference.resource;
        return Ok(match reference.attribute.as_deref() {
            None | Some("QueueUrl") if is_queue => format!("https://sqs.invalid/000000000000/{id}"),
            Some("Arn") => format!("arn:aws:service:region:000000000000:{id}"),
            _ => id.clone(),
        });
    }
    let (text, why) = found.value.pattern()?;
    match why {
        None => Ok(text),
        // A part that is not known does no harm in a name, nor in a URL or an ARN whose beginning is known.
        Some(why) if text.starts_with("${") && [QUEUE_URL, PARK_QUEUE_URL].contains(&name) => Err(why),
        Some(_) if [TABLE, NAMESPACE, PARTITION, QUEUE_URL, PARK_QUEUE_URL].contains(&name) => Ok(text),
        Some(why) => Err(why),
    }
}

impl Microbatch {
    fn apply(&mut self, function: &str) {
        let known = self.variables.iter().filter_map(|(name, variable)| match &variable.text {
            Ok(text) => Some((name.clone(), text.clone())),
            // That it is set is known, and others go with it.
            Err(_) => stand_in(name).map(|text| (name.clone(), text.to_owned())),
        });
        let known = known.chain([(FUNCTION_NAME.to_owned(), function.to_owned())]);
        match settings::from_variables(&mut self.options, known) {
            Ok(settings) => self.settings = Some(Box::new(settings)),
            Err(error) => {
                self.settings = error.settings;
                self.problems = error.problems;
            }
        }
        // What a variable that is not known would have made right is no problem.
        let unknown: Vec<&String> =
            self.variables.iter().filter(|(_, variable)| variable.text.is_err()).map(|(name, _)| name).collect();
        self.problems.retain(|problem| !unknown.iter().any(|name| concerns(problem, name)));
        let max_receive_count = u32::try_from(self.options.max_receive_count).unwrap_or(u32::MAX);
        if let Err(error) = Backoff::spanning(self.options.outage_budget_s, max_receive_count) {
            let what = error.to_string();
            let before = self.problems.len();
            self.problems.retain(|problem| problem.what != what);
            self.backoff_error = (self.problems.len() < before).then_some(error);
        }
    }

    /// Whether failed messages are delayed.
    pub(in super::super) fn delays(&self) -> Result<bool, Gap> {
        self.known(BACKOFF)?;
        self.refuse_wrong(QUEUE_URL)?;
        Ok(self.settings.as_ref().and_then(|settings| settings.queues.as_ref()).is_some_and(|queues| queues.backoff))
    }

    /// What a variable is set to, as far as it is known.
    pub(in super::super) fn text(&self, variable: &str) -> Option<&str> {
        self.variables.get(variable)?.text.as_deref().ok()
    }

    /// Where a variable is set, or would be.
    pub(in super::super) fn place_of(&self, variable: &str) -> Place {
        let set = self.variables.get(variable).map(|variable| variable.place.clone());
        set.unwrap_or_else(|| self.place.below(variable, self.place.line))
    }

    pub(in super::super) fn is_set(&self, variable: &str) -> bool {
        self.variables.contains_key(variable)
    }

    /// An option that the variable of that name sets.
    pub(in super::super) fn option<T>(&self, variable: &str, read: impl FnOnce(&Options) -> T) -> Result<T, Gap> {
        self.known(variable)?;
        Ok(read(&self.options))
    }

    /// A setting beside the options, which these variables make.
    pub(in super::super) fn setting<T>(&self, variables: &[&str], read: impl FnOnce(&Settings) -> T) -> Result<T, Gap> {
        variables.iter().try_for_each(|variable| self.known(variable))?;
        // The settings' code gives them even where something is wrong.
        let why = || "the settings are wrong".to_owned();
        let settings = self.settings.as_ref().ok_or_else(|| Gap { place: self.place.clone(), why: why() })?;
        Ok(read(settings))
    }

    /// Refuses a variable that is not known, or whose value is wrong.
    fn known(&self, name: &str) -> Result<(), Gap> {
        match self.variables.get(name) {
            Some(Variable { text: Err(why), .. }) => Err(Gap { place: self.place_of(name), why: why.clone() }),
            _ => self.refuse_wrong(name),
        }
    }

    fn refuse_wrong(&self, name: &str) -> Result<(), Gap> {
        if self.problems.iter().any(|problem| problem.setting == name) {
            return Err(Gap { place: self.place_of(name), why: "it is wrong, or not set".to_owned() });
        }
        Ok(())
    }
}

/// What a name or URL that is not known is read as.
fn stand_in(variable: &str) -> Option<&'static str> {
    match variable {
        TABLE => Some("unknown"),
        QUEUE_URL | PARK_QUEUE_URL => Some("https://sqs.invalid/000000000000/unknown"),
        _ => None,
    }
}

/// Whether a problem is that of a variable, or speaks of it.
fn concerns(problem: &Problem, variable: &str) -> bool {
    let option = variable.trim_start_matches("MICROBATCH_").to_ascii_lowercase();
    problem.setting == variable || problem.what.contains(variable) || problem.what.contains(&option)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_named_here_are_the_settings_own() {
        for name in [TABLE, NAMESPACE, QUEUE_URL, PARK_QUEUE_URL, PARTITION, BACKOFF] {
            assert!(settings::variables().any(|variable| variable.name == name), "{name}");
        }
    }
}
