//! The functions under AWS's own Runtime Interface Emulator: response, function error, time-out, crash, and what follows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::functions::functions;
use e2e::http::post;
use e2e::process::{Foreign, free_address, guarded, kill};
use e2e::samples::Sample;
use e2e::stack::{ORDERS_TABLE, Tables, need};
use e2e::tools::lambda_rie;
use microbatch_local::environment;
use microbatch_local::proxy::{Call, Fault, Proxy};
use microbatch_local::tables::{Endpoint, TableSpec, ensure};
use serde_json::Value;

const INVOKE: &str = "/2015-03-31/functions/function/invocations";
/// The time-out where it is waited for; and the function's margin to it.
const TIMEOUT_S: &str = "4";
/// How often a process is looked at, and for how long.
const POLL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(20);

/// A function with what it needs, and samples: the first is the one that is cut short.
pub(crate) struct Unit {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    env: &'static [(&'static str, &'static str)],
    tables: &'static [(&'static str, &'static str)],
    samples: &'static [&'static str],
}

impl Unit {
    /// The emulator starts the function, and it answers its samples as expected.
    pub(crate) async fn runs(&self) {
        let rig = Rig::start(self, "300").await;
        for name in self.samples {
            // A failing invocation is a 200 here, as it is at Lambda itself.
            rig.answers_as_expected(&Sample::named(name)).await;
        }
    }
}

pub(crate) fn units() -> [Unit; 3] {
    let functions = need(functions());
    [
        Unit {
            name: "process-orders",
            program: functions.process_orders(),
            env: &[("ORDERS_TABLE", ORDERS_TABLE)],
            tables: &[],
            samples: &["orders", "failures", "hostile-bodies", "missing-message-id"],
        },
        Unit {
            name: "ingest-telemetry",
            program: functions.ingest_telemetry(),
            env: &[("TELEMETRY_TABLE", "telemetry")],
            tables: &[("telemetry", "device_id,row_id")],
            samples: &["telemetry", "telemetry-failing", "missing-message-id"],
        },
        Unit {
            name: "post-ledger",
            program: functions.post_ledger(),
            env: &[("LEDGER_TABLE", "ledger"), ("BALANCES_TABLE", "balances"), ("LEDGER_CURRENCIES", "EUR,USD")],
            tables: &[("ledger", "account_id,entry_id"), ("balances", "account_id,currency")],
            samples: &["ledger", "missing-message-id"],
        },
    ]
}

struct Rig {
    emulator: Foreign,
    address: std::net::SocketAddr,
    proxy: Proxy,
    program: PathBuf,
    _tables: Tables,
}

