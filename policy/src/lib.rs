//! What acts: the vocabulary of the field, the transformer, checkpoints, and the engine that serves.

pub mod log_prob;
pub mod priority;
pub mod rollout;
pub mod sampling;
pub mod token;
pub mod version;

pub use log_prob::LogProb;
pub use rollout::{FinishReason, Rollout, RolloutId, SampledToken};
pub use sampling::SamplingParams;
pub use token::TokenId;
pub use version::PolicyVersion;
