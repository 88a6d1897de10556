//! The order as it stands in a message's body, and what makes one valid.

use std::{error::Error, fmt};

use serde::{Deserialize, Serialize};

use crate::currency;

/// The longest id (order, customer, stock-keeping unit) in bytes. A `DynamoDB` partition key may have 2,048; this keeps
/// room for ids of any sane shape and bounds an order's size in the table.
pub const ID_BYTES_MAX: usize = 128;

/// The most lines an order may have. Together with [`ID_BYTES_MAX`] it keeps an order below `DynamoDB`'s 400 KB an item.
pub const LINES_MAX: usize = 1_000;

/// An order: what a message's body holds. Fields it does not name are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Names the order; the key of the orders table.
    pub order_id: String,
    /// Who ordered.
    pub customer_id: String,
    /// ISO 4217 code of every amount in the order.
    pub currency: String,
    /// What was ordered; at least one line.
    pub lines: Vec<Line>,
    /// The sum over all lines of quantity times unit price, in the currency's minor unit (cents for euros).
    pub total_minor: u64,
    /// The earlier order that this one replaces. It must be in the orders table first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amends: Option<String>,
}

/// One line of an [`Order`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The stock-keeping unit that was ordered.
    pub sku: String,
    /// How many; at least one.
    pub quantity: u64,
    /// The price of one, in the currency's minor unit; 0 for what is given away.
    pub unit_price_minor: u64,
}

impl Order {
    /// Checks everything that can be checked without looking anything up. The first rule broken is reported, in the
    /// order of [`OrderError`]'s variants.
    pub fn validate(&self) -> Result<(), OrderError> {
        check_id(Field::OrderId, &self.order_id)?;
        check_id(Field::CustomerId, &self.customer_id)?;
        if let Some(amended) = &self.amends {
            check_id(Field::Amends, amended)?;
            if *amended == self.order_id {
                return Err(OrderError::AmendsItself);
            }
        }
        if !currency::is_active(&self.currency) {
            return Err(OrderError::UnknownCurrency);
        }
        self.validate_lines()
    }

    fn validate_lines(&self) -> Result<(), OrderError> {
        if self.lines.is_empty() {
            return Err(OrderError::NoLines);
        }
        if self.lines.len() > LINES_MAX {
            return Err(OrderError::TooManyLines { found: self.lines.len() });
        }
        let mut total_minor: u64 = 0;
        for (index, line) in self.lines.iter().enumerate() {
            check_id(Field::Sku, &line.sku)?;
            if line.quantity == 0 {
                return Err(OrderError::ZeroQuantity { line: index });
            }
            total_minor = line
                .quantity
                .checked_mul(line.unit_price_minor)
                .and_then(|line_minor| total_minor.checked_add(line_minor))
                .ok_or(OrderError::AmountOverflow { line: index })?;
        }
        if total_minor != self.total_minor {
            return Err(OrderError::TotalMismatch);
        }
        Ok(())
    }
}

fn check_id(field: Field, id: &str) -> Result<(), OrderError> {
    if id.trim().is_empty() {
        return Err(OrderError::BlankId { field });
    }
    if id.len() > ID_BYTES_MAX {
        return Err(OrderError::IdTooLong { field, bytes: id.len() });
    }
    Ok(())
}

/// A field of an order that holds an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `order_id`
    OrderId,
    /// `customer_id`
    CustomerId,
    /// `amends`
    Amends,
    /// `lines[].sku`
    Sku,
}

impl Field {
    /// The field's name in the message's body.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OrderId => "order_id",
            Self::CustomerId => "customer_id",
            Self::Amends => "amends",
            Self::Sku => "lines[].sku",
        }
    }
}

