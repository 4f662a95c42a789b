//! Experience: what a round learns from, computed once and constant in the weights.
//!
//! Scored rollouts go in. Out comes, for every response token, what the policy at the start of the update said (*old*),
//! what the reference said, what the value model expected, the reward after the KL penalty, the whitened advantage, the
//! return, and the weight against the policy that really drew it. Four log-probs meet here and keep their names: *behavior*
//! was recorded by the engine, *old* and *reference* are computed here by the trainer, and the current one exists only
//! under gradient, in [`update`](crate::update).
//!
//! The KL penalty is between old and reference, both from the trainer: with behavior on one side, the difference between
//! two engines' arithmetic would be paid as reward.

mod episode;
mod micro_batches;
mod passes;

pub use episode::{Admitted, Episode, Limits, admit};
pub(crate) use micro_batches::{Budget, MicroBatches, batch_of, go_on, temperatures_of};
pub use micro_batches::{Pace, micro_batch_tokens};
pub use passes::Passes;

use std::ops::Range;

use crate::{
    error::PpoError,
    gae::{GaeOptions, gae},
    masked::{self, Whitening},
    models::Models,
    off_policy::{ImportanceMode, ImportanceWeights, importance_weights},
    token_rewards::{MissingEos, ScoreRule, token_rewards},
};

/// A round's episodes with everything that is constant in it. Per-token vectors are flat, episode after episode.
#[derive(Clone, Debug, Default)]
pub struct Experience {
    /// Who takes part.
    pub episodes: Vec<Episode>,
    /// Response tokens of each episode.
    pub lengths: Vec<usize>,
    /// Where the tokens of each episode start in the flat vectors.
    starts: Vec<usize>,
    /// Rollouts for which a pass gave no finite number, by their index in the round.
    pub broken: Vec<usize>,
    /// Scores after clip and missing-EOS rule, one an episode.
    pub scores: Vec<f64>,
    /// ℓ_old, reference log-probs, entropies and old values.
    pub passes: Passes,
    /// r_t, score units.
    pub rewards: Vec<f64>,
    /// A_t before whitening, score units.
    pub advantages: Vec<f64>,
    /// A_t whitened over the tokens that train.
    pub whitened: Vec<f64>,
    /// R_t, score units.
    pub returns: Vec<f64>,
    /// w_t and what they tell; `kept` says who trains.
    pub importance: ImportanceWeights,
}

impl Experience {
    /// Computes the experience of these episodes: steps 2 to 5 of an update round.
    ///
    /// `kl_coef` is β. Passes run without dropout and without a graph, at each episode's own temperature.
    ///
    /// # Errors
    /// When a pass fails, or `pace` says stop.
    pub fn collect(
        episodes: Vec<Episode>,
        models: &Models,
        config: &config::Ppo,
        kl_coef: f64,
        pace: Pace<'_>,
    ) -> Result<Experience, PpoError> {
        let passes = Passes::run(&episodes, models, config, pace)?;
        let (episodes, passes, broken) = passes.without_broken(episodes);
        let experience = Experience::from_passes(episodes, passes, config, kl_coef);
        Ok(Experience { broken, ..experience })
    }

    /// The part of [`Experience::collect`] that needs no model: rewards, advantages, weights, whitening.
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
        let mut experience = Experience { lengths, starts, passes, ..Experience::default() };
        let rule =
            ScoreRule { clip: Some(config.score_clip), missing_eos: MissingEos::Replace(config.missing_eos_score) };
        experience.scores = episodes.iter().map(|e| rule.apply(e.score, !e.cut_by_daemon)).collect();
        experience.episodes = episodes;
        experience.estimate_advantages(kl_coef, GaeOptions { gamma: config.gamma, lambda: config.lambda });
        let behavior: Vec<f64> = experience.episodes.iter().flat_map(|e| e.behavior.iter().copied()).collect();
        let everything = vec![true; behavior.len()];
        let mode = ImportanceMode::GeometricFilter {
            floor: config.is_geo_low,
            cap: config.is_geo_high,
            token_cap: config.is_cap,
        };
        let importance = importance_weights(&experience.passes.old, &behavior, &everything, &experience.lengths, mode);
        // Whitened once a round, over what trains: independent of the order of minibatches, after the returns.
        experience.whitened = masked::whiten(&experience.advantages, &importance.kept, Whitening::default());
        experience.importance = importance;
        experience
    }

    fn estimate_advantages(&mut self, kl_coef: f64, options: GaeOptions) {
        for (i, score) in self.scores.iter().enumerate() {
            let range = self.range(i);
            let mask = vec![true; range.len()];
            let passes = &self.passes;
            let paid =
                token_rewards(&passes.old[range.clone()], &passes.reference[range.clone()], &mask, *score, kl_coef);
            // An answer that was cut off is final too: its score was replaced, there is nothing left to come.
            let got = gae(&paid, &passes.values[range], &mask, 0.0, options);
            self.rewards.extend(paid);
            self.advantages.extend(got.advantages);
            self.returns.extend(got.returns);
        }
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

    /// Whether episode `i` trains, or left the range of the importance weights.
    #[must_use]
    pub fn is_kept(&self, i: usize) -> bool {
        self.range(i).all(|t| self.importance.kept[t])
    }
}

#[cfg(test)]
mod tests;