impl Rig {
    async fn start(unit: &Unit, timeout_s: &str) -> Self {
        let tables = Tables::start().await;
        let endpoint = need(Endpoint::parse(&tables.endpoint_url()));
        let specs: Vec<_> = unit.tables.iter().map(|(name, keys)| need(TableSpec::from_keys(name, keys))).collect();
        need(ensure(&endpoint, &specs).await);
        let store = endpoint.url().trim_start_matches("http://").parse().expect("the address of a local server");
        let proxy = need(Proxy::start(store, |_: &Call<'_>| Fault::Pass).await);
        let (address, runtime_api) = (need(free_address()), need(free_address()));
        let mut command = guarded(need(lambda_rie()));
        command
            .args(["--log-level", "error"])
            .args(["--runtime-interface-emulator-address", &address.to_string()])
            .args(["--runtime-api-address", &runtime_api.to_string()])
            .arg(&unit.program)
            .env_clear()
            .envs(environment::inherited())
            .envs(environment::local(&proxy.endpoint_url(), true))
            .env("AWS_REGION", environment::LOCAL_REGION)
            .env("AWS_LAMBDA_FUNCTION_TIMEOUT", timeout_s)
            // A request that hangs is not given up before the process is cut short.
            .env("MICROBATCH_STORE_TIMEOUT_MS", "60000")
            // A record that a cut-short invocation left behind holds its key for the time-out only.
            .envs([("MICROBATCH_EFFECT_TIMEOUT_MS", "0"), ("MICROBATCH_CLOCK_SKEW_MS", "0")])
            .env("MICROBATCH_KILL_GRACE_MS", "0")
            .envs(unit.env.iter().copied());
        let mut emulator = need(Foreign::start(command, &format!("rie-{}", unit.name)));
        need(emulator.until_listening(address).await);
        Self { emulator, address, proxy, program: unit.program.clone(), _tables: tables }
    }

    async fn invoke(&self, sample: &Sample) -> (u16, String) {
        let (status, answer) = need(post(self.address, INVOKE, sample.event()).await);
        (status, String::from_utf8_lossy(&answer).into_owned())
    }

    async fn answers_as_expected(&self, sample: &Sample) {
        let (status, answer) = self.invoke(sample).await;
        let name = &sample.name;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|error| {
            panic!("{name}: {error} in {answer:?}; the emulator said:\n{}", self.emulator.last_said())
        });
        let said = self.emulator.last_said();
        assert_eq!((status, &answer), (200, &sample.expected), "{name}; the emulator said:\n{said}");
    }

    /// Sends a sample whose first call to the store hangs; once that has come, `cut` is done to the function's process.
    async fn cut_short(&self, sample: &Sample, cut: fn(u32)) -> (u16, String) {
        let before = self.proxy.calls().len();
        self.proxy.set_script(
            |call: &Call<'_>| {
                if call.operation == "GetItem" { Fault::Pass } else { Fault::HangBefore }
            },
        );
        let cut = async {
            let in_the_middle = || self.proxy.calls().iter().skip(before).any(|call| call.operation != "GetItem");
            until(in_the_middle).await;
            cut(process_of(&self.program));
        };
        let (answer, ()) = tokio::join!(self.invoke(sample), cut);
        self.proxy.set_script(|_: &Call<'_>| Fault::Pass);
        answer
    }
}

async fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "it did not happen within {PATIENCE:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// The newest process that runs this program under an emulator.
fn process_of(program: &Path) -> u32 {
    let processes = fs::read_dir("/proc").expect("Linux lists processes").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let runs_it = |id: &u32| {
        let is_program = fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe == program);
        // Other tests run the same program, under the project's own Runtime API.
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        is_program && String::from_utf8_lossy(&environment).contains("MICROBATCH_STORE_TIMEOUT_MS=60000")
    };
    ids.filter(runs_it).max().expect("the function's process")
}

/// Holds a process where it is: it can neither answer nor end by itself.
fn stop(process_id: u32) {
    let _stopped = Command::new("kill").args(["-STOP", &process_id.to_string()]).status();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_emulator_runs_each_function() {
    for unit in units() {
        unit.runs().await;
    }
}

/// P12: after a crash in the middle of a batch the emulator starts the function anew, and the same batch completes.
#[tokio::test(flavor = "multi_thread")]
async fn p12_after_a_crash_the_official_emulator_starts_each_function_anew() {
    for unit in units() {
        let rig = Rig::start(&unit, "300").await;
        let sample = Sample::named(unit.samples[0]);
        let (status, answer) = rig.cut_short(&sample, kill).await;
        assert!(status == 502 || answer.contains("errorType"), "{}: {status} {answer}", unit.name);
        rig.answers_as_expected(&sample).await;
    }
}

/// P12: the same after a time-out: of a process that stands still, since one that runs answers in time (P10).
#[tokio::test(flavor = "multi_thread")]
async fn p12_after_a_time_out_the_official_emulator_starts_each_function_anew() {
    for unit in units() {
        let rig = Rig::start(&unit, TIMEOUT_S).await;
        let sample = Sample::named(unit.samples[0]);
        let (status, answer) = rig.cut_short(&sample, stop).await;
        assert!(status == 200 && answer.contains("timed out"), "{}: {status} {answer}", unit.name);
        rig.answers_as_expected(&sample).await;
    }
}
