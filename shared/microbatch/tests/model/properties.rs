//! What must always hold, and what must be seen.

use std::sync::atomic::{AtomicU16, Ordering};

use stateright::Property;

use crate::{model::Check, state::State};

/// A promise that a step broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    AcknowledgedUndone,
    AcknowledgedForOther,
    EffectsOverlap,
    EffectUnderAnothersLease,
    CompletedChanged,
    StaleOwnerChanged,
    WrongReplay,
    CompletedRanAgain,
    OtherFingerprintRan,
    AttemptNotRaised,
    WrongToken,
    OwnWriteRefused,
    FreeKeyRefused,
    LapsedTakenByOtherFingerprint,
    VanishedRanAgain,
}

/// Something interesting that a step showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Busy,
    Conflict,
    Duplicate,
    OwnWriteMet,
    LapsedTaken,
    ReleasedTaken,
    ExpiredTaken,
    LeaseDeferred,
    DiedAfterEffect,
    CompletedAfterDeath,
    CompletedTwice,
    StaleOwnerRefused,
    LateClaimTook,
    EffectAfterLostLease,
    LeaseLost,
    Vanished,
}

/// The promises that the step into a state broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Breaches(u16);

impl Breaches {
    pub(crate) fn add(&mut self, broken: Broken) {
        self.0 |= 1 << broken as u16;
    }

    pub(crate) fn has(self, broken: Broken) -> bool {
        self.0 & (1 << broken as u16) != 0
    }
}

/// What was seen so far, in any state. Kept beside the states: as a part of them it would only multiply them.
#[derive(Debug, Default)]
pub(crate) struct Sightings(AtomicU16);

impl Sightings {
    pub(crate) fn add(&self, seen: Seen) {
        self.0.fetch_or(1 << seen as u16, Ordering::Relaxed);
    }

    pub(crate) fn has(&self, seen: Seen) -> bool {
        self.0.load(Ordering::Relaxed) & (1 << seen as u16) != 0
    }
}

pub(crate) const P1: &str = "P1: an acknowledged message's record is Completed";
pub(crate) const P1_CONTENT: &str = "P1: and it was completed for the same fingerprint";
pub(crate) const P2_OVERLAP: &str = "P2: effects of two attempts never overlap";
pub(crate) const P2_LEASE: &str = "P2: no effect starts under another attempt's live lease";
pub(crate) const P3: &str = "P3: a Completed record does not change until its retention ends";
pub(crate) const P4: &str = "P4: a stale owner changes nothing";
pub(crate) const P5_REPLAY: &str = "P5: a Duplicate replays the identical result";
pub(crate) const P5_RUN: &str = "P5: what is completed does not run again";
pub(crate) const P9: &str = "P9: a key completed with another fingerprint never runs";
pub(crate) const ATTEMPT: &str = "Rule 1: the attempt rises strictly with each claim that takes the key";
pub(crate) const TOKEN: &str = "Rule 1: a claim is told the attempt and the lease of its record";
pub(crate) const OWN_WRITE: &str = "Rule 2: a claim that meets its own write is told Claimed";
pub(crate) const LAPSED_CONTENT: &str = "Rule 2: a lapsed claim's key is not taken with another fingerprint";
pub(crate) const PARK: &str = "Rule 9: under Park nothing runs again whose holder vanished";
pub(crate) const P12: &str = "P12: no key stays locked past its lease";

/// A property that holds as long as no step breaks it.
macro_rules! never {
    ($name:expr, $broken:ident) => {
        Property::always($name, |_, state: &State| !state.breaches.has(Broken::$broken))
    };
}

/// A sight, and the property that it was seen.
macro_rules! sometimes {
    ($seen:ident, $name:literal) => {
        (Seen::$seen, Property::sometimes($name, |check: &Check, _| check.sightings.has(Seen::$seen)))
    };
}

/// What must always hold, however far clocks are apart.
pub(crate) fn whatever_the_clocks() -> Vec<Property<Check>> {
    vec![
        never!(P1, AcknowledgedUndone),
        never!(P3, CompletedChanged),
        never!(P4, StaleOwnerChanged),
        never!(P5_REPLAY, WrongReplay),
        never!(ATTEMPT, AttemptNotRaised),
        never!(TOKEN, WrongToken),
        never!(OWN_WRITE, OwnWriteRefused),
        never!(LAPSED_CONTENT, LapsedTakenByOtherFingerprint),
        never!(PARK, VanishedRanAgain),
        never!(P12, FreeKeyRefused),
    ]
}

/// What holds besides while clocks agree within the stated skew.
pub(crate) fn within_the_skew() -> Vec<Property<Check>> {
    vec![
        never!(P2_OVERLAP, EffectsOverlap),
        never!(P2_LEASE, EffectUnderAnothersLease),
        never!(P5_RUN, CompletedRanAgain),
        never!(P9, OtherFingerprintRan),
    ]
}

/// What holds besides where the host kills: no worker outlives its lease to hear of another's completion.
pub(crate) fn where_the_host_kills() -> Vec<Property<Check>> {
    vec![never!(P1_CONTENT, AcknowledgedForOther)]
}

/// The interesting states, those of them that a configuration can reach.
pub(crate) fn reached(sights: &[Seen]) -> Vec<Property<Check>> {
    let all = [
        sometimes!(Busy, "a claim is Busy"),
        sometimes!(Conflict, "a claim is a Conflict"),
        sometimes!(Duplicate, "a claim is a Duplicate"),
        sometimes!(OwnWriteMet, "a claim meets its own write"),
        sometimes!(LapsedTaken, "a lapsed lease is taken over"),
        sometimes!(ReleasedTaken, "a released key is taken"),
        sometimes!(ExpiredTaken, "a forgotten completion's key is taken"),
        sometimes!(LeaseDeferred, "a deferral shortens a lease"),
        sometimes!(DiedAfterEffect, "a worker dies between its effect and its completion"),
        sometimes!(CompletedAfterDeath, "a dead worker's completion is applied"),
        sometimes!(CompletedTwice, "a completion sent again meets its own write"),
        sometimes!(StaleOwnerRefused, "a stale owner is refused"),
        sometimes!(LateClaimTook, "a claim takes the key after its sender gave it up"),
        sometimes!(EffectAfterLostLease, "an effect is acknowledged that another attempt completed"),
        sometimes!(LeaseLost, "a worker is told that its lease is lost"),
        sometimes!(Vanished, "a claim is told that the holder vanished"),
    ];
    all.into_iter().filter(|(seen, _)| sights.contains(seen)).map(|(_, property)| property).collect()
}
