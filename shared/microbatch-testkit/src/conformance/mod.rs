//! The rules that every store obeys, as tests: run them on a store of your own.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use microbatch::MemoryStore;
//! use microbatch_testkit::conformance::{self, Histories};
//!
//! #[tokio::test(flavor = "multi_thread")]
//! async fn my_store_obeys_the_rules() {
//!     let store = Arc::new(MemoryStore::new()); // your store here
//!     conformance::check(&store).await.expect("the store obeys");
//!     conformance::check_peer_records(&store, &*store).await.expect("the store obeys");
//!     conformance::check_histories(&store, Histories::random(100, 30)).await.expect("the store obeys");
//! }
//! ```
//!
//! - Every case uses keys that nobody has used before, so that one table serves all cases, runs and machines. The records
//!   stay: they expire within hours, by a clock that starts at the machine's own.
//! - The store is told times that are far apart. It must take the time from its caller only, and must not forget a record
//!   before its retention is over by the machine's clock.
//! - A request that fails in a way that may pass is made up to three times, as the pipeline does.
//! - Races need a runtime with several threads.

mod calls;
mod case;
mod claims;
mod completions;
mod histories;
mod peers;
mod races;
mod reads;
mod releases;
mod resolutions;
mod results;

use std::{fmt, sync::Arc};

use microbatch::{Commit, NoWrites, resolve::Resolve};

use self::case::{Case, Checked};
pub use self::{
    histories::Histories,
    peers::{PeerData, PeerRecord, RawRecords},
};

/// The cases that a store failed. `Debug` says the same as `Display`, so that `expect` is readable.
#[derive(Clone, PartialEq, Eq)]
pub struct Violations {
    cases: usize,
    found: Vec<String>,
}

impl Violations {
    /// What was violated, a text for each failed case: its name, what was expected and what was found.
    pub fn found(&self) -> &[String] {
        &self.found
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store failed {} of {} cases:", self.found.len(), self.cases)?;
        self.found.iter().try_for_each(|violation| write!(f, "\n- {violation}"))
    }
}

impl fmt::Debug for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Violations {}

/// The cases of one call, and what came of them.
struct Suite<'a, S> {
    store: &'a Arc<S>,
    cases: usize,
    found: Vec<String>,
}

impl<'a, S> Suite<'a, S> {
    fn new(store: &'a Arc<S>) -> Self {
        Self { store, cases: 0, found: Vec::new() }
    }

    fn case(&self, name: &'static str) -> Case<S> {
        Case::new(Arc::clone(self.store), name)
    }

    fn add(&mut self, name: &str, checked: Checked) {
        self.cases += 1;
        self.found.extend(checked.err().map(|violation| format!("{name}: {violation}")));
    }

    fn finish(self) -> Result<(), Violations> {
        let Self { cases, found, .. } = self;
        if found.is_empty() { Ok(()) } else { Err(Violations { cases, found }) }
    }
}

/// Runs cases, each a function of a `Case`, one after the other.
macro_rules! run_cases {
    ($suite:ident, $module:ident: $($case:ident),+) => {
        $(
            let checked = Box::pin($module::$case($suite.case(stringify!($case)))).await;
            $suite.add(concat!(stringify!($module), "::", stringify!($case)), checked);
        )+
    };
    ($suite:ident, $module:ident($raw:ident): $($case:ident),+) => {
        $(
            let checked = Box::pin($module::$case($suite.case(stringify!($case)), $raw)).await;
            $suite.add(concat!(stringify!($module), "::", stringify!($case)), checked);
        )+
    };
}

/// Checks rules 1 to 4, 6 and 8 to 11 of the protocol, reads, calls of several requests, and races.
///
/// # Errors
/// Every case that the store failed.
pub async fn check<S: Commit<NoWrites>>(store: &Arc<S>) -> Result<(), Violations> {
    let mut suite = Suite::new(store);
    check_claims(&mut suite).await;
    check_the_end_of_claims(&mut suite).await;
    run_cases!(suite, results: none_is_none, every_byte_is_kept, a_large_result_is_kept, the_marker_is_kept);
    run_cases!(suite, reads: a_record_is_read_as_it_stands, an_absent_key_has_no_record, records_are_read_in_order);
    run_cases!(suite, calls: nothing_is_asked, claims_are_answered_in_order, completions_are_answered_in_order);
    run_cases!(suite, calls: releases_are_answered_in_order, a_full_call_carries_results);
    run_cases!(suite, races: one_claim_wins_a_new_key, one_claim_wins_a_lapsed_key, one_claim_wins_a_released_key);
    run_cases!(suite, races: one_claim_wins_an_expired_key, a_claim_sent_twice_at_once_is_one_claim);
    run_cases!(suite, races: a_completion_sent_often_at_once_succeeds, completion_and_takeover_exclude_each_other);
    run_cases!(suite, races: a_release_lets_one_claim_in, a_late_release_or_deferral_spares_the_taker);
    suite.finish()
}

