//! Lines of CloudWatch's embedded metric format, checked against what AWS publishes of it.
//!
//! "Specification: Embedded metric format" (Amazon CloudWatch User Guide) has the schema of the metadata and, in prose, what
//! the targets must be. Values with counts are not in that text; CloudWatch takes them, and AWS's own agent and its crate
//! metrique write them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Longest line: a log event of CloudWatch Logs.
const LINE_BYTES_MAX: usize = 262_144;
const METRICS_MAX: usize = 100;
const VALUES_MAX: usize = 100;
const DIMENSIONS_MAX: usize = 30;

const UNITS: &[&str] = &[
    "Seconds",
    "Microseconds",
    "Milliseconds",
    "Bytes",
    "Kilobytes",
    "Megabytes",
    "Gigabytes",
    "Terabytes",
    "Bits",
    "Kilobits",
    "Megabits",
    "Gigabits",
    "Terabits",
    "Percent",
    "Count",
    "None",
];

/// What a line tells CloudWatch.
#[derive(Debug, Clone, PartialEq)]
pub struct EmfLine {
    /// The metrics' namespace.
    pub namespace: String,
    /// When it was measured, in epoch milliseconds.
    pub timestamp_ms: u64,
    /// The dimensions, with their values.
    pub dimensions: BTreeMap<String, String>,
    /// The metrics: unit, and observations as values with how often they occurred.
    pub metrics: BTreeMap<String, (String, Vec<(f64, u64)>)>,
    /// The whole line.
    pub root: Value,
}

impl EmfLine {
    /// Reads a line that holds one set of metrics with one set of dimensions.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn read(line: &str) -> Result<Self, String> {
        check(line.len() <= LINE_BYTES_MAX && !line.trim_end().contains('\n'), "one line of at most 256 KB")?;
        let root: Value = serde_json::from_str(line).map_err(|error| format!("a JSON object: {error}"))?;
        let metadata = &root["_aws"];
        let timestamp_ms = metadata["Timestamp"].as_u64().ok_or("_aws.Timestamp is an integer")?;
        let [directive] = metadata["CloudWatchMetrics"].as_array().map(Vec::as_slice).unwrap_or_default() else {
            return Err("_aws.CloudWatchMetrics has one directive".into());
        };
        let namespace = directive["Namespace"].as_str().ok_or("Namespace is a string")?.to_owned();
        check((1..=1_024).contains(&namespace.len()), "Namespace has 1 to 1,024 characters")?;
        let dimensions = dimensions(directive, &root)?;
        let metrics = metrics(directive, &root)?;
        Ok(Self { namespace, timestamp_ms, dimensions, metrics, root })
    }

    /// The sum of a metric's observations; 0 where there are none.
    pub fn sum(&self, metric: &str) -> f64 {
        let of = self.metrics.get(metric);
        #[expect(clippy::cast_precision_loss, reason = "counts of a test")]
        of.map_or(0.0, |(_, values)| values.iter().map(|(value, count)| value * *count as f64).sum())
    }

    /// How many observations a metric has.
    pub fn count(&self, metric: &str) -> u64 {
        self.metrics.get(metric).map_or(0, |(_, values)| values.iter().map(|(_, count)| count).sum())
    }
}

fn check(holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

fn dimensions(directive: &Value, root: &Value) -> Result<BTreeMap<String, String>, String> {
    let [set] = directive["Dimensions"].as_array().map(Vec::as_slice).unwrap_or_default() else {
        return Err("Dimensions has one set".into());
    };
    let names = set.as_array().ok_or("a dimension set is an array")?;
    check(names.len() <= DIMENSIONS_MAX, "a set has at most 30 dimensions")?;
    let dimension = |name: &Value| {
        let name = name.as_str().filter(|name| (1..=250).contains(&name.len()))?;
        let value = root[name].as_str().filter(|value| (1..=1_024).contains(&value.len()))?;
        Some((name.to_owned(), value.to_owned()))
    };
    let read =
        names.iter().map(|name| dimension(name).ok_or_else(|| format!("{name} names a member that is a string")));
    read.collect()
}

type Metrics = BTreeMap<String, (String, Vec<(f64, u64)>)>;

fn metrics(directive: &Value, root: &Value) -> Result<Metrics, String> {
    let definitions = directive["Metrics"].as_array().ok_or("Metrics is an array")?;
    check(definitions.len() <= METRICS_MAX, "a directive has at most 100 metrics")?;
    let mut metrics = Metrics::new();
    for definition in definitions {
        let known: BTreeSet<&str> = ["Name", "Unit", "StorageResolution"].into();
        let members = definition.as_object().ok_or("a metric is an object")?;
        check(members.keys().all(|member| known.contains(member.as_str())), "a metric has no other members")?;
        let name = definition["Name"].as_str().ok_or("Name is a string")?;
        let unit = definition["Unit"].as_str().unwrap_or("None");
        check(UNITS.contains(&unit), &format!("{name}: {unit} is one of CloudWatch's units"))?;
        let values = observations(&root[name]).ok_or_else(|| format!("{name}: numbers, at most 100, none negative"))?;
        let twice = metrics.insert(name.to_owned(), (unit.to_owned(), values)).is_some();
        check(!twice, &format!("{name} stands once"))?;
    }
    Ok(metrics)
}

/// A number, an array of numbers, or values with their counts.
fn observations(target: &Value) -> Option<Vec<(f64, u64)>> {
    let number = |value: &Value| value.as_f64().filter(|value| value.is_finite() && *value >= 0.0);
    let observations: Vec<(f64, u64)> = match target {
        Value::Array(values) => values.iter().map(|value| Some((number(value)?, 1))).collect::<Option<_>>()?,
        Value::Object(members) => {
            let (values, counts) = (members.get("Values")?.as_array()?, members.get("Counts")?.as_array()?);
            let pairs = values.iter().zip(counts).map(|(value, count)| Some((number(value)?, count.as_u64()?)));
            (members.len() == 2 && values.len() == counts.len()).then(|| pairs.collect::<Option<_>>())??
        }
        single => vec![(number(single)?, 1)],
    };
    (1..=VALUES_MAX).contains(&observations.len()).then_some(observations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(target: &str) -> String {
        format!(
            r#"{{"_aws":{{"Timestamp":5,"CloudWatchMetrics":[{{"Namespace":"n","Dimensions":[["d"]],"Metrics":[{{"Name":"m","Unit":"Count"}}]}}]}},"d":"x","m":{target}}}"#
        )
    }

    #[test]
    fn the_three_forms_of_a_target_are_read() {
        for (target, sum, count) in [("3", 3.0, 1), ("[1,2]", 3.0, 2), (r#"{"Values":[1.5,2],"Counts":[2,3]}"#, 9.0, 5)]
        {
            let line = EmfLine::read(&line(target)).expect("it obeys");
            assert!((line.sum("m") - sum).abs() < 1e-9 && line.count("m") == count, "{target}");
            assert_eq!(line.dimensions["d"], "x");
        }
    }

    #[test]
    fn what_breaks_a_rule_is_told() {
        for target in ["\"3\"", "null", "[]", "-1", r#"{"Values":[1],"Counts":[]}"#, r#"{"Values":[1]}"#] {
            assert!(EmfLine::read(&line(target)).is_err(), "{target}");
        }
        for (from, to) in [("\"Unit\":\"Count\"", "\"Unit\":\"Pieces\""), ("\"d\":\"x\"", "\"d\":1"), (":5", ":\"5\"")]
        {
            assert!(EmfLine::read(&line("1").replace(from, to)).is_err(), "{to}");
        }
        assert!(EmfLine::read("text").is_err());
    }
}
