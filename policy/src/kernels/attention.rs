//! Causal attention over packed sequences, forward and backward, one head at a time.
//!
//! Nothing of size len² is kept: backward recomputes each row of weights from q and k. Keys (and in backward also values)
//! of one head are transposed once into a scratch buffer, so that every inner loop runs over neighbouring numbers; with the
//! causal mask only the lower triangle is ever computed. Sequences are the unit of parallelism: they share nothing.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    exp::{add_scaled, dot, softmax},
    fused, plain,
    rows::{slice, values},
};
use crate::{sequence_batch::Packed, transformer::AttentionShape};

/// softmax(q·kᵀ / sqrt(head_dim))·v inside each sequence, position i seeing positions 0..=i, with grouped queries.
///
/// `q [rows, heads * head_dim]`, `k` and `v [rows, kv_heads * head_dim]`; query head h reads key head h / (heads /
/// kv_heads). Returns `[rows, heads * head_dim]`.
///
/// # Errors
/// When shapes do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, packed: &Packed, shape: AttentionShape) -> Result<Tensor> {
    if !fused(q) {
        return plain::attention(q, k, v, packed, shape);
    }
    q.apply_op3(k, v, Attention { offsets: packed.offsets.clone().into(), shape })
}

struct Attention {
    offsets: Arc<[usize]>,
    shape: AttentionShape,
}

/// Widths of a row of queries and of keys.
impl Attention {
    fn widths(&self) -> (usize, usize) {
        (self.shape.n_heads * self.shape.head_dim, self.shape.n_kv_heads * self.shape.head_dim)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    /// Cuts a buffer of packed rows into one piece per sequence.
    fn pieces<'a>(&self, mut rest: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        let lengths = self.offsets.windows(2).map(|w| (w[1] - w[0]) * width);
        lengths
            .map(|n| {
                let (piece, after) = std::mem::take(&mut rest).split_at_mut(n);
                rest = after;
                piece
            })
            .collect()
    }
}

/// One head of one sequence inside packed rows.
#[derive(Clone, Copy)]
struct Head {
    len: usize,
    width: usize,
    column: usize,
    dim: usize,
}

impl Head {
    fn row<'a>(&self, x: &'a [f32], i: usize) -> &'a [f32] {
        &x[i * self.width + self.column..][..self.dim]
    }

    fn row_mut<'a>(&self, x: &'a mut [f32], i: usize) -> &'a mut [f32] {
        &mut x[i * self.width + self.column..][..self.dim]
    }

    /// `[dim, len]`.
    fn transpose(&self, x: &[f32], out: &mut Vec<f32>) {
        out.clear();
        out.resize(self.dim * self.len, 0.0);
        for i in 0..self.len {
            for (d, &value) in self.row(x, i).iter().enumerate() {
                out[d * self.len + i] = value;
            }
        }
    }
}

/// out_j = scale · Σ_d x_d · transposed[d][j] for j < out.len(): products of one row with the rows up to itself.
fn products(x: &[f32], transposed: &[f32], len: usize, scale: f32, out: &mut [f32]) {
    out.fill(0.0);
    for (d, &x) in x.iter().enumerate() {
        add_scaled(out, x * scale, &transposed[d * len..]);
    }
}

impl Attention {
    fn forward_sequence(&self, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
        let AttentionShape { n_heads, n_kv_heads, head_dim } = self.shape;
        let (q_width, kv_width) = self.widths();
        let len = q.len() / q_width;
        let (mut keys, mut weights) = (Vec::new(), vec![0.0; len]);
        for kv in 0..n_kv_heads {
            let shared = Head { len, width: kv_width, column: kv * head_dim, dim: head_dim };
            shared.transpose(k, &mut keys);
            for h in kv * n_heads / n_kv_heads..(kv + 1) * n_heads / n_kv_heads {
                let own = Head { width: q_width, column: h * head_dim, ..shared };
                for i in 0..len {
                    let weights = &mut weights[..=i];
                    products(own.row(q, i), &keys, len, self.scale(), weights);
                    softmax(weights);
                    let out = own.row_mut(out, i);
                    for (j, &weight) in weights.iter().enumerate() {
                        add_scaled(out, weight, shared.row(v, j));
                    }
                }
            }
        }
    }

