//! The pretraining mix of PPO-ptx.
//!
//! RLHF forgets: skills that no reward asks for fade, and the KL penalty cannot stop it, for it only sees the prompts of
//! the traffic. InstructGPT adds the next-token loss on pretraining text to every step (section 3.5, "PPO-ptx"). The term
//! has no ratio, no clip, no advantage, no KL: it is plain language modelling.

use crate::masked;

/// Loss and gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct PretrainingLoss {
    /// Mean negative log-likelihood, nats per token; without γ.
    pub nll: f64,
    /// γ·nll: what is added to the policy loss.
    pub loss: f64,
    /// d loss / d ℓ_t, `[n]`; 0 where the mask is false.
    pub grad: Vec<f64>,
}

/// The term that is added to the policy loss.
///
/// `loss = γ·(−1/n Σ_t ℓ_t)`.
/// Source: InstructGPT (arXiv 2203.02155) equation 2. The paper does not say how its sum is normalised, so its γ of 27.8
/// does not transfer; ours is a token mean, like the policy loss.
/// - `log_probs`: `[n]`, f64, nats, of the pretraining tokens at temperature 1; `mask`: `[n]`;
/// - `coef`: γ.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn pretraining_loss(log_probs: &[f64], mask: &[bool], coef: f64) -> PretrainingLoss {
    let nll = -masked::mean(log_probs, mask);
    let slope = -coef / masked::count(mask).max(1) as f64;
    let grad = mask.iter().map(|keep| if *keep { slope } else { 0.0 }).collect();
    PretrainingLoss { nll, loss: coef * nll, grad }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_token_is_pulled_up_alike() {
        let got = super::pretraining_loss(&[-1.0, -3.0, f64::NAN], &[true, true, false], 0.5);
        assert_eq!((got.nll, got.loss), (2.0, 1.0));
        assert_eq!(got.grad, vec![-0.25, -0.25, 0.0]);
    }
}
