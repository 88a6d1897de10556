//! The bench for users: what it sends, what it tells, and what it refuses.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
};

use microbatch::{
    Done, FailureKind, ItemContext, MemoryStore, NoWrites,
    Outcome::{Abandoned, Busy, Duplicate, Failed, Processed, Rejected},
    Pipeline, ProcessError, Processor, WriteRefusal, WriteRefused,
    pipeline::RunError,
};
use microbatch_testkit::{
    TestPipeline, message,
    scripted::{Act, Ending, Script, Scripted},
    try_it::KeepingStore,
};
use serde_json::{Value, json};

fn item(id: &str) -> String {
    json!({ "id": id }).to_string()
}

fn of(processor: Scripted) -> TestPipeline<Scripted> {
    TestPipeline::new(Pipeline::builder(processor).key("id"))
}

/// A message's id, receive count and group.
type Note = (String, u32, Option<String>);

/// Notes what its context says of each message.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<Note>>>);

impl Processor for Notes {
    type Item = Value;
    type Output = Value;
    type Write = NoWrites;

    async fn process(&self, item: Value, cx: &ItemContext) -> Result<Done<Value>, ProcessError> {
        let note = (cx.message_id.to_string(), cx.receive_count, cx.group.as_deref().map(str::to_owned));
        self.0.lock().expect("lock").push(note);
        if item["fail"] == true && cx.receive_count < 3 {
            return Err(ProcessError::transient(std::fmt::Error));
        }
        Ok(Done::new(item))
    }
}

#[tokio::test(start_paused = true)]
async fn messages_arrive_as_they_were_described() {
    let notes = Notes::default();
    let bench = TestPipeline::new(Pipeline::builder(notes.clone()).key("id"));
    let described = message(item("a")).id("x").receive_count(4).group("tenant");
    let batch = bench.send([described, json!({ "id": "b" }).into(), item("c").into()]).await;
    assert_eq!(batch.outcomes(), [Processed; 3]);
    let expected = [("x".into(), 4, Some("tenant".into())), ("m1".into(), 1, None), ("m2".into(), 1, None)];
    assert_eq!(*notes.0.lock().expect("lock"), expected);
}

