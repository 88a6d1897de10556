//! What the function reads from its environment.

use std::{error::Error, fmt};

/// The variable that names the telemetry table.
pub const TELEMETRY_TABLE: &str = "TELEMETRY_TABLE";

/// The function's own settings; those of the adapter are `MICROBATCH_*` variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The table that rows are written to.
    pub telemetry_table: String,
}

impl Config {
    /// Reads the settings through `get`, which gives a variable's value: [`std::env::var`] made optional, or a test's map.
    pub fn from_lookup(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let telemetry_table = get(TELEMETRY_TABLE).filter(|name| !name.trim().is_empty());
        Ok(Self { telemetry_table: telemetry_table.ok_or(ConfigError::MissingTelemetryTable)? })
    }
}

/// Why the function cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// [`TELEMETRY_TABLE`] is not set, or blank.
    MissingTelemetryTable,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingTelemetryTable => write!(
                f,
                "{TELEMETRY_TABLE} is not set: set it to the name of the DynamoDB table for readings (partition key device_id, \
                 sort key row_id, both strings)"
            ),
        }
    }
}

impl Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let config = Config::from_lookup(|name| (name == TELEMETRY_TABLE).then(|| "telemetry".to_owned()));
        assert_eq!(config, Ok(Config { telemetry_table: "telemetry".to_owned() }));
    }

    #[test]
    fn a_missing_or_blank_table_is_an_error_that_says_what_to_set() {
        for value in [None, Some(""), Some("  ")] {
            let error = Config::from_lookup(|_| value.map(str::to_owned)).expect_err("no table");
            assert!(error.to_string().contains("TELEMETRY_TABLE"), "{error}");
        }
    }
}
