//! Rotary positions on neighbouring pairs. A rotation is orthogonal, so backward turns the gradient the other way.

use super::rows::for_rows;

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

    /// Turns every head of every row of `x [rows, heads * head_dim]` in place (arXiv 2104.09864, equation 34); dimensions
    /// past the rotated ones stay.
    pub(crate) fn forward(&self, x: &mut [f32], width: usize) {
        self.turn_all(x, width, 1.0);
    }

    /// The gradient of [`Self::forward`]'s argument from that of its result, in place.
    pub(crate) fn backward(&self, g: &mut [f32], width: usize) {
        self.turn_all(g, width, -1.0);
    }

    fn turn_all(&self, x: &mut [f32], width: usize, direction: f32) {
        assert_eq!(x.len(), self.positions.len() * width, "one row for each position");
        for_rows(x, width, |row, x| {
            let start = self.positions[row] as usize * self.half;
            let (cos, sin) = (&self.cos[start..][..self.half], &self.sin[start..][..self.half]);
            for head in x.chunks_exact_mut(self.head_dim) {
                turn(head, cos, sin, direction);
            }
        });
    }
}

/// Turns the pairs of one head by their angles, forward (1) or back (-1).
#[inline]
pub(crate) fn turn(head: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
    for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
        let (a, b, s) = (pair[0], pair[1], direction * sin);
        pair[0] = a * cos - b * s;
        pair[1] = a * s + b * cos;
    }
}
