//! The scale of scores.
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

    /// The gain of this map with the zero of `centre`: standard deviation 1 on one set of answers, mean 0 on another.
    ///
    /// `gain = self.gain, bias = self.gain·centre.bias`, for a `centre` from [`Normalization::centred`].
    #[must_use]
    pub fn shifted_to(self, centre: Normalization) -> Self {
        Normalization { gain: self.gain, bias: self.gain * centre.bias / centre.gain }
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

#[cfg(test)]
mod tests {
    use super::Normalization;

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
    fn a_scale_from_samples_can_have_its_zero_at_demonstrations() {
        let (samples, demonstrations) = ([3.0, -1.0, 4.0, 1.5], [5.0, 7.0]);
        let scale = Normalization::standardised(&samples).unwrap();
        let map = scale.shifted_to(Normalization::centred(&demonstrations).unwrap());
        assert_eq!(map.gain, scale.gain);
        assert!((map.apply(5.0) + map.apply(7.0)).abs() < 1e-12);
    }

    #[test]
    fn a_constant_reward_model_has_no_gain() {
        assert_eq!(Normalization::standardised(&[2.0, 2.0]), None);
        assert_eq!(Normalization::centred(&[2.0, 2.0]), Some(Normalization { gain: 1.0, bias: -2.0 }));
        assert_eq!(Normalization::centred(&[]), None);
        assert_eq!(Normalization::centred(&[f64::NAN]), None);
    }
}
