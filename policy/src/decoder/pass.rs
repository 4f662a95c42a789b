//! One forward pass: tokens of some sequences in, rows of logits out.
//!
//! What is computed is the trainer's transformer: RMSNorm before each half of a block, rotary positions on neighbouring pairs,
//! grouped queries, SwiGLU. Behind its attention the last block is computed for the rows alone that are asked for.

use std::sync::{Mutex, PoisonError};

use super::{
    adapter::Adapter,
    attention::{self, Heads},
    buffers::Buffers,
    matrix::Shared,
    model::{Block, DOWN, GATE, KEY, Model, OUTPUT, QUERY, UP, VALUE},
    numbers::PANEL,
    pages::{Layout, POSITIONS},
    panels::Panels,
    team::Member,
};
use crate::kernels::{rms_norm, rope, swiglu};

/// Neighbouring tokens of one sequence in a pass.
pub(super) struct Run {
    /// Row of the first in the pass.
    pub(super) row: usize,
    /// Its place in the sequence.
    pub(super) position: usize,
    pub(super) n: usize,
    /// The sequence's pages, with room for these tokens.
    pub(super) pages: Vec<*mut u8>,
}

/// A token of a pass.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) token: usize,
    /// Its place in its sequence.
    pub(super) position: usize,
    pub(super) run: usize,
}

/// A block and its place.
#[derive(Clone, Copy)]
struct Layer<'a> {
    index: usize,
    block: &'a Block,
}

/// What the threads of a pass share.
pub(super) struct Pass<'a> {
    pub(super) model: &'a Model,
    pub(super) adapter: Option<&'a Adapter>,
    pub(super) layout: Layout,
    pub(super) runs: &'a [Run],
    pub(super) rows: &'a [Row],
    /// Runs cut into what attends at once: which, and from which of its tokens on.
    pub(super) pieces: &'a [(usize, usize)],
    /// Rows that give logits, in order.
    pub(super) wanted: &'a [usize],
    pub(super) buffers: Buffers<Shared<'a>>,
    /// One for each thread.
    pub(super) scratch: &'a [Mutex<attention::Scratch>],
}

// SAFETY: the pages of the runs are this pass's while it runs, and its phases keep threads apart.
unsafe impl Sync for Pass<'_> {}

