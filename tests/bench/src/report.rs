//! What a job found, as a table and as JSON.

use std::fmt::Write;
use std::num::NonZeroUsize;

use serde_json::{Map, Value, json};

use crate::machine::{machine, versions};
use crate::runs::Sample;
use crate::stats::{Summary, quantile};

/// What a job found.
#[derive(Debug)]
pub(crate) struct Report {
    /// The job, and how it was run.
    pub(crate) title: String,
    /// What is measured against the peers.
    pub(crate) ours: &'static str,
    /// Versions beside those of this program.
    pub(crate) versions: Vec<(String, String)>,
    pub(crate) comparisons: Vec<Comparison>,
}

/// One measure of ours and of a peer's, at one batch size where it has one.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    pub(crate) peer: &'static str,
    pub(crate) records: Option<NonZeroUsize>,
    /// The ratio's name begins with it: `cpu`, `wall_4ms`.
    pub(crate) measure: String,
    /// The measure and its unit, for people.
    pub(crate) label: &'static str,
    /// The figures: ours, theirs.
    pub(crate) figures: [Vec<f64>; 2],
    pub(crate) compared: Compared,
}

/// What of the figures is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Compared {
    /// The medians. Figures come run by run, and those of one run make a ratio of their own.
    Medians,
    /// A quantile each, as of all batches: they do not come in pairs.
    Quantiles(f64),
}

impl Comparison {
    /// What the ratio is called: measure, peer, and batch size.
    pub(crate) fn name(&self) -> String {
        let mut name = format!("{}.{}", self.measure, self.peer);
        if let Some(records) = self.records {
            // Writing to a string cannot fail.
            let _ = write!(name, ".{records}");
        }
        name
    }

    /// What is compared: ours, theirs.
    pub(crate) fn values(&self) -> [f64; 2] {
        self.figures.each_ref().map(|figures| match self.compared {
            Compared::Medians => Summary::of(figures).median,
            Compared::Quantiles(part) => quantile(figures, part),
        })
    }

    fn ratio(&self) -> f64 {
        let [ours, theirs] = self.values();
        ours / theirs
    }

    /// The least and the greatest ratio of a run, where there were several.
    fn spread(&self) -> Option<[f64; 2]> {
        let [ours, theirs] = &self.figures;
        let Summary { min, max, .. } = Summary::of_ratios(ours, theirs);
        (self.compared == Compared::Medians && ours.len() > 1).then_some([min, max])
    }
}

/// Processor and wall time of two sides at one batch size, their measures' names ending in `suffix`.
pub(crate) fn time_comparisons(
    peer: &'static str,
    records: NonZeroUsize,
    suffix: &str,
    samples: &[Vec<Sample>; 2],
) -> [Comparison; 2] {
    let figures = |figure: fn(&Sample) -> f64| samples.each_ref().map(|side| side.iter().map(figure).collect());
    [
        ("cpu", "CPU us/item", figures(|sample| sample.cpu_us_per_item)),
        ("wall", "wall ms/batch", figures(|sample| sample.wall_ms_per_batch)),
    ]
    .map(|(measure, label, figures)| Comparison {
        peer,
        records: Some(records),
        measure: format!("{measure}{suffix}"),
        label,
        figures,
        compared: Compared::Medians,
    })
}

impl Report {
    /// The medians of both sides, and the ratios with their spread.
    pub(crate) fn table(&self) -> String {
        let mut lines = vec![self.title.clone(), machine(), self.version_list().join(", "), String::new()];
        let names = self.comparisons.iter().map(Comparison::name);
        let width = names.map(|name| name.len()).max().unwrap_or_default();
        lines.push(line(width, ["ratio", "of", "theirs", "ours", "ratio", "min", "max"]));
        for comparison in &self.comparisons {
            let [ours, theirs] = comparison.values().map(three_digits);
            let ratio = ratio_digits(comparison.ratio());
            let [min, max] = comparison.spread().map_or_else(Default::default, |spread| spread.map(ratio_digits));
            lines.push(line(width, [&comparison.name(), comparison.label, &theirs, &ours, &ratio, &min, &max]));
        }
        lines.join("\n") + "\n"
    }

