//! What the function reads from its environment.

use std::{error::Error, fmt};

use crate::currency::{BadCurrencies, Currencies};

/// The variable that names the table of entries.
pub const LEDGER_TABLE: &str = "LEDGER_TABLE";
/// The variable that names the table of balances.
pub const BALANCES_TABLE: &str = "BALANCES_TABLE";
/// The variable that lists the currencies of the ledger.
pub const LEDGER_CURRENCIES: &str = "LEDGER_CURRENCIES";

/// The function's own settings; those of the adapter are `MICROBATCH_*` variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The table that entries are put in.
    pub ledger_table: String,
    /// The table that holds the balances.
    pub balances_table: String,
    /// The currencies that an entry may have.
    pub currencies: Currencies,
}

impl Config {
    /// Reads the settings through `get`, which gives a variable's value: [`std::env::var`] made optional, or a test's map.
    ///
    /// # Errors
    /// All that is missing or wrong, at once.
    pub fn from_lookup(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut read = |name| {
            let value = get(name).filter(|value| !value.trim().is_empty());
            problems.extend(value.is_none().then_some(Problem::Missing(name)));
            value
        };
        let (ledger_table, balances_table) = (read(LEDGER_TABLE), read(BALANCES_TABLE));
        let currencies = read(LEDGER_CURRENCIES).map(|list| Currencies::parse(&list));
        if let Some(Err(error)) = currencies {
            problems.push(Problem::Currencies(error));
        }
        match (ledger_table, balances_table, currencies) {
            (Some(ledger_table), Some(balances_table), Some(Ok(currencies))) => {
                Ok(Self { ledger_table, balances_table, currencies })
            }
            _ => Err(ConfigError { problems }),
        }
    }
}

/// Why the function cannot start: everything at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    Missing(&'static str),
    Currencies(BadCurrencies),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => {
                let what = match *name {
                    LEDGER_TABLE => {
                        "the DynamoDB table of entries (partition key account_id, sort key entry_id, strings)"
                    }
                    BALANCES_TABLE => {
                        "the DynamoDB table of balances (partition key account_id, sort key currency, strings)"
                    }
                    _ => "the currencies of the ledger, such as EUR,USD",
                };
                write!(f, "{name} is not set: set it to {what}")
            }
            Self::Currencies(error) => write!(f, "{LEDGER_CURRENCIES}: {error}"),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: [&str; 3]) -> Result<Config, ConfigError> {
        let names = [LEDGER_TABLE, BALANCES_TABLE, LEDGER_CURRENCIES];
        Config::from_lookup(|asked| {
            let place = names.iter().position(|name| *name == asked)?;
            Some(values[place].to_owned())
        })
    }

    #[test]
    fn the_settings_are_read() {
        let config = read(["ledger", "balances", "EUR,USD"]).expect("all are set");
        assert_eq!((config.ledger_table.as_str(), config.balances_table.as_str()), ("ledger", "balances"));
        assert!(config.currencies.contains("USD"));
    }

    #[test]
    fn all_that_is_missing_is_said_at_once() {
        for missing in [Config::from_lookup(|_| None), read([" ", "", "\t"])] {
            let error = missing.expect_err("nothing is set").to_string();
            assert!(
                [LEDGER_TABLE, BALANCES_TABLE, LEDGER_CURRENCIES].iter().all(|name| error.contains(name)),
                "{error}"
            );
        }
        let error = read(["", "balances", "euro"]).expect_err("two are wrong").to_string();
        assert!(error.contains("LEDGER_TABLE is not set") && error.contains("LEDGER_CURRENCIES: expected"), "{error}");
        assert!(!error.contains("BALANCES_TABLE"), "{error}");
    }
}
