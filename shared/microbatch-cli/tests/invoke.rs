//! The command as a user or a script meets it: standard output, standard error, exit code.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const MICROBATCH: &str = env!("CARGO_BIN_EXE_microbatch");

/// `cargo test` puts examples beside the command's own binary.
fn echo_program() -> String {
    let program = PathBuf::from(MICROBATCH).with_file_name("examples").join("cli-echo");
    assert!(
        program.exists(),
        "{} is missing: run `cargo build --example cli-echo -p microbatch-cli`",
        program.display()
    );
    program.to_str().expect("a path in UTF-8").to_owned()
}

struct Run {
    exit: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { exit: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

fn run_with_input(args: &[&str], input: &str) -> Run {
    run(Command::new(MICROBATCH).args(args), input)
}

fn run(command: &mut Command, input: &str) -> Run {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("an end").into()
}

fn event(records: usize) -> String {
    let record = |n| json!({"messageId": format!("m-{n}"), "body": "{}", "eventSource": "aws:sqs"});
    json!({"Records": (0..records).map(record).collect::<Vec<Value>>()}).to_string()
}

/// Invokes the echo function in a mode.
fn echo(mode: &str, options: &[&str], records: usize) -> Run {
    let (program, mode) = (echo_program(), format!("ECHO_MODE={mode}"));
    let mut args = vec!["-", "--function", &program, "--env", &mode];
    args.extend(options);
    run_with_input(&args, &event(records))
}

fn fresh_folder(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("an old folder is removed");
    }
    folder.to_str().expect("a path in UTF-8").to_owned()
}

#[test]
fn a_good_answer_is_on_stdout_alone_and_exits_0() {
    let run = echo("ok", &[], 2);
    assert_eq!((run.exit, run.stdout.as_str()), (Some(0), "{\"batchItemFailures\":[]}\n"), "{}", run.stderr);
    assert!(run.stderr.contains("2 records; 2 acknowledged, 0 reported"), "{}", run.stderr);
    assert!(!run.stderr.contains('\u{1b}'), "no colours without a terminal: {:?}", run.stderr);
}

#[test]
fn reported_items_exit_1_with_a_table() {
    let run = echo("items", &[], 4);
    assert_eq!(run.exit, Some(1), "{}", run.stderr);
    assert_eq!(run.stdout, "{\"batchItemFailures\":[{\"itemIdentifier\":\"m-2\"}]}\n");
    assert!(run.stderr.contains("m-2         Rejected     1   2  unknown_currency"), "{}", run.stderr);
    assert!(run.stderr.contains("4 records: 3 Processed, 1 Rejected; 3 acknowledged, 1 reported"), "{}", run.stderr);
    assert!(run.stderr.contains("1 log line not shown (-v)") && !run.stderr.contains("an own line"), "{}", run.stderr);
}

#[test]
fn verbose_shows_the_functions_lines_on_stderr() {
    let run = echo("items", &["-v"], 1);
    assert!(run.stderr.contains("an own line") && !run.stderr.contains("not shown"), "{}", run.stderr);
    assert!(!run.stdout.contains("an own line"));
}

#[test]
fn ten_thousand_records_make_a_short_table() {
    let run = echo("items", &[], 10_000);
    assert_eq!(run.exit, Some(1), "{}", run.stderr);
    assert!(run.stderr.lines().count() < 60, "{}", run.stderr);
    assert!(run.stderr.contains("10000 records: 6667 Processed, 3333 Rejected"), "{}", run.stderr);
}

#[test]
fn an_error_object_is_on_stdout_and_exits_3() {
    let run = echo("error", &[], 1);
    assert_eq!(run.exit, Some(3), "{}", run.stderr);
    let object: Value = serde_json::from_str(&run.stdout).expect("an error object");
    assert_eq!(object["errorMessage"], "the processor is out of order");
    assert!(run.stderr.contains("answered with an error"), "{}", run.stderr);
}

#[test]
fn a_function_that_dies_exits_4_with_its_last_words() {
    for (mode, words) in [
        ("exit", "exit status: 7"),
        ("exit", "  last words"),
        ("abort", "signal: 6"),
        ("init-exit", "before it asked for an event"),
        ("init-exit", "a setting is missing"),
        ("init-error", "Settings: MICROBATCH_TABLE is not set"),
        ("init-error", "--env sets variables"),
    ] {
        let run = echo(mode, &[], 1);
        assert_eq!((run.exit, run.stdout.as_str()), (Some(4), ""), "{mode}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{mode}: {}", run.stderr);
        // Of an init error the log lines say nothing more.
        assert_eq!(run.stderr.contains("last lines") || run.stderr.contains("printed nothing"), mode != "init-error");
    }
}

#[test]
fn a_function_that_hangs_exits_4_at_its_time_out() {
    let run = echo("hang", &["--timeout", "0.3"], 1);
    assert_eq!((run.exit, run.stdout.as_str()), (Some(4), ""), "{}", run.stderr);
    assert!(run.stderr.contains("time-out of 300 ms"), "{}", run.stderr);
}

#[test]
fn nonsense_exits_5_and_is_shown() {
    for (mode, words) in [
        ("string", "found a string"),
        ("unknown-id", "names \"nobody\""),
        ("echo", "found an object with keys: Records"),
    ] {
        let run = echo(mode, &[], 1);
        assert_eq!(run.exit, Some(5), "{mode}: {}", run.stderr);
        assert!(run.stderr.contains("nonsense") && run.stderr.contains(words), "{mode}: {}", run.stderr);
        assert!(!run.stdout.is_empty());
    }
}

#[test]
fn wrong_input_exits_2_and_says_what_was_found() {
    const CARGO_TOML: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let echo = echo_program();
    for (args, input, words) in [
        (&["no/such.json"][..], "", "no such file: no/such.json"),
        (&[env!("CARGO_MANIFEST_DIR")], "", "is a folder"),
        (
            &["generat"],
            "",
            "no such file and no such subcommand: generat; the subcommands are invoke, generate, check, up, send",
        ),
        (&["-"], "", "found nothing"),
        (&["-"], "{\"Records\"", "ends too early"),
        (&["-"], "[]", "found an array"),
        (&["-"], r#"{"Records":[{"eventSource":"aws:s3"}]}"#, "aws:s3"),
        (&["-", "--function", "no/such/binary"], r#"{"Records":[]}"#, "no/such/binary does not exist"),
        (&["-", "--function", "no-such-package"], r#"{"Records":[]}"#, "no package no-such-package"),
        (&["-", "--function", CARGO_TOML], r#"{"Records":[]}"#, "cannot be started"),
        (&["-", "--function", &echo, "--env", "MICROBATCH_TABLE="], r#"{"Records":[]}"#, "MICROBATCH_TABLE is empty"),
        (&["-", "--function", &echo, "--state", "src"], r#"{"Records":[]}"#, "src holds files, but no tables"),
        (&["-", "--timeout", "soon"], "", "between 0.001 and 900"),
        (&["--state", "a", "--endpoint-url", "b"], "", "cannot be used with"),
    ] {
        let run = run_with_input(args, input);
        assert_eq!((run.exit, run.stdout.as_str()), (Some(2), ""), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{args:?}: {}", run.stderr);
    }
}

#[test]
fn a_byte_order_mark_is_left_out() {
    let run = run_with_input(&["-", "--function", &echo_program()], &format!("\u{feff}{}", event(1)));
    assert_eq!(run.exit, Some(0), "{}", run.stderr);
}

#[test]
fn another_workspace_has_defaults_of_its_own() {
    let folder = PathBuf::from(fresh_folder("other-workspace"));
    let package = |name: &str| {
        std::fs::create_dir_all(folder.join(name).join("src")).expect("a folder");
        std::fs::write(folder.join(name).join("src/main.rs"), "fn main() {}").expect("a file");
        let manifest = format!(
            "[package]\nname = \"{name}\"\nedition = \"2024\"\n[package.metadata.microbatch]\nevent = \"{name}.json\"\n"
        );
        std::fs::write(folder.join(name).join("Cargo.toml"), manifest).expect("a file");
    };
    package("one");
    std::fs::write(folder.join("Cargo.toml"), "[workspace]\nresolver = \"3\"\nmembers = [\"*\"]\n").expect("a file");
    let run_here = |args: &[&str]| run(Command::new(MICROBATCH).args(args).current_dir(&folder), &event(1));
    let failed = run_here(&[]);
    assert_eq!(failed.exit, Some(2), "{}", failed.stderr);
    assert!(failed.stderr.contains("no such file: one.json, the default event"), "{}", failed.stderr);

    package("two");
    let failed = run_here(&["-"]);
    assert_eq!(failed.exit, Some(2), "{}", failed.stderr);
    assert!(failed.stderr.contains("by --function: one, two"), "{}", failed.stderr);
    let failed = run_here(&["--function", "two"]);
    assert!(failed.stderr.contains("no such file: two.json"), "{}", failed.stderr);
}

#[test]
fn a_missing_file_lists_its_neighbours() {
    let folder = PathBuf::from(fresh_folder("neighbours"));
    std::fs::create_dir_all(&folder).expect("a folder");
    for name in ["order.json", "order.response.json", "notes.txt"] {
        std::fs::write(folder.join(name), "{}").expect("a file");
    }
    let run = run_with_input(&[folder.join("orders.json").to_str().expect("a path")], "");
    assert!(run.stderr.contains("order.json"), "{}", run.stderr);
    assert!(!run.stderr.contains("response") && !run.stderr.contains("notes"), "{}", run.stderr);
}

#[test]
fn trouble_around_the_function_exits_6() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let url = format!("http://{free}");
    let run = echo("ok", &["--endpoint-url", &url], 1);
    assert_eq!(run.exit, Some(6), "{}", run.stderr);
    assert!(run.stderr.contains(&format!("no DynamoDB answers at {url}")), "{}", run.stderr);

    let state = fresh_folder("state-in-use");
    std::fs::create_dir_all(&state).expect("a folder");
    let lock = std::fs::File::create(PathBuf::from(&state).join("lock")).expect("a lock");
    lock.lock().expect("the lock is free");
    let run = echo("ok", &["--state", &state], 1);
    assert_eq!(run.exit, Some(6), "{}", run.stderr);
    assert!(run.stderr.contains("in use by another run"), "{}", run.stderr);
}

/// 0.0.0.0 reaches this machine, but is no loopback address: it stands for any other endpoint.
#[cfg(target_os = "linux")]
#[test]
fn on_another_endpoint_missing_credentials_are_said_to_be_missing() {
    let mut command = Command::new(MICROBATCH);
    command.args(["-", "--function", &echo_program(), "--endpoint-url", "http://0.0.0.0:1"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command.envs([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")]);
    let run = run(&mut command, &event(1));
    assert_eq!(run.exit, Some(6), "{}", run.stderr);
    assert!(run.stderr.contains("no AWS credentials were found, which http://0.0.0.0:1 needs"), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
}

/// 0.0.0.0 reaches this machine, but is no loopback address: it stands for any other endpoint.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn on_another_endpoint_a_missing_table_is_named_and_not_made() {
    let db = microbatch_local::dynamodb::EmbeddedDynamoDb::start(None).await.expect("a database");
    let url = format!("http://0.0.0.0:{}", db.address().port());
    let child = Command::new(MICROBATCH)
        .args([concat!(env!("CARGO_MANIFEST_DIR"), "/../../events/orders.json"), "--function", &echo_program()])
        .args(["--endpoint-url", &url, "--table", "ledger=account_id,entry_id"])
        .envs([("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_REGION", "eu-west-1")])
        .output();
    let run = Run::from(child.expect("an end"));
    assert_eq!(run.exit, Some(6), "{}", run.stderr);
    assert!(run.stderr.contains("the table idempotency does not exist"), "{}", run.stderr);
    let command = format!("aws dynamodb create-table --endpoint-url {url} --table-name idempotency");
    assert!(run.stderr.contains(&command), "{}", run.stderr);
}

#[test]
fn the_idempotency_table_and_named_tables_are_made() {
    let state = fresh_folder("tables-made");
    let tables = ["--state", &state, "--table", "ledger=account_id,entry_id", "--env", "MICROBATCH_TABLE=keys"];
    assert_eq!(echo("ok", &tables, 1).exit, Some(0));
    // The same names with other keys show that both are there.
    for table in ["ledger=entry_id", "keys=key"] {
        let run = echo("ok", &["--state", &state, "--table", table], 1);
        assert_eq!(run.exit, Some(6), "{}", run.stderr);
        assert!(run.stderr.contains("expected"), "{}", run.stderr);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_kills_the_function_and_exits_130() {
    use std::io::{BufRead, BufReader};

    let program = echo_program();
    let mut child = Command::new(MICROBATCH)
        .args(["-", "-v", "--function", &program, "--env", "ECHO_MODE=pid-hang"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    child.stdin.take().expect("a pipe").write_all(event(1).as_bytes()).expect("an event");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let pid = lines
        .find_map(|line| line.expect("a line").strip_prefix("pid ").map(str::to_owned))
        .expect("the function's pid");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    assert!(stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z ")), "the function lives on");
}

#[test]
fn generate_makes_events_that_invoke_takes() {
    let run = run_with_input(&["generate", "--records", "3", "--fifo"], "");
    assert_eq!(run.exit, Some(0), "{}", run.stderr);
    let program = echo_program();
    let run = run_with_input(&["-", "--function", &program], &run.stdout);
    assert_eq!(run.exit, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("3 records"), "{}", run.stderr);

    let run = run_with_input(&["generate", "--records", "100000"], "");
    assert_eq!(run.exit, Some(2), "{}", run.stderr);
}

#[test]
fn the_help_documents_the_exit_codes() {
    for args in [&["--help"][..], &["invoke", "--help"], &["generate", "--help"]] {
        let run = run_with_input(args, "");
        assert_eq!(run.exit, Some(0));
        assert!(run.stdout.contains("Exit codes:") && run.stdout.contains("130"), "{}", run.stdout);
    }
}
