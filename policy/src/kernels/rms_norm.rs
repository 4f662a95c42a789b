//! RMSNorm, forward and backward in one pass each.
//!
//! y_i = x_i · s · w_i with s = 1/sqrt(mean(x²) + eps). Backward, with h = g·w: dx = s·h − x·s³·mean(h·x), dw = Σ_rows g·x·s.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::{
    exp::dot,
    fused, plain,
    rows::{for_rows, slice, values},
};

/// RMSNorm (arXiv 1910.07467, equation 4). `x [rows, d]`, `gain [d]`; returns `[rows, d]`.
///
/// # Errors
/// When shapes do not fit.
pub fn rms_norm(x: &Tensor, gain: &Tensor, eps: f64) -> Result<Tensor> {
    if fused(x) { x.contiguous()?.apply_op2(gain, RmsNorm { eps: eps as f32 }) } else { plain::rms_norm(x, gain, eps) }
}

struct RmsNorm {
    eps: f32,
}

impl RmsNorm {
    fn inverse_rms(&self, x: &[f32]) -> f32 {
        1.0 / (dot(x, x) / x.len() as f32 + self.eps).sqrt()
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (slice(x, lx)?, slice(w, lw)?);
        let width = w.len();
        let mut y = vec![0.0; x.len()];
        for_rows(&mut y, width, |row, y| {
            let x = &x[row * width..][..width];
            let s = self.inverse_rms(x);
            for i in 0..width {
                y[i] = x[i] * s * w[i];
            }
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, gain: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let (values_x, values_w, values_g) = (values(x), values(gain), values(&g));
        let (xs, w, gs) = (values_x.slice()?, values_w.slice()?, values_g.slice()?);
        let width = w.len();
        let mut dx = vec![0.0; xs.len()];
        for_rows(&mut dx, width, |row, dx| {
            let (x, g) = (&xs[row * width..][..width], &gs[row * width..][..width]);
            let s = self.inverse_rms(x);
            for i in 0..width {
                dx[i] = g[i] * w[i];
            }
            let c = s * s * s * dot(dx, x) / width as f32;
            for i in 0..width {
                dx[i] = dx[i] * s - x[i] * c;
            }
        });
        let mut dw = vec![0.0; width];
        for (x, g) in xs.chunks_exact(width).zip(gs.chunks_exact(width)) {
            let s = self.inverse_rms(x);
            for i in 0..width {
                dw[i] += g[i] * x[i] * s;
            }
        }
        Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), Some(Tensor::from_vec(dw, width, x.device())?)))
    }
}
