//! The currencies that a ledger keeps books in.

use std::{collections::BTreeSet, error::Error, fmt};

/// Letters in an ISO 4217 code.
const CODE_CHARS: usize = 3;

/// The currencies of a ledger, as ISO 4217 codes; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Currencies(BTreeSet<String>);

impl Currencies {
    /// Reads a list such as `EUR,USD`.
    ///
    /// # Errors
    /// When it is empty, or a part of it is not three capital letters.
    pub fn parse(list: &str) -> Result<Self, BadCurrencies> {
        let codes: BTreeSet<String> = list.split(',').map(|code| code.trim().to_owned()).collect();
        let is_code = |code: &String| code.len() == CODE_CHARS && code.bytes().all(|byte| byte.is_ascii_uppercase());
        if codes.iter().all(is_code) { Ok(Self(codes)) } else { Err(BadCurrencies) }
    }

    /// Whether the ledger keeps this currency. Codes are in capitals, as the standard writes them.
    pub fn contains(&self, code: &str) -> bool {
        self.0.contains(code)
    }
}

/// The list is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadCurrencies;

impl fmt::Display for BadCurrencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected currency codes of three capital letters, separated by commas, such as EUR,USD")
    }
}

impl Error for BadCurrencies {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read() {
        let currencies = Currencies::parse("EUR, USD,EUR").expect("a list");
        assert!(currencies.contains("EUR") && currencies.contains("USD"));
        for other in ["", "eur", "SEK", "EUR,USD"] {
            assert!(!currencies.contains(other), "{other}");
        }
    }

    #[test]
    fn what_is_no_list_of_codes_is_refused() {
        for list in ["", " ", "EUR,", "eur", "EURO", "EUR;USD", "€UR", "E1R"] {
            assert_eq!(Currencies::parse(list), Err(BadCurrencies), "{list}");
        }
    }
}
