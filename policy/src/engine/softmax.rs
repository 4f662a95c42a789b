//! Softmax over one row of logits, fast enough that the sampler never shows beside the forward pass.
//!
//! The row has one entry per token of the vocabulary (up to 256k), and every drawn token needs the log of a sum of
//! exponentials over all of it. `f32::exp` is a library call per entry, which no compiler can vectorise; the polynomial
//! below is straight-line arithmetic and is. Partial sums are f32 over [`BLOCK`] entries in [`LANES`] lanes, the sum of
//! blocks is f64, so a log-prob is good to about 1e-6 nats whatever the vocabulary's size. The block sums stay: a draw
//! finds its block first and then looks at [`BLOCK`] weights instead of the whole row.

use crate::token::TokenId;

/// Entries of one partial sum.
pub(super) const BLOCK: usize = 256;
const LANES: usize = 16;
/// Below this, `exp` would be denormal; such tokens weigh nothing.
const EXP_MIN: f32 = -87.0;
/// A smaller share left by bans is weighed anew.
const SHARE_MIN: f64 = 1e-3;

/// A row held something that is not a number, or `+inf`, or nothing above `-inf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the logits are not finite")]
pub struct NotFinite;

/// The normaliser of a row at one temperature: `log p(i) = (l_i - max) / T - log_sum`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LogSoftmax {
    /// Largest logit.
    pub(super) max: f32,
    /// `1 / T`.
    pub(super) inverse_temperature: f64,
    /// `ln Σ exp((l_i - max) / T)`, at least 0 over a full row.
    pub(super) log_sum: f64,
}

impl LogSoftmax {
    /// Log-probability of a token with this logit, nats.
    pub(super) fn log_prob(&self, logit: f32) -> f64 {
        (f64::from(logit) - f64::from(self.max)) * self.inverse_temperature - self.log_sum
    }
}

/// Unnormalised probabilities of a row, reused from token to token.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// `exp((l_i - max) / T)`; `[n_vocab]`.
    pub(super) weights: Vec<f32>,
    /// Sum of each [`BLOCK`] of weights.
    pub(super) block_sums: Vec<f64>,
    /// Sum of all.
    pub(super) total: f64,
}

impl Weights {
    /// Fills the weights of `row` (`[n_vocab]`, f32 logits, largest `max`) and returns the normaliser.
    pub(super) fn fill(&mut self, row: &[f32], max: f32, temperature: f32) -> LogSoftmax {
        let inverse_temperature = 1.0 / temperature;
        self.weights.resize(row.len(), 0.0);
        self.block_sums.clear();
        for (logits, weights) in row.chunks(BLOCK).zip(self.weights.chunks_mut(BLOCK)) {
            self.block_sums.push(fill_block(logits, weights, max, inverse_temperature));
        }
        self.total = self.block_sums.iter().sum();
        LogSoftmax { max, inverse_temperature: 1.0 / f64::from(temperature), log_sum: self.total.ln() }
    }

    /// Takes tokens out; the log of the share that is left, or `None` (and spoiled weights) when so little is left that
    /// its weights have lost their digits.
    pub(super) fn remove(&mut self, ids: &[TokenId]) -> Option<f64> {
        if ids.is_empty() {
            return Some(0.0);
        }
        for id in ids {
            let i = id.0 as usize;
            self.weights[i] = 0.0;
            let block = i / BLOCK;
            let weights = self.weights[block * BLOCK..].iter().take(BLOCK);
            self.block_sums[block] = weights.copied().map(f64::from).sum();
        }
        let before = std::mem::replace(&mut self.total, self.block_sums.iter().sum());
        let share = self.total / before;
        (share > SHARE_MIN).then(|| share.ln().min(0.0))
    }

    /// The token at quantile `u` in `[0, 1)` of the whole row.
    pub(super) fn quantile(&self, u: f64) -> usize {
        let mut rest = u * self.total;
        let mut last = 0;
        for (block, (&sum, weights)) in self.block_sums.iter().zip(self.weights.chunks(BLOCK)).enumerate() {
            if sum <= rest {
                rest -= sum;
                continue;
            }
            for (i, &weight) in weights.iter().enumerate() {
                if weight > 0.0 {
                    last = block * BLOCK + i;
                    rest -= f64::from(weight);
                    if rest < 0.0 {
                        return last;
                    }
                }
            }
            // The lanes of a block sum round differently from this scan; what is left is below an ulp.
            return last;
        }
        last_positive(&self.weights)
    }
}

fn last_positive(weights: &[f32]) -> usize {
    weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0)
}

