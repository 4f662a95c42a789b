//! Root-mean-square norm with a trained gain.

use crate::{
    kernels::{
        matrix::{Matrix, Precision},
        rms_norm,
    },
    optimizer::Gradients,
};

pub(crate) struct Norm<'a> {
    name: &'a str,
    gain: &'a [f32],
    eps: f32,
    /// Whether the gain learns.
    trains: bool,
}

impl<'a> Norm<'a> {
    pub(super) fn new(name: &'a str, gain: &'a [f32], eps: f32, trains: bool) -> Norm<'a> {
        Norm { name, gain, eps, trains }
    }

    /// `[rows, hidden]` to the same, as a factor. Backward needs x.
    pub(super) fn forward(&self, x: &[f32], precision: Precision) -> Matrix<'static> {
        rms_norm::forward(x, self.gain, self.eps, precision)
    }

    /// As [`Self::forward`], in f32.
    pub(super) fn forward_f32(&self, x: &[f32]) -> Vec<f32> {
        rms_norm::forward_f32(x, self.gain, self.eps)
    }

    /// dx += …, and the gain's gradient if it learns.
    pub(super) fn backward(&self, x: &[f32], g: &[f32], dx: &mut [f32], gradients: &mut Gradients) {
        rms_norm::backward(x, self.gain, self.eps, g, dx);
        if self.trains {
            let d_gain = gradients.slot(self.name, self.gain.len());
            rms_norm::backward_gain(x, self.eps, g, d_gain);
        }
    }
}
