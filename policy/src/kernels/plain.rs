//! The oracle: every operation of the trunk from candle's differentiable operations only.

use candle_core::{D, Device, Result, Tensor};

use super::Rotation;
use crate::{sequence_batch::Packed, transformer::AttentionShape};

/// Matrix product with a weight as files hold it: y = x·Wᵀ.
///
/// `x [rows, in]`, `weight [out, in]`; returns `[rows, out]`.
///
/// # Errors
/// When shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)
}

/// RMSNorm: y = x / sqrt(mean(x²) + eps) · gain (arXiv 1910.07467, equation 4).
///
/// `x [rows, d]`, `gain [d]`; returns `[rows, d]`.
///
/// # Errors
/// When shapes do not fit.
pub fn rms_norm(x: &Tensor, gain: &Tensor, eps: f64) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?; // [rows, 1]
    let normed = x.broadcast_div(&(mean_square + eps)?.sqrt()?)?; // [rows, d]
    normed.broadcast_mul(gain)
}

/// Gated feed-forward activation: y = silu(gate) · up (arXiv 2002.05202, SwiGLU).
///
/// Both `[rows, ffn]`; returns `[rows, ffn]`.
///
/// # Errors
/// When shapes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()?.mul(up)
}

/// Rotary positions on neighbouring pairs, as GGUF's Llama order wants: (a, b) at pair i turns by position · frequency_i.
///
/// Source: arXiv 2104.09864, equation 34. `x [rows, heads * head_dim]`; dimensions past the rotated ones pass through.
///
/// # Errors
/// When shapes do not fit.
pub fn rope(x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let (head_dim, half) = (rotation.head_dim, rotation.half);
    let heads = width / head_dim;
    let at_rows = |table: &[f32]| {
        let table = Tensor::from_vec(table.to_vec(), (table.len() / half, half), x.device())?.to_dtype(x.dtype())?;
        let positions = Tensor::new(rotation.positions.as_slice(), x.device())?;
        table.index_select(&positions, 0)?.reshape((rows, 1, half, 1))
    };
    let (cos, sin) = (at_rows(&rotation.cos)?, at_rows(&rotation.sin)?);
    let x = x.reshape((rows, heads, head_dim))?;
    let pairs = x.narrow(2, 0, 2 * half)?.reshape((rows, heads, half, 2))?;
    let (a, b) = (pairs.narrow(3, 0, 1)?, pairs.narrow(3, 1, 1)?); // [rows, heads, half, 1]
    let turned_a = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let turned_b = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
    let turned = Tensor::cat(&[turned_a, turned_b], 3)?.reshape((rows, heads, 2 * half))?;
    let whole = if 2 * half == head_dim {
        turned
    } else {
        Tensor::cat(&[turned, x.narrow(2, 2 * half, head_dim - 2 * half)?], 2)?
    };
    whole.reshape((rows, width))
}

