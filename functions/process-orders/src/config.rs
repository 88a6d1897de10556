//! What the function reads from its environment.

use std::{error::Error, fmt};

/// The variable that names the orders table.
pub const ORDERS_TABLE: &str = "ORDERS_TABLE";

/// The function's own settings; those of the adapter are `MICROBATCH_*` variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The table that orders are written to.
    pub orders_table: String,
}

impl Config {
    /// Reads the settings through `get`, which gives a variable's value: [`std::env::var`] made optional, or a test's map.
    pub fn from_lookup(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let orders_table = get(ORDERS_TABLE).filter(|name| !name.trim().is_empty());
        Ok(Self { orders_table: orders_table.ok_or(ConfigError::MissingOrdersTable)? })
    }
}

/// Why the function cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// [`ORDERS_TABLE`] is not set, or blank.
    MissingOrdersTable,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingOrdersTable => write!(
                f,
                "{ORDERS_TABLE} is not set: set it to the name of the DynamoDB table for orders (partition key order_id, a string)"
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
        let config = Config::from_lookup(|name| (name == ORDERS_TABLE).then(|| "orders".to_owned()));
        assert_eq!(config, Ok(Config { orders_table: "orders".to_owned() }));
    }

    #[test]
    fn a_missing_or_blank_table_is_an_error_that_says_what_to_set() {
        for value in [None, Some(""), Some("  ")] {
            let error = Config::from_lookup(|_| value.map(str::to_owned)).expect_err("no table");
            assert!(error.to_string().contains("ORDERS_TABLE"), "{error}");
        }
    }
}
