//! What a job found, as a table and as JSON.

use std::fmt::Write;
use std::num::NonZeroUsize;

use serde_json::{Map, Value, json};

use crate::machine::{machine, versions};
use crate::runs::Sample;
use crate::stats::Summary;

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
    /// The figures, run by run: ours, theirs.
    pub(crate) figures: [Vec<f64>; 2],
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

    fn ratio(&self) -> Summary {
        Summary::of_ratios(&self.figures[0], &self.figures[1])
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
    })
}

impl Report {
    /// The medians of both sides, and the ratios with their spread.
    pub(crate) fn table(&self) -> String {
        let versions = self.all_versions().into_iter().map(|(name, version)| {
            let version = version.as_str().unwrap_or("?").to_owned();
            format!("{name} {version}")
        });
        let mut lines = vec![self.title.clone(), machine(), versions.collect::<Vec<_>>().join(", "), String::new()];
        lines.push(line(["ratio", "median of", "theirs", "ours", "ratio", "min", "max"]));
        for comparison in &self.comparisons {
            let [ours, theirs] = comparison.figures.each_ref().map(|figures| three_digits(Summary::of(figures).median));
            let Summary { median, min, max } = comparison.ratio();
            let [median, min, max] = [median, min, max].map(|ratio| format!("{ratio:.3}"));
            lines.push(line([&comparison.name(), comparison.label, &theirs, &ours, &median, &min, &max]));
        }
        lines.join("\n") + "\n"
    }

    /// All of it: `ratios` holds medians by name, `comparisons` every figure.
    pub(crate) fn json(&self) -> Value {
        let ratios: Map<_, _> =
            self.comparisons.iter().map(|comparison| (comparison.name(), comparison.ratio().median.into())).collect();
        let comparisons = self.comparisons.iter().map(|of| {
            let Summary { median, min, max } = of.ratio();
            let ratio = json!({ "median": median, "min": min, "max": max });
            let [ours, theirs] = &of.figures;
            json!({ "name": of.name(), "measure": of.label, "ratio": ratio, self.ours: ours, of.peer: theirs })
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

    fn all_versions(&self) -> Map<String, Value> {
        let peers = self.versions.iter().map(|(name, version)| (name.clone(), Value::from(version.as_str())));
        versions().into_iter().chain(peers).collect()
    }
}

fn line([name, label, theirs, ours, ratio, min, max]: [&str; 7]) -> String {
    format!("{name:<32}  {label:<15}  {theirs:>8}  {ours:>8}  {ratio:>7}  {min:>7}  {max:>7}")
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
    fn the_table_shows_medians_and_ratios() {
        let table = report().table();
        let line = table.lines().find(|line| line.starts_with("cpu.handwritten.1000")).expect("a line");
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells, ["cpu.handwritten.1000", "CPU", "us/item", "8.00", "2.00", "0.250", "0.250", "0.250"]);
        assert!(table.contains("node 24"), "{table}");
    }
}
