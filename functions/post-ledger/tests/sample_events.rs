//! Every sample event of the ledger gives its expected response, without AWS and without a process of its own: the pipeline on
//! an embedded DynamoDB.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use microbatch::Outcome;
use serde_json::Value;
use support::Bench;

/// A debug build on a busy machine is slow, and this is no test of speed.
const TIME_MS: u64 = 600_000;

/// All `events/ledger*.json` and their `NAME.response.json`.
fn samples() -> Vec<(PathBuf, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events");
    let mut samples: Vec<_> = fs::read_dir(folder)
        .expect("the events folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ledger")))
        .filter(|path| !path.to_string_lossy().ends_with(".response.json"))
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
    assert_eq!(samples.len(), 2);
    let mut books = Vec::new();
    for round in 1..=2 {
        for (event, response) in &samples {
            let expected: Value = serde_json::from_str(&read(response)).expect("a response is JSON");
            let answer = bench.answer(&read(event), TIME_MS).await;
            assert_eq!(answer, expected, "{} in round {round}", event.display());
            bench.books().await.assert_balanced();
        }
        books.push(bench.books().await);
    }
    // ledger.json: seven entries, one of them twice; ledger-failing.json: three of nine are posted.
    assert_eq!(books[0].entries.len(), 10, "posted: {:?}", books[0].entries.keys());
    let balances = ["acc-101", "acc-102", "acc-201", "acc-202"].map(|account| books[0].euros(account));
    assert_eq!(balances, [Some(7_500), Some(120), Some(10_000), Some(500)]);
    assert_eq!(books[0], books[1], "the second round has no effect");
}

#[tokio::test]
async fn the_failing_sample_says_why() {
    let bench = Bench::start().await;
    let (event, _) =
        samples().into_iter().find(|(event, _)| event.ends_with("ledger-failing.json")).expect("it is there");
    bench.answer(&read(&event), TIME_MS).await;
    let (posted, blocked) = ((Outcome::Processed, None), (Outcome::Abandoned, Some("group_blocked")));
    let rejected = |code| (Outcome::Rejected, Some(code));
    let expected = [
        posted,
        posted,
        rejected("insufficient_funds"),
        blocked,
        posted,
        rejected("unknown_currency"),
        blocked,
        rejected("wrong_group"),
        blocked,
    ];
    let found: Vec<_> = bench.report().items.iter().map(|item| (item.outcome, item.code)).collect();
    assert_eq!(found, expected);
    // What is invalid, or of the wrong group, never gets to the tables.
    assert_eq!(bench.proxy.count("TransactWriteItems"), 4);
}
