//! The producer on a real SQS server. What no server can be made to do is in the property test beside the producer.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::Future;
use std::num::{NonZeroU32, NonZeroUsize};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName, QueueAttributeName};
use e2e::sqs::Sqs;
use microbatch_aws::clock::SystemClock;
use microbatch_aws::sqs::{
    Attribute, OutgoingMessage, ProducerDriver, ProducerOptions, SendError, SendReceipt, Sent, SqsProducer,
};
use microbatch_local::proxy::{Call, Fault};

const PATIENCE_MS: u64 = 20_000;

fn producer(sqs: &Sqs, queue_url: &str, options: ProducerOptions) -> (SqsProducer, ProducerDriver) {
    SqsProducer::new(sqs.proxied(PATIENCE_MS), queue_url, options, Arc::new(SystemClock))
}

fn count(value: usize) -> NonZeroUsize {
    NonZeroUsize::new(value).expect("not 0")
}

async fn results(receipts: Vec<SendReceipt>) -> Vec<Result<Sent, SendError>> {
    let mut results = Vec::with_capacity(receipts.len());
    for receipt in receipts {
        results.push(receipt.await);
    }
    results
}

async fn enqueue_all(producer: &SqsProducer, messages: impl IntoIterator<Item = OutgoingMessage>) -> Vec<SendReceipt> {
    let mut receipts = Vec::new();
    for message in messages {
        receipts.push(producer.enqueue(message).await.expect("accepted"));
    }
    receipts
}

fn body(message: &Message) -> String {
    message.body().unwrap_or_default().to_owned()
}

/// The bodies of each group, in the order in which the queue gives them.
fn by_group(messages: &[Message]) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in messages {
        let group = &message.attributes().expect("some")[&MessageSystemAttributeName::MessageGroupId];
        groups.entry(group.clone()).or_default().push(body(message));
    }
    groups
}

/// P11: a thousand messages in full batches, from many senders, and the driver ends when the producer is closed.
#[tokio::test(flavor = "multi_thread")]
async fn p11_a_thousand_messages_go_out_in_batches_and_all_arrive() {
    let sqs = Sqs::start("sqs-producer").await;
    let queue_url = sqs.queue("readings", &[]).await;
    let options = ProducerOptions { linger_ms: 60_000, entries_max: count(100), ..ProducerOptions::default() };
    let (producer, driver) = producer(&sqs, &queue_url, options);
    let driver = tokio::spawn(driver);
    let senders: Vec<_> = (0..10)
        .map(|sender| {
            let producer = producer.clone();
            tokio::spawn(async move {
                let message = |n: usize| {
                    OutgoingMessage::new(format!("reading-{n}")).attribute("n", Attribute::number(n).label("int"))
                };
                results(enqueue_all(&producer, (sender * 100..(sender + 1) * 100).map(message)).await).await
            })
        })
        .collect();
    drop(producer);
    let mut ids = HashSet::new();
    for sender in senders {
        for result in sender.await.expect("no panic") {
            assert!(ids.insert(result.expect("sent").message_id));
        }
    }
    driver.await.expect("the last handle is gone, and so is the driver");
    assert_eq!(sqs.proxy.count("SendMessageBatch"), 100);

    let arrived = sqs.drain(&queue_url).await;
    assert_eq!(arrived.iter().map(body).collect::<BTreeSet<_>>(), (0..1_000).map(|n| format!("reading-{n}")).collect());
    assert_eq!(arrived.len(), 1_000);
    assert_eq!(
        arrived.iter().filter_map(|message| message.message_id().map(str::to_owned)).collect::<HashSet<_>>(),
        ids
    );
    let numbered = |message: &Message| {
        let attribute = &message.message_attributes().expect("one")["n"];
        attribute.data_type() == "Number.int" && body(message).ends_with(attribute.string_value().expect("a number"))
    };
    assert!(arrived.iter().all(numbered));
}

