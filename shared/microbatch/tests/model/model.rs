//! The world around the workers: the queue, the clock, the network, and a store that is `decide` applied to a record.

use microbatch::{
    Config, Key, Options,
    lease::retention_end_s,
    record::{Fingerprint, Owner, Record, Status, StoredResult},
    transition::{Answer, ClaimRequest, Decision, ReleaseKind, Request},
};
use stateright::{Model, Property};

use crate::{
    judge,
    properties::{self, Seen, Sightings},
    state::{Delivery, KeyState, Packet, Phase, Sent, State, host_ms},
    worker::Worker,
};

/// The function under test, or a mutant of it.
pub(crate) type Decide = fn(Option<&Record>, Request<'_>, u64) -> Decision;

/// A message in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) key: usize,
    pub(crate) fingerprint: char,
}

/// What becomes of an invocation whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    /// It is dead once the deadline and the kill's grace have passed.
    Kills,
    /// It runs on, late as it may be: then an effect starts only by rule 5's own condition, now + margin < lease end,
    /// with no cut-off.
    LetsRun,
}

/// One configuration to check.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) workers: usize,
    /// How often the queue delivers, all messages together.
    pub(crate) deliveries: usize,
    pub(crate) messages: &'static [Message],
    /// For each start of the model, how many steps each worker's clock is ahead of the host's.
    pub(crate) skews: &'static [&'static [i8]],
    /// How many steps the clock makes.
    pub(crate) steps: u8,
    /// Time of an invocation, in milliseconds.
    pub(crate) invocation_ms: u64,
    /// How many requests that nobody waits for may be under way at once.
    pub(crate) late_max: usize,
    /// The clock may leap once, past all retention.
    pub(crate) leaps: bool,
    pub(crate) host: Host,
    /// What is true of effects and kills, and what the workers are told.
    pub(crate) truth: Options,
    pub(crate) reached: &'static [Seen],
    /// Whether clocks agree within what workers are told.
    pub(crate) within_skew: bool,
}

/// Where the clock leaps to, in steps: past a retention of 60 s.
const LEAP: u8 = 100;

/// A configuration, the code under test and the workers' ways: what stateright explores.
pub(crate) struct Check {
    pub(crate) setup: Setup,
    pub(crate) decide: Decide,
    pub(crate) worker: Worker,
    pub(crate) believed: Options,
    pub(crate) config: Config,
    pub(crate) sightings: Sightings,
    keys: Vec<Key>,
    owners: Vec<Owner>,
    results: Vec<StoredResult>,
    fingerprints: [(char, Fingerprint); 2],
}

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// The clock makes a step.
    Tick,
    /// The clock leaps past all retention.
    Leap,
    /// The queue hands a message to a worker, which sends a claim.
    Deliver { worker: usize, message: usize },
    /// A request reaches the store. Its answer reaches the sender, or is lost.
    Apply { packet: Packet, answered: bool },
    /// No answer came: the request is sent again, and the first may still arrive.
    Resend(usize),
    /// No answer to the claim came, and none is waited for any longer. The release may overtake it.
    GiveUp(usize),
    /// The processor starts its effect.
    StartEffect(usize),
    /// The processor returns: the effect has happened.
    Succeed(usize),
    /// The processor returns an error: nothing is in flight.
    Fail(usize),
    /// The processor is cancelled, times out or panics: its effect may be in flight.
    CutShort(usize),
}

impl Check {
    pub(crate) fn new(setup: Setup, believed: Options, decide: Decide, worker: Worker) -> Self {
        let config = believed.validate().expect("the options are valid");
        let owners = (0..setup.deliveries).map(|index| Owner::new(format!("owner-{index}"))).collect();
        let results = (0..setup.deliveries).map(|index| StoredResult::Kept(index.to_string().into())).collect();
        let keys = setup.messages.iter().map(|message| Key::digest("", &message.key.to_string())).collect();
        let fingerprints = ['a', 'b'].map(|name| (name, Fingerprint::new(format!("body:{name}"))));
        Self {
            setup,
            decide,
            worker,
            believed,
            config,
            sightings: Sightings::default(),
            keys,
            owners,
            results,
            fingerprints,
        }
    }

    pub(crate) fn owner(&self, delivery: usize) -> &Owner {
        &self.owners[delivery]
    }

    pub(crate) fn owners(&self) -> &[Owner] {
        &self.owners
    }

    pub(crate) fn claim(
        &self,
        owner: &Owner,
        message: Message,
        lease_end_ms: u64,
        retention_end_s: u64,
    ) -> ClaimRequest {
        ClaimRequest {
            key: self.keys[message.key].clone(),
            owner: owner.clone(),
            fingerprint: Some(self.fingerprint(message.fingerprint).clone()),
            lease_end_ms,
            retention_end_s,
            on_lapsed_lease: self.believed.on_lapsed_lease,
        }
    }

