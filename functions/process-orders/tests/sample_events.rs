//! Every sample event gives its expected response, without AWS and without a process of its own: the pipeline on an embedded
//! DynamoDB.

mod support;

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use microbatch_testkit::events::{Envelope, EventSpec, generate};
use process_orders::process::pipeline;
use serde_json::{Value, json};
use support::{Bench, ORDERS};

/// A debug build on a busy machine is slow, and this is no test of speed.
const TIME_MS: u64 = 600_000;

/// What the names of other functions' events begin with.
const OTHERS: [&str; 2] = ["telemetry", "ledger"];

/// All `events/NAME.json` and their `NAME.response.json`, without those of other functions.
fn samples() -> Vec<(PathBuf, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events");
    let mut samples: Vec<_> = fs::read_dir(folder)
        .expect("the events folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter(|path| !path.to_string_lossy().ends_with(".response.json"))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            !OTHERS.iter().any(|other| name.starts_with(other))
        })
        .map(|path| (path.clone(), path.with_extension("response.json")))
        .collect();
    samples.sort();
    samples
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test]
async fn every_sample_gives_its_response_and_again_when_it_is_sent_twice() {
    let bench = Bench::start().await;
    let samples = samples();
    assert!(samples.len() >= 12, "found {}", samples.len());
    let mut written = Vec::new();
    for round in 1..=2 {
        for (event, response) in &samples {
            let expected: Value = serde_json::from_str(&read(response)).expect("a response is JSON");
            let answer = bench.answer(pipeline(ORDERS), &read(event), TIME_MS).await;
            assert_eq!(answer, expected, "{} in round {round}", event.display());
        }
        written.push(bench.orders().await);
    }
    // Each file's orders less the failing ones: orders 5, duplicates 3, redelivery 4, undecodable 3, failures 3,
    // unknown-attributes 7, fair-queue 5, fifo 6, hostile-bodies 2.
    assert_eq!(written[0].len(), 38, "written: {:?}", written[0].keys());
    assert_eq!(written[0], written[1], "the second round has no effect");
}

#[tokio::test]
async fn a_message_without_an_id_fails_the_invocation_before_any_order_is_written() {
    let bench = Bench::start().await;
    let event = samples().into_iter().find(|(event, _)| event.ends_with("missing-message-id.json"));
    let (event, _) = event.expect("the sample is there");
    let answer = bench.answer(pipeline(ORDERS), &read(&event), TIME_MS).await;
    assert_eq!(answer["errorType"], "MissingMessageId");
    assert_eq!(bench.proxy.count("TransactWriteItems"), 0);
    assert!(bench.orders().await.is_empty());
}

#[tokio::test]
async fn generated_events_are_all_processed() {
    // Those of full size go through the release binary, in the end-to-end tests.
    for (records, envelope, fifo_groups) in
        [(1_000, Envelope::Real, None), (1_000, Envelope::Short, None), (10, Envelope::Real, NonZeroUsize::new(3))]
    {
        let spec = EventSpec {
            records: NonZeroUsize::new(records).expect("not zero"),
            envelope,
            body_bytes: 0,
            seed: 1,
            fifo_groups,
            first_order: 1,
        };
        let bench = Bench::start().await;
        let event = generate(&spec).expect("fits 6 MB");
        let answer = bench.answer(pipeline(ORDERS), &event, TIME_MS).await;
        assert_eq!(answer, json!({ "batchItemFailures": [] }), "{records} records");
        assert_eq!((bench.report().items.len(), bench.orders().await.len()), (records, records));
    }
}
