//! Causal attention over packed sequences, forward and backward, one head of one sequence at a time.
//!
//! Queries go in blocks: the scores of a block against all keys up to its end are one small product, softmax runs over its
//! rows, a second product mixes the values. So the only thing of size len × block lives in scratch; for backward the
//! logarithm of each row's sum is kept, from which the block's weights come back in one pass (arXiv 2307.08691, without the
//! online rescaling, for a row of scores fits the cache here). Lengths are padded to a multiple of 16 inside the scratch:
//! weights of pad positions are 0, and products of few shapes recur.

use rayon::prelude::*;

use super::{
    exp::{dot, exp, softmax},
    product::Small,
};
use crate::transformer::AttentionShape;

/// Queries in a block; a multiple of [`GRAIN`].
const BLOCK: usize = 128;
const GRAIN: usize = 16;

/// softmax(q·kᵀ / sqrt(head_dim))·v inside each sequence, position i seeing positions 0..=i, with grouped queries: query
/// head h reads key head h / (heads / kv_heads).
pub(crate) struct Attention<'a> {
    /// Where each sequence starts, and at the end the number of rows.
    pub(crate) offsets: &'a [usize],
    pub(crate) shape: AttentionShape,
}

/// What forward leaves for backward.
#[derive(Default)]
pub(crate) struct Mixed {
    /// `[rows, heads * head_dim]`.
    pub(crate) out: Vec<f32>,
    /// log Σ e^score of every row and head: sequence after sequence, in it head after head.
    log_sums: Vec<f32>,
}

/// Gradients of q, k and v.
pub(crate) struct Slopes {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
}

/// What one sequence's tasks read.
#[derive(Clone, Copy)]
struct Sequence<'a> {
    len: usize,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

