//! Defects, planted one at a time: wrappers around `decide`, workers with a bad habit, and settings that leave out a term.
//!
//! Two defects that one might expect here are missing, since nothing shows them. With the cut-off in place, the margin of
//! rule 5 may be 0: a cut-off lies before the deadline and the lease end after it, so the margin is judged where there is
//! no cut-off. An own write met after its completion may be told Claimed: its sender has long stopped listening, as each
//! claim has an owner of its own.

use microbatch::{
    Options, Outcome,
    record::{LEASE_END_RELEASED_MS, Record, Status, StoredResult},
    transition::{
        Answer, ClaimAnswer, ClaimRequest, CompleteAnswer, Decision, OnLapsedLease, ReleaseKind, Request, decide,
    },
};

use crate::{
    model::{Decide, Setup},
    properties as promise, setups,
    worker::{Worker, claim_outcome},
};

/// A planted defect.
pub(crate) struct Mutant {
    pub(crate) name: &'static str,
    /// The property that must catch it.
    pub(crate) caught_by: &'static str,
    pub(crate) setup: Setup,
    pub(crate) believed: Options,
    pub(crate) decide: Decide,
    pub(crate) worker: Worker,
}

impl Mutant {
    fn new(name: &'static str, caught_by: &'static str) -> Self {
        let setup = setups::two_workers();
        let believed = setup.truth.clone();
        Self { name, caught_by, setup, believed, decide, worker: Worker::OURS }
    }

    fn deciding(name: &'static str, caught_by: &'static str, decide: Decide) -> Self {
        Self { decide, ..Self::new(name, caught_by) }
    }

    fn working(name: &'static str, caught_by: &'static str, worker: Worker) -> Self {
        Self { worker, ..Self::new(name, caught_by) }
    }

    fn believing(name: &'static str, setup: Setup, change: fn(&mut Options)) -> Self {
        let mut mutant = Self::new(name, promise::P2_OVERLAP).within(setup);
        change(&mut mutant.believed);
        mutant
    }

