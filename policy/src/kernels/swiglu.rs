//! SwiGLU's product, forward and backward in one pass each.
//!
//! y = a·σ(a)·u for gate a and up u. Backward: da = g·u·σ(a)(1 + a(1 − σ(a))), du = g·a·σ(a); σ is recomputed.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::{
    exp::exp,
    fused, plain,
    rows::{for_rows, slice, values},
};

/// silu(gate)·up (arXiv 2002.05202). Both `[rows, ffn]`; returns `[rows, ffn]`.
///
/// # Errors
/// When shapes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if fused(gate) { gate.apply_op2(up, SwiGlu) } else { plain::swiglu(gate, up) }
}

struct SwiGlu;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, lg: &Layout, up: &CpuStorage, lu: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(gate, lg)?, slice(up, lu)?);
        let width = lg.shape().dims2()?.1;
        let mut y = vec![0.0; gate.len()];
        for_rows(&mut y, width, |row, y| {
            let (a, u) = (&gate[row * width..][..width], &up[row * width..][..width]);
            for i in 0..width {
                y[i] = a[i] * sigmoid(a[i]) * u[i];
            }
        });
        Ok((CpuStorage::F32(y), lg.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let (values_a, values_u, values_g) = (values(gate), values(up), values(&g));
        let (a, u, gs) = (values_a.slice()?, values_u.slice()?, values_g.slice()?);
        let width = gate.dims2()?.1;
        let mut da = vec![0.0; a.len()];
        for_rows(&mut da, width, |row, da| {
            let (a, u, g) = (&a[row * width..][..width], &u[row * width..][..width], &gs[row * width..][..width]);
            for i in 0..width {
                let s = sigmoid(a[i]);
                da[i] = g[i] * u[i] * s * (1.0 + a[i] * (1.0 - s));
            }
        });
        let mut du = vec![0.0; a.len()];
        for_rows(&mut du, width, |row, du| {
            let (a, g) = (&a[row * width..][..width], &gs[row * width..][..width]);
            for i in 0..width {
                du[i] = g[i] * a[i] * sigmoid(a[i]);
            }
        });
        let tensor = |values| Tensor::from_vec(values, gate.shape(), gate.device());
        Ok((Some(tensor(da)?), Some(tensor(du)?)))
    }
}
