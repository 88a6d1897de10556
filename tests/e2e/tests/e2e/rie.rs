//! The function under AWS's own Runtime Interface Emulator.

use e2e::functions::functions;
use e2e::http::post;
use e2e::process::{Foreign, free_address, guarded};
use e2e::samples::Sample;
use e2e::stack::{ORDERS_TABLE, Tables, need};
use e2e::tools::lambda_rie;
use microbatch_local::environment;
use serde_json::Value;

const INVOKE: &str = "/2015-03-31/functions/function/invocations";

#[tokio::test(flavor = "multi_thread")]
async fn the_official_emulator_runs_process_orders() {
    let tables = Tables::start().await;
    let address = need(free_address());
    let runtime_api = need(free_address());
    let mut command = guarded(need(lambda_rie()));
    command
        .args(["--log-level", "error"])
        .args(["--runtime-interface-emulator-address", &address.to_string()])
        .args(["--runtime-api-address", &runtime_api.to_string()])
        .arg(need(functions()).process_orders())
        .env_clear()
        .envs(environment::inherited())
        .envs(environment::local(&tables.endpoint_url(), true))
        .env("AWS_REGION", environment::LOCAL_REGION)
        .env("ORDERS_TABLE", ORDERS_TABLE);
    let mut emulator = need(Foreign::start(command, "rie"));
    need(emulator.until_listening(address).await);

    for name in ["orders", "failures", "hostile-bodies", "missing-message-id"] {
        let sample = Sample::named(name);
        // A failing invocation is a 200 here, as it is at Lambda itself.
        let (status, answer) = need(post(address, INVOKE, sample.event()).await);
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_else(|error| {
            panic!("{name}: {error} in {answer:?}; the emulator said:\n{}", emulator.last_said())
        });
        assert_eq!((status, &answer), (200, &sample.expected), "{name}; the emulator said:\n{}", emulator.last_said());
    }
}
