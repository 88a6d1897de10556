//! The producer under generated schedules: a queue that fails in every way; senders that wait for results, look at them later,
//! or never. Time is virtual and everything runs on one thread, so that a schedule is the same in every run.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    future::Future,
    num::{NonZeroU32, NonZeroUsize},
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
};

use futures_util::future::{Either, join_all, select};
use microbatch::Clock;
use microbatch_testkit::clock::SeededRandom;
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::{
    Attribute, OutgoingMessage, ProducerDriver, ProducerOptions, SendError, SendReceipt, Sent, SqsProducer,
    fake_queue::{Act, FakeQueue, Fate, QueueState, Step, VirtualClock},
};

/// What a sender does once its message was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Waits for the result before it sends on.
    Wait,
    /// Sends on, and looks at the result as soon as it is there.
    Beside,
    /// Looks at the result after it has sent its last message.
    Afterwards,
    /// Drops the receipt.
    Forget,
}

/// One message. The messages of a group are sent by one sender, in order.
#[derive(Debug, Clone, Copy)]
struct Message {
    group: usize,
    after_ms: u64,
    large: bool,
    manner: Manner,
}

/// What happened to a message, in the order in which it happened to all.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    /// The sender called.
    Called(usize),
    Observed(usize, Result<Sent, SendError>),
    Forgotten(usize),
}

#[derive(Debug, Clone)]
struct Setup {
    fifo: bool,
    options: ProducerOptions,
    close_at_ms: Option<u64>,
    messages: Vec<Message>,
    script: Vec<Step>,
}

struct Observed {
    events: Vec<Event>,
    queue: QueueState,
    order_is_empty: bool,
}

/// A producer on a queue that goes through these steps.
fn producer(
    clock: &VirtualClock,
    fifo: bool,
    options: ProducerOptions,
    script: Vec<Step>,
) -> (SqsProducer, ProducerDriver, FakeQueue) {
    let queue = FakeQueue::new(clock, fifo, script);
    let random = Arc::new(SeededRandom::new(7));
    let (producer, driver) = SqsProducer::with_queue(queue.clone(), fifo, options, Arc::new(clock.clone()), random);
    (producer, driver, queue)
}

fn observe(setup: &Setup) -> Observed {
    let clock = VirtualClock::default();
    let (producer, driver, queue) = producer(&clock, setup.fifo, setup.options, setup.script.clone());
    let events = RefCell::new(Vec::new());
    let order = producer.order.clone();
    clock.run(async {
        let (handovers, receipts): (Vec<_>, Vec<_>) = setup.messages.iter().map(|_| oneshot::channel()).unzip();
        let handovers: RefCell<Vec<_>> = RefCell::new(handovers.into_iter().map(Some).collect());
        let groups: HashSet<usize> = setup.messages.iter().map(|message| message.group).collect();
        let senders = groups.into_iter().map(|group| send_group(setup, group, &producer, &clock, &events, &handovers));
        let watchers = receipts.into_iter().enumerate().map(|(number, receipt)| watch(number, receipt, &events));
        let work = async {
            tokio::join!(join_all(senders), join_all(watchers));
            producer.close();
        };
        let close = async {
            if let Some(close_at_ms) = setup.close_at_ms {
                clock.sleep_until(close_at_ms).await;
                producer.close();
            }
        };
        tokio::join!(work, close, driver)
    });
    let order_is_empty = order.is_none_or(|order| order.groups() == 0);
    drop(producer);
    let queue = queue.into_state();
    Observed { events: events.into_inner(), queue, order_is_empty }
}

type Handovers = RefCell<Vec<Option<oneshot::Sender<SendReceipt>>>>;