async fn check_claims<S: Commit<NoWrites>>(suite: &mut Suite<'_, S>) {
    run_cases!(suite, claims: an_absent_key_is_taken, an_expired_record_counts_as_absent);
    run_cases!(suite, claims: retention_ends_after_its_last_second, a_released_key_is_taken_at_once);
    run_cases!(suite, claims: a_lapsed_lease_is_taken_over, a_lease_includes_its_last_millisecond);
    run_cases!(suite, claims: a_lapsed_lease_of_another_fingerprint_is_a_conflict);
    run_cases!(suite, claims: a_lapsed_lease_is_taken_over_when_fingerprints_do_not_compare);
    run_cases!(suite, claims: a_live_lease_is_busy_for_everybody, a_refused_claim_changes_nothing);
    run_cases!(suite, claims: a_completed_key_is_a_duplicate, another_fingerprint_of_a_completed_key_is_a_conflict);
    run_cases!(suite, claims: a_completed_key_is_a_duplicate_when_fingerprints_do_not_compare);
    run_cases!(suite, claims: an_own_write_met_again_is_the_claim, an_own_claim_that_was_taken_over_is_not_met_again);
    run_cases!(suite, claims: parked_work_is_not_taken_over, parking_spares_what_was_given_back_or_expired);
    run_cases!(suite, claims: parking_changes_no_other_answer, the_attempt_rises_with_each_claim);
    run_cases!(suite, claims: the_attempt_rises_when_the_clock_does_not, tries_are_counted);
}

async fn check_the_end_of_claims<S: Commit<NoWrites>>(suite: &mut Suite<'_, S>) {
    run_cases!(suite, completions: the_owner_completes, a_stale_owner_completes_nothing, a_second_completion_is_fine);
    run_cases!(suite, completions: nothing_is_completed_after_a_takeover, another_claim_completed_the_key);
    run_cases!(suite, completions: an_expired_completion_of_another_is_not_one, an_absent_key_is_not_completed);
    run_cases!(suite, completions: a_released_key_is_not_completed, a_lapsed_lease_that_nobody_took_is_completed);
    run_cases!(suite, completions: a_deferred_claim_still_completes, retention_counts_from_the_completion);
    run_cases!(suite, releases: a_released_key_is_free_at_once, a_released_record_has_no_fingerprint);
    run_cases!(suite, releases: a_deferred_key_is_free_later, a_deferral_never_makes_a_lease_longer);
    run_cases!(suite, releases: a_deferral_may_end_the_lease_at_once, a_stale_owner_releases_nothing);
    run_cases!(suite, releases: a_completed_key_is_not_released, a_taken_over_key_is_not_released);
    run_cases!(suite, releases: an_absent_key_is_not_released, a_release_sent_again_does_no_harm);
    run_cases!(suite, releases: the_attempt_survives_a_release);
}

/// Checks what the store makes of records that Powertools wrote (rule 12), put into it by `raw`.
///
/// # Errors
/// Every case that the store failed.
pub async fn check_peer_records<S: Commit<NoWrites>, R: RawRecords>(store: &Arc<S>, raw: &R) -> Result<(), Violations> {
    let mut suite = Suite::new(store);
    run_cases!(suite, peers(raw): work_in_progress_is_busy_until_its_expiry);
    run_cases!(suite, peers(raw): work_without_an_expiry_is_busy_until_retention_ends);
    run_cases!(suite, peers(raw): lapsed_work_is_taken_over, lapsed_work_is_parked, an_expired_record_counts_as_absent);
    run_cases!(suite, peers(raw): a_completed_record_is_replayed, a_native_result_is_not_replayed);
    run_cases!(suite, peers(raw): validation_is_compared, what_nobody_owns_is_not_completed_or_released);
    run_cases!(suite, peers(raw): a_record_is_read_as_it_stands, an_unknown_status_is_an_error);
    suite.finish()
}

/// Checks that an operator's resolutions count: on the record that was shown, and only where they may.
///
/// # Errors
/// Every case that the store failed.
pub async fn check_resolutions<S: Commit<NoWrites> + Resolve>(store: &Arc<S>) -> Result<(), Violations> {
    let mut suite = Suite::new(store);
    run_cases!(suite, resolutions: a_live_lease_is_not_resolved, an_absent_key_is_resolved_as_completed);
    run_cases!(suite, resolutions: a_key_that_was_resolved_as_completed_is_a_duplicate);
    run_cases!(suite, resolutions: a_key_that_was_resolved_to_be_retried_is_free);
    run_cases!(suite, resolutions: a_completed_key_is_resolved_only_by_undoing_it);
    run_cases!(suite, resolutions: a_record_that_changed_is_not_resolved, a_resolution_sent_again_does_no_harm);
    run_cases!(suite, resolutions: a_trace_stays_until_the_next_claim_and_disturbs_nothing);
    suite.finish()
}

/// Checks that sequences of claims, completions and releases, by several owners at moving times on several keys, are answered
/// as [`decide`](microbatch::transition::decide) answers them.
///
/// # Errors
/// The first history that the store answered otherwise, made as short as it could be, with the seed that makes it again.
pub async fn check_histories<S: Commit<NoWrites>>(store: &Arc<S>, histories: Histories) -> Result<(), Violations> {
    let checked = histories::check(store, histories).await;
    let cases = histories.count as usize;
    checked.map_err(|violation| Violations { cases, found: vec![violation] })
}
