//! Writes any number of rows: in full requests, a bounded number at once, each tried again until it is done or its time is
//! over.

use std::{error::Error, fmt, sync::Arc};

use futures_util::{StreamExt, stream::FuturesUnordered};
use microbatch::{Clock, Random};
use tokio::sync::Semaphore;

use crate::{
    row::Row,
    table::{BulkTable, PutError, ROWS_MAX},
};

/// Most requests at once, of all sub-batches of the process together: 400 rows.
const REQUESTS_MAX: usize = 16;

/// Most tries of a request, so that an overloaded table is not asked without end (P14).
const TRIES_MAX: u32 = 10;

/// The longest delay before the second try in milliseconds; before each further one it is twice as long.
const DELAY_FIRST_MS: u64 = 50;

/// The longest delay of all, in milliseconds.
const DELAY_MAX_MS: u64 = 2_000;

/// Why a row was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFailure {
    /// There was too much load, to the end. It is not in the table.
    NotProcessed,
    /// A request with it was not answered. It may be in the table.
    NotAnswered,
    /// The table does not take it.
    Refused,
    /// The table cannot be used. It is not there, unless by an earlier delivery.
    TableUnusable,
}

impl fmt::Display for RowFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotProcessed => PutError::Throttled.fmt(f),
            Self::NotAnswered => PutError::Unanswered.fmt(f),
            Self::Refused => PutError::Refused.fmt(f),
            Self::TableUnusable => PutError::Unusable.fmt(f),
        }
    }
}

impl Error for RowFailure {}

/// Writes rows to a table.
pub struct BulkWriter<T> {
    table: T,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    requests: Semaphore,
}

/// A row that is not written yet.
#[derive(Clone, Copy)]
struct Pending<'r> {
    place: usize,
    row: &'r Row,
    /// A request with it was sent and not answered: whatever comes of it now, it may be in the table.
    unanswered: bool,
}

/// Rows that go out in one request, and how often they did.
struct Request<'r> {
    rows: Vec<Pending<'r>>,
    tries: u32,
}

type RowResult = (usize, Result<(), RowFailure>);

impl<T: BulkTable> BulkWriter<T> {
    /// A writer to this table. All who write to it share one, and with it the bound on requests.
    pub fn new(table: T, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { table, clock, random, requests: Semaphore::new(REQUESTS_MAX) }
    }

    /// Writes the rows, and says of each whether it is written. Ends by `end_ms`, in epoch milliseconds.
    pub async fn write_all(&self, rows: &[Row], end_ms: u64) -> Vec<Result<(), RowFailure>> {
        let pending: Vec<_> =
            rows.iter().enumerate().map(|(place, row)| Pending { place, row, unanswered: false }).collect();
        let mut requests: FuturesUnordered<_> = pending
            .chunks(ROWS_MAX)
            .map(|rows| self.write(Request { rows: rows.to_vec(), tries: 0 }, end_ms))
            .collect();
        // Every row is in one request and each request says what became of its rows.
        let mut results = vec![Err(RowFailure::NotProcessed); rows.len()];
        while let Some(written) = requests.next().await {
            for (place, result) in written {
                results[place] = result;
            }
        }
        results
    }

    /// Writes the rows of one request, which may take several.
    async fn write(&self, request: Request<'_>, end_ms: u64) -> Vec<RowResult> {
        let mut results = Vec::with_capacity(request.rows.len());
        let mut requests = vec![request];
        while let Some(mut request) = requests.pop() {
            let answer = self.put(&request.rows, end_ms).await;
            request.tries += 1;
            match answer {
                Some(Ok(unprocessed)) => {
                    let (left, written) = split(request.rows, &unprocessed);
                    results.extend(written.into_iter().map(|row| (row.place, Ok(()))));
                    request.rows = left;
                }
                Some(Err(PutError::Refused)) if request.rows.len() > 1 => {
                    // One bad row is enough to have all refused: the halves say which.
                    let second = request.rows.split_off(request.rows.len() / 2);
                    requests.extend([request.rows, second].map(|rows| Request { rows, tries: 0 }));
                    continue;
                }
                Some(Err(PutError::Unanswered)) => request.rows.iter_mut().for_each(|row| row.unanswered = true),
                Some(Err(PutError::Throttled)) => {}
                Some(Err(PutError::Refused)) => results.extend(give_up(&mut request.rows, RowFailure::Refused)),
                Some(Err(PutError::Unusable)) => results.extend(give_up(&mut request.rows, RowFailure::TableUnusable)),
                None => results.extend(give_up(&mut request.rows, RowFailure::NotProcessed)),
            }
            if request.rows.is_empty() {
                continue;
            }
            if self.wait_to_try_again(request.tries, end_ms).await {
                requests.push(request);
            } else {
                results.extend(give_up(&mut request.rows, RowFailure::NotProcessed));
            }
        }
        results
    }

    /// Sends one request as soon as it may go out. None when the time was over before; a request that is out at the end
    /// is unanswered.
    async fn put(&self, rows: &[Pending<'_>], end_ms: u64) -> Option<Result<Vec<usize>, PutError>> {
        let end = self.clock.sleep_until(end_ms);
        tokio::pin!(end);
        let _permit = tokio::select! {
            biased;
            () = &mut end => return None,
            permit = self.requests.acquire() => permit.expect("the semaphore is never closed"),
        };
        let rows: Vec<&Row> = rows.iter().map(|pending| pending.row).collect();
        Some(tokio::select! {
            biased;
            answer = self.table.put(&rows) => answer,
            () = &mut end => Err(PutError::Unanswered),
        })
    }

    /// Waits before the next try; false when there is to be none.
    async fn wait_to_try_again(&self, tries: u32, end_ms: u64) -> bool {
        let longest_ms = DELAY_FIRST_MS.saturating_mul(1 << (tries - 1).min(16)).min(DELAY_MAX_MS);
        let next_ms = self.clock.now_ms().saturating_add(1 + self.random.below(longest_ms));
        if tries >= TRIES_MAX || next_ms >= end_ms {
            return false;
        }
        self.clock.sleep_until(next_ms).await;
        true
    }
}

/// Those in these places, and the others.
fn split<'r>(rows: Vec<Pending<'r>>, places: &[usize]) -> (Vec<Pending<'r>>, Vec<Pending<'r>>) {
    let mut rows: Vec<_> = rows.into_iter().enumerate().collect();
    let chosen = rows.extract_if(.., |(place, _)| places.contains(place)).map(|(_, row)| row).collect();
    (chosen, rows.into_iter().map(|(_, row)| row).collect())
}

/// These rows are not written, for this reason, as far as is known.
fn give_up(rows: &mut Vec<Pending<'_>>, failure: RowFailure) -> Vec<RowResult> {
    let failure = |row: &Pending<'_>| if row.unanswered { RowFailure::NotAnswered } else { failure };
    rows.drain(..).map(|row| (row.place, Err(failure(&row)))).collect()
}

impl<T: fmt::Debug> fmt::Debug for BulkWriter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkWriter").field("table", &self.table).finish_non_exhaustive()
    }
}
