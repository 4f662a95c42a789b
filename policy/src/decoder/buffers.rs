//! What a pass computes in.

use super::{
    adapter::Adapter,
    matrix::{Buffer, Shared},
    panels::padded,
};
use crate::architecture::Shape;

/// Everything between the layers, `[rows, ..]`.
pub(super) struct Buffers {
    stream: Buffer,
    normed: Buffer,
    query: Buffer,
    key: Buffer,
    value: Buffer,
    attended: Buffer,
    gate: Buffer,
    up: Buffer,
    /// Cosine and sine of each pair's angle.
    angles: Buffer,
    /// Behind the first factor of an adapter.
    low: Buffer,
    /// Rows that give logits, behind the last attention.
    last_stream: Buffer,
    last_attended: Buffer,
    pub(super) logits: Buffer,
}

/// As [`Buffers`], while they are worked on.
#[derive(Clone, Copy)]
pub(super) struct Open<'a> {
    pub(super) stream: Shared<'a>,
    pub(super) normed: Shared<'a>,
    pub(super) query: Shared<'a>,
    pub(super) key: Shared<'a>,
    pub(super) value: Shared<'a>,
    pub(super) attended: Shared<'a>,
    pub(super) gate: Shared<'a>,
    pub(super) up: Shared<'a>,
    pub(super) angles: Shared<'a>,
    pub(super) low: Shared<'a>,
    pub(super) last_stream: Shared<'a>,
    pub(super) last_attended: Shared<'a>,
    pub(super) logits: Shared<'a>,
}

impl Buffers {
    /// For passes of `rows` tokens, of which `wanted` give logits.
    pub(super) fn new(shape: &Shape, adapter: Option<&Adapter>, rows: usize, wanted: usize) -> Buffers {
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

    pub(super) fn open(&mut self) -> Open<'_> {
        Open {
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