/// Why an order is invalid. It stays so however often it is tried. No variant holds text of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderError {
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
    /// The order names itself as the one it replaces.
    AmendsItself,
    /// The currency is no active ISO 4217 code.
    UnknownCurrency,
    /// There is nothing ordered.
    NoLines,
    /// There are more lines than [`LINES_MAX`].
    TooManyLines {
        /// How many there are.
        found: usize,
    },
    /// A line orders none of its goods.
    ZeroQuantity {
        /// The line's index, from 0.
        line: usize,
    },
    /// An amount does not fit 64 bits.
    AmountOverflow {
        /// The index, from 0, of the line where the sum overflowed.
        line: usize,
    },
    /// The total is not the sum of the lines.
    TotalMismatch,
}

impl OrderError {
    /// A short stable name for logs and dashboards.
    pub const fn code(self) -> &'static str {
        match self {
            Self::BlankId { field: Field::OrderId } => "blank_order_id",
            Self::BlankId { field: Field::CustomerId } => "blank_customer_id",
            Self::BlankId { field: Field::Amends } => "blank_amends",
            Self::BlankId { field: Field::Sku } => "blank_sku",
            Self::IdTooLong { .. } => "id_too_long",
            Self::AmendsItself => "amends_itself",
            Self::UnknownCurrency => "unknown_currency",
            Self::NoLines => "no_lines",
            Self::TooManyLines { .. } => "too_many_lines",
            Self::ZeroQuantity { .. } => "zero_quantity",
            Self::AmountOverflow { .. } => "amount_overflow",
            Self::TotalMismatch => "total_mismatch",
        }
    }
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BlankId { field } => write!(f, "{} is blank: an id needs a visible character", field.name()),
            Self::IdTooLong { field, bytes } => {
                write!(f, "{} has {bytes} bytes: an id has at most {ID_BYTES_MAX}", field.name())
            }
            Self::AmendsItself => f.write_str("amends names the order itself: it must name an earlier one"),
            Self::UnknownCurrency => {
                f.write_str("currency is no active ISO 4217 code: expected three capital letters such as EUR")
            }
            Self::NoLines => f.write_str("lines is empty: an order has at least one line"),
            Self::TooManyLines { found } => write!(f, "there are {found} lines: an order has at most {LINES_MAX}"),
            Self::ZeroQuantity { line } => {
                write!(f, "line {line} has quantity 0: expected at least 1")
            }
            Self::AmountOverflow { line } => {
                write!(f, "the amounts up to line {line} exceed 64 bits")
            }
            Self::TotalMismatch => {
                f.write_str("total_minor is not the sum of quantity times unit price over the lines")
            }
        }
    }
}

