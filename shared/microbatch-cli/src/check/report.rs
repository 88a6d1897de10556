//! What was found, as text and as JSON.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::found::{Gap, Place};
use super::rules::{Problem, Rule, Severity};
use crate::terminal;

/// Characters of a line. What comes from a template is bounded.
const LINE_MAX: usize = 1_000;

/// What became of a template.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) file: String,
    pub(super) functions: usize,
    pub(super) mappings: usize,
    pub(super) findings: Vec<Finding>,
    /// Findings that the template says are meant.
    pub(super) skipped: usize,
    pub(super) not_checkable: Vec<NotCheckable>,
}

/// A mistake that a rule found.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) rule: &'static str,
    pub(super) place: Place,
    pub(super) severity: Severity,
    found: String,
    fix_in: String,
    fix: String,
    page: &'static str,
}

/// A value that is not known, and the rules that needed it.
#[derive(Debug)]
pub(super) struct NotCheckable {
    pub(super) gap: Gap,
    pub(super) rules: BTreeSet<&'static str>,
}

impl Finding {
    pub(super) fn new(rule: &Rule, problem: Problem) -> Self {
        let Problem { place, severity, found, fix_in, fix } = problem;
        Self { rule: rule.id, place, severity, found, fix_in, fix, page: rule.page }
    }

    /// Whether another finding says the same: as one value's, found by way of two mappings.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.rule, &self.place, &self.found) == (other.rule, &other.place, &other.found)
    }

    /// Where the fix belongs, and the fix.
    #[cfg(test)]
    pub(super) fn fix(&self) -> (&str, &str) {
        (&self.fix_in, &self.fix)
    }

    fn json(&self) -> Value {
        json!({
            "rule": self.rule,
            "severity": self.severity.name(),
            "line": self.place.line,
            "resource": self.place.resource,
            "property": self.place.path,
            "found": self.found,
            "fix": { "in": self.fix_in, "yaml": self.fix },
            "page": self.page,
        })
    }
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// The findings, one after the other, and a summary.
pub(super) fn text(checked: &[Checked]) -> String {
    let mut text = String::new();
    for template in checked {
        let file = &template.file;
        for finding in &template.findings {
            let Finding { rule, place, severity, found, fix_in, fix, page } = finding;
            line(&mut text, &format!("{file}:{} {rule} {} {place}: {found}", place.line, severity.name()));
            line(&mut text, &format!("  fix in {fix_in}:"));
            fix.lines().for_each(|fix| line(&mut text, &format!("    {fix}")));
            line(&mut text, &format!("  see {page}"));
        }
        for NotCheckable { gap: Gap { place, why }, rules } in &template.not_checkable {
            let rules: Vec<&str> = rules.iter().copied().collect();
            let rules = if rules.is_empty() { String::new() } else { format!(" ({})", rules.join(", ")) };
            line(&mut text, &format!("{file}:{} not checkable {place}: {why}{rules}", place.line));
        }
    }
    if !checked.is_empty() {
        text.push_str(&summary(checked));
    }
    text
}

/// A line without what would disturb a terminal.
fn line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", terminal::tame(line, LINE_MAX));
}

fn summary(checked: &[Checked]) -> String {
    let sum = |count: fn(&Checked) -> usize| checked.iter().map(count).sum::<usize>();
    let of = |severity| {
        move |template: &&Checked| template.findings.iter().filter(|finding| finding.severity == severity).count()
    };
    let total = |severity| checked.iter().map(|template| of(severity)(&template)).sum::<usize>();
    let mut parts = vec![counted(total(Severity::Error), "error"), counted(total(Severity::Warning), "warning")];
    let (skipped, gaps) = (sum(|template| template.skipped), sum(|template| template.not_checkable.len()));
    if skipped > 0 {
        parts.push(format!("{skipped} skipped by Metadata"));
    }
    if gaps > 0 {
        parts.push(format!("{gaps} not checkable"));
    }
    format!(
        "{}, {}, {}: {}",
        counted(checked.len(), "template"),
        counted(sum(|template| template.functions), "function"),
        counted(sum(|template| template.mappings), "mapping"),
        parts.join(", ")
    )
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The same for programs.
pub(super) fn json(checked: &[Checked]) -> String {
    let templates = checked.iter().map(|template| {
        let gap = |NotCheckable { gap: Gap { place, why }, rules }: &NotCheckable| {
            json!({ "line": place.line, "resource": place.resource, "property": place.path, "why": why, "rules": rules })
        };
        json!({
            "file": template.file,
            "functions": template.functions,
            "mappings": template.mappings,
            "findings": template.findings.iter().map(Finding::json).collect::<Vec<_>>(),
            "skipped": template.skipped,
            "not_checkable": template.not_checkable.iter().map(gap).collect::<Vec<_>>(),
        })
    });
    let json = json!({ "templates": templates.collect::<Vec<_>>() });
    format!("{json:#}")
}
