//! Experience: what a round learns from, computed once and constant in the weights.
//!
//! Scored rollouts go in. Out comes, for every response token, what the policy at the start of the update said (*old*),
//! what the reference said, what the value model expected, the reward after the KL penalty, the whitened advantage, the
//! return, and the weight against the policy that really drew it. Four log-probs meet here and keep their names: *behavior*
//! was recorded by the engine, *old* and *reference* are computed here by the trainer, and the current one exists only
//! under gradient, in [`update`](crate::update).
//!
//! The KL penalty is between old and reference, both from the trainer: with behavior on one side, the difference between
//! two engines' arithmetic would be paid as reward. With `ppo.proximal = "log_linear"` nobody knows old before the steps; then
//! what the version that drew a token said stands in its place, and that difference *is* paid, as in AReaL.

mod advantages;
mod ahead;
mod episode;
mod held_out;
mod micro_batches;
mod passes;

pub use advantages::{AdvantageEstimator, groups};
pub(crate) use ahead::{Ahead, Kept};
use episode::bootstraps;
pub use episode::{Admitted, Episode, Limits, admit};
pub use held_out::is_held_out;
pub(crate) use micro_batches::{Budget, MicroBatches, batch_of, go_on, temperatures_of};
pub use micro_batches::{Pace, micro_batch_tokens};
pub use passes::{Passes, PolicyPass};

use std::ops::Range;

use crate::{
    error::PpoError,
    group,
    kl::{self, KlEstimator},
    length_penalty::{LengthPenalty, cost_of},
    loss::KlPenalty,
    masked::{self, Whitening},
    models::Models,
    off_policy::{ImportanceMode, ImportanceWeights, importance_weights},
    token_rewards::{ScoreRule, paid},
};

/// What the ratio of the clip is centred on and the tokens are weighed by.
#[derive(Clone, Debug, PartialEq)]
pub enum Proximal {
    /// It is known before the first step.
    Known {
        /// ℓ_old, or ℓ_behavior with `ppo.importance = "bypass"`, nats.
        log_probs: Vec<f64>,
        /// w_t and what they tell.
        importance: ImportanceWeights,
    },
    /// Each minibatch guesses it from its own log-probs ([`LogLinear`](crate::off_policy::LogLinear)).
    LogLinear(ImportanceMode),
}

impl Default for Proximal {
    fn default() -> Proximal {
        Proximal::Known { log_probs: Vec::new(), importance: ImportanceWeights::default() }
    }
}

/// A round's episodes with everything that is constant in it. Per-token vectors are flat, episode after episode.
#[derive(Clone, Debug, Default)]
pub struct Experience {
    /// Who takes part.
    pub episodes: Vec<Episode>,
    /// Which prompt each episode answers, numbered from 0.
    pub groups: Vec<usize>,
    /// Whether an episode is the only answer to its prompt and the estimator compares answers: it cannot train.
    pub is_alone: Vec<bool>,
    /// Response tokens of each episode.
    pub lengths: Vec<usize>,
    /// Where the tokens of each episode start in the flat vectors.
    starts: Vec<usize>,
    /// Rollouts for which a pass gave no finite number, by their index in the round.
    pub broken: Vec<usize>,
    /// Scores after clip, missing-EOS rule and what length costs, one an episode; 0 where the value model says instead what was to
    /// come.
    pub scores: Vec<f64>,
    /// What length costs (`ppo.length_penalty`); `None`: nothing.
    pub length_penalty: Option<LengthPenalty>,
    /// What it took off each score.
    pub length_costs: Vec<f64>,
    /// ℓ_old, reference log-probs, entropies and old values.
    pub passes: Passes,
    /// What the policy at the start of the round is taken to have said where it cannot wait for a step, nats: ℓ_old, or where nobody
    /// has computed it what the version that drew each token said ([`Episode::drawn`]).
    pub old_or_drawn: Vec<f64>,
    /// r_t, score units.
    pub rewards: Vec<f64>,
    /// A_t before whitening, score units.
    pub advantages: Vec<f64>,
    /// A_t as the loss takes it: whitened over the tokens that train where the estimator whitens; 0 where none trains.
    pub whitened: Vec<f64>,
    /// R_t, score units.
    pub returns: Vec<f64>,
    /// Who trains, as far as that is known before the steps: with `ppo.proximal = "log_linear"` also tokens that a minibatch will
    /// weigh 0.
    pub kept: Vec<bool>,
    /// The centre of the clipped ratio, and the weights.
    pub proximal: Proximal,
    /// What the policy loss pays for the KL, where the rewards do not (`ppo.kl_in`).
    pub kl_penalty: Option<KlPenalty>,
}

