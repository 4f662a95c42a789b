//! The order in which examples are drawn.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// An endless shuffle: every item once an epoch, in a new order each time; the same seed gives the same order.
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
        if self.order.is_empty() {
            self.order = (0..self.all.len()).collect();
            self.order.shuffle(&mut self.rng);
        }
        let index = self.order.pop().expect("the caller has items to draw from");
        &self.all[index]
    }
}