impl Attention<'_> {
    fn widths(&self) -> (usize, usize) {
        (self.shape.n_heads * self.shape.head_dim, self.shape.n_kv_heads * self.shape.head_dim)
    }

    /// `q [rows, heads * head_dim]`, `k` and `v [rows, kv_heads * head_dim]`.
    pub(crate) fn forward(&self, q: &[f32], k: &[f32], v: &[f32]) -> Mixed {
        let (q_width, kv_width) = self.widths();
        let mut mixed = Mixed { out: vec![0.0; q.len()], log_sums: vec![0.0; q.len() / self.shape.head_dim] };
        let outs = self.pieces(&mut mixed.out, q_width);
        let log_sums = self.pieces(&mut mixed.log_sums, self.shape.n_heads);
        let work: Vec<_> = self.sequences(q, k, v, (q_width, kv_width)).into_iter().zip(outs).zip(log_sums).collect();
        work.into_par_iter().for_each(|((sequence, out), log_sums)| self.forward_sequence(sequence, out, log_sums));
        mixed
    }

    fn forward_sequence(&self, sequence: Sequence<'_>, out: &mut [f32], log_sums: &mut [f32]) {
        let AttentionShape { n_heads, n_kv_heads, head_dim } = self.shape;
        let (q_width, kv_width) = self.widths();
        let len = sequence.len;
        let heads: Vec<(Vec<f32>, Vec<f32>)> = (0..n_heads)
            .into_par_iter()
            .map(|h| {
                let kv = h * n_kv_heads / n_heads;
                let q = gather(sequence.q, (q_width, h * head_dim, head_dim), self.scale());
                let k = gather(sequence.k, (kv_width, kv * head_dim, head_dim), 1.0);
                let v = gather(sequence.v, (kv_width, kv * head_dim, head_dim), 1.0);
                forward_head(&q, &k, &v, head_dim, len)
            })
            .collect();
        for (h, (own, sums)) in heads.iter().enumerate() {
            for (i, row) in own.chunks_exact(head_dim).take(len).enumerate() {
                out[i * q_width + h * head_dim..][..head_dim].copy_from_slice(row);
            }
            log_sums[h * len..(h + 1) * len].copy_from_slice(sums);
        }
    }

    /// With weights p and output o: dv = pᵀ·g, dp = g·vᵀ, ds = p∘(dp − rowsum(g∘o)), dq = scale·ds·k, dk = scale·dsᵀ·q.
    pub(crate) fn backward(&self, q: &[f32], k: &[f32], v: &[f32], mixed: &Mixed, g: &[f32]) -> Slopes {
        let (q_width, kv_width) = self.widths();
        let mut slopes = Slopes { q: vec![0.0; q.len()], k: vec![0.0; k.len()], v: vec![0.0; v.len()] };
        let dq = self.pieces(&mut slopes.q, q_width);
        let dk = self.pieces(&mut slopes.k, kv_width);
        let dv = self.pieces(&mut slopes.v, kv_width);
        let sequences = self.sequences(q, k, v, (q_width, kv_width));
        let work: Vec<_> = sequences.into_iter().zip(dq).zip(dk.into_iter().zip(dv)).enumerate().collect();
        work.into_par_iter().for_each(|(s, ((sequence, dq), (dk, dv)))| {
            let rows = self.offsets[s]..self.offsets[s + 1];
            let out = &mixed.out[rows.start * q_width..rows.end * q_width];
            let log_sums = &mixed.log_sums[rows.start * self.shape.n_heads..rows.end * self.shape.n_heads];
            let g = &g[rows.start * q_width..rows.end * q_width];
            self.backward_sequence(sequence, (out, log_sums), g, [dq, dk, dv]);
        });
        slopes
    }

    fn backward_sequence(
        &self,
        sequence: Sequence<'_>,
        (out, log_sums): (&[f32], &[f32]),
        g: &[f32],
        [dq, dk, dv]: [&mut [f32]; 3],
    ) {
        let AttentionShape { n_heads, n_kv_heads, head_dim } = self.shape;
        let (q_width, kv_width) = self.widths();
        let len = sequence.len;
        let heads: Vec<HeadSlopes> = (0..n_heads)
            .into_par_iter()
            .map(|h| {
                let (own, kv) = ((q_width, h * head_dim, head_dim), h * n_kv_heads / n_heads);
                let head = Head {
                    q: gather(sequence.q, own, self.scale()),
                    k: gather(sequence.k, (kv_width, kv * head_dim, head_dim), 1.0),
                    v: gather(sequence.v, (kv_width, kv * head_dim, head_dim), 1.0),
                    out: gather(out, own, 1.0),
                    g: gather(g, own, 1.0),
                    log_sums: &log_sums[h * len..(h + 1) * len],
                    dim: head_dim,
                };
                head.backward()
            })
            .collect();
        for (h, slopes) in heads.iter().enumerate() {
            let kv = h * n_kv_heads / n_heads;
            let own = [(&slopes.q, self.scale()), (&slopes.k, 1.0), (&slopes.v, 1.0)];
            for i in 0..len {
                let rows = [
                    &mut dq[i * q_width + h * head_dim..][..head_dim],
                    &mut dk[i * kv_width + kv * head_dim..][..head_dim],
                    &mut dv[i * kv_width + kv * head_dim..][..head_dim],
                ];
                for (row, (own, factor)) in rows.into_iter().zip(own) {
                    let own = &own[i * head_dim..][..head_dim];
                    row.iter_mut().zip(own).for_each(|(sum, &x)| *sum += factor * x);
                }
            }
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    fn sequences<'a>(&self, q: &'a [f32], k: &'a [f32], v: &'a [f32], widths: (usize, usize)) -> Vec<Sequence<'a>> {
        let rows = self.offsets.last().copied().unwrap_or(0);
        assert_eq!((q.len(), k.len(), v.len()), (rows * widths.0, rows * widths.1, rows * widths.1), "packed rows fit");
        let part = |x: &'a [f32], from: usize, to: usize, width: usize| &x[from * width..to * width];
        let sequence = |w: &[usize]| Sequence {
            len: w[1] - w[0],
            q: part(q, w[0], w[1], widths.0),
            k: part(k, w[0], w[1], widths.1),
            v: part(v, w[0], w[1], widths.1),
        };
        self.offsets.windows(2).map(sequence).collect()
    }

    /// Cuts a buffer of packed rows into one piece per sequence.
    fn pieces<'a>(&self, mut rest: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        let mut pieces = Vec::with_capacity(self.offsets.len());
        for w in self.offsets.windows(2) {
            let (piece, after) = rest.split_at_mut((w[1] - w[0]) * width);
            pieces.push(piece);
            rest = after;
        }
        pieces
    }
}

