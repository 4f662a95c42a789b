//! SwiGLU's product, forward and backward in one pass each.

use candle_core::{Result, Tensor};

use super::{
    launch::{Kernel, Launch, Place},
    machine::Machine,
    taped::taped2,
};

/// As [`plain::swiglu`](crate::kernels::plain::swiglu): silu(gate)·up, both `[rows, ffn]`.
///
/// # Errors
/// When shapes differ or the device fails.
pub(crate) fn swiglu(machine: Machine, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (gate, up) = (gate.contiguous()?, up.contiguous()?);
    let n = gate.elem_count();
    let mut value = machine.room(n)?;
    let launch = Launch::each(Kernel::SwigluForward, n)
        .place(Place::of(&gate)?)
        .place(Place::of(&up)?.with_room(n))
        .place(value.place())
        .long(n);
    machine.launch(&launch)?;
    taped2("swiglu", [&gate, &up], (value, gate.dims()), move |[gate, up], _, g| {
        let (mut d_gate, mut d_up) = (machine.room(n)?, machine.room(n)?);
        let launch = Launch::each(Kernel::SwigluBackward, n)
            .place(Place::of(gate)?)
            .place(Place::of(up)?)
            .place(Place::of(g)?.with_room(n))
            .place(d_gate.place())
            .place(d_up.place())
            .long(n);
        machine.launch(&launch)?;
        Ok((Some(d_gate.into_tensor(gate.dims())), Some(d_up.into_tensor(up.dims()))))
    })
}