impl Pass<'_> {
    /// All of it, on one of the threads.
    pub(super) fn run(&self, member: &Member<'_>) {
        let Buffers { stream, normed, attended, last_stream, last_attended, logits, .. } = self.buffers;
        self.by_rows(member, self.rows.len(), |row| self.begin(row));
        let n_blocks = self.model.blocks.len();
        for (index, block) in self.model.blocks.iter().enumerate() {
            let layer = Layer { index, block };
            self.attend(member, layer);
            if index + 1 < n_blocks {
                self.mlp(member, layer, self.rows.len(), stream, attended);
                continue;
            }
            self.by_rows(member, self.wanted.len(), |i| {
                for (from, to) in [(stream, last_stream), (attended, last_attended)] {
                    // SAFETY: row `i` of what is kept is this piece's.
                    unsafe { to.write(i, 0..to.width()).copy_from_slice(from.read(self.wanted[i], 0..to.width())) }
                }
            });
            self.mlp(member, layer, self.wanted.len(), last_stream, last_attended);
        }
        self.norm(member, self.wanted.len(), last_stream, &self.model.norm);
        self.product(member, &[(&self.model.output, logits)], self.wanted.len(), normed, false);
    }

    /// The stream of a row: its token's embedding; and its angles.
    fn begin(&self, row: usize) {
        let Row { token, position, .. } = self.rows[row];
        let shape = &self.model.shape;
        // SAFETY: the row is this piece's.
        let (stream, angles) = unsafe {
            (self.buffers.stream.write(row, 0..shape.hidden), self.buffers.angles.write(row, 0..shape.rope_dims))
        };
        self.model.embedding.row(token, stream);
        let (cos, sin) = angles.split_at_mut(shape.rope_dims / 2);
        for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(&self.model.frequencies) {
            (*sin, *cos) = (position as f32 * frequency).sin_cos();
        }
    }

    /// From the stream to what the heads answer, through the cache.
    fn attend(&self, member: &Member<'_>, layer: Layer<'_>) {
        let Buffers { stream, normed, query, key, value, attended, .. } = self.buffers;
        let n = self.rows.len();
        self.norm(member, n, stream, &layer.block.attention_norm);
        let layers = [(QUERY, query), (KEY, key), (VALUE, value)];
        self.linear(member, layer, &layers, n, normed, false);
        self.by_rows(member, n, |row| {
            self.turn(row, query, self.model.shape.n_heads);
            self.turn(row, key, self.model.shape.n_kv_heads);
            self.keep(row, layer.index);
        });
        let heads = Heads::of(&self.model.shape);
        let n_heads = self.model.shape.n_kv_heads;
        member.each(self.pieces.len() * n_heads, |piece| {
            let ((run, first), head) = (self.pieces[piece / n_heads], piece % n_heads);
            let run = &self.runs[run];
            let n = heads.tokens().min(run.n - first);
            let block = attention::Block { row: run.row + first, position: run.position + first, n, pages: &run.pages };
            let mut scratch = self.scratch[member.index].lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: keys and values were written in the phase before; the queries and answers of these rows and this head are
            // this piece's.
            unsafe { scratch.attend(self.layout, heads, [layer.index, head], &block, query, attended) };
        });
    }

    /// Turns every head of a row by its angles.
    fn turn(&self, row: usize, x: Shared<'_>, n_heads: usize) {
        let (dim, rotated) = (self.model.shape.head_dim, self.model.shape.rope_dims);
        // SAFETY: the row is this piece's, and nobody writes the angles.
        let (x, angles) = unsafe { (x.write(row, 0..n_heads * dim), self.buffers.angles.read(row, 0..rotated)) };
        let (cos, sin) = angles.split_at(rotated / 2);
        for head in x.chunks_exact_mut(dim) {
            rope::turn(head, cos, sin, 1.0);
        }
    }

    /// Writes a row's keys and values into its sequence's pages.
    fn keep(&self, row: usize, layer: usize) {
        let dim = self.model.shape.head_dim;
        let Row { position, run, .. } = self.rows[row];
        for head in 0..self.model.shape.n_kv_heads {
            let columns = head * dim..(head + 1) * dim;
            // SAFETY: the row is this piece's; its place in the page is nobody else's, and nobody reads it in this phase.
            unsafe {
                let (key, value) = (self.buffers.key.read(row, columns.clone()), self.buffers.value.read(row, columns));
                let page = self.runs[run].pages[position / POSITIONS];
                self.layout.write(page, [layer, head, position % POSITIONS], key, value);
            }
        }
    }

    /// From what the heads answered to the stream of the next block.
    fn mlp(&self, member: &Member<'_>, layer: Layer<'_>, n: usize, stream: Shared<'_>, attended: Shared<'_>) {
        let Buffers { normed, gate, up, .. } = self.buffers;
        self.linear(member, layer, &[(OUTPUT, stream)], n, attended, true);
        self.norm(member, n, stream, &layer.block.mlp_norm);
        self.linear(member, layer, &[(GATE, gate), (UP, up)], n, normed, false);
        let width = self.model.shape.ffn;
        self.by_rows(member, n, |row| {
            // SAFETY: the row is this piece's.
            unsafe { swiglu::row(gate.write(row, 0..width), up.read(row, 0..width)) }
        });
        self.linear(member, layer, &[(DOWN, stream)], n, gate, true);
    }

    /// RMSNorm of `n` rows.
    fn norm(&self, member: &Member<'_>, n: usize, x: Shared<'_>, gain: &[f32]) {
        self.by_rows(member, n, |row| {
            // SAFETY: the row is this piece's, and nobody writes `x`.
            unsafe {
                let (x, out) = (x.read(row, 0..gain.len()), self.buffers.normed.write(row, 0..gain.len()));
                rms_norm::row(x, gain, self.model.shape.norm_eps, out);
            }
        });
    }

    /// Layers of a block on the same rows, with their adapters.
    fn linear(
        &self,
        member: &Member<'_>,
        layer: Layer<'_>,
        layers: &[(usize, Shared<'_>)],
        n: usize,
        x: Shared<'_>,
        adds: bool,
    ) {
        let mut all: [(&Panels, Shared<'_>); 3] = [(&layer.block.layers[QUERY], x); 3];
        for (one, (which, out)) in all.iter_mut().zip(layers) {
            *one = (&layer.block.layers[*which], *out);
        }
        self.product(member, &all[..layers.len()], n, x, adds);
        let Some(adapter) = self.adapter else {
            return;
        };
        for (which, out) in layers {
            if let Some(low_rank) = adapter.layer(layer.index, *which) {
                self.product(member, &[(&low_rank.a, self.buffers.low)], n, x, false);
                self.product(member, &[(&low_rank.b, *out)], n, self.buffers.low, true);
            }
        }
    }

    /// A phase: matrices times the same rows.
    fn product(&self, member: &Member<'_>, matrices: &[(&Panels, Shared<'_>)], n: usize, x: Shared<'_>, adds: bool) {
        if n == 0 {
            return;
        }
        let n_panels: usize = matrices.iter().map(|(matrix, _)| matrix.n_panels()).sum();
        // Large enough that a thread reads on and on where the next panel has been fetched already, small enough that all end together.
        let size = (n_panels / (4 * member.n_members())).clamp(1, 8).next_multiple_of(if n == 1 { 2 } else { 1 });
        let pieces = |matrix: &Panels| matrix.n_panels().div_ceil(size);
        member.each(matrices.iter().map(|(matrix, _)| pieces(matrix)).sum(), |mut piece| {
            for (matrix, out) in matrices {
                if piece >= pieces(matrix) {
                    piece -= pieces(matrix);
                    continue;
                }
                let panels = piece * size..((piece + 1) * size).min(matrix.n_panels());
                let out = out.at(0, panels.start * PANEL);
                // SAFETY: these columns of the result are this piece's, and nobody writes `x`.
                unsafe { matrix.multiply(panels, n, x.read_at(0, 0), out, adds) };
                return;
            }
        });
    }

    /// A phase: `work` on each of `n` rows.
    fn by_rows(&self, member: &Member<'_>, n: usize, work: impl Fn(usize)) {
        let size = (n / 16).clamp(1, 8);
        member.each(n.div_ceil(size), |piece| (piece * size..((piece + 1) * size).min(n)).for_each(&work));
    }
}
