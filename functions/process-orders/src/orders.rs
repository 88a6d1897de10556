//! The orders table: how an order stands in it, and the writes that put it there.
//!
//! Nothing here talks to the table. The writes are handed to the adapter, which commits them with the completion.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, ConditionCheck, Update};

use crate::order::{Line, Order};

/// The orders table's partition key, a string; it has no sort key.
pub const PARTITION_KEY: &str = "order_id";

/// The attribute that only an order has which replaces another.
const AMENDS: &str = "amends";

/// Writes the order, if there is none under its id, or this very one: not only a redelivery but also an order whose
/// record is past its retention must neither fail nor overwrite another.
///
/// An update rather than a put: attributes that others have added to the same order stay.
pub fn write_order(table: &str, order: &Order) -> Update {
    let attributes = attributes(order);
    let terms: Vec<_> = attributes.iter().map(|(name, _)| format!("#{name} = :{name}")).collect();
    let mut same = terms.join(" AND ");
    if order.amends.is_none() {
        same.push_str(" AND attribute_not_exists(#amends)");
    }
    let names = attributes.iter().map(|(name, _)| *name).chain([PARTITION_KEY, AMENDS]);
    let update = Update::builder()
        .table_name(table)
        .set_key(Some(key(&order.order_id)))
        .update_expression(format!("SET {}", terms.join(", ")))
        .condition_expression(format!("attribute_not_exists(#{PARTITION_KEY}) OR ({same})"))
        .set_expression_attribute_names(Some(names.map(|name| (format!("#{name}"), name.to_owned())).collect()))
        .set_expression_attribute_values(Some(
            attributes.into_iter().map(|(name, value)| (format!(":{name}"), value)).collect(),
        ));
    update.build().expect("table, key and expression were given")
}

/// Requires that there is an order under this id, whoever wrote it and however short a time ago.
pub fn require_order(table: &str, order_id: &str) -> ConditionCheck {
    let check = ConditionCheck::builder()
        .table_name(table)
        .set_key(Some(key(order_id)))
        .condition_expression(format!("attribute_exists({PARTITION_KEY})"));
    check.build().expect("table, key and condition were given")
}

fn key(order_id: &str) -> HashMap<String, AttributeValue> {
    HashMap::from([(PARTITION_KEY.to_owned(), AttributeValue::S(order_id.to_owned()))])
}

/// What makes the order beside its id, as attributes named as the message's fields.
fn attributes(order: &Order) -> Vec<(&'static str, AttributeValue)> {
    let text = |text: &String| AttributeValue::S(text.clone());
    let mut attributes = vec![
        ("customer_id", text(&order.customer_id)),
        ("currency", text(&order.currency)),
        ("lines", AttributeValue::L(order.lines.iter().map(line_attributes).collect())),
        ("total_minor", AttributeValue::N(order.total_minor.to_string())),
    ];
    attributes.extend(order.amends.as_ref().map(|amended| (AMENDS, text(amended))));
    attributes
}

fn line_attributes(line: &Line) -> AttributeValue {
    AttributeValue::M(HashMap::from([
        ("sku".to_owned(), AttributeValue::S(line.sku.clone())),
        ("quantity".to_owned(), AttributeValue::N(line.quantity.to_string())),
        ("unit_price_minor".to_owned(), AttributeValue::N(line.unit_price_minor.to_string())),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order {
            order_id: "o-1".to_owned(),
            customer_id: "c-1".to_owned(),
            currency: "EUR".to_owned(),
            lines: vec![Line { sku: "s-1".to_owned(), quantity: 1, unit_price_minor: u64::MAX }],
            total_minor: u64::MAX,
            amends: None,
        }
    }

    fn text(text: &str) -> AttributeValue {
        AttributeValue::S(text.to_owned())
    }

    fn number(number: u64) -> AttributeValue {
        AttributeValue::N(number.to_string())
    }

    #[test]
    fn an_order_is_written_as_a_whole_where_there_is_none_or_the_same() {
        let update = write_order("orders-table", &order());
        assert_eq!(update.table_name(), "orders-table");
        assert_eq!(*update.key(), HashMap::from([("order_id".to_owned(), text("o-1"))]));
        assert_eq!(
            update.update_expression(),
            "SET #customer_id = :customer_id, #currency = :currency, #lines = :lines, #total_minor = :total_minor"
        );
        assert_eq!(
            update.condition_expression(),
            Some(
                "attribute_not_exists(#order_id) OR (#customer_id = :customer_id AND #currency = :currency AND \
                 #lines = :lines AND #total_minor = :total_minor AND attribute_not_exists(#amends))"
            )
        );
        let line = HashMap::from([
            ("sku".to_owned(), text("s-1")),
            ("quantity".to_owned(), number(1)),
            ("unit_price_minor".to_owned(), number(u64::MAX)),
        ]);
        let values = HashMap::from([
            (":customer_id".to_owned(), text("c-1")),
            (":currency".to_owned(), text("EUR")),
            (":lines".to_owned(), AttributeValue::L(vec![AttributeValue::M(line)])),
            (":total_minor".to_owned(), number(u64::MAX)),
        ]);
        assert_eq!(update.expression_attribute_values(), Some(&values));
    }

    #[test]
    fn an_amendment_says_what_it_amends() {
        let update = write_order("orders", &Order { amends: Some("o-0".to_owned()), ..order() });
        assert!(update.update_expression().ends_with(", #amends = :amends"), "{}", update.update_expression());
        assert!(update.condition_expression().is_some_and(|condition| condition.ends_with(" AND #amends = :amends)")));
        assert_eq!(update.expression_attribute_values().and_then(|values| values.get(":amends")), Some(&text("o-0")));
    }

    #[test]
    fn every_name_and_value_is_used() {
        // DynamoDB refuses a request that defines one it does not use.
        for order in [order(), Order { amends: Some("o-0".to_owned()), ..order() }] {
            let update = write_order("orders", &order);
            let condition = update.condition_expression().unwrap_or_default();
            let expressions = format!("{} {condition}", update.update_expression());
            let names = update.expression_attribute_names().into_iter().flat_map(HashMap::keys);
            let values = update.expression_attribute_values().into_iter().flat_map(HashMap::keys);
            let aliases: Vec<_> = names.chain(values).collect();
            assert!(aliases.len() >= 10, "found {aliases:?}");
            for alias in aliases {
                assert!(expressions.contains(alias), "{alias} is not in {expressions}");
            }
        }
    }

    #[test]
    fn an_amended_order_has_to_be_there() {
        let check = require_order("orders-table", "o-0");
        assert_eq!(check.table_name(), "orders-table");
        assert_eq!(*check.key(), HashMap::from([("order_id".to_owned(), text("o-0"))]));
        assert_eq!(check.condition_expression(), "attribute_exists(order_id)");
    }
}
