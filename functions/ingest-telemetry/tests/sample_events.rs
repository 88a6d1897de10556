//! Every sample event of readings gives its expected response, without AWS and without a process of its own: the pipeline on an
//! embedded DynamoDB.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use support::{bench::Bench, summaries};

/// A debug build on a busy machine is slow, and this is no test of speed.
const TIME_MS: u64 = 600_000;

/// All `events/telemetry*.json` and their `NAME.response.json`.
fn samples() -> Vec<(PathBuf, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events");
    let mut samples: Vec<_> = fs::read_dir(folder)
        .expect("the events folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("telemetry")))
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
    let mut written = Vec::new();
    for round in 1..=2 {
        for (event, response) in &samples {
            let expected: Value = serde_json::from_str(&read(response)).expect("a response is JSON");
            let answer = bench.answer(&read(event), TIME_MS).await;
            assert_eq!(answer, expected, "{} in round {round}", event.display());
        }
        written.push(summaries(&bench.rows().await));
    }
    // telemetry.json: eight readings, two of them twice, among a bad one and a conflict; telemetry-failing.json: two are good.
    let counts: Vec<_> = written[0].iter().map(|(window, summary)| (window.0.as_str(), summary.count)).collect();
    let expected = [("pump-7", 3), ("pump-7", 1), ("pump-7", 2), ("pump-9", 2), ("pump-8", 1), ("pump-8", 1)];
    let (mut counts, mut expected) = (counts, expected.to_vec());
    counts.sort_unstable();
    expected.sort_unstable();
    assert_eq!(counts, expected);
    assert_eq!(written[0], written[1], "the second round has no effect");
}
