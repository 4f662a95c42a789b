//! Attention of queries over a sequence's pages.
//!
//! The queries of all heads that share a key head are rows of one tile, so each key and value is read once for all of them. Scores
//! are computed in full before their softmax, whose order depends on how many there are and on nothing else.

use super::{
    matrix::Shared,
    numbers::PANEL,
    pages::{Layout, POSITIONS},
    panels::padded,
    product::{Product, Rows, TILE_ROWS},
};
use crate::{architecture::Shape, kernels::softmax};

/// Queries of one key head that are computed at once.
pub(super) struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
}

/// Heads and their width.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    /// Query heads to a key head.
    pub(super) group: usize,
    pub(super) head_dim: usize,
}

impl Heads {
    pub(super) fn of(shape: &Shape) -> Heads {
        Heads { group: shape.n_heads / shape.n_kv_heads, head_dim: shape.head_dim }
    }

    /// Tokens of a tile.
    pub(super) fn tokens(&self) -> usize {
        (TILE_ROWS / self.group).max(1)
    }
}

/// Neighbouring tokens of a sequence, and what they attend over.
pub(super) struct Block<'a> {
    /// Row of the first in the pass.
    pub(super) row: usize,
    /// Its place in the sequence.
    pub(super) position: usize,
    pub(super) n: usize,
    /// Of the sequence.
    pub(super) pages: &'a [*mut u8],
}

impl Scratch {
    /// Numbers of queries, scores and sums, for sequences of up to `n_positions`.
    fn sizes(heads: Heads, n_positions: usize) -> [usize; 3] {
        let rows = heads.tokens() * heads.group;
        [heads.head_dim, n_positions.next_multiple_of(POSITIONS), padded(heads.head_dim)].map(|width| rows * width)
    }

    /// For sequences of up to `n_positions`.
    pub(super) fn new(heads: Heads, n_positions: usize) -> Scratch {
        let [queries, scores, sums] = Scratch::sizes(heads, n_positions).map(|n| vec![0.0; n]);
        Scratch { queries, scores, sums }
    }

    /// Bytes of one.
    pub(super) fn n_bytes(heads: Heads, n_positions: usize) -> usize {
        Scratch::sizes(heads, n_positions).iter().sum::<usize>() * size_of::<f32>()
    }

    /// Answers the queries of key head `head`: from `queries` into `out`, both `[rows, query heads · head_dim]`.
    ///
    /// # Safety
    /// The pages of the sequence hold this layer's keys and values up to the block's last token, and nobody writes them, or these
    /// queries and answers, meanwhile.
    pub(super) unsafe fn attend(
        &mut self,
        layout: Layout,
        heads: Heads,
        [layer, head]: [usize; 2],
        block: &Block<'_>,
        queries: Shared<'_>,
        out: Shared<'_>,
    ) {
        let (dim, wide) = (heads.head_dim, padded(heads.head_dim));
        let (rows, seen) = (block.n * heads.group, block.position + block.n);
        let width = seen.next_multiple_of(POSITIONS);
        let columns = |i: usize| {
            let first = (head * heads.group + i % heads.group) * dim;
            (block.row + i / heads.group, first..first + dim)
        };
        // 1/sqrt(head_dim), vaswani et al. 2017.
        let scale = 1.0 / (dim as f32).sqrt();
        for (i, query) in self.queries.chunks_exact_mut(dim).take(rows).enumerate() {
            let (row, columns) = columns(i);
            // SAFETY: the caller's.
            let from = unsafe { queries.read(row, columns) };
            query.iter_mut().zip(from).for_each(|(q, x)| *q = x * scale);
        }
        let query = Rows { at: self.queries.as_ptr(), stride: dim };
        for (p, page) in block.pages[..width / POSITIONS].iter().enumerate() {
            let scores = &mut self.scores[p * POSITIONS..];
            let scores = Rows { at: scores.as_mut_ptr(), stride: width };
            let keys = layout.keys(page.cast_const(), layer, head);
            // SAFETY: a page has a panel of keys for this head; the scratch holds as many rows and positions.
            unsafe {
                Product { n_rows: rows, depth: dim, a: query, columns: keys, n_panels: 1, out: scores, adds: false }
                    .compute();
            }
        }
        for (i, scores) in self.scores.chunks_exact_mut(width).take(rows).enumerate() {
            softmax(&mut scores[..=block.position + i / heads.group]);
        }
        self.sums[..rows * wide].fill(0.0);
        for (p, page) in block.pages[..width / POSITIONS].iter().enumerate() {
            let values = layout.values(page.cast_const(), layer, head);
            // Pages before the block are whole for all its tokens; from there on each token reads what is its own past.
            let is_past = (p + 1) * POSITIONS <= block.position;
            let pieces = if is_past { 1 } else { block.n };
            for piece in 0..pieces {
                let (first, n) = if is_past { (0, rows) } else { (piece * heads.group, heads.group) };
                let depth = (block.position + piece + 1).saturating_sub(p * POSITIONS).min(POSITIONS);
                let weights = Rows { at: self.scores[first * width + p * POSITIONS..].as_ptr(), stride: width };
                let sums = Rows { at: self.sums[first * wide..].as_mut_ptr(), stride: wide };
                // SAFETY: as above; so many positions of the page are written.
                unsafe {
                    let n_panels = wide / PANEL;
                    Product { n_rows: n, depth, a: weights, columns: values, n_panels, out: sums, adds: true }
                        .compute();
                }
            }
        }
        for (i, sums) in self.sums.chunks_exact(wide).take(rows).enumerate() {
            let (row, columns) = columns(i);
            // SAFETY: the caller's.
            unsafe { out.write(row, columns) }.copy_from_slice(&sums[..dim]);
        }
    }
}
