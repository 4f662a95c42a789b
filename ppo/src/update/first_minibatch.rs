//! The policy at the start of a round, where nobody has run it before the steps (`ppo.proximal = "log_linear"`).
//!
//! The first minibatch of the policy is read by weights that no step has changed yet: what they say there under gradient is what
//! the pass that was spared would have said. So of these episodes ℓ_old is known, and not guessed, before the first step is made.
//! That is what the guards look at who otherwise look at the whole round, and from where the way of the last step is measured. A
//! round that only warms the value model up has no such minibatch, and nobody looks: the policy stands still in it.

use std::collections::BTreeMap;

use super::watch::{watch_engine, watch_weights};
use crate::{
    experience::{Experience, engine_gap},
    guard::Trips,
    off_policy::{ImportanceMode, ImportanceWeights, importance_weights},
};

/// What a forward pass said of one piece of a minibatch.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Said {
    /// Its episodes.
    pub(super) members: Vec<usize>,
    /// ℓ of their response tokens, one after another, nats.
    pub(super) log_probs: Vec<f64>,
    /// Entropy before each of these, nats.
    pub(super) entropies: Vec<f64>,
}

/// What is known of the start.
#[derive(Clone, Debug)]
pub(super) struct FirstMinibatch {
    /// ℓ_old of each of its episodes, nats.
    old: BTreeMap<usize, Vec<f64>>,
    entropy: f64,
    engine_gap: Option<f64>,
    importance: ImportanceWeights,
}

/// Its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FirstMinibatchStats {
    /// Mean entropy per token, nats.
    pub entropy: f64,
    /// Effective sample size of the weights that ℓ_old itself gives, a share.
    pub ess: f64,
    /// Mean |ℓ_old − ℓ_engine|, nats, over the rollouts that the live version drew; `None` without one.
    pub engine_gap: Option<f64>,
}

impl FirstMinibatch {
    /// From what was said of its pieces.
    pub(super) fn of(experience: &Experience, said: &[Said], config: &config::Ppo) -> FirstMinibatch {
        let mut old = BTreeMap::new();
        for piece in said {
            let lengths: Vec<usize> = piece.members.iter().map(|i| experience.lengths[*i]).collect();
            let parts = crate::masked::split(&piece.log_probs, &lengths);
            old.extend(piece.members.iter().copied().zip(parts.map(<[f64]>::to_vec)));
        }
        let flat: Vec<f64> = old.values().flatten().copied().collect();
        let episodes = || old.keys().map(|i| &experience.episodes[*i]);
        let behavior: Vec<f64> = episodes().flat_map(|episode| episode.behavior.iter().copied()).collect();
        let lengths: Vec<usize> = old.values().map(Vec::len).collect();
        let mode = ImportanceMode::of(config);
        let entropies: Vec<f64> = said.iter().flat_map(|piece| piece.entropies.iter().copied()).collect();
        FirstMinibatch {
            entropy: entropies.iter().sum::<f64>() / entropies.len().max(1) as f64,
            engine_gap: engine_gap(episodes().zip(old.values().map(Vec::as_slice))),
            importance: importance_weights(&flat, &behavior, &vec![true; flat.len()], &lengths, mode),
            old,
        }
    }

    /// The guards that judge a round by its data, as far as they ask for ℓ_old. Returns whether the round may be learnt from.
    pub(super) fn watch(&self, config: &config::Ppo, trips: &mut Trips) -> bool {
        watch_engine(self.engine_gap, config, trips);
        watch_weights(&self.importance, config, trips);
        !trips.forbid_learning()
    }

    /// Its episodes, in the order of the round.
    pub(super) fn members(&self) -> impl Iterator<Item = usize> + '_ {
        self.old.keys().copied()
    }

    /// ℓ_old of one of these.
    pub(super) fn old(&self, member: usize) -> &[f64] {
        &self.old[&member]
    }

    pub(super) fn stats(&self) -> FirstMinibatchStats {
        FirstMinibatchStats { entropy: self.entropy, ess: self.importance.ess_fraction, engine_gap: self.engine_gap }
    }
}
