//! Keys and values, in pages of 32 positions that sequences share until one of them writes.
//!
//! A page holds every layer's keys and values of its positions, each as panels of the kernel: keys with a position a column, values
//! with a dimension a column. So scores are keys' panels times a query, and results are values' panels times weights.
//!
//! A sequence that begins as another one does holds the same pages. Only the last page of a sequence is written; where others hold
//! it too, it is copied first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    lines::Lines,
    numbers::{Kind, PANEL},
    panels::padded,
    product::Columns,
};
use crate::architecture::Shape;

/// Positions of a page.
pub(crate) const POSITIONS: usize = PANEL;

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

/// Memory for all pages that there may be; taken page by page, and freed as one.
#[derive(Debug)]
struct Arena {
    lines: Lines,
    page_bytes: usize,
    n_pages: usize,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    /// Pages that have ever been given out: the first so many.
    n_taken: usize,
    /// Those of them that nobody holds any more.
    free: Vec<usize>,
}

/// One page of an arena, which has it back when nobody holds it.
#[derive(Debug)]
pub(crate) struct Page {
    arena: Arc<Arena>,
    place: usize,
}

impl Arena {
    fn places(&self) -> MutexGuard<'_, Places> {
        // A number and a list of numbers are whole whoever panics.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.arena.places().free.push(self.place);
    }
}

impl Page {
    /// Where it begins. Who writes there has the page to itself.
    fn at(&self) -> *mut u8 {
        self.arena.lines.start().wrapping_add(self.place * self.arena.page_bytes)
    }
}

/// Gives out pages.
pub(super) struct Pool(Arc<Arena>);

impl Pool {
    /// For at most so many pages.
    ///
    /// # Errors
    /// When the system does not give so much.
    pub(super) fn new(layout: Layout, n_pages: usize) -> std::io::Result<Pool> {
        let page_bytes = layout.page_bytes();
        let n_bytes = page_bytes.checked_mul(n_pages).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let (lines, places) = (Lines::try_zeros(n_bytes)?, Mutex::default());
        Ok(Pool(Arc::new(Arena { lines, page_bytes, n_pages, places })))
    }

    /// Bytes that are spoken for, and not taken yet.
    pub(super) fn untaken_bytes(&self) -> usize {
        (self.0.n_pages - self.0.places().n_taken) * self.0.page_bytes
    }

    /// Makes room for `n` positions in all, of which `held` are written: whatever page takes the next ones is the sequence's alone.
    pub(super) fn extend(&self, pages: &mut Pages, held: usize, n: usize) {
        if !held.is_multiple_of(POSITIONS) {
            let last = &mut pages[held / POSITIONS];
            if Arc::get_mut(last).is_none() {
                let copy = self.page();
                // SAFETY: two pages of the arena, the new one nobody else's; the old one is only read while others hold it.
                unsafe { copy.at().copy_from_nonoverlapping(last.at(), self.0.page_bytes) };
                *last = copy;
            }
        }
        while pages.len() < n.div_ceil(POSITIONS) {
            pages.push(self.page());
        }
    }

    /// A page that is nobody's. What an earlier sequence has left in it is never used: no position is before it is written.
    fn page(&self) -> Arc<Page> {
        let mut places = self.0.places();
        let place = match places.free.pop() {
            Some(place) => place,
            None => {
                assert!(places.n_taken < self.0.n_pages, "sequences and the cache hold more pages than they may");
                places.n_taken += 1;
                places.n_taken - 1
            }
        };
        Arc::new(Page { arena: Arc::clone(&self.0), place })
    }
}

/// Where a pass reads and writes a sequence.
pub(super) fn starts(pages: &mut Pages, held: usize) -> Vec<*mut u8> {
    let first_written = held / POSITIONS;
    let start = |(i, page): (usize, &mut Arc<Page>)| {
        assert!(i < first_written || Arc::get_mut(page).is_some(), "what is written is the sequence's alone");
        page.at()
    };
    pages.iter_mut().enumerate().map(start).collect()
}
