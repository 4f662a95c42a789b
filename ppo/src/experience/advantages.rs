//! Where advantages come from.
//!
//! Every estimator reads the same rewards (KL penalty per token, score at the last one) and hands the same thing to the
//! policy loss: one number per token. With a value model that is GAE. Without one, a response is measured by the others to
//! its prompt, which costs several answers a prompt and spares a model: live traffic mostly has one answer a prompt, so
//! there only GAE and REINFORCE++ learn anything.
//!
//! The KL penalty is in the rewards for all of them, where it has the right gradient (see [`kl`](crate::kl)) and the same β
//! as everywhere else: a group then compares S_i − β·ΣKL. DeepSeek's GRPO and REINFORCE++-baseline compare bare scores and pay
//! the KL as a loss of its own (k3, k2): that is `ppo.kl_in = "loss"` ([`KlPenalty`](crate::loss::KlPenalty)). Dr. GRPO pays none.

use std::collections::BTreeMap;

use policy::TokenId;

use super::{Episode, Experience};
use crate::{
    gae::{GaeOptions, gae},
    group,
};

/// Added to GRPO's standard deviation (TRL: 1e-4).
const GRPO_EPS: f64 = 1e-4;

/// An estimator (`ppo.advantage_estimator`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdvantageEstimator {
    /// Generalised advantage estimation with the value model.
    Gae,
    /// The return minus the mean of the others' returns.
    Rloo,
    /// The return minus the group's mean, over its standard deviation.
    Grpo,
    /// The return minus the group's mean.
    DrGrpo,
    /// The reward to go, whitened (Hu, arXiv 2501.03262, section 3).
    ReinforcePp,
    /// The return minus the group's mean, whitened (the same, section 3.3).
    ReinforcePpBaseline,
}

impl AdvantageEstimator {
    /// The configured one.
    ///
    /// # Panics
    /// When the word is none of those that `config` admits.
    #[must_use]
    pub fn of(config: &config::Ppo) -> AdvantageEstimator {
        match config.advantage_estimator.as_str() {
            "gae" => AdvantageEstimator::Gae,
            "rloo" => AdvantageEstimator::Rloo,
            "grpo" => AdvantageEstimator::Grpo,
            "dr_grpo" => AdvantageEstimator::DrGrpo,
            "reinforce_pp" => AdvantageEstimator::ReinforcePp,
            "reinforce_pp_baseline" => AdvantageEstimator::ReinforcePpBaseline,
            other => panic!("config has checked the words of ppo.advantage_estimator, got {other}"),
        }
    }

    /// Whether the value model is asked, and learns.
    #[must_use]
    pub fn needs_values(self) -> bool {
        self == AdvantageEstimator::Gae
    }

    /// Whether a response is compared with the others to its prompt, so that one that is alone cannot train.
    #[must_use]
    pub fn compares(self) -> bool {
        !matches!(self, AdvantageEstimator::Gae | AdvantageEstimator::ReinforcePp)
    }

    /// Whether the advantages are whitened over the tokens that train. The sources of the others leave them as they are.
    #[must_use]
    pub fn whitens(self) -> bool {
        use AdvantageEstimator::{Gae, ReinforcePp, ReinforcePpBaseline};
        matches!(self, Gae | ReinforcePp | ReinforcePpBaseline)
    }
}

/// Numbers the prompts of episodes by first appearance: episodes with the very same prompt tokens are one group, whether
/// one request asked for several answers or several requests asked the same.
#[must_use]
pub fn groups(episodes: &[Episode]) -> Vec<usize> {
    let mut numbers: BTreeMap<&[TokenId], usize> = BTreeMap::new();
    let prompts = episodes.iter().map(|e| &e.sequence.tokens[..e.sequence.prompt_len]);
    prompts
        .map(|prompt| {
            let next = numbers.len();
            *numbers.entry(prompt).or_insert(next)
        })
        .collect()
}

impl Experience {
    /// A_t before whitening and R_t, from the rewards that are there.
    pub(super) fn estimate_advantages(&mut self, estimator: AdvantageEstimator, config: &config::Ppo) {
        let everything = vec![true; self.rewards.len()];
        if estimator == AdvantageEstimator::Gae {
            return self.ask_value_model(GaeOptions { gamma: config.gamma, lambda: config.lambda });
        }
        self.returns = group::reward_to_go(&self.rewards, &everything, &self.lengths, config.gamma);
        if estimator == AdvantageEstimator::ReinforcePp {
            self.advantages = self.returns.clone();
            return;
        }
        let whole: Vec<f64> = (0..self.episodes.len()).map(|i| self.rewards[self.range(i)].iter().sum()).collect();
        let per_response = match estimator {
            AdvantageEstimator::Rloo => group::rloo(&whole, &self.groups),
            AdvantageEstimator::Grpo => group::grpo(&whole, &self.groups, GRPO_EPS),
            _ => group::dr_grpo(&whole, &self.groups),
        };
        self.advantages = group::per_token(&per_response, &self.lengths);
    }

    fn ask_value_model(&mut self, options: GaeOptions) {
        for i in 0..self.episodes.len() {
            let range = self.range(i);
            let mask = vec![true; range.len()];
            // 0 after most answers that were cut off too: their score was replaced, there is nothing left to come.
            let bootstrap = self.passes.last_values[i];
            let got = gae(&self.rewards[range.clone()], &self.passes.values[range], &mask, bootstrap, options);
            self.advantages.extend(got.advantages);
            self.returns.extend(got.returns);
        }
    }
}