    /// With weights p and output o: dv_j += p_j·g, dp_j = g·v_j, ds_j = p_j(dp_j − g·o), dq += scale·ds_j·k_j, dk_j += scale·ds_j·q.
    fn backward_sequence(&self, input: [&[f32]; 5], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
        let AttentionShape { n_heads, n_kv_heads, head_dim } = self.shape;
        let [q, k, v, o, g] = input;
        let (q_width, kv_width) = self.widths();
        let (len, scale) = (q.len() / q_width, self.scale());
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let (mut weights, mut slopes) = (vec![0.0; len], vec![0.0; len]);
        for kv in 0..n_kv_heads {
            let shared = Head { len, width: kv_width, column: kv * head_dim, dim: head_dim };
            shared.transpose(k, &mut keys);
            shared.transpose(v, &mut values);
            for h in kv * n_heads / n_kv_heads..(kv + 1) * n_heads / n_kv_heads {
                let own = Head { width: q_width, column: h * head_dim, ..shared };
                for i in 0..len {
                    let (weights, slopes) = (&mut weights[..=i], &mut slopes[..=i]);
                    let (q, g) = (own.row(q, i), own.row(g, i));
                    products(q, &keys, len, scale, weights);
                    softmax(weights);
                    products(g, &values, len, 1.0, slopes);
                    let mean = dot(g, own.row(o, i));
                    let dq = own.row_mut(dq, i);
                    for (j, (&weight, &slope)) in weights.iter().zip(slopes.iter()).enumerate() {
                        let ds = scale * weight * (slope - mean);
                        add_scaled(dq, ds, shared.row(k, j));
                        add_scaled(shared.row_mut(dk, j), ds, q);
                        add_scaled(shared.row_mut(dv, j), weight, g);
                    }
                }
            }
        }
    }

    fn sequences<'a>(&self, x: &'a [f32], width: usize) -> Vec<&'a [f32]> {
        self.offsets.windows(2).map(|w| &x[w[0] * width..w[1] * width]).collect()
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "packed-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q_width, kv_width) = self.widths();
        let (q, k, v) = (slice(q, lq)?, slice(k, lk)?, slice(v, lv)?);
        let rows = self.offsets.last().copied().unwrap_or(0);
        if q.len() != rows * q_width || k.len() != rows * kv_width || v.len() != k.len() {
            candle_core::bail!("attention: {rows} packed rows, q of {}, k of {}, v of {}", q.len(), k.len(), v.len());
        }
        let mut out = vec![0.0; q.len()];
        let input = (self.sequences(q, q_width), self.sequences(k, kv_width), self.sequences(v, kv_width));
        let work = (input.0, input.1, input.2, self.pieces(&mut out, q_width));
        work.into_par_iter().for_each(|(q, k, v, out)| self.forward_sequence(q, k, v, out));
        Ok((CpuStorage::F32(out), lq.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (q_width, kv_width) = self.widths();
        let g = g.contiguous()?;
        let open = [q, k, v, out, &g].map(values);
        let widths = [q_width, kv_width, kv_width, q_width, q_width];
        let mut columns = Vec::with_capacity(5);
        for (x, width) in open.iter().zip(widths) {
            columns.push(self.sequences(x.slice()?, width));
        }
        let (mut dq, mut dk) = (vec![0.0; q.elem_count()], vec![0.0; k.elem_count()]);
        let mut dv = vec![0.0; v.elem_count()];
        let outputs = (self.pieces(&mut dq, q_width), self.pieces(&mut dk, kv_width), self.pieces(&mut dv, kv_width));
        outputs.into_par_iter().enumerate().for_each(|(s, (dq, dk, dv))| {
            let input = std::array::from_fn(|i| columns[i][s]);
            self.backward_sequence(input, dq, dk, dv);
        });
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device()).map(Some);
        Ok((tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?))
    }
}
