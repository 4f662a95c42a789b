//! How far the policy is from its reference, and what that costs.
//!
//! With samples y ~ π and D = ln π(y) − ln π_ref(y), three estimators of KL(π ‖ π_ref) are in use (Schulman, "Approximating
//! KL divergence", 2020): k1 = D, k2 = D²/2, k3 = e^−D − 1 + D. As *numbers* k1 and k3 are unbiased, and k3 is never negative
//! and has less variance. As *losses* they are three different things, and this is where implementations go wrong: the
//! expected gradient of k1 is zero, that of k2 is the gradient of KL(π ‖ π_ref), and that of k3 is the gradient of the
//! *other* KL, KL(π_ref ‖ π) (arXiv 2510.01555). So the penalty is paid as k1 inside the reward of every token, where the
//! policy gradient turns it into the right direction, and k3 is reported. Who asks for the sources' losses gets them
//! (`ppo.kl_in`).
//!
//! The penalty's coefficient may follow a controller that holds the KL near a target (Ziegler et al., section 2.2). It
//! counts *episodes*: counting tokens or steps instead makes its horizon mean something else for every batch size.

use crate::masked;

/// One of Schulman's estimators of KL(π ‖ π_ref) from a sample of π.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KlEstimator {
    /// `D`: unbiased, high variance, may be negative.
    K1,
    /// `D²/2`: biased, low variance.
    K2,
    /// `e^−D − 1 + D`: unbiased, never negative.
    K3,
}

impl KlEstimator {
    /// The configured one (`ppo.kl_estimator`).
    ///
    /// # Panics
    /// When the word is none of those that `config` admits.
    #[must_use]
    pub fn of(config: &config::Ppo) -> KlEstimator {
        match config.kl_estimator.as_str() {
            "k1" => KlEstimator::K1,
            "k2" => KlEstimator::K2,
            "k3" => KlEstimator::K3,
            other => panic!("config has checked the words of ppo.kl_estimator, got {other}"),
        }
    }

    /// The estimate from `D = log_prob − reference`, nats.
    ///
    /// Source: Schulman, "Approximating KL divergence" (2020).
    #[must_use]
    pub fn value(self, d: f64) -> f64 {
        match self {
            KlEstimator::K1 => d,
            KlEstimator::K2 => 0.5 * d * d,
            // exp_m1 keeps the digits that `exp(-d) - 1` cancels when the policies are close.
            KlEstimator::K3 => (-d).exp_m1() + d,
        }
    }

    /// The derivative of the estimate in `log_prob` when it is used *as a loss*; the reference is constant.
    ///
    /// `dk1 = 1, dk2 = D, dk3 = 1 − e^−D`. Only k2's has the gradient of KL(π ‖ π_ref) as expectation (arXiv 2510.01555).
    #[must_use]
    pub fn gradient(self, d: f64) -> f64 {
        match self {
            KlEstimator::K1 => 1.0,
            KlEstimator::K2 => d,
            KlEstimator::K3 => -(-d).exp_m1(),
        }
    }
}

/// The estimate for every token.
///
/// - `log_probs`, `reference`: `[n]`, nats; `mask`: `[n]`.
///
/// Returns `[n]`; 0 where the mask is false, whatever stands there.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn per_token(estimator: KlEstimator, log_probs: &[f64], reference: &[f64], mask: &[bool]) -> Vec<f64> {
    assert_eq!((log_probs.len(), reference.len()), (mask.len(), mask.len()), "one mask entry per token");
    let pairs = log_probs.iter().zip(reference);
    pairs.zip(mask).map(|((l, r), keep)| if *keep { estimator.value(l - r) } else { 0.0 }).collect()
}

/// Σ_t k1 of every sequence, nats per episode: the KL that the controller and every chart speak of.
///
/// - `log_probs`, `reference`, `mask`: `[n]` flat, sequence after sequence; `lengths`: tokens of each, Σ = n.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn per_sequence(log_probs: &[f64], reference: &[f64], mask: &[bool], lengths: &[usize]) -> Vec<f64> {
    let k1 = per_token(KlEstimator::K1, log_probs, reference, mask);
    masked::split(&k1, lengths).map(|sequence| sequence.iter().sum()).collect()
}

