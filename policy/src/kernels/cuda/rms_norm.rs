//! RMSNorm. Nothing is kept for backward: the scale of a row costs less to compute than to keep.

use candle_core::{Result, Tensor};

use super::{
    launch::{Kernel, Launch, Place},
    machine::{Machine, Room},
    taped::taped2,
};

/// Rows whose share of the gain's gradient one thread sums.
const ROWS_A_PART: usize = 64;

#[derive(Clone, Copy)]
struct Norm {
    machine: Machine,
    rows: usize,
    width: usize,
    eps: f32,
}

/// As [`plain::rms_norm`](crate::kernels::plain::rms_norm). `x [rows, d]`, `gain [d]`.
///
/// # Errors
/// When shapes do not fit or the device fails.
pub(crate) fn rms_norm(machine: Machine, x: &Tensor, gain: &Tensor, eps: f64) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let x = x.contiguous()?;
    let norm = Norm { machine, rows, width, eps: eps as f32 };
    let value = norm.forward(&x, gain)?;
    taped2("rms_norm", [&x, gain], (value, x.dims()), move |[x, gain], _, g| {
        let (dx, inverses) = norm.backward(x, gain, g)?;
        let d_gain = if gain.track_op() { Some(norm.backward_gain(x, g, &inverses)?) } else { None };
        Ok((Some(dx), d_gain))
    })
}

impl Norm {
    fn forward(&self, x: &Tensor, gain: &Tensor) -> Result<Room> {
        let mut y = self.machine.room(self.rows * self.width)?;
        let launch = Launch::warps(Kernel::RmsNormForward, self.rows)
            .place(Place::of(x)?)
            .place(Place::of(gain)?.with_room(self.width))
            .place(y.place())
            .int(self.rows)
            .int(self.width)
            .float(self.eps);
        self.machine.launch(&launch)?;
        Ok(y)
    }

    /// dx, and the inverse root mean square of every row.
    fn backward(&self, x: &Tensor, gain: &Tensor, g: &Tensor) -> Result<(Tensor, Tensor)> {
        let (mut dx, mut inverses) = (self.machine.room(self.rows * self.width)?, self.machine.room(self.rows)?);
        let launch = Launch::warps(Kernel::RmsNormBackward, self.rows)
            .place(Place::of(x)?)
            .place(Place::of(gain)?)
            .place(Place::of(g)?.with_room(self.rows * self.width))
            .place(dx.place())
            .place(inverses.place())
            .int(self.rows)
            .int(self.width)
            .float(self.eps);
        self.machine.launch(&launch)?;
        Ok((dx.into_tensor((self.rows, self.width)), inverses.into_tensor(self.rows)))
    }

    fn backward_gain(&self, x: &Tensor, g: &Tensor, inverses: &Tensor) -> Result<Tensor> {
        let n_parts = self.rows.div_ceil(ROWS_A_PART);
        let columns = self.width.div_ceil(Kernel::RmsNormGainParts.threads() as usize);
        let (mut parts, mut d_gain) = (self.machine.room(n_parts * self.width)?, self.machine.room(self.width)?);
        let launch = Launch::new(Kernel::RmsNormGainParts, [columns, n_parts])
            .place(Place::of(x)?)
            .place(Place::of(g)?)
            .place(Place::of(inverses)?)
            .place(parts.place())
            .int(self.rows)
            .int(self.width)
            .int(ROWS_A_PART);
        self.machine.launch(&launch)?;
        let launch = Launch::each(Kernel::SumParts, self.width)
            .place(parts.place())
            .place(d_gain.place())
            .int(n_parts)
            .int(self.width);
        self.machine.launch(&launch)?;
        Ok(d_gain.into_tensor(self.width))
    }
}
