//! A worker: what the pipeline's run does for one delivered message, cut at every point where it waits or may die.

use microbatch::{
    Options, Outcome,
    lease::{Schedule, deferred_lease_end_ms},
    transition::{ClaimAnswer, CompleteAnswer, ReleaseKind},
};

use crate::{
    judge,
    model::{Action, Check, Host},
    state::{Delivery, Phase, Sent, State, host_ms},
};

/// The ways of a worker in which mutants may differ.
#[derive(Clone, Copy)]
pub(crate) struct Worker {
    /// Which outcomes leave the message out of `batchItemFailures`.
    pub(crate) acknowledges: fn(Outcome) -> bool,
    /// The outcome of a claim that is not to run; none: it runs.
    pub(crate) claim_outcome: fn(&ClaimAnswer) -> Option<Outcome>,
    /// The outcome of a completion.
    pub(crate) completion_outcome: fn(CompleteAnswer) -> Outcome,
    /// How the key is given back of a processor that did not return by itself, from its deferred lease end.
    pub(crate) after_cut_short: fn(u64) -> ReleaseKind,
    /// Whether the completion's answer is awaited before the message is acknowledged.
    pub(crate) awaits_completion: bool,
}

impl Worker {
    /// As the pipeline works.
    pub(crate) const OURS: Self = Self {
        acknowledges: Outcome::is_acknowledged,
        claim_outcome,
        completion_outcome,
        after_cut_short: |lease_end_ms| ReleaseKind::Deferred { lease_end_ms },
        awaits_completion: true,
    };
}

/// As `Run::claim_answered`.
pub(crate) fn claim_outcome(answer: &ClaimAnswer) -> Option<Outcome> {
    match answer {
        ClaimAnswer::Claimed(_) => None,
        ClaimAnswer::Duplicate { .. } => Some(Outcome::Duplicate),
        ClaimAnswer::Conflict => Some(Outcome::Conflict),
        ClaimAnswer::Busy { .. } => Some(Outcome::Busy),
        ClaimAnswer::Vanished => Some(Outcome::Rejected),
    }
}

/// As `Run::completion_answered`.
fn completion_outcome(answer: CompleteAnswer) -> Outcome {
    match answer {
        CompleteAnswer::Completed | CompleteAnswer::CompletedByOther => Outcome::Processed,
        CompleteAnswer::Lost | CompleteAnswer::WriteRefused(_) => Outcome::Failed,
    }
}

impl Check {
    /// The instants of an invocation that began at this step, as a worker is told them by the host.
    pub(crate) fn schedule(&self, begun: u8) -> Schedule {
        Schedule::new(host_ms(begun), host_ms(begun) + self.setup.invocation_ms, &self.config)
    }

    fn own_clock_ms(&self, state: &State, delivery: usize) -> u64 {
        self.clock_ms(state, state.deliveries[delivery].worker)
    }

    /// Claims are sent before the cut-off only.
    pub(crate) fn may_claim(&self, state: &State, worker: usize, begun: u8) -> bool {
        self.clock_ms(state, worker) < self.schedule(begun).cut_off_ms
    }

    /// Whether an effect may start now: before the cut-off, and within the lease (rule 5).
    fn may_start(&self, state: &State, delivery: usize, lease_end_ms: u64) -> bool {
        let now_ms = self.own_clock_ms(state, delivery);
        let Options { deadline_margin_ms, .. } = self.believed;
        let in_time = match self.setup.host {
            Host::Kills => now_ms < self.schedule(state.deliveries[delivery].begun).cut_off_ms,
            Host::LetsRun => true,
        };
        in_time && now_ms + deadline_margin_ms < lease_end_ms
    }

    /// What a worker can do next for a delivery. To die is to do none of it: whatever it could do may also not happen. A
    /// processor that ends before its effect leaves the store as one that ends after it, and is no case of its own.
    pub(crate) fn steps(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let Delivery { worker, begun, phase, .. } = state.deliveries[index];
        match phase {
            Phase::Claiming { resent } => {
                if !resent && self.may_claim(state, worker, begun) {
                    actions.push(Action::Resend(index));
                }
                actions.push(Action::GiveUp(index));
            }
            Phase::Running { lease_end_ms } => {
                // An item that was started in time may wait before its effect, as long as its worker lives.
                if self.setup.host == Host::Kills || self.may_start(state, index, lease_end_ms) {
                    actions.push(Action::StartEffect(index));
                }
            }
            Phase::InEffect { .. } => {
                actions.extend([Action::Succeed(index), Action::Fail(index), Action::CutShort(index)]);
            }
            Phase::Completing { resent } => {
                if !resent && self.clock_ms(state, worker) < self.schedule(begun).respond_by_ms {
                    actions.push(Action::Resend(index));
                }
            }
            Phase::Gone => {}
        }
    }

