//! Prices: one dated file, checked as it is read.

use serde_json::{Map, Value};

/// The prices that come with this command.
const BUILT_IN: &str = include_str!("prices.json");
/// The largest price that is believed.
const PRICE_MAX: f64 = 1e6;

/// What AWS asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prices {
    pub(super) date: String,
    pub(super) region: String,
    pub(super) currency: String,
    /// Titles of the pages that the prices are from.
    pub(super) sources: Vec<String>,
    pub(super) lambda_million_requests: f64,
    pub(super) lambda_gb_second_x86_64: f64,
    pub(super) lambda_gb_second_arm64: f64,
    pub(super) sqs_million_requests_standard: f64,
    pub(super) sqs_million_requests_fifo: f64,
    pub(super) dynamodb_million_write_units: f64,
    pub(super) dynamodb_million_read_units: f64,
    pub(super) dynamodb_storage_gb_month: f64,
    pub(super) log_gb: f64,
    pub(super) metric_month: f64,
}

impl Prices {
    pub(super) fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("a test reads the file")
    }

    /// Reads prices.
    ///
    /// # Errors
    /// Every problem of the text, one a line.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("expected JSON: {error}"))?;
        let Value::Object(root) = value else { return Err("expected a JSON object".to_owned()) };
        let mut reader = Reader { root, problems: Vec::new() };
        let prices = Self {
            date: reader.date(),
            region: reader.word("region"),
            currency: reader.word("currency"),
            sources: reader.sources(),
            lambda_million_requests: reader.price("lambda", "million_requests"),
            lambda_gb_second_x86_64: reader.price("lambda", "gb_second_x86_64"),
            lambda_gb_second_arm64: reader.price("lambda", "gb_second_arm64"),
            sqs_million_requests_standard: reader.price("sqs", "million_requests_standard"),
            sqs_million_requests_fifo: reader.price("sqs", "million_requests_fifo"),
            dynamodb_million_write_units: reader.price("dynamodb", "million_write_units"),
            dynamodb_million_read_units: reader.price("dynamodb", "million_read_units"),
            dynamodb_storage_gb_month: reader.price("dynamodb", "storage_gb_month"),
            log_gb: reader.price("cloudwatch", "log_gb"),
            metric_month: reader.price("cloudwatch", "metric_month"),
        };
        reader.unknown();
        if reader.problems.is_empty() { Ok(prices) } else { Err(reader.problems.join("\n")) }
    }
}

/// Takes what is known out of the object, so that the rest is unknown.
struct Reader {
    root: Map<String, Value>,
    problems: Vec<String>,
}

impl Reader {
    fn problem(&mut self, place: &str, expected: &str, found: Option<&Value>) {
        let found = match found {
            None => "nothing".to_owned(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::String(_)) => "another text, or one in quotes".to_owned(),
            Some(Value::Array(_)) => "a list".to_owned(),
            Some(Value::Object(_)) => "an object".to_owned(),
            Some(Value::Null | Value::Bool(_)) => "null, true or false".to_owned(),
        };
        self.problems.push(format!("{place}: expected {expected}, found {found}"));
    }

    fn price(&mut self, service: &str, name: &str) -> f64 {
        let found = self.root.get_mut(service).and_then(Value::as_object_mut).and_then(|prices| prices.remove(name));
        let price = found.as_ref().and_then(Value::as_f64).filter(|price| (0.0..=PRICE_MAX).contains(price));
        price.unwrap_or_else(|| {
            self.problem(&format!("{service}.{name}"), "a price from 0 to 1,000,000", found.as_ref());
            0.0
        })
    }

    fn word(&mut self, name: &str) -> String {
        let is_word = |text: &str| (1..=40).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        self.text(name, "a word, as us-east-1 or USD", is_word)
    }

    fn date(&mut self) -> String {
        let is_date = |text: &str| crate::telemetry::moment::timestamp(&format!("{text}T00:00:00Z")).is_some();
        self.text("date", "a date, as 2026-11-28", is_date)
    }

    fn text(&mut self, name: &str, expected: &str, is_right: impl Fn(&str) -> bool) -> String {
        match self.root.remove(name) {
            Some(Value::String(text)) if is_right(&text) => text,
            found => {
                self.problem(name, expected, found.as_ref());
                String::new()
            }
        }
    }

    fn sources(&mut self) -> Vec<String> {
        let found = self.root.remove("sources");
        let titles = found.as_ref().and_then(Value::as_array).filter(|titles| !titles.is_empty());
        let titles: Option<Vec<String>> =
            titles.and_then(|titles| titles.iter().map(|title| title.as_str().map(str::to_owned)).collect());
        titles.unwrap_or_else(|| {
            self.problem("sources", "a list of the titles of pages", found.as_ref());
            Vec::new()
        })
    }

    /// A price with a wrong name would otherwise be missed without a word.
    fn unknown(&mut self) {
        const SERVICES: [&str; 4] = ["lambda", "sqs", "dynamodb", "cloudwatch"];
        for (name, value) in &self.root {
            match value.as_object().filter(|_| SERVICES.contains(&name.as_str())) {
                Some(prices) => {
                    let unknown = prices.keys().map(|price| format!("{name}.{price}: unknown; leave it out"));
                    self.problems.extend(unknown);
                }
                None if SERVICES.contains(&name.as_str()) => {}
                None => self.problems.push(format!("{name}: unknown; leave it out")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_prices_are_read() {
        let prices = Prices::built_in();
        assert_eq!((prices.region.as_str(), prices.currency.as_str(), prices.sources.len()), ("us-east-1", "USD", 4));
        assert!((prices.dynamodb_million_write_units - 0.625).abs() < 1e-12);
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let mut prices: Value = serde_json::from_str(BUILT_IN).expect("JSON");
        prices["date"] = "yesterday".into();
        prices["region"] = 7.into();
        prices["sources"] = Value::Array(Vec::new());
        prices["lambda"]["million_requests"] = (-1).into();
        prices["sqs"] = "free".into();
        prices["dynamodb"]["million_writes"] = 1.into();
        prices["cloudwatch"].as_object_mut().expect("an object").remove("log_gb");
        prices["tax"] = 0.2.into();
        let problems = Prices::parse(&prices.to_string()).expect_err("many");
        let told: Vec<&str> = problems.lines().collect();
        assert_eq!(
            told,
            [
                "date: expected a date, as 2026-11-28, found another text, or one in quotes",
                "region: expected a word, as us-east-1 or USD, found 7",
                "sources: expected a list of the titles of pages, found a list",
                "lambda.million_requests: expected a price from 0 to 1,000,000, found -1",
                "sqs.million_requests_standard: expected a price from 0 to 1,000,000, found nothing",
                "sqs.million_requests_fifo: expected a price from 0 to 1,000,000, found nothing",
                "cloudwatch.log_gb: expected a price from 0 to 1,000,000, found nothing",
                "dynamodb.million_writes: unknown; leave it out",
                "tax: unknown; leave it out",
            ]
        );
    }

    #[test]
    fn what_is_no_json_object_is_refused() {
        for (text, expected) in
            [("", "expected JSON"), ("[]", "expected a JSON object"), ("{\"lambda\": 1e999}", "JSON")]
        {
            assert!(Prices::parse(text).expect_err(text).contains(expected), "{text}");
        }
    }
}
