//! The clipped surrogate of the policy.
//!
//! The clip is pessimistic: of the plain and the clipped objective it takes the *worse*, so a step is never rewarded for
//! leaving the trust region, and one that left it in the wrong direction is always pulled back. With weights against the
//! behavior policy it becomes the decoupled objective (Hilton et al., arXiv 2110.00641; AReaL, arXiv 2505.24298): the
//! *trust region* is around the policy at the start of the update, the *correction* is for the policy that drew the tokens.

use crate::{
    kl::KlEstimator,
    loss::{LOG_RATIO_MAX, ratio},
    masked,
};

/// What the policy loss is computed from; every slice is `[n]`, flat, sequence after sequence.
#[derive(Clone, Copy, Debug)]
pub struct PolicyTokens<'a> {
    /// ℓ of the weights under gradient, nats.
    pub log_probs: &'a [f64],
    /// What the ratio is centred on, nats: ℓ_old of the weights at the start of the update or a guess of it (`ppo.proximal`), or with
    /// `ppo.importance = "bypass"` the log-prob that the token was drawn with.
    pub old: &'a [f64],
    /// A, whitened.
    pub advantages: &'a [f64],
    /// w, the weight against the behavior policy: 1 on-policy, 0 filtered.
    pub weights: &'a [f64],
    /// From [`Aggregation::coefficients`](crate::loss::Aggregation::coefficients).
    pub coefficients: &'a [f64],
    /// The tokens that count.
    pub mask: &'a [bool],
}

/// The trust region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyClip {
    /// The ratio counts down to 1 − this.
    pub low: f64,
    /// The ratio counts up to 1 + this.
    pub high: f64,
    /// For A < 0 the loss counts up to −A times this (arXiv 1912.09729).
    pub dual: Option<f64>,
}

impl PolicyClip {
    /// The configured one.
    #[must_use]
    pub fn of(config: &config::Ppo) -> PolicyClip {
        let dual = (config.dual_clip > 0.0).then_some(config.dual_clip);
        PolicyClip { low: config.clip_low, high: config.clip_high, dual }
    }
}

/// Loss, gradient and what to watch.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyLoss {
    /// Σ_t c_t·w_t·l_t.
    pub loss: f64,
    /// d loss / d ℓ_t, `[n]`; 0 where the mask is false.
    pub grad: Vec<f64>,
    /// l_t before weight and coefficient, `[n]`.
    pub per_token: Vec<f64>,
    /// π/π_old, `[n]`; 0 where the mask is false.
    pub ratios: Vec<f64>,
    /// Tokens of the mask: what the fractions and means below divide by.
    pub n_tokens: usize,
    /// Share of tokens whose clipped objective was the worse one.
    pub clip_fraction: f64,
    /// The part of it at 1 + ε_hi, where a good token became likelier.
    pub clip_fraction_high: f64,
    /// Share of tokens that the dual clip stopped.
    pub dual_clip_fraction: f64,
}

/// How far a policy has gone from an older one whose samples these are: means over the mask, nats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ApproxKl {
    /// Mean of ℓ_old − ℓ: KL(π_old ‖ π), may be negative.
    pub k1: f64,
    /// Mean of (ℓ − ℓ_old)²/2 (`lm-human-preferences` `approxkl`).
    pub k2: f64,
    /// Mean of e^(ℓ − ℓ_old) − 1 − (ℓ − ℓ_old): never negative.
    pub k3: f64,
}

impl ApproxKl {
    /// KL(π_old ‖ π) by its three estimators (Schulman, "Approximating KL divergence", 2020).
    ///
    /// - `log_probs`, `old`: `[n]`, nats; `mask`: `[n]`.
    ///
    /// Log-ratios beyond ±20 are clamped before `exp`.
    ///
    /// # Panics
    /// When the lengths differ.
    #[must_use]
    pub fn of(log_probs: &[f64], old: &[f64], mask: &[bool]) -> ApproxKl {
        assert_eq!((log_probs.len(), old.len()), (mask.len(), mask.len()), "one mask entry per token");
        let mut sum = ApproxKl::default();
        for t in (0..mask.len()).filter(|t| mask[*t]) {
            // The samples are old's, so its estimators see old as the policy and the new one as the reference.
            let divergence = old[t] - log_probs[t];
            sum.k1 += KlEstimator::K1.value(divergence);
            sum.k2 += KlEstimator::K2.value(divergence);
            sum.k3 += bounded_k3(divergence);
        }
        let mean = 1.0 / masked::count(mask).max(1) as f64;
        ApproxKl { k1: sum.k1 * mean, k2: sum.k2 * mean, k3: sum.k3 * mean }
    }
}

