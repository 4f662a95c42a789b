//! RMSNorm, forward and backward in one pass each.
//!
//! y_i = x_i · s · w_i with s = 1/sqrt(mean(x²) + eps). Backward, with h = g·w: dx = s·h − x·s³·mean(h·x), dw = Σ_rows g·x·s.
//! Nothing is saved: s costs less to compute than to keep. The addition of the residual is not here but in the product
//! before it, which adds into the stream, and in `backward`, which adds dx into the stream's gradient.

use super::{
    exp::{dot, dot3},
    matrix::{FillRow, Matrix, Number, Precision},
    rows::{for_rows, sum_rows},
};

/// RMSNorm (arXiv 1910.07467, equation 4). `x [rows, d]`, `gain [d]`; returns `[rows, d]` as a factor of a product.
pub(crate) fn forward(x: &[f32], gain: &[f32], eps: f32, precision: Precision) -> Matrix<'static> {
    let width = gain.len();
    Matrix::by_rows(x.len() / width, width, precision, Norm { x, gain, eps })
}

/// One row of it, in f32.
pub(crate) fn row(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    Norm { x, gain, eps }.fill(0, out);
}

/// As [`forward`], in f32.
pub(crate) fn forward_f32(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for_rows(&mut out, gain.len(), |row, out| Norm { x, gain, eps }.fill(row, out));
    out
}

/// Adds dx into `dx`. `x`, `g`, `dx`: `[rows, d]`; `gain`: `[d]`.
pub(crate) fn backward(x: &[f32], gain: &[f32], eps: f32, g: &[f32], dx: &mut [f32]) {
    let width = gain.len();
    for_rows(dx, width, |row, dx| {
        let (x, g) = (&x[row * width..][..width], &g[row * width..][..width]);
        let s = inverse_rms(x, eps);
        let c = s * s * s * dot3(g, gain, x) / width as f32;
        for i in 0..width {
            dx[i] += g[i] * gain[i] * s - x[i] * c;
        }
    });
}

/// Adds dw into `d_gain`, `[d]`. `x`, `g`: `[rows, d]`.
pub(crate) fn backward_gain(x: &[f32], eps: f32, g: &[f32], d_gain: &mut [f32]) {
    let width = d_gain.len();
    sum_rows(x.len() / width, width, d_gain, |row, sum| {
        let (x, g) = (&x[row * width..][..width], &g[row * width..][..width]);
        let s = inverse_rms(x, eps);
        for i in 0..width {
            sum[i] += g[i] * x[i] * s;
        }
    });
}

fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

struct Norm<'a> {
    x: &'a [f32],
    gain: &'a [f32],
    eps: f32,
}

impl FillRow for Norm<'_> {
    fn fill<N: Number>(&self, row: usize, out: &mut [N]) {
        let width = self.gain.len();
        let x = &self.x[row * width..][..width];
        let s = inverse_rms(x, self.eps);
        for i in 0..width {
            out[i] = N::near(x[i] * s * self.gain[i]);
        }
    }
}