async fn send_group(
    setup: &Setup,
    group: usize,
    producer: &SqsProducer,
    clock: &VirtualClock,
    events: &RefCell<Vec<Event>>,
    handovers: &Handovers,
) {
    let mut afterwards = Vec::new();
    let hand_over = |number: usize, receipt: SendReceipt| {
        let sender = handovers.borrow_mut()[number].take().expect("once");
        sender.send(receipt).expect("the watcher is there");
    };
    for (number, message) in setup.messages.iter().enumerate().filter(|(_, message)| message.group == group) {
        if message.after_ms > 0 {
            let at_ms = clock.now_ms() + message.after_ms;
            clock.sleep_until(at_ms).await;
        }
        events.borrow_mut().push(Event::Called(number));
        let padding = if message.large { 400_000 } else { 0 };
        let outgoing = OutgoingMessage::new(format!("{number} {}", "x".repeat(padding)))
            .group(format!("g{group}"))
            .attribute("n", Attribute::number(number));
        match producer.enqueue(outgoing).await {
            Err(error) => {
                handovers.borrow_mut()[number].take();
                events.borrow_mut().push(Event::Observed(number, Err(error)));
            }
            Ok(receipt) => match message.manner {
                Manner::Wait => {
                    handovers.borrow_mut()[number].take();
                    let result = receipt.await;
                    events.borrow_mut().push(Event::Observed(number, result));
                }
                Manner::Beside => hand_over(number, receipt),
                Manner::Afterwards => afterwards.push((number, receipt)),
                Manner::Forget => {
                    handovers.borrow_mut()[number].take();
                    events.borrow_mut().push(Event::Forgotten(number));
                }
            },
        }
    }
    for (number, receipt) in afterwards {
        hand_over(number, receipt);
    }
}

async fn watch(number: usize, receipt: oneshot::Receiver<SendReceipt>, events: &RefCell<Vec<Event>>) {
    if let Ok(receipt) = receipt.await {
        let result = receipt.await;
        events.borrow_mut().push(Event::Observed(number, result));
    }
}

fn check(setup: &Setup, observed: &Observed) -> Result<(), TestCaseError> {
    let Observed { events, queue, order_is_empty } = observed;
    prop_assert_eq!(&queue.broken_rules, &Vec::<String>::new());
    prop_assert!(*order_is_empty, "groups are remembered");
    let in_flight_max = if setup.fifo { 1 } else { setup.options.batches_in_flight_max.get() };
    prop_assert!(queue.in_flight_max <= in_flight_max, "P11: {} at once", queue.in_flight_max);
    check_results(setup, events, queue)?;
    check_tries(setup, queue)?;
    if setup.fifo {
        check_queue_order(events, queue, setup)?;
        check_refusals(setup, events)?;
    }
    Ok(())
}

fn results(events: &[Event]) -> HashMap<usize, &Result<Sent, SendError>> {
    let result = |event| match event {
        &Event::Observed(number, ref result) => Some((number, result)),
        _ => None,
    };
    events.iter().filter_map(result).collect()
}

/// P1: what is said to be sent is in the queue, what is said not to be sent is not, and everyone is told.
fn check_results(setup: &Setup, events: &[Event], queue: &QueueState) -> Result<(), TestCaseError> {
    let results = results(events);
    let forgotten = events.iter().filter(|event| matches!(event, Event::Forgotten(_))).count();
    prop_assert_eq!(results.len() + forgotten, setup.messages.len());
    for (number, result) in &results {
        let copies = queue.content.iter().filter(|(message, _)| message == number).count();
        match result {
            Ok(sent) => prop_assert!(sent.message_id == number.to_string() && copies >= 1, "{number} is not there"),
            Err(error) => prop_assert!(error.may_be_sent() || copies == 0, "{number} is there: {error}"),
        }
        prop_assert!(!setup.fifo || copies <= 1, "{number} is there {copies} times");
        if setup.close_at_ms.is_none() {
            prop_assert!(!matches!(result, Err(SendError::Closed)), "{number} was closed");
        }
        prop_assert!(!matches!(result, Err(SendError::Abandoned)), "{number} was abandoned");
    }
    Ok(())
}

/// P14: tries are bounded in number and in time.
fn check_tries(setup: &Setup, queue: &QueueState) -> Result<(), TestCaseError> {
    for number in 0..setup.messages.len() {
        let tries: Vec<u64> = queue.tries.iter().filter(|of| of.message == number).map(|of| of.at_ms).collect();
        prop_assert!(tries.len() <= setup.options.tries_max.get() as usize, "{number} was tried {} times", tries.len());
        let span_ms = tries.last().zip(tries.first()).map_or(0, |(last, first)| last - first);
        prop_assert!(span_ms <= setup.options.give_up_ms, "{number} was tried for {span_ms} ms");
    }
    Ok(())
}

/// P16: in the queue the messages of a group stand in the order of the calls. Only what was given up without an answer can
/// arrive after it was given up.
fn check_queue_order(events: &[Event], queue: &QueueState, setup: &Setup) -> Result<(), TestCaseError> {
    let results = results(events);
    let given_up = |number| results.get(number).is_none_or(|result| result.as_ref().is_err_and(SendError::may_be_sent));
    let mut last: HashMap<usize, usize> = HashMap::new();
    for (number, late) in &queue.content {
        if *late && given_up(number) {
            continue;
        }
        let before = last.insert(setup.messages[*number].group, *number);
        prop_assert!(
            before.is_none_or(|before| before < *number),
            "{number} is behind {before:?}: {:?}",
            queue.content
        );
    }
    Ok(())
}