    /// All of it: `ratios` by name, `comparisons` with their spread and every figure.
    pub(crate) fn json(&self) -> Value {
        let ratios: Map<_, _> =
            self.comparisons.iter().map(|comparison| (comparison.name(), comparison.ratio().into())).collect();
        let comparisons = self.comparisons.iter().map(|of| {
            let [ours, theirs] = &of.figures;
            let (ratio, spread) = (of.ratio(), of.spread());
            let (name, label) = (of.name(), of.label);
            json!({
                "name": name, "measure": label, "ratio": ratio, "spread": spread, self.ours: ours, of.peer: theirs,
            })
        });
        let comparisons: Vec<_> = comparisons.collect();
        json!({
            "title": self.title,
            "machine": machine(),
            "versions": self.all_versions(),
            "ratios": ratios,
            "comparisons": comparisons,
        })
    }

    /// All versions, each behind its name.
    pub(crate) fn version_list(&self) -> Vec<String> {
        let versions = self.all_versions();
        versions.iter().map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or("?"))).collect()
    }

    fn all_versions(&self) -> Map<String, Value> {
        let peers = self.versions.iter().map(|(name, version)| (name.clone(), Value::from(version.as_str())));
        versions().into_iter().chain(peers).collect()
    }
}

fn line(width: usize, [name, label, theirs, ours, ratio, min, max]: [&str; 7]) -> String {
    format!("{name:<width$}  {label:<15}  {theirs:>8}  {ours:>8}  {ratio:>7}  {min:>7}  {max:>7}")
}

/// At least three digits, two of them after the point at most.
pub(crate) fn three_digits(figure: f64) -> String {
    let decimals = match figure {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{figure:.decimals$}")
}

/// At least three digits.
fn ratio_digits(ratio: f64) -> String {
    let decimals = if ratio < 0.1 { 4 } else { 3 };
    format!("{ratio:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let comparison = |measure: &str, records, ours: f64| Comparison {
            peer: "handwritten",
            records: NonZeroUsize::new(records),
            measure: measure.to_owned(),
            label: "CPU us/item",
            figures: [vec![ours, ours], vec![8.0, 8.0]],
            compared: Compared::Medians,
        };
        Report {
            title: "a title".to_owned(),
            ours: "microbatch",
            versions: vec![("node".to_owned(), "24".to_owned())],
            comparisons: vec![comparison("cpu", 1_000, 2.0), comparison("cold", 0, 4.0)],
        }
    }

    #[test]
    fn ratios_are_named_by_measure_peer_and_batch_size() {
        let json = report().json();
        assert_eq!(json["ratios"], json!({ "cpu.handwritten.1000": 0.25, "cold.handwritten": 0.5 }));
        assert_eq!(json["comparisons"][0]["microbatch"], json!([2.0, 2.0]));
        assert_eq!(json["comparisons"][0]["handwritten"], json!([8.0, 8.0]));
        assert_eq!(json["versions"]["node"], "24");
    }

    #[test]
    fn quantiles_are_of_all_figures_and_have_no_spread() {
        let mut report = report();
        let figures = [vec![1.0, 2.0, 9.0], vec![4.0, 3.0, 12.0, 5.0]];
        report.comparisons[0].figures = figures;
        report.comparisons[0].compared = Compared::Quantiles(0.99);
        let json = report.json();
        assert_eq!(json["ratios"]["cpu.handwritten.1000"], 0.75);
        assert_eq!(json["comparisons"][0]["spread"], Value::Null);
        assert_eq!(json["comparisons"][0]["handwritten"], json!([4.0, 3.0, 12.0, 5.0]));
        assert!(report.table().contains(" 12.0      9.00    0.750"), "{}", report.table());
    }

    #[test]
    fn the_table_shows_medians_and_ratios() {
        let table = report().table();
        let line = table.lines().find(|line| line.starts_with("cpu.handwritten.1000")).expect("a line");
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells, ["cpu.handwritten.1000", "CPU", "us/item", "8.00", "2.00", "0.250", "0.250", "0.250"]);
        assert!(table.contains("node 24"), "{table}");
    }
}
