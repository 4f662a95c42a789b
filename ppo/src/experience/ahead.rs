//! Forward passes of a round's first minibatch, kept for its backward.
//!
//! Before the steps policy and value model read every episode; the first step would read its own again, by the same weights. So
//! the pieces that the step begins with are cut before as it will cut them, what their passes leave is kept, and the step goes
//! backward from there. Only as many as run at once are kept: memory follows the budget of a pass, not the minibatch. What a step
//! makes of it is bit for bit what it would make of a pass of its own.

use std::sync::{Mutex, PoisonError};

use policy::transformer::Activations;

/// What the passes of policy and value model left. Good for the first step and no other: whoever makes it takes all.
#[derive(Default)]
pub(crate) struct Ahead {
    pub(crate) policy: Kept,
    pub(crate) value: Kept,
}

/// Pieces of one model, by their episodes.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Vec<(Vec<usize>, Activations)>>);

impl Kept {
    /// Keeps what was left of a piece; nothing is on a GPU.
    pub(super) fn keep(&self, members: &[usize], activations: Option<Activations>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(activations.map(|activations| (members.to_vec(), activations)));
    }

    /// Pieces that nobody has taken yet.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Gives away what was left of exactly this piece.
    pub(crate) fn take(&self, members: &[usize]) -> Option<Activations> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(of, _)| of == members)?;
        Some(kept.swap_remove(place).1)
    }
}