#[tokio::test(start_paused = true)]
async fn an_attribute_and_a_deduplication_id_can_be_the_key() {
    use microbatch::KeySource;
    let by_attribute = Pipeline::builder(Notes::default()).key_from(KeySource::Attribute("order".into()));
    let bench = TestPipeline::new(by_attribute);
    let sent = |value: &str| message("{}").attribute("order", value);
    assert_eq!(bench.send([sent("1"), sent("2"), sent("1")]).await.outcomes(), [Processed, Processed, Duplicate]);
    let by_id = Pipeline::builder(Notes::default()).key_from(KeySource::DeduplicationId);
    let bench = TestPipeline::setup(by_id).fifo().start();
    let sent = |id: &str| message("{}").deduplication_id(id).group("g");
    assert_eq!(bench.send([sent("1"), sent("1")]).await.outcomes(), [Processed, Duplicate]);
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_delivered_again_later_and_counted() {
    let notes = Notes::default();
    let bench = TestPipeline::new(Pipeline::builder(notes.clone()).key("id"));
    let failing = json!({ "id": "a", "fail": true });
    let first = bench.send([failing, json!({ "id": "b" })]).await;
    assert_eq!((first.outcomes(), first.reported()), (vec![Failed, Processed], &["m0".to_owned()][..]));
    let began_ms = bench.now_ms();
    assert_eq!(bench.redeliver().await.outcomes(), [Failed]);
    assert_eq!(bench.now_ms() - began_ms, 180_000);
    assert_eq!((bench.redeliver().await.outcomes(), bench.undone()), (vec![Processed], 0));
    let counts: Vec<u32> = notes.0.lock().expect("lock").iter().map(|(_, count, _)| *count).collect();
    assert_eq!(counts, [1, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_redelivery_comes_when_leases_have_lapsed() {
    let bench = of(Scripted::by("id").on("a", [Act::Panic, Act::Hang, Act::PanicInDrop, Act::Succeed]));
    assert_eq!(bench.send([item("a"), item("b")]).await.outcomes(), [Failed, Processed]);
    for outcome in [Failed, Failed, Processed] {
        assert_eq!(bench.redeliver().await.outcomes(), [outcome]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_which_nothing_is_done_errs_and_still_tells_of_each() {
    let bench = of(Scripted::by("id").otherwise(Act::Fail));
    let batch = bench.send([item("a"), item("b")]).await;
    assert_eq!(batch.error(), Some(&RunError::AllFailed { records: 2 }));
    assert_eq!((batch.outcomes(), batch.codes()), (vec![Failed, Failed], vec![Some("on_purpose"); 2]));
    assert_eq!((batch.reported().len(), bench.undone()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_the_one_that_was_set() {
    let builder = Pipeline::builder(Scripted::by("id").otherwise(Act::Hang)).key("id");
    let bench = TestPipeline::setup(builder.options(|options| options.concurrency = 1)).deadline_ms(3_000).start();
    let began_ms = bench.now_ms();
    assert_eq!(bench.send([item("a"), item("b")]).await.outcomes(), [Failed, Abandoned]);
    assert!(bench.now_ms() - began_ms < 3_000);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_message_is_parked_where_there_is_a_place() {
    let builder = || Pipeline::builder(Scripted::by("id").on("a", Act::Permanent)).key("id");
    let bench = TestPipeline::new(builder());
    assert_eq!((bench.send([item("a")]).await.reported().len(), bench.parked()), (1, vec![]));
    let bench = TestPipeline::setup(builder()).parking().start();
    let batch = bench.send([item("a"), item("b")]).await;
    assert_eq!((batch.outcomes(), batch.reported()), (vec![Rejected, Processed], &[][..]));
    assert_eq!((batch.of("m0").parked, batch.of("m0").kind), (true, Some(FailureKind::Permanent)));
    let parked = bench.parked();
    assert_eq!((parked.len(), parked[0].message_id.as_str(), &parked[0].body), (1, "m0", &item("a")));
    assert!(parked[0].reason.contains("on_purpose"), "{}", parked[0].reason);
}

#[tokio::test(start_paused = true)]
async fn with_backoff_a_redelivery_comes_when_the_processor_asked_for_it() {
    let processor = Scripted::by("id").on("a", [Act::RetryAfter { ms: 900_000 }, Act::Succeed]);
    let bench = TestPipeline::setup(Pipeline::builder(processor).key("id")).backoff().start();
    bench.send([item("a")]).await;
    let began_ms = bench.now_ms();
    assert_eq!(bench.redeliver().await.outcomes(), [Processed]);
    assert!(bench.now_ms() - began_ms >= 900_000);
}

#[tokio::test(start_paused = true)]
async fn results_are_replayed() {
    // P5.
    let builder = Pipeline::builder(Notes::default()).key("id");
    let bench = TestPipeline::setup(builder).keep_outputs().start();
    let body = json!({ "id": "a", "total": 7 });
    for outcome in [Processed, Duplicate] {
        let batch = bench.send([message(body.to_string()), message("no json")]).await;
        assert_eq!(batch.outcomes(), [outcome, Rejected]);
        assert_eq!((batch.output(0), batch.output::<Value>(1)), (Some(body.clone()), None));
    }
}

#[tokio::test(start_paused = true)]
async fn two_pipelines_on_one_store_are_two_workers() {
    let store = MemoryStore::new();
    let worker = || {
        let builder = Pipeline::builder(Scripted::by("id").otherwise(Act::Slow { ms: 100 })).key("id");
        TestPipeline::setup(builder).store(store.clone()).start()
    };
    let (one, other) = (worker(), worker());
    let (one, other) = tokio::join!(one.send([item("a")]), other.send([item("a")]));
    assert_eq!((one.outcomes(), other.outcomes()), (vec![Processed], vec![Busy]));
}

#[tokio::test(start_paused = true)]
async fn batches_at_once_get_their_own_reports() {
    let bench = of(Scripted::by("id").on("a", Act::Slow { ms: 50 }).on("c", Act::Permanent));
    let (one, other) = tokio::join!(bench.send([item("a"), item("b")]), bench.send([item("c")]));
    assert_eq!((one.outcomes(), other.outcomes()), (vec![Processed, Processed], vec![Rejected]));
    assert_eq!((one.reported(), other.reported()), (&[][..], &["m2".to_owned()][..]));
}

#[tokio::test(start_paused = true)]
async fn any_event_can_be_sent() {
    let bench = of(Scripted::by("id"));
    let event = json!({ "Records": [{ "messageId": "x", "body": item("a") }, { "body": "{}" }] });
    let error = bench.send_event(&event.to_string()).await.expect_err("one cannot be named");
    assert!(error.to_string().contains("record 1 has no messageId"), "{error}");
    let event = json!({ "Records": [{ "messageId": "x", "body": item("a") }] });
    assert_eq!(bench.send_event(&event.to_string()).await.expect("an event").outcomes(), [Processed]);
}

/// Hands over one write an item.
struct Writer;

impl Processor for Writer {
    type Item = Value;
    type Output = ();
    type Write = String;

    async fn process(&self, item: Value, _cx: &ItemContext) -> Result<Done<(), String>, ProcessError> {
        Ok(Done::with_writes((), vec![item["id"].to_string()]))
    }
}

#[tokio::test(start_paused = true)]
async fn writes_are_kept_once_and_can_be_refused() {
    let refuse =
        |writes: &[String]| (writes == ["\"b\""]).then_some(WriteRefused { index: 0, reason: WriteRefusal::Condition });
    let store = KeepingStore::refusing(refuse);
    let bench = TestPipeline::setup(Pipeline::builder(Writer).key("id")).store(store.clone()).start();
    let batch = bench.send([item("a"), item("b"), item("a")]).await;
    assert_eq!(batch.outcomes(), [Processed, Failed, Duplicate]);
    assert_eq!(batch.codes()[1], Some("write_condition_failed"));
    assert_eq!(bench.send([item("a")]).await.outcomes(), [Duplicate]);
    assert_eq!(store.committed(), [["\"a\""]]);
    assert!(store.records().records().iter().any(|(_, record)| record.is_released()));
}

#[tokio::test(start_paused = true)]
async fn the_script_is_followed_and_what_happened_is_seen() {
    let processor = Scripted::by("id")
        .on("a", Script::failing(2))
        .on("b", Act::Slow { ms: 30 })
        .on("c", Act::PanicLate { ms: 10 })
        .on("d", Act::Hang)
        .on("e", Act::EffectUnknown)
        .on_call(6, Act::Permanent)
        .as_told();
    let seen = processor.seen();
    let bench = of(processor);
    let told = json!({ "id": "g", "act": "slow", "ms": 20 });
    let unknown = json!({ "id": "h", "act": "dance" });
    let bodies = ["a", "b", "c", "d", "e", "f"].map(|id| json!({ "id": id })).into_iter().chain([told, unknown]);
    let batch = bench.send(bodies).await;
    let expected = [Failed, Processed, Failed, Failed, Failed, Rejected, Processed, Rejected];
    assert_eq!(batch.outcomes(), expected);
    assert_eq!(batch.of("m7").code, Some("unknown_act"));
    assert_eq!(seen.starts(), ["a", "b", "c", "d", "e", "f", "g", "h"]);
    let ends = [
        ("a", Ending::Failed),
        ("e", Ending::Failed),
        ("f", Ending::Failed),
        ("h", Ending::Failed),
        ("c", Ending::Panicked),
        ("g", Ending::Succeeded),
        ("b", Ending::Succeeded),
        ("d", Ending::Cancelled),
    ];
    assert_eq!(seen.ends(), ends.map(|(name, ending)| (name.to_owned(), ending)));
    assert_eq!((seen.at_once(), seen.total()), (0, 8));
    assert!(seen.at_once_max() >= 4, "{}", seen.at_once_max());
    let again = bench.redeliver().await;
    assert_eq!((again.outcomes()[0], seen.runs("a"), seen.runs("b")), (Failed, 2, 1));
    assert_eq!((bench.redeliver().await.outcomes()[0], seen.runs("a")), (Processed, 3));
}

/// What a wrong use says.
fn panic_of<T>(wrong: impl Future<Output = T>) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let panicked = catch_unwind(AssertUnwindSafe(|| runtime.expect("runtime").block_on(wrong)));
    let payload = panicked.err().expect("it must panic");
    payload.downcast_ref::<String>().cloned().or(payload.downcast_ref::<&str>().map(|&text| text.into())).expect("text")
}

#[test]
fn wrong_use_says_what_to_do() {
    let bench = || async { of(Scripted::by("id")) };
    let send = |messages: Vec<microbatch_testkit::try_it::TestMessage>| async { bench().await.send(messages).await };
    let in_fifo = |of: microbatch_testkit::try_it::TestMessage| async {
        TestPipeline::setup(Pipeline::builder(Scripted::by("id")).key("id")).fifo().start().send([of]).await
    };
    let text = panic_of(async { TestPipeline::new(Pipeline::builder(Scripted::by("id"))) });
    assert!(text.contains(".key(\"order_id\")"), "{text}");
    let text = panic_of(send(vec![message("{}").id("x"), message("{}").id("x")]));
    assert!(text.contains("found \"x\" twice"), "{text}");
    let text = panic_of(send(vec![message("{}").id("")]));
    assert!(text.contains("send_event"), "{text}");
    let text = panic_of(send(vec![message("{}").receive_count(0)]));
    assert!(text.contains("1 or more"), "{text}");
    let text = panic_of(send(vec![message("{}").deduplication_id("d")]));
    assert!(text.contains("`.fifo()`"), "{text}");
    let text = panic_of(in_fifo(message("{}")));
    assert!(text.contains("`.group(\"..\")`"), "{text}");
    let text = panic_of(async { bench().await.redeliver().await });
    assert!(text.contains("all were acknowledged"), "{text}");
    let text = panic_of(async { bench().await.send([item("a")]).await.output::<Value>(0) });
    assert!(text.contains("`.keep_outputs()`"), "{text}");
    let text = panic_of(async { bench().await.send([item("a")]).await.of("x").clone() });
    assert!(text.contains("[\"m0\"]"), "{text}");
}
