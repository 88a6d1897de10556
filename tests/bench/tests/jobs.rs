//! Each job that needs no functions runs to its end, and its figures have their names. What they are is not looked at: a debug build
//! is measured, beside other tests.

use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;

/// Runs a job with several batch sizes, once, and gives what it wrote.
fn ran(job: &[&str], file: &str) -> Value {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(file);
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    let output = command.args(job).args(["--records", "10,100,200", "--runs", "1", "--json"]).arg(&file).output();
    let output = output.expect("the command starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&fs::read(file).expect("it was written")).expect("it is JSON")
}

fn assert_has_ratios(report: &Value, names: &[&str]) {
    for name in names {
        assert!(report["ratios"][name].as_f64().is_some_and(|ratio| ratio > 0.0), "{name}: {}", report["ratios"]);
    }
}

#[test]
fn the_adapter_is_measured_beside_its_floor() {
    let report = ran(&["adapter"], "adapter.json");
    assert_has_ratios(&report, &["cpu_alone.floor.10", "wall_alone.floor.100", "cpu_growth.small.200"]);
}

#[test]
fn what_telemetry_costs_is_measured() {
    for (with, file) in [("metrics", "metrics.json"), ("traces", "traces.json")] {
        let report = ran(&["telemetry", "--with", with], file);
        assert!(report["ratios"].as_object().is_some_and(|ratios| ratios.len() == 6), "{with}: {}", report["ratios"]);
    }
}

#[test]
fn calls_are_measured_and_counted_at_each_size() {
    let report = ran(&["calls"], "calls.json");
    assert_has_ratios(&report, &["cpu.single.10", "wall.single.100", "requests.single.10"]);
    let requests = report["ratios"]["requests.single.100"].as_f64().expect("counted");
    assert!((requests - 0.04).abs() < 1e-9, "25 to a request: found {requests}");
}
