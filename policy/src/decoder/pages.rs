//! Keys and values, in pages of 32 positions that sequences share until one of them writes.
//!
//! A page holds every layer's keys and values of its positions, each as panels of the kernel: keys with a position a column, values
//! with a dimension a column. So scores are keys' panels times a query, and results are values' panels times weights.
//!
//! A sequence that begins as another one does holds the same pages. Only the last page of a sequence is written; where others hold
//! it too, it is copied first.

use std::sync::Arc;

use super::{
    lines::Lines,
    numbers::{Kind, PANEL},
    panels::padded,
    product::Columns,
};
use crate::architecture::Shape;

/// Positions of a page.
pub(super) const POSITIONS: usize = PANEL;

/// How a page is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) kind: Kind,
    n_layers: usize,
    n_heads: usize,
    head_dim: usize,
}

impl Layout {
    /// Of a model's cache, in f32 or f16.
    pub(super) fn of(shape: &Shape, is_f32: bool) -> Layout {
        let kind = if is_f32 { Kind::F32 } else { Kind::F16 };
        Layout { kind, n_layers: shape.n_layers, n_heads: shape.n_kv_heads, head_dim: shape.head_dim }
    }

    fn key_bytes(&self) -> usize {
        self.kind.panel_bytes(self.head_dim)
    }

    /// Of 32 dimensions.
    fn value_panel_bytes(&self) -> usize {
        self.kind.panel_bytes(POSITIONS)
    }

    fn head_bytes(&self) -> usize {
        self.key_bytes() + self.value_panel_bytes() * padded(self.head_dim) / PANEL
    }

    /// Bytes of a page.
    pub(super) fn page_bytes(&self) -> usize {
        self.head_bytes() * self.n_heads * self.n_layers
    }

    fn head(&self, layer: usize, head: usize) -> usize {
        (layer * self.n_heads + head) * self.head_bytes()
    }

    /// The keys of a head in a page that begins at `page`: one panel, a row a dimension.
    pub(super) fn keys(&self, page: *const u8, layer: usize, head: usize) -> Columns {
        Columns { kind: self.kind, at: page.wrapping_add(self.head(layer, head)), stride: 0 }
    }

    /// Its values: a panel for every 32 dimensions, a row a position.
    pub(super) fn values(&self, page: *const u8, layer: usize, head: usize) -> Columns {
        let at = page.wrapping_add(self.head(layer, head) + self.key_bytes());
        Columns { kind: self.kind, at, stride: self.value_panel_bytes() }
    }

    /// Writes the key and value of one position of a head.
    ///
    /// # Safety
    /// `page` is a page of this layout that nobody reads meanwhile at this layer, head and position, and nobody else writes there.
    pub(super) unsafe fn write(&self, page: *mut u8, [layer, head, position]: [usize; 3], key: &[f32], value: &[f32]) {
        let keys = page.wrapping_add(self.head(layer, head));
        let values = keys.wrapping_add(self.key_bytes());
        for (d, (key, value)) in key.iter().zip(value).enumerate() {
            let of_value = d / PANEL * (self.value_panel_bytes() / self.number_bytes()) + position * PANEL + d % PANEL;
            // SAFETY: a dimension of the head and a position of the page are inside the page.
            unsafe {
                self.put(keys, d * PANEL + position, *key);
                self.put(values, of_value, *value);
            }
        }
    }

    unsafe fn put(&self, start: *mut u8, i: usize, number: f32) {
        // SAFETY: the caller's; pages and their parts begin at multiples of a cache line.
        unsafe {
            match self.kind {
                Kind::F32 => start.cast::<f32>().add(i).write(number),
                _ => start.cast::<half::f16>().add(i).write(half::f16::from_f32(number)),
            }
        }
    }

    fn number_bytes(&self) -> usize {
        if self.kind == Kind::F32 { 4 } else { 2 }
    }
}

/// What a sequence, or the cache of prefixes, holds.
pub(crate) type Pages = Vec<Arc<Page>>;

/// One page.
#[derive(Debug)]
pub(crate) struct Page(Lines);

/// Pages that nobody holds, kept for whoever needs one next.
pub(super) struct Pool {
    layout: Layout,
    free: Vec<Arc<Page>>,
}

impl Pool {
    pub(super) fn new(layout: Layout) -> Pool {
        Pool { layout, free: Vec::new() }
    }

    /// Takes back what a sequence has given up. What others still hold stays theirs.
    pub(super) fn give_back(&mut self, pages: impl IntoIterator<Item = Arc<Page>>) {
        self.free.extend(pages.into_iter().filter(|page| Arc::strong_count(page) == 1));
    }

    /// Makes room for `n` positions in all, of which `held` are written: whatever page takes the next ones is the sequence's alone.
    pub(super) fn extend(&mut self, pages: &mut Pages, held: usize, n: usize) {
        if !held.is_multiple_of(POSITIONS) {
            let last = held / POSITIONS;
            if Arc::get_mut(&mut pages[last]).is_none() {
                let mut copy = self.page();
                let fresh = Arc::get_mut(&mut copy).expect("a page of the pool is nobody's");
                fresh.0.bytes_mut().copy_from_slice(pages[last].0.bytes());
                pages[last] = copy;
            }
        }
        while pages.len() < n.div_ceil(POSITIONS) {
            let page = self.page();
            pages.push(page);
        }
    }

    /// A page that is nobody's. What an earlier sequence has left in it is never read: no position is before it is written.
    fn page(&mut self) -> Arc<Page> {
        self.free.pop().unwrap_or_else(|| Arc::new(Page(Lines::zeros(self.layout.page_bytes()))))
    }
}

/// Where a pass reads and writes a sequence.
pub(super) fn starts(pages: &mut Pages, held: usize) -> Vec<*mut u8> {
    let first_written = held / POSITIONS;
    let start = |(i, page): (usize, &mut Arc<Page>)| match Arc::get_mut(page) {
        Some(own) => own.0.bytes_mut().as_mut_ptr(),
        None => {
            assert!(i < first_written, "what is written is the sequence's alone");
            page.0.bytes().as_ptr().cast_mut()
        }
    };
    pages.iter_mut().enumerate().map(start).collect()
}
