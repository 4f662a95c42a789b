//! The matrix product with a weight, y = x·Wᵀ, with a backward that writes dW in the weight's own order.
//!
//! candle's tape would transpose the weight, differentiate the product and transpose the gradient back through a strided
//! addition, which costs more than the product for narrow models.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor, backend::BackendStorage};

/// `x [rows, in]`, `weight [out, in]`; returns `[rows, out]`. dx = g·W, dW = gᵀ·x.
///
/// # Errors
/// When shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.dims2()?;
    weight.dims2()?;
    x.apply_op2(weight, Linear)
}

struct Linear;

fn sizes(x: &Layout, weight: &Layout) -> Result<(usize, usize, usize)> {
    let ((rows, inner), (out, weight_inner)) = (x.shape().dims2()?, weight.shape().dims2()?);
    if inner != weight_inner {
        candle_core::bail!("linear: x has {inner} columns, the weight {weight_inner}");
    }
    Ok((rows, out, inner))
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, out, inner) = sizes(lx, lw)?;
        Ok((x.matmul(w, (1, rows, out, inner), lx, &lw.transpose(0, 1)?)?, Shape::from((rows, out))))
    }

    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, w: &CudaStorage, lw: &Layout) -> Result<(CudaStorage, Shape)> {
        let (rows, out, inner) = sizes(lx, lw)?;
        Ok((x.matmul(w, (1, rows, out, inner), lx, &lw.transpose(0, 1)?)?, Shape::from((rows, out))))
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let dx = x.track_op().then(|| g.matmul(weight)).transpose()?; // [rows, in]
        let dw = weight.track_op().then(|| g.t()?.matmul(&x.detach())).transpose()?; // [out, in]
        Ok((dx, dw))
    }
}
