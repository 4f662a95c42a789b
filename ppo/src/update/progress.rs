//! What the steps of a round have come to so far, and whether the next one is fit to be made.

use policy::optimizer::Gradients;

use super::{
    first_minibatch::FirstMinibatch,
    pretraining::PtxStep,
    tally::{PolicyTally, ValueTally},
};
use crate::{
    control::Recent,
    guard::{Guard, SKIPPED_STEPS_MAX, Trips, limit, spike},
};

/// What the steps of a round came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// Of the step before: the next one adds up in the same memory.
    pub(super) gradients: Gradients,
    pub(super) n_policy_steps: usize,
    pub(super) n_value_steps: usize,
    pub(super) n_skipped_steps: usize,
    /// Steps of the policy that were left out since it made one.
    n_skipped_in_a_row: u32,
    /// The KL budget is spent: no more policy steps.
    pub(super) stopped: bool,
    /// The policy is so far from where it began, or so many of its steps in a row were left out, that the round must be taken
    /// back.
    pub(super) ran_away: bool,
    /// The data are not fit to be learnt from, which the first minibatch has shown: no step at all.
    pub(super) is_refused: bool,
    /// What is known of the start of the round where nobody ran the policy before it.
    pub(super) first: Option<FirstMinibatch>,
    /// What the guard rails said.
    pub(super) trips: Trips,
    pub(super) policy: PolicyTally,
    pub(super) value: ValueTally,
    pub(super) policy_grad_norms: Vec<f64>,
    pub(super) value_grad_norms: Vec<f64>,
    /// One for each policy step into which text was mixed.
    pub(super) ptx: Vec<PtxStep>,
}

impl Progress {
    /// Looks how far the policy has gone: no more steps, or the whole round is to be taken back.
    pub(super) fn watch_divergence(&mut self, k3: f64, config: &config::Ppo) {
        let (skip, stop) = (limit(config.skip_kl), limit(config.stop_kl));
        if k3 > skip {
            self.ran_away = true;
            self.trips.add(Guard::SkipKl, k3, skip);
        } else if k3 > stop {
            self.trips.add(Guard::StopKl, k3, stop);
        }
        self.stopped |= self.ran_away || k3 > stop;
    }

    /// The same after the last step: there are no more to be stopped.
    pub(super) fn watch_arrival(&mut self, k3: f64, config: &config::Ppo) {
        let skip = limit(config.skip_kl);
        if k3 > skip {
            self.ran_away = true;
            self.trips.add(Guard::SkipKl, k3, skip);
        }
    }

    /// The policy has made a step.
    pub(super) fn count_policy_step(&mut self) {
        self.n_policy_steps += 1;
        self.n_skipped_in_a_row = 0;
    }

    /// This step of the policy is not made. One is an outlier; several in a row say that those before them broke something, and
    /// what is left of the round would not mend it.
    pub(super) fn skip_policy_step(&mut self, fault: Fault) {
        self.skip_step(fault);
        self.n_skipped_in_a_row += 1;
        if self.n_skipped_in_a_row == SKIPPED_STEPS_MAX {
            (self.stopped, self.ran_away) = (true, true);
            let limit = f64::from(SKIPPED_STEPS_MAX);
            self.trips.add(Guard::SkippedSteps, f64::from(self.n_skipped_in_a_row), limit);
        }
    }

    /// This step is not made.
    pub(super) fn skip_step(&mut self, fault: Fault) {
        self.n_skipped_steps += 1;
        self.trips.add(fault.guard, fault.value, fault.limit);
    }
}

/// Why a step is not made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) guard: Guard,
    pub(super) value: f64,
    pub(super) limit: f64,
}

/// What speaks against a step with this loss and this gradient norm, given the norms of the steps before.
pub(super) fn fault_of(loss: f64, norm: f64, usual: &Recent, factor: f64) -> Option<Fault> {
    if !(loss.is_finite() && norm.is_finite()) {
        let value = if loss.is_finite() { norm } else { loss };
        return Some(Fault { guard: Guard::NonFinite, value, limit: f64::MAX });
    }
    spike(norm, usual, factor).map(|limit| Fault { guard: Guard::GradientSpike, value: norm, limit })
}

#[cfg(test)]
mod tests {
    use super::{Fault, Progress, Recent, fault_of};
    use crate::guard::Guard;

    #[test]
    fn a_step_that_is_no_number_or_far_beyond_the_usual_is_not_made() {
        let mut usual = Recent::new(9);
        (0..9).for_each(|_| usual.push(0.5));
        let guard = |loss, norm| fault_of(loss, norm, &usual, 10.0).map(|fault| fault.guard);
        assert_eq!(guard(0.1, 4.9), None);
        assert_eq!(guard(0.1, 5.1), Some(Guard::GradientSpike));
        for (loss, norm) in [(f64::NAN, 0.5), (0.1, f64::NAN), (f64::INFINITY, 0.5), (0.1, f64::INFINITY)] {
            assert_eq!(guard(loss, norm), Some(Guard::NonFinite));
        }
    }

    #[test]
    fn the_further_away_the_sterner() {
        let config = config::Config::default().ppo;
        let mut progress = Progress::default();
        progress.watch_divergence(0.9 * config.stop_kl, &config);
        assert!(!progress.stopped && progress.trips.is_empty());
        progress.watch_divergence(1.1 * config.stop_kl, &config);
        assert!(progress.stopped && !progress.ran_away);
        progress.watch_divergence(1.1 * config.skip_kl, &config);
        assert!(progress.stopped && progress.ran_away);
        progress.skip_step(Fault { guard: Guard::NonFinite, value: f64::NAN, limit: f64::MAX });
        let counts = [Guard::StopKl, Guard::SkipKl, Guard::NonFinite].map(|guard| progress.trips.count(guard));
        assert_eq!((counts, progress.n_skipped_steps), ([1, 1, 1], 1));
    }

    #[test]
    fn only_steps_left_out_in_a_row_take_the_round_back() {
        let fault = Fault { guard: Guard::NonFinite, value: f64::NAN, limit: f64::MAX };
        let mut progress = Progress::default();
        for _ in 0..2 {
            (0..2).for_each(|_| progress.skip_policy_step(fault));
            // Of the value model: another run.
            progress.skip_step(fault);
            assert!(!progress.stopped && !progress.ran_away);
            progress.count_policy_step();
        }
        (0..3).for_each(|_| progress.skip_policy_step(fault));
        assert!(progress.stopped && progress.ran_away);
        assert_eq!((progress.n_skipped_steps, progress.trips.count(Guard::SkippedSteps)), (9, 1));
    }

    #[test]
    fn each_limit_of_0_is_off_and_leaves_the_other() {
        let watch = |stop_kl, skip_kl| {
            let config = config::Ppo { stop_kl, skip_kl, ..config::Config::default().ppo };
            let mut progress = Progress::default();
            progress.watch_divergence(0.5, &config);
            (progress.stopped, progress.ran_away, progress.trips.is_empty())
        };
        assert_eq!(watch(0.0, 0.0), (false, false, true));
        assert_eq!(watch(0.1, 0.0), (true, false, false));
        assert_eq!(watch(0.0, 0.1), (true, true, false));
    }
}
