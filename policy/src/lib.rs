//! What acts: the vocabulary of the field, the transformer, checkpoints, and the engine that serves.

pub mod architecture;
pub mod byte_pair;
pub mod causal_lm;
pub mod chat_template;
pub mod checkpoint;
mod decoder;
pub mod engine;
pub mod failpoint;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod grammar;
pub mod kernels;
pub mod log_prob;
pub mod memory;
pub mod model_error;
pub mod optimizer;
pub mod packing;
pub mod rollout;
pub mod sampling;
pub mod scalar_model;
pub mod sequence_batch;
pub mod sft;
pub mod threads;
pub mod token;
pub mod transformer;
pub mod version;
pub mod vocabulary;

pub use chat_template::Message;
pub use grammar::{Grammar, GrammarError};
pub use log_prob::LogProb;
pub use rollout::{FinishReason, Rollout, RolloutId, SampledToken};
pub use sampling::SamplingParams;
pub use token::TokenId;
pub use version::PolicyVersion;
pub use vocabulary::Vocabulary;
