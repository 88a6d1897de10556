//! The whole batcher under generated schedules: submitters that come, go and are cancelled; sinks that are slow and fail.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use microbatch::batcher::{Batch, Batcher, BatcherError, Bounds, FlushReason, Limits};
use microbatch_testkit::clock::TokioClock;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use tokio::time::{sleep, timeout};

use crate::{
    model::predict,
    support::{Entry, Log, Seen, bounds, ids, limits},
};

/// How many schedules are shown.
const CASES: u32 = 100_000;

/// The batcher under test and all that happens to it.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    pub(crate) limits: Limits,
    pub(crate) bounds: Bounds,
    pub(crate) close_at_ms: u64,
    pub(crate) submits: Vec<Submit>,
    script: Vec<(Act, u64)>,
}

/// One submitter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Submit {
    pub(crate) after_ms: u64,
    pub(crate) bytes: usize,
    /// When it loses patience; after that long. None: never.
    pub(crate) patience_ms: Option<u64>,
}

/// What the sink does with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Answer,
    AnswerTooFew,
    AnswerTooMany,
    Panic,
    /// Before there is a future, and so at once.
    PanicInCall,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Cancelled,
    Result(usize),
    TooLarge(Entry),
    Closed(Entry),
    WrongCount { expected: usize, found: usize },
    Panicked,
}

impl Schedule {
    /// What the sink does with its nth batch, and after how long.
    pub(crate) fn act(&self, number: usize) -> (Act, u64) {
        self.script[number % self.script.len()]
    }

    /// What an entry of the sink's nth batch gets.
    pub(crate) fn fate(&self, number: usize, id: usize, expected: usize) -> Fate {
        match self.act(number).0 {
            Act::Answer => Fate::Result(id),
            Act::AnswerTooFew => Fate::WrongCount { expected, found: expected - 1 },
            Act::AnswerTooMany => Fate::WrongCount { expected, found: expected + 1 },
            Act::Panic | Act::PanicInCall => Fate::Panicked,
        }
    }

    fn fits(&self, id: usize) -> bool {
        self.submits[id].bytes <= self.limits.bytes_max.get()
    }
}

struct Observed {
    seen: Vec<Seen>,
    /// When each entry was accepted, in that order.
    accepted: Vec<(usize, u64)>,
    /// What became of each entry, and when.
    fates: Vec<(Fate, u64)>,
    /// Most entries that were accepted and without a result at once.
    held_max: usize,
}

