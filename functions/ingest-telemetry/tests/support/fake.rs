//! A table in memory that fails as it is told to, on the clock of tokio.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ingest_telemetry::{
    row::Row,
    table::{BulkTable, PutError, ROWS_MAX},
};

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// All rows are written, but those in these places.
    Written { but: Vec<usize> },
    /// It fails, and nothing is written.
    Fails(PutError),
    /// All rows are written, and nobody hears of it.
    AnswerLost,
    /// It fails as unanswered, and all rows are written after this many milliseconds.
    AppliedLate(u64),
    /// It is never answered, and nothing is written.
    Hangs,
}

impl Fate {
    /// All is well.
    pub(crate) const fn written() -> Self {
        Self::Written { but: Vec::new() }
    }
}

type Script = Box<dyn FnMut(&[&Row]) -> Fate + Send>;

/// The table; clones are one.
#[derive(Clone)]
pub(crate) struct FakeTable {
    shared: Arc<Shared>,
    /// How long a request takes before it is applied, and again before it is answered.
    pub(crate) takes_ms: u64,
}

struct Shared {
    rows: Mutex<BTreeMap<(String, String), Row>>,
    script: Mutex<Script>,
    requests: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

/// Counts a request as over, however it ends.
struct InFlight<'t>(&'t Shared);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FakeTable {
    /// A table whose requests have these fates.
    pub(crate) fn new(script: impl FnMut(&[&Row]) -> Fate + Send + 'static) -> Self {
        let shared = Shared {
            rows: Mutex::default(),
            script: Mutex::new(Box::new(script)),
            requests: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        };
        Self { shared: Arc::new(shared), takes_ms: 5 }
    }

    /// Other fates from now on.
    pub(crate) fn set_script(&self, script: impl FnMut(&[&Row]) -> Fate + Send + 'static) {
        *lock(&self.shared.script) = Box::new(script);
    }

    /// What was written.
    pub(crate) fn rows(&self) -> Vec<Row> {
        lock(&self.shared.rows).values().cloned().collect()
    }

    /// How many requests there were.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The most requests at once.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn write<'r>(&self, rows: impl IntoIterator<Item = &'r Row>) {
        let mut table = lock(&self.rows);
        for row in rows {
            // As through the wire and back; a put overwrites.
            let read = Row::from_item(&row.to_item()).expect("a row");
            table.insert((row.device_id().to_owned(), row.row_id().to_owned()), read);
        }
    }
}

impl BulkTable for FakeTable {
    async fn put(&self, rows: &[&Row]) -> Result<Vec<usize>, PutError> {
        assert!((1..=ROWS_MAX).contains(&rows.len()), "{} rows in a request", rows.len());
        let keys: BTreeMap<_, _> = rows.iter().map(|row| ((row.device_id(), row.row_id()), ())).collect();
        assert_eq!(keys.len(), rows.len(), "DynamoDB refuses a request that has a key twice");
        self.shared.requests.fetch_add(1, Ordering::SeqCst);
        let in_flight = self.shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.shared.most_in_flight.fetch_max(in_flight, Ordering::SeqCst);
        let _in_flight = InFlight(&self.shared);

        let fate = (lock(&self.shared.script))(rows);
        let pause = || tokio::time::sleep(Duration::from_millis(self.takes_ms));
        pause().await;
        let answer = match fate {
            Fate::Written { but } => {
                let written = rows.iter().enumerate().filter(|(place, _)| !but.contains(place));
                self.shared.write(written.map(|(_, row)| *row));
                Ok(but)
            }
            Fate::Fails(error) => Err(error),
            Fate::AnswerLost => {
                self.shared.write(rows.iter().copied());
                Err(PutError::Unanswered)
            }
            Fate::AppliedLate(after_ms) => {
                let (shared, rows) =
                    (Arc::clone(&self.shared), rows.iter().map(|row| (*row).clone()).collect::<Vec<_>>());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(after_ms)).await;
                    shared.write(&rows);
                });
                Err(PutError::Unanswered)
            }
            Fate::Hangs => std::future::pending().await,
        };
        pause().await;
        answer
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
