//! What is looked at before a round makes its first step.

use std::collections::BTreeSet;

use reward::ScoredRollout;

use super::{Fate, Round};
use crate::{
    control::{ControlState, ROUNDS_REMEMBERED, Recent},
    experience::Experience,
    guard::{EPISODES_MIN, Guard, Trips, parts_ways},
    kl,
    models::Models,
    off_policy::ImportanceWeights,
    rollout_log::DropReason,
};

/// Mean score of the rollouts that are held out; `None` when there are none.
pub(super) fn held_out_score(rollouts: &[ScoredRollout], fates: &[Fate]) -> Option<f64> {
    let scores: Vec<f64> = rollouts
        .iter()
        .zip(fates)
        .filter(|(_, fate)| is_held_out(**fate))
        .map(|(rollout, _)| rollout.scored().score.0)
        .collect();
    (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
}

fn is_held_out(fate: Fate) -> bool {
    fate == Fate::Dropped(DropReason::HeldOut)
}

/// Whether enough of what was given to the round may train. What is held out was not given to it; whatever else does not train
/// was, also what is in the denominator of no other guard because it never became an episode, or is alone.
pub(super) fn watch_size(experience: &Experience, fates: &[Fate], trips: &mut Trips) {
    let n_given = fates.iter().filter(|fate| !is_held_out(**fate)).count();
    let n_kept = (0..experience.episodes.len()).filter(|&i| experience.is_kept(i)).count();
    let floor = EPISODES_MIN.min(n_given.div_ceil(2));
    if n_kept < floor {
        trips.add(Guard::EffectiveBatch, n_kept as f64, floor as f64);
    }
}

/// By how many versions of the reward source these rollouts were judged.
pub(super) fn n_reward_versions(rollouts: &[ScoredRollout]) -> usize {
    let versions: BTreeSet<&str> = rollouts.iter().map(|r| r.scored().reward_version.as_str()).collect();
    versions.len()
}

impl Round<'_> {
    /// The guards that judge a round by its data. Those that ask for ℓ_old wait for the first minibatch where nobody has computed it
    /// ([`first_minibatch`](super::first_minibatch)).
    pub(super) fn watch(&self, models: &mut Models, experience: &Experience, held_out: Option<f64>, trips: &mut Trips) {
        let config = self.config;
        if experience.episodes.is_empty() {
            // One that a model chokes on is that rollout's fault; all of them are the model's.
            if !experience.broken.is_empty() {
                trips.add(Guard::NonFinite, experience.broken.len() as f64, 0.0);
            }
            return;
        }
        watch_engine(experience.engine_gap(), config, trips);
        let (old, reference) = (&experience.old_or_drawn, &experience.passes.reference);
        let everything = vec![true; old.len()];
        let kl = kl::per_sequence(old, reference, &everything, &experience.lengths);
        let kl = kl.iter().sum::<f64>() / kl.len() as f64;
        if config.kl_budget > 0.0 && kl > config.kl_budget {
            trips.add(Guard::KlBudget, kl, config.kl_budget);
        }
        let may_train = experience.is_alone.iter().any(|alone| !alone);
        if let Some(importance) = experience.importance().filter(|_| may_train) {
            watch_weights(importance, config, trips);
        }
        watch_held_out(&mut models.control, experience, held_out, trips);
    }
}

/// Whether engine and trainer agree about the weights that both have, as far as that is known.
pub(super) fn watch_engine(gap: Option<f64>, config: &config::Ppo, trips: &mut Trips) {
    let gap = gap.unwrap_or(0.0);
    if config.parity_gap_max > 0.0 && gap > config.parity_gap_max {
        trips.add(Guard::Parity, gap, config.parity_gap_max);
    }
}

/// Whether the data are the policy's own. Over all tokens that may train: what is filtered weighs 0, or one answer that is left
/// would speak for the round.
pub(super) fn watch_weights(importance: &ImportanceWeights, config: &config::Ppo, trips: &mut Trips) {
    let ess = importance.ess_fraction;
    if ess < config.ess_min {
        trips.add(Guard::Ess, ess, config.ess_min);
    }
}

fn watch_held_out(control: &mut ControlState, experience: &Experience, held_out: Option<f64>, trips: &mut Trips) {
    let Some(held_out) = held_out else {
        return;
    };
    let scores: Vec<f64> = experience.episodes.iter().map(|e| e.score).collect();
    control.training_scores.push(scores.iter().sum::<f64>() / scores.len() as f64);
    control.held_out_scores.push(held_out);
    if let Some((_, fall)) = parts_ways(&control.training_scores, &control.held_out_scores) {
        trips.add(Guard::HeldOut, fall, 0.0);
        // The operator has been told; whoever resumes starts to look anew.
        control.training_scores = Recent::new(ROUNDS_REMEMBERED);
        control.held_out_scores = Recent::new(ROUNDS_REMEMBERED);
    }
}
