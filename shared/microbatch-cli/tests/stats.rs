//! `stats` and `cost` as a user runs them: on files, on standard input, on what is no log.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const MICROBATCH: &str = env!("CARGO_BIN_EXE_microbatch");
const AT: u64 = 1_795_867_200_000;

struct Run {
    exit: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(args: &[&str], input: &[u8]) -> Run {
    let mut command = Command::new(MICROBATCH);
    command.args(args).env_remove("COLUMNS").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let output = std::thread::scope(|scope| {
        // A command that refuses its arguments does not read.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().expect("an end")
    });
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Run { exit: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A metrics line of a batch in which the second half took longer.
fn emf(function: &str, at_ms: u64, size: u64) -> String {
    let one = |value: u64| json!({"Values": [value], "Counts": [1]});
    json!({
        "_aws": {"Timestamp": at_ms, "CloudWatchMetrics": [{"Namespace": "microbatch", "Dimensions": [["function", "queue"]], "Metrics": []}]},
        "function": function, "queue": format!("{function}-queue"), "batch_id": "b", "level": "INFO", "version": "$LATEST",
        "BatchSize": one(size), "BatchLatency": one(40 + size), "BatchBytes": one(size * 1_964), "BatchFailures": 0,
        "PartialFailures": 0, "ColdStart": 0, "ConcurrencyLimit": one(64), "ClaimLatency": one(7),
        "Items": size, "ItemsProcessed": size - 1, "Duplicates": 1,
        "ItemLatency": {"Values": [20, 30], "Counts": [size - size / 2, size / 2]},
        "ItemAge": {"Values": [1_500], "Counts": [size]},
    })
    .to_string()
}

/// 100 batches of 10 within 99 s, as `aws logs tail --format short` prints them among Lambda's own lines.
fn log() -> String {
    let lines = (0..100).map(|number| {
        let line = emf("orders", AT + number * 1_000, 10);
        format!("2026-11-28T12:00:00 START RequestId: {number} Version: $LATEST\n2026-11-28T12:00:00 {line}\n")
    });
    lines.collect()
}

fn stats_json(args: &[&str], input: &str) -> Value {
    let run = run(&[&["stats", "-", "--format", "json"], args].concat(), input.as_bytes());
    assert_eq!(run.exit, Some(0), "{}", run.stderr);
    serde_json::from_str(&run.stdout).expect("JSON")
}

fn cost_json(args: &[&str], input: &str) -> Value {
    let run = run(&[&["cost", "--format", "json"], args].concat(), input.as_bytes());
    assert_eq!(run.exit, Some(0), "{}", run.stderr);
    serde_json::from_str(&run.stdout).expect("JSON")
}

#[test]
fn a_log_is_shown_in_figures_and_bars() {
    let found = run(&["stats", "-"], log().as_bytes());
    assert_eq!(found.exit, Some(0), "{}", found.stderr);
    for line in [
        "orders, queue orders-queue",
        "  time       2026-11-28T12:00:00Z to 2026-11-28T12:01:39Z",
        "  batches    100 of 10 on average",
        "  items      1,000, 10.1 items a second",
        "  outcomes   900 Processed (90.0 %), 100 Duplicate (10.0 %)",
        "  rates      of batches 0.0 % failed in part, 0.0 % as a whole, 0.0 % cold starts; of items 10.0 % duplicates",
        "  batch latency      50 ms     50 ms     50 ms     50 ms         100",
        "  item latency       20 ms     30 ms     30 ms     30 ms       1,000",
        "           10  ####################################################  100 100.0 %",
    ] {
        assert!(found.stdout.lines().any(|of_stdout| of_stdout == line), "{line}\n{}", found.stdout);
    }
    assert!(found.stdout.contains("advice: 10.0 % of the items were duplicates"), "{}", found.stdout);
    assert!(found.stdout.is_ascii() && found.stderr.contains("100 lines of other kinds skipped"), "{}", found.stderr);
    assert!(found.stdout.lines().all(|line| line.len() <= 80 || line.contains("advice") || line.contains("rates")));
}

#[test]
fn figures_come_as_json_too() {
    let found = stats_json(&[], &format!("{}{}\n", log(), emf("others", AT, 2)));
    let group = &found["groups"][0];
    assert_eq!(
        (&group["function"], &group["batches"], &group["items"]),
        (&json!("orders"), &json!(100), &json!(1000.0))
    );
    assert_eq!(group["outcomes"]["Duplicates"], json!(100.0));
    assert_eq!(group["metrics"]["ItemLatency"]["p90"], json!(30.0));
    assert_eq!(group["metrics"]["BatchSize"]["buckets"], json!([{"from": 10.0, "to": 20.0, "count": 100}]));
    assert_eq!(found["groups"][1]["function"], "others");
    assert_eq!(
        found["lines"],
        json!({"metrics": 101, "batch_log": 0, "item_log": 0, "left_out": 0, "unreadable": 0, "other": 100})
    );
    let filtered = stats_json(
        &["--function", "orders", "--since", "2026-11-28T12:00:50Z", "--until", "2026-11-28T12:01:00Z"],
        &log(),
    );
    assert_eq!(filtered["groups"][0]["batches"], 10);
}

#[test]
fn hostile_lines_are_counted_and_never_a_crash() {
    let good = emf("orders", AT, 10);
    let mut input = Vec::new();
    for line in [
        good.clone(),
        good.replace("\"Items\":10", "\"Items\":-1"),
        good.replace("\"Items\":10", "\"Items\":1e308"),
        good.replace("\"Items\":10", "\"Items\":NaN"),
        good.replace("\"Counts\":[5,5]", "\"Counts\":[5]"),
        good.replace("\"Counts\":[5,5]", "\"Counts\":[5,-5]"),
        good[..good.len() - 9].to_owned(),
        format!("{{\"_aws\":{}", "[".repeat(1_000_000)),
    ] {
        input.extend_from_slice(line.as_bytes());
        input.push(b'\n');
    }
    input.extend_from_slice(b"\xff\x00\xfe \"_aws\n\n\r\n");
    let found = run(&["stats", "-", "--format", "json"], &input);
    assert_eq!(found.exit, Some(0), "{}", found.stderr);
    let json: Value = serde_json::from_str(&found.stdout).expect("JSON");
    assert_eq!((&json["lines"]["metrics"], &json["lines"]["unreadable"]), (&json!(1), &json!(8)), "{}", found.stderr);
    assert!(found.stderr.contains("8 lines unreadable"), "{}", found.stderr);
}

#[test]
fn what_cannot_be_read_exits_2_and_says_what_to_do() {
    const FOLDER: &str = env!("CARGO_MANIFEST_DIR");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let packed = folder.join("packed.log.gz");
    std::fs::write(&packed, b"\x1f\x8b\x08\x00").expect("a file");
    let packed = packed.to_str().expect("a path in UTF-8");
    let log = log();
    let cases: [(&[&str], &[u8], &str); 14] = [
        (&["stats"], b"", "<FILE>"),
        (&["stats", "no-such.log", "nor-this.log"], b"", "no such file: no-such.log\nno such file: nor-this.log"),
        (&["stats", FOLDER], b"", "is a folder"),
        (&["stats", packed], b"", "gunzip -c"),
        (&["stats", "-"], b"", "the input is empty"),
        (&["stats", "-"], b"START\nEND\n", "none of 2 lines is a metrics line"),
        (
            &["stats", "-", "--function", "nobody"],
            log.as_bytes(),
            "functions (and queues) that are there: orders (orders-queue)",
        ),
        (
            &["stats", "-", "--since", "2027-01-01"],
            log.as_bytes(),
            "they are of 2026-11-28T12:00:00Z to 2026-11-28T12:01:39Z",
        ),
        (&["stats", "-", "--since", "soon"], b"", "expected a time such as 2026-11-28"),
        (&["cost", "-"], b"START\n", "none of 1 lines is a metrics line"),
        (&["cost", "--since", "1h"], b"", "name a log file"),
        (&["cost", "--failed-percent", "60", "--duplicate-percent", "50"], b"", "110.0 % of all items"),
        (&["cost", "--batch-size", "NaN"], b"", "a number from 1 to 10,000"),
        (&["cost", "--prices", "Cargo.toml"], b"", "Cargo.toml: expected JSON"),
    ];
    for (args, input, words) in cases {
        let found = run(args, input);
        assert_eq!((found.exit, found.stdout.as_str()), (Some(2), ""), "{args:?}: {}", found.stderr);
        assert!(found.stderr.contains(words), "{args:?}: {}", found.stderr);
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut child = Command::new(MICROBATCH)
        .args(["stats", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    drop(child.stdout.take());
    child.stdin.take().expect("a pipe").write_all(log().as_bytes()).expect("it reads all");
    let output = child.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn cost_is_told_by_component_with_its_figures() {
    let found = run(&["cost", "-", "--transactional", "--items", "2000000"], log().as_bytes());
    assert_eq!(found.exit, Some(0), "{}", found.stderr);
    for words in [
        "orders, queue orders-queue (100 batches, 1,000 items)",
        "DynamoDB claims 1,000,000 write units 0.6250",
        "DynamoDB completions 1,800,000 write units 1.1250",
        "2,000,000 items",
        "a month, 26.5 million at 10.1 a second (measured)",
        "no transaction: effect and completion no longer happen together: saves 1.1250",
        "mean batch size 10 -> 100: saves",
        "batch latency 50 ms measured",
        "completion in a transaction yes given",
        "memory 256 MB assumed",
        "prices in USD of",
        "data transfer",
    ] {
        assert!(squeezed(&found.stdout).contains(words), "{words}\n{}", found.stdout);
    }
}

/// With one space for several.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn given_figures_win_over_measured_ones() {
    let of = |found: &Value, name: &str| found["workloads"][0]["figures"][name].clone();
    let measured = cost_json(&["-"], &log());
    assert_eq!(of(&measured, "message"), json!({"value": 1_024.0, "origin": "measured"}));
    assert_eq!(of(&measured, "duplicates"), json!({"value": 0.1, "origin": "measured"}));
    let given = cost_json(&["-", "--batch-size", "100", "--duplicate-percent", "0"], &log());
    assert_eq!(of(&given, "batch_size"), json!({"value": 100.0, "origin": "given"}));
    assert_eq!(of(&given, "duplicates"), json!({"value": 0.0, "origin": "given"}));
    assert_eq!(of(&given, "batch_latency")["origin"], "measured");
    let per_million = |found: &Value| found["workloads"][0]["per_million"].as_f64().expect("a number");
    // What the first run says of the change is what the second costs.
    let measured = cost_json(&["-", "--duplicate-percent", "0"], &log());
    let what_if = measured["workloads"][0]["what_if"].as_array().expect("changes");
    let hundred = what_if.iter().find(|what_if| what_if["change"] == "mean batch size 10 -> 100").expect("a change");
    assert!((hundred["per_million"].as_f64().expect("a number") - per_million(&given)).abs() < 1e-9);
}

#[test]
fn prices_can_be_others() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let built_in = include_str!("../src/cost/prices.json");
    let path = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a path in UTF-8").to_owned()
    };
    let dear = path("dear.json", &built_in.replace("0.625", "6.25").replace("\"USD\"", "\"EUR\""));
    let (plain, dear) = (cost_json(&[], ""), cost_json(&["--prices", &dear], ""));
    assert_eq!(dear["prices"]["currency"], "EUR");
    let per_million = |found: &Value| found["workloads"][0]["per_million"].as_f64().expect("a number");
    // A claim and a completion an item.
    assert!((per_million(&dear) - per_million(&plain) - 2.0 * (6.25 - 0.625)).abs() < 1e-9);

    let wrong = path("wrong.json", &built_in.replace("0.625", "-1").replace("\"log_gb\"", "\"logs_gb\""));
    let found = run(&["cost", "--prices", &wrong], b"");
    assert_eq!((found.exit, found.stderr.lines().count()), (Some(2), 3), "{}", found.stderr);
    for words in ["dynamodb.million_write_units", "cloudwatch.log_gb: expected", "cloudwatch.logs_gb: unknown"] {
        assert!(found.stderr.contains(words), "{words}: {}", found.stderr);
    }
}