/// k3 of a log-ratio, policy less reference, that is clamped before `exp`.
pub(crate) fn bounded_k3(divergence: f64) -> f64 {
    KlEstimator::K3.value(divergence.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX))
}

/// PPO's policy loss.
///
/// `ρ = exp(ℓ − ℓ_old); l = max(−A·ρ, −A·clip(ρ, 1 − ε_lo, 1 + ε_hi)); A < 0: l = min(l, −A·c); loss = Σ c_t·w_t·l_t`.
/// Source: Schulman et al. (arXiv 1707.06347) equation 7; clip-higher: DAPO (arXiv 2503.14476); dual clip:
/// arXiv 1912.09729 equation 5; weights: Hilton et al. (arXiv 2110.00641), AReaL (arXiv 2505.24298) section 5.2.
/// - `tokens`: `[n]` each, f64, t over response tokens; log-probs at the temperature of the sample;
/// - `clip`: ε_lo, ε_hi, c.
///
/// Gradients stop at old log-probs, advantages and weights, and where the clip wins. Where both branches are equal the
/// plain one counts, so at ℓ = ℓ_old the gradient is the plain policy gradient −A. Log-ratios beyond ±20 are clamped
/// before `exp` and have no gradient.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn policy_loss(tokens: PolicyTokens<'_>, clip: PolicyClip) -> PolicyLoss {
    let n = tokens.mask.len();
    let lengths = [tokens.log_probs, tokens.old, tokens.advantages, tokens.weights, tokens.coefficients];
    assert!(lengths.iter().all(|x| x.len() == n), "every slice has one entry per token");
    let mut result = PolicyLoss {
        loss: 0.0,
        grad: vec![0.0; n],
        per_token: vec![0.0; n],
        ratios: vec![0.0; n],
        n_tokens: masked::count(tokens.mask),
        clip_fraction: 0.0,
        clip_fraction_high: 0.0,
        dual_clip_fraction: 0.0,
    };
    for t in (0..n).filter(|t| tokens.mask[*t]) {
        add_token(&mut result, &tokens, clip, t);
    }
    let mean = 1.0 / result.n_tokens.max(1) as f64;
    for sum in [&mut result.clip_fraction, &mut result.clip_fraction_high, &mut result.dual_clip_fraction] {
        *sum *= mean;
    }
    result
}

fn add_token(sum: &mut PolicyLoss, tokens: &PolicyTokens<'_>, clip: PolicyClip, t: usize) {
    let advantage = tokens.advantages[t];
    let divergence = tokens.old[t] - tokens.log_probs[t];
    let rho = ratio(-divergence);
    let plain = -advantage * rho;
    let clipped = -advantage * rho.clamp(1.0 - clip.low, 1.0 + clip.high);
    let mut loss = plain.max(clipped);
    let mut slope = if plain >= clipped && divergence.abs() <= LOG_RATIO_MAX { plain } else { 0.0 };
    sum.clip_fraction += f64::from(u8::from(clipped > plain));
    sum.clip_fraction_high += f64::from(u8::from(clipped > plain && rho > 1.0));
    if let Some(bound) = clip.dual.map(|c| -advantage * c).filter(|bound| advantage < 0.0 && *bound < loss) {
        loss = bound;
        slope = 0.0;
        sum.dual_clip_fraction += 1.0;
    }
    let scale = tokens.coefficients[t] * tokens.weights[t];
    sum.loss += scale * loss;
    sum.grad[t] = scale * slope;
    sum.per_token[t] = loss;
    sum.ratios[t] = rho;
}

#[cfg(test)]
mod tests;
