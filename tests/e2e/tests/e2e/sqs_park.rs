//! Parking and delaying on a real SQS server. ministack checks less of a message than AWS does; what AWS would refuse is
//! refused by `SqsQueue` itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName};
use e2e::sqs::Sqs;
use e2e::stack::need;
use microbatch::Queue;
use microbatch::queue::{DelayRequest, ParkRequest, QueueError};
use microbatch_aws::sqs::{REASON_ATTRIBUTE, SqsQueue};
use microbatch_local::proxy::{Call, Fault};
use serde_json::{Value, json};

const REASON: &str = r#"{"code":"unknown_currency","detail":"é \"quoted\""}"#;
/// For requests that are to be answered.
const PATIENCE_MS: u64 = 20_000;
/// For requests that hang.
const HASTE_MS: u64 = 1_500;

fn timeout_ms(fault: Fault) -> u64 {
    if matches!(fault, Fault::HangBefore | Fault::HangAfter) { HASTE_MS } else { PATIENCE_MS }
}

fn request(index: usize, body: &str, attributes: &Value) -> ParkRequest {
    ParkRequest {
        index,
        message_id: format!("m-{index}").into(),
        body: body.into(),
        attributes: Some(serde_json::value::to_raw_value(attributes).expect("JSON")),
        group: None,
        deduplication_id: None,
        trace_header: None,
        reason: REASON.into(),
    }
}

fn plain(count: usize) -> Vec<ParkRequest> {
    (0..count).map(|index| request(index, &format!("body-{index}"), &json!({}))).collect()
}

fn bodies(messages: &[Message]) -> BTreeSet<String> {
    messages.iter().filter_map(|message| message.body().map(str::to_owned)).collect()
}

fn codes(answers: &[Result<(), QueueError>]) -> Vec<Result<(), &'static str>> {
    answers.iter().map(|answer| answer.as_ref().copied().map_err(QueueError::code)).collect()
}

/// A received message's attributes as Lambda puts them into a record.
fn as_in_a_record(message: &Message) -> Value {
    let attribute = |value: &MessageAttributeValue| {
        let mut record = json!({"stringListValues": [], "binaryListValues": [], "dataType": value.data_type()});
        if let Some(text) = value.string_value() {
            record["stringValue"] = json!(text);
        }
        if let Some(bytes) = value.binary_value() {
            record["binaryValue"] = json!(base64(bytes.as_ref()));
        }
        record
    };
    let attributes = message.message_attributes().into_iter().flatten();
    attributes.map(|(name, value)| (name.clone(), attribute(value))).collect()
}

/// As RFC 4648 has it: not by the code under test.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |part: &[u8]| {
        let bits = (0..3).fold(0, |bits, n| (bits << 8) | usize::from(part.get(n).copied().unwrap_or_default()));
        let digit = |n: usize| if n <= part.len() { char::from(DIGITS[(bits >> (18 - 6 * n)) & 63]) } else { '=' };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// P1: what is parked is the message that came, byte for byte, and why.
#[tokio::test(flavor = "multi_thread")]
async fn p1_a_parked_message_arrives_with_its_body_its_attributes_and_its_reason() {
    let sqs = Sqs::start("sqs-park").await;
    let (source, park) = (sqs.queue("orders", &[]).await, sqs.queue("orders-dlq", &[]).await);
    let body = "{\"note\": \"\u{1f600} é \\u0000 \t\r\n\"}";
    let text = |data_type: &str, text: &str| {
        MessageAttributeValue::builder().data_type(data_type).string_value(text).build().expect("complete")
    };
    let bytes: Vec<u8> = (0..=255).collect();
    let binary = MessageAttributeValue::builder().data_type("Binary.raw").binary_value(Blob::new(bytes.clone()));
    let sent = sqs.direct().send_message().queue_url(&source).message_body(body);
    let sent = sent
        .message_attributes("kind", text("String", "re\u{1f600}fund"))
        .message_attributes("cents", text("Number.int", "-1250"))
        .message_attributes("digest", binary.build().expect("complete"));
    sent.send().await.expect("sent");

    let received = sqs.receive(&source, 600, 5).await;
    let [received] = &received[..] else { panic!("expected one message, found {}", received.len()) };
    let mut request = request(0, received.body().expect("a body"), &as_in_a_record(received));
    request.message_id = received.message_id().expect("an id").into();
    let queue = SqsQueue::new(sqs.proxied(PATIENCE_MS), &source).park_in(&park);
    assert!(queue.can_park() && !queue.can_delay());
    assert_eq!(queue.park(&[request]).await, [Ok(())]);

    let parked = sqs.drain(&park).await;
    let [parked] = &parked[..] else { panic!("expected one message, found {}", parked.len()) };
    assert_eq!(parked.body(), Some(body));
    let attributes = parked.message_attributes().expect("four");
    assert_eq!(attributes.len(), 4);
    assert_eq!(
        (attributes["kind"].data_type(), attributes["kind"].string_value()),
        ("String", Some("re\u{1f600}fund"))
    );
    assert_eq!((attributes["cents"].data_type(), attributes["cents"].string_value()), ("Number.int", Some("-1250")));
    let digest = attributes["digest"].binary_value().map(|blob| blob.clone().into_inner());
    assert_eq!((attributes["digest"].data_type(), digest), ("Binary.raw", Some(bytes)));
    let reason = &attributes[REASON_ATTRIBUTE];
    assert_eq!((reason.data_type(), reason.string_value()), ("String", Some(REASON)));
}

