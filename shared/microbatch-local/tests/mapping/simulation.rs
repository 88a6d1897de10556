//! The planner against a model of SQS, in simulated time: what must hold whatever receives, invocations and deletions bring.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use microbatch_local::mapping::batching::{Batch, EVENT_BYTES_MAX};
use microbatch_local::mapping::event::{EventSource, Received, event};
use microbatch_local::mapping::planner::{Planner, RECEIVE_MAX, RECEIVES_AT_ONCE, Step};
use microbatch_local::mapping::scaling::Invocation;
use microbatch_local::mapping::{MappingInput, MappingSettings, Queue};
use microbatch_testkit::queue::{Delivery, NewMessage, QueueModel, QueueSettings};
use proptest::prelude::*;

/// How long a long poll waits, in simulated milliseconds.
const WAIT_MS: u64 = 1_000;
/// The simulation ends by then, or something hangs.
const END_MS: u64 = 1_000_000;

/// What a case is made of.
#[derive(Debug, Clone)]
struct Case {
    fifo: bool,
    messages: usize,
    groups: usize,
    batch_size: usize,
    window_s: u64,
    concurrency_max: Option<usize>,
    visibility_timeout_s: u64,
    /// Longest invocation.
    invocation_ms: u64,
    /// In every hundred batches, how many end in an error; and so on.
    errors: u64,
    bad_receives: u64,
    failed_items: u64,
    lost_deletions: u64,
    /// Bodies of a megabyte, six of which are over an event's limit.
    large: bool,
    stops_ms: Option<u64>,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (1_usize..80, 1_usize..6, 1_usize..=10, prop_oneof![Just(0_u64), 1..4_u64]);
    let limits = (proptest::option::of(2_usize..8), 1_u64..40, 1_u64..3_000);
    let faults = (0_u64..40, 0_u64..40, 0_u64..40, 0_u64..20);
    let rest =
        (any::<bool>(), prop::bool::weighted(0.02), proptest::option::weighted(0.2, 0_u64..10_000), any::<u64>());
    (sizes, limits, faults, rest).prop_map(|(sizes, limits, faults, (fifo, large, stops_ms, seed))| {
        let window_s = if fifo { 0 } else { sizes.3 };
        Case {
            fifo,
            messages: if large { sizes.0.min(15) } else { sizes.0 },
            groups: sizes.1,
            // Over 10 where a window allows it.
            batch_size: if window_s > 0 { sizes.2 * 5 } else { sizes.2 },
            window_s,
            concurrency_max: limits.0,
            // With one that ends within the window, messages come again while they wait, and may do so for ever.
            visibility_timeout_s: window_s + limits.1,
            invocation_ms: limits.2,
            errors: faults.0,
            bad_receives: faults.1,
            failed_items: faults.2,
            lost_deletions: faults.3,
            large,
            stops_ms,
            seed,
        }
    })
}

/// Steele, Lea and Flood's `SplitMix64`.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }
}

/// What will be told to the planner, or done, later.
enum Later {
    /// A long poll looks at the queue, until the given time.
    Look {
        max: usize,
        until_ms: u64,
    },
    Received {
        max: usize,
        messages: Vec<Received>,
    },
    ReceiveFailed {
        max: usize,
    },
    /// The function answers.
    Answer {
        id: u64,
        batch: Batch,
    },
    Return(Vec<Received>),
    Stop,
}

struct Simulation {
    case: Case,
    source: EventSource,
    queue: QueueModel,
    planner: Planner,
    random: Random,
    now_ms: u64,
    later: BTreeMap<(u64, u64), Later>,
    sequence: u64,
    running: BTreeMap<u64, BTreeSet<String>>,
    receiving: usize,
    /// Of each group, the numbers of its messages that are not deleted, in order.
    undone: BTreeMap<String, VecDeque<usize>>,
    /// From some time on nothing fails or takes long, and everything must be done.
    healed: bool,
    received: usize,
    invoked: usize,
    returned: usize,
}

