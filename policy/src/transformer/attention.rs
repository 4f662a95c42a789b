//! The attention half of a block: x += output(attention(norm(x))).

use std::borrow::Cow;

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
    /// Adds to the stream `[rows, hidden]`; where only some rows are `read` behind it the others go.
    pub(super) fn forward(
        &self,
        x: &mut Vec<f32>,
        batch: &Batch<'_>,
        read: Option<&[u32]>,
        keeps: bool,
    ) -> Option<Saved> {
        let normed = self.norm.forward(x, batch.precision);
        let (mut q, mut k) = (self.query.forward(&normed), self.key.forward(&normed));
        let v = self.value.forward(&normed);
        drop(normed);
        batch.rotation.forward(&mut q, self.query.n_out());
        batch.rotation.forward(&mut k, self.key.n_out());
        let mixed = self.kernel(batch).forward(&q, &k, &v);
        let before = keeps.then(|| x.clone());
        if let Some(rows) = read {
            *x = some_rows(x, self.output.n_out(), rows);
        }
        self.output.add_forward(&batch.factor(&self.mixed_of(&mixed, read), self.query.n_out()), x);
        before.map(|x| Saved { x, q, k, v, mixed })
    }

    /// Turns the gradient of the stream behind the layer, of the rows that are `read`, into that before it.
    pub(super) fn backward(
        &self,
        saved: &Saved,
        batch: &Batch<'_>,
        read: Option<&[u32]>,
        dx: &mut Vec<f32>,
        gradients: &mut Gradients,
    ) {
        let Saved { x, q, k, v, mixed } = saved;
        let (width, kv_width) = (self.query.n_out(), self.key.n_out());
        let g = batch.factor(dx, self.output.n_out());
        let mut d_mixed = self.output.backward_input(&g);
        self.output.backward_weight(&batch.factor(&self.mixed_of(mixed, read), width), &g, gradients);
        drop(g);
        if let Some(rows) = read {
            let n_rows = batch.packed.ids.len();
            d_mixed = among_all(&d_mixed, width, rows, n_rows);
            *dx = among_all(dx, self.output.n_out(), rows, n_rows);
        }
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

    /// What attention mixed, of the rows that are read.
    fn mixed_of<'b>(&self, mixed: &'b Mixed, read: Option<&[u32]>) -> Cow<'b, [f32]> {
        match read {
            Some(rows) => some_rows(&mixed.out, self.query.n_out(), rows).into(),
            None => Cow::Borrowed(&mixed.out),
        }
    }

    fn kernel<'b>(&self, batch: &'b Batch<'_>) -> Attention<'b> {
        Attention { offsets: &batch.packed.offsets, shape: batch.shape }
    }
}

/// Some rows, one after another.
fn some_rows(x: &[f32], width: usize, rows: &[u32]) -> Vec<f32> {
    let mut some = Vec::with_capacity(rows.len() * width);
    rows.iter().for_each(|&row| some.extend_from_slice(&x[row as usize * width..][..width]));
    some
}

/// The inverse: these rows in their places, zeros between them.
fn among_all(x: &[f32], width: usize, rows: &[u32], n_rows: usize) -> Vec<f32> {
    let mut all = vec![0.0; n_rows * width];
    for (&row, x) in rows.iter().zip(x.chunks_exact(width)) {
        all[row as usize * width..][..width].copy_from_slice(x);
    }
    all
}
