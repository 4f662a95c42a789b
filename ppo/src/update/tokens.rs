//! The tokens of one micro-batch, gathered from the flat vectors of the round.

use std::ops::Range;

use crate::{
    experience::{Experience, Proximal},
    loss::{ApproxKl, KlPenalty, PolicyClip, PolicyLoss, PolicyTokens, ValueTokens, policy_loss},
    off_policy::{ImportanceMode, ImportanceWeights, LogLinear},
};

/// What the losses take of them.
pub(super) struct Tokens {
    centre: Centre,
    reference: Vec<f64>,
    advantages: Vec<f64>,
    old_values: Vec<f64>,
    returns: Vec<f64>,
    coefficients: Vec<f64>,
    /// All of them: what does not train weighs 0.
    pub(super) mask: Vec<bool>,
    penalty: Option<KlPenalty>,
}

/// Where the trust region is, and who drew the tokens.
enum Centre {
    Known {
        /// ℓ_old: the policy at the start of the round.
        old: Vec<f64>,
        /// What the clipped ratio is centred on: old, or behavior with `ppo.importance = "bypass"`.
        proximal: Vec<f64>,
        weights: Vec<f64>,
    },
    LogLinear {
        behavior: Vec<f64>,
        drawn: Vec<f64>,
        staleness: Vec<u64>,
        mode: ImportanceMode,
    },
}

/// What some tokens came to, with their log-probs now.
pub(super) struct Reading {
    pub(super) loss: PolicyLoss,
    /// How far the policy has gone since the round began, whatever the clip is centred on: how stale rollouts are is no distance
    /// that the round has made. Where ℓ_old is a guess, so is this.
    pub(super) kl: ApproxKl,
    /// Their weights, where the round did not know them before.
    pub(super) importance: Option<ImportanceWeights>,
}

impl Tokens {
    /// Those of these episodes; `coefficients` are flat over the whole round.
    pub(super) fn gather(experience: &Experience, coefficients: &[f64], members: &[usize]) -> Tokens {
        let gather =
            |x: &[f64]| -> Vec<f64> { members.iter().flat_map(|i| x[experience.range(*i)].iter().copied()).collect() };
        let coefficients = gather(coefficients);
        let episodes = || members.iter().map(|i| &experience.episodes[*i]);
        let centre = match &experience.proximal {
            Proximal::LogLinear(mode) => Centre::LogLinear {
                behavior: episodes().flat_map(|episode| episode.behavior.iter().copied()).collect(),
                drawn: gather(&experience.old_or_drawn),
                staleness: episodes().flat_map(|e| std::iter::repeat_n(e.staleness, e.n_tokens())).collect(),
                mode: *mode,
            },
            Proximal::Known { log_probs, importance } => Centre::Known {
                old: gather(&experience.old_or_drawn),
                proximal: gather(log_probs),
                weights: gather(&importance.weights),
            },
        };
        Tokens {
            centre,
            reference: gather(&experience.passes.reference),
            advantages: gather(&experience.whitened),
            old_values: gather(&experience.passes.values),
            returns: gather(&experience.returns),
            mask: vec![true; coefficients.len()],
            coefficients,
            penalty: experience.kl_penalty,
        }
    }

    /// Loss and numbers of some of them, with their log-probs now.
    pub(super) fn read(&self, range: &Range<usize>, log_probs: &[f64], clip: PolicyClip) -> Reading {
        let mask = &self.mask[range.clone()];
        match &self.centre {
            Centre::Known { old, proximal, weights } => {
                let [old, proximal, weights] = [old, proximal, weights].map(|x| &x[range.clone()]);
                let loss = self.policy_loss(range, log_probs, (proximal, weights), clip);
                Reading { loss, kl: ApproxKl::of(log_probs, old, mask), importance: None }
            }
            Centre::LogLinear { behavior, drawn, staleness, mode } => {
                let [behavior, drawn] = [behavior, drawn].map(|x| &x[range.clone()]);
                let tokens = LogLinear { behavior, drawn, staleness: &staleness[range.clone()] };
                let proximal = tokens.proximal(log_probs);
                let importance = tokens.weights(&proximal, mask, *mode);
                let loss = self.policy_loss(range, log_probs, (&proximal, &importance.weights), clip);
                Reading { loss, kl: ApproxKl::of(log_probs, &proximal, mask), importance: Some(importance) }
            }
        }
    }

    /// The KL penalty is in it where `ppo.kl_in` says so. Centre and weights are constants.
    fn policy_loss(
        &self,
        range: &Range<usize>,
        log_probs: &[f64],
        (proximal, weights): (&[f64], &[f64]),
        clip: PolicyClip,
    ) -> PolicyLoss {
        let tokens = PolicyTokens {
            log_probs,
            old: proximal,
            advantages: &self.advantages[range.clone()],
            weights,
            coefficients: &self.coefficients[range.clone()],
            mask: &self.mask[range.clone()],
        };
        let mut loss = policy_loss(tokens, clip);
        if let Some(penalty) = self.penalty {
            penalty.add_to(&mut loss, tokens, &self.reference[range.clone()]);
        }
        loss
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
