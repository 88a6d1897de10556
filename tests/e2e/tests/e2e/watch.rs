//! The function under `cargo lambda watch`, which builds and starts it, and answers `cargo lambda invoke`.

use std::env;
use std::process::{Output, Stdio};

use e2e::functions::functions;
use e2e::paths::{target_dir, workspace_root};
use e2e::process::{Foreign, free_address, guarded};
use e2e::samples::{Sample, samples};
use e2e::stack::{ORDERS_TABLE, Tables, need};
use e2e::tools::cargo_lambda;
use microbatch_local::environment;
use serde_json::Value;

/// What `cargo lambda build` adds for this processor. With it `watch` finds that build's work done; without, it does it again.
const RUSTFLAGS: &str =
    if cfg!(target_arch = "aarch64") { "-C target-cpu=neoverse-n1" } else { "-C target-cpu=haswell" };

/// Its deadline is a constant of the year 1970, so this shows as well that such a one counts as unknown.
#[tokio::test(flavor = "multi_thread")]
async fn every_sample_event_gives_its_expected_answer_under_cargo_lambda() {
    need(functions());
    let program = need(cargo_lambda());
    let address = need(free_address());
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let tables = Tables::start().await;
    let mut command = guarded(&program);
    command
        .args(["lambda", "watch", "--release", "--ignore-changes", "--package", "process-orders"])
        .args(["--bin", "process-orders", "--invoke-address", &host, "--invoke-port", &port])
        .current_dir(workspace_root())
        .env("CARGO_TARGET_DIR", target_dir())
        .env("CARGO_BUILD_TARGET", format!("{}-unknown-linux-gnu", env::consts::ARCH))
        .env("CARGO_BUILD_RUSTFLAGS", RUSTFLAGS)
        .envs(environment::local(&tables.endpoint_url(), true))
        .env("AWS_REGION", environment::LOCAL_REGION)
        .env("ORDERS_TABLE", ORDERS_TABLE);
    let mut watch = need(Foreign::start(command, "watch"));
    need(watch.until_listening(address).await);

    for sample in samples() {
        let output = tokio::process::Command::new(&program)
            .args(["lambda", "invoke", "process-orders", "--invoke-address", &host, "--invoke-port", &port])
            .arg("--data-file")
            .arg(&sample.file)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .expect("cargo-lambda can be started");
        assert_answer(&sample, &output, &watch);
    }
}

fn assert_answer(sample: &Sample, output: &Output, watch: &Foreign) {
    let context = || format!("{}: {output:?}; watch said:\n{}", sample.name, watch.last_said());
    assert_eq!(output.status.success(), !sample.fails(), "{}", context());
    if sample.fails() {
        // An error object is shown to people only: its words, in lines behind signs.
        let said = String::from_utf8_lossy(&output.stderr).replace(['×', '│'], " ");
        let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in ["errorType", "errorMessage"] {
            assert!(words.contains(sample.expected[part].as_str().expect("a text")), "{}", context());
        }
    } else {
        let answer: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        assert_eq!(answer.as_ref(), Some(&sample.expected), "{}", context());
    }
}
