//! The KL penalty as a loss of its own, beside the policy loss.
//!
//! GRPO (arXiv 2402.03300) and REINFORCE++-baseline (2501.03262) compare bare scores and hold the policy near its reference
//! with a second term of the loss. On-policy, k2 there has the gradient that k1 in the reward has; k3, which DeepSeek takes,
//! pulls along the *other* KL (see [`kl`](crate::kl)); k1 has no gradient in expectation, and `config` refuses it.

use crate::{
    kl::KlEstimator,
    loss::{LOG_RATIO_MAX, PolicyLoss, PolicyTokens},
};

/// What leaving the reference costs in the loss (`ppo.kl_in = "loss"`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KlPenalty {
    /// k2 or k3.
    pub estimator: KlEstimator,
    /// β, per nat.
    pub coef: f64,
}

impl KlPenalty {
    /// Adds the penalty to a policy loss of the same tokens.
    ///
    /// `loss += Σ c_t·w_t·β·k(ℓ_t − ℓ_ref,t)`, k by the estimator.
    /// Source: DeepSeekMath (arXiv 2402.03300) equations 3 and 4 (k3); Hu (arXiv 2501.03262) section 3.3 (k2); the weight against
    /// the policy that drew the tokens: arXiv 2510.01555.
    /// - `tokens`: as the policy loss took them; `reference`: `[n]`, f64, nats, at the same temperatures.
    ///
    /// Gradients stop at reference and weights. Log-ratios beyond ±20 count as ±20, in loss and slope: the pull stays.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn add_to(self, loss: &mut PolicyLoss, tokens: PolicyTokens<'_>, reference: &[f64]) {
        let n = tokens.mask.len();
        assert_eq!((tokens.log_probs.len(), reference.len()), (n, n), "one mask entry per token");
        for t in (0..n).filter(|t| tokens.mask[*t]) {
            let divergence = (tokens.log_probs[t] - reference[t]).clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX);
            let scale = self.coef * tokens.coefficients[t] * tokens.weights[t];
            loss.loss += scale * self.estimator.value(divergence);
            loss.grad[t] += scale * self.estimator.gradient(divergence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::KlPenalty;
    use crate::{
        kl::KlEstimator,
        loss::{PolicyClip, PolicyLoss, PolicyTokens, policy_loss},
    };

    const REFERENCE: [f64; 4] = [-1.0, -0.4, -2.5, -900.0];

    fn penalised(log_probs: &[f64], estimator: KlEstimator) -> PolicyLoss {
        let tokens = PolicyTokens {
            log_probs,
            old: &[-1.0, -0.5, -2.0, -3.0],
            advantages: &[1.0, -0.5, 0.0, 0.0],
            weights: &[1.0, 0.5, 2.0, 0.0],
            coefficients: &[0.25; 4],
            mask: &[true, true, true, true],
        };
        let mut loss = policy_loss(tokens, PolicyClip { low: 0.2, high: 0.2, dual: None });
        KlPenalty { estimator, coef: 0.3 }.add_to(&mut loss, tokens, &REFERENCE);
        loss
    }

    /// Goal: value and slope are the formula's. Method: k2 of one token by hand, and central differences of both estimators.
    #[test]
    fn the_gradient_is_the_finite_difference() {
        let at = [-1.1, -0.6, -2.1, -3.0];
        for estimator in [KlEstimator::K2, KlEstimator::K3] {
            let analytic = penalised(&at, estimator).grad;
            for t in 0..4 {
                let moved = |delta: f64| {
                    let mut log_probs = at;
                    log_probs[t] += delta;
                    penalised(&log_probs, estimator).loss
                };
                let numeric = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((numeric - analytic[t]).abs() < 1e-8, "{estimator:?}, token {t}: {numeric}, {}", analytic[t]);
            }
        }
        // The third token has no advantage: 0.3·0.25·2·(−2.1 + 2.5).
        assert!((penalised(&at, KlEstimator::K2).grad[2] - 0.06).abs() < 1e-12);
    }

    #[test]
    fn what_was_filtered_pays_nothing_and_the_far_away_pull_is_finite() {
        let far = penalised(&[-1.0, -0.5, -800.0, -3.0], KlEstimator::K3);
        assert!(far.loss.is_finite() && far.grad.iter().all(|slope| slope.is_finite()));
        assert_eq!(far.grad[3], 0.0, "its weight is 0");
        assert!(far.grad[2] < -1e6, "it pulls back up");
    }
}
