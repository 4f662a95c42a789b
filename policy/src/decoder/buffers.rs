//! What a pass computes in.

use super::{
    adapter::Adapter,
    matrix::{Buffer, Shared},
    panels::padded,
};
use crate::architecture::Shape;

/// Everything between the layers, `[rows, ..]`: as [`Buffer`], and as [`Shared`] while it is worked on.
#[derive(Clone, Copy)]
pub(super) struct Buffers<B> {
    pub(super) stream: B,
    pub(super) normed: B,
    pub(super) query: B,
    pub(super) key: B,
    pub(super) value: B,
    pub(super) attended: B,
    pub(super) gate: B,
    pub(super) up: B,
    /// Cosines of all pairs' angles, then their sines.
    pub(super) angles: B,
    /// Behind the first factor of an adapter.
    pub(super) low: B,
    /// Rows that give logits, behind the last attention.
    pub(super) last_stream: B,
    pub(super) last_attended: B,
    pub(super) logits: B,
}

impl Buffers<Buffer> {
    /// For passes of `rows` tokens, of which `wanted` give logits.
    pub(super) fn new(shape: &Shape, adapter: Option<&Adapter>, rows: usize, wanted: usize) -> Self {
        let (q, kv) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
        let buffer = |width| Buffer::new(rows, width);
        Buffers {
            stream: buffer(shape.hidden),
            normed: buffer(shape.hidden),
            query: buffer(q),
            key: buffer(kv),
            value: buffer(kv),
            attended: buffer(q),
            gate: buffer(shape.ffn),
            up: buffer(shape.ffn),
            angles: buffer(shape.rope_dims),
            low: buffer(adapter.map_or(1, Adapter::rank)),
            last_stream: Buffer::new(wanted, shape.hidden),
            last_attended: Buffer::new(wanted, q),
            logits: Buffer::new(wanted, shape.vocab_size),
        }
    }

    /// Bytes of all of them, but an adapter's.
    pub(super) fn n_bytes(shape: &Shape, rows: usize, wanted: usize) -> usize {
        let [q, kv] = [shape.n_heads, shape.n_kv_heads].map(|n| padded(n * shape.head_dim));
        let (hidden, ffn) = (padded(shape.hidden), padded(shape.ffn));
        let row = 2 * hidden + 2 * q + 2 * kv + 2 * ffn + padded(shape.rope_dims);
        (rows * row + wanted * (hidden + q + padded(shape.vocab_size))) * size_of::<f32>()
    }

    pub(super) fn open(&mut self) -> Buffers<Shared<'_>> {
        Buffers {
            stream: self.stream.open(),
            normed: self.normed.open(),
            query: self.query.open(),
            key: self.key.open(),
            value: self.value.open(),
            attended: self.attended.open(),
            gate: self.gate.open(),
            up: self.up.open(),
            angles: self.angles.open(),
            low: self.low.open(),
            last_stream: self.last_stream.open(),
            last_attended: self.last_attended.open(),
            logits: self.logits.open(),
        }
    }
}
