//! CloudWatch's metric math, as much of it as the alarms use, at one point in time ("Using math expressions with CloudWatch
//! metrics"): a value that is missing beside one that is there counts as 0, and a division by 0 gives none.

use std::collections::BTreeMap;

/// The values of metrics and of other expressions by their ids; none for one that is missing.
pub(crate) type Values = BTreeMap<String, Option<f64>>;

/// What an expression gives; the end of the test where it is none.
#[track_caller]
pub(crate) fn value_of(expression: &str, values: &Values) -> Option<f64> {
    let tokens = tokens(expression);
    let mut reader = Reader { tokens: &tokens, values };
    let value = reader.comparison();
    assert!(reader.tokens.is_empty(), "{expression}: nothing belongs after {:?}", reader.tokens);
    value
}

/// The ids that an expression names.
pub(crate) fn ids(expression: &str) -> Vec<String> {
    let is_id = |token: &String| token.starts_with(|first: char| first.is_ascii_lowercase());
    tokens(expression).into_iter().filter(is_id).collect()
}

fn tokens(expression: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut goes_on = false;
    for character in expression.chars() {
        let is_word = character.is_ascii_alphanumeric() || "_.".contains(character);
        match tokens.last_mut() {
            Some(word) if is_word && goes_on => word.push(character),
            _ if character != ' ' => tokens.push(character.to_string()),
            _ => {}
        }
        goes_on = is_word;
    }
    tokens
}

struct Reader<'a> {
    tokens: &'a [String],
    values: &'a Values,
}

impl Reader<'_> {
    fn next_is(&mut self, token: &str) -> bool {
        let is = self.tokens.first().is_some_and(|first| first == token);
        if is {
            self.tokens = &self.tokens[1..];
        }
        is
    }

    #[track_caller]
    fn expect(&mut self, token: &str) {
        assert!(self.next_is(token), "expected {token}, found {:?}", self.tokens);
    }

    fn comparison(&mut self) -> Option<f64> {
        let left = self.sum();
        if self.next_is("<") {
            let right = self.sum();
            return both(left, right).map(|(left, right)| f64::from(u8::from(left < right)));
        }
        left
    }

    fn sum(&mut self) -> Option<f64> {
        let mut sum = self.product();
        loop {
            let sign = if self.next_is("+") {
                1.0
            } else if self.next_is("-") {
                -1.0
            } else {
                return sum;
            };
            let next = self.product();
            sum = both(sum, next).map(|(sum, next)| sum + sign * next);
        }
    }

    fn product(&mut self) -> Option<f64> {
        let mut product = self.operand();
        loop {
            if self.next_is("*") {
                let next = self.operand();
                product = both(product, next).map(|(product, next)| product * next);
            } else if self.next_is("/") {
                let next = self.operand();
                product = both(product, next).filter(|(_, next)| *next != 0.0).map(|(product, next)| product / next);
            } else {
                return product;
            }
        }
    }

    fn operand(&mut self) -> Option<f64> {
        if self.next_is("(") {
            let inner = self.comparison();
            self.expect(")");
            return inner;
        }
        if self.next_is("IF") {
            self.expect("(");
            let condition = self.comparison();
            self.expect(",");
            let then = self.comparison();
            self.expect(",");
            let otherwise = self.comparison();
            self.expect(")");
            return if condition? == 0.0 { otherwise } else { Some(then.unwrap_or(0.0)) };
        }
        let (word, rest) = self.tokens.split_first().expect("an operand");
        self.tokens = rest;
        match word.parse() {
            Ok(number) => Some(number),
            Err(_) => *self.values.get(word).unwrap_or_else(|| panic!("nothing has the id {word}")),
        }
    }
}

/// Two values, of which one that is missing is 0; none where both are.
fn both(left: Option<f64>, right: Option<f64>) -> Option<(f64, f64)> {
    (left.is_some() || right.is_some()).then(|| (left.unwrap_or(0.0), right.unwrap_or(0.0)))
}

#[test]
fn expressions_give_what_cloudwatch_says() {
    let values = Values::from([
        ("a".to_owned(), Some(6.0)),
        ("b".to_owned(), Some(2.0)),
        ("zero".to_owned(), Some(0.0)),
        ("none".to_owned(), None),
    ]);
    for (expression, expected) in [
        ("1 + a * b", Some(13.0)),
        ("(1 + a) * b", Some(14.0)),
        ("a - b - 1", Some(3.0)),
        ("a / b / 3", Some(1.0)),
        ("a - none", Some(6.0)),
        ("none + none", None),
        ("a / zero", None),
        ("a / none", None),
        ("IF(a < b, 1, 2)", Some(2.0)),
        ("IF(b < 3, a, 2)", Some(6.0)),
        ("IF(none < a, 1, 2)", Some(1.0)),
        ("IF(b < a, none, 2)", Some(0.0)),
    ] {
        assert_eq!(value_of(expression, &values), expected, "{expression}");
    }
    assert_eq!(ids("IF(a1 < 3, 100 * b_c / d, 0)"), ["a1", "b_c", "d"]);
}
