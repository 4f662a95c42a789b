//! What can fail when versions are loaded, scored or released.

use std::path::{Path, PathBuf};

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
    /// A version would not fit into memory.
    #[error(
        "no memory for {version}: it needs {needed} MiB ({parts}) of {room} MiB that {limit} leaves; fewer or shorter \
         sequences (policy.parallel, policy.context_tokens) and fewer kept prompts (policy.prefix_cache_tokens) need less"
    )]
    Memory {
        /// Whose.
        version: PolicyVersion,
        /// What it would take, MiB.
        needed: u64,
        /// The same by what it is for.
        parts: String,
        /// What there is, MiB.
        room: u64,
        /// Who sets the limit.
        limit: &'static str,
    },
    /// As many versions are in memory as may be.
    #[error(
        "no place in memory for {version}: beside version 0 there may be {places} (policy.residents_max, and one more for \
         who is to serve), and there are {}",
        residents.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Crowded {
        /// Whose.
        version: PolicyVersion,
        /// `policy.residents_max`, and one more for a version that is to serve.
        places: usize,
        /// Those that have the places.
        residents: Vec<PolicyVersion>,
    },
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

impl EngineError {
    pub(super) fn shutting_down(path: &Path) -> EngineError {
        EngineError::Load { path: path.to_owned(), reason: "the engine is shutting down".to_owned() }
    }

    /// Whether there was no room for a version, which says nothing about it: there may be some later.
    #[must_use]
    pub fn lacks_room(&self) -> bool {
        matches!(self, EngineError::Memory { .. } | EngineError::Crowded { .. })
    }
}
