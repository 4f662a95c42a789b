//! The scale of scores, and ensembles.
//!
//! The ranking loss is blind to a shift of all scores, and its scale is whatever fits the labelers' noise. PPO is not: the
//! KL penalty is in nats and is weighed against the score. So every reward model is served with a gain and a bias,
//! and is refused without them: InstructGPT sets the bias such that demonstrations score 0 on average (section 3.5);
//! Ziegler et al. also set the gain, such that samples of the reference policy have standard deviation 1, and then a
//! coefficient of the KL penalty keeps its meaning when the reward model is replaced.

/// The affine map from the raw output of a reward head to a score: `gain·raw + bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalization {
    /// Score units per raw unit; positive.
    pub gain: f64,
    /// Score of raw 0.
    pub bias: f64,
}

/// A standard deviation below this says that the model gives every answer the same score: no gain can repair that.
const STD_MIN: f64 = 1e-6;

impl Normalization {
    /// `score = gain·raw + bias`.
    #[must_use]
    pub fn apply(&self, raw: f64) -> f64 {
        self.gain * raw + self.bias
    }

    /// The map after which `raw` has mean 0; the scale stays.
    ///
    /// `gain = 1, bias = −mean(raw)`. Source: InstructGPT (arXiv 2203.02155) section 3.5.
    /// - `raw`: `[n]`, raw outputs for demonstrations.
    ///
    /// `None` without samples or when the mean is not finite.
    #[must_use]
    pub fn centred(raw: &[f64]) -> Option<Self> {
        let (mean, _) = mean_and_std(raw)?;
        Some(Normalization { gain: 1.0, bias: -mean })
    }

    /// The map after which `raw` has mean 0 and standard deviation 1.
    ///
    /// `gain = 1/std(raw), bias = −mean(raw)/std(raw)`, population standard deviation.
    /// Source: Ziegler et al. (arXiv 1909.08593) section 2.1 and `lm-human-preferences` `rewards.py:set_reward_norm`.
    /// - `raw`: `[n]`, raw outputs for samples of the reference policy.
    ///
    /// `None` without samples, when a moment is not finite, or when all outputs are equal.
    #[must_use]
    pub fn standardised(raw: &[f64]) -> Option<Self> {
        let (mean, std) = mean_and_std(raw)?;
        (std > STD_MIN).then(|| Normalization { gain: 1.0 / std, bias: -mean / std })
    }
}

fn mean_and_std(x: &[f64]) -> Option<(f64, f64)> {
    if x.is_empty() {
        return None;
    }
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    let std = variance.sqrt();
    (mean.is_finite() && std.is_finite()).then_some((mean, std))
}

/// What the members of an ensemble say together about one response.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EnsembleScore {
    /// Mean over the members.
    pub mean: f64,
    /// The most pessimistic member: worst-case optimisation.
    pub worst: f64,
    /// Population variance over the members: high means that the response is unlike what they were trained on.
    pub variance: f64,
}

impl EnsembleScore {
    /// Uncertainty-weighted optimisation: `mean − λ·variance`. Source: Coste et al. (arXiv 2310.02743) section 3.2.
    #[must_use]
    pub fn uncertainty_weighted(&self, lambda: f64) -> f64 {
        self.mean - lambda * self.variance
    }
}

/// Joins the members' scores of one response.
///
/// Source: Coste et al. (arXiv 2310.02743) section 3.2.
/// - `members`: `[m]`, normalised scores.
///
/// `None` for an empty ensemble.
#[must_use]
pub fn ensemble(members: &[f64]) -> Option<EnsembleScore> {
    if members.is_empty() {
        return None;
    }
    let n = members.len() as f64;
    let mean = members.iter().sum::<f64>() / n;
    let variance = members.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / n;
    let worst = members.iter().copied().fold(f64::INFINITY, f64::min);
    Some(EnsembleScore { mean, worst, variance })
}

#[cfg(test)]
mod tests {
    use super::{Normalization, ensemble};

    #[test]
    fn standardised_scores_have_mean_zero_and_std_one() {
        let raw = [3.0, -1.0, 4.0, 1.5];
        let map = Normalization::standardised(&raw).unwrap();
        let scores: Vec<f64> = raw.iter().map(|r| map.apply(*r)).collect();
        let mean = scores.iter().sum::<f64>() / 4.0;
        let variance = scores.iter().map(|s| s * s).sum::<f64>() / 4.0;
        assert!(mean.abs() < 1e-12 && (variance - 1.0).abs() < 1e-12, "mean {mean}, variance {variance}");
    }

    #[test]
    fn a_constant_reward_model_has_no_gain() {
        assert_eq!(Normalization::standardised(&[2.0, 2.0]), None);
        assert_eq!(Normalization::centred(&[2.0, 2.0]), Some(Normalization { gain: 1.0, bias: -2.0 }));
        assert_eq!(Normalization::centred(&[]), None);
        assert_eq!(Normalization::centred(&[f64::NAN]), None);
    }

    #[test]
    fn disagreement_lowers_the_uncertainty_weighted_score() {
        let agreed = ensemble(&[1.0, 1.0]).unwrap();
        let torn = ensemble(&[0.0, 2.0]).unwrap();
        assert_eq!(agreed.mean, torn.mean);
        assert!(torn.uncertainty_weighted(0.5) < agreed.uncertainty_weighted(0.5));
        assert_eq!(torn.worst, 0.0);
    }
}
