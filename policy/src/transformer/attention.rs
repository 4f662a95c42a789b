//! The attention half of a block: x += output(attention(norm(x))).

use super::{linear::Linear, norm::Norm, pass::Batch};
use crate::{
    kernels::attention::{Attention, Mixed},
    optimizer::Gradients,
};

/// How many heads of which width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of each.
    pub head_dim: usize,
}

pub(super) struct AttentionLayer<'a> {
    pub(super) norm: Norm<'a>,
    pub(super) query: Linear<'a>,
    pub(super) key: Linear<'a>,
    pub(super) value: Linear<'a>,
    pub(super) output: Linear<'a>,
}

/// What backward needs: the stream as it came in, q and k after the rotation, v, and what attention mixed.
pub(super) struct Saved {
    x: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mixed: Mixed,
}

impl AttentionLayer<'_> {
    /// Adds to the stream `[rows, hidden]`.
    pub(super) fn forward(&self, x: &mut [f32], batch: &Batch<'_>, keeps: bool) -> Option<Saved> {
        let normed = self.norm.forward(x, batch.precision);
        let (mut q, mut k) = (self.query.forward(&normed), self.key.forward(&normed));
        let v = self.value.forward(&normed);
        drop(normed);
        batch.rotation.forward(&mut q, self.query.n_out());
        batch.rotation.forward(&mut k, self.key.n_out());
        let mixed = self.kernel(batch).forward(&q, &k, &v);
        let before = keeps.then(|| x.to_vec());
        self.output.add_forward(&batch.factor(&mixed.out, self.query.n_out()), x);
        before.map(|x| Saved { x, q, k, v, mixed })
    }

    /// Turns the gradient of the stream behind the layer into that before it.
    pub(super) fn backward(&self, saved: &Saved, batch: &Batch<'_>, dx: &mut [f32], gradients: &mut Gradients) {
        let Saved { x, q, k, v, mixed } = saved;
        let (width, kv_width) = (self.query.n_out(), self.key.n_out());
        let g = batch.factor(dx, self.output.n_out());
        let d_mixed = self.output.backward_input(&g);
        self.output.backward_weight(&batch.factor(&mixed.out, width), &g, gradients);
        drop(g);
        let mut slopes = self.kernel(batch).backward(q, k, v, mixed, &d_mixed);
        drop(d_mixed);
        batch.rotation.backward(&mut slopes.q, width);
        batch.rotation.backward(&mut slopes.k, kv_width);
        let normed = self.norm.forward(x, batch.precision);
        let layers =
            [(&self.query, &slopes.q, width), (&self.key, &slopes.k, kv_width), (&self.value, &slopes.v, kv_width)];
        let mut d_normed = vec![0.0; x.len()];
        for (layer, slope, width) in layers {
            let g = batch.factor(slope, width);
            layer.add_backward_input(&g, &mut d_normed);
            layer.backward_weight(&normed, &g, gradients);
        }
        self.norm.backward(x, &d_normed, dx, gradients);
    }

    fn kernel<'b>(&self, batch: &'b Batch<'_>) -> Attention<'b> {
        Attention { offsets: &batch.packed.offsets, shape: batch.shape }
    }
}