/// One head's columns of `width`-wide rows, contiguous, times a factor, padded with rows of zeros.
fn gather(x: &[f32], (width, column, dim): (usize, usize, usize), factor: f32) -> Vec<f32> {
    let len = x.len() / width;
    let mut out = vec![0.0; len.next_multiple_of(GRAIN) * dim];
    for (row, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(dim)) {
        out.iter_mut().zip(&row[column..]).for_each(|(o, &x)| *o = factor * x);
    }
    out
}

/// Rows `first..last` of a block and how many keys they see, both padded.
fn blocks(padded: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..padded).step_by(BLOCK).map(move |first| (first, (first + BLOCK).min(padded)))
}

/// Output `[padded, dim]` and log-sums `[len]` of one head; `q` is scaled already.
fn forward_head(q: &[f32], k: &[f32], v: &[f32], dim: usize, len: usize) -> (Vec<f32>, Vec<f32>) {
    let padded = q.len() / dim;
    let (mut out, mut log_sums) = (vec![0.0; q.len()], vec![0.0; len]);
    let mut weights = vec![0.0; BLOCK.min(padded) * padded];
    for (first, last) in blocks(padded) {
        let weights = &mut weights[..(last - first) * last];
        let queries = Small::new(&q[first * dim..last * dim], dim);
        queries.times(Small::new(&k[..last * dim], dim).transposed(), weights, false);
        for (i, row) in (first..last).zip(weights.chunks_exact_mut(last)) {
            let seen = if i < len { i + 1 } else { 0 };
            row[seen..].fill(0.0);
            if i < len {
                log_sums[i] = softmax(&mut row[..seen]);
            }
        }
        Small::new(weights, last).times(Small::new(&v[..last * dim], dim), &mut out[first * dim..last * dim], false);
    }
    (out, log_sums)
}

/// One head with everything that backward reads, `[padded, dim]` each; `q` is scaled.
struct Head<'a> {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    out: Vec<f32>,
    g: Vec<f32>,
    log_sums: &'a [f32],
    dim: usize,
}

/// Gradients of one head, `[padded, dim]` each; that of q still without the scale.
struct HeadSlopes {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Head<'_> {
    fn backward(&self) -> HeadSlopes {
        let (dim, padded) = (self.dim, self.q.len() / self.dim);
        let zeros = || vec![0.0; padded * dim];
        let mut slopes = HeadSlopes { q: zeros(), k: zeros(), v: zeros() };
        let room = BLOCK.min(padded) * padded;
        let (mut weights, mut ds) = (vec![0.0; room], vec![0.0; room]);
        for (first, last) in blocks(padded) {
            let (weights, ds) = (&mut weights[..(last - first) * last], &mut ds[..(last - first) * last]);
            let rows = first * dim..last * dim;
            let (queries, g) = (Small::new(&self.q[rows.clone()], dim), Small::new(&self.g[rows.clone()], dim));
            let (keys, values) = (Small::new(&self.k[..last * dim], dim), Small::new(&self.v[..last * dim], dim));
            queries.times(keys.transposed(), weights, false);
            g.times(values.transposed(), ds, false);
            for (i, (weights, ds)) in (first..last).zip(weights.chunks_exact_mut(last).zip(ds.chunks_exact_mut(last))) {
                self.backward_row(i, weights, ds);
            }
            let (weights, ds) = (Small::new(weights, last), Small::new(ds, last));
            ds.times(keys, &mut slopes.q[rows], false);
            ds.transposed().times(queries, &mut slopes.k[..last * dim], true);
            weights.transposed().times(g, &mut slopes.v[..last * dim], true);
        }
        slopes
    }

    /// Turns scores into weights and dp into ds.
    fn backward_row(&self, i: usize, weights: &mut [f32], ds: &mut [f32]) {
        let seen = if i < self.log_sums.len() { i + 1 } else { 0 };
        weights[seen..].fill(0.0);
        ds[seen..].fill(0.0);
        if seen == 0 {
            return;
        }
        let row = i * self.dim..(i + 1) * self.dim;
        let (log_sum, mean) = (self.log_sums[i], dot(&self.g[row.clone()], &self.out[row]));
        for (weight, ds) in weights[..seen].iter_mut().zip(&mut ds[..seen]) {
            *weight = exp(*weight - log_sum);
            *ds = *weight * (*ds - mean);
        }
    }
}