impl Error for OrderError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order {
            order_id: "o-1".to_owned(),
            customer_id: "c-1".to_owned(),
            currency: "EUR".to_owned(),
            lines: vec![line(2, 1_250), line(1, 0)],
            total_minor: 2_500,
            amends: None,
        }
    }

    fn line(quantity: u64, unit_price_minor: u64) -> Line {
        Line { sku: "s-1".to_owned(), quantity, unit_price_minor }
    }

    /// The error after one change to a valid order.
    fn broken(change: impl FnOnce(&mut Order)) -> OrderError {
        let mut order = order();
        change(&mut order);
        order.validate().expect_err("the change breaks the order")
    }

    #[test]
    fn a_good_order_is_valid() {
        assert_eq!(order().validate(), Ok(()));
        let amending = Order { amends: Some("o-0".to_owned()), ..order() };
        assert_eq!(amending.validate(), Ok(()));
    }

    #[test]
    fn blank_ids_are_refused() {
        assert_eq!(broken(|o| o.order_id.clear()).code(), "blank_order_id");
        assert_eq!(broken(|o| o.customer_id = " \t".to_owned()).code(), "blank_customer_id");
        assert_eq!(broken(|o| o.amends = Some(String::new())).code(), "blank_amends");
        assert_eq!(broken(|o| o.lines[1].sku.clear()).code(), "blank_sku");
    }

    #[test]
    fn long_ids_are_refused() {
        let mut longest = order();
        longest.order_id = "o".repeat(ID_BYTES_MAX);
        assert_eq!(longest.validate(), Ok(()));
        let error = broken(|o| o.order_id = "o".repeat(ID_BYTES_MAX + 1));
        assert_eq!(error, OrderError::IdTooLong { field: Field::OrderId, bytes: ID_BYTES_MAX + 1 });
        assert_eq!(error.code(), "id_too_long");
    }

    #[test]
    fn an_order_does_not_amend_itself() {
        assert_eq!(broken(|o| o.amends = Some(o.order_id.clone())).code(), "amends_itself");
    }

    #[test]
    fn unknown_currencies_are_refused() {
        for code in ["", "eur", "EUR ", "XXX", "DEM"] {
            assert_eq!(broken(|o| o.currency = code.to_owned()).code(), "unknown_currency", "{code}");
        }
    }

    #[test]
    fn the_number_of_lines_is_bounded() {
        assert_eq!(broken(|o| o.lines.clear()).code(), "no_lines");
        let mut most = order();
        most.lines = vec![line(1, 1); LINES_MAX];
        most.total_minor = LINES_MAX as u64;
        assert_eq!(most.validate(), Ok(()));
        most.lines.push(line(1, 1));
        assert_eq!(most.validate(), Err(OrderError::TooManyLines { found: LINES_MAX + 1 }));
    }

    #[test]
    fn zero_quantity_is_refused() {
        let error = broken(|o| o.lines[1].quantity = 0);
        assert_eq!(error, OrderError::ZeroQuantity { line: 1 });
        assert_eq!(error.code(), "zero_quantity");
    }

    #[test]
    fn an_overflow_is_refused_in_a_line_and_in_the_sum() {
        let error = broken(|o| o.lines[0] = line(2, u64::MAX));
        assert_eq!(error, OrderError::AmountOverflow { line: 0 });
        let error = broken(|o| o.lines = vec![line(1, u64::MAX), line(1, 1)]);
        assert_eq!(error, OrderError::AmountOverflow { line: 1 });
        assert_eq!(error.code(), "amount_overflow");
    }

    #[test]
    fn the_largest_total_fits() {
        let mut largest = order();
        largest.lines = vec![line(1, u64::MAX)];
        largest.total_minor = u64::MAX;
        assert_eq!(largest.validate(), Ok(()));
    }

    #[test]
    fn a_wrong_total_is_refused() {
        assert_eq!(broken(|o| o.total_minor += 1).code(), "total_mismatch");
        assert_eq!(broken(|o| o.total_minor = 0).code(), "total_mismatch");
    }

    #[test]
    fn errors_show_no_text_of_the_order() {
        let error = broken(|o| {
            o.order_id = "secret".repeat(100);
            o.currency = "secret".to_owned();
        });
        assert!(!error.to_string().contains("secret"));
        assert!(!broken(|o| o.currency = "secret".to_owned()).to_string().contains("secret"));
    }

    #[test]
    fn the_body_of_the_documentation_decodes() {
        let body = r#"{"order_id": "o-1001", "customer_id": "c-7", "currency": "EUR",
            "lines": [{"sku": "s-1", "quantity": 2, "unit_price_minor": 1250}], "total_minor": 2500, "new": {"x": 1}}"#;
        let order: Order = serde_json::from_str(body).expect("unknown fields are ignored");
        assert_eq!(order.validate(), Ok(()));
        assert_eq!(order.amends, None);
    }

    #[test]
    fn amounts_are_whole_and_not_negative() {
        for amount in ["-1", "25.00", "\"2500\"", "18446744073709551616", "1e3", "null"] {
            let body = format!(
                r#"{{"order_id": "o", "customer_id": "c", "currency": "EUR", "lines": [], "total_minor": {amount}}}"#
            );
            assert!(serde_json::from_str::<Order>(&body).is_err(), "{amount}");
        }
    }
}
