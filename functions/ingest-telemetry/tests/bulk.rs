//! The bulk writer on a table in memory and a paused clock: what is tried again, how often, for how long, and what is said of
//! each row.

mod support;

use std::sync::Arc;

use ingest_telemetry::{
    bulk::{BulkWriter, RowFailure},
    reading::Reading,
    row::{Row, compact},
    table::PutError,
};
use microbatch::Clock;
use microbatch_testkit::clock::{SeededRandom, TokioClock};
use support::{
    START_MS,
    fake::{FakeTable, Fate},
    reading,
};

const MINUTE_MS: u64 = 60_000;

/// One row each of so many devices.
fn rows(count: usize) -> Vec<Row> {
    let readings: Vec<_> = (0..count).map(|n| Reading { device_id: format!("d-{n:04}"), ..reading(1) }).collect();
    compact(readings.iter().enumerate()).rows
}

/// Writes within this time. Gives what is said of each row, and how long it took in milliseconds.
async fn write(table: &FakeTable, rows: &[Row], time_ms: u64) -> (Vec<Result<(), RowFailure>>, u64) {
    let clock = Arc::new(TokioClock::starting_at(START_MS));
    let writer = BulkWriter::new(table.clone(), Arc::clone(&clock) as _, Arc::new(SeededRandom::new(1)));
    let results = writer.write_all(rows, START_MS + time_ms).await;
    (results, clock.now_ms() - START_MS)
}

#[tokio::test(start_paused = true)]
async fn rows_go_out_in_full_requests_a_bounded_number_at_once() {
    let table = FakeTable::new(|_| Fate::written());
    let (results, took_ms) = write(&table, &rows(1_010), MINUTE_MS).await;
    assert!(results.iter().all(Result::is_ok) && results.len() == 1_010);
    assert_eq!((table.requests(), table.rows().len()), (41, 1_010));
    // P11.
    assert_eq!(table.most_in_flight(), 16);
    assert_eq!(took_ms, 3 * 2 * table.takes_ms, "three rounds");
}

#[tokio::test(start_paused = true)]
async fn only_what_was_left_unprocessed_is_sent_again() {
    let mut sent = Vec::new();
    let table = FakeTable::new(move |rows| {
        sent.push(rows.len());
        match sent.len() {
            1 => Fate::Written { but: vec![3, 7, 24] },
            2 => Fate::Written { but: vec![1] },
            _ => {
                assert_eq!(sent, [25, 3, 1]);
                Fate::written()
            }
        }
    });
    let (results, _) = write(&table, &rows(25), MINUTE_MS).await;
    assert_eq!(results, [Ok(()); 25]);
    assert_eq!((table.requests(), table.rows().len()), (3, 25));
}

#[tokio::test(start_paused = true)]
async fn rows_that_stay_unprocessed_fail_and_no_others() {
    let table = FakeTable::new(|rows| {
        let but = (0..rows.len()).filter(|place| rows[*place].device_id() == "d-0030").collect();
        Fate::Written { but }
    });
    let (results, _) = write(&table, &rows(60), MINUTE_MS).await;
    for (place, result) in results.into_iter().enumerate() {
        assert_eq!(result, if place == 30 { Err(RowFailure::NotProcessed) } else { Ok(()) }, "{place}");
    }
    // P14: ten tries of the one, and two requests that needed one.
    assert_eq!((table.requests(), table.rows().len()), (12, 59));
}

#[tokio::test(start_paused = true)]
async fn delays_grow_and_all_ends_in_time() {
    for (error, failure) in
        [(PutError::Throttled, RowFailure::NotProcessed), (PutError::Unanswered, RowFailure::NotAnswered)]
    {
        let table = FakeTable::new(move |_| Fate::Fails(error));
        let (results, took_ms) = write(&table, &rows(1), MINUTE_MS).await;
        assert_eq!((results, table.requests()), (vec![Err(failure)], 10));
        // Ten requests, and delays of up to 50, 100, 200 ... 2,000 ms.
        assert!((1_500..9_500).contains(&took_ms), "{took_ms}");

        for time_ms in [0, 1, 7, 300] {
            let table = FakeTable::new(move |_| Fate::Fails(error));
            let (results, took_ms) = write(&table, &rows(100), time_ms).await;
            assert!(results.iter().all(Result::is_err) && took_ms <= time_ms, "{error:?}, {time_ms}: {took_ms}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_out_at_the_end_may_have_been_applied_and_one_that_waits_was_not() {
    let table = FakeTable::new(|_| Fate::Hangs);
    let (results, took_ms) = write(&table, &rows(25 * 20), 1_000).await;
    assert_eq!(took_ms, 1_000);
    let unanswered = results.iter().filter(|result| **result == Err(RowFailure::NotAnswered)).count();
    let unsent = results.iter().filter(|result| **result == Err(RowFailure::NotProcessed)).count();
    assert_eq!((unanswered, unsent), (25 * 16, 25 * 4));
}

#[tokio::test(start_paused = true)]
async fn what_was_once_not_answered_stays_in_doubt_until_it_is_written() {
    let fates = |last: Fate| {
        let mut fates = vec![last, Fate::Fails(PutError::Unanswered)];
        FakeTable::new(move |_| if fates.len() > 1 { fates.pop().expect("two") } else { fates[0].clone() })
    };
    let cases = [
        (Fate::Fails(PutError::Throttled), Err(RowFailure::NotAnswered)),
        (Fate::Fails(PutError::Unusable), Err(RowFailure::NotAnswered)),
        (Fate::Written { but: vec![0] }, Err(RowFailure::NotAnswered)),
        (Fate::written(), Ok(())),
    ];
    for (last, expected) in cases {
        let (results, _) = write(&fates(last.clone()), &rows(1), MINUTE_MS).await;
        assert_eq!(results, [expected], "{last:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn refused_rows_are_found_and_the_others_written() {
    let bad = |row: &Row| ["d-0003", "d-0004", "d-0020"].contains(&row.device_id());
    let table =
        FakeTable::new(
            move |rows| {
                if rows.iter().any(|row| bad(row)) { Fate::Fails(PutError::Refused) } else { Fate::written() }
            },
        );
    let rows = rows(25);
    let (results, _) = write(&table, &rows, MINUTE_MS).await;
    for (row, result) in rows.iter().zip(results) {
        assert_eq!(result, if bad(row) { Err(RowFailure::Refused) } else { Ok(()) }, "{}", row.device_id());
    }
    assert_eq!(table.rows().len(), 22);
    assert!(table.requests() <= 3 * 2 * 5 + 1, "{} requests: halves of halves", table.requests());
}

#[tokio::test(start_paused = true)]
async fn a_table_that_cannot_be_used_is_asked_once() {
    let table = FakeTable::new(|_| Fate::Fails(PutError::Unusable));
    let (results, _) = write(&table, &rows(25), MINUTE_MS).await;
    assert_eq!((results, table.requests()), (vec![Err(RowFailure::TableUnusable); 25], 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_to_write_is_no_request() {
    let table = FakeTable::new(|_| Fate::written());
    let (results, took_ms) = write(&table, &[], MINUTE_MS).await;
    assert_eq!((results.len(), took_ms, table.requests()), (0, 0, 0));
}
