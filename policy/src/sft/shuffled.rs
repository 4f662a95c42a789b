//! The order in which examples are drawn.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// An endless shuffle: every item once an epoch, in a new order each time; the same seed gives the same order.
///
/// Taken one by one, items of two epochs follow each other; a batch is of one epoch only.
pub struct Shuffled<'a, T> {
    all: &'a [T],
    order: Vec<usize>,
    rng: ChaCha8Rng,
}

impl<'a, T> Shuffled<'a, T> {
    /// Over these items.
    #[must_use]
    pub fn new(all: &'a [T], seed: u64) -> Shuffled<'a, T> {
        Shuffled { all, order: Vec::new(), rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Items in one epoch.
    #[must_use]
    pub fn n_items(&self) -> usize {
        self.all.len()
    }

    /// The next item.
    ///
    /// # Panics
    /// When there are no items.
    pub fn draw(&mut self) -> &'a T {
        self.begin_if_over();
        let index = self.order.pop().expect("the caller has items to draw from");
        &self.all[index]
    }

    /// Batches of one epoch, of at most so many items each.
    #[must_use]
    pub fn n_batches(&self, items_max: usize) -> usize {
        self.all.len().div_ceil(items_max.max(1))
    }

    /// The next `items_max` items, or as many as the epoch still has: no item comes twice in a batch, and an epoch ends where
    /// a batch does. Empty without items.
    pub fn draw_batch(&mut self, items_max: usize) -> Vec<&'a T> {
        self.begin_if_over();
        let n = items_max.min(self.order.len());
        (0..n).map(|_| self.draw()).collect()
    }

    fn begin_if_over(&mut self) {
        if self.order.is_empty() {
            self.order = (0..self.all.len()).collect();
            self.order.shuffle(&mut self.rng);
        }
    }
}