/// Causal attention inside each packed sequence, with grouped queries: softmax(q·kᵀ / sqrt(head_dim))·v.
///
/// `q [rows, heads * head_dim]`, `k` and `v [rows, kv_heads * head_dim]`; query head h reads key head h / (heads /
/// kv_heads). Returns `[rows, heads * head_dim]`. Sequences are padded here to one length for the batched product: pad
/// positions lie after the end, so the causal mask alone hides them, and their results are dropped.
///
/// # Errors
/// When shapes do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, packed: &Packed, shape: AttentionShape) -> Result<Tensor> {
    let AttentionShape { n_heads, n_kv_heads, head_dim } = shape;
    let device = q.device();
    let spans: Vec<(usize, usize)> = packed.spans().filter(|(_, len)| *len > 0).collect();
    let (batch, longest) = (spans.len(), spans.iter().map(|s| s.1).max().unwrap_or(0));
    let pad: Vec<u32> =
        spans.iter().flat_map(|&(start, len)| (0..longest).map(move |i| (start + i.min(len - 1)) as u32)).collect();
    let unpad: Vec<u32> =
        spans.iter().enumerate().flat_map(|(b, &(_, len))| (0..len).map(move |i| (b * longest + i) as u32)).collect();
    let pad = Tensor::new(pad, device)?;
    let unpad = Tensor::new(unpad, device)?;
    let groups = n_heads / n_kv_heads;
    let heads = |x: &Tensor, n: usize| {
        x.index_select(&pad, 0)?.reshape((batch, longest, n, head_dim))?.transpose(1, 2)?.contiguous() // [batch, n, longest, head_dim]
    };
    let shared = |x: &Tensor| {
        heads(x, n_kv_heads)?
            .unsqueeze(2)?
            .broadcast_as((batch, n_kv_heads, groups, longest, head_dim))?
            .reshape((batch, n_heads, longest, head_dim))
    };
    let (q, k, v) = (heads(q, n_heads)?, shared(k)?, shared(v)?);
    let scores = (q.matmul(&k.t()?)? * (1.0 / (head_dim as f64).sqrt()))?; // [batch, n_heads, longest, longest]
    let scores = scores.broadcast_add(&causal_mask(longest, device)?)?;
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
    let mixed = weights.matmul(&v)?.transpose(1, 2)?.reshape((batch * longest, n_heads * head_dim))?;
    mixed.index_select(&unpad, 0)
}

fn causal_mask(len: usize, device: &Device) -> Result<Tensor> {
    let mask: Vec<f32> =
        (0..len).flat_map(|i| (0..len).map(move |j| if j <= i { 0.0 } else { f32::NEG_INFINITY })).collect();
    Tensor::from_vec(mask, (len, len), device)
}

/// Log-probability of one target per row: log_softmax(logits / temperature)\[target\], the maximum subtracted first.
///
/// `logits [rows, vocab]` in f32 or f64; `targets [rows]`; `temperatures [rows]`. Returns `[rows]`, nats, differentiable.
///
/// # Errors
/// When shapes do not fit.
pub fn log_prob_gather(logits: &Tensor, targets: &[u32], temperatures: &[f64]) -> Result<Tensor> {
    let log_probs = log_softmax(logits, temperatures)?; // [rows, vocab]
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?; // [rows, 1]
    log_probs.gather(&targets, 1)?.squeeze(1)
}

/// log_softmax(logits / temperature) row by row: `[rows, vocab]`, nats, differentiable.
///
/// # Errors
/// When shapes do not fit.
pub fn log_softmax(logits: &Tensor, temperatures: &[f64]) -> Result<Tensor> {
    let inverse: Vec<f64> = temperatures.iter().map(|t| 1.0 / t).collect();
    let inverse = Tensor::from_vec(inverse, (temperatures.len(), 1), logits.device())?.to_dtype(logits.dtype())?;
    let scaled = logits.broadcast_mul(&inverse)?; // [rows, vocab]
    let max = scaled.max_keepdim(1)?.detach(); // [rows, 1]
    let shifted = scaled.broadcast_sub(&max)?; // [rows, vocab]
    let log_sum = shifted.exp()?.sum_keepdim(1)?.log()?; // [rows, 1]
    shifted.broadcast_sub(&log_sum)
}

/// Entropy of softmax(logits / temperature) row by row: H = -Σ p log p, `[rows]`, nats, differentiable.
///
/// A token of probability 0 contributes 0, as the limit says.
///
/// # Errors
/// When shapes do not fit.
pub fn entropy(logits: &Tensor, temperatures: &[f64]) -> Result<Tensor> {
    // A floor far below any representable probability keeps 0 · -inf from becoming NaN.
    let log_probs = log_softmax(logits, temperatures)?.maximum(-1e30)?; // [rows, vocab]
    (log_probs.exp()? * log_probs)?.sum(1)?.neg()
}
