//! What says whether it is getting better.

/// How well score gaps predict which of two responses a person prefers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairAgreement {
    /// Share of pairs whose preferred response scores strictly higher; an equal score is wrong.
    pub accuracy: f64,
    /// Mean −ln of the probability given to what was preferred, nats.
    pub log_loss: f64,
    /// Expected calibration error: mean distance of confidence and accuracy over bins, weighted by pairs.
    pub calibration_error: f64,
}

/// Accuracy, log loss and calibration of a reward model.
///
/// `P(a ≻ b) = σ(gap); confidence = σ(|gap|)` in [0.5, 1], cut into `n_bins` equal bins.
/// Source: InstructGPT (arXiv 2203.02155) E.2 for accuracy; Guo et al. (arXiv 1706.04599) for calibration error.
/// - `gaps`: `[n]`, score of a minus score of b; `a_preferred`: `[n]`.
///
/// `None` without pairs or bins.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn pair_agreement(gaps: &[f64], a_preferred: &[bool], n_bins: usize) -> Option<PairAgreement> {
    assert_eq!(gaps.len(), a_preferred.len(), "one preference per pair");
    if gaps.is_empty() || n_bins == 0 {
        return None;
    }
    let mut bins = vec![(0.0, 0.0); n_bins];
    let (mut n_right, mut log_loss) = (0.0, 0.0);
    for (gap, preferred) in gaps.iter().zip(a_preferred) {
        let signed = if *preferred { *gap } else { -gap };
        let right = f64::from(u8::from(signed > 0.0));
        let confidence = reward::ranking::sigmoid(gap.abs());
        let bin = (((confidence - 0.5) * 2.0 * n_bins as f64) as usize).min(n_bins - 1);
        bins[bin].0 += confidence;
        bins[bin].1 += right;
        n_right += right;
        log_loss += reward::ranking::softplus(-signed);
    }
    let n = gaps.len() as f64;
    // |Σ confidence − Σ right| is the bin's count times the distance of its means.
    let calibration_error = bins.iter().map(|(confidence, right)| (confidence - right).abs()).sum::<f64>() / n;
    Some(PairAgreement { accuracy: n_right / n, log_loss: log_loss / n, calibration_error })
}

/// A win rate with its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WinRate {
    /// Wins plus half the ties, over all comparisons.
    pub rate: f64,
    /// Standard error of the mean.
    pub stderr: f64,
    /// Normal 95 % interval; may leave [0, 1] for extreme rates.
    pub ci95: (f64, f64),
}

/// Two-sided 95 % of the normal distribution, as everybody rounds it.
const Z_95: f64 = 1.96;

/// Win rate of one policy against another; a tie counts half.
///
/// `rate = (wins + ties/2)/n; stderr = sqrt(Var/n)`, population variance of the outcomes 1, ½, 0.
/// `None` without comparisons.
#[must_use]
pub fn win_rate(wins: usize, ties: usize, losses: usize) -> Option<WinRate> {
    let n = (wins + ties + losses) as f64;
    if n == 0.0 {
        return None;
    }
    let rate = (wins as f64 + 0.5 * ties as f64) / n;
    let squares = (wins as f64 + 0.25 * ties as f64) / n;
    let stderr = ((squares - rate * rate).max(0.0) / n).sqrt();
    Some(WinRate { rate, stderr, ci95: (rate - Z_95 * stderr, rate + Z_95 * stderr) })
}

/// Gold reward of best-of-n as it over-optimises a proxy: `d·(α − β·d)`, `d = √KL`.
///
/// Source: Gao et al. (arXiv 2210.10760) section 3.1.
#[must_use]
pub fn gold_reward_best_of_n(d: f64, alpha: f64, beta: f64) -> f64 {
    d * (alpha - beta * d)
}

/// Gold reward of RL as it over-optimises a proxy: `d·(α − β·ln d)`, `d = √KL`; 0 at d = 0.
///
/// Source: Gao et al. (arXiv 2210.10760) section 3.1.
#[must_use]
pub fn gold_reward_rl(d: f64, alpha: f64, beta: f64) -> f64 {
    if d == 0.0 { 0.0 } else { d * (alpha - beta * d.ln()) }
}

/// Where [`gold_reward_best_of_n`] turns down: `α/(2β)`.
#[must_use]
pub fn peak_best_of_n(alpha: f64, beta: f64) -> f64 {
    alpha / (2.0 * beta)
}

/// Where [`gold_reward_rl`] turns down: `exp(α/β − 1)`.
#[must_use]
pub fn peak_rl(alpha: f64, beta: f64) -> f64 {
    (alpha / beta - 1.0).exp()
}

/// KL between best-of-n and the policy it draws from: `ln n − (n − 1)/n`, nats. `n` ≥ 1.
#[must_use]
pub fn kl_best_of_n(n: u64) -> f64 {
    let n = n as f64;
    n.ln() - (n - 1.0) / n
}

/// Pearson's correlation: of length and score it tells length hacking. 0 when either does not vary.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len(), "pairs of values");
    let n = x.len().max(1) as f64;
    let (mean_x, mean_y) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (a, b) in x.iter().zip(y) {
        xx += (a - mean_x) * (a - mean_x);
        yy += (b - mean_y) * (b - mean_y);
        xy += (a - mean_x) * (b - mean_y);
    }
    if xx == 0.0 || yy == 0.0 { 0.0 } else { xy / (xx * yy).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::{gold_reward_rl, kl_best_of_n, pair_agreement, peak_rl, pearson, win_rate};

    #[test]
    fn equal_scores_are_wrong_and_cost_ln_two() {
        let got = pair_agreement(&[0.0], &[true], 5).unwrap();
        assert_eq!(got.accuracy, 0.0);
        assert!((got.log_loss - 2.0_f64.ln()).abs() < 1e-12);
        assert_eq!(got.calibration_error, 0.5);
        assert_eq!(pair_agreement(&[], &[], 5), None);
    }

    #[test]
    fn a_certain_and_right_model_is_calibrated() {
        let got = pair_agreement(&[50.0, -50.0], &[true, false], 10).unwrap();
        assert!(got.accuracy == 1.0 && got.log_loss < 1e-12 && got.calibration_error < 1e-12);
    }

    #[test]
    fn only_ties_are_a_draw_without_doubt() {
        let got = win_rate(0, 8, 0).unwrap();
        assert_eq!((got.rate, got.stderr), (0.5, 0.0));
        assert_eq!(win_rate(0, 0, 0), None);
    }

    #[test]
    fn the_curves_peak_where_they_say() {
        let peak = peak_rl(0.8, 0.3);
        let top = gold_reward_rl(peak, 0.8, 0.3);
        assert!(gold_reward_rl(peak * 0.99, 0.8, 0.3) < top && gold_reward_rl(peak * 1.01, 0.8, 0.3) < top);
        assert_eq!((gold_reward_rl(0.0, 0.8, 0.3), kl_best_of_n(1)), (0.0, 0.0));
    }

    #[test]
    fn correlation_of_a_line_is_one() {
        assert!((pearson(&[1.0, 2.0, 4.0], &[3.0, 5.0, 9.0]) - 1.0).abs() < 1e-12);
        assert_eq!(pearson(&[1.0, 2.0], &[3.0, 3.0]), 0.0);
    }
}