/// P16: after a failure, exactly those of its group that were called before it was known are refused.
fn check_refusals(setup: &Setup, events: &[Event]) -> Result<(), TestCaseError> {
    let called: HashMap<usize, usize> = events
        .iter()
        .enumerate()
        .filter_map(|(at, event)| if let Event::Called(number) = event { Some((*number, at)) } else { None })
        .collect();
    let failed_for_good = |event: &(usize, &Event)| match event.1 {
        Event::Observed(number, Err(SendError::Refused(_) | SendError::GaveUp { .. })) => Some((*number, event.0)),
        _ => None,
    };
    let failures: Vec<(usize, usize)> = events.iter().enumerate().filter_map(|event| failed_for_good(&event)).collect();
    let forgotten: HashSet<usize> = events
        .iter()
        .filter_map(|event| if let Event::Forgotten(number) = event { Some(*number) } else { None })
        .collect();
    for (number, result) in results(events) {
        let same_group = |other: usize| setup.messages[other].group == setup.messages[number].group;
        let is_behind = |(failed, known_at): &(usize, usize)| {
            same_group(*failed) && called[failed] < called[&number] && called[&number] < *known_at
        };
        if failures.iter().any(is_behind) {
            let told = matches!(result, Err(SendError::OrderBroken | SendError::Closed));
            prop_assert!(told, "{number} would overtake a failed one: {result:?}");
        } else if matches!(result, Err(SendError::OrderBroken)) {
            // A forgotten one may have failed at any time.
            let unseen = forgotten.iter().any(|other| same_group(*other) && called[other] < called[&number]);
            prop_assert!(unseen, "{number} was refused for nothing");
        }
    }
    Ok(())
}

/// Bits make quick strategies: what is generated matters more than how it shrinks.
fn part(bits: u64, shift: u32, options: u64) -> u64 {
    (bits >> shift) % options
}

fn message() -> impl Strategy<Value = Message> {
    any::<u64>().prop_map(|bits| Message {
        group: usize::try_from(part(bits, 0, 3)).expect("small"),
        after_ms: [0, 0, 0, 1, 40, 300][usize::try_from(part(bits, 8, 6)).expect("small")],
        large: part(bits, 16, 400) == 0,
        manner: match part(bits, 24, 8) {
            0 | 1 => Manner::Wait,
            2..=4 => Manner::Beside,
            5 | 6 => Manner::Afterwards,
            _ => Manner::Forget,
        },
    })
}

fn step() -> impl Strategy<Value = Step> {
    any::<u64>().prop_map(|bits| {
        let fate = |shift| match part(bits, shift, 10) {
            0 => Fate::Unnamed,
            1 => Fate::Throttled,
            2 => Fate::Broken,
            3 => Fate::SendersFault,
            _ => Fate::Taken,
        };
        Step {
            act: match part(bits, 0, 16) {
                0 => Act::Throttle,
                1 => Act::Refuse,
                2 => Act::HangBefore,
                3 => Act::HangAfter,
                4 => Act::DropAnswer,
                5 => Act::Late,
                _ => Act::Answer,
            },
            after_ms: [0, 0, 2, 30, 700][usize::try_from(part(bits, 8, 5)).expect("small")],
            fates: [fate(16), fate(24), fate(32), fate(40)],
        }
    })
}

fn options() -> impl Strategy<Value = ProducerOptions> {
    any::<u64>().prop_map(|bits| {
        let small = |shift, options| usize::try_from(1 + part(bits, shift, options)).expect("small");
        ProducerOptions {
            linger_ms: [0, 0, 5, 100][small(0, 4) - 1],
            entries_max: NonZeroUsize::new([1, 3, 12, 100][small(8, 4) - 1]).expect("not zero"),
            bytes_max: 0,
            batches_in_flight_max: NonZeroUsize::new(small(16, 3)).expect("not zero"),
            tries_max: NonZeroU32::new(1 + u32::try_from(part(bits, 24, 4)).expect("small")).expect("not zero"),
            try_timeout_ms: [50, 1_000][small(32, 2) - 1],
            give_up_ms: [0, 200, 20_000][small(40, 3) - 1],
        }
    })
}

fn entry(number: usize) -> OutgoingMessage {
    OutgoingMessage::new(number.to_string()).group("g")
}

