//! What is deployed fits where it runs: Amazon Linux 2023 has glibc 2.34.

use std::collections::BTreeSet;
use std::fs;

use e2e::functions::functions;
use e2e::stack::need;

/// The glibc of Amazon Linux 2023, under `provided.al2023`.
const GLIBC_MINOR: u32 = 34;

/// The versions `2.x` of glibc that a program asks for, by the names in its file.
fn glibc_minors(program: &[u8]) -> BTreeSet<u32> {
    const NAME: &[u8] = b"GLIBC_2.";
    let starts = program.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    let minor = |(at, _): (usize, &[u8])| {
        let digits = program[at + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.map(|byte| char::from(*byte)).collect::<String>().parse().ok()
    };
    starts.filter_map(minor).collect()
}

#[test]
fn what_cargo_lambda_builds_runs_on_amazon_linux_2023() {
    let functions = need(functions());
    for program in [functions.process_orders(), functions.ingest_telemetry(), functions.post_ledger()] {
        let minors = glibc_minors(&fs::read(&program).expect("it was built"));
        let newest = minors.last().copied().expect("a dynamic program names versions");
        assert!(newest <= GLIBC_MINOR, "{} asks for glibc 2.{newest}; there is 2.{GLIBC_MINOR}", program.display());
    }
}
