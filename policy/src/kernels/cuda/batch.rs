//! What the operations of one pass share on the machine: tiles of attention, positions and angles.

use candle_core::{Result, Tensor};

use super::{
    attention::Attention,
    launch::{Kernel, Launch, Place},
    machine::{Machine, Room},
    taped::taped1,
};
use crate::{kernels::Rotation, sequence_batch::Packed, transformer::AttentionShape};

/// Packed sequences of one pass, ready for the machine. Clones share it.
#[derive(Clone)]
pub(crate) struct Batch {
    machine: Machine,
    attention: Attention,
    turns: Turns,
}

/// The angles of every row.
#[derive(Clone)]
struct Turns {
    /// `[rows]`.
    positions: Tensor,
    /// `[longest, half]`.
    cos: Tensor,
    /// As `cos`.
    sin: Tensor,
    half: usize,
    head_dim: usize,
}

impl Batch {
    /// Uploads what the kernels want to know of a batch.
    ///
    /// # Errors
    /// When heads are wider than the kernels know, or the device fails.
    pub(crate) fn new(machine: Machine, packed: &Packed, rotation: &Rotation, shape: AttentionShape) -> Result<Batch> {
        let (half, device) = (rotation.half, machine.device());
        let table = |x: &[f32]| Tensor::from_slice(x, (x.len() / half.max(1), half), &device);
        let turns = Turns {
            positions: machine.upload(&rotation.positions)?,
            cos: table(&rotation.cos)?,
            sin: table(&rotation.sin)?,
            half,
            head_dim: rotation.head_dim,
        };
        Ok(Batch { machine, attention: Attention::new(machine, packed, shape)?, turns })
    }

    /// As [`plain::rope`](crate::kernels::plain::rope); backward turns the other way.
    pub(crate) fn rope(&self, x: &Tensor) -> Result<Tensor> {
        let (x, turned) = (x.contiguous()?, self.clone());
        let value = self.turn(&x, 1.0)?;
        taped1("rope", &x, (value, x.dims()), move |_, g| Ok(turned.turn(g, -1.0)?.into_tensor(g.dims())))
    }

    fn turn(&self, x: &Tensor, direction: f32) -> Result<Room> {
        let (rows, width) = x.dims2()?;
        assert_eq!(rows, self.turns.positions.elem_count(), "one row for each position");
        let mut out = self.machine.room(rows * width)?;
        let launch = Launch::each(Kernel::Rope, rows * width)
            .place(Place::of(x)?)
            .place(out.place())
            .place(Place::of(&self.turns.positions)?)
            .place(Place::of(&self.turns.cos)?)
            .place(Place::of(&self.turns.sin)?)
            .long(rows * width)
            .int(width)
            .int(self.turns.head_dim)
            .int(self.turns.half)
            .float(direction);
        self.machine.launch(&launch)?;
        Ok(out)
    }

    /// As [`plain::attention`](crate::kernels::plain::attention).
    pub(crate) fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        self.attention.run(q, k, v)
    }
}
