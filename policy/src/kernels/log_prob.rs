//! Log-probabilities and entropies of rows of logits, in one pass each.
//!
//! ℓ = z_target − log Σ e^z with z = logits / temperature, the maximum subtracted first. Backward needs no saved
//! distribution: the normaliser is z_target − ℓ, so d logits_j = g / temperature · (1[j = target] − e^{z_j − z_target + ℓ}).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{
    exp::{exp, max},
    fused, plain,
    rows::{for_rows, slice, values},
};

/// Log-probability of one target per row: log_softmax(logits / temperature)\[target\].
///
/// `logits [rows, vocab]`, f32 or f64; `targets [rows]`; `temperatures [rows]`. Returns `[rows]` in the logits' type, nats,
/// differentiable in the logits.
///
/// # Errors
/// When shapes do not fit or a target lies outside the vocabulary.
pub fn log_prob_gather(logits: &Tensor, targets: &[u32], temperatures: &[f64]) -> Result<Tensor> {
    let (rows, vocab) = logits.dims2()?;
    if targets.len() != rows || temperatures.len() != rows {
        candle_core::bail!("{rows} rows of logits, {} targets, {} temperatures", targets.len(), temperatures.len());
    }
    if let Some(target) = targets.iter().find(|&&t| t as usize >= vocab) {
        candle_core::bail!("target {target} is outside the vocabulary of {vocab}");
    }
    if !fused(logits) {
        return plain::log_prob_gather(logits, targets, temperatures);
    }
    let inverse_temperatures = temperatures.iter().map(|t| (1.0 / t) as f32).collect();
    logits.contiguous()?.apply_op1(LogProbGather { targets: targets.to_vec(), inverse_temperatures })
}

struct LogProbGather {
    targets: Vec<u32>,
    inverse_temperatures: Vec<f32>,
}

impl LogProbGather {
    fn log_prob(&self, row: usize, logits: &[f32]) -> f32 {
        let inverse = self.inverse_temperatures[row];
        let max = max(logits) * inverse;
        let mut partial = [0.0f32; 16];
        for chunk in logits.chunks(16) {
            partial.iter_mut().zip(chunk).for_each(|(s, &x)| *s += exp(x * inverse - max));
        }
        logits[self.targets[row] as usize] * inverse - max - partial.iter().sum::<f32>().ln()
    }
}

impl CustomOp1 for LogProbGather {
    fn name(&self) -> &'static str {
        "log-prob-gather"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, vocab) = layout.shape().dims2()?;
        let logits = slice(logits, layout)?;
        let mut out = vec![0.0; rows];
        // Rows are as wide as the vocabulary, so the split is by hand: one output number stands for `vocab` inputs.
        let block = rows.div_ceil(rayon::current_num_threads()).max(1);
        let fill = |first: usize, out: &mut [f32]| {
            for (i, o) in out.iter_mut().enumerate() {
                *o = self.log_prob(first + i, &logits[(first + i) * vocab..][..vocab]);
            }
        };
        if logits.len() < 1 << 16 {
            fill(0, &mut out);
        } else {
            use rayon::prelude::*;
            out.par_chunks_mut(block).enumerate().for_each(|(i, out)| fill(i * block, out));
        }
        Ok((CpuStorage::F32(out), Shape::from(rows)))
    }

    fn bwd(&self, logits: &Tensor, log_probs: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let g = g.contiguous()?;
        let (z, l, g) = (values(logits), values(log_probs), values(&g));
        let (z, l, g) = (z.slice()?, l.slice()?, g.slice()?);
        let vocab = logits.dims2()?.1;
        let mut dz = vec![0.0; z.len()];
        for_rows(&mut dz, vocab, |row, dz| {
            let (z, target) = (&z[row * vocab..][..vocab], self.targets[row] as usize);
            let inverse = self.inverse_temperatures[row];
            let (log_sum, factor) = (z[target] * inverse - l[row], g[row] * inverse);
            for j in 0..vocab {
                dz[j] = -factor * exp(z[j] * inverse - log_sum);
            }
            dz[target] += factor;
        });
        Ok(Some(Tensor::from_vec(dz, logits.shape(), logits.device())?))
    }
}

/// Entropy of softmax(logits / temperature) row by row: H = −Σ p log p, `[rows]`, nats, differentiable in the logits.
///
/// # Errors
/// When shapes do not fit.
pub fn entropy(logits: &Tensor, temperatures: &[f64]) -> Result<Tensor> {
    if !fused(logits) || logits.track_op() {
        return plain::entropy(logits, temperatures);
    }
    let vocab = logits.dims2()?.1;
    let values = values(logits);
    let rows = values.slice()?.chunks_exact(vocab).zip(temperatures);
    let entropies: Vec<f32> = rows.map(|(z, &t)| row_entropy(z, (1.0 / t) as f32)).collect();
    Tensor::new(entropies, logits.device())
}

/// H = log Σ e^s − Σ s·e^s / Σ e^s for shifted scores s.
fn row_entropy(logits: &[f32], inverse: f32) -> f32 {
    let max = max(logits) * inverse;
    let (mut sums, mut weighted) = ([0.0f32; 16], [0.0f32; 16]);
    for chunk in logits.chunks(16) {
        for (i, &x) in chunk.iter().enumerate() {
            let shifted = x * inverse - max;
            let e = exp(shifted);
            sums[i] += e;
            // A logit of minus infinity has no mass; its product would be NaN.
            weighted[i] += if shifted < -80.0 { 0.0 } else { shifted * e };
        }
    }
    let (sum, weighted) = (sums.iter().sum::<f32>(), weighted.iter().sum::<f32>());
    sum.ln() - weighted / sum
}