impl Simulation {
    fn new(case: &Case) -> Self {
        let input = MappingInput {
            batch_size: i64::try_from(case.batch_size).expect("small"),
            window_s: i64::try_from(case.window_s).expect("small"),
            concurrency_max: case.concurrency_max.map(|max| i64::try_from(max).expect("small")),
            reports_item_failures: true,
        };
        let facts = Queue { fifo: case.fifo, visibility_timeout_s: case.visibility_timeout_s };
        let settings = MappingSettings::new(&input, &facts, std::time::Duration::from_secs(1)).expect("valid");
        let mut queue = QueueModel::new(QueueSettings {
            fifo: case.fifo,
            visibility_timeout_ms: case.visibility_timeout_s * 1_000,
            max_receive_count: None,
        });
        let mut undone: BTreeMap<String, VecDeque<usize>> = BTreeMap::new();
        let bytes = if case.large { 1024 * 1024 - 100 } else { 10 };
        for number in 0..case.messages {
            let group = format!("g-{}", number % case.groups);
            undone.entry(group.clone()).or_default().push_back(number);
            let body = "x".repeat(bytes);
            queue.send(0, NewMessage { body, group: Some(group), ..NewMessage::default() }).expect("a group");
        }
        let suffix = if case.fifo { ".fifo" } else { "" };
        Self {
            case: case.clone(),
            source: EventSource::new(format!("arn:aws:sqs:eu-west-1:123456789012:orders{suffix}")),
            queue,
            planner: Planner::new(&settings, None),
            random: Random(case.seed),
            now_ms: 0,
            later: BTreeMap::new(),
            sequence: 0,
            running: BTreeMap::new(),
            receiving: 0,
            undone,
            healed: false,
            received: 0,
            invoked: 0,
            returned: 0,
        }
    }

    fn run(mut self) {
        if let Some(stops_ms) = self.case.stops_ms {
            self.at(stops_ms, Later::Stop);
        }
        loop {
            while let Some(step) = self.planner.step(self.now_ms) {
                self.begin(step);
            }
            if self.planner.is_done() {
                break;
            }
            if self.queue.is_drained() && self.case.stops_ms.is_none() {
                self.planner.stop();
                self.case.stops_ms = Some(self.now_ms);
                continue;
            }
            self.healed |= self.now_ms > END_MS / 2;
            assert!(self.now_ms < END_MS, "{:?} are never done: {:?}", self.undone, self.planner);
            let next = self.later.first_key_value().map(|((at_ms, _), _)| *at_ms);
            let wakes = self.planner.wakes_ms(self.now_ms);
            assert!(wakes.is_none_or(|wakes_ms| wakes_ms > self.now_ms), "it would spin: {:?}", self.planner);
            self.now_ms = [next, wakes].into_iter().flatten().min().expect("something happens next");
            while self.later.first_key_value().is_some_and(|((at_ms, _), _)| *at_ms <= self.now_ms) {
                let (_, later) = self.later.pop_first().expect("looked at");
                self.happen(later);
            }
        }
        assert_eq!(self.planner.waiting(), 0);
        assert_eq!(self.received, self.invoked + self.returned, "each that was received was invoked or given back");
    }

    fn at(&mut self, at_ms: u64, later: Later) {
        self.sequence += 1;
        self.later.insert((at_ms, self.sequence), later);
    }

    fn soon(&mut self, most_ms: u64, later: Later) {
        let at_ms = self.now_ms + 1 + self.random.below(most_ms);
        self.at(at_ms, later);
    }

    fn faults(&mut self, share: u64) -> bool {
        self.random.percent(share) && !self.healed
    }

    fn begin(&mut self, step: Step) {
        match step {
            Step::Receive { max } => {
                assert!((1..=RECEIVE_MAX).contains(&max));
                self.receiving += 1;
                assert!(self.receiving <= RECEIVES_AT_ONCE);
                if self.faults(self.case.bad_receives) {
                    self.soon(30, Later::ReceiveFailed { max });
                } else {
                    self.soon(30, Later::Look { max, until_ms: self.now_ms + WAIT_MS });
                }
            }
            Step::Invoke { id, batch } => {
                self.check_started(&batch);
                let groups = batch.messages.iter().filter_map(|message| message.group.clone()).collect();
                self.running.insert(id, groups);
                assert!(self.running.len() <= self.planner.scaling().limit(), "too many at once");
                self.invoked += batch.messages.len();
                // Else a visibility timeout that is shorter than that could make the same messages come again for ever.
                let most_ms = if self.healed { 10 } else { self.case.invocation_ms };
                self.soon(most_ms, Later::Answer { id, batch });
            }
            Step::Return(messages) => {
                self.returned += messages.len();
                self.soon(30, Later::Return(messages));
            }
        }
    }

