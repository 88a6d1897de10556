//! Retries do not amplify: P14.

use std::collections::HashMap;

use microbatch::{
    Clock, MemoryStore, Pipeline,
    store::StoreErrorKind::{Malformed, Refused, Throttled, TimedOut, Unavailable},
};
use microbatch_testkit::fault::{Fault, FaultStore, Operation};
use proptest::prelude::*;

use crate::{
    support::{Bench, paused},
    watched::{Watched, Worker, gauge, load, reset_gauge},
};

/// Half of the wait before the second try, which is certain; the other half is chance. It doubles up to the second.
const WAIT_MIN_MS: u64 = 25;
const WAIT_MAX_MS: u64 = 500;

/// How often something may be tried in this time, if each wait is as short as can be.
fn tries_max(mut time_ms: u64) -> usize {
    let (mut tries, mut wait_ms) = (1, WAIT_MIN_MS);
    while time_ms >= wait_ms {
        (tries, time_ms) = (tries + 1, time_ms - wait_ms);
        wait_ms = (2 * wait_ms).min(WAIT_MAX_MS);
    }
    tries
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// P14: however the store fails, an item runs at most once an invocation, a claim is tried at most three times, a release
    /// three times for each of two reasons to send it, and a completion ever more seldom: 10,000 schedules of faults.
    #[test]
    fn p14_no_fault_of_the_store_makes_more_of_a_batch(
        faults in prop::collection::vec((0_u8..12, 0_u8..4), 1..20),
        acts in prop::collection::vec(0_usize..6, 1..10),
        deadline_ms in 600_u64..8_000,
        concurrency in 1_u64..6,
        chunk_size in 1_usize..5,
    ) {
        const ACTS: [&str; 6] = ["", "", "", "fail", "hang", "panic"];
        reset_gauge();
        paused(async {
            let memory = MemoryStore::with_chunk_size(chunk_size.try_into().expect("not zero"));
            let failing = FaultStore::new(memory, move |point| {
                let (fault, on) = faults[usize::try_from(point.nth).expect("small") % faults.len()];
                let operations = [Operation::Claim, Operation::Complete, Operation::Release];
                // On 3, all of them.
                if operations.get(usize::from(on)).is_some_and(|of| *of != point.operation) {
                    return Fault::None;
                }
                match fault {
                    0 | 1 => Fault::Before(Throttled),
                    2 => Fault::Before(Unavailable),
                    3 => Fault::Before(TimedOut),
                    4 => Fault::Before(Refused),
                    5 => Fault::After(TimedOut),
                    6 => Fault::After(Unavailable),
                    7 => Fault::After(Malformed),
                    8 => Fault::HangBefore,
                    9 => Fault::HangAfter,
                    10 => Fault::Delay(std::time::Duration::from_millis(300)),
                    _ => Fault::None,
                }
            });
            let store = Watched::new(failing);
            let builder = Pipeline::builder(Worker).key("id").options(|options| {
                options.concurrency = concurrency;
                options.item_timeout_ms = 1_000;
            });
            let bench = Bench::of(builder, store.clone());
            let bodies: Vec<String> =
                acts.iter().enumerate().map(|(index, act)| load(&index.to_string(), ACTS[*act], 10, 0)).collect();
            let started_ms = bench.clock.now_ms();
            bench.send_by(&bodies.iter().map(String::as_str).collect::<Vec<_>>(), deadline_ms).await;
            let took_ms = bench.clock.now_ms() - started_ms;
            prop_assert!(gauge().runs.values().all(|runs| *runs == 1), "{:?}", gauge().runs);
            let requests = store.requests();
            let mut most = HashMap::new();
            for ((operation, _), tries) in &requests.tries {
                let most: &mut usize = most.entry(*operation).or_default();
                *most = (*most).max(tries.len());
            }
            let most = |operation| most.get(&operation).copied().unwrap_or(0);
            prop_assert!(most(Operation::Claim) <= 3, "{:?}", requests.tries);
            prop_assert!(most(Operation::Release) <= 6, "{:?}", requests.tries);
            prop_assert!(most(Operation::Complete) <= tries_max(took_ms), "{:?}", requests.tries);
            Ok(())
        })?;
    }
}
