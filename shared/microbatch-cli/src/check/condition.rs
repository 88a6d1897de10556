//! Conditions, as far as they are known: yes, no, or not before a deployment.

use std::rc::Rc;

use super::node::Node;
use super::template::Template;
use super::value::Value;

/// Conditions that name conditions. Real templates have a handful of levels.
const LEVELS_MAX: usize = 50;

/// What is known of a condition.
#[derive(Debug, Clone, Copy)]
pub(super) enum Judgement {
    /// It is being looked at: one that asks for it names itself.
    Pending,
    Done(Option<bool>),
}

impl Template {
    /// Whether a condition holds; none when that is not known.
    pub(super) fn condition(&self, name: &str) -> Option<bool> {
        self.condition_at(name, 0)
    }

    fn condition_at(&self, name: &str, level: usize) -> Option<bool> {
        let judged = self.judged.borrow().get(name).copied();
        match judged {
            Some(Judgement::Done(judged)) => return judged,
            Some(Judgement::Pending) => return None,
            None if level > LEVELS_MAX => return None,
            None => {}
        }
        let node = self.conditions.get(name)?;
        self.judged.borrow_mut().insert(name.to_owned(), Judgement::Pending);
        let judgement = self.judge(node, level + 1);
        self.judged.borrow_mut().insert(name.to_owned(), Judgement::Done(judgement));
        judgement
    }

    fn judge(&self, node: &Node, level: usize) -> Option<bool> {
        let entry = node.only_entry()?;
        let operands = || entry.value.items().iter().map(|operand| self.judge(operand, level));
        match entry.key.as_str() {
            "Condition" => self.condition_at(entry.value.text()?, level),
            "Fn::Not" => operands().next()?.map(|operand| !operand),
            "Fn::And" => all(operands(), true),
            "Fn::Or" => all(operands(), false),
            "Fn::Equals" => match entry.value.items() {
                [left, right] => self.equal(left, right),
                _ => None,
            },
            _ => None,
        }
    }

    fn equal(&self, left: &Rc<Node>, right: &Rc<Node>) -> Option<bool> {
        let text = |node| match self.resolve(node) {
            // An empty default is a null to the parser, and none to CloudFormation.
            Value::Absent => Ok((String::new(), None)),
            value => value.pattern(),
        };
        match (text(left).ok()?, text(right).ok()?) {
            ((left, None), (right, None)) => Some(left == right),
            // Of what only a deployment knows, the same is equal to itself.
            ((left, _), (right, _)) => (left == right).then_some(true),
        }
    }
}

/// Whether all operands are `wanted` when that is true, any is when it is false: an operand that decides, decides even
/// beside unknown ones.
fn all(operands: impl Iterator<Item = Option<bool>>, wanted: bool) -> Option<bool> {
    let operands: Vec<Option<bool>> = operands.collect();
    if operands.contains(&Some(!wanted)) {
        return Some(!wanted);
    }
    operands.iter().all(Option::is_some).then_some(wanted)
}