    fn check_started(&self, batch: &Batch) {
        let messages = &batch.messages;
        assert!((1..=self.case.batch_size).contains(&messages.len()));
        assert!(event(messages).len() <= EVENT_BYTES_MAX);
        // A pause or a full house may delay a batch, but its window never lets it wait for more.
        assert!(batch.opened_ms <= self.now_ms);
        if !self.case.fifo {
            return;
        }
        let locked: BTreeSet<&String> = self.running.values().flatten().collect();
        let mut of_group: BTreeMap<&String, Vec<usize>> = BTreeMap::new();
        for message in messages {
            let group = message.group.as_ref().expect("a FIFO message has a group");
            assert!(!locked.contains(group), "{group} runs already");
            of_group.entry(group).or_default().push(self.number(message));
        }
        for (group, numbers) in of_group {
            let next: Vec<usize> = self.undone[group].iter().copied().take(numbers.len()).collect();
            assert_eq!(numbers, next, "{group} goes on with its oldest messages, in order");
        }
    }

    fn number(&self, message: &Received) -> usize {
        self.queue.number_of(&message.message_id).expect("the queue's own id").0
    }

    fn happen(&mut self, later: Later) {
        match later {
            Later::Look { max, until_ms } => self.look(max, until_ms),
            Later::Received { max, messages } => {
                self.receiving -= 1;
                self.received += messages.len();
                self.planner.received(self.now_ms, max, messages);
            }
            Later::ReceiveFailed { max } => {
                self.receiving -= 1;
                self.planner.receive_failed(self.now_ms, max);
            }
            Later::Answer { id, batch } => self.answer(id, &batch),
            Later::Return(messages) => {
                for message in messages {
                    // Refused if its timeout is over, which comes to the same.
                    let _ = self.queue.change_visibility(self.now_ms, &message.receipt_handle, 0);
                }
            }
            Later::Stop => self.planner.stop(),
        }
    }

    fn look(&mut self, max: usize, until_ms: u64) {
        let deliveries = self.queue.receive(self.now_ms, max);
        if deliveries.is_empty() && self.now_ms < until_ms {
            let next_ms = self.queue.next_visible_ms(self.now_ms).unwrap_or(until_ms);
            return self.at(next_ms.min(until_ms), Later::Look { max, until_ms });
        }
        let messages = deliveries.iter().map(|delivery| received(delivery, &self.source)).collect();
        self.soon(20, Later::Received { max, messages });
    }

    /// The function's answer and what the mapping deletes by it. The function keeps to the rule of FIFO queues: after a
    /// failure it reports the rest of the group.
    fn answer(&mut self, id: u64, batch: &Batch) {
        let erred = self.faults(self.case.errors);
        let mut failed_groups: BTreeSet<String> = BTreeSet::new();
        let mut left: BTreeSet<String> = BTreeSet::new();
        for message in &batch.messages {
            let group = message.group.clone().expect("every message has one here");
            let after_failure = self.case.fifo && failed_groups.contains(&group);
            if erred || after_failure || self.faults(self.case.failed_items) {
                failed_groups.insert(group.clone());
                left.insert(group);
            } else if self.faults(self.case.lost_deletions) || !self.delete(message) {
                // What follows in the group has been processed, and is deleted all the same.
                left.insert(group);
            }
        }
        self.running.remove(&id);
        let invocation = if erred { Invocation::Erred } else { Invocation::Answered };
        self.planner.ended(self.now_ms, id, invocation, &left);
    }

    fn delete(&mut self, message: &Received) -> bool {
        let number = self.number(message);
        let deleted = self.queue.delete(self.now_ms, &message.receipt_handle).is_ok();
        if deleted {
            let group = self.undone.get_mut(message.group.as_ref().expect("a group")).expect("known");
            group.retain(|undone| *undone != number);
        }
        deleted
    }
}

fn received(delivery: &Delivery, source: &EventSource) -> Received {
    let message = Message::builder()
        .message_id(&delivery.message_id)
        .receipt_handle(&delivery.receipt_handle)
        .body(&delivery.message.body)
        .attributes(MessageSystemAttributeName::MessageGroupId, delivery.message.group.as_deref().unwrap_or_default());
    Received::new(&message.build(), source).expect("a whole message")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// P16, and what the mapping must hold beside it: limits of batches and of concurrency, locked groups, nothing lost.
    #[test]
    fn batches_keep_to_the_limits_and_groups_to_their_order(case in case()) {
        Simulation::new(&case).run();
    }
}
