//! Where a fine-tuning run is, beside its weights: what one that is gone on with has to know of its past.

use serde::{Deserialize, Serialize};

use super::jury::{Best, Liked};

/// What a run remembers beside its weights.
#[derive(Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) before: Before,
    /// Loss on the records that are held back, after the last epoch that is over.
    pub(super) after: Option<f64>,
    pub(super) epoch: Epoch,
}

impl Place {
    /// Epochs that are over.
    pub(super) fn n_epochs(&self) -> usize {
        self.epoch.n_done
    }
}

/// What one epoch has shown so far.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Epoch {
    pub(super) n_done: usize,
    pub(super) n_steps: usize,
    pub(super) loss: f64,
    /// Of those that are over.
    pub(super) best: Option<Best>,
}

/// What the model said before the first step.
#[derive(Serialize, Deserialize)]
pub(super) struct Before {
    pub(super) nll: Option<f64>,
    pub(super) liked: Option<Liked>,
}
