//! The gated feed-forward half of a block: x += down(silu(gate(n)) · up(n)), n = norm(x).

use super::{linear::Linear, norm::Norm, pass::Batch};
use crate::{kernels::swiglu, optimizer::Gradients};

pub(super) struct MlpLayer<'a> {
    pub(super) norm: Norm<'a>,
    pub(super) gate: Linear<'a>,
    pub(super) up: Linear<'a>,
    pub(super) down: Linear<'a>,
}

/// What backward needs: the stream as it came in, gate and up.
pub(super) struct Saved {
    x: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl MlpLayer<'_> {
    /// Adds to the stream `[rows, hidden]`.
    pub(super) fn forward(&self, x: &mut [f32], batch: &Batch<'_>, keeps: bool) -> Option<Saved> {
        let normed = self.norm.forward(x, batch.precision);
        let (gate, up) = (self.gate.forward(&normed), self.up.forward(&normed));
        drop(normed);
        let before = keeps.then(|| x.to_vec());
        self.down.add_forward(&swiglu::forward(&gate, &up, self.gate.n_out(), batch.precision), x);
        before.map(|x| Saved { x, gate, up })
    }

    /// Turns the gradient of the stream behind the layer into that before it.
    pub(super) fn backward(&self, saved: &Saved, batch: &Batch<'_>, dx: &mut [f32], gradients: &mut Gradients) {
        let Saved { x, gate, up } = saved;
        let width = self.gate.n_out();
        let g = batch.factor(dx, self.down.n_out());
        let d_product = self.down.backward_input(&g);
        self.down.backward_weight(&swiglu::forward(gate, up, width, batch.precision), &g, gradients);
        drop(g);
        let (d_gate, d_up) = swiglu::backward(gate, up, &d_product, width, batch.precision);
        drop(d_product);
        let normed = self.norm.forward(x, batch.precision);
        self.gate.backward_weight(&normed, &d_gate, gradients);
        self.up.backward_weight(&normed, &d_up, gradients);
        drop(normed);
        let mut d_normed = self.gate.backward_input(&d_gate);
        self.up.add_backward_input(&d_up, &mut d_normed);
        self.norm.backward(x, &d_normed, dx, gradients);
    }
}
