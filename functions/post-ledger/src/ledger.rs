//! The tables: how entries and balances stand in them, and the writes of one posting.
//!
//! Nothing here talks to the tables. The writes are handed to the adapter, which commits them with the completion.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, Put, Update};

use crate::entry::Entry;

/// The keys of the table of entries: partition key and sort key, both strings.
pub const LEDGER_KEYS: &str = "account_id,entry_id";

/// The keys of the table of balances: partition key and sort key, both strings.
pub const BALANCES_KEYS: &str = "account_id,currency";

/// Puts the entry where its account has none of this id.
pub fn put_entry(table: &str, entry: &Entry) -> Put {
    let put = Put::builder()
        .table_name(table)
        .item("account_id", text(&entry.account_id))
        .item("entry_id", text(&entry.entry_id))
        .item("amount_minor", number(entry.amount_minor.into()))
        .item("currency", text(&entry.currency))
        .condition_expression("attribute_not_exists(entry_id)");
    put.build().expect("table and item were given")
}

/// Changes the account's balance in the entry's currency by the amount. A credit opens a balance that is not there; a debit
/// needs one that covers it.
pub fn change_balance(table: &str, entry: &Entry) -> Update {
    let key = HashMap::from([
        ("account_id".to_owned(), text(&entry.account_id)),
        ("currency".to_owned(), text(&entry.currency)),
    ]);
    let update = Update::builder()
        .table_name(table)
        .set_key(Some(key))
        .update_expression("SET last_entry = :entry_id ADD balance_minor :amount, entry_count :one")
        .expression_attribute_values(":entry_id", text(&entry.entry_id))
        .expression_attribute_values(":amount", number(entry.amount_minor.into()))
        .expression_attribute_values(":one", number(1));
    let update = if entry.amount_minor < 0 {
        // A balance that is not there compares as false: nothing covers the debit.
        update
            .condition_expression("balance_minor >= :debit")
            .expression_attribute_values(":debit", number(entry.amount_minor.unsigned_abs().into()))
    } else {
        update
    };
    update.build().expect("table, key and expression were given")
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number(number: i128) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(amount_minor: i64) -> Entry {
        Entry { account_id: "a-1".to_owned(), entry_id: "e-1".to_owned(), amount_minor, currency: "EUR".to_owned() }
    }

    #[test]
    fn an_entry_is_put_whole_where_there_is_none() {
        let put = put_entry("ledger-table", &entry(-2_500));
        assert_eq!(put.table_name(), "ledger-table");
        assert_eq!(put.condition_expression(), Some("attribute_not_exists(entry_id)"));
        let item = HashMap::from([
            ("account_id".to_owned(), text("a-1")),
            ("entry_id".to_owned(), text("e-1")),
            ("amount_minor".to_owned(), number(-2_500)),
            ("currency".to_owned(), text("EUR")),
        ]);
        assert_eq!(*put.item(), item);
    }

    #[test]
    fn a_credit_changes_the_balance_whatever_it_is() {
        let update = change_balance("balances-table", &entry(2_500));
        assert_eq!(update.table_name(), "balances-table");
        let key = [("account_id", "a-1"), ("currency", "EUR")].map(|(name, value)| (name.to_owned(), text(value)));
        assert_eq!(*update.key(), HashMap::from(key));
        assert_eq!(
            update.update_expression(),
            "SET last_entry = :entry_id ADD balance_minor :amount, entry_count :one"
        );
        assert_eq!(update.condition_expression(), None);
        let values = [(":entry_id", text("e-1")), (":amount", number(2_500)), (":one", number(1))];
        let values = values.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(update.expression_attribute_values(), Some(&HashMap::from(values)));
    }

    #[test]
    fn a_debit_asks_for_a_balance_that_covers_it() {
        for (amount, debit) in [(-2_500, 2_500), (i64::MIN, 1_i128 << 63)] {
            let update = change_balance("balances", &entry(amount));
            assert_eq!(update.condition_expression(), Some("balance_minor >= :debit"));
            let values = update.expression_attribute_values().expect("values");
            assert_eq!((&values[":amount"], &values[":debit"]), (&number(amount.into()), &number(debit)));
        }
    }
}
