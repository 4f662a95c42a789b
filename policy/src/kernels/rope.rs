//! Rotary positions on neighbouring pairs. A rotation is orthogonal, so backward turns the gradient the other way.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{
    fused, plain,
    rows::{for_rows, slice, values},
};

/// Cosine and sine of every pair's angle at every position of a batch: computed once a pass, shared by all layers.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Position of each row.
    pub(super) positions: Vec<u32>,
    /// `[longest, half]`, row p for position p.
    pub(super) cos: Vec<f32>,
    /// As `cos`.
    pub(super) sin: Vec<f32>,
    /// Rotated pairs a head.
    pub(super) half: usize,
    /// Width of a head.
    pub(super) head_dim: usize,
}

impl Rotation {
    /// Angles position · frequency_i for rows at these positions.
    #[must_use]
    pub fn new(positions: &[u32], frequencies: &[f32], head_dim: usize) -> Rotation {
        let longest = positions.iter().max().map_or(0, |&p| p + 1);
        let angles = (0..longest).flat_map(|p| frequencies.iter().map(move |&f| p as f32 * f));
        let (sin, cos) = angles.map(f32::sin_cos).unzip();
        Rotation { positions: positions.to_vec(), cos, sin, half: frequencies.len(), head_dim }
    }

    /// Turns every head of one row: forwards with `direction` 1, backwards with -1.
    fn turn(&self, row: usize, x: &[f32], direction: f32, out: &mut [f32]) {
        let start = self.positions[row] as usize * self.half;
        let (cos, sin) = (&self.cos[start..][..self.half], &self.sin[start..][..self.half]);
        for (x, out) in x.chunks_exact(self.head_dim).zip(out.chunks_exact_mut(self.head_dim)) {
            for i in 0..self.half {
                let (a, b, s) = (x[2 * i], x[2 * i + 1], direction * sin[i]);
                out[2 * i] = a * cos[i] - b * s;
                out[2 * i + 1] = a * s + b * cos[i];
            }
            out[2 * self.half..].copy_from_slice(&x[2 * self.half..]);
        }
    }

    fn turn_all(&self, x: &[f32], width: usize, direction: f32) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        for_rows(&mut out, width, |row, out| self.turn(row, &x[row * width..][..width], direction, out));
        out
    }
}

/// Turns `[rows, heads * head_dim]` (arXiv 2104.09864, equation 34); dimensions past the rotated ones pass through.
///
/// # Errors
/// When shapes do not fit.
pub fn rope(x: &Tensor, rotation: &Arc<Rotation>) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    if rows != rotation.positions.len() || !width.is_multiple_of(rotation.head_dim) {
        candle_core::bail!("rope: {rows} rows of {width} for {} positions", rotation.positions.len());
    }
    if fused(x) { x.apply_op1(Rope(rotation.clone())) } else { plain::rope(x, rotation) }
}

struct Rope(Arc<Rotation>);

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope-pairs"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.shape().dims2()?.1;
        Ok((CpuStorage::F32(self.0.turn_all(slice(x, layout)?, width, 1.0)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let g = g.contiguous()?;
        let dx = self.0.turn_all(values(&g).slice()?, x.dims2()?.1, -1.0);
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
