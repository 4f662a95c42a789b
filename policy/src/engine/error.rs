//! What can fail when versions are loaded, scored or released.

use std::path::PathBuf;

use crate::{version::PolicyVersion, vocabulary::TokenizeError};

/// A failure of the engine or of the model file behind it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// llama.cpp did not start.
    #[error("llama.cpp did not start: {0}")]
    Backend(String),
    /// Layers for a GPU, and there is none.
    #[error("policy.gpu_layers = {layers}: {reason}")]
    NoGpu {
        /// As configured.
        layers: u32,
        /// Why there is none.
        reason: String,
    },
    /// A model file was refused.
    #[error("cannot serve {}: {reason}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why, in words for the operator.
        reason: String,
    },
    /// A version that is in memory was to be loaded again.
    #[error("{0} is already in memory")]
    AlreadyLoaded(PolicyVersion),
    /// No resident of this version.
    #[error("{0} is not in memory")]
    NotResident(PolicyVersion),
    /// The live version and version 0 stay in memory.
    #[error("{0} cannot be retired: it is {1}")]
    StillNeeded(PolicyVersion, &'static str),
    /// A forward pass failed or gave logits that are not finite.
    #[error("{version} failed a forward pass: {reason}")]
    Forward {
        /// Whose weights.
        version: PolicyVersion,
        /// Why.
        reason: String,
    },
    /// The tokens cannot be scored: too few, too many, or not in the vocabulary.
    #[error("cannot score these tokens: {0}")]
    Tokens(String),
    /// The operating system gave no thread.
    #[error("no thread for {0}: {1}")]
    Thread(PolicyVersion, std::io::Error),
    /// The chat template is missing or failed.
    #[error("chat template: {0}")]
    Template(String),
    /// A text has no tokens.
    #[error("a text {0}")]
    Tokenize(#[from] TokenizeError),
}
