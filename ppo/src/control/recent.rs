//! The last few values of something, and what is usual among them.

use std::collections::VecDeque;

/// A bounded memory; the oldest value makes room for the newest.
#[derive(Clone, Debug, PartialEq)]
pub struct Recent {
    values: VecDeque<f64>,
    n_max: usize,
}

impl Recent {
    /// Remembers up to `n_max` values.
    #[must_use]
    pub fn new(n_max: usize) -> Recent {
        Recent { values: VecDeque::new(), n_max }
    }

    /// Remembers a value. One that is not finite says nothing about what is usual, and is not remembered.
    pub fn push(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        if self.values.len() == self.n_max {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// Oldest first.
    pub fn values(&self) -> impl Iterator<Item = f64> + '_ {
        self.values.iter().copied()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether nothing is remembered yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether it remembers as much as it can.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.values.len() == self.n_max
    }

    /// The middle value, of an even number the upper one of the two; `None` without values.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        let mut sorted: Vec<f64> = self.values().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::Recent;

    #[test]
    fn the_median_is_of_the_newest_and_ignores_what_is_no_number() {
        let mut recent = Recent::new(3);
        assert_eq!(recent.median(), None);
        for value in [100.0, 3.0, f64::NAN, 1.0, f64::INFINITY, 2.0] {
            recent.push(value);
        }
        assert_eq!(recent.values().collect::<Vec<_>>(), vec![3.0, 1.0, 2.0]);
        assert_eq!((recent.median(), recent.is_full()), (Some(2.0), true));
    }
}