    fn within(self, setup: Setup) -> Self {
        Self { believed: setup.truth.clone(), setup, ..self }
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Mutant> {
    let mut all = of_claims();
    all.extend(of_ends());
    all.extend(of_workers());
    all.extend(of_settings());
    all
}

fn of_claims() -> Vec<Mutant> {
    vec![
        Mutant::deciding("lease end in seconds", promise::P2_OVERLAP, lease_end_in_seconds),
        Mutant::deciding("lease comparison inverted", promise::P2_LEASE, lease_comparison_inverted),
        Mutant::deciding("lapsed lease busy for ever", promise::P12, lapsed_lease_busy),
        Mutant::deciding(
            "lapsed lease taken with another fingerprint",
            promise::LAPSED_CONTENT,
            lapsed_fingerprint_ignored,
        ),
        Mutant::deciding("own write not recognised", promise::OWN_WRITE, own_write_not_recognised),
        Mutant::deciding("own write told a new attempt", promise::TOKEN, own_write_told_new_attempt),
        Mutant::deciding("completed record reclaimed", promise::P3, completed_reclaimed),
        Mutant::deciding(
            "fingerprint ignored on a completed record",
            promise::P1_CONTENT,
            completed_fingerprint_ignored,
        ),
        Mutant::deciding("result not replayed", promise::P5_REPLAY, result_not_replayed),
        Mutant::deciding("attempt not raised", promise::ATTEMPT, attempt_not_raised),
        Mutant::deciding("attempt from the clock alone", promise::ATTEMPT, attempt_from_the_clock),
        Mutant::deciding("retention ignored", promise::P12, retention_ignored).within(setups::retention_ends()),
        Mutant::deciding("Park ignored", promise::PARK, park_ignored).within(setups::parking()),
    ]
}

fn of_ends() -> Vec<Mutant> {
    vec![
        Mutant::deciding("owner condition dropped on complete", promise::P4, complete_by_anyone),
        Mutant::deciding("owner condition dropped on release", promise::P4, release_by_anyone),
        Mutant::deciding("status condition dropped on complete", promise::P3, complete_again),
        Mutant::deciding("status condition dropped on release", promise::P3, release_completed),
        Mutant::deciding("release by delete", promise::ATTEMPT, release_by_delete),
        Mutant::deciding("release by delete, unconditional", promise::P4, release_by_delete_unconditional),
        Mutant::deciding("fingerprint kept on release", promise::P12, fingerprint_kept_on_release),
    ]
}

fn of_workers() -> Vec<Mutant> {
    let ours = Worker::OURS;
    let busy = Worker { acknowledges: |outcome| outcome.is_acknowledged() || outcome == Outcome::Busy, ..ours };
    let conflict = Worker { acknowledges: |outcome| outcome.is_acknowledged() || outcome == Outcome::Conflict, ..ours };
    let runs_duplicates = |answer: &ClaimAnswer| claim_outcome(answer).filter(|outcome| *outcome != Outcome::Duplicate);
    let runs_conflicts = |answer: &ClaimAnswer| claim_outcome(answer).filter(|outcome| *outcome != Outcome::Conflict);
    let runs_busy = |answer: &ClaimAnswer| claim_outcome(answer).filter(|outcome| *outcome != Outcome::Busy);
    let lost_is_done = |_: CompleteAnswer| Outcome::Processed;
    vec![
        Mutant::working("Busy acknowledged", promise::P1, busy),
        Mutant::working("Conflict acknowledged", promise::P1_CONTENT, conflict),
        Mutant::working("Duplicate run", promise::P5_RUN, Worker { claim_outcome: runs_duplicates, ..ours }),
        Mutant::working("Conflict run", promise::P9, Worker { claim_outcome: runs_conflicts, ..ours }),
        Mutant::working("Busy run", promise::P2_LEASE, Worker { claim_outcome: runs_busy, ..ours }),
        Mutant::working(
            "released though cut short",
            promise::P2_OVERLAP,
            Worker { after_cut_short: |_| ReleaseKind::Now, ..ours },
        ),
        Mutant::working("acknowledged before completion", promise::P1, Worker { awaits_completion: false, ..ours }),
        Mutant::working("lost lease acknowledged", promise::P1, Worker { completion_outcome: lost_is_done, ..ours })
            .within(setups::no_kill()),
    ]
}

fn of_settings() -> Vec<Mutant> {
    let (two, late, no_kill) = (setups::two_workers, setups::late_kill, setups::no_kill);
    vec![
        Mutant::believing("lease without the effect's time-out", two(), |options| options.effect_timeout_ms = 0),
        Mutant::believing("lease without the skew", two(), |options| options.clock_skew_ms = 0),
        Mutant::believing("lease without the kill's grace", late(), |options| options.kill_grace_ms = 0),
        Mutant::believing("margin 0", no_kill(), |options| options.deadline_margin_ms = 0),
    ]
}

// --- claims -------------------------------------------------------------------------------------------------------

/// The claim in a request, with the record that it meets.
fn claim_of<'a>(record: Option<&'a Record>, request: &Request<'a>) -> Option<(&'a Record, &'a ClaimRequest)> {
    match request {
        Request::Claim(claim) => Some((record?, claim)),
        _ => None,
    }
}

/// Whether the record is held or was held by another claim, and not given back.
fn is_others(record: &Record, claim: &ClaimRequest) -> bool {
    record.status == Status::InProgress && !record.is_released() && record.owner.as_ref() != Some(&claim.owner)
}

fn lease_end_in_seconds(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    let mut decision = decide(record, request, now_ms);
    if let (Some(record), Request::Claim(_)) = (&mut decision.write, request) {
        record.lease_end_ms = record.lease_end_ms.map(|end_ms| end_ms / 1_000);
    }
    decision
}

fn lease_comparison_inverted(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    match claim_of(record, &request) {
        Some((record, claim)) if is_others(record, claim) => {
            let lease_end_ms = if record.is_leased(now_ms) { now_ms - 1 } else { now_ms };
            decide(Some(&Record { lease_end_ms: Some(lease_end_ms), ..record.clone() }), request, now_ms)
        }
        _ => decide(record, request, now_ms),
    }
}

fn lapsed_lease_busy(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    match claim_of(record, &request) {
        Some((record, claim)) if is_others(record, claim) => {
            decide(Some(&Record { lease_end_ms: Some(now_ms), ..record.clone() }), request, now_ms)
        }
        _ => decide(record, request, now_ms),
    }
}

fn lapsed_fingerprint_ignored(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    match claim_of(record, &request) {
        Some((record, claim)) if is_others(record, claim) => {
            decide(Some(&Record { fingerprint: claim.fingerprint.clone(), ..record.clone() }), request, now_ms)
        }
        _ => decide(record, request, now_ms),
    }
}

fn own_write_not_recognised(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    match claim_of(record, &request) {
        Some((record, _)) => decide(Some(&Record { owner: None, ..record.clone() }), request, now_ms),
        None => decide(record, request, now_ms),
    }
}

fn own_write_told_new_attempt(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    let mut decision = decide(record, request, now_ms);
    if let (None, Answer::Claim(ClaimAnswer::Claimed(claimed))) = (&decision.write, &mut decision.answer) {
        claimed.attempt += 1;
    }
    decision
}

fn completed_reclaimed(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    match claim_of(record, &request) {
        Some((record, _)) => decide(Some(&Record { status: Status::InProgress, ..record.clone() }), request, now_ms),
        None => decide(record, request, now_ms),
    }
}

fn completed_fingerprint_ignored(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    match claim_of(record, &request) {
        Some((record, claim)) if record.status == Status::Completed => {
            decide(Some(&Record { fingerprint: claim.fingerprint.clone(), ..record.clone() }), request, now_ms)
        }
        _ => decide(record, request, now_ms),
    }
}

fn result_not_replayed(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    let mut decision = decide(record, request, now_ms);
    if let Answer::Claim(ClaimAnswer::Duplicate { result, .. }) = &mut decision.answer {
        *result = StoredResult::None;
    }
    decision
}

/// The decision with another attempt, in the record as in the answer.
fn with_attempt(mut decision: Decision, attempt: u64) -> Decision {
    if let (Some(record), Answer::Claim(ClaimAnswer::Claimed(claimed))) = (&mut decision.write, &mut decision.answer) {
        (record.attempt, claimed.attempt) = (Some(attempt), attempt);
    }
    decision
}

fn attempt_not_raised(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    let attempt = record.and_then(|record| record.attempt);
    with_attempt(decide(record, request, now_ms), attempt.unwrap_or(now_ms))
}

fn attempt_from_the_clock(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    with_attempt(decide(record, request, now_ms), now_ms)
}

fn retention_ignored(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    match claim_of(record, &request) {
        Some((record, _)) => decide(Some(&Record { retention_end_s: u64::MAX, ..record.clone() }), request, now_ms),
        None => decide(record, request, now_ms),
    }
}

fn park_ignored(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    match request {
        Request::Claim(claim) => {
            let claim = ClaimRequest { on_lapsed_lease: OnLapsedLease::Retry, ..claim.clone() };
            decide(record, (&claim).into(), now_ms)
        }
        other => decide(record, other, now_ms),
    }
}

// --- completions and releases ---------------------------------------------------------------------------------------

fn complete_by_anyone(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    match (record, request) {
        (Some(record), Request::Complete { owner, .. }) => {
            decide(Some(&Record { owner: Some(owner.clone()), ..record.clone() }), request, now_ms)
        }
        _ => decide(record, request, now_ms),
    }
}

fn release_by_anyone(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    match (record, request) {
        (Some(record), Request::Release { owner, .. }) => {
            decide(Some(&Record { owner: Some(owner.clone()), ..record.clone() }), request, now_ms)
        }
        _ => decide(record, request, now_ms),
    }
}

fn complete_again(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    match (record, request) {
        (Some(record), Request::Complete { .. }) => {
            decide(Some(&Record { status: Status::InProgress, ..record.clone() }), request, now_ms)
        }
        _ => decide(record, request, now_ms),
    }
}

fn release_completed(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    match (record, request) {
        (Some(record), Request::Release { .. }) => {
            decide(Some(&Record { status: Status::InProgress, ..record.clone() }), request, now_ms)
        }
        _ => decide(record, request, now_ms),
    }
}

/// A record that counts as absent: what a store without the item would say.
fn forgotten(record: &Record) -> Record {
    Record { owner: None, attempt: None, tries: 0, retention_end_s: 0, fingerprint: None, ..record.clone() }
}

fn release_by_delete(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    let mut decision = decide(record, request, now_ms);
    if let Request::Release { kind: ReleaseKind::Now, .. } = request {
        decision.write = decision.write.as_ref().map(forgotten);
    }
    decision
}

/// As the peers do it.
fn release_by_delete_unconditional(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    let mut decision = decide(record, request, now_ms);
    if let Request::Release { kind: ReleaseKind::Now, .. } = request {
        decision.write = record.map(forgotten);
    }
    decision
}

fn fingerprint_kept_on_release(record: Option<&Record>, request: Request<'_>, now_ms: u64) -> Decision {
    let mut decision = decide(record, request, now_ms);
    if let (Some(write), Some(record)) = (&mut decision.write, record)
        && write.lease_end_ms == Some(LEASE_END_RELEASED_MS)
    {
        write.fingerprint.clone_from(&record.fingerprint);
    }
    decision
}
