//! The whole batcher under generated schedules: submitters that come, go and are cancelled; sinks that are slow and fail.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use microbatch::batcher::{Batch, Batcher, BatcherError, Bounds, FlushReason, Limits};
use microbatch_testkit::clock::TokioClock;
use proptest::prelude::*;
use tokio::time::{sleep, timeout};

use crate::support::{Entry, Log, Seen, bounds, ids, limits};

/// The batcher under test, and when it is closed.
#[derive(Debug, Clone, Copy)]
struct Setup {
    limits: Limits,
    bounds: Bounds,
    close_at_ms: u64,
}

/// One submitter.
#[derive(Debug, Clone, Copy)]
struct Submit {
    after_ms: u64,
    bytes: usize,
    /// When it loses patience; after that long. None: never.
    patience_ms: Option<u64>,
}

/// What the sink does with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Answer,
    AnswerTooFew,
    Panic,
}

/// The sink's answer to its nth batch, and after how long.
type Script = Vec<(Act, u64)>;

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Cancelled,
    Result(usize),
    TooLarge(Entry),
    Closed(Entry),
    WrongCount { expected: usize, found: usize },
    Panicked,
}

struct Observed {
    seen: Vec<Seen>,
    /// When each entry was accepted, in that order.
    accepted: Vec<(usize, u64)>,
    fates: Vec<Fate>,
    /// Most entries that were accepted and without a result at once.
    held_max: usize,
}

async fn observe(setup: Setup, submits: &[Submit], script: Script) -> Observed {
    let Setup { limits, bounds, close_at_ms } = setup;
    let clock = TokioClock::default();
    let log = Log::new(clock);
    // Entries of batches that ended. The submitter of one may be gone, so that the sink must count it.
    let ended = Arc::new(Mutex::new(0));
    let (sink_log, sink_ended) = (Arc::clone(&log), Arc::clone(&ended));
    let sink = move |batch: Batch<Entry>| {
        let in_flight = sink_log.begin(&batch);
        let (act, after_ms) = script[(sink_log.seen().len() - 1) % script.len()];
        let ended = Arc::clone(&sink_ended);
        async move {
            if after_ms > 0 {
                sleep(Duration::from_millis(after_ms)).await;
            }
            drop(in_flight);
            *ended.lock().expect("no panic") += batch.entries.len();
            match act {
                Act::Answer => ids(&batch),
                Act::AnswerTooFew => ids(&batch)[1..].to_vec(),
                Act::Panic => std::panic::resume_unwind(Box::new("scripted")),
            }
        }
    };
    let (batcher, driver) = Batcher::new(limits, bounds, Arc::new(clock), Entry::size, sink);
    let (accepted, held_max) = (RefCell::new(Vec::new()), RefCell::new(0));
    let submit = async |id: usize, submit: &Submit| {
        sleep(Duration::from_millis(submit.after_ms)).await;
        let entry = Entry { id, bytes: submit.bytes };
        let submitted = async {
            let receipt = batcher.enqueue(entry).await?;
            accepted.borrow_mut().push((id, log.now_ms()));
            if submit.bytes <= limits.bytes_max.get() {
                let fitting =
                    accepted.borrow().iter().filter(|(id, _)| submits[*id].bytes <= limits.bytes_max.get()).count();
                let held = fitting - *ended.lock().expect("no panic");
                held_max.replace_with(|max| held.max(*max));
            }
            receipt.await
        };
        let result = match submit.patience_ms {
            None => submitted.await,
            Some(patience_ms) => match timeout(Duration::from_millis(patience_ms), submitted).await {
                Ok(result) => result,
                Err(_) => return Fate::Cancelled,
            },
        };
        fate(result)
    };
    let work = join_all(submits.iter().enumerate().map(|(id, of)| submit(id, of)));
    let close = async {
        sleep(Duration::from_millis(close_at_ms)).await;
        batcher.close();
    };
    let (fates, (), ()) = tokio::join!(work, close, driver);
    Observed { seen: log.seen(), accepted: accepted.take(), fates, held_max: held_max.take() }
}

fn fate(result: Result<usize, BatcherError<Entry>>) -> Fate {
    match result {
        Ok(id) => Fate::Result(id),
        Err(BatcherError::TooLarge(refused)) => Fate::TooLarge(refused.entry),
        Err(BatcherError::WrongCount { expected, found }) => Fate::WrongCount { expected, found },
        Err(BatcherError::Closed(entry)) => Fate::Closed(entry),
        Err(BatcherError::SinkPanicked) => Fate::Panicked,
        Err(other) => panic!("{other}"),
    }
}