/// P16: requests that are throttled, lost before or after they are applied, and not answered: order and number stand.
#[tokio::test(flavor = "multi_thread")]
async fn p16_the_order_of_a_group_is_kept_across_failures_and_nothing_is_there_twice() {
    let sqs = Sqs::start("sqs-producer-fifo").await;
    let queue_url = sqs.queue("ledger.fifo", &[]).await;
    let faults = [
        Fault::Pass,
        Fault::DropAnswer,
        Fault::Pass,
        Fault::Throttle,
        Fault::Pass,
        Fault::Error500,
        Fault::HangAfter,
        Fault::Pass,
        Fault::Refuse,
        Fault::HangBefore,
    ];
    sqs.proxy.set_script(move |call: &Call<'_>| faults[call.index % faults.len()]);
    let options = ProducerOptions {
        tries_max: NonZeroU32::new(12).expect("not 0"),
        give_up_ms: 120_000,
        try_timeout_ms: 500,
        batches_in_flight_max: count(8),
        ..ProducerOptions::default()
    };
    let (producer, driver) = producer(&sqs, &queue_url, options);
    let message = |n: usize| OutgoingMessage::new(format!("entry-{n:03}")).group(format!("account-{}", n % 7));
    let work = async {
        let receipts = enqueue_all(&producer, (0..140).map(message)).await;
        producer.close();
        results(receipts).await
    };
    let (results, ()) = tokio::join!(work, driver);
    for (n, result) in results.iter().enumerate() {
        let sent = result.as_ref().unwrap_or_else(|error| panic!("{n}: {error}"));
        assert!(sent.sequence_number.is_some());
    }
    let groups = by_group(&sqs.drain(&queue_url).await);
    assert_eq!(groups.len(), 7);
    for (group, bodies) in groups {
        let account: usize = group.trim_start_matches("account-").parse().expect("a number");
        let expected: Vec<String> = (0..20).map(|n| format!("entry-{:03}", n * 7 + account)).collect();
        assert_eq!(bodies, expected, "{group}");
    }
}

/// P7: what is one message's own fault concerns it alone, and on a FIFO queue those that were sent behind it.
#[tokio::test(flavor = "multi_thread")]
async fn p7_a_message_that_the_queue_refuses_fails_alone() {
    let sqs = Sqs::start("sqs-producer-refused").await;
    let small = [(QueueAttributeName::MaximumMessageSize, "1024")];
    let queue_url = sqs.queue("readings", &small).await;
    let full = ProducerOptions { linger_ms: 60_000, ..ProducerOptions::default() };
    let (readings, driver) = producer(&sqs, &queue_url, full);
    let driver = tokio::spawn(driver);
    let message = |n: usize| OutgoingMessage::new(if n == 4 { "x".repeat(1_025) } else { format!("reading-{n}") });
    let outcomes = results(enqueue_all(&readings, (0..10).map(message)).await).await;
    for (n, result) in outcomes.iter().enumerate() {
        match result {
            Ok(_) => assert_ne!(n, 4),
            Err(error) => {
                assert!(n == 4 && matches!(error, SendError::Refused(_)) && !error.may_be_sent(), "{n}: {error}");
            }
        }
    }
    assert_eq!(sqs.proxy.count("SendMessageBatch"), 1, "what is final is not tried again");
    readings.close();
    driver.await.expect("closed");
    assert_eq!(sqs.drain(&queue_url).await.len(), 9);

    let queue_url = sqs.queue("ledger.fifo", &small).await;
    let (ledger, driver) = producer(&sqs, &queue_url, ProducerOptions::default());
    let driver = tokio::spawn(driver);
    let entry = |text: &str| OutgoingMessage::new(text).group("a");
    let large = "x".repeat(1_025);
    let batch = [entry("a-0"), entry(&large), entry("a-2"), OutgoingMessage::new("b-0").group("b"), entry("a-3")];
    let mut receipts = enqueue_all(&ledger, batch).await.into_iter();
    let mut next = async || receipts.next().expect("five").await;
    assert!(next().await.is_ok());
    let failed = next().await;
    // The failure is known: what is sent now is sent on purpose.
    let known = ledger.send(entry("a-1, again")).await;
    assert!(matches!(failed, Err(SendError::Refused(_))) && known.is_ok(), "{failed:?} {known:?}");
    assert_eq!(next().await, Err(SendError::OrderBroken));
    assert!(next().await.is_ok(), "another group");
    assert_eq!(next().await, Err(SendError::OrderBroken));
    ledger.close();
    driver.await.expect("closed");
    let groups = by_group(&sqs.drain(&queue_url).await);
    assert_eq!(
        (&groups["a"][..], &groups["b"][..]),
        (&["a-0".to_owned(), "a-1, again".to_owned()][..], &["b-0".to_owned()][..])
    );
}

/// P11: when there is no room, senders wait, and go on when there is some again.
#[tokio::test(flavor = "multi_thread")]
async fn p11_senders_wait_while_there_is_no_room() {
    let sqs = Sqs::start("sqs-producer-room").await;
    let queue_url = sqs.queue("readings", &[]).await;
    sqs.proxy.set_script(|_: &Call<'_>| Fault::HangBefore);
    let options = ProducerOptions { entries_max: count(20), try_timeout_ms: 500, ..ProducerOptions::default() };
    let (producer, driver) = producer(&sqs, &queue_url, options);
    let driver = tokio::spawn(driver);
    let message = |n: usize| OutgoingMessage::new(format!("reading-{n}"));
    let mut receipts = enqueue_all(&producer, (0..20).map(message)).await;
    {
        let mut next = pin!(producer.enqueue(message(20)));
        assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "there is no room");
        sqs.proxy.set_script(|_: &Call<'_>| Fault::Pass);
        receipts.push(next.await.expect("accepted"));
    }
    assert!(results(receipts).await.iter().all(Result::is_ok));
    producer.close();
    assert_eq!(producer.send(message(21)).await, Err(SendError::Closed));
    driver.await.expect("closed");
    assert_eq!(sqs.drain(&queue_url).await.iter().map(body).collect::<BTreeSet<_>>().len(), 21);

    // Bytes are bounded too: two messages of 1 MiB less a little, and the third waits.
    sqs.proxy.set_script(|_: &Call<'_>| Fault::HangBefore);
    let options = ProducerOptions { bytes_max: 0, try_timeout_ms: 500, ..ProducerOptions::default() };
    let (producer, driver) = self::producer(&sqs, &queue_url, options);
    let driver = tokio::spawn(driver);
    let large = |n: usize| OutgoingMessage::new(n.to_string().repeat(1_000_000));
    let mut receipts = enqueue_all(&producer, (0..2).map(large)).await;
    {
        let mut next = pin!(producer.enqueue(large(2)));
        assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "there is no room");
        sqs.proxy.set_script(|_: &Call<'_>| Fault::Pass);
        receipts.push(next.await.expect("accepted"));
    }
    producer.close();
    assert!(results(receipts).await.iter().all(Result::is_ok));
    driver.await.expect("closed");
}

/// P14: tries are counted, and what is given up says whether it may be there all the same.
#[tokio::test(flavor = "multi_thread")]
async fn p14_tries_are_bounded_and_a_lost_answer_is_told() {
    let sqs = Sqs::start("sqs-producer-tries").await;
    let options = ProducerOptions { tries_max: NonZeroU32::new(3).expect("not 0"), ..ProducerOptions::default() };
    for (nth, (fault, may_be_sent, copies)) in
        [(Fault::Throttle, false, 0), (Fault::Error500, true, 0), (Fault::DropAnswer, true, 3)].into_iter().enumerate()
    {
        let queue_url = sqs.queue(&format!("readings-{nth}"), &[]).await;
        let before = sqs.proxy.count("SendMessageBatch");
        sqs.proxy.set_script(move |_: &Call<'_>| fault);
        let (producer, driver) = producer(&sqs, &queue_url, options);
        let work = async {
            let result = producer.send(OutgoingMessage::new("canary")).await;
            producer.close();
            result
        };
        let (result, ()) = tokio::join!(work, driver);
        let error = result.expect_err("given up");
        assert!(matches!(error, SendError::GaveUp { tries: 3, .. }), "{error}");
        assert_eq!(error.may_be_sent(), may_be_sent, "{fault:?}");
        assert!(!format!("{error} {error:?}").contains("canary"), "P13: {error}");
        assert_eq!(sqs.proxy.count("SendMessageBatch") - before, 3, "{fault:?}");
        // At least once: a standard queue has every repetition.
        assert_eq!(sqs.drain(&queue_url).await.len(), copies, "{fault:?}");
    }
}

/// A driver that is dropped leaves nobody waiting, and says what may have been sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_driver_leaves_nobody_waiting() {
    let sqs = Sqs::start("sqs-producer-dropped").await;
    let queue_url = sqs.queue("ledger.fifo", &[]).await;
    let arrived = Arc::new(tokio::sync::Notify::new());
    let notify = Arc::clone(&arrived);
    sqs.proxy.set_script(move |_: &Call<'_>| {
        notify.notify_one();
        Fault::HangAfter
    });
    let (producer, driver) = producer(&sqs, &queue_url, ProducerOptions { linger_ms: 0, ..ProducerOptions::default() });
    let driver = tokio::spawn(driver);
    let entry = |n: usize| OutgoingMessage::new(format!("entry-{n}")).group("a");
    let first = producer.enqueue(entry(0)).await.expect("accepted");
    arrived.notified().await;
    let second = producer.enqueue(entry(1)).await.expect("accepted");
    driver.abort();
    assert!(driver.await.is_err_and(|error| error.is_cancelled()));
    assert_eq!((first.await, second.await), (Err(SendError::Abandoned), Err(SendError::Closed)));
    assert_eq!(producer.send(entry(2)).await, Err(SendError::Closed));
}