/// The largest logit of a row.
pub(super) fn largest_logit(row: &[f32]) -> Result<f32, NotFinite> {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    // A comparison is false for NaN, which the maximum alone would pass over.
    let mut poison = [0.0f32; LANES];
    for chunk in chunks {
        for k in 0..LANES {
            lanes[k] = if chunk[k] > lanes[k] { chunk[k] } else { lanes[k] };
            poison[k] += if chunk[k] < f32::INFINITY { 0.0 } else { 1.0 };
        }
    }
    let max = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let good = poison == [0.0; LANES] && rest.iter().all(|&logit| logit < f32::INFINITY);
    if good && max > f32::NEG_INFINITY { Ok(max) } else { Err(NotFinite) }
}

fn fill_block(logits: &[f32], weights: &mut [f32], max: f32, inverse_temperature: f32) -> f64 {
    let (logit_chunks, logit_rest) = logits.as_chunks::<LANES>();
    let (weight_chunks, weight_rest) = weights.as_chunks_mut::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for (logits, weights) in logit_chunks.iter().zip(weight_chunks) {
        for k in 0..LANES {
            weights[k] = exp_nonpositive((logits[k] - max) * inverse_temperature);
            lanes[k] += weights[k];
        }
    }
    for ((lane, weight), logit) in lanes.iter_mut().zip(weight_rest).zip(logit_rest) {
        *weight = exp_nonpositive((logit - max) * inverse_temperature);
        *lane += *weight;
    }
    lanes.into_iter().map(f64::from).sum()
}

/// `exp(x)` for `x ≤ 0`, within 2 ulp; 0 below [`EXP_MIN`].
///
/// `exp(x) = 2^n · exp(r)`, `n = round(x / ln 2)`, `|r| ≤ ln 2 / 2`; the polynomial for `exp(r)` is Cephes' `expf`.
/// Rounding by adding and subtracting `1.5 · 2^23` keeps the loop free of calls and casts.
#[inline]
pub(super) fn exp_nonpositive(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > EXP_MIN { x } else { EXP_MIN };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let mut poly = 1.987_569_1e-4_f32;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        poly = poly * r + coefficient;
    }
    let exp_r = poly * r * r + r + 1.0;
    // The low bits of `shifted` are `n` itself; -126 ≤ n ≤ 0, so the exponent never wraps.
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x > EXP_MIN { exp_r * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_library() {
        for i in 0..87_000 {
            let x = -(i as f32) / 1000.0;
            let want = f64::from(x).exp();
            let got = f64::from(exp_nonpositive(x));
            assert!((got - want).abs() <= want * 2.4e-7, "exp({x}) = {got}, want {want}");
        }
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_nonpositive(0.0), 1.0);
    }

    #[test]
    fn log_probs_agree_with_a_naive_f64_softmax() {
        // 1000 entries: whole blocks and lanes, and a remainder of each.
        let row: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1009) as f32 / 50.0 - 12.0).collect();
        let mut weights = Weights::default();
        for temperature in [0.3, 1.0, 2.0] {
            let max = largest_logit(&row).unwrap();
            let softmax = weights.fill(&row, max, temperature);
            let t = f64::from(temperature);
            let naive = row.iter().map(|&l| (f64::from(l) / t).exp()).sum::<f64>().ln();
            for &logit in &row {
                assert!((softmax.log_prob(logit) - (f64::from(logit) / t - naive)).abs() < 2e-6);
            }
        }
    }

    #[test]
    fn quantiles_hit_every_token_by_its_weight() {
        let row: Vec<f32> =
            (0..600).map(|i| if i % 3 == 0 { (i as f32 / 600.0).ln_1p() } else { f32::NEG_INFINITY }).collect();
        let mut weights = Weights::default();
        weights.fill(&row, largest_logit(&row).unwrap(), 1.0);
        let mut hits = vec![0u32; 600];
        let n = 200_000;
        for i in 0..n {
            hits[weights.quantile((f64::from(i) + 0.5) / f64::from(n))] += 1;
        }
        for (i, (&hit, &weight)) in hits.iter().zip(&weights.weights).enumerate() {
            let want = f64::from(weight) / weights.total * f64::from(n);
            assert!((f64::from(hit) - want).abs() <= 1.5, "token {i}: {hit} hits, want {want}");
        }
        assert_eq!(weights.quantile(1.0 - f64::EPSILON / 2.0), 597);
    }

    #[test]
    fn rows_that_are_not_finite_are_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            for at in [0, 17, 39] {
                let mut row = vec![0.0; 40];
                row[at] = bad;
                assert_eq!(largest_logit(&row), Err(NotFinite));
            }
        }
        assert_eq!(largest_logit(&[f32::NEG_INFINITY; 20]), Err(NotFinite));
    }
}