#[test]
fn a_dropped_driver_tells_what_was_tried_from_what_was_not() {
    let clock = VirtualClock::default();
    let script = vec![Step { act: Act::HangBefore, after_ms: 0, fates: [Fate::Taken; 4] }];
    let (producer, driver, queue) = producer(&clock, true, ProducerOptions::default(), script);
    clock.run(async {
        let tried = producer.enqueue(entry(0)).await.expect("accepted");
        let in_its_batch = producer.enqueue(entry(1)).await.expect("accepted");
        let ended = select(driver, clock.sleep_until(50)).await;
        assert!(matches!(ended, Either::Right(_)), "it hangs");
        let waiting = producer.enqueue(entry(2)).await.expect("accepted");
        drop(ended);
        assert_eq!(tried.await, Err(SendError::Abandoned));
        assert_eq!((in_its_batch.await, waiting.await), (Err(SendError::Closed), Err(SendError::Closed)));
        assert_eq!(producer.send(entry(3)).await, Err(SendError::Closed));
    });
    assert_eq!(queue.state().requests, 1);
    assert_eq!(producer.order.map(|order| order.groups()), Some(0));
}

/// A sender that takes its message back before there is room breaks no order: it was not a failure.
#[test]
fn a_message_that_is_taken_back_holds_up_nothing() {
    let clock = VirtualClock::default();
    let script = vec![Step { act: Act::Answer, after_ms: 10, fates: [Fate::Taken; 4] }];
    let (producer, driver, queue) = producer(&clock, true, ProducerOptions::default(), script);
    clock.run(async {
        let work = async {
            let large = |number: usize| OutgoingMessage::new(format!("{number} {}", "x".repeat(1_000_000))).group("g");
            let receipts = [producer.enqueue(large(0)).await, producer.enqueue(large(1)).await];
            let mut more = Vec::new();
            // 16 MiB have room for sixteen of them.
            for number in 2..16 {
                more.push(producer.enqueue(large(number)).await.expect("accepted"));
            }
            {
                let mut taken_back = pin!(producer.enqueue(large(16)));
                assert!(taken_back.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
            let last = producer.send(large(17)).await;
            for receipt in receipts {
                receipt.expect("accepted").await.expect("sent");
            }
            producer.close();
            last
        };
        let (last, ()) = tokio::join!(work, driver);
        assert!(last.is_ok(), "{last:?}");
    });
    let content: Vec<usize> = queue.state().content.iter().map(|(number, _)| *number).collect();
    assert_eq!(content, (0..16).chain([17]).collect::<Vec<_>>());
}

/// P16: a message that waits for room when a failure becomes known was sent before that.
#[test]
fn p16_what_waits_for_room_is_refused_with_the_rest_of_its_group() {
    let message = |group, after_ms, large| Message { group, after_ms, large, manner: Manner::Beside };
    let mut messages = vec![message(0, 0, false), message(1, 1, true)];
    // Five of 400,000 bytes are all that 2 MiB have room for.
    messages.extend([message(1, 0, true); 4]);
    messages.push(message(0, 2, true));
    let step =
        |first| Step { act: Act::Answer, after_ms: 700, fates: [first, Fate::Throttled, Fate::Taken, Fate::Taken] };
    let options = ProducerOptions { bytes_max: 0, ..ProducerOptions::default() };
    // The first message is refused, and the one sent with it keeps the room for another while.
    let script = vec![step(Fate::SendersFault), step(Fate::Taken)];
    let setup = Setup { fifo: true, options, close_at_ms: None, messages, script };
    let observed = observe(&setup);
    check(&setup, &observed).unwrap_or_else(|error| panic!("{error}"));
    let results = results(&observed.events);
    assert!(matches!(results[&0], Err(SendError::Refused(_))), "{:?}", results[&0]);
    assert!(results[&1].is_ok(), "{:?}", results[&1]);
    assert_eq!(*results[&6], Err(SendError::OrderBroken));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12_000))]

    /// P1, P11, P14, P16: whatever the queue does, and however its senders behave.
    #[test]
    fn p16_order_in_a_group_is_never_inverted_and_nobody_is_told_a_lie(
        fifo in prop::bool::weighted(0.8),
        options in options(),
        close_at_ms in prop::option::weighted(0.2, 0_u64..2_000),
        messages in prop::collection::vec(message(), 0..18),
        script in prop::collection::vec(step(), 1..8),
    ) {
        let setup = Setup { fifo, options, close_at_ms, messages, script };
        check(&setup, &observe(&setup))?;
    }
}