/// The trace goes with the message. Seen in the request, since ministack drops it from batches.
#[tokio::test(flavor = "multi_thread")]
async fn the_senders_trace_is_in_the_request() {
    const TRACE: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
    let sqs = Sqs::start("sqs-trace").await;
    let park = sqs.queue("orders-dlq", &[]).await;
    let queue = SqsQueue::new(sqs.proxied(PATIENCE_MS), "orders").park_in(&park);
    sqs.proxy.set_script(|call: &Call<'_>| {
        let request: Value = serde_json::from_slice(call.body).unwrap_or_default();
        let trace = &request["Entries"][0]["MessageSystemAttributes"]["AWSTraceHeader"];
        let right = *trace == json!({"StringValue": TRACE, "DataType": "String"});
        if right { Fault::Pass } else { Fault::Answer { status: 400, body: "{}" } }
    });
    let mut traced = request(0, "body", &json!({}));
    traced.trace_header = Some(TRACE.into());
    assert_eq!(queue.park(&[traced]).await, [Ok(())]);
}

/// P7: one that does not fit is answered alone. Sizes beyond one request make several.
#[tokio::test(flavor = "multi_thread")]
async fn p7_what_does_not_fit_is_answered_alone_and_the_others_are_parked() {
    let sqs = Sqs::start("sqs-park-many").await;
    let park = sqs.queue("orders-dlq", &[]).await;
    let queue = SqsQueue::new(sqs.proxied(PATIENCE_MS), "orders").park_in(&park);

    let mut requests = plain(25);
    let ten: Value = (0..10).map(|n| (format!("a{n}"), json!({"stringValue": "x", "dataType": "String"}))).collect();
    requests[3] = request(3, "body-3", &ten);
    requests[11] = request(11, "body-11\u{1}", &json!({}));
    requests[12] = request(12, &"x".repeat(1_048_576), &json!({}));
    requests[20] = request(20, "body-20", &json!({"a": {"dataType": "Binary", "binaryValue": "!!"}}));
    let answers = queue.park(&requests).await;
    let expected: Vec<Result<(), &str>> =
        (0..25).map(|n| if [3, 11, 12, 20].contains(&n) { Err("park_does_not_fit") } else { Ok(()) }).collect();
    assert_eq!(codes(&answers), expected);
    assert_eq!(sqs.proxy.count("SendMessageBatch"), 3, "21 in tens");
    assert_eq!(bodies(&sqs.drain(&park).await).len(), 21);

    let before = sqs.proxy.count("SendMessageBatch");
    let large: Vec<ParkRequest> = (0..5).map(|n| request(n, &n.to_string().repeat(400_000), &json!({}))).collect();
    assert_eq!(codes(&queue.park(&large).await), [Ok(()); 5]);
    assert_eq!(sqs.proxy.count("SendMessageBatch") - before, 3, "two of them to a request of 1 MiB");
    assert_eq!(bodies(&sqs.drain(&park).await).len(), 5);
    assert_eq!(queue.park(&[]).await, []);
}