async fn observe(schedule: &Schedule) -> Observed {
    let Schedule { limits, bounds, close_at_ms, submits, .. } = schedule;
    let clock = TokioClock::default();
    let log = Log::new(clock);
    // Entries of batches that ended. The submitter of one may be gone, so that the sink must count it.
    let ended = Arc::new(Mutex::new(0));
    let (sink_log, sink_ended) = (Arc::clone(&log), Arc::clone(&ended));
    let sink = move |batch: Batch<Entry>| {
        let in_flight = sink_log.begin(&batch);
        let (act, after_ms) = schedule.act(sink_log.seen().len() - 1);
        let ended = Arc::clone(&sink_ended);
        if act == Act::PanicInCall {
            *ended.lock().expect("no panic") += batch.entries.len();
            std::panic::resume_unwind(Box::new("scripted"));
        }
        async move {
            if after_ms > 0 {
                sleep(Duration::from_millis(after_ms)).await;
            }
            drop(in_flight);
            *ended.lock().expect("no panic") += batch.entries.len();
            match act {
                Act::Answer => ids(&batch),
                Act::AnswerTooFew => ids(&batch)[1..].to_vec(),
                Act::AnswerTooMany => [ids(&batch), vec![0]].concat(),
                Act::Panic | Act::PanicInCall => std::panic::resume_unwind(Box::new("scripted")),
            }
        }
    };
    let (batcher, driver) = Batcher::new(*limits, *bounds, Arc::new(clock), Entry::size, sink);
    let (accepted, held_max) = (RefCell::new(Vec::new()), RefCell::new(0));
    let submit = async |id: usize, submit: &Submit| {
        sleep(Duration::from_millis(submit.after_ms)).await;
        let entry = Entry { id, bytes: submit.bytes };
        let submitted = async {
            let receipt = batcher.enqueue(entry).await?;
            accepted.borrow_mut().push((id, log.now_ms()));
            if schedule.fits(id) {
                let fitting = accepted.borrow().iter().filter(|(id, _)| schedule.fits(*id)).count();
                let held = fitting - *ended.lock().expect("no panic");
                held_max.replace_with(|max| held.max(*max));
            }
            receipt.await
        };
        let fate = match submit.patience_ms {
            None => fate(submitted.await),
            Some(patience_ms) => {
                timeout(Duration::from_millis(patience_ms), submitted).await.map_or(Fate::Cancelled, fate)
            }
        };
        (fate, log.now_ms())
    };
    let work = join_all(submits.iter().enumerate().map(|(id, of)| submit(id, of)));
    let close = async {
        sleep(Duration::from_millis(*close_at_ms)).await;
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

/// What holds in whatever order the events of one instant come.
fn check_rules(schedule: &Schedule, observed: &Observed) -> Result<(), TestCaseError> {
    // Each accepted entry was sent once, in the order of acceptance, and no other.
    let sent: Vec<usize> = observed.seen.iter().flat_map(|seen| seen.ids.clone()).collect();
    let accepted: Vec<usize> = observed.accepted.iter().map(|(id, _)| *id).filter(|id| schedule.fits(*id)).collect();
    prop_assert_eq!(&sent, &accepted);
    prop_assert!(observed.held_max <= schedule.bounds.entries_max.get());
    prop_assert!(observed.accepted.iter().all(|(_, at_ms)| *at_ms <= schedule.close_at_ms));
    let mut batch_of = vec![None; schedule.submits.len()];
    for (number, seen) in observed.seen.iter().enumerate() {
        for id in &seen.ids {
            batch_of[*id] = Some(number);
        }
        check_batch(schedule, observed, number)?;
    }
    for (id, (fate, _)) in observed.fates.iter().enumerate() {
        let expected = match batch_of[id] {
            _ if *fate == Fate::Cancelled => {
                prop_assert!(schedule.submits[id].patience_ms.is_some());
                Fate::Cancelled
            }
            None => {
                let entry = Entry { id, bytes: schedule.submits[id].bytes };
                let was_accepted = observed.accepted.iter().any(|(accepted, _)| *accepted == id);
                if was_accepted { Fate::TooLarge(entry) } else { Fate::Closed(entry) }
            }
            Some(number) => schedule.fate(number, id, observed.seen[number].ids.len()),
        };
        prop_assert_eq!(*fate, expected);
    }
    Ok(())
}

/// A batch is within the limits, not beside too many others, and went for the reason it states.
fn check_batch(schedule: &Schedule, observed: &Observed, number: usize) -> Result<(), TestCaseError> {
    let Schedule { limits, bounds, close_at_ms, submits, .. } = schedule;
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
        FlushReason::Close => prop_assert!(seen.at_ms >= *close_at_ms),
    }
    Ok(())
}

/// To the millisecond what the model says, where it can say.
fn check_model(schedule: &Schedule, observed: &Observed) -> Result<(), TestCaseError> {
    let Some(predicted) = predict(schedule) else { return Ok(()) };
    prop_assert_eq!(&observed.seen, &predicted.seen);
    prop_assert_eq!(&observed.accepted, &predicted.accepted);
    let fates: Vec<_> = observed.fates.iter().copied().map(Some).collect();
    prop_assert_eq!(fates, predicted.fates);
    Ok(())
}

/// A schedule from as few draws as possible, since a hundred thousand are drawn.
///
/// Half of them are dense: few milliseconds, so that many things happen at one instant. In the others hardly ever two do,
/// and the model can predict them.
fn schedule() -> impl Strategy<Value = Schedule> {
    let shape = (1_usize..5, 1_usize..24, 0_u64..6, 1_usize..8, 1_usize..4, 0_u64..40);
    let act = prop_oneof![
        5 => Just(Act::Answer),
        1 => Just(Act::AnswerTooFew),
        1 => Just(Act::AnswerTooMany),
        1 => Just(Act::Panic),
        1 => Just(Act::PanicInCall),
    ];
    let script = prop::collection::vec((act, any::<u16>()), 1..5);
    (any::<bool>(), shape, prop::collection::vec(any::<u64>(), 0..16), script).prop_map(
        |(dense, shape, draws, script)| {
            let (count_max, bytes_max, linger_ms, entries_max, batches_in_flight_max, close_at_ms) = shape;
            let unit_ms = if dense { 1 } else { 8_191 };
            // In `units`, and not on their borders where there is room between them.
            let spread = |units: u64, bits: u16| units * unit_ms + u64::from(bits) % unit_ms;
            let submit = |bits: u64| {
                let part = |shift: u32, options: u64| ((bits >> shift) & 0xff) % options;
                let low = |shift: u32| u16::try_from((bits >> shift) & 0xffff).expect("16 bits");
                Submit {
                    after_ms: spread(part(0, 12), low(32)),
                    bytes: usize::try_from(part(8, 24)).expect("small"),
                    patience_ms: (part(16, 4) == 0).then(|| spread(1 + part(24, 16), low(48))),
                }
            };
            Schedule {
                limits: limits(count_max, bytes_max, linger_ms * unit_ms),
                bounds: bounds(entries_max, batches_in_flight_max),
                close_at_ms: spread(close_at_ms, 0),
                submits: draws.into_iter().map(submit).collect(),
                script: script.into_iter().map(|(act, bits)| (act, spread(u64::from(bits >> 13), bits))).collect(),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// P7, P11: never over a bound, nothing lost, doubled or reordered, every submitter gets what its own batch got, and all
    /// that was accepted is drained after the close: 100,000 schedules.
    #[test]
    fn p11_the_batcher_obeys_the_model_under_any_schedule(schedule in schedule()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
        let observed = runtime.block_on(observe(&schedule));
        check_rules(&schedule, &observed)?;
        check_model(&schedule, &observed)?;
    }
}

#[test]
fn the_model_is_asked_about_schedules_of_every_kind() {
    let mut runner = TestRunner::deterministic();
    let mut predicted = Vec::new();
    for _ in 0..2_000 {
        let schedule = schedule().new_tree(&mut runner).expect("a schedule").current();
        predicted.extend(predict(&schedule));
    }
    assert!(predicted.len() > 800, "of 2,000 schedules the model predicts {}", predicted.len());
    let batches = |reason| predicted.iter().flat_map(|of| &of.seen).filter(|seen| seen.reason == reason).count();
    let reasons =
        [FlushReason::Count, FlushReason::Bytes, FlushReason::Age, FlushReason::Idle, FlushReason::Close].map(batches);
    assert!(reasons.iter().all(|count| *count > 50), "{reasons:?}");
    let waited = predicted.iter().flat_map(|of| &of.fates).flatten();
    let kinds: std::collections::HashSet<_> = waited.map(|(fate, _)| std::mem::discriminant(fate)).collect();
    assert_eq!(kinds.len(), 6, "every fate");
}