/// Relative error beyond which the controller pays no attention (Ziegler et al.: 0.2).
const ERROR_MAX: f64 = 0.2;
/// The coefficient stays within this factor of where it started.
const RANGE: f64 = 10.0;

/// The coefficient β of the KL penalty, moved so that the KL approaches a target.
///
/// `e = clip(KL/target − 1, ±0.2); β ← β·(1 + e·n/horizon)`.
/// Source: Ziegler et al. (arXiv 1909.08593) section 2.2, `lm-human-preferences` `AdaptiveKLController`. Differs in
/// that β stays within a factor of 10 of its start: a policy that cannot be held must be stopped, not punished ever harder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveKl {
    coef: f64,
    start: f64,
    target: f64,
    horizon: f64,
}

impl AdaptiveKl {
    /// `start`: first β, per nat; `target`: nats per episode; `horizon`: episodes.
    #[must_use]
    pub fn new(start: f64, target: f64, horizon: u64) -> Self {
        AdaptiveKl { coef: start, start, target, horizon: horizon as f64 }
    }

    /// The controller with its coefficient put back to where an earlier one had it.
    #[must_use]
    pub fn resumed(self, coef: f64) -> Self {
        AdaptiveKl { coef: coef.clamp(self.start / RANGE, self.start * RANGE), ..self }
    }

    /// β, per nat.
    #[must_use]
    pub fn coef(&self) -> f64 {
        self.coef
    }

    /// Moves β after a round.
    ///
    /// - `kl`: mean over the episodes of Σ_t k1, nats; may be negative. A KL that is not finite moves nothing.
    /// - `n_episodes`: episodes of the round.
    pub fn update(&mut self, kl: f64, n_episodes: usize) {
        if !kl.is_finite() {
            return;
        }
        let error = (kl / self.target - 1.0).clamp(-ERROR_MAX, ERROR_MAX);
        let moved = self.coef * (1.0 + error * n_episodes as f64 / self.horizon);
        self.coef = moved.clamp(self.start / RANGE, self.start * RANGE);
    }
}

#[cfg(test)]
mod tests {
    use super::{AdaptiveKl, KlEstimator, per_sequence, per_token};

    #[test]
    fn equal_policies_have_no_divergence() {
        let l = [-0.3, -2.0, -7.5];
        for estimator in [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3] {
            assert_eq!(per_token(estimator, &l, &l, &[true; 3]), vec![0.0; 3]);
        }
    }

    #[test]
    fn k3_is_never_negative_and_keeps_its_digits_near_zero() {
        for d in [-3.0, -1e-3, 1e-3, 2.0] {
            assert!(KlEstimator::K3.value(d) > 0.0);
        }
        let tiny = 1e-6_f64;
        let exact = tiny * tiny / 2.0;
        assert!((KlEstimator::K3.value(tiny) / exact - 1.0).abs() < 1e-3, "k3 approaches D²/2");
    }

    #[test]
    fn what_the_mask_hides_does_not_count() {
        let kl = per_sequence(&[-1.0, f64::NAN, -2.0], &[-1.5, 0.0, -1.0], &[true, false, true], &[2, 1]);
        assert_eq!(kl, vec![0.5, -1.0]);
    }

    #[test]
    fn the_coefficient_rises_above_the_target_and_falls_below_it() {
        let start = AdaptiveKl::new(0.05, 6.0, 10_000);
        let (mut high, mut low, mut blind) = (start, start, start);
        high.update(12.0, 128);
        low.update(-1.0, 128);
        blind.update(f64::NAN, 128);
        assert!(high.coef() > 0.05 && low.coef() < 0.05);
        assert_eq!(blind.coef(), 0.05);
        for _ in 0..10_000 {
            high.update(100.0, 512);
            low.update(-100.0, 512);
        }
        assert_eq!((high.coef(), low.coef()), (0.5, 0.005));
        assert_eq!(start.resumed(7.0).coef(), 0.5);
    }
}
