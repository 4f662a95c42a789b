//! A linear layer whose products round their factors: three products, forward and back.

use candle_core::{Result, Tensor};

use super::{
    launch::Place,
    machine::Machine,
    product::{Factor, Product},
    taped::taped2,
};
use crate::kernels::Precision;

/// y = x·Wᵀ, as [`plain::linear`](crate::kernels::plain::linear), with the factors of all three products rounded to this
/// precision where cuBLAS has matrix units for their shape, and everything else in f32.
///
/// `x [rows, in]`, `weight [out, in]`; returns `[rows, out]`.
///
/// # Errors
/// When the device fails.
pub(crate) fn linear(machine: Machine, x: &Tensor, weight: &Tensor, precision: Precision) -> Result<Tensor> {
    let ((rows, inner), (outer, _)) = (x.dims2()?, weight.dims2()?);
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let product = move |left: Factor<'_>, right: Factor<'_>, out: Place<'_>| {
        machine.product(&Product { left, right, out, adds: false, precision })
    };
    let mut y = machine.room(rows * outer)?;
    let left = Factor::new(Place::of(&x)?, rows, inner);
    product(left, Factor::new(Place::of(&weight)?, outer, inner).transposed(), y.place())?;
    taped2("linear", [&x, &weight], (y, [rows, outer].as_slice()), move |[x, weight], _, g| {
        let g = Factor::new(Place::of(g)?, rows, outer);
        // Frozen weights, and what no weight stands before, want no gradient.
        let slope = |of: &Tensor, left: Factor<'_>, right: &Tensor, shape: (usize, usize)| -> Result<Option<Tensor>> {
            if !of.track_op() {
                return Ok(None);
            }
            let mut d = machine.room(shape.0 * shape.1)?;
            let (n, width) = right.dims2()?;
            product(left, Factor::new(Place::of(right)?, n, width), d.place())?;
            Ok(Some(d.into_tensor(shape)))
        };
        Ok((slope(x, g, weight, (rows, inner))?, slope(weight, g.transposed(), x, (outer, inner))?))
    })
}
