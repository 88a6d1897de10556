//! What a job found, as a table and as JSON.

use std::num::NonZeroUsize;

use serde_json::{Map, Value, json};

use crate::machine::{machine, versions};
use crate::stats::Summary;

/// What a job found. Of each pair the first is ours, the second theirs.
#[derive(Debug)]
pub(crate) struct Report {
    /// The job, and how it was run.
    pub(crate) title: String,
    pub(crate) sides: [&'static str; 2],
    pub(crate) comparisons: Vec<Comparison>,
}

/// One measure at one batch size.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) records: NonZeroUsize,
    /// The ratio's name begins with it: `cpu`, `wall_4ms`.
    pub(crate) measure: String,
    /// The measure and its unit, for people.
    pub(crate) label: &'static str,
    /// The figures, run by run.
    pub(crate) figures: [Vec<f64>; 2],
}

impl Comparison {
    fn ratio(&self) -> Summary {
        Summary::of_ratios(&self.figures[0], &self.figures[1])
    }
}

impl Report {
    /// The medians of both sides, and the ratios with their spread.
    pub(crate) fn table(&self) -> String {
        let [ours, theirs] = self.sides;
        let versions =
            versions().into_iter().map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or("?")));
        let mut lines = vec![self.title.clone(), machine(), versions.collect::<Vec<_>>().join(", "), String::new()];
        lines.push(line(["records", "medians", theirs, ours, &format!("{ours}/{theirs}"), "min", "max"]));
        for comparison in &self.comparisons {
            let records = comparison.records.to_string();
            let [ours, theirs] = comparison.figures.each_ref().map(|figures| three_digits(Summary::of(figures).median));
            let Summary { median, min, max } = comparison.ratio();
            let [median, min, max] = [median, min, max].map(|ratio| format!("{ratio:.3}"));
            lines.push(line([&records, comparison.label, &theirs, &ours, &median, &min, &max]));
        }
        lines.join("\n") + "\n"
    }

    /// All of it: `ratios` holds medians by name, `comparisons` every figure.
    pub(crate) fn json(&self) -> Value {
        let name = |of: &Comparison| format!("{}.{}.{}", of.measure, self.sides[1], of.records);
        let ratios: Map<_, _> = self.comparisons.iter().map(|of| (name(of), of.ratio().median.into())).collect();
        let comparisons = self.comparisons.iter().map(|of| {
            let Summary { median, min, max } = of.ratio();
            let ratio = json!({ "median": median, "min": min, "max": max });
            let [ours, theirs] = &of.figures;
            json!({ "name": name(of), "measure": of.label, "ratio": ratio, self.sides[0]: ours, self.sides[1]: theirs })
        });
        let comparisons: Vec<_> = comparisons.collect();
        json!({
            "title": self.title, "machine": machine(), "versions": versions(), "ratios": ratios, "comparisons": comparisons,
        })
    }
}

fn line([records, label, theirs, ours, ratio, min, max]: [&str; 7]) -> String {
    format!("{records:>7}  {label:<13}  {theirs:>8}  {ours:>8}  {ratio:>14}  {min:>6}  {max:>6}")
}

/// At least three digits, two of them after the point at most.
fn three_digits(figure: f64) -> String {
    let decimals = match figure {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{figure:.decimals$}")
}