    /// A message comes, and its claim is sent.
    pub(crate) fn begin(&self, state: &mut State, worker: usize, message: usize) {
        let index = state.deliveries.len();
        let phase = Phase::Claiming { resent: false };
        state.deliveries.push(Delivery { message, worker, begun: state.now, phase, effect: None });
        state.send(index, true, Sent::Claim { now_ms: self.clock_ms(state, worker) });
    }

    /// The same request again; the clock is read anew.
    pub(crate) fn resend(&self, state: &mut State, index: usize) {
        state.stop_waiting(index);
        let now_ms = self.own_clock_ms(state, index);
        let (phase, sent) = match state.deliveries[index].phase {
            Phase::Claiming { .. } => (Phase::Claiming { resent: true }, Sent::Claim { now_ms }),
            Phase::Completing { .. } => (Phase::Completing { resent: true }, Sent::Complete),
            other => unreachable!("nothing is sent again in {other:?}"),
        };
        state.deliveries[index].phase = phase;
        state.send(index, true, sent);
    }

    pub(crate) fn claim_answered(&self, state: &mut State, index: usize, answer: &ClaimAnswer) {
        if let Some(outcome) = (self.worker.claim_outcome)(answer) {
            return self.decided(state, index, outcome);
        }
        let lease_end_ms = match answer {
            ClaimAnswer::Claimed(claimed) => claimed.lease_end_ms,
            // A mutant's run.
            _ => self.schedule(state.deliveries[index].begun).lease_end_ms,
        };
        if self.may_start(state, index, lease_end_ms) {
            state.deliveries[index].phase = Phase::Running { lease_end_ms };
        } else {
            state.give_back(index, ReleaseKind::Now);
        }
    }

    pub(crate) fn start_effect(&self, state: &mut State, index: usize) {
        judge::judge_effect(self, state, index);
        let now = state.now;
        let delivery = &mut state.deliveries[index];
        let Phase::Running { lease_end_ms } = delivery.phase else { unreachable!("only what runs starts an effect") };
        (delivery.phase, delivery.effect) = (Phase::InEffect { lease_end_ms }, Some(now));
    }

    pub(crate) fn succeed(&self, state: &mut State, index: usize) {
        let delivery = &mut state.deliveries[index];
        (delivery.phase, delivery.effect) = (Phase::Completing { resent: false }, None);
        state.send(index, true, Sent::Complete);
        if !self.worker.awaits_completion {
            self.decided(state, index, Outcome::Processed);
        }
    }

    /// A processor that did not return by itself may have a request in flight, as one that says that its effect is
    /// unknown: its key is given back later (rule 3).
    pub(crate) fn cut_short(&self, state: &mut State, index: usize) {
        let Phase::InEffect { lease_end_ms } = state.deliveries[index].phase else {
            unreachable!("only what is in its effect is cut short")
        };
        let deferred_ms = deferred_lease_end_ms(lease_end_ms, self.own_clock_ms(state, index), &self.config);
        state.give_back(index, (self.worker.after_cut_short)(deferred_ms));
    }

    pub(crate) fn completion_answered(&self, state: &mut State, index: usize, answer: CompleteAnswer) {
        self.decided(state, index, (self.worker.completion_outcome)(answer));
    }

    /// The message has its outcome: what is reported comes again, what is not is deleted. That the response leaves a
    /// little later needs no step: a Completed record does not change (P3).
    fn decided(&self, state: &mut State, index: usize, outcome: Outcome) {
        if (self.worker.acknowledges)(outcome) {
            judge::judge_acknowledgement(self, state, index);
            state.acknowledged[state.deliveries[index].message] = true;
        }
        state.end(index);
    }
}
