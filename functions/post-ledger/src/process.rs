//! The processor: what is done with one entry.

use std::{error::Error, fmt};

use microbatch::{Done, ItemContext, Pipeline, PipelineBuilder, ProcessError, Processor, WriteRefusal, WriteRefused};
use microbatch_aws::dynamodb::DynamoDbWrite;
use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    entry::{Entry, EntryError},
    ledger::{change_balance, put_entry},
};

/// Where the entry itself stands among the writes. The other one is the change of the balance.
const ENTRY_WRITE: usize = 0;

/// The function: which part of a message names the work, which must not differ, and what is done.
///
/// An entry id is one account's own. The whole entry is compared, so that another entry under a used id is a conflict
/// rather than lost as a duplicate.
pub fn pipeline(config: Config) -> PipelineBuilder<PostLedger> {
    Pipeline::builder(PostLedger::new(config)).key("[account_id, entry_id]").fingerprint_body()
}

/// Turns each valid entry into its writes.
#[derive(Debug)]
pub struct PostLedger {
    config: Config,
}

/// The result that is kept with a posted entry, and replayed for a duplicate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posting {
    /// The account.
    pub account_id: String,
    /// The entry's id.
    pub entry_id: String,
    /// What the balance was changed by, in the currency's minor unit.
    pub amount_minor: i64,
    /// ISO 4217 code of the amount.
    pub currency: String,
}

impl PostLedger {
    /// Posts to the tables, and in the currencies, of these settings.
    pub fn new(config: Config) -> Self {
        Self { config }
    }
}

impl Processor for PostLedger {
    type Item = Entry;
    type Output = Posting;
    type Write = DynamoDbWrite;

    async fn process(&self, entry: Entry, cx: &ItemContext) -> Result<Done<Posting, DynamoDbWrite>, ProcessError> {
        let Config { ledger_table, balances_table, currencies } = &self.config;
        entry.validate(currencies).map_err(|error| Failure::Invalid(error).classify())?;
        if cx.group.as_deref() != Some(entry.account_id.as_str()) {
            return Err(Failure::WrongGroup.classify());
        }
        let writes = vec![put_entry(ledger_table, &entry).into(), change_balance(balances_table, &entry).into()];
        let Entry { account_id, entry_id, amount_minor, currency } = entry;
        Ok(Done::with_writes(Posting { account_id, entry_id, amount_minor, currency }, writes))
    }

    fn write_refused(&self, refused: WriteRefused) -> ProcessError {
        let failure = match refused.reason {
            WriteRefusal::Invalid => Failure::NotWritable,
            WriteRefusal::Condition if refused.index == ENTRY_WRITE => Failure::EntryExists,
            // Only a debit has a condition on the balance.
            WriteRefusal::Condition => Failure::InsufficientFunds,
        };
        failure.classify()
    }
}

/// Why an entry was not posted. None passes by itself: what does (load, a lost connection, another transaction on the same
/// balance) is the adapter's to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The entry is invalid, and stays so.
    Invalid(EntryError),
    /// The message's group is not the entry's account.
    WrongGroup,
    /// The account has an entry of this id.
    EntryExists,
    /// The balance does not cover the debit.
    InsufficientFunds,
    /// The tables cannot take the entry.
    NotWritable,
}

impl Failure {
    /// A short stable name for logs and dashboards.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Invalid(error) => error.code(),
            Self::WrongGroup => "wrong_group",
            Self::EntryExists => "entry_exists",
            Self::InsufficientFunds => "insufficient_funds",
            Self::NotWritable => "entry_not_writable",
        }
    }

    fn classify(self) -> ProcessError {
        ProcessError::permanent(self).code(self.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(error) => write!(f, "the entry is invalid: {error}"),
            Self::WrongGroup => f.write_str(
                "the message's group is not the entry's account: expected a FIFO queue, and MessageGroupId = account_id",
            ),
            Self::EntryExists => f.write_str(
                "the account has an entry of this id: it is this one, and its record is past its retention, or another one",
            ),
            Self::InsufficientFunds => f.write_str("the balance does not cover the debit"),
            Self::NotWritable => f.write_str(
                "the tables cannot take the entry: are their keys account_id, entry_id and account_id, currency, all strings?",
            ),
        }
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use microbatch_aws::clock::SystemClock;

    use super::*;
    use crate::currency::Currencies;

    fn processor() -> PostLedger {
        let currencies = Currencies::parse("EUR").expect("a list");
        PostLedger::new(Config { ledger_table: "ledger".to_owned(), balances_table: "balances".to_owned(), currencies })
    }

    fn entry(amount_minor: i64) -> Entry {
        Entry { account_id: "a-1".to_owned(), entry_id: "e-1".to_owned(), amount_minor, currency: "EUR".to_owned() }
    }

    async fn process(entry: Entry, group: Option<&str>) -> Result<Done<Posting, DynamoDbWrite>, ProcessError> {
        let mut cx = ItemContext::for_tests(Arc::new(SystemClock));
        cx.group = group.map(Box::from);
        processor().process(entry, &cx).await
    }

    #[tokio::test]
    async fn an_entry_is_two_writes_and_a_result() {
        let done = process(entry(-5), Some("a-1")).await.expect("valid");
        let writes = [put_entry("ledger", &entry(-5)).into(), change_balance("balances", &entry(-5)).into()];
        assert_eq!(done.writes(), writes);
        let Entry { account_id, entry_id, amount_minor, currency } = entry(-5);
        assert_eq!(*done.output(), Posting { account_id, entry_id, amount_minor, currency });
    }

    #[tokio::test]
    async fn what_is_invalid_or_out_of_its_group_is_permanent() {
        let cases = [
            (entry(0), Some("a-1"), "zero_amount"),
            (entry(5), Some("a-2"), "wrong_group"),
            (entry(5), None, "wrong_group"),
        ];
        for (entry, group, code) in cases {
            let error = process(entry, group).await.expect_err(code);
            assert!(error.is_permanent(), "{code}");
            assert_eq!(error.failure_code(), Some(code));
        }
    }

    #[test]
    fn a_refused_write_says_why() {
        let cases = [
            (0, WriteRefusal::Condition, "entry_exists"),
            (1, WriteRefusal::Condition, "insufficient_funds"),
            (0, WriteRefusal::Invalid, "entry_not_writable"),
            (1, WriteRefusal::Invalid, "entry_not_writable"),
        ];
        for (index, reason, code) in cases {
            let error = processor().write_refused(WriteRefused { index, reason });
            assert!(error.is_permanent(), "{code}");
            assert_eq!(error.failure_code(), Some(code));
        }
    }
}
