//! What can go wrong between a weight file and a trained model.

use std::{io, path::PathBuf};

use crate::checkpoint::gguf::Malformed;

/// An error of the trainer's side of `policy`: checkpoints, architectures, forward and backward passes.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file is not a usable GGUF.
    #[error("{path}: not a readable GGUF: {source}")]
    Gguf {
        /// Which file.
        path: PathBuf,
        /// What the reader said.
        source: candle_core::Error,
    },
    /// A file whose header does not keep its word.
    #[error("{path}: {source}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: Malformed,
    },
    /// The architecture has no trainer.
    #[error("architecture \"{0}\" serves but cannot be trained yet (trainable: llama)")]
    Untrainable(String),
    /// A variant of a known architecture that the trainer does not compute.
    #[error("this llama model serves but cannot be trained yet: {0}")]
    Unsupported(String),
    /// A metadata key is absent or holds something else.
    #[error("metadata key {key}: expected {expected}, got {got}")]
    Metadata {
        /// Which key.
        key: String,
        /// What it should hold.
        expected: &'static str,
        /// What it holds.
        got: String,
    },
    /// A tensor is absent.
    #[error("tensor {0} is missing")]
    MissingTensor(String),
    /// A tensor has another shape than the metadata says.
    #[error("tensor {name}: expected shape {expected:?}, got {got:?}")]
    TensorShape {
        /// Which tensor.
        name: String,
        /// Shape by the metadata.
        expected: Vec<usize>,
        /// Shape in the file.
        got: Vec<usize>,
    },
    /// A batch that no model can compute.
    #[error("batch: {0}")]
    Batch(String),
    /// A run whose numbers have left the finite ones.
    #[error("step {step} of {n_steps}: the {what} is {value}, which is not finite; {advice}")]
    Diverged {
        /// From 1.
        step: usize,
        /// Steps that there would have been.
        n_steps: usize,
        /// Which number.
        what: &'static str,
        /// Infinite or no number.
        value: f64,
        /// What may help.
        advice: &'static str,
    },
    /// A reward or value model where a policy is expected.
    #[error("this is a reward model: it judges answers and cannot give any")]
    Judge,
    /// A precision that this machine does not compute in.
    #[error("{0}")]
    Precision(String),
    /// An optimiser state that does not fit the parameters.
    #[error("optimizer state: {0}")]
    OptimizerState(String),
    /// A vocabulary that could not be learnt or read.
    #[error("vocabulary: {0}")]
    Vocabulary(String),
    /// Training would not fit into memory.
    #[error(
        "training needs {needed} MiB of {room} MiB that {limit} leaves; a smaller model, fewer tokens a pass or fewer \
         threads need less"
    )]
    Memory {
        /// What the plan comes to, MiB.
        needed: u64,
        /// What there is, MiB.
        room: u64,
        /// Who sets the limit.
        limit: &'static str,
    },
    /// The learner's thread pool could not be built.
    #[error("thread pool: {0}")]
    Threads(String),
    /// An operation on tensors failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Shorthand of this side of the crate.
pub type Result<T> = std::result::Result<T, ModelError>;