impl Experience {
    /// Computes the experience of these episodes: steps 2 to 5 of an update round.
    ///
    /// `kl_coef` is β, `first` the first minibatch, of which comes along what its step need not compute again. Passes run without
    /// dropout and without a graph, at each episode's own temperature.
    ///
    /// # Errors
    /// When a pass fails, or `pace` says stop.
    pub(crate) fn collect(
        episodes: Vec<Episode>,
        first: &[usize],
        models: &Models,
        config: &config::Ppo,
        kl_coef: f64,
        pace: Pace<'_>,
    ) -> Result<(Experience, Ahead), PpoError> {
        let (passes, ahead) = Passes::run(&episodes, first, models, config, pace)?;
        let (episodes, passes, broken) = passes.without_broken(episodes);
        let experience = Experience { broken, ..Experience::from_passes(episodes, passes, config, kl_coef) };
        // Where some were taken out the rest have other numbers, and where some of the minibatch do not train it is cut otherwise.
        let is_good = experience.broken.is_empty() && first.iter().all(|&i| experience.is_kept(i));
        Ok((experience, if is_good { ahead } else { Ahead::default() }))
    }

    /// What follows from the passes without a model: rewards, advantages, weights, whitening.
    #[must_use]
    pub fn from_passes(episodes: Vec<Episode>, passes: Passes, config: &config::Ppo, kl_coef: f64) -> Experience {
        let lengths: Vec<usize> = episodes.iter().map(Episode::n_tokens).collect();
        let starts = lengths
            .iter()
            .scan(0, |next, n| {
                *next += n;
                Some(*next - n)
            })
            .collect();
        let groups = groups(&episodes);
        let mut experience = Experience { groups, lengths, starts, passes, ..Experience::default() };
        experience.old_or_drawn = match &experience.passes.policy {
            Some(pass) => pass.old.clone(),
            None => episodes.iter().flat_map(Episode::drawn).collect(),
        };
        experience.episodes = episodes;
        experience.process_scores(config);
        experience.pay(config, kl_coef);
        let estimator = AdvantageEstimator::of(config);
        experience.estimate_advantages(estimator, config);
        experience.weigh(estimator, config);
        experience
    }

    /// S of every episode. The value model, where it speaks in place of a score, knows what length costs: it has learnt from
    /// returns that had paid for it.
    fn process_scores(&mut self, config: &config::Ppo) {
        let rule = ScoreRule::of(config);
        self.length_penalty = LengthPenalty::of(config);
        for (episode, n_tokens) in self.episodes.iter().zip(&self.lengths) {
            let (score, cost) = match bootstraps(episode, config) {
                true => (0.0, 0.0),
                false => (rule.apply(episode.score, !episode.cut_by_daemon), cost_of(self.length_penalty, *n_tokens)),
            };
            self.scores.push(score - cost);
            self.length_costs.push(cost);
        }
    }

    /// r_t: the score on the last token, and the penalty on every one unless the loss pays it.
    fn pay(&mut self, config: &config::Ppo, kl_coef: f64) {
        let estimator = KlEstimator::of(config);
        let in_loss = config.kl_in == "loss";
        self.kl_penalty = in_loss.then_some(KlPenalty { estimator, coef: kl_coef });
        let kl_coef = if in_loss { 0.0 } else { kl_coef };
        let everything = vec![true; self.old_or_drawn.len()];
        let kl = kl::per_token(estimator, &self.old_or_drawn, &self.passes.reference, &everything);
        for (i, score) in self.scores.iter().enumerate() {
            let range = self.range(i);
            self.rewards.extend(paid(&kl[range.clone()], &everything[range], *score, kl_coef));
        }
    }

