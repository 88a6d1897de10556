//! A process that dies at a store call, before the call is applied or after: its batch is delivered again and completes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::events::{body, event, message_id};
use e2e::process::kill;
use e2e::stack::Stack;
use microbatch_local::function::FunctionFailure;
use microbatch_local::proxy::{Call, Fault, Script};

/// The invocation's time-out, and with the settings below the lease of a claim.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long the key may stay locked: the rest of the lease, and some for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const REDELIVERY: Duration = Duration::from_millis(100);

/// Kills a process at its `index`th call.
struct KillAt {
    process_id: u32,
    index: usize,
    applied: bool,
    killed: Arc<AtomicBool>,
}

impl KillAt {
    fn kill_if(&self, here: bool) {
        if here {
            // Noted first: the test goes on as soon as the process is dead.
            self.killed.store(true, Ordering::SeqCst);
            kill(self.process_id);
        }
    }
}

impl Script for KillAt {
    fn fault(&self, call: &Call<'_>) -> Fault {
        match (call.index == self.index, self.applied) {
            (true, false) => Fault::Refuse,
            (true, true) => Fault::DropAnswer,
            (false, _) => Fault::Pass,
        }
    }

    fn before(&self, call: &Call<'_>) {
        self.kill_if(call.index == self.index && !self.applied);
    }

    fn after(&self, call: &Call<'_>) {
        self.kill_if(call.index == self.index && self.applied);
    }
}

/// One item: its calls are the claim, the effect, the completion. Gives how often it has run in the end.
async fn runs_after_a_death_at(index: usize, applied: bool) -> usize {
    let no_slack = ["MICROBATCH_EFFECT_TIMEOUT_MS", "MICROBATCH_CLOCK_SKEW_MS", "MICROBATCH_KILL_GRACE_MS"];
    let mut stack = Stack::scripted(&no_slack.map(|name| (name, "0"))).await;
    stack.warm_up().await;
    let killed = Arc::new(AtomicBool::new(false));
    let process_id = stack.function.process_id().expect("it runs");
    stack.proxy.set_script(KillAt { process_id, index, applied, killed: Arc::clone(&killed) });
    let batch = event(&[body("k-0", "ok")]);
    let result = stack.invoke(batch.clone(), TIMEOUT).await;
    assert!(matches!(result, Err(FunctionFailure::Died { .. })), "{index}, {applied}: {result:?}");
    assert!(killed.load(Ordering::SeqCst), "{index}, {applied}: there was such a call");

    stack.proxy.set_script(|_: &Call<'_>| Fault::Pass);
    stack.function.restart().await.expect("a new process");
    let end = Instant::now() + PATIENCE;
    while stack.failures_of(batch.clone(), TIMEOUT).await == [message_id(0)] {
        // P1: acknowledged only once completed.
        assert!(stack.records().await.values().all(|record| record.status == "INPROGRESS"));
        assert!(Instant::now() < end, "{index}, {applied}: the key stays locked");
        tokio::time::sleep(REDELIVERY).await;
    }
    let records = stack.records().await;
    assert!(records.len() == 1 && records.values().all(|record| record.status == "COMPLETED"), "{records:?}");
    stack.effects().await.len()
}

/// P1, P12; and what cannot be promised: an effect that was applied and not recorded is attempted again.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_process_died_at_any_store_call_completes_when_delivered_again() {
    let (claim, effect, completion) = tokio::join!(at(0), at(1), at(2));
    assert_eq!(claim, (1, 1), "nothing had run");
    assert_eq!(effect, (1, 2), "the effect was applied or not");
    assert_eq!(completion, (2, 1), "the effect was recorded or not");
}

/// The runs after a death before the call was applied, and after one when it was.
async fn at(index: usize) -> (usize, usize) {
    tokio::join!(runs_after_a_death_at(index, false), runs_after_a_death_at(index, true))
}