    pub(crate) fn message(&self, state: &State, delivery: usize) -> Message {
        self.setup.messages[state.deliveries[delivery].message]
    }

    pub(crate) fn fingerprint(&self, name: char) -> &Fingerprint {
        let found = self.fingerprints.iter().find(|(known, _)| *known == name);
        found.map(|(_, fingerprint)| fingerprint).expect("messages have one of these fingerprints")
    }

    /// A worker's own clock, in epoch milliseconds.
    pub(crate) fn clock_ms(&self, state: &State, worker: usize) -> u64 {
        host_ms(state.now).saturating_add_signed(i64::from(self.setup.skews[state.clocks][worker]) * 1_000)
    }

    // --- the queue and the clock ----------------------------------------------------------------------------------

    /// The queue delivers what it has not deleted, to any idle worker, at any time: sooner than a visibility timeout
    /// would, and twice at once. Which of two equal workers or messages comes first makes no difference.
    fn deliveries(&self, state: &State, actions: &mut Vec<Action>) {
        let count = state.deliveries.len();
        if count == self.setup.deliveries {
            return;
        }
        let busy = |worker| state.deliveries.iter().any(|one| one.worker == worker && one.phase != Phase::Gone);
        let each_once = self.setup.deliveries == self.setup.workers;
        let workers = (0..self.setup.workers).filter(|&worker| if each_once { worker == count } else { !busy(worker) });
        for worker in workers.filter(|&worker| self.may_claim(state, worker, state.now)) {
            let messages =
                (0..self.setup.messages.len()).filter(|&message| !state.acknowledged[message] && message <= count);
            actions.extend(messages.map(|message| Action::Deliver { worker, message }));
        }
    }

    /// What the clock does next: it waits for no one, but the model ends with its last step.
    fn ticks(&self, state: &State, actions: &mut Vec<Action>) {
        let still = state.deliveries.len() == self.setup.deliveries
            && state.packets.is_empty()
            && (0..state.deliveries.len()).all(|delivery| !state.is_alive(delivery));
        // The first delivery is the start of time.
        if still || state.deliveries.is_empty() {
            return;
        }
        if state.now % LEAP < self.setup.steps {
            actions.push(Action::Tick);
        }
        if self.setup.leaps && state.now < LEAP {
            actions.push(Action::Leap);
        }
    }

    /// Time passes: effects whose time-out is over no longer land, and the host kills what has outstayed its time.
    fn pass_time(&self, state: &mut State, now: u8) {
        state.now = now;
        for index in 0..state.deliveries.len() {
            let delivery = &mut state.deliveries[index];
            let landed_by_ms = |started| host_ms(started) + self.setup.truth.effect_timeout_ms;
            delivery.effect = delivery.effect.filter(|&started| host_ms(now) <= landed_by_ms(started));
            let killed_by_ms = host_ms(delivery.begun) + self.setup.invocation_ms + self.setup.truth.kill_grace_ms;
            let killed = self.setup.host == Host::Kills && host_ms(now) > killed_by_ms;
            if (killed || now == LEAP) && state.is_alive(index) {
                judge::judge_death(self, state, index);
                state.end(index);
            }
        }
    }

    // --- the network and the store --------------------------------------------------------------------------------

    /// Says whether that was a step: a request that changes nothing and tells nobody might as well not arrive.
    fn apply(&self, state: &mut State, packet: Packet, answered: bool) -> bool {
        let position = state.packets.binary_search(&packet).expect("the packet is under way");
        state.packets.remove(position);
        let key = self.message(state, packet.from).key;
        let before = state.keys[key].record.clone();
        let decision = self.ask(state, packet, before.as_ref());
        let Decision { write, answer } = decision;
        if write.is_none() && !answered {
            return false;
        }
        let step = judge::Step { packet, before: before.as_ref(), write: write.as_ref(), answer: &answer };
        judge::judge_step(self, state, &step);
        if let Some(record) = write {
            state.keys[key].record = Some(record);
        }
        if answered {
            self.answered(state, packet.from, &answer);
        }
        true
    }

