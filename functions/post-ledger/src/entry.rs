//! The ledger entry as it stands in a message's body, and what makes one valid.

use std::{error::Error, fmt};

use serde::Deserialize;

use crate::currency::Currencies;

/// The longest id of an account or an entry in bytes. A message group, which is the account's id, has at most 128
/// characters by SQS; a DynamoDB sort key may have 1,024 bytes.
pub const ID_BYTES_MAX: usize = 128;

/// The largest amount either way, in the currency's minor unit: ten million million euros. More is a mistake,
/// and this keeps a balance within DynamoDB's 38 digits for 10^23 entries.
pub const AMOUNT_MINOR_MAX: u64 = 1_000_000_000_000_000;

/// A ledger entry: what a message's body holds. Fields it does not name are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// The account; also the message's group.
    pub account_id: String,
    /// Names the entry within its account.
    pub entry_id: String,
    /// What the balance changes by, in the currency's minor unit: negative for a debit.
    pub amount_minor: i64,
    /// ISO 4217 code of the amount.
    pub currency: String,
}

impl Entry {
    /// Checks everything that can be checked without looking anything up. The first rule broken is reported, in the
    /// order of [`EntryError`]'s variants.
    pub fn validate(&self, currencies: &Currencies) -> Result<(), EntryError> {
        check_id(Field::AccountId, &self.account_id)?;
        check_id(Field::EntryId, &self.entry_id)?;
        match self.amount_minor.unsigned_abs() {
            0 => return Err(EntryError::ZeroAmount),
            1..=AMOUNT_MINOR_MAX => {}
            _ => return Err(EntryError::AmountTooLarge),
        }
        if !currencies.contains(&self.currency) {
            return Err(EntryError::UnknownCurrency);
        }
        Ok(())
    }
}

fn check_id(field: Field, id: &str) -> Result<(), EntryError> {
    if id.trim().is_empty() {
        return Err(EntryError::BlankId { field });
    }
    if id.len() > ID_BYTES_MAX {
        return Err(EntryError::IdTooLong { field, bytes: id.len() });
    }
    Ok(())
}

/// A field of an entry that holds an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `account_id`
    AccountId,
    /// `entry_id`
    EntryId,
}

impl Field {
    /// The field's name in the message's body.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccountId => "account_id",
            Self::EntryId => "entry_id",
        }
    }
}

/// Why an entry is invalid. It stays so however often it is tried. No variant holds text of the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryError {
    /// An id is empty or white space only.
    BlankId {
        /// The id's field.
        field: Field,
    },
    /// An id is longer than [`ID_BYTES_MAX`].
    IdTooLong {
        /// The id's field.
        field: Field,
        /// The id's length in bytes.
        bytes: usize,
    },
    /// The amount is 0.
    ZeroAmount,
    /// The amount is over [`AMOUNT_MINOR_MAX`], either way.
    AmountTooLarge,
    /// The ledger does not keep the currency.
    UnknownCurrency,
}

impl EntryError {
    /// A short stable name for logs and dashboards.
    pub const fn code(self) -> &'static str {
        match self {
            Self::BlankId { field: Field::AccountId } => "blank_account_id",
            Self::BlankId { field: Field::EntryId } => "blank_entry_id",
            Self::IdTooLong { .. } => "id_too_long",
            Self::ZeroAmount => "zero_amount",
            Self::AmountTooLarge => "amount_too_large",
            Self::UnknownCurrency => "unknown_currency",
        }
    }
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BlankId { field } => write!(f, "{} is blank: an id needs a visible character", field.name()),
            Self::IdTooLong { field, bytes } => {
                write!(f, "{} has {bytes} bytes: an id has at most {ID_BYTES_MAX}", field.name())
            }
            Self::ZeroAmount => f.write_str("amount_minor is 0: an entry changes the balance"),
            Self::AmountTooLarge => {
                write!(f, "amount_minor is out of range: an amount is at most {AMOUNT_MINOR_MAX} either way")
            }
            Self::UnknownCurrency => {
                f.write_str("currency is none that the ledger keeps; LEDGER_CURRENCIES lists those")
            }
        }
    }
}

impl Error for EntryError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            account_id: "a-1".to_owned(),
            entry_id: "e-1".to_owned(),
            amount_minor: 2_500,
            currency: "EUR".to_owned(),
        }
    }

    fn check(change: impl FnOnce(&mut Entry)) -> Result<(), EntryError> {
        let mut entry = entry();
        change(&mut entry);
        entry.validate(&Currencies::parse("EUR,USD").expect("a list"))
    }

    #[test]
    fn good_entries_are_valid_up_to_the_limits() {
        let limit = i64::try_from(AMOUNT_MINOR_MAX).expect("it fits");
        for amount in [1, -1, limit, -limit] {
            assert_eq!(check(|e| e.amount_minor = amount), Ok(()), "{amount}");
        }
        assert_eq!(check(|e| e.account_id = "a".repeat(ID_BYTES_MAX)), Ok(()));
    }

    #[test]
    fn each_rule_has_its_code() {
        let limit = i64::try_from(AMOUNT_MINOR_MAX).expect("it fits");
        let code = |change: fn(&mut Entry)| check(change).expect_err("the change breaks the entry").code();
        assert_eq!(code(|e| e.account_id.clear()), "blank_account_id");
        assert_eq!(code(|e| e.entry_id = " \t".to_owned()), "blank_entry_id");
        assert_eq!(code(|e| e.entry_id = "e".repeat(ID_BYTES_MAX + 1)), "id_too_long");
        assert_eq!(code(|e| e.amount_minor = 0), "zero_amount");
        for amount in [limit + 1, -limit - 1, i64::MAX, i64::MIN] {
            assert_eq!(check(|e| e.amount_minor = amount), Err(EntryError::AmountTooLarge), "{amount}");
        }
        for currency in ["", "eur", "SEK"] {
            assert_eq!(check(|e| e.currency = currency.to_owned()), Err(EntryError::UnknownCurrency), "{currency}");
        }
    }

    #[test]
    fn errors_show_no_text_of_the_entry() {
        let errors = [check(|e| e.account_id = "secret".repeat(100)), check(|e| e.currency = "secret".to_owned())].map(
            |error| {
                let error = error.expect_err("invalid");
                format!("{error} {error:?}")
            },
        );
        assert!(errors.iter().all(|error| !error.contains("secret")), "{errors:?}");
    }

    #[test]
    fn amounts_are_whole_and_fit_64_bits() {
        for amount in ["25.00", "\"2500\"", "9223372036854775808", "1e3", "null"] {
            let body = format!(r#"{{"account_id":"a","entry_id":"e","amount_minor":{amount},"currency":"EUR"}}"#);
            assert!(serde_json::from_str::<Entry>(&body).is_err(), "{amount}");
        }
    }
}
