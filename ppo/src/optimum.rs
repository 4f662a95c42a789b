//! What PPO with a KL penalty should find, where that can be computed.
//!
//! The maximum of E_π\[r\] − β·KL(π ‖ π_ref) has a closed form, and in a world that can be enumerated it is a number: the
//! judge of every trainer (Korbak et al., arXiv 2205.11275).

/// The policy that maximises `E_π[r] − β·KL(π ‖ π_ref)`, and how well it does.
#[derive(Clone, Debug, PartialEq)]
pub struct KlRegularisedOptimum {
    /// π*, `[n]`.
    pub probs: Vec<f64>,
    /// ln Z.
    pub log_normaliser: f64,
    /// β·ln Z: the best objective there is, score units.
    pub objective: f64,
    /// KL(π* ‖ π_ref), nats.
    pub kl: f64,
    /// E_π*\[r\], score units.
    pub expected_reward: f64,
}

/// `E_π[r] − β·KL(π ‖ π_ref)` for one prompt whose responses can be enumerated, score units.
///
/// - `probs`, `reference`: `[n]`, probabilities; `rewards`: `[n]`, score units; `kl_coef`: β, per nat.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn objective(probs: &[f64], reference: &[f64], rewards: &[f64], kl_coef: f64) -> f64 {
    assert_eq!((probs.len(), reference.len()), (rewards.len(), rewards.len()), "one probability per response");
    let reward: f64 = probs.iter().zip(rewards).map(|(p, r)| p * r).sum();
    reward - kl_coef * divergence(probs, reference)
}

/// KL(p ‖ q) = Σ p·ln(p/q), nats; a response that p never gives counts 0.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn divergence(p: &[f64], q: &[f64]) -> f64 {
    assert_eq!(p.len(), q.len(), "two distributions over the same responses");
    p.iter().zip(q).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * (p / q).ln()).sum()
}

/// The optimum in closed form.
///
/// `π*(y) = π_ref(y)·e^{r(y)/β}/Z`, with objective `β·ln Z`.
/// Source: Korbak et al. (arXiv 2205.11275) equation 5.
/// - `reference`: `[n]`, probabilities; `rewards`: `[n]`, score units; `kl_coef`: β > 0, per nat.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn kl_regularised_optimum(reference: &[f64], rewards: &[f64], kl_coef: f64) -> KlRegularisedOptimum {
    assert_eq!(reference.len(), rewards.len(), "one probability per response");
    let log_weights: Vec<f64> = reference.iter().zip(rewards).map(|(q, r)| q.ln() + r / kl_coef).collect();
    let max = log_weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_normaliser = max + log_weights.iter().map(|w| (w - max).exp()).sum::<f64>().ln();
    let probs: Vec<f64> = log_weights.iter().map(|w| (w - log_normaliser).exp()).collect();
    KlRegularisedOptimum {
        log_normaliser,
        objective: kl_coef * log_normaliser,
        kl: divergence(&probs, reference),
        expected_reward: probs.iter().zip(rewards).map(|(p, r)| p * r).sum(),
        probs,
    }
}

#[cfg(test)]
mod tests {
    use super::{kl_regularised_optimum, objective};

    #[test]
    fn nothing_beats_the_optimum() {
        let (reference, rewards) = ([0.5, 0.3, 0.2], [0.0, 1.0, -2.0]);
        let best = kl_regularised_optimum(&reference, &rewards, 0.4);
        assert!((objective(&best.probs, &reference, &rewards, 0.4) - best.objective).abs() < 1e-12);
        for other in [[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.2, 0.75, 0.05]] {
            assert!(objective(&other, &reference, &rewards, 0.4) < best.objective);
        }
    }
}
