//! Log-probability and entropy of one row of logits, and their gradients.
//!
//! ℓ = z_target − log Σ e^z and H = −Σ p log p, with z = logits / temperature, the maximum subtracted first. Backward:
//! dℓ/dlogit_j = (1[j = target] − p_j)/τ, dH/dlogit_j = −p_j(log p_j + H)/τ.

use super::{
    exp::{exp, max},
    matrix::Number,
};

/// What is read from one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowLogProb {
    /// ℓ of the target, nats.
    pub(crate) log_prob: f32,
    /// H, nats.
    pub(crate) entropy: f32,
    /// log Σ e^z, nats: what backward needs.
    pub(crate) log_sum: f32,
}

/// Reads a row of logits. `inverse`: 1 over the temperature.
pub(crate) fn forward(logits: &[f32], target: usize, inverse: f32) -> RowLogProb {
    let max = max(logits) * inverse;
    let (mut sums, mut weighted) = ([0.0f32; 16], [0.0f32; 16]);
    let mut read = |i: usize, x: f32| {
        let shifted = x * inverse - max;
        let e = exp(shifted);
        sums[i] += e;
        // A logit of minus infinity has no mass; its product would be NaN.
        weighted[i] += if shifted < -80.0 { 0.0 } else { shifted * e };
    };
    // Chunks of a length that the compiler knows become vector code.
    let (chunks, rest) = logits.as_chunks::<16>();
    chunks.iter().for_each(|chunk| (0..16).for_each(|i| read(i, chunk[i])));
    rest.iter().enumerate().for_each(|(i, &x)| read(i, x));
    let (sum, weighted) = (sums.iter().sum::<f32>(), weighted.iter().sum::<f32>());
    let log_sum = max + sum.ln();
    // The maximum is taken off first: their difference is exact, log_sum is not.
    let log_prob = (logits[target] * inverse - max) - sum.ln();
    RowLogProb { log_prob, entropy: sum.ln() - weighted / sum, log_sum }
}

/// d(slope·ℓ + entropy_slope·H)/d logits, written as a factor of the products that carry it on.
pub(crate) fn backward<N: Number>(
    logits: &[f32],
    target: usize,
    inverse: f32,
    row: RowLogProb,
    (slope, entropy_slope): (f32, f32),
    out: &mut [N],
) {
    let factor = slope * inverse;
    if entropy_slope == 0.0 {
        for (o, &x) in out.iter_mut().zip(logits) {
            *o = N::near(-factor * exp(x * inverse - row.log_sum));
        }
    } else {
        let entropy_factor = entropy_slope * inverse;
        for (o, &x) in out.iter_mut().zip(logits) {
            let log_p = x * inverse - row.log_sum;
            let p = exp(log_p);
            let bend = if log_p < -80.0 { 0.0 } else { p * (log_p + row.entropy) };
            *o = N::near(-factor * p - entropy_factor * bend);
        }
    }
    let log_p = logits[target] * inverse - row.log_sum;
    let p = exp(log_p);
    let bend = if log_p < -80.0 { 0.0 } else { p * (log_p + row.entropy) };
    out[target] = N::near(factor * (1.0 - p) - entropy_slope * inverse * bend);
}