/// P1: whatever happens to a request, no entry is said to be parked that is not in the queue.
#[tokio::test(flavor = "multi_thread")]
async fn p1_no_entry_is_said_to_be_parked_that_is_not_there() {
    let sqs = Sqs::start("sqs-park-faults").await;
    for (nth, (fault, applied, code)) in [
        (Fault::Throttle, false, "queue_throttled"),
        (Fault::Error500, false, "queue_unavailable"),
        (Fault::Refuse, false, "queue_unavailable"),
        (Fault::DropAnswer, true, "queue_unavailable"),
        (Fault::HangBefore, false, "queue_timed_out"),
        (Fault::HangAfter, true, "queue_timed_out"),
        (Fault::Answer { status: 200, body: "{}" }, false, "queue_unavailable"),
        (
            Fault::Answer { status: 200, body: r#"{"Successful":[{"Id":"7","MessageId":"m"}]}"# },
            false,
            "queue_unavailable",
        ),
        (Fault::Answer { status: 200, body: "no json" }, false, "queue_unavailable"),
    ]
    .into_iter()
    .enumerate()
    {
        let park = sqs.queue(&format!("dlq-{nth}"), &[]).await;
        let queue = SqsQueue::new(sqs.proxied(timeout_ms(fault)), "orders").park_in(&park);
        sqs.proxy.set_script(move |_: &Call<'_>| fault);
        let answers = queue.park(&plain(3)).await;
        assert_eq!(codes(&answers), [Err(code); 3], "{fault:?}");
        assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(QueueError::is_retryable), "{fault:?}");
        assert_eq!(sqs.drain(&park).await.len(), if applied { 3 } else { 0 }, "{fault:?}");

        // The pipeline tries again: then they are there.
        sqs.proxy.set_script(|_: &Call<'_>| Fault::Pass);
        let queue = SqsQueue::new(sqs.proxied(PATIENCE_MS), "orders").park_in(&park);
        assert_eq!(codes(&queue.park(&plain(3)).await), [Ok(()); 3], "{fault:?}");
        assert_eq!(bodies(&sqs.drain(&park).await).len(), 3, "{fault:?}");
    }
}

/// P1, on a mixture of faults and many calls.
#[tokio::test(flavor = "multi_thread")]
async fn p1_holds_on_many_calls_of_which_some_fail() {
    let sqs = Sqs::start("sqs-park-mixture").await;
    let park = sqs.queue("orders-dlq", &[]).await;
    let queue = SqsQueue::new(sqs.proxied(PATIENCE_MS), "orders").park_in(&park);
    let faults = [Fault::Pass, Fault::Throttle, Fault::DropAnswer, Fault::Pass, Fault::Error500, Fault::Refuse];
    sqs.proxy.set_script(move |call: &Call<'_>| faults[call.index % faults.len()]);
    let mut said = BTreeSet::new();
    for call in 0..12 {
        let requests: Vec<ParkRequest> = (0..25).map(|n| request(n, &format!("body-{call}-{n}"), &json!({}))).collect();
        let answers = queue.park(&requests).await;
        said.extend(
            requests.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()).map(|(of, _)| of.body.to_string()),
        );
    }
    let there = bodies(&sqs.drain(&park).await);
    assert!(said.len() >= 50 && said.is_subset(&there), "{} said, {} there", said.len(), there.len());
}

/// A refusal that does not pass is told as such, without the service's words.
#[tokio::test(flavor = "multi_thread")]
async fn p13_refusals_last_and_quote_nothing() {
    const DENIED: &str =
        r#"{"__type":"com.amazonaws.sqs#AccessDeniedException","Message":"User: arn:aws:iam::1:role/canary"}"#;
    let sqs = Sqs::start("sqs-park-refused").await;
    let park = format!("{}/000000000000/nowhere", sqs.endpoint_url());
    let queue = SqsQueue::new(sqs.proxied(PATIENCE_MS), "orders").park_in(&park).delays(true);
    let delay = [DelayRequest { index: 0, receipt_handle: "canary".into(), delay_s: 1 }];
    let mut answers = queue.park(&plain(2)).await;
    answers.extend(queue.delay(&delay).await);
    sqs.proxy.set_script(|_: &Call<'_>| Fault::Answer { status: 403, body: DENIED });
    answers.extend(queue.park(&plain(1)).await);
    answers.extend(queue.delay(&delay).await);
    assert_eq!(codes(&answers), [Err("queue_refused"); 5]);
    let told: Vec<String> =
        answers.iter().filter_map(|answer| answer.as_ref().err()).map(ToString::to_string).collect();
    assert!(told[0].contains("SendMessageBatch: NonExistentQueue"), "{told:#?}");
    assert!(told[4].contains("ChangeMessageVisibilityBatch: AccessDeniedException"), "{told:#?}");
    let all = format!("{told:?} {answers:?} {queue:?}");
    assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(|error| !error.is_retryable()), "{told:#?}");
    assert!(!all.contains("canary") && !all.contains("127.0.0.1"), "{all}");
}

/// P16: a group keeps its order in the park queue, and a repeated parking is dropped there.
#[tokio::test(flavor = "multi_thread")]
async fn p16_a_fifo_park_queue_keeps_groups_and_drops_repetitions() {
    let sqs = Sqs::start("sqs-park-fifo").await;
    let park = sqs.queue("orders-dlq.fifo", &[]).await;
    let queue = SqsQueue::new(sqs.proxied(PATIENCE_MS), "orders.fifo").park_in(&park);
    let mut requests = plain(13);
    for (n, request) in requests.iter_mut().enumerate() {
        // The last has no group, as a message that a stand-in made up.
        request.group = (n < 12).then(|| format!("account-{}", n % 2).into());
        request.deduplication_id = Some("the senders, the same for all".into());
    }
    sqs.proxy.set_script(|call: &Call<'_>| if call.index == 0 { Fault::DropAnswer } else { Fault::Pass });
    let answers = queue.park(&requests).await;
    assert_eq!(codes(&answers), [vec![Err("queue_unavailable"); 10], vec![Ok(()); 3]].concat());
    assert_eq!(codes(&queue.park(&requests).await), [Ok(()); 13]);

    let parked = sqs.drain(&park).await;
    assert_eq!(parked.len(), 13, "each once");
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in &parked {
        let group = &message.attributes().expect("some")[&MessageSystemAttributeName::MessageGroupId];
        groups.entry(group.clone()).or_default().push(message.body().expect("a body").to_owned());
    }
    let of = |numbers: &[usize]| numbers.iter().map(|n| format!("body-{n}")).collect::<Vec<_>>();
    assert_eq!(groups["account-0"], of(&[0, 2, 4, 6, 8, 10]));
    assert_eq!(groups["account-1"], of(&[1, 3, 5, 7, 9, 11]));
    assert_eq!(groups["m-12"], of(&[12]));
}

/// The visibility that is asked for is the one that is set, shorter or longer than the one before.
#[tokio::test(flavor = "multi_thread")]
async fn a_delay_sets_the_visibility_of_each_message() {
    let sqs = Sqs::start("sqs-delay").await;
    let source = sqs.queue("orders", &[]).await;
    let queue = SqsQueue::new(sqs.proxied(PATIENCE_MS), &source).delays(true);
    assert!(queue.can_delay() && !queue.can_park());
    for n in 0..12 {
        sqs.direct().send_message().queue_url(&source).message_body(format!("body-{n}")).send().await.expect("sent");
    }
    let mut messages = sqs.receive(&source, 600, 5).await;
    messages.extend(sqs.receive(&source, 4, 5).await);
    assert_eq!((messages.len(), sqs.hidden(&source).await), (12, 12));
    let handle = |n: usize| messages[n].receipt_handle().expect("a handle").into();
    let delay = |n: usize, delay_s| DelayRequest { index: n, receipt_handle: handle(n), delay_s };

    // Twelve in two calls: two are shown at once, those that would be shown in four seconds are not, one does not exist.
    let mut requests: Vec<DelayRequest> = (0..12).map(|n| delay(n, if n < 2 { 0 } else { 43_200 })).collect();
    requests[5].receipt_handle = "gone".into();
    let answers = queue.delay(&requests).await;
    let expected: Vec<Result<(), &str>> = (0..12).map(|n| if n == 5 { Err("queue_refused") } else { Ok(()) }).collect();
    assert_eq!(codes(&answers), expected);
    assert_eq!(sqs.proxy.count("ChangeMessageVisibilityBatch"), 2);
    assert_eq!(sqs.hidden(&source).await, 10);
    let shown = sqs.receive(&source, 600, 5).await;
    assert_eq!(bodies(&shown), ["body-0", "body-1"].map(str::to_owned).into());
    assert_eq!(sqs.receive(&source, 600, 6).await.len(), 0, "the four seconds are over, and nothing is shown");
    assert_eq!(sqs.hidden(&source).await, 12);
}

/// P12: a delay that cannot be set is told, entry by entry, and passes or lasts.
#[tokio::test(flavor = "multi_thread")]
async fn p12_a_delay_that_was_not_set_is_told() {
    let sqs = Sqs::start("sqs-delay-faults").await;
    let source = sqs.queue("orders", &[]).await;
    sqs.direct().send_message().queue_url(&source).message_body("body").send().await.expect("sent");
    let received = sqs.receive(&source, 600, 5).await;
    let delay =
        [DelayRequest { index: 0, receipt_handle: received[0].receipt_handle().expect("one").into(), delay_s: 0 }];
    for (fault, code) in [
        (Fault::Throttle, "queue_throttled"),
        (Fault::Error500, "queue_unavailable"),
        (Fault::Refuse, "queue_unavailable"),
        (Fault::HangBefore, "queue_timed_out"),
        (Fault::Answer { status: 200, body: r#"{"Successful":[],"Failed":[]}"# }, "queue_unavailable"),
    ] {
        sqs.proxy.set_script(move |_: &Call<'_>| fault);
        let queue = SqsQueue::new(sqs.proxied(timeout_ms(fault)), &source).delays(true);
        let answers = queue.delay(&delay).await;
        assert_eq!(codes(&answers), [Err(code)], "{fault:?}");
        assert!(answers[0].as_ref().is_err_and(QueueError::is_retryable), "{fault:?}");
    }
    assert_eq!(sqs.hidden(&source).await, 1);
    let off = SqsQueue::new(sqs.proxied(HASTE_MS), &source);
    assert_eq!(codes(&off.delay(&delay).await), [Err("queue_refused")]);
    assert_eq!(codes(&off.park(&plain(1)).await), [Err("queue_refused")]);
}

/// What is wrong with the queues is known before the first message, all of it at once.
#[tokio::test(flavor = "multi_thread")]
async fn queues_are_checked_before_the_first_message() {
    let sqs = Sqs::start("sqs-check").await;
    let (standard, fifo) = (sqs.queue("orders", &[]).await, sqs.queue("orders.fifo", &[]).await);
    let (park, park_fifo) = (sqs.queue("dlq", &[]).await, sqs.queue("dlq.fifo", &[]).await);
    let nowhere = format!("{}/000000000000/nowhere", sqs.endpoint_url());
    let check = async |source: &str, park: &str| {
        let queue = SqsQueue::new(sqs.proxied(PATIENCE_MS), source).park_in(park).delays(true);
        let problems = queue.check().await.err().unwrap_or_default();
        problems.into_iter().map(|problem| format!("{}: {}", problem.setting, problem.what)).collect::<Vec<_>>()
    };
    assert_eq!(check(&standard, &park).await, [""; 0]);
    assert_eq!(check(&fifo, &park_fifo).await, [""; 0]);
    let wrong_kind = check(&fifo, &park).await;
    assert!(wrong_kind.len() == 1 && wrong_kind[0].contains("\"dlq\" is a standard queue"), "{wrong_kind:#?}");
    let both = check(&fifo, &nowhere).await;
    assert!(both.len() == 2 && both[0].contains("\"nowhere\", which does not exist"), "{both:#?}");
    assert_eq!(check(&nowhere, &nowhere.replace("nowhere", "elsewhere")).await.len(), 2);

    // Not allowed to look, or not able to: nothing is known to be wrong.
    for fault in [
        Fault::Answer { status: 403, body: r#"{"__type":"com.amazonaws.sqs#AccessDeniedException"}"# },
        Fault::Throttle,
        Fault::Refuse,
    ] {
        sqs.proxy.set_script(move |_: &Call<'_>| fault);
        assert_eq!(check(&nowhere, &park).await, [""; 0], "{fault:?}");
        assert_eq!(check(&fifo, &park).await.len(), 1, "{fault:?}: names tell the kind all the same");
    }
}

/// The client makes one try: the pipeline counts them (P14).
#[tokio::test(flavor = "multi_thread")]
async fn p14_a_call_is_one_try() {
    let sqs = Sqs::start("sqs-one-try").await;
    let park = sqs.queue("dlq", &[(QueueAttributeName::VisibilityTimeout, "5")]).await;
    let queue = SqsQueue::new(sqs.proxied(PATIENCE_MS), &park).park_in(&park).delays(true);
    let seen = std::sync::Arc::new(AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&seen);
    sqs.proxy.set_script(move |_: &Call<'_>| {
        count.fetch_add(1, Ordering::SeqCst);
        Fault::Throttle
    });
    need(queue.park(&plain(10)).await.remove(0).map_or(Ok(()), |()| Err("not sent")));
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    let delay = DelayRequest { index: 0, receipt_handle: "h".into(), delay_s: 1 };
    need(queue.delay(&[delay]).await.remove(0).map_or(Ok(()), |()| Err("not set")));
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}
