//! SwiGLU's product, forward and backward in one pass each.
//!
//! y = a·σ(a)·u for gate a and up u. Backward: da = g·u·σ(a)(1 + a(1 − σ(a))), du = g·a·σ(a); σ and y are recomputed from a
//! and u, which are kept anyway.

use half::bf16;
use rayon::prelude::*;

use super::{
    exp::exp,
    matrix::{FillRow, Matrix, Number, Precision, Values},
};

/// silu(gate)·up (arXiv 2002.05202). Both `[rows, ffn]`; returns `[rows, ffn]` as a factor of a product.
pub(crate) fn forward(gate: &[f32], up: &[f32], width: usize, precision: Precision) -> Matrix<'static> {
    Matrix::by_rows(gate.len() / width, width, precision, SwiGlu { gate, up })
}

/// One row of it, in place of its gate, in f32.
pub(crate) fn row(gate: &mut [f32], up: &[f32]) {
    for (a, u) in gate.iter_mut().zip(up) {
        *a = *a * sigmoid(*a) * u;
    }
}

/// d gate and d up as factors of products. `gate`, `up`, `g`: `[rows, ffn]`.
pub(crate) fn backward(
    gate: &[f32],
    up: &[f32],
    g: &[f32],
    width: usize,
    precision: Precision,
) -> (Matrix<'static>, Matrix<'static>) {
    let rows = gate.len() / width;
    let matrix = |values| Matrix { rows, cols: width, values };
    match precision {
        Precision::F32 => {
            let (da, du) = both::<f32>(gate, up, g);
            (matrix(Values::F32(da.into())), matrix(Values::F32(du.into())))
        }
        Precision::Bf16 => {
            let (da, du) = both::<bf16>(gate, up, g);
            (matrix(Values::Bf16(da.into())), matrix(Values::Bf16(du.into())))
        }
    }
}

/// Numbers that one task computes.
const CHUNK: usize = 1 << 15;

fn both<N: Number>(gate: &[f32], up: &[f32], g: &[f32]) -> (Vec<N>, Vec<N>) {
    let (mut da, mut du) = (vec![N::default(); g.len()], vec![N::default(); g.len()]);
    let out = da.par_chunks_mut(CHUNK).zip(du.par_chunks_mut(CHUNK));
    let input = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(g.par_chunks(CHUNK));
    out.zip(input).for_each(|((da, du), ((a, u), g))| {
        for i in 0..g.len() {
            let s = sigmoid(a[i]);
            da[i] = N::near(g[i] * u[i] * s * (1.0 + a[i] * (1.0 - s)));
            du[i] = N::near(g[i] * a[i] * s);
        }
    });
    (da, du)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

struct SwiGlu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
}

impl FillRow for SwiGlu<'_> {
    fn fill<N: Number>(&self, row: usize, out: &mut [N]) {
        let width = out.len();
        let (a, u) = (&self.gate[row * width..][..width], &self.up[row * width..][..width]);
        for i in 0..width {
            out[i] = N::near(a[i] * sigmoid(a[i]) * u[i]);
        }
    }
}