    /// w_t, who trains, and A_t as the loss takes it.
    fn weigh(&mut self, estimator: AdvantageEstimator, config: &config::Ppo) {
        let behavior: Vec<f64> = self.episodes.iter().flat_map(|e| e.behavior.iter().copied()).collect();
        let sizes = group::sizes(&self.groups);
        self.is_alone = self.groups.iter().map(|g| estimator.compares() && sizes[*g] == 1).collect();
        let lone = self.is_alone.iter().zip(&self.lengths);
        let mask: Vec<bool> = lone.flat_map(|(alone, n)| std::iter::repeat_n(!alone, *n)).collect();
        let mode = ImportanceMode::of(config);
        (self.proximal, self.kept) = match &self.passes.policy {
            Some(pass) => {
                let importance = importance_weights(&pass.old, &behavior, &mask, &self.lengths, mode);
                let kept = importance.kept.clone();
                let log_probs = if config.importance == "bypass" { behavior } else { pass.old.clone() };
                (Proximal::Known { log_probs, importance }, kept)
            }
            None => (Proximal::LogLinear(mode), mask),
        };
        // Whitened once a round, over what trains: independent of the order of minibatches, after the returns.
        self.whitened = match estimator.whitens() {
            true => masked::whiten(&self.advantages, &self.kept, Whitening::default()),
            false => self.advantages.iter().zip(&self.kept).map(|(a, keep)| if *keep { *a } else { 0.0 }).collect(),
        };
    }

    /// The weights of the round, where they are known before its steps.
    #[must_use]
    pub fn importance(&self) -> Option<&ImportanceWeights> {
        match &self.proximal {
            Proximal::Known { importance, .. } => Some(importance),
            Proximal::LogLinear(_) => None,
        }
    }

    /// Mean |ℓ_old − ℓ_engine| over the rollouts that these very weights drew, nats: what two engines make of the same
    /// numbers. `None` when all rollouts are older, or nobody has computed ℓ_old. Truncation is no disagreement: the kept mass is
    /// put back.
    #[must_use]
    pub fn engine_gap(&self) -> Option<f64> {
        let old = &self.passes.policy.as_ref()?.old;
        engine_gap(self.episodes.iter().enumerate().map(|(i, episode)| (episode, &old[self.range(i)])))
    }

    /// Where the tokens of episode `i` lie in the flat vectors.
    #[must_use]
    pub fn range(&self, i: usize) -> Range<usize> {
        self.starts[i]..self.starts[i] + self.lengths[i]
    }

    /// Response tokens of all episodes.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// What episode `i` is paid in all: its score, or what the value model says in its place, and the penalty for the KL, whether the
    /// rewards pay it or the loss.
    #[must_use]
    pub fn paid(&self, i: usize) -> f64 {
        let range = self.range(i);
        let rewards: f64 = self.rewards[range.clone()].iter().sum();
        let kl = |range: Range<usize>| range.map(|t| self.old_or_drawn[t] - self.passes.reference[t]).sum::<f64>();
        let in_loss = self.kl_penalty.map_or(0.0, |penalty| penalty.coef * kl(range));
        rewards + self.passes.last_values[i] - in_loss
    }

    /// Whether any token of episode `i` trains, as far as that is known before the steps; else it left the range of the importance
    /// weights, or is alone.
    #[must_use]
    pub fn is_kept(&self, i: usize) -> bool {
        self.range(i).any(|t| self.kept[t])
    }
}

/// [`Experience::engine_gap`] of episodes and their ℓ_old.
pub(crate) fn engine_gap<'a>(episodes: impl Iterator<Item = (&'a Episode, &'a [f64])>) -> Option<f64> {
    let mut gaps = Vec::new();
    for (episode, old) in episodes.filter(|(episode, _)| episode.staleness == 0) {
        let drawn = episode.behavior.iter().zip(&episode.log_kept_mass);
        gaps.extend(old.iter().zip(drawn).map(|(old, (b, mass))| (old - b - mass).abs()));
    }
    (!gaps.is_empty()).then(|| gaps.iter().sum::<f64>() / gaps.len() as f64)
}

#[cfg(test)]
mod tests;
