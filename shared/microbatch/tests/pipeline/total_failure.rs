//! When an invocation errs, so that the event source mapping slows down: only where nothing at all was done.

use std::sync::{Arc, Mutex};

use microbatch::{
    FifoFailure, MemoryStore,
    Outcome::{self, Abandoned, Busy, Conflict, Duplicate, Failed, Processed, Rejected},
    Pipeline, PipelineBuilder, TotalFailure,
    pipeline::RunError,
};
use microbatch_testkit::{
    queue::{CallFault, CallPlan},
    scripted::Scripted,
};
use proptest::{collection::vec, prelude::*};

use crate::rig::{TIMEOUT_MS, item, rig, timed, told};

fn scripted(policy: TotalFailure) -> PipelineBuilder<Scripted> {
    Pipeline::builder(Scripted::by("id").as_told()).key("id").fingerprint_body().options(|options| {
        options.total_failure = policy;
    })
}

#[tokio::test(start_paused = true)]
async fn an_invocation_of_which_nothing_is_done_errs() {
    let rig = rig(scripted(TotalFailure::Auto)).start();
    rig.put([told("a", "fail"), told("b", "panic"), timed("c", "effect_unknown", 0)]);
    let delivered = rig.deliver().await;
    assert_eq!(delivered.result, Err(RunError::AllFailed { records: 3 }));
    let error = delivered.result.expect_err("all failed");
    assert_eq!(error.name(), "AllFailed");
    assert!(error.to_string().starts_with("none of 3 messages was done"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_could_not_start_is_not_done_either() {
    // No time left at all.
    let rig = rig(scripted(TotalFailure::Auto)).start();
    rig.put([item("a"), item("b")]);
    let delivered = rig.deliver_within(300).await;
    assert_eq!(delivered.outcomes(), [Abandoned; 2]);
    assert_eq!(delivered.result, Err(RunError::AllFailed { records: 2 }));
}

#[tokio::test(start_paused = true)]
async fn one_message_that_is_done_rejected_or_a_conflict_keeps_the_response() {
    for (body, outcome, parks) in [
        (item("new"), Processed, false),
        (item("done"), Duplicate, false),
        (timed("done", "slow", 1), Conflict, false),
        ("no item".to_owned(), Rejected, false),
        (told("c", "permanent"), Rejected, false),
        (told("d", "permanent"), Rejected, true),
    ] {
        let rig = rig(scripted(TotalFailure::Error));
        let rig = if parks { rig.parking() } else { rig }.start();
        rig.put([item("done")]);
        rig.deliver().await;
        rig.put([told("x", "fail"), body]);
        let delivered = rig.deliver().await;
        assert_eq!(delivered.outcomes(), [Failed, outcome]);
        assert!(delivered.result.is_ok(), "{outcome}");
        let acknowledged = matches!(outcome, Processed | Duplicate) || parks;
        assert_eq!(delivered.reported(), if acknowledged { vec![0] } else { vec![0, 1] });
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_another_works_on_keeps_the_response() {
    let store = MemoryStore::new();
    let holder = rig(scripted(TotalFailure::Error)).store(store.clone()).start();
    holder.put([timed("held", "slow", 1_000)]);
    let held = holder.poll();
    let rig = rig(scripted(TotalFailure::Error)).seed(2).store(store).start();
    rig.put([timed("held", "slow", 1_000), told("x", "fail")]);
    let (_, delivered) = tokio::join!(holder.run(&held, TIMEOUT_MS), rig.deliver());
    assert_eq!(delivered.outcomes(), [Busy, Failed]);
    assert_eq!((delivered.result.is_ok(), delivered.reported()), (true, vec![0, 1]));
}

#[tokio::test(start_paused = true)]
async fn a_fifo_queue_gets_a_report_unless_an_error_was_asked_for() {
    for (policy, errs) in [(TotalFailure::Auto, false), (TotalFailure::Report, false), (TotalFailure::Error, true)] {
        let rig = rig(scripted(policy)).fifo().start();
        rig.put_in([("a", told("a0", "fail")), ("a", item("a1"))]);
        let delivered = rig.deliver().await;
        assert_eq!(delivered.outcomes(), [Failed, Abandoned]);
        assert_eq!((delivered.result.is_err(), delivered.reported()), (errs, vec![0, 1]), "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn before_it_errs_everybody_was_told_and_the_delays_are_set() {
    let hooked = Arc::new(Mutex::new(0));
    let counting = Arc::clone(&hooked);
    let builder = scripted(TotalFailure::Auto).on_failure(move |_| *counting.lock().expect("lock") += 1);
    let rig = rig(builder).delaying().start();
    rig.put((0..12).map(|nth| told(&nth.to_string(), "fail")));
    let delivered = rig.deliver().await;
    assert!(delivered.result.is_err());
    assert_eq!((delivered.report.items.len(), *hooked.lock().expect("lock")), (12, 12));
    assert!((0..12).all(|number| rig.delays_ms(number).len() == 1));
}

#[tokio::test(start_paused = true)]
async fn a_park_that_failed_still_keeps_the_response() {
    // Rejected does not count: a slower mapping would not help it.
    let rig = rig(scripted(TotalFailure::Error)).parking().plans(|_| CallPlan::of(CallFault::Refused)).start();
    rig.put([told("a", "permanent"), told("b", "fail")]);
    let delivered = rig.deliver().await;
    assert_eq!((delivered.result.is_ok(), delivered.reported()), (true, vec![0, 1]));
}

#[tokio::test(start_paused = true)]
async fn an_empty_batch_is_a_success() {
    let rig = rig(scripted(TotalFailure::Error)).start();
    let response = rig.pipeline.run(r#"{"Records":[]}"#, "empty", None).await;
    assert_eq!(response.expect("nothing failed").into_failed_ids(), [""; 0]);
}

const ACTS: [(&str, Outcome); 5] =
    [("", Processed), ("fail", Failed), ("panic", Failed), ("permanent", Rejected), ("hang", Failed)];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// It errs exactly where that is wanted, nothing was acknowledged, and nothing is what a slower mapping cannot help.
    #[test]
    fn it_errs_exactly_where_nothing_is_done(
        acts in vec((0..ACTS.len(), 0_usize..2), 1..8),
        policy in 0_usize..3,
        fifo in any::<bool>(),
        continues in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        runtime.block_on(async {
            let policy = [TotalFailure::Auto, TotalFailure::Error, TotalFailure::Report][policy];
            let builder = scripted(policy).options(|options| {
                options.fifo_failure = if continues { FifoFailure::ParkAndContinue } else { FifoFailure::Block };
            });
            let rig = rig(builder).parking();
            let rig = if fifo { rig.fifo() } else { rig }.start();
            for (nth, (act, group)) in acts.iter().enumerate() {
                rig.put_in([(["a", "b"][*group], told(&nth.to_string(), ACTS[*act].0))]);
            }
            let delivered = rig.deliver().await;
            let wanted = policy == TotalFailure::Error || (policy == TotalFailure::Auto && !fifo);
            let hopeless = delivered.outcomes().iter().all(|outcome| matches!(outcome, Failed | Abandoned));
            prop_assert_eq!(delivered.result.is_err(), wanted && hopeless, "{:?}", delivered.outcomes());
            Ok(())
        })?;
    }
}