fn check(setup: Setup, submits: &[Submit], script: &Script, observed: &Observed) -> Result<(), TestCaseError> {
    let Setup { limits, bounds, close_at_ms } = setup;
    let fits = |id: &usize| submits[*id].bytes <= limits.bytes_max.get();
    // Each accepted entry was sent once, in the order of acceptance, and no other.
    let sent: Vec<usize> = observed.seen.iter().flat_map(|seen| seen.ids.clone()).collect();
    let accepted: Vec<usize> = observed.accepted.iter().map(|(id, _)| *id).filter(|id| fits(id)).collect();
    prop_assert_eq!(&sent, &accepted);
    prop_assert!(observed.held_max <= bounds.entries_max.get());
    prop_assert!(observed.accepted.iter().all(|(_, at_ms)| *at_ms <= close_at_ms));
    let mut batch_of = vec![None; submits.len()];
    for (number, seen) in observed.seen.iter().enumerate() {
        for id in &seen.ids {
            batch_of[*id] = Some(number);
        }
        check_batch(setup, submits, observed, number)?;
    }
    for (id, fate) in observed.fates.iter().enumerate() {
        let expected = match batch_of[id] {
            _ if *fate == Fate::Cancelled => {
                prop_assert!(submits[id].patience_ms.is_some());
                Fate::Cancelled
            }
            None => {
                let entry = Entry { id, bytes: submits[id].bytes };
                let was_accepted = observed.accepted.iter().any(|(accepted, _)| *accepted == id);
                if was_accepted { Fate::TooLarge(entry) } else { Fate::Closed(entry) }
            }
            Some(number) => match script[number % script.len()].0 {
                Act::Answer => Fate::Result(id),
                Act::AnswerTooFew => {
                    let expected = observed.seen[number].ids.len();
                    Fate::WrongCount { expected, found: expected - 1 }
                }
                Act::Panic => Fate::Panicked,
            },
        };
        prop_assert_eq!(*fate, expected);
    }
    Ok(())
}

/// A batch is within the limits, not beside too many others, and went for the reason it states.
fn check_batch(setup: Setup, submits: &[Submit], observed: &Observed, number: usize) -> Result<(), TestCaseError> {
    let Setup { limits, bounds, close_at_ms } = setup;
    let seen = &observed.seen[number];
    prop_assert_eq!(seen.bytes, seen.ids.iter().map(|id| submits[*id].bytes).sum::<usize>());
    prop_assert!(seen.ids.len() <= limits.count_max.get() && seen.bytes <= limits.bytes_max.get());
    prop_assert!(seen.others < bounds.batches_in_flight_max.get());
    let accepted_ms = observed.accepted.iter().find(|(id, _)| *id == seen.ids[0]).map_or(0, |(_, at_ms)| *at_ms);
    match seen.reason {
        FlushReason::Count => prop_assert_eq!(seen.ids.len(), limits.count_max.get()),
        FlushReason::Bytes => {
            let next = observed.seen.get(number + 1).map_or(0, |next| submits[next.ids[0]].bytes);
            let full = seen.bytes == limits.bytes_max.get();
            prop_assert!(full || seen.bytes + next > limits.bytes_max.get());
        }
        FlushReason::Age => {
            let due_at_ms = accepted_ms + limits.linger_ms;
            prop_assert!(limits.linger_ms > 0 && seen.at_ms >= due_at_ms);
            // Later only where there was no place in flight.
            let had_place = observed.seen[..number].len() < bounds.batches_in_flight_max.get();
            prop_assert!(!had_place || seen.at_ms == due_at_ms);
        }
        FlushReason::Idle => {
            let holds_all = seen.ids.len() == bounds.entries_max.get();
            prop_assert!(seen.others == 0 && (limits.linger_ms == 0 || holds_all));
        }
        FlushReason::Close => prop_assert!(seen.at_ms >= close_at_ms),
    }
    Ok(())
}

fn submit() -> impl Strategy<Value = Submit> {
    any::<u32>().prop_map(|bits| {
        let part = |shift: u32, options: u32| (bits >> shift) % options;
        let patience_ms = (part(0, 4) == 0).then(|| 1 + u64::from(part(4, 16)));
        Submit { after_ms: u64::from(part(10, 12)), bytes: part(20, 22) as usize, patience_ms }
    })
}

fn script() -> impl Strategy<Value = Script> {
    let act = prop_oneof![4 => Just(Act::Answer), 1 => Just(Act::AnswerTooFew), 1 => Just(Act::Panic)];
    prop::collection::vec((act, 0_u64..8), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    /// P7, P11: bounds hold, nothing is lost, doubled or reordered, and every submitter gets what its own batch got.
    #[test]
    fn p11_the_batcher_obeys_its_bounds_under_any_schedule(
        (count_max, bytes_max, linger_ms) in (1_usize..5, 1_usize..24, 0_u64..6),
        (entries_max, batches_in_flight_max) in (1_usize..8, 1_usize..4),
        close_at_ms in 0_u64..40,
        submits in prop::collection::vec(submit(), 0..16),
        script in script(),
    ) {
        let (limits, bounds) = (limits(count_max, bytes_max, linger_ms), bounds(entries_max, batches_in_flight_max));
        let setup = Setup { limits, bounds, close_at_ms };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        let observed = runtime.block_on(observe(setup, &submits, script.clone()));
        check(setup, &submits, &script, &observed)?;
    }
}
