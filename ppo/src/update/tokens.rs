//! The tokens of one micro-batch, gathered from the flat vectors of the round.

use std::ops::Range;

use crate::{
    experience::Experience,
    loss::{ApproxKl, KlPenalty, PolicyClip, PolicyLoss, PolicyTokens, ValueTokens, policy_loss},
};

/// What the losses take of them.
pub(super) struct Tokens {
    /// ℓ_old: the policy at the start of the round.
    old: Vec<f64>,
    /// What the clipped ratio is centred on: old, or behavior with `ppo.importance = "bypass"`.
    proximal: Vec<f64>,
    reference: Vec<f64>,
    advantages: Vec<f64>,
    weights: Vec<f64>,
    old_values: Vec<f64>,
    returns: Vec<f64>,
    coefficients: Vec<f64>,
    /// All of them: what does not train weighs 0.
    pub(super) mask: Vec<bool>,
    penalty: Option<KlPenalty>,
}

impl Tokens {
    /// Those of these episodes; `coefficients` are flat over the whole round.
    pub(super) fn gather(experience: &Experience, coefficients: &[f64], members: &[usize]) -> Tokens {
        let gather =
            |x: &[f64]| -> Vec<f64> { members.iter().flat_map(|i| x[experience.range(*i)].iter().copied()).collect() };
        let coefficients = gather(coefficients);
        Tokens {
            old: gather(&experience.passes.old),
            proximal: gather(&experience.proximal),
            reference: gather(&experience.passes.reference),
            advantages: gather(&experience.whitened),
            weights: gather(&experience.importance.weights),
            old_values: gather(&experience.passes.values),
            returns: gather(&experience.returns),
            mask: vec![true; coefficients.len()],
            coefficients,
            penalty: experience.kl_penalty,
        }
    }

    /// Loss of some of them, with their log-probs now; the KL penalty is in it where `ppo.kl_in` says so.
    pub(super) fn policy_loss(&self, range: &Range<usize>, log_probs: &[f64], clip: PolicyClip) -> PolicyLoss {
        let tokens = PolicyTokens {
            log_probs,
            old: &self.proximal[range.clone()],
            advantages: &self.advantages[range.clone()],
            weights: &self.weights[range.clone()],
            coefficients: &self.coefficients[range.clone()],
            mask: &self.mask[range.clone()],
        };
        let mut loss = policy_loss(tokens, clip);
        if let Some(penalty) = self.penalty {
            penalty.add_to(&mut loss, tokens, &self.reference[range.clone()]);
        }
        loss
    }

    /// How far the policy has gone since the round began, whatever the clip is centred on: how stale rollouts are is no
    /// distance that the round has made.
    pub(super) fn approx_kl(&self, range: &Range<usize>, log_probs: &[f64]) -> ApproxKl {
        ApproxKl::of(log_probs, &self.old[range.clone()], &self.mask[range.clone()])
    }

    /// Slopes of the entropy bonus −c·Σ c_t·H_t (`ppo.entropy_coef`); none when it is off.
    pub(super) fn bonus(&self, range: &Range<usize>, config: &config::Ppo) -> Vec<f32> {
        match config.entropy_coef {
            0.0 => Vec::new(),
            coef => self.coefficients[range.clone()].iter().map(|c| (-coef * c) as f32).collect(),
        }
    }

    pub(super) fn value<'a>(&'a self, values: &'a [f64]) -> ValueTokens<'a> {
        ValueTokens {
            values,
            old: &self.old_values,
            returns: &self.returns,
            coefficients: &self.coefficients,
            mask: &self.mask,
        }
    }
}
