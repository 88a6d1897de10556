//! Which message may come next: on a standard queue any, on a FIFO queue one of each group (P16).
//!
//! Groups go side by side; inside a group the next message comes when the one before it is done. A message that is not
//! done ends its group for this invocation: the rest is handed back, to be reported unstarted.

use std::collections::{HashMap, VecDeque};

use crate::message::Message;

/// The messages of an invocation that were not begun.
pub(super) struct Lineup {
    /// May come at once, in the order in which they were received.
    ready: VecDeque<usize>,
    /// Each group's messages behind the one that is under way.
    waiting: Vec<VecDeque<usize>>,
    /// The group of each message. Empty where no message has any.
    group_of: Vec<Option<usize>>,
    /// Whether none has come yet.
    untouched: bool,
}

impl Lineup {
    pub(super) fn new(messages: &[Message<'_>]) -> Self {
        let mut lineup = Self { ready: VecDeque::new(), waiting: Vec::new(), group_of: Vec::new(), untouched: true };
        if messages.iter().any(Message::is_from_fifo_queue) {
            lineup.line_up(messages);
        } else {
            lineup.ready = (0..messages.len()).collect();
        }
        lineup
    }

    fn line_up(&mut self, messages: &[Message<'_>]) {
        let mut groups: HashMap<(Option<&str>, Option<&str>), usize> = HashMap::new();
        for (index, message) in messages.iter().enumerate() {
            if !message.is_from_fifo_queue() {
                self.ready.push_back(index);
                self.group_of.push(None);
                continue;
            }
            // A record without its group could belong to any: such records keep order among themselves.
            let name = (message.source_arn.as_deref(), message.group.as_deref());
            let next = self.waiting.len();
            let group = *groups.entry(name).or_insert(next);
            if group == next {
                self.waiting.push(VecDeque::new());
                self.ready.push_back(index);
            } else {
                self.waiting[group].push_back(index);
            }
            self.group_of.push(Some(group));
        }
    }

    /// The next message, if one may come now.
    pub(super) fn next(&mut self) -> Option<usize> {
        let next = self.ready.pop_front();
        self.untouched &= next.is_none();
        next
    }

    /// Whether a message may come now. If not, more may once others are done.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether any message is of a queue that keeps order.
    pub(super) fn is_fifo(&self) -> bool {
        !self.group_of.is_empty()
    }

    /// Whether none has come yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.untouched
    }

    /// A message is done: the next of its group may come.
    pub(super) fn done(&mut self, index: usize) {
        if let Some(group) = self.group(index) {
            self.ready.extend(self.waiting[group].pop_front());
        }
    }

    /// A message is not done: the rest of its group, which will not come.
    pub(super) fn failed(&mut self, index: usize) -> VecDeque<usize> {
        self.group(index).map(|group| std::mem::take(&mut self.waiting[group])).unwrap_or_default()
    }

    fn group(&self, index: usize) -> Option<usize> {
        self.group_of.get(index).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::split_event;

    fn event(records: &[(&str, &str)]) -> String {
        let record = |(index, (queue, group)): (usize, &(&str, &str))| {
            format!(
                r#"{{"messageId":"m{index}","eventSourceARN":"arn:aws:sqs:eu-west-1:1:{queue}","attributes":{{"MessageGroupId":"{group}"}}}}"#
            )
        };
        let records: Vec<_> = records.iter().enumerate().map(record).collect();
        format!(r#"{{"Records":[{}]}}"#, records.join(","))
    }

    fn all(lineup: &mut Lineup) -> Vec<usize> {
        std::iter::from_fn(|| lineup.next()).collect()
    }

    #[test]
    fn p16_groups_go_side_by_side_and_each_in_order() {
        let event = event(&[("q.fifo", "a"), ("q.fifo", "a"), ("q.fifo", "b"), ("q.fifo", "a"), ("q.fifo", "b")]);
        let mut lineup = Lineup::new(&split_event(&event).expect("named"));
        assert_eq!(all(&mut lineup), [0, 2]);
        lineup.done(2);
        assert_eq!(all(&mut lineup), [4]);
        lineup.done(0);
        assert_eq!(all(&mut lineup), [1]);
        assert_eq!(lineup.failed(1), VecDeque::from([3]), "the rest of its group will not come");
    }

    #[test]
    fn a_group_on_a_standard_queue_is_a_tenant_and_keeps_no_order() {
        let event = event(&[("fair", "a"), ("fair", "a"), ("fair", "a")]);
        let mut lineup = Lineup::new(&split_event(&event).expect("named"));
        assert_eq!(all(&mut lineup), [0, 1, 2]);
        assert!(lineup.failed(1).is_empty());
    }

    #[test]
    fn it_knows_whether_any_has_come() {
        let event = event(&[("q.fifo", "a"), ("q.fifo", "a")]);
        let mut lineup = Lineup::new(&split_event(&event).expect("named"));
        assert!(lineup.is_untouched());
        assert_eq!(lineup.next(), Some(0));
        assert!(!lineup.is_untouched());
        assert!(!lineup.has_ready());
        assert_eq!(lineup.next(), None);
    }
}
