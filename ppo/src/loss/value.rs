//! The clipped loss of the value model.

use crate::masked::{self, Variance};

/// What the value loss is computed from; every slice is `[n]`, flat, sequence after sequence.
#[derive(Clone, Copy, Debug)]
pub struct ValueTokens<'a> {
    /// V of the weights under gradient, score units.
    pub values: &'a [f64],
    /// V at the start of the update.
    pub old: &'a [f64],
    /// R, the TD(λ) targets.
    pub returns: &'a [f64],
    /// From [`Aggregation::coefficients`](crate::loss::Aggregation::coefficients).
    pub coefficients: &'a [f64],
    /// The tokens that count.
    pub mask: &'a [bool],
}

/// Loss, gradient and what to watch.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueLoss {
    /// ½·Σ_t c_t·max((V − R)², (V_clipped − R)²).
    pub loss: f64,
    /// d loss / d V_t, `[n]`; 0 where the mask is false.
    pub grad: Vec<f64>,
    /// Share of tokens whose clipped error was the larger one; above a half for long, the value model is starved.
    pub clip_fraction: f64,
}

/// c as `ppo.value_clip` has it: 0 is none. A clip to V_old itself would leave a token no gradient once V has moved.
#[must_use]
pub fn clip_of(config: &config::Ppo) -> Option<f64> {
    (config.value_clip > 0.0).then_some(config.value_clip)
}

/// PPO's value loss.
///
/// `loss = ½·Σ c_t·max((V − R)², (clip(V, V_old − c, V_old + c) − R)²)`.
/// Source: Ziegler et al. (arXiv 1909.08593), `lm-human-preferences` `train_policy.py:loss`.
/// - `tokens`: `[n]` each, f64, score units, V_t before response token t;
/// - `clip`: c, score units; `None` is plain regression.
///
/// Gradients stop at old values and returns; they flow through the branch that wins.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn value_loss(tokens: ValueTokens<'_>, clip: Option<f64>) -> ValueLoss {
    let n = tokens.mask.len();
    let lengths = [tokens.values, tokens.old, tokens.returns, tokens.coefficients];
    assert!(lengths.iter().all(|x| x.len() == n), "every slice has one entry per token");
    let mut result = ValueLoss { loss: 0.0, grad: vec![0.0; n], clip_fraction: 0.0 };
    for t in (0..n).filter(|t| tokens.mask[*t]) {
        let (value, old) = (tokens.values[t], tokens.old[t]);
        let bounded = clip.map_or(value, |c| value.clamp(old - c, old + c));
        let (plain, clipped) = (value - tokens.returns[t], bounded - tokens.returns[t]);
        let is_clipped = clipped * clipped > plain * plain;
        let error = if is_clipped { clipped } else { plain };
        result.loss += 0.5 * tokens.coefficients[t] * error * error;
        // The clipped branch can only win where the clip bites, and there V has no influence.
        result.grad[t] = if is_clipped { 0.0 } else { tokens.coefficients[t] * plain };
        result.clip_fraction += f64::from(u8::from(is_clipped));
    }
    result.clip_fraction /= masked::count(tokens.mask).max(1) as f64;
    result
}

/// Share of the returns' variance that the values explain: 1 is perfect, 0 is a constant, below 0 is worse than one.
///
/// `1 − Var(R − V)/Var(R)`, population variances over the mask; 0 when the returns do not vary.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn explained_variance(values: &[f64], returns: &[f64], mask: &[bool]) -> f64 {
    assert_eq!(values.len(), returns.len(), "one return per value");
    let errors: Vec<f64> = returns.iter().zip(values).map(|(r, v)| r - v).collect();
    let total = masked::variance(returns, mask, Variance::Population);
    if total == 0.0 {
        return 0.0;
    }
    1.0 - masked::variance(&errors, mask, Variance::Population) / total
}

#[cfg(test)]
mod tests {
    use super::{ValueTokens, explained_variance, value_loss};

    const OLD: [f64; 4] = [0.0, 0.5, -1.0, 2.0];
    const RETURNS: [f64; 4] = [1.0, 0.4, -0.5, -2.0];

    fn loss_of(values: &[f64], clip: Option<f64>) -> super::ValueLoss {
        let tokens = ValueTokens { values, old: &OLD, returns: &RETURNS, coefficients: &[0.25; 4], mask: &[true; 4] };
        value_loss(tokens, clip)
    }

    #[test]
    fn gradient_is_the_finite_difference() {
        let values = [0.6, 0.55, -1.6, 1.1];
        for clip in [Some(0.2), None] {
            let analytic = loss_of(&values, clip).grad;
            for t in 0..4 {
                let at = |delta: f64| {
                    let mut moved = values;
                    moved[t] += delta;
                    loss_of(&moved, clip).loss
                };
                let numeric = (at(1e-6) - at(-1e-6)) / 2e-6;
                assert!((numeric - analytic[t]).abs() < 1e-8, "token {t}: {numeric} against {}", analytic[t]);
            }
        }
    }

    #[test]
    fn clipping_only_ever_raises_the_loss() {
        let values = [0.9, 0.45, -0.6, -1.9];
        let (clipped, plain) = (loss_of(&values, Some(0.2)), loss_of(&values, None));
        assert!(clipped.loss > plain.loss);
        assert_eq!((clipped.clip_fraction, plain.clip_fraction), (0.75, 0.0));
    }

    #[test]
    fn perfect_values_explain_everything_and_a_constant_nothing() {
        assert_eq!(explained_variance(&RETURNS, &RETURNS, &[true; 4]), 1.0);
        assert_eq!(explained_variance(&[3.0; 4], &RETURNS, &[true; 4]), 0.0);
        assert_eq!(explained_variance(&OLD, &[1.0; 4], &[true; 4]), 0.0, "nothing to explain");
    }
}
