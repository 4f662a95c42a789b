//! Why an update round did not come to its end.

use policy::model_error::ModelError;

/// An error of experience or update; the rollout log has its own.
#[derive(Debug, thiserror::Error)]
pub enum PpoError {
    /// A forward or backward pass failed.
    #[error("the update's arithmetic failed: {0}")]
    Model(#[from] ModelError),
    /// A tensor operation between the passes failed.
    #[error("the update's arithmetic failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// `ppo.device` is not there.
    #[error("ppo.device: {0}")]
    Device(candle_core::Error),
    /// The caller's pace said stop: shutdown, or pause.
    #[error("the update was interrupted")]
    Interrupted,
    /// Weights that no adapter beside version 0 can stand for.
    #[error("ppo.lora_rank: the live version was tuned whole; activate version 0 or an adapter, or set it to 0")]
    WholeModel,
    /// A checkpoint cannot be a value model.
    #[error("value model: expected {expected}, got {got}")]
    ValueModel {
        /// What it must be.
        expected: String,
        /// What it is.
        got: String,
    },
}