    /// Drops requests that nobody waits for and that can change nothing any more: of a stale owner (P4) with no claim
    /// under way, and all on a completed key (P3). Each record that is written is probed for both promises.
    fn drop_powerless(&self, state: &mut State) {
        let claims = state.packets.iter().filter(|packet| matches!(packet.sent, Sent::Claim { .. }));
        let claiming: Vec<usize> = claims.map(|packet| packet.from).collect();
        let mut packets = std::mem::take(&mut state.packets);
        packets.retain(|packet| {
            let record = state.keys[self.message(state, packet.from).key].record.as_ref();
            let completed = record.is_some_and(|record| record.status == Status::Completed);
            let held = record.is_none_or(|record| record.owner.as_ref() == Some(self.owner(packet.from)));
            let sealed = completed && !self.setup.leaps;
            packet.awaited || (!sealed && (held || claiming.contains(&packet.from)))
        });
        state.packets = packets;
    }

    /// Puts the request of a packet to the function under test. Of the three, only a claim is decided by the clock.
    fn ask(&self, state: &State, packet: Packet, record: Option<&Record>) -> Decision {
        let Delivery { worker, begun, .. } = state.deliveries[packet.from];
        let message = self.message(state, packet.from);
        let owner = self.owner(packet.from);
        let lease_end_ms = self.schedule(begun).lease_end_ms;
        let retention_end_s = retention_end_s(host_ms(begun), lease_end_ms, &self.config);
        match packet.sent {
            Sent::Claim { now_ms } => {
                let claim = self.claim(owner, message, lease_end_ms, retention_end_s);
                (self.decide)(record, (&claim).into(), now_ms)
            }
            Sent::Complete => {
                let result = &self.results[packet.from];
                (self.decide)(
                    record,
                    Request::Complete { owner, result, retention_end_s },
                    self.clock_ms(state, worker),
                )
            }
            Sent::Release { until_ms } => {
                let kind = until_ms.map_or(ReleaseKind::Now, |lease_end_ms| ReleaseKind::Deferred { lease_end_ms });
                (self.decide)(record, Request::Release { owner, kind }, self.clock_ms(state, worker))
            }
        }
    }

    fn answered(&self, state: &mut State, delivery: usize, answer: &Answer) {
        match answer {
            Answer::Claim(answer) => self.claim_answered(state, delivery, answer),
            Answer::Complete(answer) => self.completion_answered(state, delivery, *answer),
            // Nothing hangs on it: the message was reported.
            Answer::Release(_) => {}
        }
    }
}

impl Model for Check {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let keys = self.setup.messages.iter().map(|message| message.key + 1).max().unwrap_or_default();
        let start = |clocks| State {
            now: 0,
            clocks,
            keys: vec![KeyState::default(); keys],
            deliveries: Vec::new(),
            packets: Vec::new(),
            acknowledged: vec![false; self.setup.messages.len()],
            breaches: properties::Breaches::default(),
        };
        (0..self.setup.skews.len()).map(start).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.ticks(state, actions);
        self.deliveries(state, actions);
        for (position, packet) in state.packets.iter().enumerate() {
            if position > 0 && state.packets[position - 1] == *packet {
                continue;
            }
            actions.push(Action::Apply { packet: *packet, answered: false });
            if packet.awaited {
                actions.push(Action::Apply { packet: *packet, answered: true });
            }
        }
        for delivery in (0..state.deliveries.len()).filter(|&delivery| state.is_alive(delivery)) {
            self.steps(state, delivery, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        state.breaches = properties::Breaches::default();
        match action {
            Action::Tick => self.pass_time(&mut state, last.now + 1),
            Action::Leap => self.pass_time(&mut state, LEAP),
            Action::Deliver { worker, message } => self.begin(&mut state, worker, message),
            Action::Apply { packet, answered } => {
                if !self.apply(&mut state, packet, answered) {
                    return None;
                }
            }
            Action::Resend(delivery) => self.resend(&mut state, delivery),
            // It may have been applied: it is given back as if it had been (rule 3).
            Action::GiveUp(delivery) => state.give_back(delivery, ReleaseKind::Now),
            Action::StartEffect(delivery) => self.start_effect(&mut state, delivery),
            Action::Succeed(delivery) => self.succeed(&mut state, delivery),
            // A processor that returned by itself has nothing in flight.
            Action::Fail(delivery) => {
                state.deliveries[delivery].effect = None;
                state.give_back(delivery, ReleaseKind::Now);
            }
            Action::CutShort(delivery) => self.cut_short(&mut state, delivery),
        }
        self.drop_powerless(&mut state);
        state.normalise();
        Some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.packets.iter().filter(|packet| !packet.awaited).count() <= self.setup.late_max
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = properties::whatever_the_clocks();
        if self.setup.within_skew {
            all.extend(properties::within_the_skew());
        }
        if self.setup.within_skew && self.setup.host == Host::Kills {
            all.extend(properties::where_the_host_kills());
        }
        all.extend(properties::reached(self.setup.reached));
        all
    }
}
